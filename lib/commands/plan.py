"""Estimate how long an experiment takes, its memory and disk space, and its bottleneck.

    python plan.py --cfg ../experiments/dense_activitynet/acnet.yaml

Runs a few steps of training and validation on the experiment's data, without creating a run folder
or a cache. The estimate is for this machine under its current load, and for one process.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.batch import collate
from ..base.command import POSITIVE
from ..base.errors import InputError
from ..base.files import write_text
from ..base.terminal import count, duration, print_wrapped, shown_path
from ..config.config import load_config
from ..datasets.dense import DenseParagraphs, EpochBatches
from ..models.interface import Model
from ..tools.profiling import Clock, peak_resident, tensor_bytes, timed_step
from ..training.build import (
    add_common_flags,
    open_batch_gradient,
    open_corpus,
    open_decoding,
    open_model,
    open_optimization,
    open_runtime,
    resolve,
)
from ..training.optimization import Optimization
from ..training.prediction import ground_in, read_split, similarities

PARTS = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Prediction:
    """The estimated times of a run, in seconds unless stated otherwise."""

    step: float
    data: float  # to make a step's batch ready, in one process
    workers: int  # processes that do
    steps: int  # of an epoch
    epochs: int
    validation: float
    validations: int

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
        return [
            f"epoch: {duration(epoch)}, {count(self.steps, 'step')}; "
            f"validation: {duration(self.validation)}",
            f"run: {duration(total)}, {count(self.epochs, 'epoch')} and "
            f"{count(self.validations, 'validation')}",
            f"bottleneck: {name} ({100 * most / total:.0f} % of the time)",
        ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser)
    parser.add_argument(
        "--steps", type=POSITIVE, default=4, metavar="N", help="to take (default: 4)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, too")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.steps < 1:
        raise InputError(f"--steps: found {args.steps}, expected at least 1")
    config = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    train, cache = config.TRAIN, config.DATASET.CACHE
    runtime = open_runtime(config)
    config.DATASET.CACHE = "direct"  # so that no cache is written
    corpus = open_corpus(config, ("train", "val"))
    for line in corpus.notes:
        print_wrapped(line)
    model = open_model(config, corpus, runtime)
    sampler = EpochBatches(len(corpus["train"]), train.BATCH_SIZE, seed=train.SEED)
    optimization = open_optimization(config, model, sampler.total)
    optimization.set_epoch(train.EPOCHS - 1)  # a model's plan may add terms in later epochs
    clock = Clock(runtime)
    time_steps(config, corpus["train"], sampler, model, optimization, clock, steps=args.steps)
    peak = runtime.peak_allocated() if runtime.counts_memory else peak_resident()
    kept = time_validation(config, corpus["val"], model, clock)

    medians = clock.medians()
    reading = (medians["items"] - medians["text"]) / train.BATCH_SIZE  # of a video, from the file
    each = 0.0 if cache != "direct" else reading
    videos = {video for split in ("train", "val") for video in corpus[split].corpus}
    prediction = Prediction(
        step=medians["step"],
        data=medians["text"] + medians["collate"] + each * train.BATCH_SIZE,
        workers=config.WORKERS,
        steps=sampler.total,
        epochs=train.EPOCHS,
        validation=medians["validation"] + each * len(corpus["val"].corpus),
        validations=-(-train.EPOCHS // train.VALIDATE_EVERY),
    )
    weights = sum(p.numel() for p in model.parameters())
    print_wrapped(f"{config.MODEL.NAME}: {count(weights, 'parameter')} on {runtime.name}")
    times = [f"{name} {medians[name]:.2g}" for name in PARTS if name in medians]
    print_wrapped(
        f"step: {prediction.step:.3g} s ({', '.join(times)}), "
        f"{count(train.BATCH_SIZE, 'paragraph')}; "
        f"data: {prediction.data:.2g} s in one process, WORKERS {config.WORKERS}"
    )
    print_wrapped("\n".join(prediction.lines()))
    where = "on the device" if runtime.counts_memory else "in this process"
    print_wrapped(
        f"memory: {size(peak) if peak else 'unknown'} {where} in training, "
        f"{size(kept)} for the encoded videos of a validation"
    )
    weights, state = tensor_bytes(model.state_dict()), tensor_bytes(optimization.state_dict())
    last, best = weights + state, weights * (1 + train.KEEP_BEST)
    free = shutil.disk_usage(existing(resolve(config.MODEL_DIR))).free
    print_wrapped(
        f"disk: {size(last + best)} of checkpoints, {size(last)} more while one is written; "
        f"{size(free)} are free in {shown_path(resolve(config.MODEL_DIR))}"
    )
    if args.json:
        numbers = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "step_seconds": prediction.step,
            "run_seconds": sum(prediction.parts.values()),
            "memory_bytes": peak or 0,
            "disk_bytes": last + best,
            "device": runtime.name,
        }
        write_text(args.json, json.dumps(numbers, indent=1) + "\n")
    if cache != "direct":
        video = corpus["val"].videos[0]
        item = 2 if config.DATASET.CACHE_DTYPE == "float16" else 4
        print_wrapped(
            f"cache: {size(len(videos) * video.numel() * item)} of the "
            f"{count(len(videos), 'video')} of training and validation, written in "
            f"{duration(len(videos) * reading)} (CACHE {cache})"
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


def time_validation(config: Any, split: DenseParagraphs, model: Model, clock: Clock) -> float:
    """``validation``, from one batch of videos and of paragraphs; bytes of all encoded videos."""
    test, runtime = config.TEST, clock.runtime
    V, P = min(test.BATCH_SIZE, len(split.videos)), min(test.BATCH_SIZE, len(split))
    rows = torch.stack([split.videos[index] for index in range(V)])
    texts = collate([split.texts[index] for index in range(P)])
    decoding = open_decoding(config)
    rules = {"pairs": test.PAIRS, "moments": test.MOMENTS, "nms_iou": test.NMS_IOU}
    own_video = np.arange(P)[:, None] % V  # which video costs the same
    model.eval()
    for _ in range(2):  # the first time warms up
        timing = Clock(runtime)
        with timing("videos"):
            videos = read_split(model, [], [rows], runtime, num_videos=V)
        with timing("paragraphs"):
            paragraphs = read_split(model, [texts], [], runtime, num_videos=0)
        read = replace(videos, paragraphs=paragraphs.paragraphs)
        with timing("similarities"):
            similarities(model, read, runtime)
        with timing("grounding"):
            ground_in(model, read, own_video, runtime, decoding, {}, **rules)
    medians = timing.medians()
    v, p = len(split.videos) / V, len(split) / P
    clock.seconds["validation"] = [
        v * medians["videos"]
        + p * (medians["paragraphs"] + medians["grounding"])
        + v * p * medians["similarities"]
    ]
    return tensor_bytes(read.videos) * v


def size(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return folder if folder.exists() else existing(folder.parent)
