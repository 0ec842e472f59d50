"""Losses over a matrix of paragraph-video similarities.

Rows are paragraphs, columns videos, and item b of the batch is pair (b, b). ``same_video`` marks
pairs that describe one video: they are positives already, so they are never negatives.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
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


def sentence_nce(
    similarity: Float[Tensor, "M B"],
    scale: Float[Tensor, ""],
    owner: Int[Tensor, " M"],
    same_video: Bool[Tensor, "B B"],
    ambiguous: Bool[Tensor, "M B"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of finding a sentence's video among the batch, plus that of finding the
    sentence for its video among all sentences of other videos.

    Args:
        similarity: sentences x videos.
        owner: the paragraph of each sentence, and so the column of its video.
        ambiguous: pairs that are no negatives, because the sentence may be true of the video.
    """
    logits = similarity.float() * scale.float()
    other = same_video.index_select(0, owner)  # (M, B): columns that are the sentence's own video
    if ambiguous is not None:
        other = other | ambiguous
    own_column = nn.functional.one_hot(owner, len(same_video)).bool()
    to_video = nn.functional.cross_entropy(
        logits.masked_fill(other & ~own_column, -torch.inf), owner
    )
    # Row m of the second matrix: every sentence against the video of sentence m.
    columns = logits.T.index_select(0, owner)
    siblings = other.T.index_select(0, owner)
    itself = torch.eye(len(owner), dtype=torch.bool, device=owner.device)
    to_sentence = nn.functional.cross_entropy(
        columns.masked_fill(siblings & ~itself, -torch.inf),
        torch.arange(len(owner), device=owner.device),
    )
    return to_video + to_sentence


def within_paragraph_nce(
    similarity: Float[Tensor, "B S S"],
    scale: Float[Tensor, ""],
    mask: Bool[Tensor, "B S"],
    ambiguous: Bool[Tensor, "B S S"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of finding a sentence for its moment among the sentences of its paragraph,
    plus that of finding its moment for the sentence. Zero for a paragraph of one sentence.

    Args:
        similarity: [b, s, t] of sentence s with the moment that sentence t points at.
        ambiguous: pairs of sentences that may share a moment, and so are no negatives; symmetric.
    """
    B, S = mask.shape
    excluded = ~mask[:, None, :]
    if ambiguous is not None:
        itself = torch.eye(S, dtype=torch.bool, device=mask.device)
        excluded = excluded | (ambiguous & ~itself)
    logits = (similarity.float() * scale.float()).masked_fill(excluded, -torch.inf)
    flipped = (similarity.mT.float() * scale.float()).masked_fill(excluded, -torch.inf)
    target = torch.arange(S, device=mask.device).expand(B, S).masked_fill(~mask, -100).flatten()
    return nn.functional.cross_entropy(logits.flatten(0, 1), target) + nn.functional.cross_entropy(
        flipped.flatten(0, 1), target
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
    hinge = partial(hinge_against_one, margin=margin, generator=generator)
    to_video = hinge(similarity, partner, ~same_video)
    return to_video + hinge(similarity.T, partner, ~same_video)


def hinge_against_one(
    scores: Float[Tensor, "Q G"],
    positive: Float[Tensor, " Q"],
    negatives: Bool[Tensor, "Q G"],
    *,
    margin: float,
    pool: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows of the hinge between the positive score and that of one negative, drawn at
    random, from the ``pool`` hardest if that is given. A row without negatives counts as zero."""
    possible = negatives.any(dim=1)
    likeliest = scores.masked_fill(~negatives, -torch.inf)
    if pool == 1:
        chosen = likeliest.argmax(dim=1, keepdim=True)
    else:
        if pool is not None and pool < scores.shape[1]:
            negatives = negatives & (scores >= likeliest.topk(pool, dim=1).values[:, -1:])
        # A row without negatives still needs something to draw from; its term is dropped below.
        chances = torch.where(possible[:, None], negatives.float(), 1.0)
        chosen = draw_one(chances, generator)
    hinge = (margin + scores.gather(1, chosen)[:, 0] - positive).clamp(min=0)
    return torch.where(possible, hinge, 0.0).mean()


def draw_one(
    chances: Float[Tensor, "Q G"], generator: torch.Generator | None
) -> Int[Tensor, "Q 1"]:
    """A column for each row, by its chances: ``torch.multinomial``, number by number, which waits
    for the device to look at them."""
    return (chances / torch.empty_like(chances).exponential_(generator=generator)).argmax(
        dim=1, keepdim=True
    )


def distill(student: Float[Tensor, "Q G"], teacher: Float[Tensor, "Q G"]) -> Float[Tensor, ""]:
    """Mean squared difference over all pairs; no gradient reaches the teacher.

    Source: DMR-JRG Eq. 17 (GRRM). The release has a cross-entropy of soft-maxes under this name.
    """
    return (student.float() - teacher.detach().float()).square().mean()


def distill_listwise(
    student: Float[Tensor, "Q G"], teacher: Float[Tensor, "Q G"]
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the student's soft-max from the teacher's, over the videos for
    a paragraph plus over the paragraphs for a video, each a mean; no gradient reaches the teacher.

    Both are logits. Unlike the mean squared difference it asks for the teacher's ranking and not
    for its numbers, so that vectors whose cosines cannot reach those numbers can learn it.

    Source: GRRM as the release has it (a cross-entropy of soft-maxes), in both directions.
    """
    student, teacher = student.float(), teacher.detach().float()
    rows, columns = (
        nn.functional.kl_div(
            student.log_softmax(dim), teacher.log_softmax(dim), reduction="sum", log_target=True
        )
        for dim in (1, 0)
    )
    return rows / student.shape[0] + columns / student.shape[1]
