"""Features in the layout of GMMFormer and DCIML -> the HDF5 file that this project reads.

A folder of ``feature.bin`` (a float32 matrix, row by row), ``shape.txt`` (its two sizes),
``id.txt`` (the rows' names) and ``video2frames.txt`` (a Python dictionary: a video's rows).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from lib.base.errors import InputError


def convert_bigfile(folder: Path, out: Path) -> tuple[int, int]:
    """Write every video's rows as one dataset; returns the number of videos and of rows written.

    Raises:
        InputError: a file that is missing, damaged or does not fit the others, or ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another name or remove it.")
    shape = [int(n) if n.isdigit() else 0 for n in _text(folder / "shape.txt").split()]
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
    half = out.with_name(out.name + ".part")
    with h5py.File(half, "w") as file:
        for video, names in tqdm(frames.items(), desc="videos", leave=False, disable=None):
            file[video] = rows[[row_of[name] for name in names]]
    half.replace(out)
    return len(frames), sum(map(len, frames.values()))


def _frames(path: Path, row_of: Mapping[str, int]) -> dict[str, list[str]]:
    try:
        frames = ast.literal_eval(_text(path))  # a file from outside: never eval
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        frames = None
    if not isinstance(frames, dict) or not frames:
        raise InputError(f"{path}: expected a dictionary {{video: [names of its rows]}}.")
    for video, names in frames.items():
        wrong = not isinstance(names, list) or not names
        missing = [] if wrong else [name for name in names if name not in row_of]
        if wrong or missing or not isinstance(video, str):
            problem = (
                f"the row {missing[0]!r}, which id.txt lacks" if missing else "no list of rows"
            )
            raise InputError(f"{path}: {str(video)[:60]} has {problem}.")
    return frames


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="iso-8859-1")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
