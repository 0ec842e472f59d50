"""Losses that keep weightings of the same items apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gram_distance(rows: Float[Tensor, "*b R F"], diagonal: float) -> Float[Tensor, ""]:
    """Squared Frobenius distance between the rows' inner products and ``diagonal`` times identity.

    It is zero for orthogonal rows of squared length ``diagonal``. For rows that sum to one, a small
    squared length means weights spread over many items. Mean over the leading axes.

    Source: the diversity of CPL's and DCIML's proposals (R proposals over F frames), and CDN's
    attention distance (R frames over F attention steps).
    """
    rows = rows.float()
    target = diagonal * torch.eye(rows.shape[-2], device=rows.device)
    return (rows @ rows.mT - target).square().sum(dim=(-2, -1)).mean()
