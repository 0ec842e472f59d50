"""Sentences in a video much longer than those a model was trained on.

A model resamples whatever it is given to a fixed number of clips; of hours in one piece a clip
would be minutes long. Here it reads overlapping windows of several lengths (``windows``), and what
it says of all of them becomes moments in seconds of the whole video (``ground_windows``).

Nothing is normalised within a window: one without the moment has a best span too.

**Evidence over clips.** The windows of a scale become one track for each sentence, on clips counted
from the start of the video. A span is scored by a likelihood ratio: z, the contrast of its mean
with that of its surroundings in standard errors, is worth z²/2 less the logarithm of the number of
places that a span of its length could have. So a long moment wins as a whole, a short peak of noise
does not, and lengths and scales compare. Tried on three simulated hours (noise of four kinds,
autocorrelated; 36 moments of 5 to 200 seconds and 12 of 20 to 60 minutes in each of three videos),
this finds 0.80 of the moments at an overlap of 1/2, and 0.94 among ten spans. The contrast alone
finds 0.26; surroundings of half a span on each side instead of one and a half 0.70, of the whole
video 0.70 (0.44 where the topic drifts); an error that takes clips as independent 0.74. Moving ends
to the finer scales' change raises the mean overlap from 0.71 to 0.76.

**Scores of spans alone** are as they are within a scale, and between scales count in robust
deviations from the median over all windows and sentences of the scale: scores as they are favour
the shortest windows, and of such long moments 0.12 were found instead of all.

Priors of where in a video a moment lies and how much of it it fills are for videos like those of
the corpus, not for hours: see ``ground_windows``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Layout
from ..base.moments import greedy_suppression
from . import posterior
from .decode import combine, normalized, reads
from .options import Decoding
from .records import Evidence

TOLERANCE = 0.05  # how much longer than a window a video may be and still be read in one piece
CANDIDATES = 32  # of each sentence, over which the path goes
IN_WINDOW = 8  # of each sentence in a window, where spans have scores
MAXIMA = 512  # of each sentence and scale, from which the candidates are taken
CONTEXT = 1.5  # on each side of a span, in spans
REACH = 2.0  # clips of the next longer windows by which an end moves
LENGTH_STEP = 1.12  # ratio of neighbouring lengths of spans, where it is more than a clip
REPEATS = 16  # lengths of a span in the video from which its noise is measured and not extrapolated
BACKWARD = 0.05  # probability that a sentence's moment starts before its predecessor's
LEAST_TRUST = 1e-3  # the order alone would not say which of the spans it allows
CHUNK = 1_000_000  # spans that are scored at once
NORMAL = 1.4826  # deviation of a normal distribution, in median absolute deviations


@dataclass(frozen=True)
class Window:
    """A part [start, end) of a video, in seconds. Windows of one ``scale`` are equally long."""

    start: float
    end: float
    scale: int


@dataclass(frozen=True)
class Grounded:
    """The best spans of each of S sentences, best first.

    Attributes:
        spans: in seconds of the video, float64. The first ones are the best joint assignment.
        scores: of the first span, what the evidence says of it (log-odds, from clips); of another
            one, that minus what the whole paragraph loses if the sentence takes this one instead.
            -inf where a sentence has no further span; there the span repeats the first.
    """

    spans: Float[Tensor, "S K 2"]
    scores: Float[Tensor, "S K"]


@dataclass(frozen=True)
class _Track:
    """Evidence of S sentences on the clips of a scale, from the start of the video."""

    values: Float[Tensor, "S n"]
    clip: float  # seconds


def windows(
    duration: float, length: float, *, num_clips: int, growth: int = 4, overlap: float = 0.5
) -> tuple[Window, ...]:
    """The windows in which a video is read, scale after scale, the whole video last.

    Windows start at multiples of a whole number of clips, so that a clip of one is a clip of the
    next; the last one of a scale is moved back to end with the video, never shortened, since it
    would be read at another speed. A video that is no more than 5 % (``TOLERANCE``) longer than a
    window is one window.

    Args:
        duration: of the video, in seconds.
        length: of the shortest windows, in seconds: as long as the videos of training.
        num_clips: N, of a window.
        growth: ratio of the lengths of neighbouring scales.
        overlap: share of a window that the next one reads again, rounded to whole clips.

    Raises:
        ValueError: there are no such windows.
    """
    if not (0 < duration < math.inf and 0 < length < math.inf):
        raise ValueError(f"a video of {duration} seconds has no windows of {length} seconds")
    if growth < 2 or not 0 <= overlap < 1:
        raise ValueError(f"growth must be 2 or more and overlap in [0, 1): {growth}, {overlap}")
    hop = max(1, round(num_clips * (1 - overlap))) / num_clips
    found: list[Window] = []
    scale = 0
    while duration > length * (1 + TOLERANCE):
        last = duration - length
        count = math.ceil(last / (hop * length) - 1e-9)
        starts = [*(i * hop * length for i in range(count)), last]
        found += [Window(start, start + length, scale) for start in starts]
        length, scale = length * growth, scale + 1
    return (*found, Window(0.0, duration, scale))


def ground_windows(
    evidence: Evidence,
    parts: Sequence[Window],
    duration: float,
    decoding: Decoding,
    calibration: Mapping[str, Any] | None = None,
    *,
    top: int,
    nms_iou: float,
    fit: Float[Tensor, " W"] | None = None,
) -> Grounded:
    """The best spans of each sentence of one paragraph, from what a model knows of every window.

    Candidates of all scales are joined, their ends moved to where the finer scales see the change,
    and one path goes over the candidates of all sentences. ``source``, ``evidence``,
    ``normalization``, ``raw_weight`` and ``alike`` are read as by ``decode``, clip by clip over the
    whole video; where clips are read, span scores are not. Where the decoding has an order
    (``ordered``, or an ``order_penalty``), starting before its predecessor costs a sentence the
    log-odds of ``BACKWARD``, or of the ``backward`` of the calibration, and less while it begins
    within the predecessor: hours have no scale for a penalty per length of the video. The
    calibration's ``trust`` weighs evidence against order. Not read: the priors of places and
    widths with their ``starts``, and ``independent_clips`` and ``length_exponent``, for which the
    noise is measured.

    Args:
        evidence: of W paragraphs that are the same S sentences, one for each window.
        parts: the windows, of ``windows``.
        duration: of the video, in seconds.
        top: K, spans of each sentence.
        nms_iou: overlap above which two spans of a sentence are one.
        fit: log-odds, up to a constant, that the paragraph is about what each window shows; those
            of the shortest windows are a prior of where its sentences are. None: anywhere.

    Raises:
        ValueError: the evidence is not that of the same sentences in these windows.
    """
    W = len(parts)
    if len(evidence.layout.sentence_mask) != W or not evidence.layout.sentence_mask.all():
        raise ValueError(
            f"evidence of {len(evidence.layout.sentence_mask)} paragraphs, expected the same"
            f" sentences in each of {W} windows"
        )
    has_scores, has_clips = evidence.scores is not None, bool(evidence.clips)
    if "clips" in reads(decoding, has_scores=has_scores, has_clips=has_clips):
        spans, scores = _from_clips(evidence, parts, duration, decoding, nms_iou, fit)
    else:
        spans, scores = _from_scores(evidence, parts, duration, nms_iou, fit)
    spans, scores = _suppressed(spans, scores, max(top, CANDIDATES), nms_iou)
    calibration = calibration or {}
    backward = 0.5
    if decoding.ordered or decoding.order_penalty:
        backward = min(max(calibration.get("backward", BACKWARD), 1e-6), 0.5)
    trust = max(calibration.get("trust", 1.0), LEAST_TRUST)
    return _path(spans, trust * scores, math.log((1 - backward) / backward), top)


# Evidence over clips.


def track(
    values: Float[Tensor, "W S N"], parts: Sequence[Window], duration: float
) -> Float[Tensor, "S n"]:
    """The evidence of the windows of one scale on the clips of the whole video, from its start.

    Where windows overlap, clips count by their distance from their window's nearest edge, since
    a model knows less of what surrounds a clip at an edge. A clip of a window that is off the grid
    (the last one) is shared out to the two clips that it covers.
    """
    N = values.shape[2]
    clip = (parts[0].end - parts[0].start) / N
    n = max(1, math.ceil(duration / clip - 1e-6))
    position = torch.arange(N, dtype=values.dtype, device=values.device)
    weight = torch.minimum(position, N - 1 - position) + 0.5
    at = values.new_tensor([part.start / clip for part in parts])[:, None] + position
    cell = (at + 1e-6).floor()
    late = (at - cell).clamp(min=0)
    shares = torch.cat([(weight * (1 - late)).flatten(), (weight * late).flatten()])
    cells = torch.cat([cell.flatten(), cell.flatten() + 1]).long()
    cells = torch.where(shares > 1e-6, cells.clamp(max=n - 1), 0)
    shares = torch.where(shares > 1e-6, shares, 0.0)
    rows = values.transpose(0, 1).flatten(1).repeat(1, 2)
    total = values.new_zeros(len(rows), n).index_add(1, cells, rows * shares)
    return total / values.new_zeros(n).index_add(0, cells, shares)


def _from_clips(
    evidence: Evidence,
    parts: Sequence[Window],
    duration: float,
    decoding: Decoding,
    nms_iou: float,
    fit: Float[Tensor, " W"] | None,
) -> tuple[Float[Tensor, "S J 2"], Float[Tensor, "S J"]]:
    values = combine(evidence, decoding).detach().to("cpu", torch.float64)
    N = values.shape[1]
    by_window = values.unflatten(0, (len(parts), -1))
    tracks = []
    for rows, members in _scales(parts):
        whole = _read(track(by_window[rows], members, duration), evidence, decoding)
        tracks.append(_Track(whole, (members[0].end - members[0].start) / N))
    unit = _deviation(tracks[0].values)  # of each sentence, so that their noises are comparable
    tracks = [_Track(each.values / unit, each.clip) for each in tracks]
    places = _Places.of(parts, duration, fit)
    found = []
    for scale, each in enumerate(tracks):
        # A scale has the spans that are too long for the one below: each length is found once.
        ratio = each.clip / tracks[scale - 1].clip if scale else N
        shortest = max(1, math.floor(N / 2 / ratio))
        longest = N if scale == len(tracks) - 1 else N // 2
        spans, scores = _candidates(each, shortest, longest, nms_iou, places)
        for finer in range(scale, -1, -1):
            coarser = tracks[min(finer + 1, scale)]
            spans = _to_edges(spans, tracks[finer], reach=REACH * coarser.clip)
        found.append((spans.clamp(max=duration), scores))
    return torch.cat([x for x, _ in found], dim=1), torch.cat([x for _, x in found], dim=1)


def _scales(parts: Sequence[Window]) -> Iterable[tuple[slice, list[Window]]]:
    """The windows of each scale, and where they stand."""
    first = 0
    for _, members in groupby(parts, lambda part: part.scale):
        listed = list(members)
        yield slice(first, first + len(listed)), listed
        first += len(listed)


def _read(
    values: Float[Tensor, "S n"], evidence: Evidence, decoding: Decoding
) -> Float[Tensor, "S n"]:
    """The track as the decoding reads evidence: against the paragraph, shared among the alike."""
    S = len(values)
    paragraph = Layout.of(torch.ones(1, S, dtype=torch.bool))
    rows = normalized(values, paragraph, decoding).to(values.dtype)
    if decoding.method == "posterior":
        if evidence.text is not None and decoding.alike < 1:
            text = evidence.text[:S].detach().to("cpu", torch.float64)
            cosines = posterior.paragraph_cosines(text, paragraph)
            rows = posterior.share_evidence(rows, cosines, paragraph, alike=decoding.alike)
    elif decoding.raw_weight:
        rows = rows / _deviation(rows) + decoding.raw_weight * values / _deviation(values)
    return rows


def _deviation(values: Float[Tensor, "*S n"]) -> Float[Tensor, "*S 1"]:
    """Of the noise: from the median absolute deviation, which a moment hardly moves, but no less
    than a tenth of the deviation of all, for evidence that is nearly always the same."""
    away = (values - values.median(dim=-1, keepdim=True).values).abs()
    robust = NORMAL * away.median(dim=-1, keepdim=True).values
    plain = values.std(dim=-1, unbiased=False, keepdim=True)
    return torch.maximum(robust, 0.1 * plain).clamp(min=1e-9)


def _candidates(
    each: _Track, shortest: int, longest: int, nms_iou: float, places: _Places
) -> tuple[Float[Tensor, "S K 2"], Float[Tensor, "S K"]]:
    """The best spans of a scale, of lengths in clips from ``shortest`` to ``longest``."""
    n = each.values.shape[1]
    lengths = _lengths(min(shortest, n), min(longest, n))
    size = max(1, CHUNK // (len(lengths) * n))
    noise = _noise(each.values, lengths, size)
    start = torch.arange(n) * each.clip
    prior = places.mean(start, start + lengths[:, None] * each.clip)
    prior = prior - (n / lengths[:, None]).log()
    found = [
        _maxima(_contrasts(rows, lengths) / noise[:, None], lengths, prior)
        for rows in each.values.split(size)
    ]
    spans = torch.cat([x for x, _ in found]).to(torch.float64) * each.clip
    return _suppressed(spans, torch.cat([x for _, x in found]), CANDIDATES, nms_iou)


def _lengths(shortest: int, longest: int) -> Int[Tensor, " R"]:
    lengths = [shortest]
    while (step := max(lengths[-1] + 1, round(lengths[-1] * LENGTH_STEP))) <= longest:
        lengths.append(step)
    return torch.tensor(lengths)


def _contrasts(values: Float[Tensor, "S n"], lengths: Int[Tensor, " R"]) -> Float[Tensor, "S R n"]:
    """Of the span of each length from each clip on: mean inside minus mean of the context, over the
    standard error that it would have if clips were independent and their noise 1; NaN where the
    span, or all of its context, would lie outside the video."""
    n = values.shape[1]
    sums = nn.functional.pad(values.cumsum(dim=1), (1, 0))
    start, length = torch.arange(n)[None], lengths[:, None]
    around = (length * CONTEXT).ceil().long()
    end = (start + length).clamp(max=n)
    low, high = (start - around).clamp(min=0), (end + around).clamp(max=n)
    outside = high - low - (end - start)
    inside_sum = sums[:, end] - sums[:, start]
    outside_sum = sums[:, high] - sums[:, low] - inside_sum
    contrast = inside_sum / length - outside_sum / outside.clamp(min=1)
    contrast = contrast / (1 / length + 1 / outside.clamp(min=1)).sqrt()
    return contrast.masked_fill((start + length > n) | (outside < 1), torch.nan)


def _noise(
    values: Float[Tensor, "S n"], lengths: Int[Tensor, " R"], size: int
) -> Float[Tensor, " R"]:
    """The deviation of the contrasts of each length where there is no moment.

    That of single clips, or what the contrasts of this length over the whole video show, which
    knows how clips depend on their neighbours, if it is more; of the median sentence, since a
    sentence's own moment adds to its own. A length that the video has not ``REPEATS`` times shows
    too little; it has the deviation of the longest that the video has.
    """
    measured = lengths[: max(1, int((lengths * REPEATS <= values.shape[1]).sum()))]
    shown = []
    for rows in values.split(size):
        contrast = _contrasts(rows, measured)
        away = (contrast - contrast.nanmedian(dim=2, keepdim=True).values).abs()
        shown.append(NORMAL * away.nanmedian(dim=2).values)
    noise = torch.maximum(torch.cat(shown).nan_to_num(0.0), _deviation(values))
    return noise.median(dim=0).values[torch.arange(len(lengths)).clamp(max=len(measured) - 1)]


def _maxima(
    z: Float[Tensor, "S R n"], lengths: Int[Tensor, " R"], prior: Float[Tensor, "R n"]
) -> tuple[Int[Tensor, "S K 2"], Float[Tensor, "S K"]]:
    """Spans, in clips, that no span beside them and hardly longer or shorter beats, with their
    log-odds."""
    n = z.shape[2]
    odds = torch.where(z > 0, z.square() / 2, z) + prior
    odds = odds.nan_to_num(-torch.inf, neginf=-torch.inf)
    beside = nn.functional.max_pool2d(odds[:, None], (3, 5), stride=1, padding=(1, 2))[:, 0]
    odds = odds.masked_fill(odds < beside, -torch.inf).flatten(1)
    best, index = odds.topk(min(MAXIMA, odds.shape[1]), dim=1)
    start = index % n
    return torch.stack([start, start + lengths[index // n]], dim=-1), best


def _to_edges(
    spans: Float[Tensor, "S K 2"], finer: _Track, *, reach: float
) -> Float[Tensor, "S K 2"]:
    """Each end where, within ``reach`` seconds, the evidence changes from its mean inside the span
    to its mean beside it: the likeliest point of change for two known means."""
    values, clip = finer.values, finer.clip
    n = values.shape[1]
    sums = nn.functional.pad(values.cumsum(dim=1), (1, 0))
    start = (spans[..., 0] / clip).round().long().clamp(0, n - 1)
    end = torch.maximum((spans[..., 1] / clip).round().long().clamp(max=n), start + 1)
    length = end - start
    half = (length + 1) // 2
    before, after = (start - half).clamp(min=0), (end + half).clamp(max=n)

    def mean(low: Int[Tensor, "S K"], high: Int[Tensor, "S K"]) -> Float[Tensor, "S K"]:
        return (sums.gather(1, high) - sums.gather(1, low)) / (high - low).clamp(min=1)

    inside = mean(start, end)
    farthest = math.ceil(reach / clip - 1e-6)
    offsets = torch.arange(-farthest, farthest + 1)
    allowed = offsets.abs() <= (length // 2)[..., None]

    def moved(
        edge: Int[Tensor, "S K"], beside: Float[Tensor, "S K"], sign: int
    ) -> Int[Tensor, "S K"]:
        at = edge[..., None] + offsets
        possible = allowed & (at >= 0) & (at <= n)
        at = at.clamp(0, n)
        above = sums.gather(1, at.flatten(1)).view(at.shape) - (inside + beside)[..., None] / 2 * at
        best = (sign * above).masked_fill(~possible, -torch.inf).argmax(dim=-1, keepdim=True)
        return at.gather(2, best)[..., 0]

    new_start = moved(start, mean(before, start), -1)
    new_end = torch.maximum(moved(end, mean(end, after), 1), new_start + 1)
    return torch.stack([new_start, new_end], dim=-1).to(torch.float64) * clip


# Where in the video the paragraph is.


@dataclass(frozen=True)
class _Places:
    """The logarithm of a prior density over the video, relative to an even one, summed up."""

    sums: Float[Tensor, " n1"]  # over the clips before each
    clip: float

    @staticmethod
    def of(parts: Sequence[Window], duration: float, fit: Float[Tensor, " W"] | None) -> _Places:
        """By the best of the shortest windows that show each second."""
        rows, shortest = next(iter(_scales(parts)))
        if fit is None or len(shortest) == 1:
            return _Places(torch.zeros(2, dtype=torch.float64), duration)
        weights = fit[rows].detach().to("cpu", torch.float64)
        ends = torch.tensor([[part.start, part.end] for part in shortest], dtype=torch.float64)
        clip = float(ends[1, 0] - ends[0, 0]) / 8
        count = math.ceil(duration / clip - 1e-6)
        middle = ((torch.arange(count) + 0.5) * clip).clamp(max=duration - 1e-6)
        shown = (ends[:, :1] <= middle) & (middle < ends[:, 1:])
        density = torch.where(shown, weights[:, None], -torch.inf).amax(dim=0)
        density = density - density.logsumexp(dim=0) + math.log(len(density))
        return _Places(nn.functional.pad(density.cumsum(dim=0), (1, 0)), clip)

    def mean(self, start: Float[Tensor, "*a"], end: Float[Tensor, "*b"]) -> Float[Tensor, ...]:
        """Over the seconds from ``start`` to ``end``."""

        def at(seconds: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
            place = (seconds / self.clip).clamp(0, len(self.sums) - 1)
            low = place.floor().long().clamp(max=len(self.sums) - 2)
            return self.sums[low] + (place - low) * (self.sums[low + 1] - self.sums[low])

        start, end = torch.broadcast_tensors(start, end)
        return (at(end) - at(start)) / ((end - start) / self.clip).clamp(min=1e-9)


# Scores of spans.


def _from_scores(
    evidence: Evidence,
    parts: Sequence[Window],
    duration: float,
    nms_iou: float,
    fit: Float[Tensor, " W"] | None,
) -> tuple[Float[Tensor, "S J 2"], Float[Tensor, "S J"]]:
    """A span that touches an edge of its window within the video is left out: what it is a part of
    lies whole in another window, or in one of the next scale."""
    assert evidence.scores is not None
    S = len(evidence.scores) // len(parts)
    scores = evidence.scores.detach().to("cpu", torch.float64)
    fractions = evidence.spans.detach().to("cpu", torch.float64)
    begin, finish = (
        torch.tensor([(part.start, part.end) for part in parts], dtype=torch.float64)
        .repeat_interleave(S, dim=0)
        .T[..., None]
    )
    touches = 0.5 / evidence.resolution
    cut = (fractions[..., 0] < touches) & (begin > 1e-6)
    cut = cut | ((fractions[..., 1] > 1 - touches) & (finish < duration - 1e-6))
    scores = scores.masked_fill(cut, -torch.inf)
    kept, exists = greedy_suppression(fractions, scores, keep=IN_WINDOW, max_iou=nms_iou)
    if fractions.dim() == 2:
        best = fractions[kept]
    else:
        best = fractions.gather(1, kept[..., None].expand(-1, -1, 2))
    spans = begin[..., None] + best * (finish - begin)[..., None]
    comparable = torch.cat(
        [
            _comparable(scores[rows.start * S : rows.stop * S]) - math.log(len(members))
            for rows, members in _scales(parts)
        ]
    )
    prior = _Places.of(parts, duration, fit).mean(begin[:, 0], finish[:, 0])
    values = (comparable + prior[:, None]).gather(1, kept).masked_fill(~exists, -torch.inf)

    def of_sentences(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, S)).transpose(0, 1).flatten(1, 2)

    return of_sentences(spans), of_sentences(values)


def _comparable(scores: Float[Tensor, "V P"]) -> Float[Tensor, "V P"]:
    """The scores of a scale's windows, -inf where a span is left out, as log-odds like those of
    ``_maxima``, with as many places as windows of a sentence."""
    known = scores[scores.isfinite()]
    middle = known.median()
    away = (known - middle).abs()
    z = (scores - middle) / torch.maximum(NORMAL * away.median(), 0.1 * away.mean()).clamp(min=1e-9)
    return torch.where(z > 0, z.square() / 2, z)


# Candidates of all scales.


def _suppressed(
    spans: Float[Tensor, "S J 2"], scores: Float[Tensor, "S J"], keep: int, nms_iou: float
) -> tuple[Float[Tensor, "S K 2"], Float[Tensor, "S K"]]:
    """The best ``keep``; of equal scores the earlier and then the shorter span is the better."""
    order = spans[..., 1].argsort(dim=1, stable=True)
    for key in (spans[..., 0], -scores):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    spans = spans.gather(1, order[..., None].expand(-1, -1, 2))
    scores = scores.gather(1, order)
    kept, exists = greedy_suppression(spans, scores, keep=keep, max_iou=nms_iou)
    spans = spans.gather(1, kept[..., None].expand(-1, -1, 2))
    return spans, scores.gather(1, kept).masked_fill(~exists, -torch.inf)


def _path(
    spans: Float[Tensor, "S K 2"], scores: Float[Tensor, "S K"], penalty: float, top: int
) -> Grounded:
    """The best joint assignment of the sentences, and what each other span would cost it.

    A sentence that starts before its predecessor costs the penalty, in proportion where it begins
    less than its own or the predecessor's length before it.
    """
    start, length = spans[..., 0], spans[..., 1] - spans[..., 0]
    back = (start[:-1, :, None] - start[1:, None, :]).clamp(min=0)
    most = torch.maximum(length[:-1, :, None], length[1:, None, :])
    costs = penalty * (back / most.clamp(min=1e-9)).clamp(max=1)  # (S-1, K, K)
    joint = _reach(scores, costs) + scores + _reach(scores.flip(0), costs.mT.flip(0)).flip(0)
    value, order = joint.sort(dim=1, descending=True, stable=True)  # of equals the first
    value, order = value[:, :top], order[:, :top]
    lost = torch.where(value.isfinite(), value[:, :1] - value, torch.inf)
    exists = lost.isfinite()
    order = torch.where(exists, order, order[:, :1])
    chosen = spans.gather(1, order[..., None].expand(-1, -1, 2))
    return Grounded(chosen, scores.gather(1, order[:, :1]) - lost)


def _reach(scores: Float[Tensor, "S K"], costs: Float[Tensor, "R K K"]) -> Float[Tensor, "S K"]:
    """The best value of the sentences before each one, given its span; without its own score."""
    reached = [torch.zeros_like(scores[0])]
    for own, cost in zip(scores, costs, strict=False):  # order is the point
        reached.append(((reached[-1] + own)[:, None] - cost).amax(dim=0))
    return torch.stack(reached)
