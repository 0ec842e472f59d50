"""Soft windows over time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NARROWEST = 0.01  # of a window's width, as a fraction of the video


def gaussian_windows(
    center: Float[Tensor, "*b"], deviation: Float[Tensor, "*b"], steps: int
) -> Float[Tensor, "*b F"]:
    """Bells over ``steps`` evenly spaced places of [0, 1], both ends included, of height 1.

    The height is that at the place nearest to the centre: a window narrower than the spacing still
    has one place of weight 1.

    Source: CPL, and DCIML after it.
    """
    place = torch.linspace(0, 1, steps, device=center.device, dtype=center.dtype)
    bell = (-((place - center[..., None]) ** 2) / (2 * deviation[..., None] ** 2)).exp()
    return bell / bell.amax(dim=-1, keepdim=True)


def proposal_windows(
    center: Float[Tensor, "*b"], width: Float[Tensor, "*b"], steps: int
) -> Float[Tensor, "*b F"]:
    """The window of a proposal: nine standard deviations make its width."""
    return gaussian_windows(center, width.clamp(min=NARROWEST) / 9, steps)


def outside_windows(
    center: Float[Tensor, "*b"], width: Float[Tensor, "*b"], steps: int
) -> tuple[Float[Tensor, "*b F"], Float[Tensor, "*b F"]]:
    """Windows over what lies before a proposal and after it, centred in the middle of each.

    Source: CPL's negative proposals with the curriculum's exponent 0, as DCIML has it.
    """
    before = (center - width / 2).clamp(min=0) / 2
    after = 1 - (1 - center - width / 2).clamp(min=0) / 2
    return (
        gaussian_windows(before, before.clamp(min=NARROWEST) / 4.5, steps),
        gaussian_windows(after, (1 - after).clamp(min=NARROWEST) / 4.5, steps),
    )
