"""Durations from a file beside the annotations, where these give none."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...base.files import open_input
from .keys import key_of
from .records import Record
from .source import Source, listed
from .splits import of_the_test, usual

# JSON is opened only under a name that promises durations: another file may be another split's
# annotations, of which training opens none of the test.
_JSON = re.compile(r"dur|length|^charades\.json$|^all_data_|^msrvtt_data", re.IGNORECASE)
_MOST_FILES, _MOST_BYTES = 50, 2**28
_ADVICE = (
    "put a CSV file with the columns id and duration (seconds) beside it, or a JSON object "
    "durations.json of {id: seconds}"
)
Table = Mapping[str, float]


def fill(records: Sequence[Record], source: Source) -> None:
    """Give the records without a duration that of a file beside the annotations.

    The first file, by name, that has the durations of all of them is read, and named in a remark.

    Raises:
        InputError: there is none; the message says what each file lacks.
    """
    lacking = [record for record in records if math.isnan(record.duration)]
    if not lacking:
        return
    videos = list(dict.fromkeys(record.video_id for record in lacking))
    whole: dict[str, Table] = {}
    faults = []
    for path in _candidates(source.path):
        if of_the_test(path) and not _wants_test(source):
            faults.append(f"{path.name} is the test's")
            continue
        table = _read(path)
        if isinstance(table, str):
            faults.append(f"{path.name} {table}")
        elif fault := _fault(table, videos):
            faults.append(f"{path.name} {fault}")
        else:
            whole[path.name] = table
    if not whole:
        tried = f" ({'; '.join(faults[:6])})" if faults else ""
        raise source.fault(
            f"{videos[0][:60]} lacks duration, and no file beside it has the durations of its "
            f"{len(videos):,} videos{tried}; {_ADVICE}."
        )
    name, table = next(iter(whole.items()))
    for record in lacking:
        record.duration = float(_seconds(table, record.video_id))
    others = [other for other in whole if other != name]
    differ = [
        other
        for other in others
        if any(abs(_seconds(whole[other], v) - _seconds(table, v)) > 1e-3 for v in videos)
    ]
    also = f", not from {listed(others)}" if others else ""
    which = f" (other durations: {listed(differ)})" if differ else ""
    source.cleaning.remark(f"durations are from {name}{also}{which}")


def _candidates(path: Path) -> list[Path]:
    """Files beside the annotations (MS-SL's: also a folder up) that may hold durations; Charades's
    own first."""
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "TextData" else [])]
    own = f"Charades_v1_{path.stem.rsplit('_', 1)[-1]}.csv"
    found = [
        other
        for folder in folders
        for other in sorted(folder.iterdir())
        if other.name != path.name
        and (
            other.suffix.lower() in (".csv", ".tsv")
            or (other.suffix.lower() == ".json" and _JSON.search(other.name))
        )
    ]
    return sorted(found, key=lambda other: other.name != own)[:_MOST_FILES]


def _wants_test(source: Source) -> bool:
    return usual(source.split) == "test" or (not source.split and of_the_test(source.path))


def _read(path: Path) -> Table | str:
    """A file's durations in seconds, not yet checked; or why there are none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return "is too large"
        with open_input(path, newline="", encoding="utf-8-sig") as file:
            text = file.read()
        if path.suffix.lower() == ".json":
            table: dict[str, float] = {}
            _collect(json.loads(text), table)
            return table or "has no durations"
        return _from_csv(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        return f"is not readable ({str(error)[:80]})"


def _fault(table: Table, videos: Sequence[str]) -> str:
    """What a table lacks; "" if it has every video."""
    lacking = [video for video in videos if math.isnan(_seconds(table, video))]
    if not lacking:
        return ""
    if any(name in table for name in _spellings(lacking[0])):
        return f"has no positive number for {lacking[0][:60]}"
    return f"has no row for {lacking[0][:60]}" + (
        f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
    )


def _seconds(table: Table, video: str) -> float:
    """The duration of a video, NaN if there is none."""
    found = next((table[name] for name in _spellings(video) if name in table), math.nan)
    return found if 0 < found < 1e300 else math.nan


def _spellings(video: str) -> tuple[str, ...]:
    """An id, and with or without ActivityNet's ``v_``; without the extension of a video file."""
    bare = re.sub(r"\.(mp4|avi|mkv|webm|mov)$", "", video)
    return video, bare, bare.removeprefix("v_"), f"v_{bare}"


def _from_csv(text: str) -> Table | str:
    """Columns with names, or id and seconds (and frames) without, as COOT has them."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    if not rows:
        return "is empty"
    columns: dict[str, int] = {}
    for place, name in enumerate(rows[0]):
        columns.setdefault(name.strip().lower(), place)
    identity = "id" if "id" in columns else key_of(columns, "video")
    seconds = "seconds" if "seconds" in columns else key_of(columns, "duration")
    if identity is not None and seconds is not None:
        first, second, rows = columns[identity], columns[seconds], rows[1:]
    elif len(rows[0]) in (2, 3) and not math.isnan(_number(rows[0][1])):
        first, second = 0, 1
    else:
        return f"has the columns {listed(list(columns))}, without id and duration (or length)"
    return {
        row[first].strip(): _number(row[second]) for row in rows if len(row) > max(first, second)
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _collect(data: Any, table: dict[str, float], depth: int = 0) -> None:
    """Durations under the ids in JSON: ``{id: seconds}``, ``{id: {duration}}``, TVR's ``{split:
    {id: [seconds, index]}}``, and MSR-VTT's list of videos."""
    if not isinstance(data, dict) or depth > 2:
        return
    for key, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                name = key_of(entry, "video") if isinstance(entry, dict) else None
                if name is not None and isinstance(entry[name], str):
                    table[entry[name]] = _of_entry(entry)
        elif isinstance(value, dict) and math.isnan(_of_entry(value)):
            _collect(value, table, depth + 1)
        elif not math.isnan(seconds := _of_entry(value)):
            table[key] = seconds


def _of_entry(value: Any) -> float:
    """Seconds, in one of the ways to say them; NaN if it is none."""
    if isinstance(value, list) and len(value) == 2:  # TVR's: and an index
        value = value[0]
    if isinstance(value, dict):
        if (key := key_of(value, "duration")) is not None:
            value = value[key]
        elif {"fps", "num_frames"} <= set(value):
            fps, frames = _of_entry(value["fps"]), _of_entry(value["num_frames"])
            return frames / fps if fps > 0 else math.nan
        elif {"start time", "end time"} <= set(value):
            return _of_entry(value["end time"]) - _of_entry(value["start time"])
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return math.nan
    return float(value)
