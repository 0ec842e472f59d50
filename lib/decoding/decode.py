"""Evidence to proposals, by the options of an experiment."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lib.base.batch import Layout
from lib.decoding.options import Decoding
from lib.decoding.ordering import decode_in_order
from lib.decoding.records import Evidence, Proposals
from lib.decoding.separation import paragraph_softmax, separation, subtract_paragraph_mean


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


def decode(evidence: Evidence, decoding: Decoding, *, trust: float = 1.0) -> Proposals:
    """Score every span of every sentence.

    Args:
        trust: what the evidence is scaled by before it meets the prior; from ``calibrate``.
    """
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


def span_scores(evidence: Evidence, decoding: Decoding) -> Float[Tensor, "M P"]:
    """What the evidence alone says of each span, every sentence for itself or against those of its
    paragraph, without prior and order."""
    wanted = reads(decoding, has_scores=evidence.scores is not None, has_clips=bool(evidence.clips))
    total: Tensor | None = None
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


def clip_separation(
    evidence: Float[Tensor, "M N"],
    spans: Float[Tensor, "*M P 2"],
    layout: Layout,
    decoding: Decoding,
) -> Float[Tensor, "M P"]:
    """How well each span separates the evidence, normalised across the paragraph as asked for."""
    exponent = decoding.length_exponent
    normalized = evidence
    if decoding.normalization == "paragraph_mean":
        normalized = subtract_paragraph_mean(evidence, layout)
    elif decoding.normalization == "paragraph_softmax":
        normalized = paragraph_softmax(evidence, layout, scale=decoding.normalization_scale)
    scores = separation(normalized, spans, length_exponent=exponent)
    if decoding.raw_weight:
        raw = separation(evidence, spans, length_exponent=exponent)
        scores = scores + decoding.raw_weight * raw
    return scores
