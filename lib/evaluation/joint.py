"""Retrieved and grounded: lists of (video, moment) pairs, and videos with moments in the right one.

Two families under one name in the literature. *Pairs*: the first K entries of one list of
(video, moment) pairs, so that moments of wrong videos take up ranks (TVR, JSG). *Videos*: the right
video among the first K and one of n moments grounded in it right (DMR-JRG); it shows n·K
moments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .grounding import any_passes
from .protocols import Protocol
from .records import CandidateMoments, Pairs, Truth
from .retrieval import Ranks
from .spans import miss_probability, overlap, passes, suppress


def video_values(
    truth: Truth,
    ranks: Ranks,
    spans: NDArray[np.float64],
    *,
    k: Sequence[int],
    iou: Sequence[float],
    n: int,
    strict: bool,
    ties: str = "expected",
) -> dict[str, NDArray[np.float64]]:
    """R@k,IoU=m of every sentence, (M,): video in the first k, one of n moments in it right.

    Args:
        spans: (M, L, 2) fractions of the sentence's **own** video, best first; NaN = none.

    Source: the released test script of DMR-JRG (n = 10, strict). A moment of a wrong video never
    lowers the rank of a right one, which is why this count is the generous one.
    """
    values = {}
    for number in k:
        retrieved = ranks.within(number, ties)[truth.sentence_paragraph]
        for threshold in iou:
            right = any_passes(spans, truth.fractions, threshold, n=n, strict=strict)
            values[f"R@{number},IoU={threshold:g}"] = retrieved * right
    return values


def pair_values(
    truth: Truth,
    candidates: CandidateMoments | Pairs,
    *,
    k: Sequence[int],
    iou: Sequence[float],
    strict: bool = False,
    alpha: float | None = None,
    moments_per_video: int | None = None,
    before: int | None = None,
    nms_iou: float | None = None,
    after: int = 100,
    annotators: int = 1,
    ties: str = "expected",
    chunk: int = 256,
) -> dict[str, NDArray[np.float64]]:
    """R@k,IoU=m of every sentence, (M,): one of the first k pairs is the right video and moment.

    Args:
        alpha: weight of the video's score in a pair's; None: the moment's score alone. Listed pairs
            have one score and ignore it.
        moments_per_video: best moments of a video that may enter.
        before: pairs that enter suppression; None: all.
        nms_iou: in each video, drop a pair that overlaps a better one by more; None: keep all.
        after: pairs that a list may have in the end; a larger k counts as this.
        annotators: how many of a sentence's annotators must agree (DiDeMo: 2); with fewer
            annotators, all of them.
        chunk: sentences at once; the result does not depend on it.

    Ties at rank k follow ``Ranks``: the probability, over random orders of equal scores, that a
    hit is among the first k. Suppression and the cut ``before`` take equal scores in the order in
    which they are listed, when expected or as in the file; by overlap with the truth otherwise.

    Source: TVR's evaluator (k counts pairs, >=), JSG's candidates and suppression.
    """
    M = len(truth.sentences)
    names = [f"R@{number},IoU={threshold:g}" for number in k for threshold in iou]
    values = {name: np.zeros(M) for name in names}
    target = truth.sentence_video
    for low in range(0, M, chunk):
        rows = slice(low, min(low + chunk, M))
        videos, spans, scores = _flat(candidates, rows, alpha, moments_per_video)
        overlaps = _overlap_with_truth(truth, rows, videos, spans, target[rows], annotators)
        order = _order(scores, overlaps, ties)
        overlaps = np.take_along_axis(overlaps, order, 1)
        scores = _finished(videos, spans, scores, order, moments_per_video, before, nms_iou)
        alive = scores > -np.inf
        for threshold in iou:
            hits = alive & passes(overlaps, threshold, strict=strict)
            for number in k:
                name = f"R@{number},IoU={threshold:g}"
                values[name][rows] = _hit_within(hits, scores, min(number, after), ties)
    return values


def finished_pairs(
    candidates: CandidateMoments,
    protocol: Protocol,
    *,
    alpha: float,
    keep: int = 100,
    chunk: int = 256,
) -> Pairs:
    """The list that a protocol ranks, built from candidates, best first, for a predictions file.

    Scoring the list under the same protocol gives the same numbers, up to equal scores on both
    sides of the cut at ``keep``.
    """
    parts = []
    for low in range(0, len(candidates.videos), chunk):
        rows = slice(low, low + chunk)
        weight = alpha if protocol.mixed else None
        videos, spans, scores = _flat(candidates, rows, weight, protocol.moments_per_video)
        order = np.argsort(-scores, axis=1, kind="stable")
        left = _finished(
            videos,
            spans,
            scores,
            order,
            protocol.moments_per_video,
            protocol.before,
            protocol.nms_iou,
        )
        best = np.argsort(-left, axis=1, kind="stable")[:, :keep]
        left = np.take_along_axis(left, best, 1)
        order = np.take_along_axis(order, best, 1)
        videos = np.where(left > -np.inf, np.take_along_axis(videos, order, 1), -1)
        parts.append((videos, np.take_along_axis(spans, order[..., None], 1), left))
    videos, spans, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Pairs(videos, spans, scores, made_for=(protocol.name,))


def choose_alpha(
    truth: Truth,
    candidates: CandidateMoments,
    *,
    alphas: Sequence[float] = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0),
    k: int = 10,
    iou: float = 0.5,
    **rules: object,
) -> tuple[float, dict[float, float]]:
    """The video weight with the best R@k,IoU=m, and every weight's score in per cent.

    Call it with validation data; the weight is then fixed for the test. Equal scores go to the
    smaller weight. ``rules``: the keywords of ``pair_values``.
    """
    scores = {}
    for alpha in alphas:
        values = pair_values(truth, candidates, k=[k], iou=[iou], alpha=alpha, **rules)  # type: ignore[arg-type]
        scores[float(alpha)] = 100.0 * float(np.mean(next(iter(values.values()))))
    return max(sorted(scores), key=lambda a: scores[a]), scores


def _flat(
    candidates: CandidateMoments | Pairs, rows: slice, alpha: float | None, n: int | None
) -> tuple[NDArray, NDArray, NDArray]:
    """Videos (m, L), spans (m, L, 2), scores (m, L) of some sentences; -inf = no such pair."""
    if isinstance(candidates, Pairs):
        videos, spans = candidates.videos[rows], candidates.spans[rows]
        scores = candidates.scores[rows].astype(np.float64)
    else:
        moments = candidates.scores[rows, :, :n].astype(np.float64)
        if alpha is not None:
            moments = moments + alpha * candidates.video_scores[rows, :, None].astype(np.float64)
        m, K, n = moments.shape
        videos = np.broadcast_to(candidates.videos[rows, :, None], (m, K, n)).reshape(m, K * n)
        spans = candidates.spans[rows, :, :n].reshape(m, K * n, 2)
        scores = moments.reshape(m, K * n)
    missing = (videos < 0) | np.isnan(spans).any(axis=-1)
    return videos, spans, np.where(missing, -np.inf, scores)


def _finished(
    videos: NDArray,
    spans: NDArray,
    scores: NDArray,
    order: NDArray[np.int64],
    moments_per_video: int | None,
    before: int | None,
    nms_iou: float | None,
) -> NDArray[np.float64]:
    """(m, L) scores in ``order``, -inf where a pair did not make it into the list."""
    videos, scores = (np.take_along_axis(x, order, 1) for x in (videos, scores))
    alive = scores > -np.inf
    if moments_per_video is not None:
        alive &= _position_in_video(videos) < moments_per_video
    if before is not None:
        alive &= np.cumsum(alive, axis=1) <= before
    if nms_iou is not None:
        spans = np.take_along_axis(spans, order[..., None], 1)
        alive = _suppress_in_videos(videos, spans, alive, nms_iou)
    return np.where(alive, scores, -np.inf)


def _overlap_with_truth(
    truth: Truth,
    rows: slice,
    videos: NDArray,
    spans: NDArray,
    target: NDArray[np.int64],
    annotators: int,
) -> NDArray[np.float64]:
    """(m, L) overlap with the truth, or with the annotator who agrees least among the needed; -1 in
    other videos."""
    right = videos == target[:, None]
    row, column = right.nonzero()
    overlaps = np.full(videos.shape, -1.0)
    if truth.annotations is None:
        overlaps[row, column] = overlap(spans[row, column], truth.fractions[rows][row])
        return overlaps
    times = truth.annotations[rows] / truth.durations[target, None, None]
    each = overlap(spans[row, column, None], times[row])  # (hits, A); 0 where no annotator
    count = (~np.isnan(times[row]).any(axis=-1)).sum(axis=-1)
    needed = np.minimum(annotators, np.maximum(count, 1)) - 1
    ranked = -np.sort(-each, axis=-1)
    overlaps[row, column] = np.take_along_axis(ranked, needed[:, None], 1)[:, 0]
    return overlaps


def _order(scores: NDArray, overlaps: NDArray, ties: str) -> NDArray[np.int64]:
    """(m, L) best first."""
    if ties in ("expected", "file"):
        return np.argsort(-scores, axis=1, kind="stable")
    second = -overlaps if ties == "optimistic" else overlaps
    return np.lexsort((second, -scores), axis=1)


def _position_in_video(videos: NDArray) -> NDArray[np.int64]:
    """(m, L) how many entries of the same video stand before this one."""
    order = np.argsort(videos, axis=1, kind="stable")
    grouped = np.take_along_axis(videos, order, 1)
    column = np.broadcast_to(np.arange(videos.shape[1]), videos.shape)
    starts = np.ones(videos.shape, np.bool_)
    starts[:, 1:] = grouped[:, 1:] != grouped[:, :-1]
    first = np.maximum.accumulate(np.where(starts, column, 0), axis=1)
    position = np.empty(videos.shape, np.int64)
    np.put_along_axis(position, order, column - first, 1)
    return position


def _suppress_in_videos(
    videos: NDArray, spans: NDArray, alive: NDArray[np.bool_], max_iou: float
) -> NDArray[np.bool_]:
    """Greedy suppression among the entries (m, L), best first, of one sentence and video."""
    m, L = videos.shape
    group = (videos.astype(np.int64) + 1) + np.arange(m)[:, None] * (int(videos.max(initial=0)) + 2)
    flat = np.flatnonzero(alive)  # row by row, best first: a stable sort keeps that inside a group
    order = flat[np.argsort(group.ravel()[flat], kind="stable")]
    label = group.ravel()[order]
    first = np.flatnonzero(np.r_[True, label[1:] != label[:-1]]) if len(label) else label
    sizes = np.diff(np.r_[first, len(label)])
    keep = alive.ravel().copy()
    width = 2
    while (sizes >= width).any():  # groups of like size together, so that little is padding
        chosen = (sizes >= width) & (sizes < 2 * width)
        slots = first[chosen, None] + np.arange(2 * width - 1)
        real = np.arange(2 * width - 1) < sizes[chosen, None]
        where = order[np.where(real, slots, 0)]
        stays = suppress(spans.reshape(-1, 2)[where], real, max_iou=max_iou)
        keep[where[real]] = stays[real]
        width *= 2
    return keep.reshape(m, L)


def _hit_within(hits: NDArray[np.bool_], scores: NDArray, k: int, ties: str) -> NDArray[np.float64]:
    """(m,) probability that one of the first k existing entries hits. Dead entries score -inf."""
    k = min(k, scores.shape[1])
    if k == 0:
        return np.zeros(len(hits))
    if ties != "expected":
        position = np.cumsum(scores > -np.inf, axis=1)
        return np.asarray((hits & (position <= k)).any(axis=1), np.float64)
    kth = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above = scores > kth
    level = (scores == kth) & (kth > -np.inf)
    sure = (hits & above).any(axis=1)
    draws = np.where(kth[:, 0] > -np.inf, k - above.sum(axis=1), 0)  # 0: the list ends before k
    missed = miss_probability(level.sum(axis=1), (hits & level).sum(axis=1), draws)
    return np.where(sure, 1.0, 1.0 - missed)
