"""Evidence to proposals, by the options of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.batch import Layout
from . import posterior
from .options import Decoding
from .ordering import decode_in_order
from .records import Evidence, Proposals
from .separation import paragraph_softmax, separation, subtract_paragraph_mean


def reads(decoding: Decoding, *, has_scores: bool, has_clips: bool) -> frozenset[str]:
    """Which of ``scores`` and ``clips`` a decoding reads of a model that has them.

    What is not read need not be computed. Where a model lacks what is asked for, the decoding reads
    what there is.
    """
    wanted = {
        "auto": {"scores"} if has_scores else {"clips"},
        "scores": {"scores"},
        "evidence": {"clips"},
        "both": {"scores", "clips"} if decoding.score_weight else {"clips"},
    }[decoding.source]
    available = {name for name, here in (("scores", has_scores), ("clips", has_clips)) if here}
    return frozenset(wanted & available or available)


def decode(
    evidence: Evidence, decoding: Decoding, calibration: Mapping[str, Any] | None = None
) -> Proposals:
    """Score every span of every sentence.

    Args:
        calibration: what was chosen on data without timestamps: ``trust``, what the evidence is
            scaled by before it meets the prior (default 1), and ``starts``, the share of the
            moments that start in each clip (default: as stated). They were estimated from evidence,
            and count as far as that is trusted: the prior that is left at trust 0 owes it nothing.
    """
    calibration = calibration or {}
    trust, starts = calibration.get("trust", 1.0), calibration.get("starts")
    if decoding.method == "posterior":
        return Proposals(evidence.spans, posterior_scores(evidence, decoding, trust, starts))
    scores = span_scores(evidence, decoding)
    if decoding.position_prior_weight or decoding.order_penalty:
        scores = decode_in_order(
            trust * scores,
            evidence.spans,
            evidence.layout,
            resolution=evidence.resolution,
            prior_weight=decoding.position_prior_weight,
            penalty=decoding.order_penalty,
        )
    return Proposals(evidence.spans, scores)


def decode_prior(
    evidence: Evidence, decoding: Decoding, calibration: Mapping[str, Any] | None = None
) -> Proposals | None:
    """What the posterior makes of no evidence: its stated prior and the order of the sentences
    alone; None for a decoding that is none."""
    if decoding.method != "posterior":
        return None
    return decode(evidence, decoding, {**(calibration or {}), "trust": 0.0})


def _read(evidence: Evidence, decoding: Decoding) -> frozenset[str]:
    return reads(decoding, has_scores=evidence.scores is not None, has_clips=bool(evidence.clips))


# The posterior.


def posterior_scores(
    evidence: Evidence,
    decoding: Decoding,
    trust: float = 1.0,
    starts: Sequence[float] | None = None,
) -> Float[Tensor, "M P"]:
    """The probability that each span is right, see ``posterior``."""
    spans, layout, N = evidence.spans, evidence.layout, evidence.resolution
    logits = likelihood(evidence, decoding, trust)
    logits = logits + log_prior(evidence, decoding, trust, starts)
    if decoding.ordered:
        event = torch.arange(layout.sentence_mask.shape[1], device=spans.device)
        event = event.expand(layout.sentence_mask.shape)
        if evidence.text is not None and decoding.alike < 1:
            cosines = posterior.paragraph_cosines(evidence.text, layout)
            event = posterior.events(cosines, alike=decoding.alike)
        start = posterior.starts(spans, N).expand(len(logits), -1)
        logits = posterior.in_order(logits, start, event, layout, N)
    return posterior.hit_probability(logits.log_softmax(dim=1), spans)


def likelihood(evidence: Evidence, decoding: Decoding, trust: float = 1.0) -> Float[Tensor, "M P"]:
    """Log-likelihood of each span: of the evidence over clips, of the span scores (their logarithm,
    for a model whose scores are probabilities), or the sum."""
    wanted, total = _read(evidence, decoding), 0.0 * evidence.spans[..., 0]
    if "clips" in wanted:
        independent = trust * decoding.independent_clips
        total = total + posterior.log_likelihood(
            clip_evidence(evidence, decoding), evidence.spans, independent=independent
        )
    if "scores" in wanted:
        assert evidence.scores is not None
        weight = trust * decoding.score_weight
        total = total + weight * evidence.scores.float().clamp(min=1e-6).log()
    return total


def log_prior(
    evidence: Evidence,
    decoding: Decoding,
    trust: float = 1.0,
    starts: Sequence[float] | None = None,
) -> Float[Tensor, "*M P"]:
    """Of each span, before its own sentence's evidence."""
    spans, N = evidence.spans, evidence.resolution
    width, spread = decoding.prior_width, decoding.prior_spread
    if decoding.prior == "parts":
        return posterior.parts_prior(
            spans, evidence.layout, width=width, spread=spread, offset=decoding.prior_offset
        )
    if spans.dim() == 3:  # every sentence has a few spans of its own: no histogram over a grid
        return posterior.width_prior(spans, width, spread)
    histogram = prior_starts(evidence, decoding)
    if starts is not None and len(starts) == N:
        estimated = torch.tensor(starts, dtype=spans.dtype, device=spans.device)
        histogram = histogram.lerp(estimated, trust)
    return posterior.start_prior(spans, histogram, median=width, spread=spread)


