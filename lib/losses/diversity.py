"""Losses that keep weightings of the same items apart."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gram_distance(
    rows: Float[Tensor, "*b R F"],
    diagonal: float,
    exists: Bool[Tensor, "*e R"] | None = None,
) -> Float[Tensor, ""]:
    """Squared Frobenius distance between the rows' inner products and ``diagonal`` times identity.

    Rows are asked to be orthogonal and to have the squared length ``diagonal``: small for weights
    that sum to one means spread over many items. Mean over the leading axes. Rows that do not
    ``exist`` must be zero, and are not counted.

    Source: the diversity of CPL's and DCIML's proposals (R proposals over F frames), and CDN's
    attention distance (R frames over F attention steps).
    """
    rows = rows.float()
    wanted = diagonal * torch.eye(rows.shape[-2], device=rows.device)
    if exists is not None:
        wanted = wanted * exists[..., None]
    return (rows @ rows.mT - wanted).square().sum(dim=(-2, -1)).mean()
