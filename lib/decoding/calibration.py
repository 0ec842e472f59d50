"""How far evidence is to be believed, and where moments start, from data without timestamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import posterior
from .decode import combine, likelihood, normalized, prior_starts, span_scores
from .options import Decoding
from .records import Evidence


def needs_shuffled(decoding: Decoding) -> bool:
    """Whether the calibration compares the evidence with that of shuffled videos."""
    return decoding.calibration == "contiguity"


def measures_split(decoding: Decoding) -> bool:
    """Whether the trust is measured on the very videos that are scored."""
    return decoding.calibration in ("contiguity", "order")


def estimates_starts(decoding: Decoding) -> bool:
    """Whether the decoding has a histogram of starts to estimate."""
    of_corpus = decoding.method == "posterior" and decoding.prior == "corpus"
    return of_corpus and decoding.estimate_starts


def calibrate_trust(
    decoding: Decoding,
    *,
    retrieval_skill: float | None = None,
    own: Sequence[Evidence] = (),
    shuffled: Sequence[Evidence] = (),
) -> dict[str, Any]:
    """What the decoding's ``calibration`` chooses: ``trust``, or nothing.

    Args:
        retrieval_skill: how well pairs are found on validation, from 0 (chance) to 1 (always); None
            for a model that does not retrieve.
        own, shuffled: evidence of the same sentences in their videos, and in these videos with
            blocks of time in random order.
    """
    if decoding.calibration == "retrieval" and retrieval_skill is not None:
        return {"trust": retrieval_skill}
    if decoding.calibration == "contiguity" and own and own[0].clips:
        gain = posterior.contiguity(_rows(own, decoding), _rows(shuffled, decoding), own[0].spans)
        gain = gain if math.isfinite(gain) else 0.0  # of a single sentence nothing is known
        return {"trust": min(max(gain / decoding.full_trust, 0.0), 1.0), "contiguity": gain}
    if decoding.calibration == "order" and own:
        backward = backward_share(own, decoding)
        return {"trust": min(max(1 - 2 * backward, 0.0), 1.0), "backward": backward}
    return {}


def backward_share(evidence: Sequence[Evidence], decoding: Decoding) -> float:
    """The share of neighbouring sentences of a paragraph whose moments, each by its evidence alone,
    run backwards: 1/2 where evidence says nothing of time, and more than that is not expected. Two
    standard errors are added, so that chance is not mistaken for order; equal centres count half.
    """
    shares = []
    for each in evidence:
        layout, best = each.layout, span_scores(each, decoding).argmax(dim=1)
        centre = each.spans.mean(dim=-1)
        centre = centre[best] if centre.dim() == 1 else centre.gather(1, best[:, None])[:, 0]
        centres, mask = layout.padded(centre), layout.sentence_mask
        step = (centres[:, 1:] - centres[:, :-1])[mask[:, 1:] & mask[:, :-1]]
        shares.append(torch.where(step.abs() < 1e-6, 0.5, (step < 0).to(step.dtype)))
    steps = torch.cat(shares)
    if len(steps) < 2:
        return 0.5
    return (steps.mean() + 2 * steps.std() / len(steps) ** 0.5).item()


def calibrate_starts(
    decoding: Decoding, own: Sequence[Evidence], *, trust: float = 1.0
) -> dict[str, Any]:
    """``starts``, the share of moments that start in each clip, by EM over unlabelled evidence;
    nothing where the decoding does not ask for it or every sentence has spans of its own."""
    if not estimates_starts(decoding) or not own or own[0].spans.dim() == 3:
        return {}
    values = torch.cat([likelihood(each, decoding, trust) for each in own])
    histogram = posterior.estimate_starts(
        values,
        own[0].spans,
        prior_starts(own[0], decoding),
        median=decoding.prior_width,
        spread=decoding.prior_spread,
    )
    return {"starts": histogram.tolist()}


def _rows(evidence: Sequence[Evidence], decoding: Decoding) -> Float[Tensor, "M N"]:
    """The evidence of each sentence for itself: shared, it would be contiguous in any time."""
    return torch.cat(
        [normalized(combine(each, decoding), each.layout, decoding) for each in evidence]
    )
