"""Folders: a file per video, a file per clip of a video, and the release of MS-SL."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import InputError
from ...base.files import add_sample, open_input
from .arrays import (
    npy_entry,
    npy_values,
    npz_entry,
    npz_values,
    tensor_values,
    torch_content,
    torch_entry,
)
from .store import Entry, Store, require_size

SUFFIXES = (".npy", ".npz", ".pt", ".pth")
BIGFILE = "feature.bin"
_SAMPLED = 32  # files of a folder whose first bytes are part of what it is known by
_CLIP = re.compile(r"(.+)_([0-9]{1,9})_([0-9]{1,9})")
_CLIP_FRAMES = 64  # of TACoS's clips of several lengths the one that is read


class FolderStore(Store):
    """One file per name: ``name.npy``, ``name.npz``, ``name.pt`` or ``name.pth``.

    Args:
        files: the file of each name.
        member: which array of a file with several; empty = see ``choose_member``.
    """

    def __init__(self, path: Path, files: Mapping[str, Path], *, member: str = "") -> None:
        super().__init__(path)
        self.files, self.member = files, member
        suffix = next(iter(files.values())).suffix.lower()
        self.kind = f"a folder of {suffix} files"

    def names(self) -> list[str]:
        return sorted(self.files)

    def has(self, name: str) -> bool:
        return name in self.files

    def entry(self, name: str) -> Entry | None:
        path = self.files.get(name)
        if path is None:
            return None
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return npy_entry(path, name)
        if suffix == ".npz":
            return npz_entry(path, name, self.member)
        entry = torch_entry(torch_content(path), str(path), name, self.member)
        if entry is None:
            raise InputError(f"{path}: holds no tensor; expected one of shape (rows, width).")
        return entry

    def values(self, entry: Entry) -> np.ndarray:
        suffix = self.files[entry.name].suffix.lower()
        if suffix == ".npy":
            return npy_values(entry)
        if suffix == ".npz":
            return npz_values(entry)
        return tensor_values(entry, str(self.files[entry.name]))

    def identity(self) -> list[Any]:
        return identity_of_files(self.files)


def identity_of_files(files: Mapping[str, Path]) -> list[Any]:
    """Of many files: how many there are, the bytes of all, and a digest of their names, sizes and
    times of change and of the first bytes of some of them."""
    digest, total = hashlib.sha256(), 0
    names = sorted(files)
    for name in names:
        about = files[name].stat()
        total += about.st_size
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="replace"))
    for place in np.linspace(0, len(names) - 1, min(_SAMPLED, len(names)), dtype=np.int64):
        path = files[names[place]]
        with open_input(path, mode="rb") as file:
            digest.update(file.read(16384))
    return [len(names), total, digest.hexdigest()]


def list_folder(path: Path) -> dict[str, Path]:
    """The files of a folder by name, in one look at it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with os.scandir(path) as entries:
            return {entry.name: Path(entry.path) for entry in entries if entry.is_file()}
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror}).") from None


def open_folder(path: Path, *, member: str = "") -> Store:
    """The store that a folder is, by the files in it.

    Raises:
        InputError: files of several kinds, or of none that is read.
    """
    files = {name: each for name, each in list_folder(path).items() if not name.startswith(".")}
    if BIGFILE in files:
        return BigFile(path)
    kinds = Counter(each.suffix.lower() for each in files.values())
    known = [suffix for suffix in SUFFIXES if suffix in kinds]
    if len(known) != 1 and set(known) != {".pt", ".pth"}:
        there = ", ".join(f"{count:,} {kind or 'other'}" for kind, count in kinds.most_common(4))
        raise InputError(
            f"{path}: is a folder of {there or 'no'} files; expected one .npy, .npz or .pt file "
            "for each video and no other of these, or feature.bin, or the path of an HDF5 file."
        )
    of_videos: dict[str, Path] = {}
    for each in files.values():
        if each.suffix.lower() in known and of_videos.setdefault(each.stem, each) != each:
            raise InputError(
                f"{path}: holds {each.name} and {of_videos[each.stem].name}; expected one of them."
            )
    if known == [".npy"] and all(map(_CLIP.fullmatch, of_videos)):
        first = npy_entry(of_videos[min(of_videos)], "")
        if len([n for n in first.shape if n != 1]) <= 1:
            return ClipFolder(path, of_videos)
    return FolderStore(path, of_videos, member=member)


