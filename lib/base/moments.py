"""Spans of time: overlap, the overlap of every map cell, and greedy suppression. The only IoU.

A span is [start, end). Overlap does not depend on the unit, so seconds, clips and fractions of the
video all work, as long as both sides use the same one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import draws


def iou(a: Float[Tensor, "*a 2"], b: Float[Tensor, "*b 2"]) -> Float[Tensor, ...]:
    """Intersection over union of spans, broadcast over the leading axes; 0 for empty unions."""
    intersection = torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])
    lengths = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0])
    intersection = intersection.clamp(min=0)
    union = lengths - intersection
    return torch.where(union > 0, intersection / union.clamp(min=1e-12), torch.zeros_like(union))


def cell_spans(num_clips: int, mask: Bool[Tensor, "N N"]) -> Float[Tensor, "P 2"]:
    """The spans of a map's valid cells, row by row, as fractions of the video.

    Cell (i, j) covers the clips i..j, both included, that is [i, j + 1) / N.
    """
    cells = mask.nonzero()
    return torch.stack([cells[:, 0], cells[:, 1] + 1], dim=1).to(torch.float32) / num_clips


def greedy_suppression(
    spans: Float[Tensor, "*M P 2"],
    scores: Float[Tensor, "M P"],
    *,
    keep: int,
    max_iou: float,
    explore: Float[Tensor, ""] | None = None,
    durations: Float[Tensor, " M"] | None = None,
) -> tuple[Int[Tensor, "M K"], Bool[Tensor, "M K"]]:
    """The best ``keep`` spans of each sentence of which no two overlap by more than ``max_iou``.

    Greedy and batched over sentences: take the best span left, drop all that overlap it by more
    than the threshold, repeat. An overlap equal to the threshold (to 1e-6, so that
    spans on a grid are decided and not rounded) survives. Equal scores go to the lower index.

    Args:
        explore: the chance with which each choice is any span left, evenly drawn, and not the best.
        durations: of each sentence's video in seconds. The spans, fractions of it, are then
            compared as 2D-TAN's release does: in seconds of 32 bits, whose overlap in 64 bits is
            dropped wherever it comes out above the threshold. On a grid, a third of the overlaps
            that are the threshold are rounded above it.

    Returns:
        Indices into P, best first, and which of them exist: fewer than ``keep`` may survive.
        ``K = min(keep, P)``. Indices that do not exist repeat the first.
    """
    keep = min(keep, scores.shape[1])
    slack = 1e-6
    if durations is not None:
        seconds = spans.float() * durations.float()[:, None, None]
        spans, slack = seconds.double(), 0.0
    left = scores.detach().to(torch.float32).clone()
    chosen: list[Tensor] = []
    exists: list[Tensor] = []
    rows = torch.arange(len(scores), device=scores.device)
    for _ in range(keep):  # order is the point: each choice depends on the ones before
        best = left.argmax(dim=1)
        if explore is not None:
            drawn = draws.uniform(left).masked_fill(left == -torch.inf, -1).argmax(dim=1)
            best = torch.where(draws.uniform(left[:, 0]) < explore, drawn, best)
        alive = left[rows, best] > -torch.inf
        chosen.append(torch.where(alive, best, chosen[0]) if chosen else best)
        exists.append(alive)
        span = spans[best] if spans.dim() == 2 else spans[rows, best]
        left = left.masked_fill(iou(span[:, None], spans) > max_iou + slack, -torch.inf)
        left = left.scatter(1, best[:, None], -torch.inf)
    return torch.stack(chosen, dim=1), torch.stack(exists, dim=1)
