"""word2vec's binary file, mapped and not read whole: of GoogleNews it is 3.4 GB."""

from __future__ import annotations

import mmap
from collections.abc import Collection
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ...base.errors import InputError
from ...base.files import open_input
from .faults import Faults
from .text import HEADER, require_width
from .vectors import WordVectors

_LONGEST = 4096  # bytes of a word
_AT_ONCE = 8192  # vectors


def read_binary(
    path: Path,
    width: int = 0,
    words: Collection[str] | None = None,
    most: int | None = None,
) -> WordVectors:
    """Vectors of a file of ``N width``, and N times a word, a space and so many float32, with or
    without a line break behind.

    Words are lower-cased; where two become one, the lower-case spelling or else the first wins. The
    vector of an unknown word is the mean of those of all words.

    Args:
        width: that there must be; 0 = any.
        words: those that are kept; None = all of them, in memory.
        most: of the file's first words that are kept; None = all.

    Raises:
        InputError: it is no such file, or of another width.
    """
    with (
        open_input(path, mode="rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        end = data.find(b"\n", 0, 64)
        header = HEADER.fullmatch(data[: max(end, 0)])
        count, found = (int(header[1]), int(header[2])) if header else (0, 0)
        if not found or not count:
            raise InputError(f"{path}: is not a file of word2vec (no numbers of words and width).")
        require_width(str(path), found, width)
        places, read, odd = _places(data, end + 1, count, found)
        faults = Faults(str(path), "word")
        if not places:
            faults.refuse(0)
        kept = set(islice(places, most)).intersection(places if words is None else words)
        made = _gathered(data, places, found, kept, faults)
    faults.require_few(read)
    notes = faults.notes()
    if read != count:
        notes.append(f"{path}: says that it has {count:,} words, and has {read:,}; cut short?")
    if odd:
        notes.append(f"{path}: {odd:,} words are not UTF-8")
    return WordVectors(made[0], made[1], made[2], size=len(places), notes=notes)


def _places(
    data: mmap.mmap, place: int, count: int, width: int
) -> tuple[dict[str, tuple[int, int]], int, int]:
    """By lower-case word, where its vector is and its number in the file; how many words were read,
    and how many of them are no UTF-8."""
    size, step = len(data), 4 * width
    places: dict[str, tuple[int, int]] = {}
    spelled: set[str] = set()  # words whose lower-case spelling the file has
    odd = number = 0
    while number < count:
        end = data.find(b" ", place, place + _LONGEST)
        if end < 0 or end + 1 + step > size:
            break
        number += 1
        raw = data[place:end].lstrip(b"\n")
        word = raw.decode("utf-8", "replace")
        odd += "\ufffd" in word
        lower = word.lower()
        if lower not in places or (word == lower and lower not in spelled):
            places[lower] = end + 1, number
        if word == lower:
            spelled.add(lower)
        place = end + 1 + step
    return places, number, odd


def _gathered(
    data: mmap.mmap,
    places: dict[str, tuple[int, int]],
    width: int,
    kept: set[str],
    faults: Faults,
) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """The words kept, their vectors, and the mean of all finite vectors."""
    names = list(places)
    found, rows = [], []
    total, count = np.zeros(width), 0
    for first in range(0, len(names), _AT_ONCE):
        group = names[first : first + _AT_ONCE]
        block = np.stack(
            [np.frombuffer(data, "<f4", width, places[name][0]).copy() for name in group]
        )
        finite = np.isfinite(block).all(axis=1)
        for row in np.flatnonzero(~finite):
            faults.add(places[group[row]][1], f"({group[row][:40]!r}) is not finite")
        total += block[finite].sum(axis=0, dtype=np.float64)
        count += int(finite.sum())
        for row in np.flatnonzero(finite):
            if group[row] in kept:
                found.append(group[row])
                rows.append(block[row])
    matrix = np.stack(rows) if rows else np.zeros((0, width), np.float32)
    mean = (total / max(count, 1)).astype(np.float32)
    return found, torch.from_numpy(matrix.astype(np.float32)), torch.from_numpy(mean)
