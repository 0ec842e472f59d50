"""Losses of mutual learning between two branches: from points in time, and from features.

Source: DCIML. The output of one branch is a target for the other and carries no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def clips_of_span(span: Float[Tensor, "M 2"], num_clips: int) -> Bool[Tensor, "M N"]:
    """Which of N evenly spaced times, the first at 0 and the last at 1, lie in the span.

    Spans and times are fractions of the video.
    """
    time = torch.arange(num_clips, device=span.device) / (num_clips - 1)
    return (time >= span[:, :1] - 1e-6) & (time <= span[:, 1:] + 1e-6)


def containment(spans: Float[Tensor, "M Q 2"], time: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """How far a time lies outside a span, mean over spans; 0 inside. Fractions of the video."""
    before = (spans[..., 0].float() - time[:, None]).clamp(min=0)
    after = (time[:, None] - spans[..., 1].float()).clamp(min=0)
    return (before + after).mean()


def improvement(
    guided: Float[Tensor, "*b"], alone: Float[Tensor, "*b"], *, margin: float
) -> Float[Tensor, "*b"]:
    """Hinge that is zero when ``guided`` exceeds ``alone`` by ``margin``; ``alone`` gets no
    gradient.

    The release lets the gradient into both, and so trains the unguided branch to be worse.
    """
    return (alone.detach().float() - guided.float() + margin).clamp(min=0)


def pull(
    features: Float[Tensor, "M ... D"], guided: Float[Tensor, "M ... D"]
) -> Float[Tensor, " M"]:
    """Squared distance between features and guided features, both of length one, mean over the
    entries of each row; the guided features get no gradient."""
    target = nn.functional.normalize(guided.detach().float(), dim=-1)
    distance = (nn.functional.normalize(features.float(), dim=-1) - target).square()
    return distance.flatten(1).mean(dim=1)
