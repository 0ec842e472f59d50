"""The loss of a batch and its gradient, computed by several processes or in several parts.

A batch may be shared among processes, and a process may encode its share in several parts that do
not fit its memory together. ``Model.compare`` and the losses see the full batch in either case, so
the loss and the gradient are those of the batch in one piece. What is drawn belongs to the
paragraphs (``lib.base.draws``), so that this holds for random numbers too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import distributed, draws
from ..base.batch import Batch, join
from ..base.runtime import Runtime, seed_everything
from ..losses import Criterion
from ..models.interface import Encoded, Model
from ..models.layers.recompute import recompute_stacks, statistics_kept

COMPARISON = 1 << 20  # seeds the comparison, which all processes draw for the whole batch


@dataclass(frozen=True)
class Work:
    """A batch on the device.

    Attributes:
        pieces: the parts that this process encodes, one after the other.
        outline: the batch of all processes without frames and words (``Batch.outline``), which is
            all that ``compare`` and the losses read.
    """

    pieces: tuple[Batch, ...]
    outline: Batch


class BatchGradient:
    """Computes gradients for a model.

    Args:
        accumulate: in how many parts to encode a batch. With more than one, every part is encoded
            twice: without gradients, for the inputs of ``compare``; and again, when the gradient
            with respect to each part's encoding is known (gradient caching; Gao et al. 2021).
            Memory is that of one part, the gradient that of the full batch.
        recompute_map: do not keep the insides of the map's layers for the backward pass.
        compiler: the backend with which torch.compile translates ``encode`` for batches of any
            size; "" leaves it as it is.
    """

    def __init__(
        self,
        model: Model,
        runtime: Runtime,
        *,
        accumulate: int = 1,
        recompute_map: bool = False,
        compiler: str = "",
    ) -> None:
        self.model, self.runtime, self.accumulate = model, runtime, accumulate
        draws.drop_by_paragraph(model)
        if recompute_map:
            recompute_stacks(model)
        self.encode: Any = None
        if compiler:
            self.encode = torch.compile(model.encode, dynamic=True, backend=compiler)

    def prepare(self, batch: Batch) -> Work:
        """Bring this process's share of a batch to the device."""
        device, pieces = self.runtime.device, [batch]
        outlines = _gather_batches(batch.outline()) if self._shared else []
        parts = min([self.accumulate, *map(len, outlines or pieces)])
        if parts > 1:
            pieces = batch.split(parts)
        moved = tuple(piece.to(device) for piece in pieces)
        if outlines:
            return Work(moved, join(outlines).to(device))
        return Work(moved, moved[0] if parts == 1 else batch.outline().to(device))

    def losses(
        self, criterion: Criterion, batch: Batch, seed: int = 0, *position: int
    ) -> dict[str, Tensor]:
        """The loss terms of a batch on the device, in this process alone and in one piece.

        Args:
            seed, position: seed the random numbers.
        """
        seed_everything(seed, *position)
        with draws.drawn_for(batch):
            parts = self._encoded(batch, criterion.active)
        seed_everything(seed, *position, COMPARISON)
        return self._compared(criterion, parts, batch)

    def backward(
        self, criterion: Criterion, work: Work, seed: int, *position: int
    ) -> dict[str, Tensor]:
        """The loss terms of the full batch; the gradient of ``total`` is left in the parameters.

        Args:
            seed, position: seed the random numbers. Each process and part begins with the same
                ones: what a paragraph is given of them depends on its id.
        """
        terms = criterion.active
        if not self._shared and len(work.pieces) == 1:
            with draws.drawn_for(work.pieces[0]):  # of layers that are computed again, too
                values = self.losses(criterion, work.pieces[0], seed, *position)
                values["total"].backward()  # type: ignore[no-untyped-call]
            return values

        if len(work.pieces) == 1:
            seed_everything(seed, *position)
            with draws.drawn_for(work.pieces[0]):
                parts = self._encoded(work.pieces[0], terms)
        else:
            with torch.no_grad(), statistics_kept(self.model):
                encoded = []
                for piece in work.pieces:
                    seed_everything(seed, *position)
                    with draws.drawn_for(piece):
                        encoded.append(self._encoded(piece, terms))
            parts = {name: torch.cat([each[name] for each in encoded]) for name in encoded[0]}
            for value in parts.values():
                value.requires_grad_(value.is_floating_point())

        gathered = self._gathered(parts)
        seed_everything(seed, *position, COMPARISON)
        values = self._compared(criterion, gathered, work.outline)
        with draws.drawn_for(work.pieces[0]):
            values["total"].backward()  # type: ignore[no-untyped-call]

        if len(work.pieces) > 1:
            first = dict.fromkeys(parts, 0)
            for piece in work.pieces:
                seed_everything(seed, *position)
                with draws.drawn_for(piece):
                    self._pass_back(self._encoded(piece, terms), parts, first)
        if self._shared:
            distributed.average_gradients(self.model.parameters())
        return values

    @property
    def _shared(self) -> bool:
        return distributed.world_size() > 1

    def _encoded(self, batch: Batch, terms: frozenset[str] | None) -> Encoded:
        with self.runtime.autocast():
            parts = (self.encode or self.model.encode)(batch, terms)
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in parts.items()
        }

    def _compared(self, criterion: Criterion, parts: Encoded, batch: Batch) -> dict[str, Tensor]:
        return criterion(self.model.compare(parts, batch), batch)

    def _gathered(self, parts: Encoded) -> Encoded:
        if not self._shared:
            return parts
        counts = zip(*distributed.gather_numbers([len(x) for x in parts.values()]), strict=True)
        return {
            name: distributed.gather_rows(value, each)
            for (name, value), each in zip(parts.items(), counts, strict=True)
        }

    @staticmethod
    def _pass_back(encoded: Encoded, parts: Encoded, first: dict[str, int]) -> None:
        """Backpropagate the loss's gradient of a part's rows, which begin at ``first``, to the
        parameters."""
        reached, gradients = [], []
        for name, value in encoded.items():
            start, first[name] = first[name], first[name] + len(value)
            gradient = parts[name].grad
            if value.requires_grad and gradient is not None:
                reached.append(value)
                gradients.append(gradient[start : first[name]])
        if reached:
            torch.autograd.backward(reached, gradients)  # type: ignore[no-untyped-call]


def gather_batch(batch: Batch) -> Batch:
    """The batch of all processes with its frames and words, on the CPU."""
    batch = batch.to("cpu")
    return join(_gather_batches(batch)) if distributed.world_size() > 1 else batch


def _gather_batches(batch: Batch) -> list[Batch]:
    """The batches of all processes. Sent as arrays: a tensor would be sent with all its storage."""
    fields: dict[str, Any] = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    packed = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in fields.items()}
    batches = []
    for each in distributed.gather_objects(packed):
        tensors: dict[str, Any] = {
            k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in each.items()
        }
        batches.append(Batch(**tensors))
    return batches
