"""The folder of a run: configuration, log and results. Never overwritten without ``--overwrite``.

Files are replaced completely or not at all, and one process at a time may write into a folder.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..base.errors import InputError
from ..base.files import (
    RECORD,
    lock_folder,
    open_plain,
    reason_of,
    record_file,
    recorded_files,
    replace_file,
    replace_files,
    unwritable,
    write_bytes,
)
from ..base.installed import called
from ..base.terminal import shown_path

CONFIG, LOG, CONSOLE = "config.yaml", "log.jsonl", "console.log"
# Names that a run gives its files. Of these, an overwritten one loses what its record names.
_NAMES = re.compile(
    r"results[^/]*\.(json|md|html)|predictions[^/]*\.[^/]*|"
    r"word_vectors\.pt|(last|lowest_loss|best(-\d+)?)\.pt|"
    r"epoch\d+-step\d+\.step|events\.out\.tfevents\.[^/]*|log\.jsonl|console\.log|config\.yaml|"
    r"logger\.txt"
)
# What every run of an earlier release wrote, which kept no record.
_UNRECORDED = re.compile(
    r"results(_val|_train)?\.(json|md)|results\.html|predictions\.((truth\.)?jsonl|(maps\.)?npz)|"
    r"word_vectors\.pt|(last|best)\.pt|events\.out\.tfevents\.[^/]*|log\.jsonl|console\.log|"
    r"config\.yaml"
)
_NAMED = 5  # runs, where the one that is wanted is not there
_ADVICE = "wait for it, or name another run by --tag"


class Run:
    """A run folder, held by this process until it ends or ``close`` is called."""

    def __init__(self, folder: Path, lock: IO[str] | None) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def create(cls, folder: str | Path, config_text: str, *, overwrite: bool = False) -> Run:
        """Start a run in a new folder, or with ``overwrite`` in one that holds another run.

        Call it when all else is loaded: the old run is deleted when the new ``config.yaml`` is
        written, and of the old run only the files that its record names.

        Raises:
            InputError: the folder holds a run already, or a file in the place of one that this run
                may write; it is in use, or cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as fault:
            raise InputError(f"{folder} cannot be made a run folder ({reason_of(fault)})") from None
        run = cls(folder, lock_folder(folder, _ADVICE))
        try:
            old, foreign = _files_of(folder)
            if old and not overwrite:
                names = ", ".join(path.name for path in reversed(old[-3:]))
                raise InputError(
                    f"{folder} holds a run already ({names}{', …' * (len(old) > 3)}); "
                    "go on with it by --resume, replace it by --overwrite, or name another by --tag"
                )
            if foreign:
                raise InputError(
                    f"{foreign[0]} is in the way, which the record of the run does not name; move "
                    "it elsewhere, or name another run by --tag"
                )

            def write_and_make_way(file: BinaryIO) -> None:
                file.write(config_text.encode())
                file.flush()
                for path in old:
                    path.unlink(missing_ok=True)

            replace_file(folder / CONFIG, write_and_make_way)
            write_bytes(folder / RECORD, f"{json.dumps(CONFIG)}\n".encode())
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, folder: str | Path, *, exclusive: bool = True) -> Run:
        """An existing run, to go on with it or, not ``exclusive``, to test it while it may train.

        Raises:
            InputError: there is no run, or another process writes into it.
        """
        folder = Path(folder)
        require_run(folder)
        run = cls(folder, lock_folder(folder, _ADVICE) if exclusive else None)
        if CONFIG not in recorded_files(folder):  # of an earlier release
            for path in _files_of(folder)[0]:
                run.own(path.name)
        return run

    def path(self, name: str) -> Path:
        """The path of a file of this run."""
        return self.folder / name

    def own(self, name: str) -> Path:
        """The path of a file that is about to be written, noted in the run's record: what is not in
        it is never deleted."""
        return record_file(self.folder, name)

    def remove(self, name: str) -> None:
        """Delete a file of this run, if the record says that it is one."""
        if name in recorded_files(self.folder):
            self.path(name).unlink(missing_ok=True)

    @property
    def config_text(self) -> str:
        """The resolved configuration the run was started with."""
        try:
            return self.path(CONFIG).read_text("utf-8")
        except (OSError, ValueError) as fault:
            raise InputError(f"{self.path(CONFIG)} cannot be read ({reason_of(fault)})") from None

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``log.jsonl``; numbers that are not finite are written as null."""
        line = _line(record)
        try:
            with open_plain(self.own(LOG), "a") as file:
                file.write(line)
        except OSError as fault:
            raise unwritable(self.path(LOG), fault) from None

    def records(self) -> list[dict[str, Any]]:
        """The log so far. A last line that a kill cut short does not count.

        Raises:
            InputError: a line before the last is not a JSON object.
        """
        path = self.path(LOG)
        if not path.exists():
            return []
        try:
            *lines, rest = path.read_bytes().split(b"\n")
        except OSError as fault:
            raise InputError(f"{path} cannot be read ({reason_of(fault)})") from None
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise InputError(f"{path}:{number}: expected one JSON object, found {line[:40]!r}")
            records.append(record)
        return records

    def truncate_log(self, *, epoch: int | None = None, step: int | None = None) -> None:
        """Forget what was logged after the checkpoint a run goes on from.

        The log is cut before the first record whose ``"epoch"`` or ``"step"`` is past the given
        one; records without that number stay with those before them.
        """
        kept = []
        for record in self.records():
            if _past(record.get("epoch"), epoch) or _past(record.get("step"), step):
                break
            kept.append(record)
        lines = [_line(record) for record in kept]
        self.write_text(LOG, "".join(lines))

    def write_text(self, name: str, text: str) -> Path:
        """Write a file completely or not at all."""
        return write_bytes(self.own(name), text.encode())

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Write files that belong together, all of them or none."""
        replace_files({self.own(name): partial(_fill, text) for name, text in texts.items()})

    def write_json(self, name: str, value: Any) -> Path:
        """Write strict JSON completely or not at all; numbers that are not finite become null."""
        return self.write_text(name, strict_json(value))

    def close(self) -> None:
        """Release the folder for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_run(folder: Path) -> None:
    """Refuse a folder without a run, naming the runs below and beside it.

    Raises:
        InputError: there is none, or it is no folder.
    """
    if (folder / CONFIG).is_file():
        return
    if folder.is_file():
        raise InputError(
            f"{shown_path(folder)} is a file; expected the folder of a run (another checkpoint of "
            "it is named by --checkpoint)"
        )
    found: list[Path] = []
    with contextlib.suppress(OSError):
        found += folder.glob(f"*/{CONFIG}")
        found += folder.parent.glob(f"{glob.escape(folder.name)}-*/{CONFIG}")
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    names = [shown_path(path.parent) for path in newest[:_NAMED]]
    more = f" and {len(newest) - _NAMED} more" if len(newest) > _NAMED else ""
    raise InputError(
        f"{shown_path(folder)} holds no run (no {CONFIG}); "
        + (
            f"expected one of {', '.join(names)}{more}, as in {called('best_test')} {names[0]}"
            if names
            else "train first, with the same experiment and --tag"
        )
    )


def strict_json(value: Any) -> str:
    """A text of JSON with a line end; numbers that are not finite become null."""
    return json.dumps(_strict(value), allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def _fill(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def _files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of the run in a folder, results first and configuration last; and files that are
    not, under names that a run gives its own."""
    recorded = set(recorded_files(folder))
    ours: list[Path] = []
    foreign: list[Path] = []
    for path in sorted(folder.iterdir()):
        if not _NAMES.fullmatch(path.name) or (path.is_dir() and not path.is_symlink()):
            continue
        known = path.name in recorded or (CONFIG not in recorded and _is_of_old_run(path))
        (ours if known else foreign).append(path)
    ours.sort(key=lambda path: (not path.name.startswith("results"), path.name == CONFIG))
    return ours, foreign


def _is_of_old_run(path: Path) -> bool:
    """Of a run without a record: its usual files, and results of other decodings, which say what
    they are."""
    if _UNRECORDED.fullmatch(path.name):
        return (path.parent / CONFIG).exists()
    if path.name.startswith("results") and path.suffix in (".json", ".md"):
        try:
            found = json.loads(path.with_suffix(".json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and {"protocols", "checkpoint"} <= found.keys()
    return False


def _line(record: Mapping[str, Any]) -> str:
    """Of the log."""
    return json.dumps(_strict(record), allow_nan=False, ensure_ascii=False) + "\n"


def _past(value: Any, last: int | None) -> bool:
    return last is not None and isinstance(value, int) and value > last


def _strict(value: Any) -> Any:
    """Plain JSON values of a tree that may hold tuples, EasyDicts, NumPy and Torch numbers."""
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy and Torch
        return _strict(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
