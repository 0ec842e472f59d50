"""A bound on the memory that reading a file may take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows, where memory stays unbounded
    resource = None  # type: ignore[assignment]


def free_memory() -> int | None:
    """Bytes that this machine, or the group of processes that this one belongs to, has left; None
    where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    with contextlib.suppress(OSError, ValueError):  # ValueError: "max", for no bound
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())
        free = min(free, max(0, most - int((group / "memory.current").read_text())))
    return free


@contextlib.contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """Let this process take only so many bytes more than it has.

    Ten bytes of a hostile or damaged file can ask for 64 GB; with a bound that is a MemoryError and
    not the end of the process, or of its neighbours.
    """
    if resource is None:
        yield
        return
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # a system that does not say how much there is
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = used + more
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
