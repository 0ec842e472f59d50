"""What no model, a random model and a perfect grid score: the rows that a number stands beside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.records import Truth
from lib.evaluation.retrieval import Ranks
from lib.evaluation.spans import miss_probability, overlap, passes

WHOLE = "whole video"
PARTS = "equal parts in order"
WIDE_PARTS = "equal parts in order, 1.5 wide"
TEN = "ten fixed spans"
CHANCE = "chance"


def whole_video(truth: Truth) -> NDArray[np.float64]:
    """(M, 1, 2) [0, 1) for every sentence."""
    return np.broadcast_to(np.array([0.0, 1.0]), (len(truth.sentences), 1, 2))


def equal_parts(truth: Truth, *, width: float = 1.0) -> NDArray[np.float64]:
    """(M, 1, 2) the i-th of S equal parts for the i-th of S sentences, widened about its middle.

    Knows how many sentences the paragraph has and their order, nothing else. Cut to [0, 1].
    """
    place, count = truth.position
    middle = (place + 0.5) / count
    half = 0.5 * width / count
    return np.stack([middle - half, middle + half], axis=-1).clip(0.0, 1.0)[:, None]


def fixed_list(
    moments: NDArray[np.float64],
    *,
    size: int = 10,
    iou: Sequence[float] = (0.5,),
    max_iou: float = 0.5,
    grid: int = 32,
) -> NDArray[np.float64]:
    """(size, 2) spans, the same for every sentence, that pass for as many moments as possible.

    Greedy: each step adds the span of a grid that raises most the share of moments passed by any
    span so far, summed over the thresholds, among spans that overlap none chosen by more than
    ``max_iou`` (they would not survive suppression together).

    Args:
        moments: (M, 2) **training** moments as fractions of their video.
    """
    starts, ends = np.triu_indices(grid)
    cells = np.stack([starts, ends + 1], axis=-1) / grid
    own = overlap(cells[:, None], moments)  # (C, M)
    passed = np.stack([passes(own, threshold, strict=True) for threshold in iou])
    covered = np.zeros((len(iou), len(moments)), np.bool_)
    allowed = np.ones(len(cells), np.bool_)
    chosen: list[int] = []
    for _ in range(size):  # order is the point: each step sees what is covered
        gain = (passed & ~covered[:, None]).sum(axis=(0, 2))
        best = int(np.where(allowed, gain, -1).argmax())
        if not allowed[best]:
            break
        chosen.append(best)
        covered |= passed[:, best]
        allowed &= ~passes(overlap(cells, cells[best]), max_iou, strict=True)
        allowed[best] = False
    return cells[chosen]


def cells_that_pass(
    truth: Truth,
    cells: NDArray[np.float64],
    thresholds: Sequence[float],
    *,
    strict: bool,
    chunk: int = 2048,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many cells of a grid pass, (thresholds, M), and the best cell's overlap, (M,)."""
    counts = np.zeros((len(thresholds), len(truth.sentences)), np.int64)
    best = np.zeros(len(truth.sentences))
    moments = truth.fractions
    for low in range(0, len(best), chunk):
        rows = slice(low, low + chunk)
        own = overlap(cells, moments[rows, None])
        best[rows] = own.max(axis=1)
        for t, threshold in enumerate(thresholds):
            counts[t, rows] = passes(own, threshold, strict=strict).sum(axis=1)
    return counts, best


def chance_of_cells(
    counts: NDArray[np.int64], total: int, n: int, *, videos: int = 1
) -> NDArray[np.float64]:
    """(M,) probability that n different random cells of ``videos`` grids hold one that passes.

    No suppression between the draws.
    """
    return 1.0 - miss_probability(np.asarray(total * videos), counts, min(n, total * videos))


def chance_ranks(paragraphs: int, videos: int) -> Ranks:
    """The ranks of a model that gives every video the same score: with expected ties, chance."""
    return Ranks(
        better=np.zeros(paragraphs, np.int64),
        equal=np.full(paragraphs, videos - 1, np.int64),
        listed=np.ones(paragraphs, np.bool_),
    )
