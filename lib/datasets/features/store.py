"""What every kind of storage does: name what it holds, and give the numbers of one name.

A store knows nothing of videos: ``names.py`` finds the stored name of an id, and ``file.py`` makes
rows of float32 of the numbers and checks them.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...base.errors import InputError
from ...base.files import add_sample

MOST_VALUES = 2**28  # of a video: a day of one row a second, 3,000 wide
# What a damaged file makes its reader raise, or one that asks for more memory than there is.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, EOFError)
# Of several members, that which is meant where nothing else is said, the first of these.
MEMBERS = ("c3d_features", "features", "frame_scores", "last_hidden_state")


@dataclass(frozen=True)
class Entry:
    """What is stored under a name.

    Attributes:
        shape: of the array.
        dtype: of the array, as NumPy or Torch calls it.
        numbers: whether its values are real numbers.
        place: by which the store finds the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    numbers: bool
    place: Any = field(compare=False, repr=False)


class Store(ABC):
    """One file or folder of features.

    It is opened when it is first asked something. Handles are the process's own, and no part of a
    pickle.

    Attributes:
        kind: what it is, as the rest of a sentence.
    """

    kind: str

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """All names, sorted; videos, and whatever else is there."""

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """What is stored under exactly this name; None = nothing.

        Raises:
            InputError: it is no array, or several and it is not known which is meant.
            OSError, ValueError, …: it is damaged (``DAMAGE``).
        """

    @abstractmethod
    def values(self, entry: Entry) -> np.ndarray:
        """The array of an entry, at most ``MOST_VALUES`` numbers.

        Raises:
            as ``entry`` does.
        """

    def has(self, name: str) -> bool:
        return self.entry(name) is not None

    def attributes(self, entry: Entry | None = None) -> dict[str, Any]:
        """What the store says of itself, or of an entry, beside the numbers."""
        return {}

    def identity(self) -> list[Any]:
        """By which a store is known again without reading it all: numbers and texts."""
        return identity_of(self.path)


def identity_of(path: Path) -> list[Any]:
    """A file's size and time of change, and a digest of a sample of its bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        digest = hashlib.sha256()
        add_sample(digest, file, about.st_size)
        return [about.st_size, about.st_mtime_ns, digest.hexdigest()]


def require_size(where: str, shape: Iterable[int]) -> None:
    """Refuse a size that no video has: a damaged header can ask for any.

    Raises:
        InputError: more numbers than ``MOST_VALUES``.
    """
    shape = tuple(shape)
    if math.prod(map(int, shape)) > MOST_VALUES:
        raise InputError(
            f"{where} has the shape {shape}; expected at most {MOST_VALUES:,} numbers."
        )


def choose_member(where: str, members: Mapping[str, Entry], named: str) -> str:
    """Which of several arrays under one name holds the rows.

    Args:
        where: what they belong to, for messages.
        named: the one that was asked for (``DATASET.FEATURE_MEMBER``); empty = find it.

    Returns:
        The one asked for; else the only one; else the first of ``MEMBERS`` that is there; else the
        only one with rows and a width.

    Raises:
        InputError: the one asked for is not there, or it is not known which is meant.
    """
    shown = ", ".join(f"{name} {member.shape}" for name, member in list(members.items())[:8])
    if named:
        if named in members:
            return named
        raise InputError(f"{where} has no member {named}; it holds {shown or 'nothing'}.")
    if len(members) == 1:
        return next(iter(members))
    for usual in MEMBERS:
        if usual in members:
            return usual
    wide = [name for name, each in members.items() if len(each.shape) >= 2 and each.numbers]
    if len(wide) == 1:
        return wide[0]
    raise InputError(
        f"{where} holds {shown}; expected one of shape (rows, width), or its name as "
        "DATASET.FEATURE_MEMBER."
    )


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """So many bytes; an ``EOFError`` where there are fewer."""
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"it ends {size - len(data):,} bytes too early")
    return data
