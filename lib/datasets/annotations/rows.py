"""A list of rows ``[video, duration, [start, end], sentence]``, as CPL has it."""

from __future__ import annotations

from typing import Any

from .records import Record
from .source import Source, short
from .videos import video_of


def read_rows(rows: list[Any], source: Source) -> list[Record]:
    """Consecutive rows of one video are a paragraph."""
    records: list[Record] = []
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, list) and len(row) == 4 and isinstance(row[0], str)):
            raise source.fault(
                f"row {number} is {short(row)}; expected [video, duration, [start, end], sentence]."
            )
        place = f"{row[0]} (row {number})"
        duration = source.positive(row[1], place, "duration")
        moment = source.moment(row[2], place)
        sentence = source.sentence(row[3], place)
        if not records or records[-1].paragraph_id != row[0]:
            records.append(Record(row[0], video_of(row[0]), duration, [], []))
        elif records[-1].duration != duration:
            raise source.fault(
                f"{place} has the duration {duration:g}, the row before {records[-1].duration:g}"
            )
        records[-1].moments.append(moment)
        records[-1].sentences.append(sentence)
    return records
