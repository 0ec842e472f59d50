"""What an epoch's log says about the training itself, beside the scores."""

from __future__ import annotations

import torch
from torch import nn

from lib.core.optimization import Optimization
from lib.core.runtime import Runtime, seed_everything
from lib.core.whole_batch import WholeBatch
from lib.datasets.batch import Batch
from lib.models.interface import Inspected


def inspect_training(
    model: nn.Module, optimization: Optimization, batch: Batch, runtime: Runtime, *, seed: int
) -> dict[str, float]:
    """Gradient norm of every loss term, weighted as in training, and what the model tells itself.

    A term whose gradient is far below the others' does not train anything, whatever its value; a
    reconstruction that does not miss the right frames does not look at them. No step is taken.

    Args:
        batch: one that was not trained on; with hidden moments where training hides them.
    """
    batch = batch.to(runtime.device)
    seed_everything(seed)
    told: dict[str, float] = {}
    model.train()
    for step in optimization.steps:
        values = WholeBatch(model, runtime).losses(step.criterion, batch)
        for name, weight in step.criterion.weights.items():
            if not values[name].requires_grad:  # nothing to rank, nobody to tell apart
                told[f"gradient/{name}"] = 0.0
                continue
            found = torch.autograd.grad(
                weight * values[name], step.parameters, retain_graph=True, allow_unused=True
            )
            norms = [gradient.norm() for gradient in found if gradient is not None]
            told[f"gradient/{name}"] = torch.stack(norms).norm().item() if norms else 0.0
    if isinstance(model, Inspected):
        model.eval()
        with torch.no_grad():
            told |= {name: value.item() for name, value in model.inspect(batch).items()}
    return told
