"""How well each single clip reconstructs the words of a sentence, as evidence over clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .proposal_map import ProposalGrid

CLIPS_AT_ONCE = 4  # whose words' logits are in memory together


def clip_cells(grid: ProposalGrid) -> Int[Tensor, " N"]:
    """The cells of a map that are one clip long, in the order of time."""
    length = (grid.spans.diff(dim=1)[:, 0] * grid.num_clips).round()
    return (length == 1).nonzero()[:, 0]


def clip_reconstruction_gain(
    nll: Callable[[Int[Tensor, "M n"]], Float[Tensor, "M n"]],
    cells: Int[Tensor, " N"],
    num_sentences: int,
) -> Float[Tensor, "M N"]:
    """By how many nats a word each clip reconstructs a sentence better than the clips of its video
    do on average.

    Args:
        nll: of each sentence's words from the frames of some cells of its video, (M, n) each.
        cells: of the single clips, see ``clip_cells``.
        num_sentences: M.
    """
    columns = [nll(part.expand(num_sentences, -1)) for part in cells.split(CLIPS_AT_ONCE)]
    values = torch.cat(columns, dim=1)
    return values.mean(dim=1, keepdim=True) - values
