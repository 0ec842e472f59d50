"""Files that are replaced completely or not at all, and folders that one process writes into."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

from lib.base.errors import InputError


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> Path:
    """Let ``write`` fill a new file, then replace ``path`` by it in one step.

    Whenever a reader looks or a process is killed, ``path`` is the old file or the new one.

    Raises:
        InputError: the disk is full or the folder not writable; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as fault:
        raise unwritable(path, fault) from None
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """``replace_file`` by some bytes."""
    return replace_file(path, lambda file: file.write(content))


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock_folder(folder: Path, advice: str) -> IO[str]:
    """Lock a folder for this process, until the file given back is closed or the process ends.

    Args:
        advice: what to do when another process holds it, as the end of the message.

    Raises:
        InputError: another process holds it, or the folder is not writable.
    """
    path = folder / ".lock"
    try:
        lock = path.open("a+")
    except OSError as fault:
        raise unwritable(path, fault) from None
    try:
        _take(lock)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise InputError(
            f"{folder} is in use by another process (number {holder}); {advice}"
        ) from None
    except OSError:  # a file system without locks: nobody can be kept out, nobody is refused
        return lock
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    # A forked loader process would hold the lock on after a kill of the one that trains.
    os.register_at_fork(after_in_child=functools.partial(_close, weakref.ref(lock)))
    return lock


def _take(lock: IO[str]) -> None:
    for _ in range(5):  # a process that was just killed takes a moment to let go
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _close(lock: weakref.ref[IO[str]]) -> None:
    if (file := lock()) is not None:
        file.close()


def unwritable(path: Path, fault: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written ({reason_of(fault)}); what was there before is unchanged"
    )


def reason_of(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or str(fault)
