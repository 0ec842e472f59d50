"""Which of a few proposals the others agree with."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...base.moments import iou

Vote = Literal["none", "plain", "leader", "likelihood"]


def scores_of(
    spans: Float[Tensor, "M P 2"], nll: Float[Tensor, "M P"], vote: Vote
) -> Float[Tensor, "M P"]:
    """Scores of proposals, by how well they reconstruct the sentence or by each other's votes.

    A vote for a proposal is its overlap with the voter, every proposal being one of its own voters,
    times the voter's weight.

    Args:
        vote: ``none``: the likelihood of the words (CPL); ``plain``: each weighs 1 (CPL and PPS on
            ActivityNet Captions); ``leader``: by its overlap with the likeliest (CPL on
            Charades-STA); ``likelihood``: 1 - NLL / max NLL, the least likely 0 (PPS on
            Charades-STA).
    """
    if vote == "none":
        return -nll
    overlap = iou(spans[:, :, None], spans[:, None])  # (M, P, P)
    if vote == "plain":
        weight = torch.ones_like(nll)
    elif vote == "leader":
        best = nll.argmin(dim=1)
        weight = overlap[torch.arange(len(best), device=best.device), best]
    else:
        weight = 1 - nll / nll.amax(dim=1, keepdim=True)
    return torch.einsum("mij,mj->mi", overlap, weight)
