"""The loop over a training epoch. Predictions of a model are in ``prediction``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..base.batch import Batch
from ..base.runtime import Runtime
from ..models.interface import Model
from .batch_gradient import BatchGradient, gather_batch
from .nonfinite import NotFinite
from .optimization import Optimization
from .progress import Progress


class Batches(Sized, Protocol):
    """A loader of batches whose length is known."""

    def __iter__(self) -> Any: ...


def train_one_epoch(
    model: Model,
    batches: Iterable[Batch],
    optimization: Optimization,
    runtime: Runtime,
    progress: Progress,
    *,
    seed: int,
    max_grad_norm: float,
    batch_gradient: BatchGradient | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train on ``batches``, the remaining ones of the epoch; with several processes, each batch is
    this process's share.

    A batch is one step of the optimiser, or as many as the model's plan has stages; terms of the
    same name, ``total`` among them, add up. Every stage draws its random numbers from (seed, epoch,
    step, stage) and the paragraphs' ids alone. ``progress`` is brought up to date after each batch
    and given to ``on_step``, which may save, print, or stop by raising. ``batch_gradient`` says in
    how many parts, and how, a batch is computed.

    Raises:
        NotFinite: a loss or a gradient that is not finite; that step is not taken.
    """
    model.train()
    batch_gradient = batch_gradient or BatchGradient(model, runtime)
    limit = max_grad_norm if max_grad_norm > 0 else float("inf")
    optimization.set_epoch(progress.epoch)
    for batch in batches:
        optimization.set_step(progress.step)
        work = batch_gradient.prepare(batch)
        numbers: dict[str, float] = {}
        for stage, step in enumerate(optimization.steps):
            with optimization.learning(step):
                position = (progress.epoch, progress.step, stage)
                values = batch_gradient.backward(step.criterion, work, seed, *position)
            norm = nn.utils.clip_grad_norm_(step.parameters, limit)
            step_numbers = _to_numbers({**values, "grad_norm": norm})
            if not np.isfinite(list(step_numbers.values())).all():
                raise NotFinite(step_numbers, gather_batch(batch), stage)
            optimization.optimizer.step()
            for name, number in step_numbers.items():
                numbers[name] = numbers.get(name, 0.0) + number
        for name, number in numbers.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + number
        progress.step += 1
        on_step(progress)


def _to_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """The values as numbers, with a single synchronisation of the device."""
    stacked = torch.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, stacked, strict=True))
