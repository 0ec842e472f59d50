"""Objects of one sentence each: JSON Lines of QVHighlights, moment_detr, Lighthouse and TVR, lists
of such objects, DiDeMo's list, and MAD's object of queries.

The sentences of a video are one paragraph, wherever in the file they stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ...base.installed import called
from .keys import PREDICTIONS, key_of
from .records import Moment, Record
from .source import ANNOTATORS, Groups, Source, lacks, most_frequent, short

_CHUNK = 5.0  # seconds of DiDeMo's segments


def read_queries(rows: Iterable[tuple[str, Any]], source: Source) -> list[Record]:
    """Records of (place for messages, object) pairs."""
    groups = Groups(source)
    for place, row in rows:
        if not isinstance(row, dict):
            raise source.fault(f"{place} is {short(row)}; expected an object.")
        refuse_predictions(row, place, source)
        keys = {what: key_of(row, what) for what in ("video", "sentence", "moment", "id")}
        if keys["sentence"] is None:
            raise lacks(source, row, place, "sentence")
        if keys["video"] is None:
            raise lacks(source, row, place, "video")
        video = source.name(row[keys["video"]], place, keys["video"])
        place = f"{video[:60]} ({place})"
        duration, scale, used = source.duration(row, place)
        windows = _windows(row, keys["moment"], place, source)
        if keys["moment"] == "times" and "num_segments" in row:
            windows, longest = _chunks(windows, row["num_segments"], place, source)
            duration = longest if math.isnan(duration) else duration
            used = [*used, "num_segments"]
        elif keys["moment"] == "timestamps":
            windows = [(start * scale, end * scale) for start, end in windows]
        several = keys["moment"] in ANNOTATORS and len(windows) > 1
        groups.add(
            video,
            duration,
            windows,
            source.sentence(row[keys["sentence"]], place),
            place=place,
            moment=most_frequent(windows) if several else None,
            name=None if keys["id"] is None else source.name(row[keys["id"]], place, keys["id"]),
        )
        source.ignore(row, [*keys.values(), *used])
    return list(groups.records.values())


def is_query(row: dict[str, Any]) -> bool:
    """Whether an object is one sentence and names its video."""
    sentence = key_of(row, "sentence")
    return sentence is not None and isinstance(row[sentence], str) and bool(key_of(row, "video"))


def refuse_predictions(row: dict[str, Any], place: str, source: Source) -> None:
    """Raises InputError for an object of a file of predictions."""
    for key in PREDICTIONS:
        if key in row:
            raise source.fault(
                f"{place} has {key}: these are predictions; expected annotations "
                f"({called('score')} scores predictions)."
            )


def _windows(row: dict[str, Any], key: str | None, place: str, source: Source) -> list[Moment]:
    value = None if key is None else row[key]
    if value is None or value == []:  # withheld, or only saliency is annotated
        return []
    return [window for window in source.moments(value, place) if not math.isnan(window[0])]


def _chunks(
    windows: list[Moment], count: Any, place: str, source: Source
) -> tuple[list[Moment], float]:
    """DiDeMo's pairs of segments, both included, in seconds, and the length of all segments."""
    number = source.positive(count, place, "num_segments")
    for first, last in windows:
        if not (0 <= first <= last < number and first % 1 == 0 and last % 1 == 0):
            raise source.fault(
                f"{place}: times has [{first:g}, {last:g}]; expected segments from 0 to "
                f"{number - 1:g}."
            )
    source.cleaning.remark(
        f"times are segments of {_CHUNK:g} s, the last included; a video lasts num_segments of "
        "them (DiDeMo's true durations are up to 5 s shorter)"
    )
    seconds = [(_CHUNK * first, _CHUNK * (last + 1)) for first, last in windows]
    return seconds, _CHUNK * number
