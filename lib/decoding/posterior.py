"""Moments as posteriors: how likely evidence over clips makes a span, times a prior of spans.

Evidence is read as one mean inside a span and a lower one outside it, with the same Gaussian noise.
Against a single mean for the whole video, the likelihood ratio of such a span is a function of its
correlation ρ with the evidence, -n/2 · log(1 - ρ²), where n is the number of clips that are
independent of each other. Sentences that are alike describe one event: they share their evidence
and its place in the order. Decided is for the span that most probably overlaps the moment enough.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Layout
from ..base.moments import iou
from .separation import separation

MAX_CORRELATION = 0.98  # a correlation of 1 would be worth infinitely much
HIT = 0.5  # overlap from which a span is right


def log_likelihood(
    evidence: Float[Tensor, "M N"], spans: Float[Tensor, "*M P 2"], *, independent: float
) -> Float[Tensor, "M P"]:
    """Of each span against no span at all, in nats; 0 where the inside is not the higher one.

    Args:
        independent: n, stretches of a video whose noise is independent; smoothing makes them fewer
            than its clips. A factor below 1 on it trusts the evidence less.
    """
    correlation = separation(evidence, spans).clamp(0, MAX_CORRELATION)
    return -independent / 2 * torch.log1p(-correlation.square())


def width_prior(
    spans: Float[Tensor, "*M P 2"], median: Tensor | float, spread: float
) -> Float[Tensor, "*M P"]:
    """Log-normal, in logarithms and not normalised: by median and deviation of the logarithm."""
    width = (spans[..., 1] - spans[..., 0]).clamp(min=1e-6)
    return -0.5 * ((width / median).log() / spread).square()


def starts(spans: Float[Tensor, "*M P 2"], resolution: int) -> Int[Tensor, "*M P"]:
    """The clip in which each span starts."""
    return (spans[..., 0] * resolution).round().long().clamp(0, resolution - 1)


def by_start(
    scores: Float[Tensor, "M P"], start: Int[Tensor, "M P"], resolution: int
) -> Float[Tensor, "M N"]:
    """The log of the sum of exponentials over the spans of each start; -inf where none starts."""
    lowest = scores.new_full((len(scores), resolution), -torch.inf)
    top = lowest.scatter_reduce(1, start, scores, "amax")
    finite = torch.where(top.isfinite(), top, 0.0)
    sums = torch.zeros_like(top).scatter_add(1, start, (scores - finite.gather(1, start)).exp())
    return sums.log() + finite


def start_prior(
    spans: Float[Tensor, "P 2"],
    histogram: Float[Tensor, " N"],
    *,
    median: float,
    spread: float,
) -> Float[Tensor, " P"]:
    """Log prior p(start) · p(width | it fits behind the start)."""
    widths = width_prior(spans, median, spread)
    start = starts(spans, len(histogram))
    fitting = by_start(widths[None], start[None], len(histogram))[0]
    return widths - fitting[start] + (histogram + 1e-9).log()[start]


def default_starts(
    spans: Float[Tensor, "P 2"], resolution: int, *, median: float, spread: float, at_start: float
) -> Float[Tensor, " N"]:
    """Before anything is known: a share of the moments start with the video, the others wherever
    their width fits."""
    widths = width_prior(spans, median, spread)
    share = by_start(widths[None], starts(spans, resolution)[None], resolution)[0].softmax(dim=0)
    share = share * (1 - at_start)
    share[0] += at_start
    return share


def estimate_starts(
    likelihood: Float[Tensor, "M P"],
    spans: Float[Tensor, "P 2"],
    histogram: Float[Tensor, " N"],
    *,
    median: float,
    spread: float,
    rounds: int = 5,
) -> Float[Tensor, " N"]:
    """The histogram of starts under which unlabelled evidence is likelier: rounds of EM."""
    start = starts(spans, len(histogram)).expand(len(likelihood), -1)
    for _ in range(rounds):
        prior = start_prior(spans, histogram, median=median, spread=spread)
        histogram = by_start(likelihood + prior, start, len(histogram)).softmax(dim=1).mean(dim=0)
    return histogram


def parts_prior(
    spans: Float[Tensor, "*M P 2"], layout: Layout, *, width: float, spread: float, offset: float
) -> Float[Tensor, "M P"]:
    """Log prior of a paragraph whose sentences cut the video into equal parts, in order.

    Args:
        width: median width, in equal parts.
        spread: deviation of its logarithm.
        offset: deviation of a centre from the middle of its part, in parts.
    """
    count = layout.sentence_counts[layout.owner, None].to(spans.dtype)
    middle = layout.sentence_position[:, None] + 0.5
    off = (spans.mean(dim=-1) * count - middle) / offset
    return -0.5 * off.square() + width_prior(spans, width / count[..., None].squeeze(-1), spread)


def paragraph_cosines(text: Float[Tensor, "M F"], layout: Layout) -> Float[Tensor, "B S S"]:
    """Between the text features of a paragraph's sentences."""
    unit = layout.padded(nn.functional.normalize(text.float(), dim=-1))
    return unit @ unit.mT


