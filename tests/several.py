"""Several processes of one run, as torchrun would start them, in forks that start at once."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lib.base import distributed


class Launcher:
    """What torchrun is to its processes: the keeper of the store at which they meet."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )

    def environment(self, rank: int) -> dict[str, str]:
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }

    def enter(self, rank: int) -> None:
        """Make this process the one of that number."""
        os.environ.update(self.environment(rank))


def together(function: Callable[[], Any], folder: Path, *, count: int = 2) -> list[Any]:
    """What a function returns in each of some processes that have met, by their number."""
    launcher, children = Launcher(count), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                launcher.enter(rank)
                distributed.start("gloo")
                (folder / f"{rank}.pickle").write_bytes(pickle.dumps(function()))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    failed = [rank for rank, child in enumerate(children) if os.waitpid(child, 0)[1]]
    assert not failed, f"processes {failed} failed"
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(count)]
