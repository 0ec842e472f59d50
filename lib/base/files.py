"""Files that are replaced completely or not at all, and folders that one process writes into."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from . import locks
from .errors import InputError

HDF5_ERROR = re.compile(r"errno = \d+, error message = '([^']*)'")
Write = Callable[[BinaryIO], Any]  # fills a file that is open for it

# Windows has neither pipes nor links that anybody could put into a file's place unasked.
_NO_WAITING, _NO_LINKS = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOFOLLOW", 0)
_BLOCKS, _BLOCK = 32, 16384  # of a sample of a large file
RECORD = ".files"  # in a folder: the names of what was written there, one JSON text a line


def replace_file(path: Path, write: Write) -> Path:
    """Let ``write`` fill a new file, then replace ``path`` by it in one step.

    Whenever a reader looks or a process is killed, ``path`` is the old file or the new one. Neither
    the new file nor ``path`` is written through a link that lies in its place.

    Raises:
        InputError: the disk is full or the folder not writable; the old file is as it was.
    """
    replace_files({path: write})
    return path


def replace_files(writes: Mapping[Path, Write]) -> None:
    """``replace_file`` for several that belong together: the first is replaced when all are safe on
    the disk, the last one microseconds later, in the order given.

    Raises:
        InputError: as ``replace_file`` does; the old files are as they were.
    """
    made: dict[Path, os.stat_result] = {}
    path = Path()
    try:
        try:
            for path, write in writes.items():
                temporary = path.with_name(f".{path.name}.new")
                with contextlib.suppress(FileNotFoundError):  # of a process that was killed
                    temporary.unlink()
                with temporary.open("xb") as file:  # which follows no link
                    made[temporary] = os.fstat(file.fileno())
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
            for path in writes:
                temporary = path.with_name(f".{path.name}.new")
                if not os.path.samestat(os.lstat(temporary), made[temporary]):
                    del made[temporary]  # and is not ours to delete
                    raise InputError(f"{path} is being written by another process; wait for it")
                os.replace(temporary, path)
                del made[temporary]
        except BaseException:
            for temporary in made:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            raise
        for folder in dict.fromkeys(path.parent for path in writes):
            sync_folder(folder)
    except OSError as fault:
        raise unwritable(path, fault) from None


def link_file(source: Path, path: Path) -> Path:
    """Replace ``path`` by another name of ``source``, or by a copy where there are no such links.

    Raises:
        InputError: as ``replace_file`` does.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        os.link(source, temporary)
        os.replace(temporary, path)
        temporary.unlink(missing_ok=True)  # two names of one file are left as they are by a rename
        return path
    except OSError:
        with source.open("rb") as file:
            return replace_file(path, lambda copy: shutil.copyfileobj(file, copy))


def write_bytes(path: Path, content: bytes) -> Path:
    """``replace_file`` by some bytes."""
    return replace_file(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> Path:
    """``replace_file`` by a text in UTF-8."""
    return write_bytes(path, text.encode())


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with open_input(path, mode="rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def add_sample(digest: Any, file: BinaryIO, size: int) -> None:
    """Update a digest of ``hashlib`` with blocks from the beginning of a file of so many bytes to
    its end, by which a large one is known again without reading it all."""
    for offset in np.linspace(0, max(size - _BLOCK, 0), _BLOCKS, dtype=np.int64):
        file.seek(int(offset))
        digest.update(file.read(_BLOCK))


def what_it_is(path: Path) -> str:
    """Why a file cannot be what it is named as, by its first bytes, as the rest of a sentence:
    nothing in it, a pointer of Git LFS, or a web page; "" = none of these.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    with open_input(path, mode="rb") as file:
        start = file.read(512)
    if not start:
        return "is empty; get the file again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the file itself, which git lfs pull fetches"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return (
            "is a web page that was saved under its name (a download that asked for a "
            "confirmation, or for a password); get the file again"
        )
    return ""


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_input(path: Path, **options: Any) -> IO[Any]:
    """Open a file to read it; one that is no file but a pipe or a device, which might never
    end, is an ``OSError``."""
    return open(path, opener=_open_input, **options)


def _open_input(path: str, flags: int) -> int:
    handle = os.open(path, flags | _NO_WAITING)
    mode = os.fstat(handle).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(handle)
        raise OSError(errno.EINVAL, "a pipe or a device, and no file")
    return handle


def open_plain(path: Path, mode: str) -> Any:
    """Open a file that is written piece by piece, but no link and no pipe in its place.

    Args:
        mode: as of ``open``; texts are UTF-8.

    Raises:
        InputError: that is what is there, or it cannot be written.
    """
    try:
        if "b" in mode:
            return open(path, mode, opener=_open_plain)
        return open(path, mode, encoding="utf-8", errors="replace", opener=_open_plain)
    except OSError as fault:
        raise unwritable(path, fault) from None


def _open_plain(path: str, flags: int) -> int:
    try:
        handle = os.open(path, flags | _NO_LINKS | _NO_WAITING, 0o666)
    except OSError as fault:
        if fault.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "a symbolic link, which is not followed") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return handle


def record_file(folder: Path, name: str) -> Path:
    """Note in the folder's record that ``name`` is written there by us, before it is.

    Raises:
        InputError: the record cannot be written.
    """
    if name not in recorded_files(folder):
        try:
            with open_plain(folder / RECORD, "a") as file:
                file.write(json.dumps(name) + "\n")
        except OSError as fault:
            raise unwritable(folder / RECORD, fault) from None
    return folder / name


def recorded_files(folder: Path) -> list[str]:
    """The names in a folder's record: plain names of files that stand in it, and no others."""
    try:
        lines = (folder / RECORD).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    names = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):  # a line that a kill cut short
            name = json.loads(line)
            if isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & {*name}:
                names.append(name)
    return list(dict.fromkeys(names))


def lock_folder(folder: Path, advice: str) -> IO[str]:
    """Lock a folder for this process, until the file given back is closed or the process ends.

    Args:
        advice: what to do when another process holds it, as the end of the message.

    Raises:
        InputError: another process holds it, or the folder is not writable.
    """
    lock = open_plain(folder / ".lock", "a+")
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
    try:
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    except OSError as fault:
        _drop(lock)
        raise unwritable(folder / ".lock", fault) from None
    # A forked loader process would hold the lock on after a kill of the one that trains.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(_close, weakref.ref(lock)))
    return lock


def _take(lock: IO[str]) -> None:
    for _ in range(5):  # a process that was just killed takes a moment to let go
        with contextlib.suppress(BlockingIOError):
            return locks.lock(lock)
        time.sleep(0.05)
    locks.lock(lock)


def _drop(file: IO[str]) -> None:
    """Close a file that may hold what cannot be written."""
    with contextlib.suppress(OSError):
        file.close()


def _close(lock: weakref.ref[IO[str]]) -> None:
    if (file := lock()) is not None:
        file.close()


def unwritable(path: Path, fault: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written ({reason_of(fault)}); what was there before is unchanged"
    )


def reason_of(fault: Exception) -> str:
    """In a few words. The HDF5 library puts the reason that the system gave into a long text."""
    found = HDF5_ERROR.search(str(fault))
    reason = getattr(fault, "strerror", None) or (found and found[1])
    return str(reason or str(fault).split("\n")[0][:200])
