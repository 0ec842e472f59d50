"""Measurements of time and memory, on batches of realistic size."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..base.batch import Batch, DataDims, Sample, collate
from ..base.runtime import Runtime
from ..training.batch_gradient import BatchGradient
from ..training.optimization import Optimization

# Sentences of a paragraph and words of a sentence: quantiles of ActivityNet Captions' training
# split (10,009 paragraphs, 3.74 sentences of 13.5 words on average), in the middle of equal parts.
SENTENCES = (2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 6, 8)
MIDDLE = (4, 3, 4, 4)  # with nearly the same mean, whichever of them a few paragraphs have
WORDS = (6, 7, 7, 8, 9, 9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 17, 18, 20, 22, 29)


def typical_samples(
    dims: DataDims, count: int, *, seed: int = 0, sentences: Sequence[int] = SENTENCES
) -> list[Sample]:
    """Paragraphs with the lengths of ActivityNet Captions and random content, each of a video.

    Args:
        sentences: the numbers of sentences that paragraphs have, each as often as the others.
    """
    g = torch.Generator().manual_seed(seed)
    draw = np.random.default_rng(seed)
    lengths = np.resize(draw.permutation(sentences), count)
    words = iter(np.resize(draw.permutation(WORDS), lengths.sum()).tolist())
    return [
        _sample(dims, index, [next(words) for _ in range(n)], g) for index, n in enumerate(lengths)
    ]


def typical_batch(
    dims: DataDims, count: int, *, seed: int = 0, sentences: Sequence[int] = SENTENCES
) -> Batch:
    """See ``typical_samples``; 16 paragraphs have 58 sentences."""
    return collate(typical_samples(dims, count, seed=seed, sentences=sentences))


def _sample(dims: DataDims, index: int, counts: Sequence[int], g: torch.Generator) -> Sample:
    ids = torch.randint(2, max(3, dims.vocab_size), (sum(counts),), generator=g)
    ends = torch.rand(len(counts), 2, generator=g).sort(dim=1).values
    rows = torch.randn(dims.num_frames, dims.video_dim, generator=g)
    return Sample(
        video=torch.nn.functional.normalize(rows, dim=1),
        words=torch.randn(len(ids), dims.word_dim, generator=g),
        word_ids=ids,
        word_weights=1 + (ids % 2).float(),
        word_counts=torch.tensor(counts),
        moments=(ends + torch.tensor([0.0, 0.1])) * 100,
        duration=110.0,
        video_index=index,
        video_id=f"v{index}",
        paragraph_id=f"p{index}",
        sentences=tuple("word " * n for n in counts),
    )


class Clock:
    """Measures durations, in seconds, by name; each ends when the device has finished its work."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.runtime.synchronize()
        began = time.perf_counter()
        yield
        self.runtime.synchronize()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.seconds.items()}


def repeated(work: Callable[[], Any], *, seconds: float, most: int = 50) -> int:
    """Call ``work`` for about ``seconds``, at least once; returns the number of calls."""
    began = time.perf_counter()
    for count in range(1, most + 1):
        work()
        spent = time.perf_counter() - began
        if spent * (count + 1) / count > seconds:
            break
    return count


@dataclass(frozen=True)
class Operations:
    """Floating-point operations by definition; a multiplication and an addition are two."""

    total: int  # of matrix products, convolutions and attention
    convolutions: int  # of these; kernels that have fewer multiplications can compute them


def count_flops(work: Callable[[], Any]) -> Operations:
    """The operations of a call."""
    exact: Any = {torch.ops.aten.convolution_backward: _convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=exact)
    with counter:
        work()
    counts = counter.get_flop_counts().get("Global", {})
    convolutions = sum(n for name, n in counts.items() if "convolution" in str(name))
    return Operations(counter.get_total_flops(), convolutions)


