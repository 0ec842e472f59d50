"""Submissions to QVHighlights, as Moment-DETR and its successors write them: lines of ``{"qid",
"query", "vid", "pred_relevant_windows": [[start, end, score], …], "pred_saliency_scores"}``, times
in seconds.

Source: the reading of Moment-DETR's evaluation. The first window of a query is its answer, whatever
the scores; average precision ranks the first ten by their scores; each query of the truth must be
there, and no other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import InputError
from ..records import Predictions, Truth
from .lines import for_each_line, listed_span, number, require_same_queries, rows

WINDOWS = "pred_relevant_windows"


def read_qvhighlights(path: str | Path, truth: Truth) -> Predictions:
    """The windows of a submission, in the order of the file. Saliency scores are not read.

    A window that does not end after it starts keeps its place in the list, and is a miss.

    Raises:
        InputError: up to ten faults with their line numbers; or other queries than the truth's.
    """
    path = Path(path)
    index = {name: i for i, name in enumerate(truth.names)}
    listed: dict[str, list[list[float]]] = {}

    def read(location: str, record: dict[str, Any]) -> None:
        missing = [key for key in ("qid", WINDOWS) if key not in record]
        if missing:
            raise InputError(f"{location}: lacks {' and '.join(missing)}")
        name = str(record["qid"])
        location = f"{location}: qid {name!r}"
        if name in listed:
            raise InputError(f"{location}: occurs twice")
        listed[name] = [
            [*listed_span(start, end, location), number(score, location, "a score")]
            for start, end, score in rows(record[WINDOWS], location, WINDOWS, "[start, end, score]")
        ]

    for_each_line(path, read)
    require_same_queries(str(path), "qid", listed, index)
    longest = max(map(len, listed.values()))
    table = np.full((len(index), longest, 3), np.nan)
    for name, windows in listed.items():
        if windows:
            table[index[name], : len(windows)] = windows
    return Predictions(
        spans=table[..., :2] / truth.durations[truth.sentence_video, None, None],
        scores=np.where(np.isnan(table[..., 2]), -np.inf, table[..., 2]),
        answered=np.ones(len(index), np.bool_),
    )
