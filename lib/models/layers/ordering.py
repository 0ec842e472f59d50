"""The best joint assignment of spans to the sentences of a paragraph."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.datasets.batch import Layout
from lib.models.layers.alignment import position_prior
from lib.models.layers.proposal_map import ProposalGrid


def places_in_order(grid: ProposalGrid, batch: Layout) -> Float[Tensor, "M P 4"]:
    """Where each span lies from the middle of the sentence's equal part, and how wide it is, both
    in parts: all that a place in the paragraph says without the video."""
    count = batch.sentence_counts[batch.owner, None].to(grid.spans.dtype)
    off = grid.spans.mean(dim=1) * count - (batch.place[:, None] + 0.5)
    width = (grid.spans[:, 1] - grid.spans[:, 0]).expand_as(off)
    return torch.stack([off, off.abs(), (width * count).log(), width.log()], dim=-1)


class PlaceCells(nn.Sequential):
    """A feature of every span from ``places_in_order``, (M, P, D)."""

    def __init__(self, hidden_size: int) -> None:
        D = hidden_size
        super().__init__(nn.Linear(4, D), nn.ReLU(), nn.Linear(D, D))

    def forward(  # type: ignore[override]
        self, grid: ProposalGrid, batch: Layout
    ) -> Float[Tensor, "M P D"]:
        return super().forward(places_in_order(grid, batch))


def decode_in_order(
    scores: Float[Tensor, "M P"],
    batch: Layout,
    grid: ProposalGrid,
    *,
    prior: float,
    order: float,
    width: float = 1.5,
) -> Float[Tensor, "M P"]:
    """Scores of spans after their paragraph has been decoded as a whole.

    Args:
        scores: evidence for every span, comparable between sentences.
        prior: weight of ``position_prior``, whose ``width`` follows.
        order: strength of the order between neighbouring sentences, see ``ordered_scores``.
    """
    count = batch.sentence_counts[batch.owner]
    known = position_prior(grid.spans, batch.place, count, width=width)
    joint = ordered_scores(
        batch.padded(scores + prior * known), batch.sentence_mask, grid, strength=order
    )
    return batch.flat(joint)


def order_penalty(grid: ProposalGrid, strength: float) -> Float[Tensor, "A A"]:
    """What it costs that a sentence's centre lies before its predecessor's.

    Centres of spans on N clips are the 2N + 1 multiples of half a clip: A. Going back costs
    ``strength`` per length of the video; ``inf`` forbids it.
    """
    steps = 2 * grid.num_clips + 1
    centre = torch.arange(steps, device=grid.spans.device) / (steps - 1)
    back = (centre[:, None] - centre[None, :]).clamp(min=0)
    return torch.where(back > 0, back * strength, 0.0)


def ordered_scores(
    scores: Float[Tensor, "B S P"],
    mask: Bool[Tensor, "B S"],
    grid: ProposalGrid,
    *,
    strength: float,
) -> Float[Tensor, "B S P"]:
    """The value of the best assignment of a paragraph in which a sentence takes a certain span.

    An assignment is worth the scores of its spans minus ``order_penalty`` between neighbours. For
    every sentence and span this is the best total with that choice made (a max-marginal), so the
    arg-max over spans, sentence by sentence, is the best joint assignment, exactly; and the other
    spans are ranked by what choosing them instead would cost the paragraph.

    Dynamic programming forwards and backwards over the sentences, batched over paragraphs, in
    O(S (P + N²)). Padded sentences pass their neighbours' values on.

    Args:
        strength: 0 leaves every sentence to itself; infinity is a hard order.
    """
    penalty = order_penalty(grid, strength).to(scores.dtype)
    anchor = (grid.spans.sum(dim=1) * grid.num_clips).round().long()  # twice the centre, in clips
    ahead = _reach(scores, mask, anchor, penalty)
    behind = _reach(scores.flip(1), mask.flip(1), anchor, penalty.T).flip(1)
    return ahead + behind + scores


def _reach(
    scores: Float[Tensor, "B S P"],
    mask: Bool[Tensor, "B S"],
    anchor: Tensor,
    penalty: Float[Tensor, "A A"],
) -> Float[Tensor, "B S P"]:
    """The best value of the sentences before each one, given its span; without its own score."""
    B, S, _ = scores.shape
    A = len(penalty)
    arriving = scores.new_zeros(B, A)  # by the anchor of the sentence under way
    reached = []
    for s in range(S):  # order is the point
        value = arriving[:, anchor]
        reached.append(value)
        leaving = scores.new_full((B, A), -torch.inf).scatter_reduce(
            1, anchor.expand(B, -1), value + scores[:, s], "amax"
        )
        moved = (leaving[:, :, None] - penalty).amax(dim=1)
        arriving = torch.where(mask[:, s, None], moved, arriving)
    return torch.stack(reached, dim=1)