def _convolution_backward(
    out: Sequence[int], x: Sequence[int], weight: Sequence[int], *options: Any, **_: Any
) -> int:
    """Torch's own count treats the gradient of grouped weights like that of a full matrix."""
    needed: Sequence[bool] = options[-1]  # gradients of input, weight and bias
    return 2 * math.prod(out) * math.prod(weight[1:]) * sum(needed[:2])


def matrix_rate(runtime: Runtime, *, seconds: float = 0.5) -> float:
    """Floating-point operations per second at which the device multiplies square matrices, in the
    precision of the run: the fastest of several products."""
    size = 2048 if runtime.device.type == "cpu" else 8192
    dtype = torch.bfloat16 if runtime.reduced else torch.float32
    a, b = (torch.randn(size, size, device=runtime.device, dtype=dtype) for _ in range(2))
    clock = Clock(runtime)

    def multiply() -> None:
        with clock("product"):
            torch.mm(a, b)

    multiply()
    repeated(multiply, seconds=seconds, most=1000)
    return 2 * size**3 / min(clock.seconds["product"])


class Memory:
    """The most memory that a piece of work takes, in bytes, beyond what was in use before it.

    On a CPU this is the resident memory of the process, whose peak is that since its start: use a
    new process for each measurement. On other devices it is what Torch's allocator has allocated.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        runtime.forget_peak()
        self.before = runtime.allocated() if runtime.counts_memory else _resident()

    def peak(self) -> int:
        """In bytes, so far."""
        if self.runtime.counts_memory:
            return self.runtime.peak_allocated() - self.before
        return max(0, peak_resident() - self.before)


def peak_of(runtime: Runtime) -> int:
    """The most memory, in bytes, that Torch's allocator has had of the device, or, on a CPU, that
    this process has had resident; 0 = unknown."""
    return runtime.peak_allocated() if runtime.counts_memory else peak_resident()


def peak_resident() -> int:
    """The most memory, in bytes, that this process has had resident; 0 on Windows, where no part of
    Python says it."""
    resident = _status("VmHWM")
    if resident is not None:
        return resident
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    resident = _status("VmRSS")
    return peak_resident() if resident is None else resident


def _status(name: str) -> int | None:
    """An entry of /proc/self/status, in bytes. ``ru_maxrss`` is not used on Linux: a new process
    starts with the value of the one that started it."""
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next((1024 * int(x.split()[1]) for x in lines if x.startswith(f"{name}:")), None)
    except OSError:
        return None


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the law a · size^b, fitted to logarithms by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def timed_step(
    optimization: Optimization,
    batch_gradient: BatchGradient,
    batch: Batch,
    clock: Clock,
    *,
    max_grad_norm: float,
) -> None:
    """A step of training as in the engine, with the times of its parts in ``clock``: ``transfer``,
    ``forward``, ``backward`` and ``optimizer``, and ``step`` for all of it.

    With a batch in several parts the forward passes are counted with the backward pass.
    """
    parts = Clock(clock.runtime)
    with parts("step"):
        with parts("transfer"):
            work = batch_gradient.prepare(batch)
        for step in optimization.steps:
            with optimization.learning(step):
                if len(work.pieces) == 1:
                    with parts("forward"):
                        total = batch_gradient.losses(step.criterion, work.pieces[0])["total"]
                    with parts("backward"):
                        total.backward()  # type: ignore[no-untyped-call]
                else:
                    with parts("backward"):
                        batch_gradient.backward(step.criterion, work, 0, 0, 0)
            with parts("optimizer"):
                torch.nn.utils.clip_grad_norm_(step.parameters, max_grad_norm or math.inf)
                optimization.optimizer.step()
    for name, spent in parts.seconds.items():  # of all stages of a model's plan
        clock.seconds.setdefault(name, []).append(sum(spent))


def tensor_bytes(tree: Any) -> int:
    """The bytes of all tensors in nested containers."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(map(tensor_bytes, tree.values()))
    if isinstance(tree, list | tuple):
        return sum(map(tensor_bytes, tree))
    return 0
