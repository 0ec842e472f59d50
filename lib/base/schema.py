"""What values from a file must be: checks of numbers, texts, lists and mappings, put together.

A check is a function of a value and of its name that returns nothing, or raises ``Wrong``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any, str], None]

_LARGEST = 2**53  # whole numbers beyond are no sizes, and no floats either


class Wrong(Exception):
    """What is wrong with a value, as a clause that begins with its name."""


def fail(name: str, value: Any, expected: str) -> None:
    """Raises ``Wrong``."""
    raise Wrong(f"{name or 'it'} is {shown(value)}, expected {expected}")


def shown(value: Any) -> str:
    """A value as a message shows it: short, and never the text of a container."""
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return ascii(value) if len(value) <= 40 else f"{ascii(value[:40])}…"
    if isinstance(value, list | tuple | Mapping):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    return f"a {type(value).__name__}"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: a name that stands twice in an object is a ValueError, where Python
    keeps the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return found


def anything(value: Any, name: str) -> None:
    pass


def text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        fail(name, value, "text")


def flag(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        fail(name, value, "true or false")


def whole(low: int = 0, high: int = _LARGEST) -> Check:
    """A whole number of at least ``low``."""

    def check(value: Any, name: str) -> None:
        if type(value) is not int or not low <= value <= high:
            above = f" and at most {high}" if high < _LARGEST else ""
            fail(name, value, f"a whole number of at least {low}{above}")

    return check


def number(low: float = -math.inf, high: float = math.inf, *, finite: bool = True) -> Check:
    """A number in a range; ``finite``: neither infinite nor NaN."""

    def check(value: Any, name: str) -> None:
        fine = type(value) in (int, float)
        fine = fine and (type(value) is float or abs(value) <= _LARGEST)
        if not fine or (finite and not (math.isfinite(value) and low <= value <= high)):
            span = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
            fail(name, value, f"a {'finite ' if finite else ''}number{span}")

    return check


def one_of(*choices: str) -> Check:
    def check(value: Any, name: str) -> None:
        if not isinstance(value, str) or value not in choices:
            fail(name, value, f"one of {', '.join(choices)}")

    return check


def optional(inner: Check) -> Check:
    """None, or what ``inner`` takes."""

    def check(value: Any, name: str) -> None:
        if value is not None:
            inner(value, name)

    return check


def listed(inner: Check = anything, length: int | None = None) -> Check:
    """A list (or tuple) whose elements are all right."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            fail(name, value, "a list" if length is None else f"a list of {length}")
        for place, each in enumerate(value):
            inner(each, f"{name}[{place}]")

    return check


def row(*inner: Check) -> Check:
    """A list of so many elements, each with a check of its own."""

    def check(value: Any, name: str) -> None:
        listed(length=len(inner))(value, name)
        for place, (each, part) in enumerate(zip(value, inner, strict=True)):
            part(each, f"{name}[{place}]")

    return check


def mapping(inner: Check = anything, keys: type = str) -> Check:
    """A mapping whose keys are of one type and whose values are all right."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            fail(name, value, "a mapping")
        for key, each in value.items():
            if type(key) is not keys:
                raise Wrong(f"{name or 'it'} has the key {shown(key)}, expected keys of {keys}")
            inner(each, _below(name, key))

    return check


def record(fields: Mapping[str, Check], *, needed: Collection[str] = ()) -> Check:
    """A mapping from text with a check for each key that is known; others may hold anything.

    Args:
        needed: keys that must be there.
    """

    def check(value: Any, name: str) -> None:
        mapping()(value, name)
        for key in needed:
            if key not in value:
                raise Wrong(f"{name or 'it'} lacks {key!r}")
        for key, part in fields.items():
            if key in value:
                part(value[key], _below(name, key))

    return check


def _below(name: str, key: Any) -> str:
    shown_key = key if isinstance(key, str) and key.isprintable() and len(key) <= 60 else shown(key)
    return f"{name}.{shown_key}" if name else str(shown_key)
