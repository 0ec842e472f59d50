"""Moments of the right video: R@n at an overlap, its discounted form, and the mean overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .spans import TIE, overlap, passes


def grounding_values(
    spans: NDArray[np.float64],
    truth: NDArray[np.float64],
    *,
    n: Sequence[int],
    iou: Sequence[float],
    strict: bool,
    discounted: bool = False,
    tie: float = TIE,
) -> dict[str, NDArray[np.float64]]:
    """R@n,IoU=m of every sentence and the overlap of its best-ranked moment, each (M,) in [0, 1].
    Of several true moments, the one that is met best counts.

    Args:
        spans: (M, L, 2) in any unit, best first, after suppression; NaN = none.
        truth: (M, W, 2) in the same unit; NaN where a sentence has fewer than W moments.
        n: how many moments are looked at; a list may be shorter.
        strict: ``>`` instead of ``>=`` at the threshold.
        discounted: a hit counts (1 − |start error|)(1 − |end error|), errors as fractions of the
            duration, which the unit must then be, and the best hit counts. Keys start with ``dR``.
        tie: how near to a threshold an overlap is equal to it.

    Source: 2D-TAN's Rank@n; discounted: Yuan et al. 2023 (dR@n, IoU=m), whose single moment is
    generalised to n by the best discounted hit.
    """
    overlaps = overlap(spans[:, :, None], truth[:, None])  # (M, L, W)
    weight = np.ones_like(overlaps)
    if discounted:
        errors = np.abs(spans[:, :, None] - truth[:, None])
        weight = np.nan_to_num(1.0 - errors).clip(min=0).prod(axis=-1)
    name = "dR" if discounted else "R"
    values = {}
    for number in n:
        for threshold in iou:
            right = passes(overlaps[:, :number], threshold, strict=strict, tie=tie)
            hits = right * weight[:, :number]
            values[f"{name}@{number},IoU={threshold:g}"] = hits.max(axis=(1, 2), initial=0.0)
    if not discounted:
        values["mIoU"] = overlaps[:, :1].max(axis=(1, 2), initial=0.0)
    return values


AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_AP_MOMENTS = 10  # of a list


def precision_values(
    spans: NDArray[np.float64], scores: NDArray[np.floating], truth: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Average precision of every sentence's first ten moments, each (M,) in [0, 1]: ``mAP`` is the
    mean over ``AP_THRESHOLDS``, ``mAP@0.5`` and ``mAP@0.75`` are at one.

    A moment finds the true one that it overlaps most among those not found yet, if by the threshold
    or more. Precision is interpolated: at each recall, the best at this or a higher one.

    Args:
        spans: (M, L, 2) fractions of the video, in the order of the list; NaN = none.
        scores: (M, L), by which the first ten are ranked; equal ones stay in that order.
        truth: (M, W, 2) fractions of the video; NaN where a sentence has fewer than W moments.

    Source: the rule of Moment-DETR's evaluation of QVHighlights.
    """
    spans, scores = spans[:, :_AP_MOMENTS], scores[:, :_AP_MOMENTS]
    real = ~np.isnan(spans).any(axis=-1)
    order = np.argsort(np.where(real, -scores, np.inf), axis=1, kind="stable")
    real = np.take_along_axis(real, order, 1)
    overlaps = overlap(np.take_along_axis(spans, order[..., None], 1)[:, :, None], truth[:, None])
    exists = np.asarray(~np.isnan(truth).any(axis=-1))
    M, L, W = overlaps.shape
    found = np.zeros((len(AP_THRESHOLDS), M, L), np.bool_)
    for t, threshold in enumerate(AP_THRESHOLDS):
        left = exists.copy()
        for i in range(L):  # order is the point: a better moment takes its window first
            open_overlaps = np.where(left, overlaps[:, i], -1.0)
            best = open_overlaps.argmax(axis=1)
            hit = passes(open_overlaps[np.arange(M), best], threshold, strict=False) & real[:, i]
            found[t, :, i] = hit
            left[hit, best[hit]] = False
    precision = found.cumsum(axis=2) / np.maximum(real.cumsum(axis=1), 1)
    precision = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    areas = (found * precision).sum(axis=2) / np.maximum(exists.sum(axis=1), 1)
    single = {f"mAP@{m:g}": areas[AP_THRESHOLDS.index(m)] for m in (0.5, 0.75)}
    return {"mAP": areas.mean(axis=0), **single}


def any_passes(
    spans: NDArray[np.float64],
    truth: NDArray[np.float64],
    threshold: float,
    *,
    n: int,
    strict: bool,
) -> NDArray[np.bool_]:
    """(M,) whether one of a sentence's first ``n`` moments passes the threshold."""
    hits = passes(overlap(spans[:, :n], truth[:, None]), threshold, strict=strict)
    return np.asarray(hits.any(axis=1))
