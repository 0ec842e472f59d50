"""Several processes of one run, as torchrun starts them: their ranks, and what they exchange.

In a run of one process every function here works without a process group.

Gradients are averaged by one all-reduce after the backward pass, not by DistributedDataParallel:
that wants the parameters of its one forward pass to stay the same, while a plan freezes other ones
in each of a batch's stages, and a batch in several parts is encoded outside of any loss.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
# Nobody waits that long for a process that died (its connections break, and torchrun ends the
# others); a process may wait that long for another one that packs a corpus.
PATIENCE = timedelta(hours=12)


class Left(InputError):
    """Another process of the run has ended; it has printed the reason, if it could."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start(backend: str) -> None:
    """Join the process group. ``backend`` names a library of collectives for each device."""
    if launched() and not dist.is_initialized():
        group = dist.PrefixStore("group", _store())
        number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(
            backend, store=group, rank=number, world_size=count, timeout=PATIENCE
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: object) -> NoReturn:
    """At SIGTERM, until the training loop has a better answer: torchrun sends it when another
    process was killed, and only says which one."""
    if first_to_report():
        print(
            "error: SIGTERM before training began, as torchrun sends it when a process of this run "
            "has ended; nothing is lost, and the same command starts again",
            file=sys.stderr,
            flush=True,
        )
    sys.exit(128 + number)


def end() -> None:
    """Leave the process group after a run without faults."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that prints, saves and logs."""
    return int(os.environ.get("RANK", "0")) == 0 if launched() else True


def first_to_report() -> bool:
    """True in the first process that calls this, which reports why the run ends; else False."""
    if not launched():
        return True
    try:
        return _apart or _store().add("reported", 1) == 1
    except RuntimeError:  # the process that kept the store is gone: rather twice than not at all
        return True


_apart = False  # there is no store


@functools.cache
def _store() -> dist.Store:
    global _apart
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=60))))
    except (RuntimeError, ValueError) as fault:
        _apart = True
        reason = str(fault).splitlines()[0][:200]
        raise InputError(
            f"the processes of this run cannot meet at {place} ({reason}); if the port is in use, "
            "choose another (MASTER_PORT, or --master_port of torchrun)"
        ) from None
    store.set_timeout(PATIENCE)
    return store


def _collective(function: Callable[P, T]) -> Callable[P, T]:
    """A function that all processes have to call; if one of them has ended, an ``InputError``."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> T:
        try:
            return function(*args, **keywords)
        except RuntimeError as fault:
            if world_size() == 1:
                raise
            reason = str(fault).splitlines()[0][:200]
            raise Left(
                f"a process of this run ended without a message ({reason}); "
                "--resume goes on from last.pt"
            ) from None

    return call


@_collective
def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks; pickled, on the CPU."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


@_collective
def gather_numbers(numbers: Sequence[int]) -> list[list[int]]:
    """The integers of all processes, equally many from each; faster than ``gather_objects``."""
    local = torch.tensor(numbers)
    if world_size() == 1:
        return [local.tolist()]
    gathered = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(gathered, local)
    return [each.tolist() for each in gathered]


@_collective
def wait() -> None:
    """Block until all processes have called this."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """One process of each machine runs the block first, then the others: they read what it
    wrote."""
    if local_rank() > 0:
        wait()
    yield
    if local_rank() == 0:
        wait()


@_collective
def gather_rows(local: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes, in the order of their ranks.

    Its gradient assumes that every process computes the same loss from the result, and that the
    gradients of the parameters are then averaged: of the gradient of the gathered rows, a process
    takes the part of its own rows, times the number of processes.

    Args:
        local: the rows of this process.
        counts: how many rows each process has.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _GatherRows.apply(local, tuple(counts))  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        padded = local.new_zeros(max(counts), *local.shape[1:])
        padded[: len(local)] = local
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        first = sum(ctx.counts[: rank()])
        return gradient[first : first + ctx.counts[rank()]] * world_size(), None


@_collective
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes; all in one all-reduce.

    Every process computes with the same layers, and so has gradients for the same parameters.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    means = (flat / world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


@_collective
def same_buffers(model: nn.Module) -> None:
    """Give all processes what the first one has in the model's buffers (statistics of a batch
    norm, which sees the rows of its own process)."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def own_share(count: int) -> range:
    """The consecutive items of ``range(count)`` that belong to this process. Shares differ in size
    by at most one; concatenated in the order of ranks they are all items in order."""
    size, longer = divmod(count, world_size())
    first = rank() * size + min(rank(), longer)
    return range(first, first + size + (rank() < longer))
