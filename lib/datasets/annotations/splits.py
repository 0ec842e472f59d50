"""Names of splits, and files that hold several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...base.errors import InputError

_ALIKE = (
    ("train", "training"),
    ("val", "valid", "validation", "dev"),
    ("test", "testing"),
)
USUAL = {name: names[0] for names in _ALIKE for name in names}


class SplitMissing(InputError):
    """The split asked for is not among those that a file holds."""


def usual(name: str) -> str:
    """``train``, ``val`` or ``test`` for the names that mean them; other names as they are."""
    return USUAL.get(name.lower(), name)


def choose(asked: str, held: Mapping[str, int], path: Path) -> str:
    """The name that the file gives the split asked for; if none is asked for, its only one.

    Args:
        held: the splits of the file, and how many videos each has.

    Raises:
        SplitMissing: it has no such split, or several of which none is asked for.
    """
    if asked in held:
        return asked
    same = [name for name in held if usual(name) == usual(asked)] if asked else list(held)
    if len(same) == 1:
        return same[0]
    listed = ", ".join(f"{name[:40]} ({count:,} videos)" for name, count in list(held.items())[:12])
    wanted = f"expected {asked!r}" if asked else "expected one of them to be asked for"
    raise SplitMissing(f"{path}: holds the splits {listed}; {wanted}.")


def of_the_test(path: Path) -> bool:
    """Whether a file's name says that it belongs to the test."""
    return any(usual(word) == "test" for word in re.split(r"[^A-Za-z]+", path.stem))
