"""Losses between proposal scores and their overlap with a target span."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..base.batch import Batch
from ..base.moments import iou


def overlap_with_truth(spans: Float[Tensor, "P 2"], batch: Batch) -> Float[Tensor, "M P"]:
    """Overlap of every span, given as fractions of the video, with each sentence's moment."""
    seconds = spans * batch.duration[:, None, None]  # (B, P, 2)
    truth = batch.flat(batch.moments)
    return iou(truth[:, None], seconds.index_select(0, batch.owner))


def scaled_iou_bce(
    logits: Float[Tensor, "M P"],
    overlap: Float[Tensor, "M P"],
    *,
    min_iou: float,
    max_iou: float,
) -> Float[Tensor, ""]:
    """Cross-entropy between proposal scores and their rescaled overlap with the target.

    Overlap is mapped linearly from [min_iou, max_iou] to [0, 1] and clamped.

    Args:
        logits: scores of the proposals before the sigmoid.
        overlap: of each proposal with its sentence's target span.
        min_iou, max_iou: overlap at which the target is 0 and 1.

    Returns:
        Mean over proposals and sentences, in nats. (DMR-JRG Eq. 20-21 writes a sum, which would
        make the weight of the term depend on the size of the map and of the batch.)

    Raises:
        ValueError: if min_iou >= max_iou.

    Source: 2D-TAN; DMR-JRG Eq. 20-22.
    """
    if min_iou >= max_iou:
        raise ValueError(f"min_iou must be below max_iou, found {min_iou} and {max_iou}")
    target = ((overlap - min_iou) / (max_iou - min_iou)).clamp(0, 1).detach()
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), target.float())


def remaining_mass(
    logits: Float[Tensor, "B S P"],
    bias: Float[Tensor, " 1"],
    sentence_mask: Bool[Tensor, "B S"],
    *,
    reverse: bool,
) -> Float[Tensor, "B S P"]:
    """Logits of each sentence after the sentences before it have taken their share of the map.

    Damping a cell's feature by e and projecting it, PL(e · F) = e · (w · F) + b, is damping the
    projection; so ``logits`` are the projections w · F without their bias, and the features
    themselves are never touched. What is left of a cell, 1 - sum of P, is kept at 0 or above.

    Args:
        logits: w · F for every sentence and proposal; padded sentences are ignored.
        bias: b.
        reverse: from the last sentence to the first.

    Source: DMR-JRG Eq. 18 and 19.
    """
    S = logits.shape[1]
    left = torch.ones_like(logits[:, 0])
    damped: list[Tensor] = [left] * S
    for s in reversed(range(S)) if reverse else range(S):  # the order is the point
        damped[s] = logits[:, s] * left + bias
        taken = damped[s].sigmoid() * sentence_mask[:, s, None].to(left.dtype)
        left = (left - taken).clamp(min=0)
    return torch.stack(damped, dim=1)
