"""A sentence and the cells of its video's map as one feature."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

SMALLEST = 1e-12  # a product is not divided by less than that


def fused_cells(
    query: Float[Tensor, "M D"],
    cells: Float[Tensor, "B P D"],
    owner: Int[Tensor, " M"],
    length: float = 1.0,
) -> Float[Tensor, "M P D"]:
    """The products of each sentence with the cells of its own video, scaled to ``length``.

    Of all that is computed on the way the backward pass needs the result alone, which is as large
    as the map of every sentence; so nothing else of that size is kept.

    Args:
        owner: the video of each sentence.

    Source: 2D-TAN; DMR-JRG Eq. 8.
    """
    return _FusedCells.apply(query, cells, owner, length)


class _FusedCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, cells: Tensor, owner: Tensor, length: float) -> Tensor:
        fused = cells.index_select(0, owner).mul_(query[:, None])
        precise = torch.promote_types(fused.dtype, torch.float32)
        norm = torch.linalg.vector_norm(fused, dim=-1, keepdim=True, dtype=precise)
        factor = length / norm.clamp(min=SMALLEST)
        fused.mul_(factor)
        ctx.save_for_backward(query, cells, owner, factor, norm >= SMALLEST, fused)
        ctx.length = length
        return fused

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, cells, owner, factor, scaled, fused = ctx.saved_tensors
        along = gradient * fused
        share = along.sum(dim=-1, keepdim=True).mul_(scaled / ctx.length**2)
        # Across the fused feature, to which the norm leaves a gradient, and before the norm.
        product = torch.addcmul(gradient, fused, share, value=-1, out=along).mul_(factor)
        to_query = cells.index_select(0, owner).mul_(product).sum(dim=1)
        product.mul_(query[:, None])
        return to_query, torch.zeros_like(cells).index_add_(0, owner, product), None, None
