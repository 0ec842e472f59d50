"""Where each span lies relative to a sentence's position in its paragraph, as a feature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...base.batch import Layout
from .proposal_map import ProposalGrid


def position_features(grid: ProposalGrid, batch: Layout) -> Float[Tensor, "M P 4"]:
    """Offset of each span from the middle of the sentence's equal part of the video, and its width,
    both in units of such a part, and its width as a fraction of the video (logarithms of widths).
    This is all that the position in the paragraph says without the video."""
    count = batch.sentence_counts[batch.owner, None].to(grid.spans.dtype)
    off = grid.spans.mean(dim=1) * count - (batch.sentence_position[:, None] + 0.5)
    width = (grid.spans[:, 1] - grid.spans[:, 0]).expand_as(off)
    return torch.stack([off, off.abs(), (width * count).log(), width.log()], dim=-1)


class PositionCells(nn.Sequential):
    """A feature of every span from ``position_features``, (M, P, D)."""

    def __init__(self, hidden_size: int) -> None:
        D = hidden_size
        super().__init__(nn.Linear(4, D), nn.ReLU(), nn.Linear(D, D))

    def forward(  # type: ignore[override]
        self, grid: ProposalGrid, batch: Layout
    ) -> Float[Tensor, "M P D"]:
        return super().forward(position_features(grid, batch))
