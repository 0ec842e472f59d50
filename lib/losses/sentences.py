"""Losses over a matrix of sentence-video similarities: several sentences belong to one video.

``owner`` is each sentence's paragraph, and so the column of its video. ``same_video`` marks
paragraphs of one video: their sentences and columns are never each other's negatives. Where each
sentence has a column of its own, ``sentence_columns`` gives both.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .similarity import hinge_against_one


def sentence_columns(
    owner: Int[Tensor, " M"], same_video: Bool[Tensor, "B B"]
) -> tuple[Int[Tensor, " M"], Bool[Tensor, "M M"]]:
    """``owner`` and ``same_video`` of a matrix whose columns are the sentences, each standing for
    its own video: the pairing of releases in which one sentence is one row of the batch."""
    shared = same_video.index_select(0, owner).index_select(1, owner)
    return torch.arange(len(owner), device=owner.device), shared


def multi_positive_nce(
    similarity: Float[Tensor, "M B"], owner: Int[Tensor, " M"], same_video: Bool[Tensor, "B B"]
) -> Float[Tensor, ""]:
    """A sentence's video against the others, and a video's sentences together against the others.

    Source: the InfoNCE of GMMFormer and DCIML, without a temperature; each direction a mean.
    """
    similarity = similarity.float()
    shared = same_video.index_select(0, owner)  # (M, B)
    own_video = similarity.gather(1, owner[:, None])
    twins = shared.scatter(1, owner[:, None], False)
    to_video = similarity.masked_fill(twins, -torch.inf).logsumexp(dim=1) - own_video[:, 0]
    positive = similarity.masked_fill(~shared, -torch.inf).logsumexp(dim=0)
    return to_video.mean() + (similarity.logsumexp(dim=0) - positive).mean()


def joint_nce(
    similarity: Float[Tensor, "M B"], owner: Int[Tensor, " M"], same_video: Bool[Tensor, "B B"]
) -> Float[Tensor, ""]:
    """A sentence and its video against all other videos for the sentence and all other sentences
    for the video, in one sum, mean over sentences. The pair itself is in the sum twice.

    Source: JSG's release (its paper has two logarithms), without a temperature.
    """
    similarity = similarity.float()
    shared = same_video.index_select(0, owner)  # (M, B)
    own_video = similarity.gather(1, owner[:, None])
    twins = shared.scatter(1, owner[:, None], False)
    rows = similarity.masked_fill(twins, -torch.inf)
    # Row m: every sentence with the video of sentence m.
    columns, siblings = (x.T.index_select(0, owner) for x in (similarity, shared))
    itself = torch.eye(len(owner), dtype=torch.bool, device=owner.device)
    columns = columns.masked_fill(siblings & ~itself, -torch.inf)
    return (torch.cat([rows, columns], dim=1).logsumexp(dim=1) - own_video[:, 0]).mean()


def sentence_triplet(
    similarity: Float[Tensor, "M B"],
    owner: Int[Tensor, " M"],
    same_video: Bool[Tensor, "B B"],
    *,
    margin: float,
    video_pool: int | None = None,
    sentence_pool: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Hinge of a sentence with its video against another video, and of a video with its sentences
    (their mean) against one sentence of another.

    The negative is drawn at random, from the hardest ``video_pool`` videos or ``sentence_pool``
    sentences if these are given. What has no negative in the batch counts as zero.

    Source: MS-SL, and DCIML and JSG after it. DCIML's pool of the 22 hardest videos holds every
    video of its batches of 16.
    """
    similarity = similarity.float()
    shared = same_video.index_select(0, owner)
    own_video = similarity.gather(1, owner[:, None])[:, 0]
    hinge = partial(hinge_against_one, margin=margin, generator=generator)
    to_video = hinge(similarity, own_video, ~shared, pool=video_pool)
    counts = torch.zeros_like(similarity[0]).index_add(0, owner, torch.ones_like(own_video))
    mean = torch.zeros_like(similarity[0]).index_add(0, owner, own_video) / counts
    return to_video + hinge(similarity.T, mean, ~shared.T, pool=sentence_pool)
