"""The truth as a file: TVR's annotation lines with a ``paragraph_id``, or those of QVHighlights
(docs/predictions.md)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...base.clipping import clip_moment
from ...base.errors import InputError
from ...base.files import replace_file
from ..records import Truth
from .lines import (
    for_each_line,
    number,
    require_lines,
    short,
    span,
    stated_lines,
    write_line,
)


def write_truth(path: str | Path, truth: Truth) -> None:
    """One line per sentence; videos that no paragraph describes follow. The first line says how
    many there are. The file appears when it is complete."""
    replace_file(Path(path), partial(fill_truth, truth))


def fill_truth(truth: Truth, file: BinaryIO) -> None:
    """What ``write_truth`` writes."""
    names, owner, videos = truth.names, truth.sentence_paragraph, _order(truth)
    count: dict[str, int] = {"lines": len(videos) + len(owner)}
    for video in videos:
        write_line(file, _video(truth, video) | count, space=" ")
        count = {}
    for i, p in enumerate(owner):
        record = {
            "desc_id": names[i],
            "desc": truth.sentences[i],
            **_video(truth, int(truth.paragraph_video[p])),
            "paragraph_id": truth.paragraph_ids[p],
        }
        if truth.timed:
            spans = truth.moments[i]
            if truth.annotations is not None:
                spans = truth.annotations[i][~np.isnan(truth.annotations[i]).any(axis=-1)]
            record["ts"] = spans.tolist()
        write_line(file, record | count, space=" ")
        count = {}


def _order(truth: Truth) -> list[int]:
    """Videos to name by themselves: all, unless the sentences name them in the corpus's order."""
    mentioned = list(dict.fromkeys(truth.sentence_video.tolist()))
    return (
        [] if mentioned == list(range(len(truth.video_ids))) else list(range(len(truth.video_ids)))
    )


def _video(truth: Truth, video: int) -> dict[str, Any]:
    return {"vid_name": truth.video_ids[video], "duration": float(truth.durations[video])}


