"""What no model, a random model and a perfect grid score: the rows that a number stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    iou: float = 0.5,
    max_iou: float = 0.5,
    grid: int = 32,
) -> NDArray[np.float64]:
    """(size, 2) spans, the same for every sentence, that pass for as many moments as possible.

    Greedy: each step adds the span of a grid of clips that raises most the share of moments that
    some span so far overlaps by more than ``iou``, among spans that overlap none chosen by more
    than ``max_iou``, which would not survive suppression together.

    Args:
        moments: (M, 2) **training** moments as fractions of their video.
    """
    starts, ends = np.triu_indices(grid)
    cells = np.stack([starts, ends + 1], axis=-1) / grid
    passed = np.stack([passes(overlap(cell, moments), iou, strict=True) for cell in cells])
    open_moments = np.ones(len(moments), np.bool_)
    allowed = np.ones(len(cells), np.bool_)
    chosen: list[int] = []
    while len(chosen) < size and allowed.any():  # order is the point: a step sees what is covered
        gain = (passed & open_moments).sum(axis=1)
        best = int(np.where(allowed, gain, -1).argmax())
        chosen.append(best)
        open_moments &= ~passed[best]
        allowed &= ~passes(overlap(cells, cells[best]), max_iou, strict=True)
        allowed[best] = False
    return cells[chosen]


@dataclass(frozen=True)
class GridFit:
    """How a grid of C cells fits the moments, whatever a model makes of it."""

    cells: int
    best: NDArray[np.float64]  # (M,) overlap of the best cell
    mean: NDArray[np.float64]  # (M,) overlap of a random cell
    counts: dict[tuple[float, bool], NDArray[np.int64]]  # (threshold, strict) -> (M,) cells passing
    weights: dict[float, NDArray[np.float64]]  # threshold -> (M, 2) discounted hit: mean and best

    def chance(
        self, threshold: float, n: int, *, strict: bool, videos: int = 1
    ) -> NDArray[np.float64]:
        """(M,) probability that one of n different random cells passes, with the cells of this many
        videos to draw from, of which one is right. No suppression between the draws."""
        total = self.cells * videos
        return 1.0 - miss_probability(
            np.asarray(total), self.counts[threshold, strict], min(n, total)
        )


def grid_fit(
    truth: Truth, cells: NDArray[np.float64], thresholds: Sequence[float], *, chunk: int = 2048
) -> GridFit:
    """Compare every cell (C, 2), fractions of a video, with every moment."""
    M, moments = len(truth.sentences), truth.fractions
    best, mean = np.zeros(M), np.zeros(M)
    counts = {(m, strict): np.zeros(M, np.int64) for m in thresholds for strict in (True, False)}
    weights = {m: np.zeros((M, 2)) for m in thresholds}
    for low in range(0, M, chunk):
        rows = slice(low, low + chunk)
        own = overlap(cells, moments[rows, None])
        best[rows], mean[rows] = own.max(axis=1), own.mean(axis=1)
        kept = (1.0 - np.abs(cells - moments[rows, None])).clip(min=0).prod(axis=-1)
        for m in thresholds:
            for strict in (True, False):
                counts[m, strict][rows] = passes(own, m, strict=strict).sum(axis=1)
            discounted = passes(own, m, strict=True) * kept
            weights[m][rows] = np.stack([discounted.mean(axis=1), discounted.max(axis=1)], axis=-1)
    return GridFit(len(cells), best, mean, counts, weights)


def chance_ranks(paragraphs: int, videos: int) -> Ranks:
    """The ranks of a model that gives every video the same score: with expected ties, chance."""
    return Ranks(
        better=np.zeros(paragraphs, np.int64),
        equal=np.full(paragraphs, videos - 1, np.int64),
        listed=np.ones(paragraphs, np.bool_),
    )
