"""Estimate how long an experiment takes, its memory and disk space, before its data is there.

    python plan.py --cfg ../experiments/dense_activitynet/acnet.yaml
    python plan.py --cfg ../experiments/dense_activitynet/acnet.yaml --steps 4

A few small steps on random content, of the sizes of the experiment, say what a full one takes; its
corpus is counted in the annotations, or known. With --steps, full steps are taken on the data
itself, which takes as long as they do, and says whether reading it is the bottleneck. No run
folder and no cache is made. The estimate is for this machine under its current load, and for one
process.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.batch import DataDims, Sample, collate
from ..base.command import POSITIVE
from ..base.files import write_text
from ..base.memory import free_memory
from ..base.runtime import Runtime
from ..base.terminal import count, duration, print_wrapped, shown_path
from ..config.config import load_config
from ..datasets.catalog import facts
from ..datasets.dense import DenseParagraphs, EpochBatches
from ..datasets.packed_words import MOST_WORDS
from ..models.interface import Encoded, Model
from ..tools.corpus_sizes import split_sizes
from ..tools.measuring import SplitSizes, open_without_data, small_steps
from ..tools.profiling import Clock, peak_of, tensor_bytes, timed_step, typical_samples
from ..training.build import (
    add_common_flags,
    corpus_options,
    open_batch_gradient,
    open_corpus,
    open_decoding,
    open_model,
    open_optimization,
    open_runtime,
    resolve,
)
from ..training.optimization import Optimization
from ..training.prediction import Read, ground_in, read_split, similarities

PARTS = ("forward", "backward", "optimizer")


SECONDS = 8.0  # about how long small steps may take
LEAST_SPREAD = 0.1  # of a step that was not taken: so much do a machine's steps differ, too
_TILED = 2**26  # bytes of encoded videos with which similarities are timed


@dataclass(frozen=True)
class Prediction:
    """The estimated times of a run, in seconds unless stated otherwise."""

    step: float
    data: float  # to make a step's batch ready, in one process; 0 where it was not measured
    workers: int  # processes that do
    steps: int  # of an epoch
    epochs: int
    validation: float
    validations: int
    spread: float = 0.0  # share of the step by which it may be shorter or longer

    @property
    def waiting(self) -> float:
        """For data, in every step: what the loader's processes cannot do during a step."""
        return max(0.0, self.data / self.workers - self.step) if self.workers else self.data

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of the complete run, by what they are spent on."""
        steps = self.steps * self.epochs
        return {
            "the device, in training": steps * self.step,
            "data": steps * self.waiting,
            "validation": self.validations * self.validation,
        }

    def lines(self) -> list[str]:
        total = sum(self.parts.values())
        name, most = max(self.parts.items(), key=lambda part: part[1])
        epoch = self.steps * (self.step + self.waiting)
        about = f" (± {100 * self.spread:.0f} %)" if self.spread else ""
        return [
            f"epoch: {duration(epoch)}{about}, {count(self.steps, 'step')}; "
            f"validation: {duration(self.validation)}",
            f"run: {duration(total)}{about}, {count(self.epochs, 'epoch')} and "
            f"{count(self.validations, 'validation')}",
            f"bottleneck: {name} ({100 * most / total:.0f} % of the time)",
        ]


@dataclass(frozen=True)
class Measured:
    """What was measured, on the data or before it is there."""

    step: float  # seconds
    spread: float  # share of it
    how: str  # the sizes of the steps that were taken
    parts: dict[str, float]  # seconds of a step's parts, of the last one that was taken
    memory: float  # bytes in training
    validation: float  # seconds
    encoded: float  # bytes of the videos of a validation
    splits: dict[str, SplitSizes]
    dims: DataDims
    optimization: Optimization
    text: float = 0.0  # seconds in which a batch's texts are made …
    reading: float = 0.0  # … and in which a video is read from its file
    said: tuple[str, ...] = ()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser)
    parser.add_argument(
        "--steps", type=POSITIVE, metavar="N", help="take N full steps, on the experiment's data"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, too")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    train, cache = config.TRAIN, config.DATASET.CACHE
    runtime = open_runtime(config)
    config.DATASET.CACHE = "direct"  # so that no cache is written
    if args.steps:
        found = on_data(config, runtime, steps=args.steps)
    else:
        found = before_data(config, runtime)
    for line in found.said:
        print_wrapped(line)
    splits = found.splits
    each = 0.0 if cache != "direct" else found.reading
    prediction = Prediction(
        step=found.step,
        data=found.text + each * train.BATCH_SIZE,
        workers=config.WORKERS,
        steps=-(-splits["train"].paragraphs // train.BATCH_SIZE),
        epochs=train.EPOCHS,
        validation=found.validation + each * splits["val"].videos,
        validations=-(-train.EPOCHS // train.VALIDATE_EVERY),
        spread=found.spread,
    )
    model = found.optimization.model
    parameters = sum(p.numel() for p in model.parameters())
    print_wrapped(f"{config.MODEL.NAME}: {count(parameters, 'parameter')} on {runtime.name}")
    times = [f"{name} {found.parts[name]:.2g}" for name in PARTS if name in found.parts]
    data = (
        f"data: {prediction.data:.2g} s in one process, WORKERS {config.WORKERS}"
        if args.steps
        else "data: not measured (--steps reads it)"
    )
    print_wrapped(
        f"step: {found.step:.3g} s{about(found)}, {count(train.BATCH_SIZE, 'paragraph')} "
        f"({found.how}: {', '.join(times)}); {data}"
    )
    print_wrapped("\n".join(prediction.lines()))
    where = "on the device" if runtime.counts_memory else "in this process"
    least = "at least " if found.spread else ""
    print_wrapped(
        f"memory: {least}{size(found.memory) if found.memory else 'unknown'} {where} in training, "
        f"{size(found.encoded)} for the encoded videos of a validation{short_of(found, runtime)}"
    )
    weights, state = tensor_bytes(model.state_dict()), tensor_bytes(found.optimization.state_dict())
    # last.pt, and lowest_loss.pt, which is an earlier one; best.pt and best-EPOCH.pt.
    last, best = weights + state, weights * (1 + train.KEEP_BEST)
    checkpoints = 2 * last + best
    free = shutil.disk_usage(existing(resolve(config.MODEL_DIR))).free
    print_wrapped(
        f"disk: {size(checkpoints)} of checkpoints, {size(last)} more while one is written; "
        f"{size(free)} are free in {shown_path(resolve(config.MODEL_DIR))}"
    )
    videos = sum(split.videos for split in splits.values())
    row = found.dims.num_frames * found.dims.video_dim
    features = feature_bytes(config)
    print_wrapped(
        f"features: {size(features)} in their file"
        if features
        else f"features: {size(4 * videos * row)} for {count(videos, 'video')} if each has "
        f"{count(found.dims.num_frames, 'row')} of {found.dims.video_dim:,} float32, and as many "
        "times more or less as it has rows"
    )
    packed = 0
    if cache != "direct":
        packed = videos * row * (2 if config.DATASET.CACHE_DTYPE == "float16" else 4)
        written = f", written in {duration(videos * found.reading)}" if found.reading else ""
        print_wrapped(
            f"cache: {size(packed)} of the {count(videos, 'video')} of training and "
            f"validation{written} (CACHE {cache})"
        )
    if not config.DATASET.WORD_FEATURES:
        most = size(2 * MOST_WORDS * found.dims.word_dim)
        print_wrapped(f"word vectors: at most {most} for those that runs share")
    if args.json:
        numbers = {
            "parameters": parameters,
            "step_seconds": prediction.step,
            "spread": prediction.spread,
            "steps": prediction.steps,
            "validation_seconds": prediction.validation,
            "run_seconds": sum(prediction.parts.values()),
            "memory_bytes": round(found.memory),
            "disk_bytes": checkpoints,
            "cache_bytes": packed,
            "device": runtime.name,
        }
        write_text(args.json, json.dumps(numbers, indent=1) + "\n")


def before_data(config: Any, runtime: Runtime) -> Measured:
    """From the sizes of the corpus alone."""
    train = config.TRAIN
    splits, said = split_sizes(config)
    dims, model = open_without_data(config, runtime)
    steps = -(-splits["train"].paragraphs // train.BATCH_SIZE)
    optimization = open_optimization(config, model, steps)
    small = small_steps(config, dims, model, optimization, runtime, seconds=SECONDS)
    mean = splits["train"].sentences / splits["train"].paragraphs
    sentences = splits["train"].sentences / steps
    least, most = small.seconds.at(sentences)
    extrapolated = most > 1.05 * least or sentences > 1.2 * small.seconds.sizes[-1]
    at_once = mean * -(-train.BATCH_SIZE // train.ACCUMULATE)
    clock = Clock(runtime)
    few = typical_samples(dims, min(2, splits["val"].paragraphs), sentences=(4, 3))
    encoded = time_validation(config, few, splits["val"], model, clock)
    sizes = " and ".join(map(str, small.seconds.sizes[-2:]))
    return Measured(
        step=(least + most) / 2,
        spread=max(LEAST_SPREAD, (most - least) / (most + least)) if extrapolated else 0.0,
        how=f"from steps of {sizes} sentences, the last one",
        parts=small.parts,
        memory=small.memory.straight(at_once),
        validation=clock.medians()["validation"],
        encoded=encoded,
        splits=splits,
        dims=dims,
        optimization=optimization,
        said=(said,),
    )


def on_data(config: Any, runtime: Runtime, *, steps: int) -> Measured:
    """From full steps on the experiment's corpus."""
    train = config.TRAIN
    corpus = open_corpus(config, ("train", "val"))
    model = open_model(config, corpus, runtime)
    sampler = EpochBatches(len(corpus["train"]), train.BATCH_SIZE, seed=train.SEED)
    optimization = open_optimization(config, model, sampler.total)
    optimization.set_epoch(train.EPOCHS - 1)  # a model's plan may add terms in later epochs
    clock = Clock(runtime)
    time_steps(config, corpus["train"], sampler, model, optimization, clock, steps=steps)
    peak = peak_of(runtime)  # before a validation adds to it
    splits = {
        name: SplitSizes(
            len(corpus[name]),
            sum(len(p.sentences) for p in corpus[name].paragraphs),
            len(corpus[name].corpus),
        )
        for name in ("train", "val")
    }
    val = corpus["val"]
    few = [val[index] for index in range(min(config.TEST.BATCH_SIZE, len(val)))]
    encoded = time_validation(config, few, splits["val"], model, clock)
    medians = clock.medians()
    return Measured(
        step=medians["step"],
        spread=0.0,
        how="measured",
        parts=medians,
        memory=peak,
        validation=medians["validation"],
        encoded=encoded,
        splits=splits,
        dims=corpus.dims,
        optimization=optimization,
        text=medians["text"] + medians["collate"],
        reading=(medians["items"] - medians["text"]) / train.BATCH_SIZE,
        said=corpus.notes,
    )