def prior_starts(evidence: Evidence, decoding: Decoding) -> Float[Tensor, " N"]:
    """The histogram of starts before any is estimated."""
    return posterior.default_starts(
        evidence.spans,
        evidence.resolution,
        median=decoding.prior_width,
        spread=decoding.prior_spread,
        at_start=decoding.start_share,
    )


def clip_evidence(evidence: Evidence, decoding: Decoding) -> Float[Tensor, "M N"]:
    """The evidence over clips as the posterior reads it: normalised across the paragraph, and
    shared among sentences that are alike."""
    rows = normalized(combine(evidence, decoding), evidence.layout, decoding)
    if evidence.text is None or decoding.alike >= 1:
        return rows
    cosines = posterior.paragraph_cosines(evidence.text, evidence.layout)
    return posterior.share_evidence(rows, cosines, evidence.layout, alike=decoding.alike)


# The separation.


def span_scores(evidence: Evidence, decoding: Decoding) -> Float[Tensor, "M P"]:
    """What the evidence alone says of each span, every sentence for itself or against those of its
    paragraph, without prior and order."""
    wanted, total = _read(evidence, decoding), None
    if "clips" in wanted:
        total = clip_separation(
            combine(evidence, decoding), evidence.spans, evidence.layout, decoding
        )
    if "scores" in wanted:
        assert evidence.scores is not None
        if total is None:
            return evidence.scores
        total = total + decoding.score_weight * evidence.scores
    assert total is not None
    return total


def combine(evidence: Evidence, decoding: Decoding) -> Float[Tensor, "M N"]:
    """The weighted sum of the sources of evidence over clips."""
    total: Tensor | None = None
    for name, values in evidence.clips.items():
        weight = decoding.evidence.get(name, 1.0)
        part = values if weight == 1 else weight * values
        total = part if total is None else total + part
    assert total is not None
    return total


def normalized(
    evidence: Float[Tensor, "M N"], layout: Layout, decoding: Decoding
) -> Float[Tensor, "M N"]:
    """Against that of the paragraph's other sentences, as asked for."""
    if decoding.normalization == "paragraph_mean":
        return subtract_paragraph_mean(evidence, layout)
    if decoding.normalization == "paragraph_softmax":
        return paragraph_softmax(evidence, layout, scale=decoding.normalization_scale)
    return evidence


def clip_separation(
    evidence: Float[Tensor, "M N"],
    spans: Float[Tensor, "*M P 2"],
    layout: Layout,
    decoding: Decoding,
) -> Float[Tensor, "M P"]:
    """How well each span separates the evidence, normalised across the paragraph as asked for."""
    exponent = decoding.length_exponent
    scores = separation(normalized(evidence, layout, decoding), spans, length_exponent=exponent)
    if decoding.raw_weight:
        raw = separation(evidence, spans, length_exponent=exponent)
        scores = scores + decoding.raw_weight * raw
    return scores
