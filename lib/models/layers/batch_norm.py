"""Batch norm of maps whose channels are last in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .uncompiled import uncompiled


def batch_norm(norm: nn.Module, rows: Float[Tensor, "M A D"]) -> Float[Tensor, "M A D"]:
    """``norm``, a BatchNorm2d, of rows; in training by the statistics of all of them.

    On a CPU, Torch's own adds up the cells of such maps one by one in float32: of 20,000 cells two
    digits of the statistics are lost.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    mean, variance, count = norm.running_mean, norm.running_var, rows[..., 0].numel()
    assert mean is not None and variance is not None and norm.num_batches_tracked is not None
    if not norm.training:
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return torch.addcmul(norm.bias, rows - mean, scale)
    if count < 2:
        raise ValueError(f"a batch norm in training needs more than one cell, found {count}")
    out, own_mean, own_variance = _normalised(rows, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        mean.lerp_(own_mean, norm.momentum)
        variance.lerp_(own_variance * (count / (count - 1)), norm.momentum)
    return out


class _BatchNorm(torch.autograd.Function):
    """Also the mean and the variance, which have no gradient. Centred rows are all that is kept,
    and few passes over them are made: each takes as long as memory does."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = rows.mean(dim=(0, 1))
        centred = rows - mean
        variance = centred.square().mean(dim=(0, 1))
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(centred, weight, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias, centred, weight * inverse), mean, variance

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        centred, weight, inverse = ctx.saved_tensors
        count = grad[..., 0].numel()
        of_bias = grad.sum(dim=(0, 1))
        of_weight = (grad * centred).sum(dim=(0, 1)) * inverse
        scale = weight * inverse
        of_rows = torch.addcmul(-scale * of_bias / count, grad, scale)
        of_rows.addcmul_(centred, -scale * inverse * of_weight / count)
        return of_rows, of_weight, of_bias, None


_normalised: Callable[..., tuple[Tensor, Tensor, Tensor]] = uncompiled(_BatchNorm.apply)
