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

    Source: CPL, and DCIML and JSG after it.
    """
    place = torch.linspace(0, 1, steps, device=center.device, dtype=center.dtype)
    # In logarithms: of a narrow window between two places nothing else is left than 0 / 0.
    bell = -((place - center[..., None]) ** 2) / (2 * deviation[..., None] ** 2)
    return (bell - bell.amax(dim=-1, keepdim=True)).exp()


def proposal_windows(
    center: Float[Tensor, "*b"], width: Float[Tensor, "*b"], steps: int
) -> Float[Tensor, "*b F"]:
    """The window of a proposal: nine standard deviations make its width."""
    return gaussian_windows(center, width.clamp(min=NARROWEST) / 9, steps)


def outside_windows(
    center: Float[Tensor, "*b"], width: Float[Tensor, "*b"], steps: int, *, at_ends: bool = False
) -> tuple[Float[Tensor, "*b F"], Float[Tensor, "*b F"]]:
    """Windows over what lies before a proposal and after it.

    Args:
        at_ends: half a bell each, highest at the end of the video; otherwise a bell centred in the
            middle. Either way 4.5 deviations lead from its centre to the proposal.

    Source: CPL's negative proposals with the curriculum's exponent 0, as DCIML has it; at the ends
    JSG's release.
    """
    reach = 1 if at_ends else 2
    before = (center - width / 2).clamp(min=0) / reach
    after = (1 - center - width / 2).clamp(min=0) / reach
    first = before * (reach - 1)
    last = 1 - after * (reach - 1)
    return (
        gaussian_windows(first, before.clamp(min=NARROWEST) / 4.5, steps),
        gaussian_windows(last, after.clamp(min=NARROWEST) / 4.5, steps),
    )