@dataclass(frozen=True)
class _Clips:
    starts: list[int]  # first frames, rising
    files: list[Path]


class ClipFolder(Store):
    """One row per file, ``VIDEO_START_END.npy``: windows of frames at a fixed stride.

    Of windows of several lengths, those of 64 frames are read. They follow each other by number,
    not by name, and none may be missing: later rows would be misplaced in time.

    Source: TALL's release of TACoS, read as 2D-TAN does.
    """

    kind = "a folder of one .npy file per clip"

    def __init__(self, path: Path, files: Mapping[str, Path]) -> None:
        super().__init__(path)
        found: dict[int, dict[str, list[tuple[int, Path]]]] = defaultdict(lambda: defaultdict(list))
        for name, file in files.items():
            match = _CLIP.fullmatch(name)
            assert match is not None
            start, end = int(match[2]), int(match[3])
            found[end - start][match[1]].append((start, file))
        lengths = sorted(found)
        length = _CLIP_FRAMES if _CLIP_FRAMES in found else lengths[0]
        if length != _CLIP_FRAMES and len(lengths) > 1:
            raise InputError(
                f"{path}: holds clips of {', '.join(map(str, lengths[:6]))} frames; expected one "
                f"length, or {_CLIP_FRAMES} among them."
            )
        self.clips = {
            video: _Clips([start for start, _ in group], [file for _, file in group])
            for video, group in ((video, sorted(group)) for video, group in found[length].items())
        }
        steps = Counter(
            later - earlier
            for clips in self.clips.values()
            for earlier, later in zip(clips.starts, clips.starts[1:], strict=False)
        )
        self.stride = steps.most_common(1)[0][0] if steps else 1

    def names(self) -> list[str]:
        return sorted(self.clips)

    def has(self, name: str) -> bool:
        return name in self.clips

    def entry(self, name: str) -> Entry | None:
        clips = self.clips.get(name)
        if clips is None:
            return None
        first = npy_entry(clips.files[0], name)
        width = int(np.prod(first.shape, dtype=np.int64))
        shape = (len(clips.files), width)
        return Entry(name, shape, first.dtype, first.numbers, clips)

    def values(self, entry: Entry) -> np.ndarray:
        clips: _Clips = entry.place
        require_size(f"{self.path}: {entry.name}", entry.shape)
        for place, start in enumerate(clips.starts):
            if start != clips.starts[0] + place * self.stride:
                missing = clips.starts[0] + place * self.stride
                raise InputError(
                    f"{self.path}: {entry.name} has no clip from frame {missing} on, but one from "
                    f"{start}; expected one every {self.stride} frames."
                )
        rows = []
        for file in clips.files:
            row = npy_values(npy_entry(file, entry.name)).reshape(-1)
            if len(row) != entry.shape[1]:
                raise InputError(
                    f"{file}: is {len(row)} wide, the first clip {entry.shape[1]}; expected one "
                    "width."
                )
            rows.append(row)
        return np.stack(rows)

    def identity(self) -> list[Any]:
        files = (file for clips in self.clips.values() for file in clips.files)
        return identity_of_files({file.name: file for file in files})


