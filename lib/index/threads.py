"""Parts of a computation side by side, each by a thread that computes alone.

Torch shares out single operations, and those on a chunk of the first stage are too small for that.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """The results for some parts, in their order; on as many threads as Torch uses here."""
    count = torch.get_num_threads()
    if count == 1 or len(parts) == 1:
        return [function(part) for part in parts]
    # By process: a fork does not take the threads along.
    return list(_pool(os.getpid(), count).map(function, parts))


@functools.lru_cache(maxsize=1)
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(count, "index", initializer=torch.set_num_threads, initargs=(1,))
    all_there = threading.Barrier(count)
    list(pool.map(lambda _: all_there.wait(), range(count)))
    torch.set_num_threads(count)  # for threads that others start, which take the last number set
    return pool
