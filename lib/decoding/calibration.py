"""How far evidence is to be believed, and where moments start, from data without timestamps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lib.decoding import posterior
from lib.decoding.decode import combine, likelihood, normalized, prior_starts
from lib.decoding.options import Decoding
from lib.decoding.records import Evidence


def needs_shuffled(decoding: Decoding) -> bool:
    """Whether the calibration compares the evidence with that of shuffled videos."""
    return decoding.calibration == "contiguity"


def estimates_starts(decoding: Decoding) -> bool:
    """Whether the decoding has a histogram of starts to estimate."""
    return decoding.method == "posterior" and decoding.prior == "corpus"


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
    return {}


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
