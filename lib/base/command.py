"""What every command does around its work: faults become one line and an exit status.

2 stands for what the user can fix: the input, the disk, the memory. 70 stands for a fault of the
program, whose traceback goes to a file that the line names. Torch is not imported here.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import errno
import io
import math
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .errors import InputError
from .files import HDF5_ERROR, reason_of
from .installed import as_started

BAD_INPUT, OUR_FAULT = 2, 70  # EX_SOFTWARE of sysexits
_SIGPIPE = 13  # its number on every system that has it
SOME_SKIPPED = 3  # of several videos; the others are done
# Faults of the machine, also where no file is named.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EFBIG),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
}
# In what Torch, Python and the linker say of it, in errors of other kinds.
_OF_MEMORY = (
    *("DefaultCPUAllocator", "can't start new thread", os.strerror(errno.ENOMEM)),
    *("failed to map segment from shared object", "could not create a primitive"),
)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``. An error that the user can fix becomes one line and exit status 2;
    any other becomes one line, a file with the traceback, and exit status 70.

    Of several processes, only the first one that fails prints its message; the others end too.
    """
    _open_standard_streams()
    sys.unraisablehook, sys.excepthook = _unraisable, _unhandled
    _remember_interrupts()
    try:
        main()
        sys.stdout.flush()
        if (distributed := _distributed()) is not None:
            distributed.end()
    except BrokenPipeError:  # who reads the output (head, less) has seen enough
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(128 + _SIGPIPE)
    except KeyboardInterrupt:
        _exit_interrupted()
    except Exception as fault:
        if _was_interrupted(fault):
            _exit_interrupted()
        message = known(fault)
        if message is None:
            _exit_with_traceback(fault)
        _exit_with(message, getattr(fault, "exit_status", BAD_INPUT))


def _open_standard_streams() -> None:
    """Where the command was started without one (``>&-``): the next file that is opened would take
    its number, and be written by whoever prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot show ends no command
            stream.reconfigure(errors="backslashreplace")


_interrupted = threading.Event()


def _remember_interrupts() -> None:
    """Ctrl-C raises KeyboardInterrupt as ever, and is remembered: a library may make another error
    of it that does not name it as its cause."""
    _interrupted.clear()

    def interrupt(number: int, frame: Any) -> None:
        _interrupted.set()
        signal.default_int_handler(number, frame)

    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def _exit_interrupted() -> NoReturn:
    _interrupted.set()
    if _first_to_report():
        print("\ninterrupted", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def _was_interrupted(fault: BaseException) -> bool:
    """Whether it is what a library made of Ctrl-C."""
    if _interrupted.is_set():
        return True
    seen: BaseException | None = fault
    for _ in range(100):
        if seen is None or isinstance(seen, KeyboardInterrupt):
            break
        seen = seen.__cause__ or seen.__context__
    return isinstance(seen, KeyboardInterrupt)


def _unraisable(what: Any) -> None:
    """Ctrl-C where Python can raise nothing, such as a callback of a weak reference: again, when
    that is left. What is left half-done by Ctrl-C and complains of it when it is taken away, such
    as an archive that was being written, is not heard."""
    if what.exc_type is not None and issubclass(what.exc_type, KeyboardInterrupt):
        _interrupt_soon()
    elif not (_interrupted.is_set() or _reported_elsewhere(what.exc_value)):
        sys.__unraisablehook__(what)


def _interrupt_soon() -> None:
    """Ctrl-C once more; another one may come while this is arranged."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()
            return


def _unhandled(kind: type[BaseException], fault: BaseException, trace: Any) -> None:
    """What a library prints by itself."""
    if not _reported_elsewhere(fault):
        sys.__excepthook__(kind, fault, trace)


def _reported_elsewhere(fault: object) -> bool:
    """What HDF5 says once more of a full disk whenever it closes something, and what Torch says of
    a dead loader process where nothing can be raised: the next batch finds it."""
    text = str(fault)
    loader = ("DataLoader worker (pid", "'_MultiProcessingDataLoaderIter' object has no attribute")
    return bool(HDF5_ERROR.search(text)) or any(words in text for words in loader)


def count_from(low: int) -> Callable[[str], int]:
    """For ``type=`` of an argument: a whole number of at least ``low``."""

    def count(text: str) -> int:
        try:
            value = int(text) if len(text) <= 18 else low - 1
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is none of the numbers that are possible, {low}, {low + 1}, …"
            )
        return value

    return count


COUNT, POSITIVE = count_from(0), count_from(1)


def number_from(low: float) -> Callable[[str], float]:
    """For ``type=`` of an argument: a finite number of at least ``low``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= low):
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is none, expected a number of at least {low:g}"
            )
        return value

    return number


def known(fault: Exception) -> str | None:
    """What to tell the user of a fault that is not the program's; None for one that is."""
    if isinstance(fault, InputError):
        return str(fault)
    first = (str(fault).splitlines() or [""])[0][:200]
    if isinstance(fault, UnicodeEncodeError) and fault.encoding != "utf-8":
        return (
            f"a name with {fault.object[fault.start : fault.end][:20]!a} cannot be told to a "
            f"system whose texts are {fault.encoding}; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        )
    if isinstance(fault, OSError) and fault.strerror:
        if fault.filename is not None:
            return f"{fault.filename}: {fault.strerror}"
        if fault.errno in _MACHINE:
            return f"the disk: {fault.strerror}"
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":
        return f"memory ran out{f' ({first})' if first else ''}"
    if isinstance(fault, RuntimeError | ImportError) and any(w in first for w in _OF_MEMORY):
        return f"memory ran out ({first})"
    if isinstance(fault, RuntimeError):
        if HDF5_ERROR.search(str(fault)):  # a full disk
            return f"the disk: {reason_of(fault)}"
        if "does not have a deterministic implementation" in first:
            return f"TRAIN.DETERMINISTIC: on this device {first.split(',')[0]}"
    return None


def _exit_with(message: str, status: int) -> NoReturn:
    lines = message.splitlines() or [""]
    if _first_to_report():
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
    sys.exit(status)


def _exit_with_traceback(fault: Exception) -> NoReturn:
    if not _first_to_report():
        sys.exit(OUR_FAULT)
    text = "".join(traceback.format_exception(fault))
    command = f"{as_started()}\nPython {platform.python_version()}, {platform.platform()}\n"
    stem = Path(sys.argv[0]).stem.replace(" ", "-") or "command"
    where = "could not be written"
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix=f"{stem}-", suffix=".traceback.txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{command}\n{text}")
        where = f"is in {name}"
    reason = (str(fault).splitlines() or [""])[0][:200]
    _exit_with(
        f"this is a fault of the program and not of its input ({type(fault).__name__}: {reason}); "
        f"its traceback {where}",
        OUR_FAULT,
    )


def _distributed() -> Any:
    """``lib.base.distributed`` if it is in use: the scorer has no Torch."""
    return sys.modules.get(f"{__package__}.distributed")


def _first_to_report() -> bool:
    distributed = _distributed()
    return distributed is None or bool(distributed.first_to_report())
