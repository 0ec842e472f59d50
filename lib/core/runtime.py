"""Device and seeds. The only file that knows the word cuda."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lib.core.errors import InputError

CPU_NAMES = ("cpu", "-1")


@dataclass(frozen=True)
class Runtime:
    """Where a run computes."""

    device: torch.device

    @classmethod
    def start(cls, gpus: str = "", log: Callable[[str], None] = print) -> Runtime:
        """Pick the device: ``""`` the first GPU if there is one, ``cpu`` or ``-1`` the CPU, ``2``
        that GPU.

        Raises:
            InputError: a GPU that this machine does not have.
        """
        if gpus in CPU_NAMES:
            return cls(torch.device("cpu"))
        if not gpus and not torch.cuda.is_available():
            log("no CUDA device found: running on the CPU")
            return cls(torch.device("cpu"))
        available = torch.cuda.device_count()
        if not (gpus or "0").isdigit() or int(gpus or 0) >= available:
            raise InputError(
                f"--gpus {gpus}: no such device; this machine has {available} GPU(s), "
                "expected a number below that, or cpu"
            )
        return cls(torch.device("cuda", int(gpus or 0)))

    @property
    def pin_memory(self) -> bool:
        """Whether batches should be page-locked on their way to the device."""
        return self.device.type == "cuda"

    @property
    def default_workers(self) -> int:
        """Loader processes that leave a core for the training process."""
        return max(0, min(4, (os.cpu_count() or 1) - 1))


def seed_everything(seed: int, *place: int) -> None:
    """Seed every generator of torch as a pure function of the seed and a place in the run.

    With (epoch, step) as the place, what a step draws — dropout, hidden words, negatives — does not
    depend on what was drawn before it, so a run continued from any step draws the same.
    """
    state = seed
    for number in place:
        state = (state * 1_000_003 + number + 1) % (2**63)
    torch.manual_seed(state)
