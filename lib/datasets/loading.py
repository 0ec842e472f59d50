"""Loader processes: they heed nobody but the process that trains, and a dead one is noticed between
two batches."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import compress
from multiprocessing import queues
from types import FrameType
from typing import Any, NoReturn

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from ..base.errors import InputError, WorkerDied

_ENDING = {signal.SIGTERM, signal.SIGINT}
# macOS and Windows have no sigtimedwait: there a SIGTERM from anybody ends a loader process, which
# the process that trains reports.
_KNOWS_SENDER = hasattr(signal, "sigtimedwait")
_UNSENT = 100  # and the number of the error: with what status a loader process ends
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC)
_WAITING = ("multiprocessing", "selectors", "queue", "threading")  # modules
_LACKS = [os.strerror(number) for number in _SHORT]


class Loader(DataLoader):
    """A ``DataLoader`` whose faults are sentences, and come out of ``next`` and nowhere else.

    A signal to the group of processes (from a scheduler, a service manager, or Ctrl-C) is for the
    process that trains: it finishes its step, for which it needs the others.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.num_workers:
            self.worker_init_fn = heed_parent_alone

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.num_workers:
            yield from super().__iter__()
            return
        batches: Any = self._iterator  # of the epoch before
        try:
            with _sentences(), _hearing():
                _require_alive(batches)
                _allow_open_files(self.num_workers)
                with _held(_ENDING):  # a child is born with what its parent holds back
                    batches = super().__iter__()
            _report_deaths_between_batches()
            while True:
                with _sentences(), _hearing():
                    _require_alive(batches)
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except InputError:
            _abandon(batches)
            _require_alive(batches)  # Torch does not always know how one ended
            raise


def _allow_open_files(workers: int) -> None:
    """As many as the user may have: each tensor of a batch under way is one. Raises OSError where
    there are too few to start with, at which Torch would leave something half made."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # ImportError: on Windows
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as opened:
        for _ in range(16 + 8 * workers):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def heed_parent_alone(number: int) -> None:
    """End with the process that trains, or at its SIGTERM, which it sends to a loader process that
    does not stop when asked to; let SIGTERM and Ctrl-C from anybody else pass."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_left_alone
    if hasattr(signal, "pthread_sigmask"):
        how = signal.SIG_BLOCK if _KNOWS_SENDER else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        while parent.is_alive():  # Torch looks too, but for whom it found as its parent at first
            if not _KNOWS_SENDER:
                time.sleep(1.0)
                continue
            heard = signal.sigtimedwait({signal.SIGTERM}, 1.0)
            if heard is not None and heard.si_pid == parent.pid:
                break
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    queues.Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]


def _end_unsent(fault: Exception, batch: object) -> NoReturn:
    """A batch that cannot be sent would be waited for in vain, and Python only prints why."""
    numbers = (number for number in _SHORT if os.strerror(number) in str(fault))
    os._exit(_UNSENT + next(numbers, 0))


def _unless_left_alone(kind: type[BaseException], fault: BaseException, trace: Any) -> None:
    """What a thread of a loader process prints: nothing of a batch that nobody fetched, because the
    process that trains has ended or lost another one."""
    if not isinstance(fault, EOFError | ConnectionError):
        sys.__excepthook__(kind, fault, trace)


@contextlib.contextmanager
def _held(signals: set[signal.Signals]) -> Iterator[None]:
    """A context at whose end the signals that came meanwhile are delivered; Windows delivers them
    at once."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_listening = False


@contextlib.contextmanager
def _hearing() -> Iterator[None]:
    """A context in which the death of a loader process is an error."""
    global _listening
    _listening = True
    try:
        yield
    finally:
        _listening = False


def _report_deaths_between_batches() -> None:
    """Torch's handler raises wherever the program is, as in the middle of a step of the optimiser,
    or while a checkpoint is written."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and hasattr(signal, "SIGCHLD"):  # Windows has none: the next batch finds it
        signal.signal(signal.SIGCHLD, _child_ended)


def _child_ended(number: int, frame: FrameType | None) -> None:
    """Raise out of what waits for a batch, and out of nothing else: an import that is cut short
    would leave a module half made."""
    if not _listening:
        return
    name = frame.f_globals.get("__name__", "") if frame is not None else ""
    if name.partition(".")[0] in _WAITING:
        signal_handling._error_if_any_worker_fails()
        return
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.02, signal.pthread_kill, (main, signal.SIGCHLD)).start()


def _require_alive(batches: Any) -> None:
    """Refuse to wait for a loader process that has ended, though more is expected of it. Torch
    finds one that ended with status 0 later, and by a lock that it may have died with."""
    if batches is None:
        return
    for worker, expected in zip(batches._workers, batches._workers_status, strict=True):
        status = worker.exitcode
        if status is None or (status == 0 and not expected):
            continue
        if status == _UNSENT:
            raise _lacking("memory or files")
        if status - _UNSENT in _SHORT:
            raise _lacking(os.strerror(status - _UNSENT))
        how = f"by the signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        raise _died(f"process {worker.pid}, {how}")


def _abandon(batches: Any) -> None:
    """End loader processes without asking: a dead one may have left their queues locked."""
    if batches is None:
        return
    batches._shutdown = True
    alive = [worker.exitcode is None for worker in batches._workers]
    for worker in compress(batches._workers, alive):
        worker.kill()
    dead = [not one for one in alive]
    batches._workers = list(compress(batches._workers, dead))
    batches._workers_status = list(compress(batches._workers_status, dead))


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """What was wrong with the data stays one sentence when another process found it, or died."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None
    except (OSError, RuntimeError, EOFError) as error:
        text = str(error)
        ours = " in DataLoader worker" in text  # what our own code raised there
        # A batch that is fetched from a process that dies meanwhile.
        broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
        if not ours and (broken or "DataLoader worker" in text):
            raise _died((text or type(error).__name__).splitlines()[0]) from None
        if "ancdata" in text:  # how a file that cannot be received is reported
            text = os.strerror(errno.EMFILE)
        reason = next((reason for reason in _LACKS if reason in text), None)
        if reason is None:
            raise
        raise _lacking(reason) from None


def _died(how: str) -> WorkerDied:
    return WorkerDied(
        f"a process that loads data died ({how}); if memory or shared memory ran out take fewer "
        "WORKERS; WORKERS 0 shows any other reason"
    )


def _lacking(reason: str) -> InputError:
    return InputError(
        f"the processes that load data lack what they need ({reason}); raise the limit (ulimit -n "
        "for open files), or take fewer WORKERS"
    )
