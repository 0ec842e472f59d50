"""The sentences of a paragraph together: where each is expected, and the best joint assignment."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..base.batch import Layout
from ..base.moments import iou

PRIOR_WIDTH = 1.5  # of the expected span, in equal parts of the video


def position_prior(
    spans: Float[Tensor, "*M P 2"], layout: Layout, *, width: float = PRIOR_WIDTH
) -> Float[Tensor, "M P"]:
    """Overlap of every span with where its sentence would be without evidence.

    Authors write in order: the video is cut into as many equal parts as the paragraph has
    sentences, and the sentence's part widened ``width`` times. A stated constant; no timestamp is
    read.
    """
    part = 1 / layout.sentence_counts[layout.owner].to(spans.dtype)
    centre = (layout.sentence_position + 0.5) * part
    half = width * part / 2
    expected = torch.stack([(centre - half).clamp(min=0), (centre + half).clamp(max=1)], dim=1)
    return iou(expected[:, None], spans)


def decode_in_order(
    scores: Float[Tensor, "M P"],
    spans: Float[Tensor, "*M P 2"],
    layout: Layout,
    *,
    resolution: int,
    prior_weight: float,
    penalty: float,
) -> Float[Tensor, "M P"]:
    """Scores of spans after their paragraph has been decoded as a whole.

    Args:
        scores: evidence for every span, comparable between sentences.
        resolution: clips of the grid of spans; centres are compared in halves of a clip.
        prior_weight: of ``position_prior``.
        penalty: strength of the order between neighbouring sentences, see ``ordered_scores``.
    """
    expected = position_prior(spans, layout)
    centre = (spans.sum(dim=-1) * resolution).round().long()  # twice the centre, in clips
    if centre.dim() == 1:
        centre = centre.expand(len(scores), -1)
    joint = ordered_scores(
        layout.padded(scores + prior_weight * expected),
        layout.padded(centre),
        layout.sentence_mask,
        backward_penalty(resolution, penalty).to(scores),
    )
    return layout.flat(joint)


def backward_penalty(resolution: int, strength: float) -> Float[Tensor, "A A"]:
    """What it costs that a sentence's centre lies before its predecessor's.

    Centres of spans on N clips are the 2N + 1 multiples of half a clip: A. Going back costs
    ``strength`` per length of the video; ``inf`` forbids it.
    """
    steps = 2 * resolution + 1
    centre = torch.arange(steps) / (steps - 1)
    back = (centre[:, None] - centre[None, :]).clamp(min=0)
    return torch.where(back > 0, back * strength, 0.0)


def ordered_scores(
    scores: Float[Tensor, "B S P"],
    centre: Int[Tensor, "B S P"],
    mask: Bool[Tensor, "B S"],
    penalty: Float[Tensor, "A A"],
) -> Float[Tensor, "B S P"]:
    """The value of the best assignment of a paragraph in which a sentence takes a certain span.

    An assignment is worth the scores of its spans minus ``penalty`` between neighbours, by their
    centres. For every sentence and span this is the best total with that choice made (a
    max-marginal), so the arg-max over spans, sentence by sentence, is the best joint assignment,
    exactly; and the other spans are ranked by what choosing them instead would cost the paragraph.

    Dynamic programming forwards and backwards over the sentences, batched over paragraphs, in
    O(S (P + A²)). Padded sentences pass their neighbours' values on.
    """
    ahead = _reach(scores, centre, mask, penalty)
    behind = _reach(scores.flip(1), centre.flip(1), mask.flip(1), penalty.T).flip(1)
    return ahead + behind + scores


def _reach(
    scores: Float[Tensor, "B S P"],
    centre: Int[Tensor, "B S P"],
    mask: Bool[Tensor, "B S"],
    penalty: Float[Tensor, "A A"],
) -> Float[Tensor, "B S P"]:
    """The best value of the sentences before each one, given its span; without its own score."""
    B, S, _ = scores.shape
    A = len(penalty)
    arriving = scores.new_zeros(B, A)  # by the centre of the sentence under way
    reached = []
    for s in range(S):  # order is the point
        value = arriving.gather(1, centre[:, s])
        reached.append(value)
        leaving = scores.new_full((B, A), -torch.inf).scatter_reduce(
            1, centre[:, s], value + scores[:, s], "amax"
        )
        moved = (leaving[:, :, None] - penalty).amax(dim=1)
        arriving = torch.where(mask[:, s, None], moved, arriving)
    return torch.stack(reached, dim=1)
