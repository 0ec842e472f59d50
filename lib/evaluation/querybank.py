"""Retrieval scores in which a video that is near to everything loses what it owes to that.

Querybank normalisation (Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR
2022) with its dynamic inverted soft-max: the bank is paragraphs of the training split, and a video
is scored against what they all score it. No paragraph of the scored split reads another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Times 1 / deviation of the bank's similarities: from nearly their mean to nearly their maximum.
SCALES = np.logspace(-1, 2, 49)


def normalised(
    similarity: NDArray[np.floating], bank: NDArray[np.floating], scale: float
) -> NDArray[np.float64]:
    """(P, V) log of exp(β s(p, v)) / Σ_b exp(β s(b, v)), for the paragraphs whose first video is
    the first one of any in the bank; β s(p, v) for the others, whose order does not change.

    Args:
        similarity: (P, V) s of the paragraphs that are scored.
        bank: (B, V) s of the bank's paragraphs with the same videos.
        scale: β, above 0.
    """
    scores = scale * similarity.astype(np.float64)
    known = np.unique(bank.argmax(axis=1))
    hub = np.isin(similarity.argmax(axis=1), known)
    return scores - np.where(hub[:, None], _log_sum_exp(scale * bank.astype(np.float64)), 0.0)


def choose_scale(
    similarity: NDArray[np.floating], bank: NDArray[np.floating], target: NDArray[np.int64]
) -> float:
    """β for which a soft-max over videos of the inverted soft-max's scores makes paragraphs' own
    videos most likely. It needs no timestamp.

    The authors choose β on validation as well, by recall; a likelihood does not hang on the few
    paragraphs that stand next to a rank that is counted.

    Args:
        similarity, bank: of validation; as in ``normalised``.
        target: (P,) each paragraph's own video.
    """
    deviation = float(bank.std())
    if deviation == 0.0:
        return 1.0  # all videos are equally near to everything: any β ranks alike
    rows = np.arange(len(target))

    def loss(scale: float) -> float:
        scores = scale * similarity.astype(np.float64)
        scores -= _log_sum_exp(scale * bank.astype(np.float64))
        return float((_log_sum_exp(scores.T) - scores[rows, target]).mean())

    return min((float(scale) for scale in SCALES / deviation), key=loss)


def _log_sum_exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log Σ exp over the first axis."""
    top = x.max(axis=0)
    return top + np.log(np.exp(x - top).sum(axis=0))
