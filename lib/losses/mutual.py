"""Losses by which two branches teach each other: places in time, and features.

Source: DCIML. What one branch says is a target for the other and carries no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def clips_of_span(span: Float[Tensor, "M 2"], num_clips: int) -> Bool[Tensor, "M N"]:
    """Which of N evenly spaced places, the first at 0 and the last at 1, lie in the span."""
    place = torch.arange(num_clips, device=span.device) / (num_clips - 1)
    return (place >= span[:, :1] - 1e-6) & (place <= span[:, 1:] + 1e-6)


def containment(spans: Float[Tensor, "M Q 2"], place: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """How far a place lies outside a span, mean over spans; 0 inside."""
    before = (spans[..., 0].float() - place[:, None]).clamp(min=0)
    after = (place[:, None] - spans[..., 1].float()).clamp(min=0)
    return (before + after).mean()


def improvement(
    guided: Float[Tensor, "*b"], alone: Float[Tensor, "*b"], *, margin: float
) -> Float[Tensor, "*b"]:
    """Hinge that asks ``guided`` to exceed ``alone`` by ``margin``; ``alone`` is left in peace.

    The release lets the gradient into both, and so teaches the unguided branch to be worse.
    """
    return (alone.detach().float() - guided.float() + margin).clamp(min=0)


def pull(
    features: Float[Tensor, "M ... D"], guided: Float[Tensor, "M ... D"]
) -> Float[Tensor, " M"]:
    """Squared distance of the directions of features and of their guided twins, mean over the
    entries of each row; the twins do not move."""
    target = nn.functional.normalize(guided.detach().float(), dim=-1)
    distance = (nn.functional.normalize(features.float(), dim=-1) - target).square()
    return distance.flatten(1).mean(dim=1)