class BigFile(Store):
    """A folder of ``feature.bin`` (a float32 matrix, row by row), ``shape.txt`` (its two sizes),
    ``id.txt`` (the rows' names) and ``video2frames.txt`` (a Python dictionary: a video's rows in
    their order).

    Source: the releases of MS-SL, GMMFormer and DCIML.
    """

    kind = f"a folder of {BIGFILE}"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._videos: dict[str, np.ndarray] | None = None
        self._shape = (0, 0)
        self._matrix: np.ndarray | None = None

    @property
    def videos(self) -> dict[str, np.ndarray]:
        """The rows of each video, as places in the matrix.

        Raises:
            InputError: a file that is missing, damaged or does not fit the others.
        """
        if self._videos is None:
            self._videos = self._read_videos()
        return self._videos

    def _read_videos(self) -> dict[str, np.ndarray]:
        folder = self.path
        words = _latin(folder / "shape.txt").split()[:3]
        shape = [int(n) if re.fullmatch("[0-9]{1,15}", n) else 0 for n in words]
        if len(shape) != 2 or min(shape) < 1:
            raise InputError(
                f"{folder / 'shape.txt'}: expected the number of rows and their width."
            )
        row_of = {name: row for row, name in enumerate(_latin(folder / "id.txt").split())}
        binary = folder / BIGFILE
        size = binary.stat().st_size if binary.is_file() else 0
        if len(row_of) != shape[0] or size != 4 * shape[0] * shape[1]:
            raise InputError(
                f"{folder}: shape.txt says {shape[0]:,} rows of {shape[1]:,}, id.txt names "
                f"{len(row_of):,} and feature.bin has {size:,} bytes; expected them to agree."
            )
        self._shape = (shape[0], shape[1])
        return _rows_of_videos(folder / "video2frames.txt", row_of)

    def names(self) -> list[str]:
        return sorted(self.videos)

    def has(self, name: str) -> bool:
        return name in self.videos

    def entry(self, name: str) -> Entry | None:
        rows = self.videos.get(name)
        if rows is None:
            return None
        return Entry(name, (len(rows), self._shape[1]), "float32", True, rows)

    def values(self, entry: Entry) -> np.ndarray:
        require_size(f"{self.path}: {entry.name}", entry.shape)
        if self._matrix is None:
            self._matrix = np.memmap(self.path / BIGFILE, "<f4", "r", shape=self._shape)
        return np.asarray(self._matrix[entry.place])

    def identity(self) -> list[Any]:
        names = (BIGFILE, "shape.txt", "id.txt", "video2frames.txt")
        known = identity_of_files({name: self.path / name for name in names})
        digest, binary = hashlib.sha256(), self.path / BIGFILE
        with binary.open("rb") as file:
            add_sample(digest, file, binary.stat().st_size)
        return [*known, digest.hexdigest()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matrix": None}


def _rows_of_videos(path: Path, row_of: Mapping[str, int]) -> dict[str, np.ndarray]:
    frames = _literal(_latin(path))
    if not isinstance(frames, dict) or not frames:
        raise InputError(f"{path}: expected a dictionary {{video: [names of its rows]}}.")
    found = {}
    for video, names in frames.items():
        if not isinstance(video, str):
            raise InputError(f"{path}: names a video {ascii(video)[:60]}; expected text.")
        wrong = not isinstance(names, list) or not names
        wrong = wrong or not all(isinstance(name, str) for name in names)
        missing = [] if wrong else [name for name in names if name not in row_of]
        if wrong or missing:
            problem = (
                f"the row {ascii(missing[0])[:60]}, which id.txt lacks"
                if missing
                else "no list of rows"
            )
            raise InputError(f"{path}: {video[:60]} has {problem}.")
        found[video] = np.array([row_of[name] for name in names], dtype=np.int64)
    return found


def _literal(text: str) -> Any:
    """What a text of Python's literals says, never evaluated; None = it is no such text."""
    unreadable = (ValueError, SyntaxError, MemoryError, RecursionError)
    if "\\" not in text and '"' not in text:
        with contextlib.suppress(*unreadable):  # JSON is read fifty times faster
            return json.loads(text.replace("'", '"'))
    try:
        return ast.literal_eval(text)
    except unreadable:
        return None


def _latin(path: Path) -> str:
    try:
        with open_input(path, mode="rb") as file:
            return str(file.read().decode("iso-8859-1"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
