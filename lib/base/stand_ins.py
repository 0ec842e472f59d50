"""Pickles of other programs, of which no code is run: what they name is replaced by stand-ins.

The functions of Python and NumPy that a harmless pickle names are replaced, too: the state of a
damaged or hostile type would make NumPy take bytes of the file for addresses. What a file can name
or make refuses to be given a state (the instruction BUILD), which would set attributes of classes
and functions for the rest of the process, unless a state is what it is made of.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from .memory import bounded_memory

StandIns = Mapping[str, Callable[..., Any]]  # "module.name" of what a pickle names -> what it gets


class Forbidden(Exception):
    """What a pickle asks for, and does not get."""


def unpickle(file: BinaryIO, size: int, stand_ins: StandIns) -> Any:
    """What a pickle of so many bytes makes of the stand-ins, within memory in proportion.

    Args:
        stand_ins: NumPy's names are those before its version 2.

    Raises:
        Forbidden: it names something else, or would set attributes of a stand-in.
        Exception: it is damaged; nearly any kind.
    """
    with bounded_memory(2**30 + 20 * size):
        return _Unpickler(file, stand_ins).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, stand_ins: StandIns) -> None:
        super().__init__(file, encoding="latin1")
        self._stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        place = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if place not in self._stand_ins:
            raise Forbidden(f"{module}.{name}")
        return _Named(place, self._stand_ins[place])


class _Named:
    """What a pickle names: it can be called, and nothing else."""

    __slots__ = ("_place", "_stand_in")

    def __init__(self, place: str, stand_in: Callable[..., Any]) -> None:
        self._place, self._stand_in = place, stand_in

    def __call__(self, *args: Any) -> Any:
        return self._stand_in(*args)

    def __setstate__(self, state: Any) -> None:
        raise Forbidden(f"new attributes of {self._place}")
