"""Less memory for more time: the inner results of a stack of layers are computed twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...base import draws

SENTENCES = 16  # whose maps are in memory at once


class Recomputable(nn.Module):
    """A stack of layers that can compute its insides again in the backward pass.

    Attributes:
        recompute: do so, and keep nothing but the input; see ``recomputed``.
    """

    recompute = False


def recompute_stacks(model: nn.Module) -> None:
    """Set ``recompute`` in every ``Recomputable`` of a model."""
    for module in model.modules():
        if isinstance(module, Recomputable):
            module.recompute = True


def recomputed(stack: nn.Module, function: Callable[..., Tensor], *rows: Tensor | None) -> Tensor:
    """``function(*rows)`` whose inner results are not kept, but computed again in the backward
    pass, for a few rows at a time.

    Args:
        stack: the module whose layers ``function`` runs. If it has batch norms, which need all
            rows, the rows stay together and enter the running means once.
        rows: tensors of equal length, or None.
    """
    given = [x for x in rows if x is not None]
    alone = not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in stack.modules())
    size = SENTENCES if alone else max(len(given[0]), 1)
    contexts: dict[str, Any] = {}
    if not alone:
        contexts["context_fn"] = lambda: (contextlib.nullcontext(), statistics_kept(stack))
    blocks, done = draws.Blocks(len(given[0])), []
    for first in range(0, len(given[0]), size):
        block = [None if x is None else x[first : first + size] for x in rows]
        drawing = blocks.of(slice(first, first + size), function)
        done.append(checkpoint(drawing, *block, use_reentrant=False, **contexts))
    return torch.cat(done)


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """A context in which batch norms work as in training, but do not update running means."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, seen
