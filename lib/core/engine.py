"""The loop over a training epoch. What a model answers is in ``prediction``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.guard import NotFinite
from lib.core.optimization import Optimization
from lib.core.runtime import Runtime, seed_everything
from lib.core.whole_batch import WholeBatch, whole_content
from lib.datasets.batch import Batch


class Batches(Sized, Protocol):
    """A loader of batches whose length is known."""

    def __iter__(self) -> Any: ...


@dataclass
class Progress:
    """Where a run stands. With the seed and the data it decides everything that follows."""

    epoch: int = 0  # the epoch under way, from 0
    step: int = 0  # steps of it that are done
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over those steps
    best_score: float | None = None
    best_epoch: int | None = None
    kept: list[tuple[float, int]] = field(default_factory=list)  # (score, epoch), best first

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps of the epoch so far."""
        return {name: value / max(self.step, 1) for name, value in self.sums.items()}


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimization: Optimization,
    runtime: Runtime,
    progress: Progress,
    *,
    seed: int,
    max_grad_norm: float,
    whole: WholeBatch | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train on ``batches``, the ones of the epoch that are still to come; of several processes, on
    this one's share of each.

    A batch is one step of the optimiser, or as many as the model's plan has stages; terms of the
    same name, ``total`` among them, add up. Every batch draws its random numbers from (seed, epoch,
    step) alone. ``progress`` is brought up to date after each and given to ``on_step``, which may
    save, print, or stop by raising. ``whole`` says in how many parts, and how, a batch is computed.

    Raises:
        NotFinite: a loss or a gradient that is not finite; that step is not taken.
    """
    model.train()
    whole = whole or WholeBatch(model, runtime)
    limit = max_grad_norm if max_grad_norm > 0 else float("inf")
    optimization.set_epoch(progress.epoch)
    for batch in batches:
        seed_everything(seed, progress.epoch, progress.step)
        optimization.set_step(progress.step)
        work = whole.prepare(batch)
        numbers: dict[str, float] = {}
        for stage, step in enumerate(optimization.steps):
            if stage:  # of its own, so that a stage can be computed again alone
                seed_everything(seed, progress.epoch, progress.step, stage)
            with optimization.learning(step):
                place = (progress.epoch, progress.step, stage)
                values = whole.backward(step.criterion, work, seed, *place)
            norm = nn.utils.clip_grad_norm_(step.parameters, limit)
            found = _to_numbers({**values, "grad_norm": norm})
            if not np.isfinite(list(found.values())).all():
                raise NotFinite(found, whole_content(batch), stage)
            optimization.optimizer.step()
            for name, number in found.items():
                numbers[name] = numbers.get(name, 0.0) + number
        for name, number in numbers.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + number
        progress.step += 1
        on_step(progress)


def _to_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """All of them with one wait for the device."""
    stacked = torch.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, stacked, strict=True))
