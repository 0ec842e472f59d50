"""How well scores of spans fit the order in which a paragraph's sentences stand."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def ordered_log_mass(
    log_probability: Float[Tensor, "B S P"],
    start: Int[Tensor, " P"],
    sentence_mask: Bool[Tensor, "B S"],
) -> Float[Tensor, " B"]:
    """The logarithm of how probable it is that no sentence of a paragraph starts before the one
    before it, if each draws its span by its own probabilities.

    Args:
        log_probability: of each span, for every sentence; padded sentences are ignored.
        start: the clip in which each span starts.
    """
    P = log_probability.float()
    N = int(start.max()) + 1
    top = P.detach().amax(dim=2, keepdim=True)
    sums = P.new_zeros(*P.shape[:2], N).index_add(2, start, (P - top).exp())
    by_start = sums.clamp(min=torch.finfo(P.dtype).tiny).log() + top  # (B, S, N)
    reached = P.new_zeros(len(P), N)
    for s in range(P.shape[1]):  # the order is the point
        after = (by_start[:, s] + reached).logcumsumexp(dim=1)
        reached = torch.where(sentence_mask[:, s, None], after, reached)
    return reached[:, -1]


def reversed_order(sentence_mask: Bool[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """The sentences of each paragraph from the last to the first, padding behind them."""
    S = sentence_mask.shape[1]
    position = torch.arange(S, device=sentence_mask.device).expand_as(sentence_mask)
    count = sentence_mask.sum(dim=1, keepdim=True)
    return torch.where(sentence_mask, count - 1 - position, position)


def halves_exchanged(sentence_mask: Bool[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """The second half of each paragraph before its first, padding behind them."""
    S = sentence_mask.shape[1]
    position = torch.arange(S, device=sentence_mask.device).expand_as(sentence_mask)
    count = sentence_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(sentence_mask, (position + (count + 1) // 2) % count, position)


def right_order(log_mass: Float[Tensor, "B O"], sentences: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cross-entropy of telling the order in which a paragraph was written from others, mean over
    the paragraphs of more than one sentence; zero if there are none.

    Args:
        log_mass: of each order, the right one first.
        sentences: of each paragraph.
    """
    several = sentences > 1
    target = torch.where(several, 0, -100)
    loss = nn.functional.cross_entropy(log_mass.float(), target, reduction="sum")
    return loss / several.sum().clamp(min=1)
