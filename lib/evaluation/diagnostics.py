"""Signs of a collapse, which the recalls hide: any of ten moments passes while all are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Ranking, Truth
from .retrieval import shortlisted, top_videos

_FEW = 20


def span_diagnostics(truth: Truth, spans: NDArray[np.float64]) -> dict[str, Any]:
    """How varied the best-ranked spans are.

    Args:
        spans: (M, n, 2) fractions of the video, best first; sentences without any are left out.

    Returns:
        ``mean_width`` and ``width_spread`` (standard deviation) and ``middle_spread``, as fractions
        of the video; ``identical_within_paragraph``: per cent of sentences whose span another
        sentence of the same paragraph got too, among paragraphs of two or more;
        ``most_common_span`` and ``most_common_share`` in per cent;
        ``order_violated``: per cent of neighbouring sentences whose spans' middles run backwards
        while those of the truth run forwards.
    """
    best = spans[:, 0] if spans.shape[1] else np.full((len(spans), 2), np.nan)
    real = ~np.isnan(best).any(axis=1)
    if not real.any():
        return {}
    best, owner = best[real], truth.sentence_paragraph[real]
    width, middle = best[:, 1] - best[:, 0], best.mean(axis=1)
    keys = np.round(best, 6)
    common, counts = np.unique(keys, axis=0, return_counts=True)
    own_keys = np.column_stack([owner, keys])
    _, which, twins = np.unique(own_keys, axis=0, return_inverse=True, return_counts=True)
    company = np.bincount(owner)[owner] > 1
    next_to = owner[1:] == owner[:-1]
    true_middle = truth.fractions[real].mean(axis=1)
    forwards = next_to & (np.diff(true_middle) > 0)
    top = int(counts.argmax())
    return {
        "mean_width": float(width.mean()),
        "width_spread": float(width.std()),
        "middle_spread": float(middle.std()),
        "identical_within_paragraph": _percent((twins[which.ravel()] > 1)[company]),
        "most_common_span": common[top].tolist(),
        "most_common_share": 100.0 * float(counts[top]) / len(best),
        "order_violated": _percent((np.diff(middle) < 0)[forwards]),
    }


def retrieval_diagnostics(similarity: NDArray[np.floating] | Ranking) -> dict[str, Any]:
    """How varied the first-ranked videos are: ``most_common_first`` is the per cent of paragraphs
    that rank one and the same video first, ``all_tied`` of those that give all videos the same
    score."""
    if isinstance(similarity, Ranking):
        real = similarity.videos >= 0
        scores = np.where(real, similarity.scores, -np.inf)
        if not scores.size:
            return {}
        first_column = scores.argmax(axis=1)
        first = np.take_along_axis(similarity.videos, first_column[:, None], 1)[:, 0]
        lowest = np.where(real, similarity.scores, np.inf).min(axis=1)
        tied = (scores.max(axis=1) == lowest) & (real.sum(axis=1) > 1)
        first = first[first >= 0]
    else:
        first = similarity.argmax(axis=1)
        tied = (similarity.max(axis=1) == similarity.min(axis=1)) & (similarity.shape[1] > 1)
    share = np.bincount(first).max() / len(first) if len(first) else 0.0
    return {"most_common_first": 100.0 * float(share), "all_tied": _percent(tied)}


def shortlist_diagnostics(
    similarity: NDArray[np.floating], first_stage: NDArray[np.floating]
) -> dict[str, float]:
    """What the first stage's shortlist keeps of the similarity's ranking: ``shortlist_keeps_best``
    is the per cent of paragraphs whose best video is on it, ``shortlist_keeps_ten`` that of the ten
    best videos."""
    kept = shortlisted(first_stage)
    best = top_videos(similarity, 10).videos
    held = np.take_along_axis(kept, best, axis=1)
    return {"shortlist_keeps_best": _percent(held[:, 0]), "shortlist_keeps_ten": _percent(held)}


def warnings(
    spans: dict[str, Any],
    retrieval: dict[str, Any],
    *,
    paragraphs: int,
    sentences: int,
    mean_iou: float | None = None,
    baseline: float | None = None,
) -> list[str]:
    """Warnings for readers of the numbers, a sentence each; empty when nothing looks wrong.

    Identical answers to fewer than twenty queries are no sign of a collapse and are not reported.
    """
    messages = []
    if sentences < _FEW:
        spans = {}
    if spans.get("most_common_share", 0) > 50:
        start, end = spans["most_common_span"]
        messages.append(
            f"{spans['most_common_share']:.1f} % of the sentences got the same span, "
            f"[{start:.3f}, {end:.3f}] of the video: grounding has collapsed"
        )
    elif spans.get("width_spread", 1) < 0.01:
        messages.append(
            f"all predicted spans are {spans['mean_width']:.3f} of the video wide "
            f"(spread {spans['width_spread']:.4f}): the width has collapsed"
        )
    if spans.get("identical_within_paragraph", 0) > 50:
        messages.append(
            f"{spans['identical_within_paragraph']:.1f} % of the sentences got the span of another "
            "sentence of their paragraph: the text has no effect"
        )
    if mean_iou is not None and baseline is not None and mean_iou <= baseline:
        messages.append(
            f"mIoU {mean_iou:.2f} does not beat the best floor without a model, {baseline:.2f}: "
            "the model has not learned to ground"
        )
    if retrieval.get("all_tied", 0) > 0:
        messages.append(
            f"{retrieval['all_tied']:.1f} % of the paragraphs give every video the same score"
        )
    elif paragraphs >= _FEW and retrieval.get("most_common_first", 0) > 25:
        messages.append(
            f"{retrieval['most_common_first']:.1f} % of the paragraphs rank one and the same video "
            "first: retrieval has collapsed or has a hub"
        )
    return messages


def _percent(flags: NDArray[np.bool_]) -> float:
    return 100.0 * float(flags.mean()) if len(flags) else 0.0
