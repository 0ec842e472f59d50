"""Losses over a matrix of paragraph-video similarities.

Rows are paragraphs, columns videos, and item b of the batch is pair (b, b). ``same_video`` marks
pairs that describe one video: they are positives already, so they are never negatives.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def info_nce(
    similarity: Float[Tensor, "B B"], scale: Float[Tensor, ""], same_video: Bool[Tensor, "B B"]
) -> Float[Tensor, ""]:
    """Cross-entropy of finding the partner among the batch, paragraph to video plus video to
    paragraph.

    Source: DMR-JRG Eq. 2-4; the sum of both directions, each a mean over the batch.
    """
    B = len(similarity)
    other = same_video & ~torch.eye(B, dtype=torch.bool, device=similarity.device)
    logits = (similarity.float() * scale.float()).masked_fill(other, -torch.inf)
    target = torch.arange(B, device=similarity.device)
    return nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(
        logits.T, target
    )


def triplet(
    similarity: Float[Tensor, "B B"],
    same_video: Bool[Tensor, "B B"],
    *,
    margin: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Hinge between the partner and one other item of the batch, drawn at random, both directions.

    An item without any negative in the batch counts as zero.

    Source: DMR-JRG Eq. 5-7. The released code draws among the 20 hardest; the paper does not say.
    """
    similarity = similarity.float()
    partner = similarity.diagonal()
    chances = (~same_video).float()
    possible = chances.sum(dim=1) > 0
    # A row without negatives still needs something to draw from; its term is dropped below.
    chances = torch.where(possible[:, None], chances, 1.0)
    total = similarity.new_zeros(())
    for matrix in (similarity, similarity.T):
        negative = torch.multinomial(chances, 1, generator=generator)
        hinge = (margin + matrix.gather(1, negative).squeeze(1) - partner).clamp(min=0)
        total = total + torch.where(possible, hinge, 0.0).mean()
    return total


def distill(student: Float[Tensor, "B B"], teacher: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """Mean squared difference over all pairs; no gradient reaches the teacher.

    Source: DMR-JRG Eq. 17 (GRRM). The release has a cross-entropy of soft-maxes under this name.
    """
    return (student.float() - teacher.detach().float()).square().mean()
