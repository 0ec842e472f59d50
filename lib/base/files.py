"""Files that are replaced completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unwritable(path: Path, fault: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written ({reason_of(fault)}); what was there before is unchanged"
    )


def reason_of(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or str(fault)
