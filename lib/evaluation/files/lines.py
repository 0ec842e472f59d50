"""JSON lines, with the line number of every fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ...base.errors import InputError
from ...base.files import open_input
from ...base.schema import unique_keys

_MAX_FAULTS = 10


def write_line(file: BinaryIO, record: Mapping[str, Any], *, space: str = "") -> None:
    """One JSON object on a line; a number in it that is not finite is an error.

    Args:
        space: what follows a comma and a colon.
    """
    signs = ("," + space, ":" + space)
    text = json.dumps(record, ensure_ascii=False, separators=signs, allow_nan=False)
    file.write(text.encode() + b"\n")


def for_each_line(path: Path, add: Callable[[str, dict[str, Any]], None]) -> int:
    """Call ``add`` with "file:line" and the JSON object of every line that is not empty.

    Returns:
        How many there are.

    Raises:
        InputError: the file cannot be read, or up to ten faults: lines that are no JSON object, or
            that ``add`` refused by an InputError.
    """
    faults, count = Faults(), 0
    try:
        with open_input(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    count += 1
                    faults.collect(partial(_add, f"{path}:{number}", line, add))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    faults.raise_if_any()
    return count


def stated_lines(record: Mapping[str, Any], location: str, before: int | None) -> int | None:
    """How many lines a file says that it has, in this line or before."""
    stated = record.get("lines", before)
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int)):
        raise InputError(f"{location}: lines is {short(stated)}, expected a whole number")
    return stated


def require_lines(path: Path, stated: int | None, count: int) -> None:
    """Raises InputError unless a file has as many lines as it says, if it does."""
    if stated is not None and count != stated:
        raise InputError(
            f'{path}: has {count:,} lines and says "lines": {stated:,}; was it cut short? get it '
            "again, or take that key out if you changed the file"
        )


def _add(location: str, line: str, add: Callable[[str, dict[str, Any]], None]) -> None:
    add(location, _object(location, line))


def _object(location: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise InputError(f"{location}: not valid JSON ({error.msg}); is it complete?") from None
    except RecursionError:
        raise InputError(f"{location}: nested too deeply") from None
    except ValueError as error:  # a key twice, or a number of thousands of digits
        raise InputError(f"{location}: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise InputError(f"{location}: expected a JSON object, found {short(value)}")
    return value


class Faults:
    """Collects what is wrong with a file, so that a user sees up to ten faults at once, not one."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def collect(self, action: Callable[[], None]) -> None:
        """Run ``action``; keep the sentence of an InputError. Stops at the tenth."""
        try:
            action()
        except InputError as error:
            self.messages.append(str(error))
            if len(self.messages) >= _MAX_FAULTS:
                self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raises: InputError: with one line per fault, if there are any."""
        if self.messages:
            raise InputError("\n".join(self.messages))


def number(value: Any, location: str, what: str) -> float:
    """A finite number, or InputError."""
    # Compared and not converted: an int may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InputError(f"{location}: {what} is {short(value)}, expected a finite number")
    return float(value)


def span(start: Any, end: Any, location: str) -> tuple[float, float]:
    """start < end, or InputError."""
    low, high = number(start, location, "a start"), number(end, location, "an end")
    if low >= high:
        raise InputError(
            f"{location}: the moment [{low:g}, {high:g}] is none, expected start < end"
        )
    return low, high


def listed_span(start: Any, end: Any, location: str) -> tuple[float, float]:
    """A span of a list whose order counts: one that does not end after it starts is kept as an
    empty one, which takes up a rank and overlaps nothing. InputError: no numbers."""
    low, high = number(start, location, "a start"), number(end, location, "an end")
    return low, max(low, high)


def require_same_queries(
    location: str, key: str, found: Collection[str], expected: Collection[str]
) -> None:
    """Raises InputError unless a submission has the queries of the truth and no others."""
    lacking = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    parts = [
        f"{text} {len(names):,} of the {len(total):,} {whose} (the first is {names[0]!r})"
        for text, names, total, whose in (
            ("lacks", lacking, expected, f"{key}s of the truth"),
            ("has a line for", foreign, found, "that the truth does not have"),
        )
        if names
    ]
    if parts:
        raise InputError(
            f"{location}: {' and '.join(parts)}; a submission is scored on all queries of its "
            "split and on no others: give the truth of the split that it was made for"
        )


def rows(value: Any, location: str, what: str, form: str) -> list[list[Any]]:
    """A list of lists shaped like ``form``, for example "[video, score]"; or InputError."""
    width = form.count(",") + 1
    if not isinstance(value, list):
        raise InputError(f"{location}: {what} is {short(value)}, expected a list of {form}")
    for row in value:
        if not isinstance(row, list) or len(row) != width:
            raise InputError(f"{location}: {what} holds {short(row)}, expected {form}")
    return value


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
