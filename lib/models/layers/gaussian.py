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
    center: Float[Tensor, "*b"],
    width: Float[Tensor, "*b"],
    steps: int,
    *,
    deviations: float = 9,
) -> Float[Tensor, "*b F"]:
    """The window of a proposal: nine standard deviations, or so many, make its width."""
    return gaussian_windows(center, width.clamp(min=NARROWEST) / deviations, steps)


def unscaled_windows(
    center: Float[Tensor, "*b"], width: Float[Tensor, "*b"], steps: int, *, sharpness: float
) -> Float[Tensor, "*b F"]:
    """``exp(-sharpness · ((x - centre) / width)²)``, not brought up to a height of 1.

    A width is 0.1 at least. A sharpness of 5 makes the deviation 0.316 of the width.

    Source: CNM's release, whose alpha it is.
    """
    place = torch.linspace(0, 1, steps, device=center.device, dtype=center.dtype)
    distance = (place - center[..., None]) / width.clamp(min=0.1)[..., None]
    return (-sharpness * distance**2).exp()


def outside_windows(
    center: Float[Tensor, "*b"],
    width: Float[Tensor, "*b"],
    steps: int,
    *,
    at_ends: bool = False,
    extent: float | Float[Tensor, ""] = 1.0,
) -> tuple[Float[Tensor, "*b F"], Float[Tensor, "*b F"]]:
    """Windows over what lies before a proposal and after it.

    Args:
        at_ends: half a bell each, highest at the end of the video; otherwise a bell centred in the
            middle. Either way 4.5 deviations lead from its centre to the proposal.
        extent: the part of what lies there, from the end of the video on, that they are made for:
            CPL's curriculum lets it grow to 1.

    Source: CPL's negative proposals, which DCIML has at their full extent; at the ends JSG's
    release.
    """
    reach = 1 if at_ends else 2
    before = (center - width / 2).clamp(min=0) * extent / reach
    after = (1 - center - width / 2).clamp(min=0) * extent / reach
    first = before * (reach - 1)
    last = 1 - after * (reach - 1)
    return (
        gaussian_windows(first, before.clamp(min=NARROWEST) / 4.5, steps),
        gaussian_windows(last, after.clamp(min=NARROWEST) / 4.5, steps),
    )


def spans_of(center: Float[Tensor, "*b"], width: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2"]:
    """The spans of proposals, cut at the ends of the video."""
    return torch.stack([center - width / 2, center + width / 2], dim=-1).clamp(0, 1)
