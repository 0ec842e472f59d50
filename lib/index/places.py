"""The places of an item: few vectors in order that stand for its many clips."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def places_of(clips: Float[np.ndarray, "n K D"], count: int) -> Float[np.ndarray, "n P D"]:
    """Means of P = ``count`` runs of clips, cut where the clips change.

    Of all ways to cut K clips into P runs the one is taken whose runs hold the most alike clips:
    the greatest sum of the lengths of the runs' sums of unit vectors. Fewer clips than places
    repeat the last clip. Equal parts would mix what happens before a change and after it.
    """
    rows = torch.from_numpy(np.asarray(clips, np.float32))
    unit = torch.nn.functional.normalize(rows, dim=2)
    if (missing := count - unit.shape[1]) > 0:
        unit = torch.cat([unit, unit[:, -1:].expand(-1, missing, -1)], dim=1)
    ends = _cuts(_lengths(unit), count)
    sums = torch.nn.functional.pad(unit.cumsum(dim=1), (0, 0, 1, 0))
    at = sums.gather(1, ends[..., None].expand(-1, -1, unit.shape[2]))
    means = at.diff(dim=1) / ends.diff(dim=1)[..., None]
    return means.numpy()


def _lengths(unit: Float[Tensor, "n K D"]) -> Float[Tensor, "n K1 K1"]:
    """Of the sum of the clips from i up to before j; -inf where there are none."""
    squares = torch.nn.functional.pad(unit @ unit.mT, (1, 0, 1, 0)).cumsum(dim=1).cumsum(dim=2)
    own = squares.diagonal(dim1=1, dim2=2)
    lengths = (own[:, :, None] + own[:, None, :] - 2 * squares).clamp(min=0).sqrt()
    nothing = torch.ones_like(lengths[0], dtype=torch.bool).tril()
    return lengths.masked_fill(nothing, -torch.inf)


def _cuts(lengths: Float[Tensor, "n K1 K1"], count: int) -> Int[Tensor, "n P1"]:
    """Where the runs of the best way start and end."""
    best, origins = lengths[:, 0], []  # of the first runs, that end before j
    for _ in range(count - 1):
        best, origin = (best[:, :, None] + lengths).max(dim=1)
        origins.append(origin)
    end = torch.full_like(best[:, 0], lengths.shape[1] - 1, dtype=torch.long)
    ends = [end]
    for origin in reversed(origins):
        end = origin.gather(1, end[:, None])[:, 0]
        ends.append(end)
    ends.append(torch.zeros_like(end))
    return torch.stack(ends[::-1], dim=1)
