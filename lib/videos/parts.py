"""Progress of an extraction: one small file per video, beside the file that they will become.

A part is written completely or not at all, so that a killed extraction goes on where it was. Once
all parts are in the feature file they are removed; what remains are the videos that failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from ..base import locks
from ..base.errors import InputError
from ..base.files import replace_file
from ..base.recipe import ENDS_EARLY, MODIFIED_NS, SIZE, SOURCE, Recipe

_LONGEST_NAME = 100  # bytes of a part's name, without suffix
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError)
MUST_AGREE = ("batch", "precision", "dtype", "device kind")  # of rows in one file


@dataclass(frozen=True)
class Part:
    """Rows of a video, and the attributes that they will have."""

    rows: Float[np.ndarray, "n C"]
    about: dict[str, Any]


class Parts:
    """The folder of an extraction's parts. Open it by ``open_parts``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, video: str, source: Path) -> Part | None:
        """The rows of a video, if they are complete and the file is still the same."""
        return self._read(self._path(video, ".npz"), source)

    def save(self, video: str, part: Part) -> None:
        _write(self._path(video, ".npz"), part)
        self._path(video, ".unfinished").unlink(missing_ok=True)
        self._path(video, ".error.json").unlink(missing_ok=True)

    def load_unfinished(self, video: str, source: Path) -> Part | None:
        """The first rows of a video whose extraction was interrupted."""
        return self._read(self._path(video, ".unfinished"), source)

    def save_unfinished(self, video: str, part: Part) -> None:
        _write(self._path(video, ".unfinished"), part)

    def failure(self, video: str, source: Path) -> tuple[str, bool] | None:
        """Why a video failed before, and whether because its file ends early; None if it has not,
        or if the file has changed since."""
        try:
            record = json.loads(self._path(video, ".error.json").read_text("utf-8"))
            if not _same_file(record, source):
                return None
            return str(record["error"]), bool(record[ENDS_EARLY])
        except _DAMAGE:
            return None

    def save_failure(self, video: str, source: Path, error: str, *, ends_early: bool) -> None:
        record = {"error": error, ENDS_EARLY: ends_early, **fingerprint(source)}
        text = json.dumps(record, indent=1).encode()
        replace_file(self._path(video, ".error.json"), lambda file: file.write(text))
        self._path(video, ".unfinished").unlink(missing_ok=True)

    def agree(self, recipe: Recipe, made_by: Mapping[str, Any]) -> None:
        """Keep what the parts are made with, or compare it with what is kept.

        Raises:
            InputError: the parts here were made in another way.
        """
        path = self.folder / "settings.json"
        try:
            kept = json.loads(path.read_text("utf-8"))
            check_agreement(self.folder, Recipe.from_json(kept["recipe"]), kept, recipe, made_by)
        except _DAMAGE:
            kept = {"recipe": recipe.json(), **{key: made_by[key] for key in MUST_AGREE}}
            text = json.dumps(kept).encode()
            replace_file(path, lambda file: file.write(text))

    def clear(self, written: Iterator[str]) -> None:
        """Remove the parts of these videos, which are in the feature file now."""
        for video in written:
            self._path(video, ".npz").unlink(missing_ok=True)
            self._path(video, ".error.json").unlink(missing_ok=True)
        if not [path for path in self.folder.iterdir() if path.name not in _OWN]:
            with contextlib.suppress(OSError):  # on Windows the lock, which is open, stays
                for name in _OWN:
                    (self.folder / name).unlink(missing_ok=True)
                self.folder.rmdir()

    def _path(self, video: str, suffix: str) -> Path:
        name = video
        if len(os.fsencode(video)) > _LONGEST_NAME:
            name = f"{video[:20]}-{hashlib.sha256(os.fsencode(video)).hexdigest()[:24]}"
        return self.folder / f"{name}{suffix}"

    def _read(self, path: Path, source: Path) -> Part | None:
        try:
            with np.load(path, allow_pickle=False) as file:
                part = Part(file["rows"], json.loads(str(file["about"])))
            return part if _same_file(part.about, source) else None
        except FileNotFoundError:
            return None
        except _DAMAGE:  # of a disk: what is killed while it writes leaves no file
            path.unlink(missing_ok=True)
            return None


_OWN = ("settings.json", "lock")


@contextlib.contextmanager
def open_parts(out: Path) -> Iterator[Parts]:
    """The parts of a feature file, for one process at a time.

    Raises:
        InputError: another process is extracting to the same file, or the folder is not writable.
    """
    folder = out.with_name(f"{out.name}.parts")
    with contextlib.ExitStack() as stack:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((folder / "lock").open("ab"))
                locks.lock(file)
            except BlockingIOError:
                raise InputError(f"{out}: another process is extracting to it.") from None
            except OSError as fault:
                raise InputError(f"{folder}: cannot be written ({fault.strerror}).") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), (folder / "lock").stat()):
                    break  # otherwise a process that has just ended removed it
        for path in folder.glob(".*.new"):  # of a process that was killed while it wrote
            path.unlink()
        yield Parts(folder)


def check_agreement(
    where: Path,
    recipe: Recipe,
    made_by: Mapping[str, Any],
    wanted: Recipe,
    wanted_by: Mapping[str, Any],
) -> None:
    """Rows of one file are made in one way.

    Raises:
        InputError: these would not be.
    """
    differences = wanted.differences(recipe) + [
        f"{key} {made_by.get(key)} there, {wanted_by[key]} here"
        for key in MUST_AGREE
        if made_by.get(key) != wanted_by[key]
    ]
    if differences:
        raise InputError(
            f"{where}: holds rows that were made in another way ({'; '.join(differences)}); choose "
            f"the same, another --out, or remove it."
        )


def fingerprint(source: Path) -> dict[str, Any]:
    """By what a replaced file is noticed."""
    stat = source.lstat() if source.is_symlink() and not source.exists() else source.stat()
    return {SOURCE: source.name, SIZE: stat.st_size, MODIFIED_NS: stat.st_mtime_ns}


def _same_file(about: Mapping[str, Any], source: Path) -> bool:
    return all(about.get(key) == value for key, value in fingerprint(source).items())


def _write(path: Path, part: Part) -> None:
    def fill(file: BinaryIO) -> None:
        np.savez(file, rows=part.rows, about=np.array(json.dumps(part.about)))

    replace_file(path, fill)
