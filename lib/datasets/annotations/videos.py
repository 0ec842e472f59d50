"""Objects of videos: those of 2D-TAN and of the many corpora that have its layout, in seconds or
frames; YouCook2's and COOT's, whose entries say their split; SnAG's, whose keys are splits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .keys import BOUNDS, EVENTS, key_of
from .records import Moment, Record
from .source import UNKNOWN, Source, lacks, short
from .splits import choose


def read_videos(
    entries: Mapping[str, Any], source: Source, *, skip_empty: bool = False
) -> list[Record]:
    """Records of the split asked for, if the entries say theirs.

    Args:
        skip_empty: a video without sentences is counted, and not refused, as in files of all videos
            of a corpus.
    """
    records = []
    for key, entry in () if skip_empty else [*entries.items()][:1]:
        if isinstance(entry, dict) and not (key_of(entry, "sentence") or _events(entry)):
            raise _without_sentences(key, entry, source)  # before a split is asked for
    for key, entry in of_split(entries, source).items():
        if not isinstance(entry, dict):
            raise source.fault(
                f"{key} is {short(entry)}; expected an object with timestamps and sentences."
            )
        if skip_empty and not any(name in entry for name in EVENTS):
            source.cleaning.note("videos without sentences", key)
            continue
        records.append(read_video(key, entry, source))
    return records


def read_list(entries: Sequence[Any], source: Source) -> list[Record]:
    """A list of paragraphs that name their videos, as PRVG and DepNet have them; a video comes
    several times where its paragraph was cut."""
    records = []
    for number, entry in enumerate(entries, start=1):
        key = key_of(entry, "video") if isinstance(entry, dict) else None
        if key is None:
            raise source.fault(
                f"paragraph {number} is {short(entry)}; expected an object with video, duration, "
                "timestamps and sentences."
            )
        name = source.name(entry[key], f"paragraph {number}", key)
        records.append(read_video(name, entry, source))
    return records


def read_splits(splits: Mapping[str, Any], source: Source) -> list[Record]:
    """SnAG: the keys are splits."""
    if source.videos is not None:  # the list chooses
        groups = [videos for videos in splits.values() if isinstance(videos, dict)]
        every = {key: entry for videos in groups for key, entry in videos.items()}
        return read_videos(every, source, skip_empty=True)
    sizes = {name: len(videos) for name, videos in splits.items() if isinstance(videos, dict)}
    return read_videos(splits[choose(source.split, sizes, source.path)], source, skip_empty=True)


def of_split(entries: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    """The entries of the split asked for; all of them if none says its split, or a list of videos
    chooses."""
    if source.videos is not None:
        return entries
    names: dict[str, Any] = {}
    for key, entry in entries.items():
        found = key_of(entry, "split") if isinstance(entry, dict) else None
        names[key] = None if found is None else entry[found]
    held = {name for name in names.values() if isinstance(name, str)}
    if not held:
        return entries
    for key, name in names.items():
        if not isinstance(name, str):
            raise source.fault(f"{key} has the split {short(name)}; others have {min(held)!r}.")
    wanted = choose(source.split, Counter(names.values()), source.path)
    return {key: entry for key, entry in entries.items() if names[key] == wanted}


def read_video(key: str, entry: Mapping[str, Any], source: Source) -> Record:
    """One paragraph of a video: two lists, or a list of objects of one sentence each."""
    named = key_of(entry, "video")
    video = video_of(key) if named is None else source.name(entry[named], key, named)
    duration, scale, used = source.duration(entry, key)
    used += [named or "", "split", "subset"]
    if (events := _events(entry)) is not None:
        record = _from_events(Record(key, video, duration, [], []), entry[events], source)
        source.ignore(entry, [*used, events])
        return record
    sentences_key, moments_key = key_of(entry, "sentence"), key_of(entry, "moment")
    if sentences_key is None:
        raise _without_sentences(key, entry, source)
    times = None if moments_key is None else entry[moments_key]
    sentences = entry[sentences_key]
    if times is None and isinstance(sentences, list):
        times = [None] * len(sentences)
    if not (isinstance(times, list) and isinstance(sentences, list)):
        raise source.fault(f"{key}: {moments_key or 'timestamps'} and sentences must be lists.")
    if len(times) != len(sentences):
        raise source.fault(
            f"{key} has {len(times)} {moments_key} and {len(sentences)} {sentences_key}."
        )
    record = Record(key, video, duration, [], [])
    for number, (time, sentence) in enumerate(zip(times, sentences, strict=True), start=1):
        place = f"{key} sentence {number}"
        windows = source.moments(time, place)
        if moments_key == "timestamps":
            windows = [(start * scale, end * scale) for start, end in windows]
        _append(record, windows, source.sentence(sentence, place))
    source.ignore(entry, [*used, sentences_key, moments_key])
    return record


def read_events(record: Record, events: list[Any], source: Source) -> Record:
    """Sentences with their times, one object each, added to a record."""
    return _from_events(record, events, source)


def video_of(key: str) -> str:
    """``s30-d40.avi(2)`` and ``v_x#2`` are paragraphs of ``s30-d40.avi`` and ``v_x``."""
    return re.sub(r"(\(\d+\)|#\d+)$", "", key) or key


def _events(entry: Mapping[str, Any]) -> str | None:
    """The key under which an entry has a list of objects."""
    for key in EVENTS:
        value = entry.get(key)
        if isinstance(value, list) and all(isinstance(event, dict) for event in value):
            return key
    return None


def _from_events(record: Record, events: list[Any], source: Source) -> Record:
    for number, event in enumerate(events, start=1):
        place = f"{record.video_id} sentence {number}"
        if not isinstance(event, dict):
            raise source.fault(f"{place} is {short(event)}; expected an object.")
        sentence, name = key_of(event, "sentence"), key_of(event, "id")
        if sentence is None:
            raise _without_sentences(place, event, source)
        bounds = next((pair for pair in BOUNDS if pair[0] in event and pair[1] in event), None)
        if (moment := key_of(event, "moment")) is not None:
            windows, used = source.moments(event[moment], place), [moment]
        elif bounds is not None:
            windows, used = [source.moment([event[key] for key in bounds], place)], [*bounds]
        else:
            windows, used = [UNKNOWN], []
        _append(record, windows, source.sentence(event[sentence], place))
        own = f"{record.paragraph_id}#{number - 1}"
        record.sentence_ids.append(own if name is None else source.name(event[name], place, name))
        source.ignore(event, [sentence, name, *used])
    return record


def _append(record: Record, windows: list[Moment], sentence: str) -> None:
    known = [window for window in windows if not math.isnan(window[0])]
    record.moments.append(known[0] if known else UNKNOWN)
    record.windows.append(known if len(known) > 1 else [])
    record.sentences.append(sentence)


def _without_sentences(place: str, entry: Mapping[str, Any], source: Source) -> Exception:
    """What the file is instead, as far as its keys say it."""
    for key in ("label", "labels", "actions"):
        if key in entry:
            return source.fault(
                f"{place} has labels ({key}) and no sentences; expected sentences with their times."
            )
    return lacks(source, entry, place, "sentence")
