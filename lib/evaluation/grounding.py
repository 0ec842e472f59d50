"""Moments of the right video: R@n at an overlap, its discounted form, and the mean overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .spans import overlap, passes


def grounding_values(
    spans: NDArray[np.float64],
    truth: NDArray[np.float64],
    *,
    n: Sequence[int],
    iou: Sequence[float],
    strict: bool,
    discounted: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """R@n,IoU=m of every sentence and the overlap of its best-ranked moment, each (M,) in [0, 1].

    Args:
        spans: (M, L, 2) fractions of the video, best first, after suppression; NaN = none.
        truth: (M, 2) fractions of the video.
        n: how many moments are looked at; a list may be shorter.
        strict: ``>`` instead of ``>=`` at the threshold.
        discounted: a hit counts (1 − |start error|)(1 − |end error|), errors as fractions of the
            duration, and the best hit counts. Keys then start with ``dR``.

    Source: 2D-TAN's Rank@n; discounted: Yuan et al. 2023 (dR@n, IoU=m), whose single moment is
    generalised to n by the best discounted hit.
    """
    overlaps = overlap(spans, truth[:, None])
    weight = np.ones_like(overlaps)
    if discounted:
        weight = np.nan_to_num(1.0 - np.abs(spans - truth[:, None])).clip(min=0).prod(axis=-1)
    name = "dR" if discounted else "R"
    values = {}
    for number in n:
        for threshold in iou:
            hits = passes(overlaps[:, :number], threshold, strict=strict) * weight[:, :number]
            values[f"{name}@{number},IoU={threshold:g}"] = hits.max(axis=1, initial=0.0)
    if not discounted:
        values["mIoU"] = overlaps[:, :1].max(axis=1, initial=0.0)
    return values


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
