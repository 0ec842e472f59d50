"""Diagnostics of training in an epoch's log: gradient norms, and numbers of the model."""

from __future__ import annotations

import torch

from ..base.batch import Batch
from ..base.runtime import Runtime
from ..models.interface import Model
from .batch_gradient import BatchGradient
from .optimization import Optimization


def inspect_training(
    model: Model, optimization: Optimization, batch: Batch, runtime: Runtime, *, seed: int
) -> dict[str, float]:
    """Gradient norm of every loss term, weighted as in training, and the model's own numbers.

    A term whose gradient is far below the others' does not train anything, whatever its value; a
    reconstruction that does not miss the right frames does not look at them. No step is taken.

    Args:
        batch: one that was not trained on; without moments (NaN) where training has none.
    """
    batch = batch.to(runtime.device)
    numbers: dict[str, float] = {}
    model.train()
    for step in optimization.steps:
        values = BatchGradient(model, runtime).losses(step.criterion, batch, seed)
        for name, weight in step.criterion.weights.items():
            if not values[name].requires_grad:  # e.g. a single candidate, nothing to rank
                numbers[f"gradient/{name}"] = 0.0
                continue
            gradients = torch.autograd.grad(
                weight * values[name], step.parameters, retain_graph=True, allow_unused=True
            )
            norms = [gradient.norm() for gradient in gradients if gradient is not None]
            numbers[f"gradient/{name}"] = torch.stack(norms).norm().item() if norms else 0.0
    model.eval()
    with torch.no_grad():
        numbers |= {name: value.item() for name, value in model.inspect(batch).items()}
    return numbers
