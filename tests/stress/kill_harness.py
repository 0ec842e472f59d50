"""Kill a training run at random moments, resume it until it is done, and compare every bit.

    python -m tests.stress.kill_harness --kills 200

Each round trains the same tiny experiment. It is killed by SIGKILL at random moments, in training,
in validation and while it writes its files, and resumed until it ends by itself. Then weights,
optimiser state, progress, chosen checkpoint and log (but for seconds) must be those of a run that
nobody touched. A kill counts only if it ended a living process that had its data and its run open;
those before that are reported and not counted. Exit status 0: all equal.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib.training import checkpoint
from tests.runs import Ended, Process, run, timeless, write_experiment

STARTING = "starting (not counted)"
TRAIN = {"EPOCHS": 4, "KEEP_BEST": 2}


@dataclass
class Tally:
    """What was done."""

    kills: int = 0
    rounds: int = 0
    moments: Counter[str] = field(default_factory=Counter)  # what the run folder was like, killed


def reference(folder: Path) -> tuple[dict[str, Any], float]:
    """What a run that is left alone ends with, and how long it takes."""
    experiment = write_experiment(folder, **TRAIN)
    began = time.monotonic()
    ended = run("dense_train", "--cfg", experiment, output=folder / "output.txt")
    assert ended.status == 0, ended.output
    return everything(folder / "save" / "tiny"), time.monotonic() - began


def round_of_kills(
    folder: Path, draw: random.Random, seconds: float, most: int, tally: Tally, workers: int = 0
) -> dict[str, Any]:
    """Kill and resume at most so many times, then let it end; what it ended with."""
    experiment = write_experiment(folder, **TRAIN)
    saved = folder / "save" / "tiny"
    shutil.rmtree(saved, ignore_errors=True)
    allowed = most
    while True:
        began = time.time()
        process = Process(
            "dense_train",
            *("--cfg", experiment, "--resume", "--workers", workers),
            output=folder / "output.txt",
        )
        ended = process.poll(draw.uniform(0, 0.7 * seconds)) if allowed else process.wait()
        if ended is None:
            process.kill()
            ended = process.wait()
        if ended.status == 0:
            tally.rounds += 1
            return everything(saved)
        assert ended.status == -9, f"status {ended.status}: {ended.output}"
        allowed -= 1
        moment = _moment(saved, ended, began)
        tally.moments[moment] += 1
        tally.kills += moment != STARTING


def everything(folder: Path) -> dict[str, Any]:
    """All that must come out equal, by name."""
    last, best = (timeless(checkpoint.load(folder / name)) for name in ("last.pt", "best.pt"))
    lines = (folder / "log.jsonl").read_text("utf-8").splitlines()
    log = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    kept = {path.name: timeless(checkpoint.load(path)) for path in sorted(folder.glob("best-*.pt"))}
    return {"last": last, "best": best, "log": log, "kept": kept}


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Names of the leaves of two trees that are not equal bit for bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}, key=str):
            if key not in one or key not in other:
                yield f"{name}.{key} (only in one)"
            else:
                yield from differences(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{name} (length {len(one)} and {len(other)})"
        for number, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from differences(left, right, f"{name}[{number}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        if not same or one.numpy().tobytes() != other.numpy().tobytes():
            yield name
    elif repr(one) != repr(other):  # by text: NaN is to equal NaN
        yield name


def _moment(saved: Path, ended: Ended, began: float) -> str:
    """What the process was doing when it was killed, from what it left."""
    if half := [p.name for p in saved.glob(".*.new") if p.stat().st_mtime > began]:
        return f"writing {sorted(half)[0].removeprefix('.').removesuffix('.new')}"
    if "a new run" not in ended.output and "going on" not in ended.output:
        return STARTING
    lines = [line.strip() for line in ended.output.splitlines() if line.strip()]
    if lines[-1].startswith("step 3/3"):
        return "at the end of an epoch"
    return "training" if lines[-1].startswith("step") else "between"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the killed")
    args = parser.parse_args()
    draw, tally = random.Random(args.seed), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        expected, seconds = reference(folder)
        print(f"left alone: {seconds:.1f} s, {len(expected['log'])} epochs", flush=True)
        while tally.kills < args.kills:
            most = min(10, args.kills - tally.kills)
            found = round_of_kills(folder, draw, seconds, most, tally, args.workers)
            differing = list(differences(expected, found))
            if differing:
                print(f"round {tally.rounds}: DIFFERENT: {', '.join(differing[:10])}")
                sys.exit(1)
            print(f"{tally.kills} kills, {tally.rounds} rounds: all equal", flush=True)
    print(f"{tally.kills} kills: {dict(tally.moments.most_common())}")


if __name__ == "__main__":
    main()
