"""A sentence as its words, without their order."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...base.batch import Batch, DataDims


class BagOfWords(nn.Module):
    """Features of a sentence without parameters: the mean of its words' vectors, and beside it one
    number for each id, both weighted by inverse document frequency and each of length 1.

    Args:
        dims: with ``word_idf``.

    Attributes:
        width: of a feature, E + V.

    Raises:
        ValueError: how rare the words are is not known.
    """

    idf: Float[Tensor, " V"]

    def __init__(self, dims: DataDims) -> None:
        super().__init__()
        if dims.word_idf is None:
            raise ValueError("a bag of words needs the inverse document frequency of each id")
        self.register_buffer("idf", dims.word_idf.clone())
        self.width = dims.word_dim + dims.vocab_size

    def forward(self, batch: Batch) -> Float[Tensor, "M F"]:
        ids, mask = batch.flat(batch.word_ids), batch.flat(batch.word_mask)
        weights = self.idf[ids] * mask
        words = torch.where(mask[..., None], batch.flat(batch.words), 0.0)
        mean = torch.einsum("mw,mwe->me", weights, words)
        bag = weights.new_zeros(len(ids), len(self.idf)).scatter_add(1, ids, weights)
        bag[:, :2] = 0  # padding, and words that the training sentences do not have
        parts = [nn.functional.normalize(x, dim=-1) for x in (mean, bag)]
        return torch.cat(parts, dim=-1)
