"""Which layout a file has, by its content."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ...base.files import open_input
from ...base.installed import called
from . import durations
from .chunks import MAGIC, read_chunks
from .descriptions import separate
from .ego4d import read_clips
from .hirest import read_prompts
from .json_text import read_json, read_lines
from .msrvtt import read_captions_of_clips
from .queries import is_query, read_queries
from .records import Cleaning, Record
from .rows import read_rows
from .source import Source, keep_asked, listed, short
from .text import delimiter_of, is_caption, read_captions, read_charades, read_csv
from .videos import read_list, read_splits, read_videos

_MOST_BYTES = 2**31
# What lies where annotations should: the beginning of the file, and what to say of it.
_OTHERS = (
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    (b"\x1f\x8b", "is compressed (gzip); unpack it"),
    (b"\x89HDF", "is an HDF5 file, as features are; expected annotations"),
    (b"\x80", "is a pickle, which could run code; save it as JSON"),
    (b"version https://git-lfs", "is a pointer of Git LFS and not the file; run git lfs pull"),
    (b"<", "is a web page or XML and no annotations; download the file itself"),
)


def read_records(
    path: Path, *, split: str = "", videos: Collection[str] | None = None
) -> list[Record]:
    """Records of a file in whichever layout it has, as they stand there.

    Durations that it lacks are looked for beside it. Where a file has two annotators' descriptions
    under one key (ActivityNet-CD), each has its record.

    Args:
        split: which, where one file holds several ("train" finds "training" too); "" = its only
            one.
        videos: read these only, named as videos or as paragraphs; None = all.

    Raises:
        InputError: the file is missing, malformed, of another layout, has no such split, or none of
            these videos.
    """
    return read_source(Source(path, split, Cleaning(path), videos))


def read_source(source: Source) -> list[Record]:
    """``read_records``, and how the file was read in the remarks of its cleaning."""
    records = keep_asked(_read(source), source)
    durations.fill(records, source)
    source.say_ignored()
    return separate(records, source.cleaning)


def _read(source: Source) -> list[Record]:
    data = _bytes(source)
    if data.startswith(MAGIC):
        return read_chunks(data, source)
    for start, text in _OTHERS:
        if data.lstrip()[: len(start)] == start:
            raise source.fault(f"{text}.")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise source.fault(f"is not UTF-8 text (byte {error.start}).") from None
    first = text.lstrip()[:1]
    if first and first in "[{":
        value = read_json(text, source)
        if value is None:
            return read_queries(read_lines(text, source), source)
        return _from_list(value, source) if first == "[" else _from_object(value, source)
    if "##" in text[:10_000]:
        return read_charades(text, source)
    if delimiter_of(text):
        return read_csv(text, source)
    if text.strip() and is_caption(text.lstrip().partition("\n")[0]):
        return read_captions(text, source)
    raise source.fault(
        "is neither JSON nor JSON Lines, nor lines of 'video start end##sentence', 'sentence-id "
        "sentence' or 'sentence-id sentence [start, end] duration', nor CSV with the columns "
        "video_id and sentence."
    )


def _bytes(source: Source) -> bytes:
    try:
        with open_input(source.path, mode="rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise source.fault(f"cannot be read ({error.strerror}).") from None
    if len(data) > _MOST_BYTES:
        raise source.fault(f"has more than {_MOST_BYTES:,} bytes; expected annotations.")
    return bytes(data)


def _from_list(items: list[Any], source: Source) -> list[Record]:
    if items and all(isinstance(item, str) for item in items):
        raise source.fault(
            f"is a list of {len(items):,} ids (e.g. {short(items[0])}) without sentences; expected "
            "the annotations of these videos."
        )
    if items and isinstance(items[0], dict) and isinstance(items[0].get("sentences"), list):
        return read_list(items, source)
    if items and isinstance(items[0], dict):
        rows = ((f"entry {number}", item) for number, item in enumerate(items, start=1))
        return read_queries(rows, source)
    return read_rows(items, source)


def _from_object(data: dict[str, Any], source: Source) -> list[Record]:
    if "video2idx" in data or ("results" in data and {"version", "external_data"} & set(data)):
        kind = "video2idx" if "video2idx" in data else "results"
        raise source.fault(
            f"has {kind}: these are predictions; expected annotations "
            f"({called('score')} scores predictions)."
        )
    if isinstance(data.get("database"), dict):
        return read_videos(data["database"], source, skip_empty=True)
    if isinstance(data.get("videos"), list) and isinstance(data.get("sentences"), list):
        return read_captions_of_clips(data["videos"], data["sentences"], source)
    if isinstance(data.get("videos"), list):
        return read_clips(data["videos"], source)
    if is_query(data):
        return read_queries([("line 1", data)], source)
    return _reader_of(data, source)(data, source)


def _reader_of(
    data: dict[str, Any], source: Source
) -> Callable[[dict[str, Any], Source], list[Record]]:
    """By the first entry that has anything in it."""
    key, entry = next(
        ((key, entry) for key, entry in data.items() if entry), next(iter(data.items()), ("", {}))
    )
    if isinstance(entry, str):
        raise source.fault(
            f"{key} is a text ({short(entry)}) without times or ends of sentences; expected the "
            "file that has them."
        )
    if not isinstance(entry, dict) or not entry:
        return read_videos
    if is_query(entry):
        return _read_named_queries
    inner = list(entry.values())
    if all(isinstance(value, dict) for value in inner):
        example = next((value for value in inner if value), None)
        if example is None:
            raise source.fault(f"{key} names {listed(list(entry))} and says nothing of them.")
        return read_prompts if "steps" in example else read_splits
    pairs = all(isinstance(value, list) and len(value) == 2 for value in inner) and not any(
        isinstance(one, list | dict) for value in inner for one in value
    )
    if pairs and "sentences" not in entry:
        raise source.fault(
            f"{key} holds {len(inner):,} pairs of numbers (durations and indices, as in TVR's "
            "video2dur_idx) and no sentences; expected annotations."
        )
    return read_videos


def _read_named_queries(data: dict[str, Any], source: Source) -> list[Record]:
    """MAD: the keys are the queries' ids."""
    rows = (
        (f"query {key[:60]}", {"sentence_id": key, **row} if isinstance(row, dict) else row)
        for key, row in data.items()
    )
    return read_queries(rows, source)
