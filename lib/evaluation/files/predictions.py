"""Predictions as lines of JSON, one per paragraph and per sentence (docs/predictions.md)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...base.errors import InputError
from ...base.files import replace_file
from ..joint import finished_pairs
from ..protocols import PROTOCOLS
from ..records import CandidateMoments, Pairs, Predictions, Ranking, Truth, check
from ..retrieval import top_videos
from .lines import (
    for_each_line,
    number,
    require_lines,
    rows,
    short,
    span,
    stated_lines,
    write_line,
)

VERSION = 1
_KEYS = {
    "header": ("predictions", "unit", "proposals", "pairs_for", "lines", "note"),
    "paragraph_id": ("paragraph_id", "videos"),
    "desc_id": ("desc_id", "moments", "pairs"),
}


def write_predictions(
    path: str | Path,
    truth: Truth,
    predictions: Predictions,
    *,
    videos: int = 1000,
    pairs_for: str = "jrg_joint",
    alpha: float = 20.0,
    note: dict[str, Any] | None = None,
) -> None:
    """Write what ``read_predictions`` reads; the file appears when it is complete.

    Args:
        videos: how many ranked videos of a paragraph are written. Below the corpus's size, ranks
            past it are lost: recalls up to it are unchanged, MRR and MedR are not.
        pairs_for: the protocol whose finished list of 100 pairs is written, from candidates.
        alpha: weight of the video's score in those pairs.
        note: anything JSON; kept in the header and never read.
    """
    options: dict[str, Any] = {"videos": videos, "pairs_for": pairs_for}
    options |= {"alpha": alpha, "note": note}
    replace_file(Path(path), partial(fill_predictions, truth, predictions, **options))


def fill_predictions(
    truth: Truth,
    predictions: Predictions,
    file: BinaryIO,
    *,
    videos: int = 1000,
    pairs_for: str = "jrg_joint",
    alpha: float = 20.0,
    note: dict[str, Any] | None = None,
) -> None:
    """What ``write_predictions`` writes."""
    check(truth, predictions)
    ranking, pairs = predictions.similarity, predictions.candidates
    if isinstance(ranking, np.ndarray):
        ranking = top_videos(ranking, videos)
    if isinstance(pairs, CandidateMoments):
        pairs = finished_pairs(pairs, PROTOCOLS[pairs_for], alpha=alpha)
    header: dict[str, Any] = {"predictions": VERSION, "unit": "fraction"}
    if predictions.proposal_spans is not None:
        header["proposals"] = predictions.proposal_spans.tolist()
    if pairs is not None:
        header["pairs_for"] = list(pairs.made_for)
    if note is not None:
        header["note"] = note
    answered: list[int] = []
    if predictions.spans is not None or pairs is not None:
        everyone = np.ones(len(truth.names), np.bool_)
        chosen = everyone if predictions.answered is None else predictions.answered
        answered = np.flatnonzero(chosen).tolist()
    paragraphs = () if ranking is None else truth.paragraph_ids
    header["lines"] = 1 + len(paragraphs) + len(answered)
    write_line(file, header)
    if ranking is not None:
        for name, ids, scores in zip(paragraphs, ranking.videos, ranking.scores, strict=True):
            write_line(file, {"paragraph_id": name, "videos": _videos(truth, ids, scores)})
    names = truth.names
    for i in answered:
        record: dict[str, Any] = {"desc_id": names[i]}
        if predictions.spans is not None and predictions.scores is not None:
            record["moments"] = _moments(predictions.spans[i], predictions.scores[i])
        if pairs is not None:
            real = pairs.videos[i] >= 0
            videos_listed = [truth.video_ids[v] for v in pairs.videos[i][real]]
            moments = _moments(pairs.spans[i][real], pairs.scores[i][real])
            record["pairs"] = [[v, *m] for v, m in zip(videos_listed, moments, strict=True)]
        write_line(file, record)


def _videos(truth: Truth, ids: NDArray, scores: NDArray) -> list[list[Any]]:
    pairs = zip(ids.tolist(), exact(scores), strict=True)
    return [[truth.video_ids[v], score] for v, score in pairs if v >= 0]


def _moments(spans: NDArray, scores: NDArray) -> list[list[float]]:
    triples = zip(spans.astype(np.float64).tolist(), exact(scores), strict=True)
    return [[start, end, score] for (start, end), score in triples if start == start]


def exact(scores: NDArray) -> list[float]:
    """Scores with as few digits as bring back the same float32 (or float64)."""
    return [float(text) for text in scores.astype(str).tolist()]


def read_predictions(path: str | Path, truth: Truth) -> Predictions:
    """Read a file of ``write_predictions``, or one of the same schema from elsewhere.

    Moments and videos are ordered by their scores, equal ones as listed. A sentence without a line
    is missing; a paragraph without one retrieves nothing.

    Raises:
        InputError: up to ten faults with their line numbers: an unknown or repeated id, an unknown
            video, a score that is no finite number, a moment that is none, an unknown key; or a
            file that has not as many lines as its header says.
    """
    reader = _Reader(truth)
    count = for_each_line(Path(path), reader.add)
    require_lines(Path(path), reader.lines, count)
    return reader.predictions()


class _Reader:
    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.video = {name: v for v, name in enumerate(truth.video_ids)}
        self.index = {
            "paragraph_id": {name: p for p, name in enumerate(truth.paragraph_ids)},
            "desc_id": {name: i for i, name in enumerate(truth.names)},
        }
        self.locations: dict[tuple[str, int], str] = {}
        self.header: dict[str, Any] = {}
        self.in_seconds = False
        self.lines: int | None = None  # as the header says
        self.ranking: dict[int, list[tuple[int, float]]] = {}
        self.moments: dict[int, list[tuple[float, float, float]]] = {}
        self.pairs: dict[int, list[tuple[int, float, float, float]]] = {}

    def add(self, location: str, record: dict[str, Any]) -> None:
        kind = next((key for key in ("paragraph_id", "desc_id") if key in record), "header")
        if kind == "header" and "predictions" not in record:
            raise InputError(
                f"{location}: has no paragraph_id and no desc_id, expected one of them "
                '(or, in the first line, the header with "predictions": 1)'
            )
        unknown = [key for key in record if key not in _KEYS[kind]]
        if unknown:
            raise InputError(
                f"{location}: unknown key {unknown[0]!r}, expected {', '.join(_KEYS[kind])}"
            )
        if kind == "header":
            self._add_header(location, record)
            return
        name = str(record[kind])
        if name not in self.index[kind]:
            raise InputError(f"{location}: {kind} {name!r} is not in the truth")
        item = self.index[kind][name]
        if (kind, item) in self.locations:
            raise InputError(
                f"{location}: {kind} {name!r} was in {self.locations[kind, item]} already"
            )
        self.locations[kind, item] = location
        location = f"{location}: {kind} {name!r}"
        if "videos" in record:
            self._add_ranking(item, record["videos"], location)
        if "moments" in record:
            true_video = int(self.truth.sentence_video[item])
            self.moments[item] = [
                (
                    *self._span(start, end, true_video, location),
                    number(score, location, "a moment's score"),
                )
                for start, end, score in rows(
                    record["moments"], location, "moments", "[start, end, score]"
                )
            ]
        if "pairs" in record:
            self.pairs[item] = [
                self._pair(row, location)
                for row in rows(record["pairs"], location, "pairs", "[video, start, end, score]")
            ]

    def _add_header(self, location: str, record: dict[str, Any]) -> None:
        if self.header or self.locations:
            raise InputError(f"{location}: a header, expected only in the first line")
        if type(record["predictions"]) is not int or record["predictions"] != VERSION:
            raise InputError(
                f"{location}: predictions is {short(record['predictions'])}, expected {VERSION}"
            )
        if record.get("unit", "fraction") not in ("fraction", "seconds"):
            raise InputError(
                f"{location}: unit is {short(record['unit'])}, expected fraction or seconds"
            )
        pairs_for = record.get("pairs_for", [])
        if not isinstance(pairs_for, list):
            raise InputError(f"{location}: pairs_for is {short(pairs_for)}, expected a list")
        unknown = [n for n in pairs_for if not isinstance(n, str) or n not in PROTOCOLS]
        if unknown:
            raise InputError(
                f"{location}: pairs_for names the unknown protocol {short(unknown[0])}"
            )
        if record.get("proposals") == []:
            raise InputError(f"{location}: proposals is empty, expected spans or no such key")
        for start, end in rows(record.get("proposals", []), location, "proposals", "[start, end]"):
            if not 0 <= span(start, end, location)[0] < end <= 1:
                raise InputError(
                    f"{location}: proposals hold [{start:g}, {end:g}], "
                    "expected fractions from 0 to 1"
                )
        self.lines = stated_lines(record, location, None)
        self.header, self.in_seconds = record, record.get("unit") == "seconds"

    def _add_ranking(self, item: int, value: Any, location: str) -> None:
        scores: dict[int, float] = {}
        for name, score in rows(value, location, "videos", "[video, score]"):
            video = self._video(name, location)
            if video in scores:
                raise InputError(f"{location}: ranks the video {name!r} twice")
            scores[video] = number(score, location, f"the score of video {name!r}")
        self.ranking[item] = list(scores.items())

    def _pair(self, row: list[Any], location: str) -> tuple[int, float, float, float]:
        video = self._video(row[0], location)
        start, end = self._span(row[1], row[2], video, location)
        return video, start, end, number(row[3], location, "a pair's score")

    def _video(self, name: Any, location: str) -> int:
        if not isinstance(name, str) or name not in self.video:
            raise InputError(f"{location}: the video {short(name)} is not in the corpus")
        return self.video[name]

    def _span(self, start: Any, end: Any, video: int, location: str) -> tuple[float, float]:
        low, high = span(start, end, location)
        unit = self.truth.durations[video] if self.in_seconds else 1.0
        return low / unit, high / unit

    def predictions(self) -> Predictions:
        P, M = len(self.truth.paragraph_ids), len(self.truth.sentences)
        answered = np.zeros(M, np.bool_)
        answered[[item for kind, item in self.locations if kind == "desc_id"]] = True
        proposals = self.header.get("proposals")
        spans = scores = None
        if self.moments:
            spans, scores = table(M, self.moments, (2, 1), (np.nan, -np.inf), np.float64)
        return Predictions(
            similarity=ranking(P, self.ranking) if self.ranking else None,
            spans=spans,
            scores=None if scores is None else scores[..., 0],
            proposal_spans=None if proposals is None else np.array(proposals, np.float64),
            candidates=pairs(M, self.pairs, tuple(self.header.get("pairs_for", ())))
            if self.pairs
            else None,
            answered=answered if (self.moments or self.pairs) else None,
        )


def ranking(P: int, lists: dict[int, list[tuple[int, float]]]) -> Ranking:
    """Listed videos as arrays."""
    videos, scores = table(P, lists, (1, 1), (-1.0, -np.inf), np.float64)
    return Ranking(videos[..., 0].astype(np.int32), scores[..., 0])


def pairs(
    M: int, lists: dict[int, list[tuple[int, float, float, float]]], made_for: tuple[str, ...]
) -> Pairs:
    """Listed pairs as arrays."""
    videos, spans, scores = table(M, lists, (1, 2, 1), (-1.0, np.nan, -np.inf), np.float64)
    return Pairs(videos[..., 0].astype(np.int32), spans, scores[..., 0], made_for)


def table(
    size: int,
    lists: dict[int, Any],
    widths: Sequence[int],
    fill: Sequence[float],
    dtype: Any,
) -> list[NDArray]:
    """Ragged rows of numbers, the score last, as padded arrays: best first, equal as listed."""
    longest = max((len(each) for each in lists.values()), default=0)
    columns = [
        np.full((size, longest, w), value, dtype) for w, value in zip(widths, fill, strict=True)
    ]
    cuts = np.cumsum(widths)[:-1]
    for item, each in lists.items():
        if each:
            values = np.array(each, dtype)
            values = values[np.argsort(-values[:, -1], kind="stable")]
            for column, part in zip(columns, np.split(values, cuts, axis=1), strict=True):
                column[item, : len(values)] = part
    return columns
