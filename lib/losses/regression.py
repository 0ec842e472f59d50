"""Losses of a span that is regressed, and of the attention it was regressed from: a value for each
of M sentences. Spans and moments are fractions of the video."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def attention_inside(
    attention: Float[Tensor, "M T"], moment: Float[Tensor, "M 2"]
) -> Float[Tensor, " M"]:
    """Negative logarithm, to base 2, of the attention that lies inside the moment.

    Frame k of T stands for the place k / T. A moment between two of these places has none inside:
    33.2, without a gradient.

    Source: PRVG, "proposal-level attention".
    """
    attention = attention.float()
    T = attention.shape[1]
    place = torch.arange(T, device=attention.device) / T
    inside = (place >= moment[:, :1]) & (place <= moment[:, 1:])
    return -((attention * inside).sum(dim=1) + 1e-10).log2()


def span_distance(span: Float[Tensor, "M 2"], moment: Float[Tensor, "M 2"]) -> Float[Tensor, " M"]:
    """How far both ends are off, together."""
    return (span.float() - moment).abs().sum(dim=1)


def span_overlap_loss(
    span: Float[Tensor, "M 2"], moment: Float[Tensor, "M 2"], *, generalised: bool = False
) -> Float[Tensor, " M"]:
    """1 - intersection / hull. A span that misses the moment, or ends before it starts, costs 1 and
    has no gradient.

    Args:
        generalised: 1 - overlap + gap / hull instead, which has one there too (Rezatofighi et al.
            2019); the ends count in order.

    Source: PRVG.
    """
    span = span.float()
    if generalised:
        span = span.sort(dim=1).values
    hull = torch.maximum(span[:, 1], moment[:, 1]) - torch.minimum(span[:, 0], moment[:, 0])
    between = torch.minimum(span[:, 1], moment[:, 1]) - torch.maximum(span[:, 0], moment[:, 0])
    shared = between.clamp(min=0)
    if not generalised:
        return 1 - shared / hull
    union = (span[:, 1] - span[:, 0]) + (moment[:, 1] - moment[:, 0]) - shared
    return 1 - shared / union + (hull - union) / hull
