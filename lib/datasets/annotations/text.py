"""Texts of one sentence a line: Charades-STA, the captions of MS-SL and DCIML, and CSV files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator

from .keys import key_of
from .records import Record
from .source import Groups, Source, lacks, short

_TIMES = re.compile(r"\s*([\d.]+)\s*,\s*([\d.]+)\s*\]\s*([\d.]+)\s*")
_CAPTION = "'sentence-id sentence [start, end] duration'"


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers; only a line feed ends one."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def read_charades(text: str, source: Source) -> list[Record]:
    """Charades-STA: lines of ``video start end##sentence``, without durations."""
    groups = Groups(source)
    for number, line in lines_of(text):
        head, separator, sentence = line.partition("##")
        fields = head.split()
        try:
            video, start, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            separator = ""
        if not separator or len(fields) != 3:
            raise source.fault(
                f"line {number} is {short(line)}; expected 'video start end##sentence'."
            )
        place = f"{video[:60]} (line {number})"
        moment = source.moment([start, end], place)
        groups.add(video, math.nan, [moment], sentence, place=place)
    return list(groups.records.values())


def is_caption(line: str) -> bool:
    """Whether a line is a sentence's id, with a ``#`` in it, and a sentence."""
    name, *sentence = line.split(None, 1)
    return "#" in name[1:] and bool(sentence)


def read_captions(text: str, source: Source) -> list[Record]:
    """MS-SL and DCIML: lines of ``video#… sentence`` or ``video#… sentence [start, end]
    duration``; a video is what stands before the first ``#``."""
    groups = Groups(source)
    timed = any(_parts(line) is not None for _, line in lines_of(text))
    for number, line in lines_of(text):
        parts = _parts(line) if timed else (line, math.nan, math.nan, math.nan)
        name, *sentence = (parts or ("",))[0].split(None, 1) or [""]
        if parts is None or not sentence or (not timed and "#" not in name):
            expected = _CAPTION if timed else "'sentence-id sentence'"
            raise source.fault(f"line {number} is {short(line)}; expected {expected}.")
        place = f"{name[:60]} (line {number})"
        _, start, end, duration = parts
        groups.add(
            name.partition("#")[0],
            source.positive(duration, place, "duration") if timed else duration,
            [source.moment([start, end], place)] if timed else [],
            sentence[0],
            place=place,
            name=name,
        )
    return list(groups.records.values())


def _parts(line: str) -> tuple[str, float, float, float] | None:
    """Text, start, end and duration of a line of DCIML's, if it is one."""
    text, bracket, times = line.rpartition("[")
    found = _TIMES.fullmatch(times) if bracket and len(times) < 200 else None
    try:
        start, end, duration = map(float, found.groups() if found else ())
    except ValueError:
        return None
    return text, start, end, duration


def delimiter_of(text: str) -> str:
    """What separates the columns of a text whose first line names a video's; "" = it does not."""
    head = text.lstrip().partition("\n")[0].lower()
    for delimiter in ",;\t":
        fields = [field.strip().strip('"') for field in head.split(delimiter)]
        if len(fields) > 1 and key_of(dict.fromkeys(fields), "video") is not None:
            return delimiter
    return ""


def read_csv(text: str, source: Source) -> list[Record]:
    """Columns with names, as MSR-VTT's test has them: a video and a sentence a row, no moments."""
    groups = Groups(source)
    rows = csv.reader(text.lstrip().split("\n"), delimiter=delimiter_of(text))
    try:
        head = [name.strip().lower() for name in next(rows)]
        columns = dict.fromkeys(head)
        video_key, sentence_key = key_of(columns, "video"), key_of(columns, "sentence")
        if sentence_key is None or video_key is None:
            raise lacks(source, columns, "the first line", "sentence")
        duration_key = key_of(columns, "duration")
        for row in rows:
            if not row:
                continue
            place = f"line {rows.line_num}"
            if len(row) != len(head):
                raise source.fault(f"{place} has {len(row)} columns; expected {len(head)}.")
            entry = dict(zip(head, row, strict=True))
            video = source.name(entry[video_key], place, video_key)
            duration = math.nan if duration_key is None else _float(entry[duration_key])
            if duration_key is not None:
                source.positive(duration, place, duration_key)
            name = entry.get(key_of(columns, "id") or "key")
            groups.add(video, duration, [], entry[sentence_key], place=place, name=name or None)
    except csv.Error as error:
        raise source.fault(f"is not a readable CSV file ({error}).") from None
    return list(groups.records.values())


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