def share_evidence(
    evidence: Float[Tensor, "M N"], cosines: Float[Tensor, "B S S"], layout: Layout, *, alike: float
) -> Float[Tensor, "M N"]:
    """Each sentence's evidence, standardised, averaged with that of the sentences of its paragraph
    that are alike (a cosine above ``alike``), weighted by the cosine."""
    spread = evidence.std(dim=1, unbiased=False, keepdim=True) + 1e-6
    rows = layout.padded((evidence - evidence.mean(dim=1, keepdim=True)) / spread)
    itself = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    weights = torch.where(cosines > alike, cosines, 0.0).masked_fill(itself, 1.0)
    weights = (weights / weights.sum(dim=2, keepdim=True)).to(rows.dtype)
    return layout.flat(weights @ rows)


def events(cosines: Float[Tensor, "B S S"], *, alike: float) -> Int[Tensor, "B S"]:
    """The number of the event that each sentence describes: neighbours that are alike are one."""
    new = cosines.diagonal(offset=-1, dim1=1, dim2=2) <= alike
    return nn.functional.pad(new.long().cumsum(dim=1), (1, 0))


def in_order(
    scores: Float[Tensor, "M P"],
    start: Int[Tensor, "M P"],
    event: Int[Tensor, "B S"],
    layout: Layout,
    resolution: int,
) -> Float[Tensor, "M P"]:
    """Log posteriors of spans given that the events of a paragraph do not start before each other.

    The sentences of an event count once, by their mean. Forwards and backwards over the events
    (sums, where ``ordered_scores`` has maxima), batched over paragraphs.
    """
    B, S = event.shape
    P = scores.shape[1]
    mask = layout.sentence_mask
    index = torch.where(mask, event, S)[..., None]  # padding goes to a row that is dropped
    sums = scores.new_zeros(B, S + 1, P).scatter_add(
        1, index.expand(-1, -1, P), layout.padded(scores)
    )
    counts = scores.new_zeros(B, S + 1, 1).scatter_add(1, index, mask[..., None].to(scores.dtype))
    u = (sums / counts.clamp(min=1))[:, :S]  # (B, E, P), E = S slots
    real = counts[:, :S, 0] > 0
    # The spans of an event are those of its sentences; where each has its own, any one's.
    first = (
        scores.new_zeros(B, S + 1, P)
        .long()
        .scatter_reduce(1, index.expand(-1, -1, P), layout.padded(start), "amax")[:, :S]
    )
    totals = by_start(u.flatten(0, 1), first.flatten(0, 1), resolution).unflatten(0, (B, S))
    ahead = _reach(totals, real)
    behind = _reach(totals.flip(2).flip(1), real.flip(1)).flip(1).flip(2)
    joint = u + ahead.gather(2, first) + behind.gather(2, first)
    return layout.flat(joint.gather(1, event[..., None].expand(-1, -1, P))).log_softmax(dim=1)


def _reach(totals: Float[Tensor, "B E N"], real: Tensor) -> Float[Tensor, "B E N"]:
    """The log mass of the events before each one that start no later than it."""
    arriving = torch.zeros_like(totals[:, 0])
    reached = []
    for e in range(totals.shape[1]):  # order is the point
        reached.append(arriving)
        leaving = (totals[:, e] + arriving).logcumsumexp(dim=1)
        arriving = torch.where(real[:, e, None], leaving, arriving)
    return torch.stack(reached, dim=1)


def hit_probability(
    log_posterior: Float[Tensor, "M P"], spans: Float[Tensor, "*M P 2"]
) -> Float[Tensor, "M P"]:
    """The probability that each span overlaps the moment by at least ``HIT``."""
    hits = (iou(spans[..., :, None, :], spans[..., None, :, :]) >= HIT - 1e-6).to(log_posterior)
    if hits.dim() == 2:
        return log_posterior.exp() @ hits
    return torch.einsum("mp,mpq->mq", log_posterior.exp(), hits)


def contiguity(
    own: Float[Tensor, "M N"], shuffled: Float[Tensor, "M N"], spans: Float[Tensor, "*M P 2"]
) -> float:
    """How much better the best span fits evidence in the video's own time than in shuffled time:
    the mean difference of correlations, less two standard errors, so that chance is not mistaken
    for it. Without a moment to find there is none."""
    gain = separation(own, spans).amax(dim=1) - separation(shuffled, spans).amax(dim=1)
    return (gain.mean() - 2 * gain.std() / len(gain) ** 0.5).item()