def time_steps(
    config: Any,
    split: DenseParagraphs,
    sampler: EpochBatches,
    model: Model,
    optimization: Optimization,
    clock: Clock,
    *,
    steps: int,
) -> None:
    """A few steps and their data. The first one warms up and is not counted."""
    batch_gradient = open_batch_gradient(config, model, clock.runtime)
    model.train()
    for number, (indices, _) in enumerate(zip(cycle(sampler), range(steps + 1), strict=False)):
        if number == 1:
            clock.seconds.clear()
        with clock("text"):
            for index in indices:
                split.text(index)
        with clock("items"):
            samples = [split[index] for index in indices]
        with clock("collate"):
            batch = collate(samples)
        timed_step(
            optimization, batch_gradient, batch, clock, max_grad_norm=config.TRAIN.MAX_GRAD_NORM
        )


def time_validation(
    config: Any, samples: Sequence[Sample], split: SplitSizes, model: Model, clock: Clock
) -> float:
    """``validation`` of a split, from a few of its paragraphs, or from others like them, each with
    its video; bytes of all encoded videos."""
    test, runtime = config.TEST, clock.runtime
    n, batch = len(samples), collate(samples)
    texts = collate([replace(sample, video=sample.video[:0]) for sample in samples])
    decoding = open_decoding(config)
    rules = {"pairs": test.PAIRS, "moments": test.MOMENTS, "nms_iou": test.NMS_IOU}
    own_video = np.arange(n)[:, None]
    model.eval()
    for _ in range(2):  # the first time warms up, unless that is nothing to what follows
        timing = Clock(runtime)
        with timing("videos"):
            videos = read_split(model, [], [batch.video], runtime, num_videos=n)
        with timing("paragraphs"):
            read = replace(
                videos,
                paragraphs=read_split(model, [texts], [], runtime, num_videos=0).paragraphs,
            )
        with timing("grounding"):
            ground_in(model, read, own_video, runtime, decoding, {}, **rules)
        of_video = tensor_bytes(videos.videos) / n
        many = min(split.videos, max(n, int(_TILED / of_video)))
        asked = min(split.paragraphs, test.BATCH_SIZE)
        tiled = Read(_tiled(read.videos, many), (_tiled(read.paragraphs[0], asked),))
        with timing("similarities"):
            similarities(model, tiled, runtime)
        if timing.medians()["grounding" if model.grounds() else "videos"] > 1:
            break
    medians = timing.medians()
    sentences = split.sentences / len(texts.flat_index)
    clock.seconds["validation"] = [
        split.videos / n * medians["videos"]
        + sentences * (medians["paragraphs"] + medians["grounding"])
        + split.videos / many * split.paragraphs / asked * medians["similarities"]
    ]
    return of_video * split.videos


def _tiled(items: Encoded, many: int) -> Encoded:
    """So many items, the same ones again and again: what is in them does not matter to the time."""

    def repeated(x: Tensor) -> Tensor:
        return x[torch.arange(many, device=x.device) % len(x)]

    return {name: repeated(x) for name, x in items.items()}


def about(found: Measured) -> str:
    return f" (± {100 * found.spread:.0f} %)" if found.spread else ""


def short_of(found: Measured, runtime: Runtime) -> str:
    """What to say where the machine has less memory than that."""
    free = None if runtime.counts_memory else free_memory()
    if free is None or found.memory <= free:
        return ""
    return f"; WARNING: {size(free)} of memory are free (TRAIN.ACCUMULATE encodes a batch in parts)"


def feature_bytes(config: Any) -> int:
    """Of the feature files of the corpus, those that are there."""
    options = corpus_options(config)
    corpus = facts(config.DATASET.NAME, options)
    names = [corpus.features] if isinstance(corpus.features, str) else corpus.features
    places = [resolve(config.DATA_DIR) / corpus.folder / name for name in names if name]
    return sum(place.stat().st_size for place in places if place.is_file())


def size(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return folder if folder.exists() else existing(folder.parent)
