"""Losses of the reconstruction of masked words."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def candidate_nll(
    logits: Float[Tensor, "Q R V"],
    target: Int[Tensor, " R"],
    sentence: Int[Tensor, " R"],
    num_sentences: int,
    *,
    label_smoothing: float,
) -> Float[Tensor, "M Q"]:
    """Negative log-likelihood of a sentence's words given each candidate, in nats, mean over words.

    Words outside the vocabulary (id 1) count like any other word.

    Source: the inner sums of DMR-JRG Eq. 11, as a mean (long sentences would otherwise rule).
    """
    Q, R, _ = logits.shape
    nll = nn.functional.cross_entropy(
        logits.float().flatten(0, 1),
        target.repeat(Q),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(Q, R)
    sums = nll.new_zeros(Q, num_sentences).index_add(1, sentence, nll)
    words = nll.new_zeros(num_sentences).index_add(0, sentence, torch.ones_like(nll[0]))
    return (sums / words.clamp(min=1)).T


def rank_by_reconstruction(
    scores: Float[Tensor, "M Q"], nll: Float[Tensor, "M Q"]
) -> Float[Tensor, ""]:
    """Candidates that reconstruct better should score better.

    Sorted by ``nll``, best first, candidates are rewarded 1, 1 - 1/(Q-1), …, 0; the loss is the
    reward times the negative log-soft-max of their scores, mean over candidates and sentences.
    The rewards carry no gradient.

    Source: DMR-JRG Eq. 12, after SCN. With one candidate there is nothing to rank: zero.
    """
    Q = scores.shape[1]
    if Q == 1:
        return scores.float().sum() * 0
    rank = nll.detach().argsort(dim=1).argsort(dim=1)
    reward = 1 - rank.float() / (Q - 1)
    return -(reward * scores.float().log_softmax(dim=1)).mean()


def reconstruct_best(nll: Float[Tensor, "M P"], whole: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """The sentence from the best of its proposals and from the whole video, half each.

    Source: CPL, and DCIML and PPS after it.
    """
    return (nll.amin(dim=1).mean() + whole.mean()) / 2


def better_than(
    nll: Float[Tensor, "M P"], other: Float[Tensor, "M R"], *, margin: float
) -> Float[Tensor, ""]:
    """The best proposal should predict the words better than each of R others, by a margin: a hinge
    each, mean over sentences, sum over the others.

    Source: CNM's contrast inside a video, and CPL, PPS and DCIML after it.
    """
    lead = nll.amin(dim=1, keepdim=True) - other + margin
    return lead.clamp(min=0).mean(dim=0).sum()
