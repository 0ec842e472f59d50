"""Other systems: commands without what only Unix has, locks as Windows has them, and processes as
macOS starts them."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import Dataset

from lib.base import locks
from lib.base.errors import InputError, WorkerDied
from lib.base.files import lock_folder
from lib.commands import doctor
from lib.commands.console import COMMANDS
from lib.datasets import LoadedCorpus, cache, loading
from lib.datasets.annotations import Record
from lib.datasets.cache import DirectRows, make_rows
from lib.tools import profiling
from tests.runs import REPOSITORY, write_experiment

# What Python does not have on Windows, as far as somebody might use it.
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
OF_OS = ("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "register_at_fork", "getuid", "sysconf")
OF_SIGNAL = ("SIGCHLD", "SIGHUP", "SIGPIPE", "pthread_sigmask", "sigtimedwait")
WITHOUT = f"""
    import contextlib, json, mmap, os, signal, sys
    for name in {MODULES}:
        sys.modules[name] = None
    import h5py, numpy, torch, torch._dynamo, torch.utils.data, torchtext.vocab
    torch.set_num_threads(1)
    for module, names in ((os, {OF_OS}), (signal, {OF_SIGNAL}), (mmap, ("MADV_RANDOM",))):
        for name in names:
            delattr(module, name)
    opened = os.open
    def no_folder(path, *more, **options):
        if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
            raise PermissionError(13, "a folder", str(path))
        return opened(path, *more, **options)
    os.open = no_folder
"""


RUN = """
    import importlib
    from lib.base.command import run_script
    for words in json.loads(sys.argv[1]):
        sys.argv = [f"{words[0]}.py", *words[1:]]
        status = 0
        try:
            run_script(importlib.import_module(f"lib.commands.{words[0]}").main)
        except SystemExit as leaving:
            status = leaving.code or 0
        print("ended:", words[0], status, file=sys.stderr)
"""


def without_unix(steps: Iterable[Sequence[str]]) -> tuple[str, list[str]]:
    """Commands, one after the other, in a process without these; what they print, and how each of
    them ends."""
    code = textwrap.dedent(WITHOUT) + textwrap.dedent(RUN)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(list(steps))],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, [
        x for x in ended.stderr.splitlines() if x.startswith(("ended:", "error:"))
    ]


def test_case_windows_start(tmp_path: Path) -> None:
    """Without what only Unix has, every command says what it does, and from training to a search
    they work, in one process that loads data itself."""
    cfg, run = str(write_experiment(tmp_path, EPOCHS=1)), str(tmp_path / "save" / "tiny")
    index, features = str(tmp_path / "videos.index"), str(tmp_path / "ten.hdf5")
    with h5py.File(features, "w") as file:
        for number in range(10):
            rows = np.random.default_rng(number).standard_normal((20, 12))
            file[f"v{number}"] = rows.astype(np.float32)
    alike = ("--seconds-per-row", "1", "--same-recipe")
    steps = [
        ("dense_train", "--cfg", cfg),
        ("dense_train", "--cfg", cfg, "--set", "TRAIN.EPOCHS=2", "--resume"),
        ("best_test", "--cfg", cfg),
        ("plan", "--cfg", cfg, "--steps", "2"),
        ("report", run),
        ("index", features, "--run", run, "--out", index, *alike),
        ("search", index, "A man runs. He stops."),
        ("doctor", "--cfg", cfg, "--annotations-only"),
        *((name, "--help") for name in COMMANDS),
    ]
    said, ends = without_unix(steps)
    assert ends == [f"ended: {words[0]} 0" for words in steps]
    assert "of 2 on validation" in said and "ms over 10 videos" in said
    assert (tmp_path / "save" / "tiny" / "results.html").is_file()


class Windows:
    """Locks of bytes as ``msvcrt`` has them, by those of Linux: between open files, and refused
    by a PermissionError."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.places: list[int] = []

    def locking(self, number: int, mode: int, count: int) -> None:
        import fcntl

        assert (mode, count) == (self.LK_NBLCK, 1)
        self.places.append(os.lseek(number, 0, os.SEEK_CUR))
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


