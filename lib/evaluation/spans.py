"""Overlap of spans in float64, and what may share a list: the arithmetic under every count.

Letters: **P** paragraphs, **M** sentences, **V** videos of the corpus, **C** cells of a proposal
map, **n** moments per sentence and video, **L** entries of a list, **G** groups. NumPy only: a
predictions file is scored where no torch is installed.

Overlaps at a threshold are decided, not rounded. Predicted spans lie on a grid and annotations have
two decimals, so an overlap is a ratio of short decimals. One that differs from a threshold at all
differs by far more than 1e-9, while float64 errs by about 1e-15: within 1e-9 is equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TIE = 1e-9


def overlap(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Intersection over union of [start, end) spans (…, 2), broadcast; 0 where a bound is NaN.

    Any unit, as long as both sides use the same one.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
        inside = np.maximum(inside, 0.0)
        union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inside
        return np.where(union > 0, inside / union, 0.0)


def passes(
    iou: NDArray[np.float64], threshold: float, *, strict: bool, tie: float = TIE
) -> NDArray[np.bool_]:
    """Whether an overlap passes: ``>`` when strict, else ``>=``; within ``tie`` is equal."""
    return iou > threshold + tie if strict else iou >= threshold - tie


def suppress(spans: NDArray, alive: NDArray[np.bool_], *, max_iou: float) -> NDArray[np.bool_]:
    """Greedy suppression inside many groups at once.

    Args:
        spans: (G, n, 2), each group best first.
        alive: (G, n), which entries exist.
        max_iou: an entry goes when it overlaps a kept, better one by more than this.

    Returns:
        (G, n), which entries stay. Whether one stays depends on better ones alone, so suppression
        may run before or after a list is cut.
    """
    keep = alive.copy()
    for i in range(spans.shape[1] - 1):  # order is the point: each choice depends on those before
        rest = spans[:, i + 1 :]
        close = passes(overlap(spans[:, i : i + 1], rest), max_iou, strict=True)
        keep[:, i + 1 :] &= ~(close & keep[:, i : i + 1])
    return keep


def miss_probability(total: NDArray, hits: NDArray, draws: NDArray | int) -> NDArray[np.float64]:
    """Chance that ``draws`` items, drawn without return from ``total``, hold none of ``hits``.

    Broadcasts. Exactly 0 when the misses are fewer than the draws, exactly 1 when nothing is drawn.
    """
    total, hits, draws = np.broadcast_arrays(total, hits, draws)
    chance = np.ones(total.shape)
    for i in range(int(draws.max(initial=0))):
        left = np.maximum(total - i, 1)
        chance *= np.where(i < draws, np.clip((total - hits - i) / left, 0.0, 1.0), 1.0)
    return chance
