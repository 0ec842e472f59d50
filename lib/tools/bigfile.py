"""Features in the layout of GMMFormer and DCIML -> the HDF5 file that this project reads.

A folder of ``feature.bin`` (a float32 matrix, row by row), ``shape.txt`` (its two sizes),
``id.txt`` (the rows' names) and ``video2frames.txt`` (a Python dictionary: a video's rows).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from tqdm import tqdm

from ..base.errors import InputError
from ..base.files import replace_file


def convert_bigfile(folder: Path, out: Path) -> tuple[int, int]:
    """Write every video's rows as one dataset; returns the number of videos and of rows written.

    Raises:
        InputError: a file that is missing, damaged or does not fit the others, or ``out`` exists or
            cannot be written.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another name or remove it.")
    words = _text(folder / "shape.txt").split()[:3]
    shape = [int(n) if re.fullmatch("[0-9]{1,15}", n) else 0 for n in words]
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"{folder / 'shape.txt'}: expected the number of rows and their width.")
    row_of = {name: row for row, name in enumerate(_text(folder / "id.txt").split())}
    binary = folder / "feature.bin"
    size = binary.stat().st_size if binary.is_file() else 0
    if len(row_of) != shape[0] or size != 4 * shape[0] * shape[1]:
        raise InputError(
            f"{folder}: shape.txt says {shape[0]:,} rows of {shape[1]:,}, id.txt names "
            f"{len(row_of):,} and feature.bin has {size:,} bytes; expected them to agree."
        )
    frames = _frames(folder / "video2frames.txt", row_of)
    rows = np.memmap(binary, dtype="<f4", mode="r", shape=tuple(shape))

    def write(file: BinaryIO) -> None:
        with h5py.File(file.name, "w") as features:
            for video, names in tqdm(frames.items(), desc="videos", leave=False, disable=None):
                features[video] = rows[[row_of[name] for name in names]]

    replace_file(out, write)
    return len(frames), sum(map(len, frames.values()))


def _frames(path: Path, row_of: Mapping[str, int]) -> dict[str, list[str]]:
    try:
        frames = ast.literal_eval(_text(path))  # a file from outside: never eval
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        frames = None
    if not isinstance(frames, dict) or not frames:
        raise InputError(f"{path}: expected a dictionary {{video: [names of its rows]}}.")
    for video, names in frames.items():
        if not isinstance(video, str) or not _is_name(video):
            raise InputError(
                f"{path}: names a video {ascii(video)[:60]}, which an HDF5 file cannot hold; "
                "expected text without an empty part, . or .. between slashes"
            )
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
    for video in frames:  # a data set and a folder of the same name
        inside = next((p for p in _parents(video) if p in frames), None)
        if inside is not None:
            raise InputError(f"{path}: {video[:60]} lies inside of the video {inside[:60]}.")
    return frames


def _is_name(video: str) -> bool:
    """Whether HDF5 can keep a data set under this name, and under no other."""
    try:
        video.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in video and all(part not in ("", ".", "..") for part in video.split("/"))


def _parents(video: str) -> Iterator[str]:
    parts = video.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="iso-8859-1")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