def test_locks_of_windows_keep_others_out(monkeypatch, tmp_path: Path) -> None:
    windows = Windows()
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    folder = tmp_path / "run"
    folder.mkdir()
    held = lock_folder(folder, "wait for it")
    with pytest.raises(InputError, match=f"in use by another process .number {os.getpid()}"):
        lock_folder(folder, "wait for it")
    held.close()
    lock_folder(folder, "wait for it").close()
    assert set(windows.places) == {2**31 - 2}  # where nobody reads


def test_a_lock_of_windows_is_waited_for(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "_NEXT_TRY", 0.01)
    monkeypatch.setitem(sys.modules, "msvcrt", Windows())
    with (tmp_path / "a").open("ab") as first, (tmp_path / "a").open("ab") as second:
        first.write(b"12345")
        first.flush()
        locks.lock(first)
        assert first.tell() == 5  # the file stands where it stood
        threading.Timer(0.1, first.close).start()
        began = time.monotonic()
        locks.lock(second, wait=True)
        assert time.monotonic() - began >= 0.09


def test_a_system_without_locks_refuses_nobody(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with lock_folder(tmp_path, "wait"), lock_folder(tmp_path, "wait"):
        pass
    with (tmp_path / "a").open("w") as file, pytest.raises(OSError, match="not implemented"):
        locks.lock(file)


def test_windows_packs_no_features(monkeypatch, tiny: LoadedCorpus, tmp_path: Path) -> None:
    """It renames no open file; the rows are the same."""
    split = tiny["val"]
    direct = DirectRows(tiny.features, split.corpus[0], num_frames=32)
    videos = list(split.corpus)
    monkeypatch.setattr(cache, "_PACKS", False)
    monkeypatch.setattr(cache, "_IN_MEMORY", 0)
    assert make_rows(direct, videos, mode="auto", folders=[tmp_path]) is direct
    with pytest.raises(InputError, match="DATASET.CACHE disk .* expected memory or direct"):
        make_rows(direct, videos, mode="disk", folders=[tmp_path])
    assert not list(tmp_path.iterdir())


def test_memory_that_no_part_of_python_tells(monkeypatch) -> None:
    monkeypatch.setattr(profiling, "_status", lambda name: None)
    assert profiling.peak_resident() > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert profiling.peak_resident() == 0


class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        return index * index


@pytest.mark.parametrize("sender", ["the parent", "another"])
def test_loader_processes_where_a_signal_does_not_tell_its_sender(monkeypatch, sender: str) -> None:
    """As on macOS: they end when they are asked to, by whomever, and that is reported. At the
    signal of its parent one ends with status 0, maybe with a lock that Torch takes to find out."""
    monkeypatch.setattr(loading, "_KNOWS_SENDER", False)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        assert [int(x) for x in loading.Loader(Squares(), num_workers=1)][:3] == [0, 1, 4]
        loader = loading.Loader(Squares(), num_workers=1, persistent_workers=True)
        batches = iter(loader)
        next(batches)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        if sender == "another":
            subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
        else:
            os.kill(worker.pid, signal.SIGTERM)
        worker.join(60)
        loader._iterator._workers_done_event._cond.acquire()  # as if it had ended within
        with pytest.raises(WorkerDied, match="died"):
            for _ in batches:
                pass
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_doctor_reads_features_in_a_new_process_too(monkeypatch, tiny: LoadedCorpus) -> None:
    """As where there are no forks: what it is given can be sent, and what it finds comes back."""
    records = {"val": [Record("nobody", "nobody", 9.0, [(0.0, 1.0)], ["A man runs."])]}
    found = {}
    for start in ("fork", "spawn"):
        monkeypatch.setattr(doctor, "_START", start)
        found[start] = doctor.in_a_process(tiny.features, records, videos=1)
    assert found["spawn"] == found["fork"] and found["fork"]
