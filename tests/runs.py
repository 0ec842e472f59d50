"""Scripts of this project in processes of their own that start at once.

A fork of a process that has imported everything costs milliseconds where a new interpreter costs
seconds, and can be killed, starved and sabotaged like any other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which every optimizer imports, in two seconds: once here, not in every child
import yaml
from tqdm import tqdm

with contextlib.suppress(ImportError):  # optional
    from torch.utils import tensorboard  # noqa: F401 (likewise)

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_MODEL = {
    "hidden_size": 16,
    "kernel_size": 3,
    "conv_layers": 1,
    "encoder_layers": 1,
    "heads": 2,
    "feedforward": 16,
    "reconstructor_layers": 1,
    "candidate_frames": 4,
}
TINY_WORLD = {"train": 12, "val": 6, "test": 6, "feature_dim": 12, "word_dim": 8}


@dataclass
class Ended:
    """How a process ended: ``status`` is negative after a signal, as in ``subprocess``."""

    status: int
    output: str


class Process:
    """A script under way.

    Args:
        name: of the script in ``moment_localization/``, without suffix.
        output: file for what it prints, both streams.
        sabotage: called in the process before the script.
    """

    def __init__(
        self,
        name: str,
        *arguments: object,
        output: Path,
        sabotage: Callable[[], Any] = lambda: None,
    ) -> None:
        main = importlib.import_module(f"moment_localization.{name}").main
        self.output = output
        output.write_bytes(b"")  # it may be killed before it does so itself
        sys.stdout.flush()
        sys.stderr.flush()
        self.number = os.fork()
        if self.number == 0:
            _become(main, [f"{name}.py", *map(str, arguments)], output, sabotage)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.number, number)

    def wait(self, seconds: float = 120.0) -> Ended:
        """Until it ends; past the limit it is killed, and that is an error."""
        ended = self.poll(seconds)
        if ended is None:
            self.kill()
            os.waitpid(self.number, 0)
            raise TimeoutError(f"still running after {seconds:g} s: {self.output.read_text()}")
        return ended

    def poll(self, seconds: float = 0.0) -> Ended | None:
        """How it ended, if it does so in time."""
        limit = time.monotonic() + seconds
        while True:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                text = self.output.read_text("utf-8", errors="replace")
                return Ended(os.waitstatus_to_exitcode(status), text)
            if time.monotonic() >= limit:
                return None
            time.sleep(0.005)


def _become(
    main: Callable[[], None], argv: list[str], output: Path, sabotage: Callable[[], Any]
) -> None:
    """The child's whole life."""
    from lib.base.command import run_script

    status = 1
    try:
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        torch.set_num_threads(1)
        # tqdm's own lock is shared by all forks: one killed while it held it would stop the others.
        tqdm.set_lock(threading.RLock())
        sys.argv = argv
        sabotage()
        run_script(functools.partial(_heeding_signals, main))
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else bool(leaving.code)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _heeding_signals(main: Callable[[], None]) -> None:
    """Run it as a process of its own would: what comes before and after is the fork's, and no
    signal interrupts it."""
    both = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
    try:
        main()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, both)


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint, or results, without what no two runs share: where it came from,
    and the options of its folders and its machine."""
    state = {name: value for name, value in state.items() if name != "provenance"}
    if "inference" in state:
        state["inference"] = {k: v for k, v in state["inference"].items() if k != "config"}
    return state


def write_experiment(folder: Path, **train: object) -> Path:
    """A DMR-JRG of a few thousand weights on a world of twelve videos: epochs of 0.1 s."""
    text = {
        "BASE": str(REPOSITORY / "experiments/synthetic/dmr_jrg.yaml"),
        "WORKERS": 0,
        "DATA_DIR": str(folder / "data"),
        "MODEL_DIR": str(folder / "save"),
        "GPUS": "cpu",
        "DATASET": {"NUM_FRAMES": 32, "NUM_CLIPS": 8, "SYNTHETIC": TINY_WORLD},
        "MODEL": {"PARAMS": TINY_MODEL},
        "TRAIN": {"EPOCHS": 3, "BATCH_SIZE": 4, "LOG_EVERY": 1, "CHECKPOINT_EVERY": 1} | train,
        "TEST": {"RESAMPLES": 0},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(text), "utf-8")
    return path


def write_alignment(folder: Path, experiment: Path, **sections: object) -> None:
    """An experiment: a small linear alignment on the same world, with its runs in ``folder``."""
    text = {
        "BASE": str(REPOSITORY / "experiments/synthetic/base.yaml"),
        "DATA_DIR": str(folder / "data"),
        "MODEL_DIR": str(folder / "save"),
        "GPUS": "cpu",
        "DATASET": {"NUM_FRAMES": 32, "NUM_CLIPS": 8, "SYNTHETIC": TINY_WORLD},
        "MODEL": {"NAME": "linear_align", "PARAMS": {"hidden_size": 16}},
        "LOSS": {"WEIGHTS": {"sentence": 1}},
        **sections,
    }
    experiment.write_text(yaml.safe_dump(text), "utf-8")


def run(name: str, *arguments: object, output: Path, **options: Any) -> Ended:
    """A script from its start to its end."""
    return Process(name, *arguments, output=output, **options).wait()
