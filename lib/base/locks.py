"""Locks of open files between processes, by what the system has for them."""

from __future__ import annotations

import errno
import os
import time
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
_FAR = 2**31 - 2  # no byte is there; on Windows nobody else can read one that is locked
_NEXT_TRY = 0.1  # seconds


def lock(file: IO[Any] | int, *, wait: bool = False) -> None:
    """Lock a file for this process until it is closed, or the process ends.

    Args:
        file: an open one, or its number.
        wait: until nobody else holds it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the system, or the file system, has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        _lock_byte(file if isinstance(file, int) else file.fileno(), wait=wait)


def _lock_byte(number: int, *, wait: bool) -> None:
    try:
        import msvcrt
    except ImportError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    windows: Any = msvcrt  # whose functions the type checker knows on Windows alone
    before = os.lseek(number, 0, os.SEEK_CUR)
    try:
        os.lseek(number, _FAR, os.SEEK_SET)  # it locks from where the file stands
        while True:
            try:
                windows.locking(number, windows.LK_NBLCK, 1)
                return
            except PermissionError:
                if not wait:
                    raise BlockingIOError(errno.EAGAIN, "another process holds it") from None
            time.sleep(_NEXT_TRY)
    finally:
        os.lseek(number, before, os.SEEK_SET)
