"""A training step that is not finite: where that began, and the step as a file.

Nothing of this runs before the fault. After it the step is computed a second time, with hooks on
every module; every step draws its random numbers from (seed, epoch, step) and the paragraphs' ids,
so it is the same step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.batch import Batch, DataDims
from ..base.errors import InputError
from ..base.runtime import Runtime
from ..base.schema import Wrong
from ..config.config import dump_config
from ..models.interface import Model
from . import checkpoint
from .batch_gradient import BatchGradient
from .optimization import Optimization
from .progress import Progress
from .schema import check_step

EXIT_STATUS = 3  # of the scripts, apart from 1 (a traceback) and 2 (bad input)


class NotFinite(ArithmeticError):
    """A loss or a gradient of a training step is not finite; the step was not taken.

    Attributes:
        numbers: every loss term and the norm of the gradient.
        batch: what it happened on.
        stage: which of the batch's steps it was, from 0.
    """

    def __init__(self, numbers: Mapping[str, float], batch: Batch, stage: int = 0) -> None:
        self.numbers, self.batch, self.stage = dict(numbers), batch, stage
        values = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
        videos = ", ".join(batch.video_ids)
        super().__init__(f"the step is not finite ({values}) on the videos {videos}")


@dataclass
class Origin:
    """Where a step stopped being finite. All empty: it is finite."""

    inputs: list[str] = field(default_factory=list)  # "video of v_a": what came from the data
    weights: list[str] = field(default_factory=list)  # parameters and buffers, before the step
    module: str = ""  # the first whose output is not finite, or else whose output's gradient
    terms: list[str] = field(default_factory=list)  # whose value, or else whose gradient

    def __bool__(self) -> bool:
        return bool(self.inputs or self.weights or self.module or self.terms)

    def lines(self) -> list[str]:
        """The lines of a report, the cause before its effects."""
        groups = {"not finite in the batch": self.inputs, "weights that are not": self.weights}
        lines = [f"{what}: {_few(names)}" for what, names in groups.items() if names]
        if self.module:
            lines.append(f"first module: {self.module}")
        if self.terms:
            lines.append(f"loss terms: {', '.join(self.terms)}")
        return lines


def locate(
    model: Model,
    optimization: Optimization,
    batch: Batch,
    *,
    seed: int,
    epoch: int,
    step: int,
    stage: int = 0,
    runtime: Runtime | None = None,
) -> Origin:
    """Compute a step once more, without taking it, and find where it stops being finite.

    It is computed in one piece and by this process alone, with the random numbers that it had,
    whether or not several processes shared it or it was accumulated.

    Args:
        batch: all of it, on the CPU.
        runtime: where to compute; the CPU, unless given.
        epoch, step, stage: which step it is; they and the seed decide what it draws.
    """
    model.train()
    runtime = runtime or Runtime(torch.device("cpu"))
    batch = batch.to(runtime.device)
    origin = Origin(inputs=_in_batch(batch))
    named = [*model.named_parameters(), *model.named_buffers()]
    origin.weights = [name for name, value in named if not _finite(value)]
    optimization.set_epoch(epoch)
    chosen = optimization.steps[stage]
    criterion = chosen.criterion
    with optimization.learning(chosen), _Watch(model) as watch:
        values = BatchGradient(model, runtime).losses(criterion, batch, seed, epoch, step, stage)
        origin.module = watch.first
        terms = {name: value for name, value in values.items() if name != "total"}
        origin.terms = [name for name, value in terms.items() if not _finite(value)]
        if not origin.module and not origin.terms:
            for name, value in terms.items():
                watch.backwards = True
                gradients = torch.autograd.grad(
                    value, chosen.parameters, retain_graph=True, allow_unused=True
                )
                if not all(gradient is None or _finite(gradient) for gradient in gradients):
                    origin.terms.append(f"{name} (its gradient)")
            origin.module = watch.first
    return origin


def save_step(
    path: Path,
    *,
    model: nn.Module,
    optimization: Optimization,
    fault: NotFinite,
    progress: Progress,
    config: Mapping[str, Any],
    experiment: Mapping[str, Any],
) -> None:
    """Write a checkpoint that also holds the batch and the configuration: all of one step."""
    fields = {f.name: getattr(fault.batch, f.name) for f in dataclasses.fields(Batch)}
    state = {
        "model": model.state_dict(),
        "optimizer": optimization.state_dict(),
        "progress": dataclasses.asdict(progress),
        "experiment": dict(experiment),
        "epoch": progress.epoch,
        "stage": fault.stage,
        "config": dump_config(config),
        "batch": {k: v.cpu() if isinstance(v, Tensor) else list(v) for k, v in fields.items()},
    }
    checkpoint.save(path, state)


def batch_of(state: Mapping[str, Any]) -> Batch:
    """The batch in a file of ``save_step``.

    Raises:
        InputError: the checkpoint holds none, or one of another release.
    """
    try:
        check_step(state)
    except Wrong as fault:
        raise InputError(
            f"the checkpoint holds no step to replay ({fault}); expected a file of a stopped run"
        ) from None
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in state["batch"].items()
    }
    return Batch(**fields)


def dims_of(state: Mapping[str, Any]) -> DataDims:
    """The sizes of the data of a step; the vectors of the words are among its weights."""
    sizes = state["experiment"]["dims"]
    words = torch.zeros(sizes["vocab_size"], sizes["word_dim"])
    return DataDims(**sizes, word_vectors=words, word_idf=words.new_zeros(len(words)))


class _Watch:
    """Remembers the first module whose output, or then whose output's gradient, is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.first = ""
        self.backwards = False
        self.model = model

    def __enter__(self) -> _Watch:
        self.handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in self.model.named_modules()
            if name  # else the model itself, of which two methods are called
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def watch(module: nn.Module, given: Any, output: Any) -> None:
            described = f"{name} ({type(module).__name__})"
            for tensor in _tensors(output):
                if not self.first and not _finite(tensor):
                    input_is_finite = all(_finite(each) for each in _tensors(given))
                    about_input = (
                        "its input is finite" if input_is_finite else "and so is its input"
                    )
                    self.first = f"{described}, output {_kinds(tensor)}, {about_input}"
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self._see(gradient, described))

        return watch

    def _see(self, gradient: Tensor, described: str) -> None:
        if self.backwards and not self.first and not _finite(gradient):
            self.first = f"{described}, the gradient of its output {_kinds(gradient)}"


def _in_batch(batch: Batch) -> list[str]:
    """Which inputs of which videos are not finite (moments may be hidden, which is NaN)."""
    return [
        f"{name} of {video}"
        for name in ("video", "words", "word_weights", "duration")
        for video, value in zip(batch.video_ids, getattr(batch, name), strict=True)
        if not _finite(value)
    ]


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _kinds(value: Tensor) -> str:
    counts = {"NaN": int(value.isnan().sum()), "infinity": int(value.isinf().sum())}
    text = " and ".join(f"{count:,} times {kind}" for kind, count in counts.items() if count)
    return f"is {text} of {value.numel():,}"


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in what a module takes or returns."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Batch):  # the model's input: hidden moments are NaN by design
        yield from (tree.video, tree.words)
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for part in dataclasses.fields(tree):
            yield from _tensors(getattr(tree, part.name))


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
