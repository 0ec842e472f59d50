"""What a command prints: counts, times and paths in words, and what only a terminal shows.

A terminal has colours, bars that rewrite their line, and a width at which sentences are wrapped. A
file has none of them: there a line is one sentence, without control characters.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Literal, TextIO

Colour = Literal["bold", "green", "yellow", "red"]
_CODES: dict[Colour, int] = {"bold": 1, "green": 32, "yellow": 33, "red": 31}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether somebody watches what is written to ``stream`` (standard output)."""
    stream = sys.stdout if stream is None else stream
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def coloured(text: str, *colours: Colour) -> str:
    """The text in colours where standard output has them; NO_COLOR in the environment is obeyed."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal()
    if plain or not colours:
        return text
    return f"\x1b[{';'.join(str(_CODES[colour]) for colour in colours)}m{text}\x1b[0m"


def for_file(text: str) -> str:
    """What a file keeps of a text for a terminal: no colours, and nothing of what rewrites a
    line."""
    text = _COLOUR.sub("", text)
    return "" if "\r" in text or _CONTROL.search(text) else text


def columns() -> int:
    """The width of the terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def wrapped(text: str, indent: str = "  ") -> str:
    """A sentence in lines that a terminal does not break, those after the first indented; as it is
    where nobody watches."""
    if not is_terminal():
        return text
    options = {"break_long_words": False, "break_on_hyphens": False}
    return "\n".join(
        textwrap.fill(line, columns(), subsequent_indent=indent, **options)  # type: ignore[arg-type]
        for line in text.split("\n")
    )


def print_wrapped(text: str) -> None:
    """Print a sentence, ``wrapped``, at once."""
    print(wrapped(text), flush=True)


def count(number: int, noun: str, several: str = "") -> str:
    """A number of things: ``1 video``, ``2,055 videos``.

    Args:
        several: the plural, where it is not the noun and an s.
    """
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: ``12 s``, ``2.5 min``, ``1.7 h``, ``3.0 days``; NaN is
    ``unknown``."""
    if math.isnan(seconds):
        return "unknown"
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def shown_path(path: str | Path) -> str:
    """A path as one would type it here: relative to the current folder where that is shorter."""
    whole = os.path.abspath(path)
    try:
        return min(os.path.relpath(whole), whole, key=len)
    except (OSError, ValueError):  # the current folder was deleted; another drive of Windows
        return whole