def read_truth(path: str | Path) -> Truth:
    """Read a truth file; the corpus holds its videos in the order in which it names them.

    A line without ``paragraph_id`` is a paragraph of one sentence, which makes TVR's own annotation
    files readable. Lines without ``desc`` name distractors. Sentences of a paragraph keep their
    order; other lines may stand between them. ``ts`` may be left out, of all sentences. Moments are
    clipped to their video as annotations are, and counted (``Truth.clipped``).

    Lines of QVHighlights, which have a ``qid``, are read likewise: each query is a paragraph, and
    has all its windows.

    Raises:
        InputError: up to ten faults, each with its line number; or a file that was cut.
    """
    reader = _Reader(Path(path))
    count = for_each_line(reader.path, reader.add)
    require_lines(reader.path, reader.lines, count)
    return reader.truth()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.videos: dict[str, float] = {}
        self.paragraphs: dict[str, str] = {}
        self.locations: dict[str, str] = {}
        self.rows: list[tuple[str, str, list[tuple[float, float]]]] = []  # paragraph, text, spans
        self.clipped = 0
        self.windows = False  # of QVHighlights
        self.lines: int | None = None  # as the file says

    def add(self, location: str, record: dict[str, Any]) -> None:
        if "qid" in record:
            record = _of_qvhighlights(record, location)
            self.windows = True
        missing = [key for key in ("vid_name", "duration") if key not in record]
        if "desc" in record or "desc_id" in record:
            missing += [key for key in ("desc_id", "desc") if key not in record]
        if missing:
            raise InputError(f"{location}: lacks {' and '.join(missing)}")
        self.lines = stated_lines(record, location, self.lines)
        video, duration = str(record["vid_name"]), number(record["duration"], location, "duration")
        if duration <= 0:
            raise InputError(f"{location}: duration is {duration:g}, expected more than 0")
        if self.windows:  # whose durations are whole seconds, line by line
            self.videos[video] = max(duration, self.videos.get(video, 0.0))
        elif self.videos.setdefault(video, duration) != duration:
            raise InputError(
                f"{location}: video {video!r} has the duration {duration:g}, "
                f"before it had {self.videos[video]:g}"
            )
        if "desc" in record:
            self._add_sentence(location, video, record)

    def _add_sentence(self, location: str, video: str, record: dict[str, Any]) -> None:
        name = str(record["desc_id"])
        if name in self.locations:
            raise InputError(f"{location}: desc_id {name!r} was in {self.locations[name]} already")
        self.locations[name] = location
        paragraph = str(record.get("paragraph_id", name))
        if self.paragraphs.setdefault(paragraph, video) != video:
            raise InputError(
                f"{location}: paragraph {paragraph!r} describes {video!r}, "
                f"before it described {self.paragraphs[paragraph]!r}"
            )
        spans = _spans(record["ts"], location) if "ts" in record else []
        spans = self._clipped(spans, float(record["duration"]), location)
        if self.rows and bool(self.rows[0][2]) != bool(spans):
            which = "lacks ts" if self.rows[0][2] else "has ts"
            raise InputError(f"{location}: {which}, unlike the sentences before it")
        self.rows.append((paragraph, str(record["desc"]), spans))

    def _clipped(
        self, spans: list[tuple[float, float]], duration: float, location: str
    ) -> list[tuple[float, float]]:
        kept, cut = [], False
        for start, end in spans:
            low, high, this = clip_moment(start, end, duration)
            if low >= high:
                raise InputError(
                    f"{location}: the moment [{start:g}, {end:g}] lies outside of its video of "
                    f"{duration:g} s; correct it, or leave the sentence out"
                )
            kept.append((low, high))
            cut |= this
        self.clipped += cut
        return kept

    def truth(self) -> Truth:
        if not self.rows:
            raise InputError(f"{self.path}: holds no sentence")
        paragraph_index = {paragraph: p for p, paragraph in enumerate(self.paragraphs)}
        video_index = {name: v for v, name in enumerate(self.videos)}
        owner = np.array([paragraph_index[paragraph] for paragraph, _, _ in self.rows])
        order = np.argsort(owner, kind="stable")
        names = list(self.locations)
        width = max(1, *(len(spans) for _, _, spans in self.rows))
        times = np.full((len(order), width, 2), np.nan)
        for i, row in enumerate(order):
            spans = self.rows[row][2]
            if spans:
                times[i, : len(spans)] = spans
        return Truth(
            video_ids=tuple(self.videos),
            durations=np.array(list(self.videos.values())),
            paragraph_ids=tuple(self.paragraphs),
            paragraph_video=np.array([video_index[v] for v in self.paragraphs.values()]),
            sentence_paragraph=owner[order],
            moments=times[:, 0],
            sentences=tuple(self.rows[row][1] for row in order),
            annotations=times if width > 1 or (self.windows and self.rows[0][2]) else None,
            sentence_ids=tuple(names[row] for row in order),
            clipped=self.clipped,
        )


def _of_qvhighlights(record: dict[str, Any], location: str) -> dict[str, Any]:
    """A line of QVHighlights by the names of a truth file."""
    names = {"qid": "desc_id", "query": "desc", "vid": "vid_name", "duration": "duration"}
    missing = [key for key in names if key not in record]
    if missing:
        raise InputError(f"{location}: lacks {' and '.join(missing)}")
    found = {ours: record[theirs] for theirs, ours in names.items()}
    if record.get("relevant_windows") is not None:
        found["ts"] = record["relevant_windows"]
    return found


def _spans(value: Any, location: str) -> list[tuple[float, float]]:
    """``[start, end]``, or a list of those: of several windows, or one per annotator."""
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]
    if not isinstance(value, list) or not value:
        raise InputError(f"{location}: ts is {short(value)}, expected [start, end] in seconds")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(
                f"{location}: ts holds {short(pair)}, expected [start, end] in seconds"
            )
    return [span(start, end, location) for start, end in value]
