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
    def start(
        cls,
        gpus: str = "",
        log: Callable[[str], None] = print,
        *,
        deterministic: bool = False,
    ) -> Runtime:
        """Pick the device: ``""`` the first GPU if there is one, ``cpu`` or ``-1`` the CPU, ``2``
        that GPU.

        On the CPU the same seed gives the same bits on one machine, whatever the number of loader
        processes; the number of threads may change the order of a sum. A GPU adds some gradients in
        the order in which they arrive, unless ``deterministic``: then only algorithms of a fixed
        order are used, and an operation that has none raises. Other devices and other releases of
        Torch round differently either way.

        Raises:
            InputError: a GPU that this machine does not have.
        """
        if deterministic:
            # Read by cuBLAS when it starts; without it matrix products are not reproducible.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
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
