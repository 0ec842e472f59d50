"""Device, precision and seeds. The only file that knows the word cuda."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from . import distributed
from .errors import InputError
from .terminal import count

T = TypeVar("T", bound=nn.Module)
CPU_NAMES = ("cpu", "-1")


@dataclass(frozen=True)
class Runtime:
    """Where a run computes, and in which precision it multiplies matrices while it trains."""

    device: torch.device
    precision: str = "float32"

    @classmethod
    def start(
        cls,
        gpus: str = "",
        log: Callable[[str], None] = print,
        *,
        deterministic: bool = False,
        precision: str = "float32",
    ) -> Runtime:
        """Pick the device: ``""`` the first GPU if there is one, ``cpu`` or ``-1`` the CPU, ``2``
        that GPU. Of several processes that torchrun starts on a machine, each takes the GPU of its
        local rank, or all take the CPU; they join one process group here.

        On the CPU the same seed gives the same bits on one machine, whatever the number of loader
        processes; the number of threads may change the order of a sum. A GPU adds some gradients in
        the order in which they arrive, unless ``deterministic``: then only algorithms of a fixed
        order are used, and an operation that has none raises. Other devices and other releases of
        Torch round differently either way.

        Raises:
            InputError: a GPU that this machine does not have, or one GPU for several processes.
        """
        if deterministic:
            # Read by cuBLAS when it starts; without it matrix products are not reproducible.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        if gpus in CPU_NAMES or not gpus and not torch.cuda.is_available():
            if not gpus and distributed.is_main():
                log("no CUDA device found: running on the CPU")
            _keep_memory()
            distributed.start("gloo")
            return cls(torch.device("cpu"), precision)
        available = torch.cuda.device_count()
        if distributed.launched():
            if gpus:
                raise InputError(
                    f"--gpus {gpus}: one GPU for several processes; expected none, and each takes "
                    "the one of its own number (CUDA_VISIBLE_DEVICES chooses among them), or cpu"
                )
            number = distributed.local_rank()
            if number >= available:
                raise InputError(
                    f"torchrun started process {number + 1} on a machine with "
                    f"{count(available, 'GPU')}; "
                    "expected --nproc_per_node of at most that, or --gpus cpu"
                )
            device = torch.device("cuda", number)
            torch.cuda.set_device(device)
            distributed.start("cpu:gloo,cuda:nccl")
            return cls(device, precision)
        if not (gpus or "0").isdigit() or int(gpus or 0) >= available:
            raise InputError(
                f"--gpus {gpus}: no such device; this machine has {count(available, 'GPU')}, "
                "expected a number below that, or cpu"
            )
        return cls(torch.device("cuda", int(gpus or 0)), precision)

    @property
    def reduced(self) -> bool:
        """Whether matrices are multiplied in less than float32."""
        return self.precision != "float32"

    def autocast(self) -> torch.autocast:
        """A context in which matrices are multiplied in the run's precision; weights, gradients and
        what the optimiser keeps stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced)

    def shared(self, model: T) -> T:
        """The model, ready to be trained by several processes: on GPUs, batch norms then see the
        rows of all of them. On CPUs, for which Torch has none that does, those of their own."""
        if distributed.world_size() > 1 and self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return]
        return model

    @property
    def pin_memory(self) -> bool:
        """Whether batches should be page-locked on their way to the device."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """What the device is called."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{_processor()}, {count(torch.get_num_threads(), 'thread')}"

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextlib.contextmanager
    def refusing_waits(self) -> Iterator[None]:
        """A context in which work that makes the processor wait for the device raises a
        RuntimeError; nothing on a CPU, which waits for itself."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @property
    def counts_memory(self) -> bool:
        """Whether the device's memory is counted by Torch, and not by the system."""
        return self.device.type == "cuda"

    def allocated(self) -> int:
        """Bytes of such a device that tensors hold."""
        return torch.cuda.memory_allocated(self.device)

    def forget_peak(self) -> None:
        """Count the peak from here."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_allocated(self) -> int:
        """The most that they have held."""
        return torch.cuda.max_memory_allocated(self.device)

    def versions(self) -> dict[str, str]:
        """Of the libraries under Torch that this device needs."""
        versions = {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        return {k: v for k, v in versions.items() if v and self.device.type == "cuda"}

    @property
    def default_workers(self) -> int:
        """Loader processes that leave a core for the training process."""
        return max(0, min(4, (os.cpu_count() or 1) - 1))


def _processor() -> str:
    """The name of the processor as Linux reports it, or as Python does."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _keep_memory() -> None:
    """Have the C library keep freed memory for the next step.

    By default it gives large pieces back to the system, and to have them again, zeroed page by
    page, takes up to a quarter of a step. Libraries without such a switch are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: on Windows
        library = ctypes.CDLL(None)
        library.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def seed_everything(seed: int, *position: int) -> None:
    """Seed every generator of torch as a pure function of the seed and a position in the run.

    With (epoch, step) as the position, what a step draws — dropout, masked words, negatives — does
    not depend on what was drawn before it, so a run continued from any step draws the same.
    """
    state = seed
    for number in position:
        state = (state * 1_000_003 + number + 1) % (2**63)
    torch.manual_seed(state)
