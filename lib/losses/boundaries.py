"""Losses from the first and the last clip of a moment, and from the clips between them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ON_THE_GRID = 1e-4  # of a clip: times in float32 that are a border of two clips are this near to it


def boundary_clips(
    moments: Float[Tensor, "*M 2"], num_clips: int, *, exclusive: bool = False
) -> tuple[Int[Tensor, "*M"], Int[Tensor, "*M"]]:
    """The first and the last of N clips that a moment touches, from 0.

    Args:
        moments: as fractions of the video.
        exclusive: the end is the clip after the last one, where there is one: the labels of the
            releases of XML and ReLoCLNet, whose last clip lies outside the moment.
    """
    start, end = (moments * num_clips).unbind(dim=-1)
    first = (start + ON_THE_GRID).floor().long().clamp(0, num_clips - 1)
    after = (end - ON_THE_GRID).ceil().long()
    last = after if exclusive else torch.maximum(after - 1, first)
    return first, last.clamp(0, num_clips - 1)


def inside(
    first: Int[Tensor, " M"], last: Int[Tensor, " M"], num_clips: int
) -> Bool[Tensor, "M N"]:
    """Which of N clips lie between the first and the last, both included."""
    clip = torch.arange(num_clips, device=first.device)
    return (clip >= first[:, None]) & (clip <= last[:, None])


def frame_contrast(
    products: Float[Tensor, "M N"], moment: Bool[Tensor, "M N"]
) -> Float[Tensor, ""]:
    """A lower bound of the Jensen-Shannon divergence between the clips of a moment and the others,
    with the sign turned, mean over sentences. A video without others has nothing of them in it.

    Args:
        products: of a sentence with the clips of its video, not normalised.
        moment: which clips are the moment's; at least one.

    Source: ReLoCLNet's FrameCL.
    """
    x, clips = products.float(), moment.float()
    own = (math.log(2) - nn.functional.softplus(-x)) * clips
    others = (nn.functional.softplus(x) - math.log(2)) * (1 - clips)
    count = clips.sum(dim=1)
    beside = (x.shape[1] - count).clamp(min=1)
    return (others.sum(dim=1) / beside - own.sum(dim=1) / count).mean()
