"""Proposals whose features are weighed means of a video's rows, and the attention that the best of
them guides: what JSG and MS-SL compare sentences with.

Pooling is linear, so that the inner product with a proposal is the pooled product with its rows,
and no proposal's feature is needed for it. ``windows`` are the shares of the rows, (P, N), each
with sum 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .precision import in_full


class Matched(NamedTuple):
    """Sentences with the best proposal of each column, as cosines and as inner products."""

    cosine: Float[Tensor, "M G"]
    product: Float[Tensor, "M G"]


def products(
    q: Float[Tensor, "M D"], rows: Float[Tensor, "B N D"], windows: Float[Tensor, "P N"]
) -> Float[Tensor, "M B P"]:
    """Inner products of sentences with the proposals of all videos."""
    with in_full(q):
        return torch.einsum("md,bnd->mbn", q, rows) @ windows.T


def lengths(rows: Float[Tensor, "B N D"], windows: Float[Tensor, "P N"]) -> Float[Tensor, "B P"]:
    """Norms of the proposals' features."""
    with in_full(rows):
        return (windows @ rows).norm(dim=-1)


def matched(
    q: Float[Tensor, "M D"], product: Float[Tensor, "M G P"], lengths: Float[Tensor, "G P"]
) -> Matched:
    """The best of the proposals, by cosine and by inner product: these may be two."""
    cosine = (product / lengths).amax(dim=-1) / q.norm(dim=-1, keepdim=True)
    return Matched(cosine, product.amax(dim=-1))


def matched_features(q: Float[Tensor, "M D"], features: Float[Tensor, "M K D"]) -> Matched:
    """Every sentence with the K features of every sentence."""
    with in_full(q):
        product = torch.einsum("md,gkd->mgk", q, features)
    return matched(q, product, features.norm(dim=-1))


def best_windows(
    q: Float[Tensor, "M D"], own: Float[Tensor, "M N D"], lengths: Float[Tensor, "M P"],
    windows: Float[Tensor, "P N"],
) -> Int[Tensor, " M"]:  # fmt: skip
    """Which proposal of its own video has the highest cosine with each sentence."""
    with in_full(q):
        product = torch.einsum("md,mnd->mn", q, own) @ windows.T
    return (product / lengths).argmax(dim=1)


def attend(
    keys: Float[Tensor, "A K D"], frames: Float[Tensor, "A T D"], values: Float[Tensor, "A T D"]
) -> Float[Tensor, "A K D"]:
    """What each key attends to: the values' mean, weighed by the soft-max of the key's inner
    products with the frames, which are not divided by the root of D."""
    with in_full(keys):
        return (keys @ frames.mT).softmax(dim=-1) @ values
