"""The training step of an experiment, measured without its data: from the sizes of its corpus, on
random batches, in a process of its own."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from ..base.batch import Batch, DataDims, collate
from ..base.command import BAD_INPUT
from ..base.errors import InputError
from ..base.runtime import Runtime
from ..datasets.vocabulary import FIRST_WORD
from ..models.interface import Model
from ..training.batch_gradient import BatchGradient
from ..training.build import open_batch_gradient, open_model, open_optimization
from ..training.optimization import Optimization
from .profiling import (
    MIDDLE,
    SENTENCES,
    Clock,
    Memory,
    count_flops,
    peak_of,
    repeated,
    timed_step,
    typical_batch,
    typical_samples,
)


@dataclass(frozen=True)
class SplitSizes:
    """How much a split has."""

    paragraphs: int
    sentences: int
    videos: int


@dataclass(frozen=True)
class CorpusSizes:
    """What an experiment does not state of its corpus, counted in the annotations.

    Attributes:
        words: of the training sentences, that differ.
        stems: of these words.
        sentences: of the longest training paragraph.
        video_dim: where the experiment does not state it.
        splits: training and, unless it is held out, validation.
    """

    words: int
    stems: int
    sentences: int
    video_dim: int = 500
    word_dim: int = 300
    splits: Mapping[str, SplitSizes] = field(default_factory=dict)


# By DATASET.DIR, or else by DATASET.NAME.
SIZES = {
    "activitynet": CorpusSizes(
        *(10_609, 6_761, 27),
        splits={
            "train": SplitSizes(10_009, 37_417, 10_009),
            "val": SplitSizes(4_917, 17_505, 4_917),
        },
    ),
    "charades": CorpusSizes(
        *(1_103, 837, 10, 4096), splits={"train": SplitSizes(5_336, 12_404, 5_336)}
    ),
    "tacos": CorpusSizes(
        *(1_491, 1_027, 15, 4096),
        splits={"train": SplitSizes(1_220, 9_732, 75), "val": SplitSizes(480, 4_398, 27)},
    ),
    "charades_clip": CorpusSizes(570, 454, 10, 512, 100),
    "bench_middle": CorpusSizes(2_000, 2_000, 18, 128, 100),  # of each, VOCAB_SIZE at least
    "synthetic": CorpusSizes(278, 277, 6, 64, 50),
}
ROBERTA_LARGE = 1024  # wide are the features of words that experiments name


def sizes_of(config: Any) -> DataDims:
    """The sizes that an experiment's data would decide, without reading it; of a corpus that is not
    known, as if it were ActivityNet Captions."""
    data = config.DATASET
    known = SIZES.get(data.DIR) or SIZES.get(data.NAME) or SIZES["activitynet"]
    world = data.get("SYNTHETIC") or {}
    words = min(known.stems if data.STEMS else known.words, data.VOCAB_SIZE)
    word_dim = data.WORD_DIM or world.get("word_dim") or known.word_dim
    vocab_size = words + FIRST_WORD
    g = torch.Generator().manual_seed(0)
    return DataDims(
        video_dim=data.FEATURE_DIM or world.get("feature_dim") or known.video_dim,
        word_dim=ROBERTA_LARGE if data.WORD_FEATURES else word_dim,
        vocab_size=vocab_size,
        num_frames=data.NUM_FRAMES,
        num_clips=data.NUM_CLIPS,
        max_sentences=min(known.sentences, data.MAX_SENTENCES or known.sentences),
        word_vectors=None if data.WORD_FEATURES else torch.randn(vocab_size, word_dim, generator=g),
        word_idf=torch.ones(vocab_size),
    )


def open_without_data(config: Any, runtime: Runtime) -> tuple[DataDims, Model]:
    """The sizes of ``sizes_of`` and the experiment's model in them, with its initial weights.

    Raises:
        InputError: the model needs files that are not there, or more memory than there is.
    """
    dims = sizes_of(config)
    model = open_model(config, SimpleNamespace(dims=dims), runtime)  # type: ignore[arg-type]
    return dims, model


def measure_step(
    config: Any,
    runtime: Runtime,
    *,
    seconds: float,
    batch: int | None = None,
    sentences: Sequence[int] = SENTENCES,
    flops: bool = True,
) -> dict[str, Any]:
    """Forward, backward and optimiser, and the peak memory of model, optimiser and step.

    Args:
        seconds: about how long the step is repeated; a first one that takes longer stands for all.
        batch: paragraphs of the step; None: as the experiment has.
        sentences: the numbers of sentences that its paragraphs have.
        flops: count operations, too, which takes one more pass.

    Raises:
        InputError: the model needs files that are not there, or more memory than there is.
    """
    memory = Memory(runtime)
    dims, model = open_without_data(config, runtime)
    random = typical_batch(dims, batch or config.TRAIN.BATCH_SIZE, sentences=sentences)
    optimization = open_optimization(config, model, 1000)
    batch_gradient = open_batch_gradient(config, model, runtime)
    optimization.set_epoch(config.TRAIN.EPOCHS - 1)  # when all terms of a schedule are on
    model.train()
    found: dict[str, Any] = {}
    if flops:
        plain, onto = BatchGradient(model, runtime), random.to(runtime.device)

        def once() -> None:
            for step in optimization.steps:
                with optimization.learning(step):
                    plain.losses(step.criterion, onto)["total"].backward()  # type: ignore[no-untyped-call]

        operations = count_flops(once)
        found = {"flops": operations.total, "convolution_flops": operations.convolutions}
    clock = Clock(runtime)
    limit = config.TRAIN.MAX_GRAD_NORM

    processor: list[float] = []

    def step() -> None:
        began = time.process_time()
        timed_step(optimization, batch_gradient, random, clock, max_grad_norm=limit)
        processor.append(time.process_time() - began)

    step()  # the optimiser makes its state, a compiler its code
    repeats = 1
    if clock.seconds["step"][0] < seconds:
        clock.seconds.clear()
        processor.clear()
        repeats = repeated(step, seconds=seconds)
    return {
        "seconds": clock.medians(),
        "processor_seconds": statistics.median(processor),  # of all threads together
        "repeats": repeats,
        "peak_bytes": memory.peak(),
        **found,
        "parameters": sum(p.numel() for p in model.parameters()),
        "paragraphs": len(random),
        "sentences": len(random.flat_index),
    }


@dataclass(frozen=True)
class Extrapolation:
    """A cost that was measured at some sizes, in ascending order, and what it may be at others."""

    sizes: Sequence[float]
    costs: Sequence[float]

    def at(self, size: float) -> tuple[float, float]:
        """The least and the most: what is constant in the cost is either what the last two sizes
        say, or nothing at all; at a size that was measured both are what was measured."""
        last, cost = self.sizes[-1], self.costs[-1]
        in_proportion = cost * size / last
        if len(self.sizes) < 2:
            return in_proportion, in_proportion
        slope = max(0.0, cost - self.costs[-2]) / (last - self.sizes[-2])
        found = sorted((cost + slope * (size - last), in_proportion))
        return found[0], found[1]

    def straight(self, size: float) -> float:
        """On the line through the last two sizes, for a cost most of which is constant."""
        if len(self.sizes) < 2:
            return self.costs[-1]
        slope = (self.costs[-1] - self.costs[-2]) / (self.sizes[-1] - self.sizes[-2])
        return self.costs[-1] + max(0.0, slope) * max(0.0, size - self.sizes[-1])


@dataclass(frozen=True)
class SmallSteps:
    """Steps of a few paragraphs.

    Attributes:
        seconds: of a step, by its sentences.
        parts: seconds of the parts of the last one, by name.
        memory: bytes of the process or of the device, by the sentences encoded at once.
    """

    seconds: Extrapolation
    parts: dict[str, float]
    memory: Extrapolation


def small_steps(
    config: Any,
    dims: DataDims,
    model: Model,
    optimization: Optimization,
    runtime: Runtime,
    *,
    seconds: float,
) -> SmallSteps:
    """Steps of two paragraphs, of one sentence each and of usual length, and then of more, up to
    those of a batch as far as time allows, on random content.

    Args:
        seconds: about how long that may take.
    """
    train, began = config.TRAIN, time.perf_counter()
    batch_gradient = open_batch_gradient(config, model, runtime)
    optimization.set_epoch(train.EPOCHS - 1)  # when all terms of a schedule are on
    model.train()
    clock = Clock(runtime)
    unit = min(max(2, train.ACCUMULATE), train.BATCH_SIZE)

    def step(batch: Batch) -> None:
        timed_step(optimization, batch_gradient, batch, clock, max_grad_norm=train.MAX_GRAD_NORM)

    # The first step is on as little as can be: the optimiser makes its state, and libraries what
    # they need. It is taken again, and counts as the smallest size.
    batch = collate(typical_samples(dims, unit, sentences=(1,)))
    step(batch)
    count, found = unit, []
    while True:
        clock.seconds.clear()
        repeated(partial(step, batch), seconds=seconds / 20)
        sentences, parts = len(batch.flat_index), clock.medians()
        at_once = sentences * math.ceil(len(batch) / train.ACCUMULATE) / len(batch)
        peak = peak_of(runtime)
        found.append((sentences, parts["step"], at_once, peak))
        if len(found) > 1:
            if count == train.BATCH_SIZE:
                break
            count = min(2 * count, train.BATCH_SIZE)
        usual = SENTENCES if count == train.BATCH_SIZE else MIDDLE
        batch = collate(typical_samples(dims, count, sentences=usual))
        expected = parts["step"] * len(batch.flat_index) / sentences
        if len(found) > 1 and time.perf_counter() - began + expected > seconds:
            break
    sizes, costs, parts_at_once, peaks = zip(*found, strict=True)
    return SmallSteps(Extrapolation(sizes, costs), parts, Extrapolation(parts_at_once, peaks))


def measured_apart(
    script: Sequence[str], spec: Mapping[str, Any], *, timeout: float | None = None
) -> dict[str, Any]:
    """What a script prints for ``--one SPEC``, in a process of its own, so that its peak memory is
    its own.

    Args:
        script: its file, and arguments before ``--one``.
        timeout: seconds after which it is ended.

    Raises:
        InputError: the message of the process, or the last line of one that failed.
    """
    try:
        done = subprocess.run(
            [sys.executable, *script, "--one", json.dumps({**spec, "started": time.time()})],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{spec['cfg']} took longer than {timeout:.0f} s, and its measurement was ended"
        ) from None
    lines = done.stderr.strip().splitlines()
    if done.returncode == BAD_INPUT:
        messages = (x.removeprefix("error: ") for x in lines if x.startswith("error: "))
        raise InputError("\n".join(messages))
    if done.returncode:
        last = lines[-1] if lines else f"status {done.returncode}"
        raise InputError(f"{spec['cfg']} {spec['set']} could not be measured: {last}")
    return json.loads(done.stdout.splitlines()[-1])
