"""Losses between sentences and the proposals of all videos of a batch, in one joint space.

J is the width of that space; its vectors have length one.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def best_proposals(
    cells: Float[Tensor, "B P J"],
    overlap: Float[Tensor, "M P"],
    owner: Int[Tensor, " M"],
    positives: int,
) -> Float[Tensor, "M R J"]:
    """The features of the R = ``positives`` proposals that overlap a sentence's moment most."""
    chosen = overlap.topk(positives, dim=1).indices
    return cells[owner[:, None], chosen]


def proposal_to_sentence(
    proposals: Float[Tensor, "M R J"],
    sentences: Float[Tensor, "M J"],
    rival: Bool[Tensor, "M M"],
    *,
    margin: float,
    temperature: float,
) -> Float[Tensor, ""]:
    """A proposal must find its sentence among the rival sentences of the batch.

    Args:
        proposals: the positive ones of each sentence.
        rival: [s, t] if sentence t is a negative for the proposals of sentence s.
        margin: taken off the positive similarity before the soft-max.

    Source: MMN's first mutual-matching term, mean over sentences and proposals.
    """
    logits = torch.einsum("mrj,nj->mrn", proposals, sentences).float()
    itself = torch.eye(len(sentences), dtype=torch.bool, device=sentences.device)
    logits = (logits - margin * itself[:, None]) / temperature
    logits = logits.masked_fill(~(rival | itself)[:, None], -torch.inf)
    target = torch.arange(len(sentences), device=sentences.device)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), target.repeat_interleave(proposals.shape[1])
    )


def sentence_to_proposal(
    sentences: Float[Tensor, "M J"],
    proposals: Float[Tensor, "M R J"],
    cells: Float[Tensor, "B P J"],
    rival: Bool[Tensor, "M B P"],
    *,
    margin: float,
    temperature: float,
) -> Float[Tensor, ""]:
    """A sentence must find its proposal among the rival proposals of all videos of the batch.

    Args:
        proposals: the positive ones of each sentence.
        rival: which cells are negatives of a sentence. The released code multiplies the others by
            zero before the exponential, so that each adds e^0 to the denominator; here they add
            nothing, as the paper has it.

    Source: MMN's second mutual-matching term, mean over sentences and proposals.
    """
    positive = torch.einsum("mj,mrj->mr", sentences, proposals).float() - margin
    positive = positive / temperature
    negative = torch.einsum("mj,bpj->mbp", sentences, cells).float() / temperature
    negative = negative.masked_fill(~rival, -torch.inf).flatten(1).logsumexp(dim=1)
    return (torch.logaddexp(positive, negative[:, None]) - positive).mean()
