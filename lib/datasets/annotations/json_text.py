"""JSON and JSON Lines, with keys that occur once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .source import Source, short


def read_json(text: str, source: Source) -> Any:
    """The value of a JSON text; None, which no annotations are, if it is JSON Lines.

    Raises:
        InputError: it is neither, or a key occurs twice.
    """
    try:
        return _load(text, source)
    except json.JSONDecodeError as error:
        if _is_lines(text, error):
            return None
        raise source.fault(
            f"is not valid JSON (line {error.lineno}: {error.msg}); is it complete?"
        ) from None
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        raise source.fault(
            "is JSON nested too deeply or with numbers too long for annotations."
        ) from None


def _is_lines(text: str, error: json.JSONDecodeError) -> bool:
    """A line that is a complete object with something below it; or a faulty line above one that
    looks like an object."""
    text = text.lstrip()
    first, _, rest = text.partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    complete = error.msg == "Extra data" and "\n" not in error.doc[: error.pos].strip()
    return complete or rest.lstrip().startswith("{")


def read_lines(text: str, source: Source) -> Iterator[tuple[str, Any]]:
    """The place and the value of each line of JSON Lines.

    Raises:
        InputError: a line is not JSON; the message has its number.
    """
    lines = text.split("\n")  # and not at what else Unicode takes for the end of a line
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            yield place, _load(line, source, f"{place}: ")
        except json.JSONDecodeError as error:
            if number == len(lines) and line.lstrip().startswith("{"):  # no end of line behind it
                raise source.fault(
                    f"{place}, the last, is cut off ({short(line[-40:])}); is the file complete?"
                ) from None
            raise source.fault(
                f"{place} is not JSON ({error.msg}, letter {error.pos + 1}): {short(line)}; "
                "expected one object a line."
            ) from None
        except (RecursionError, ValueError):
            raise source.fault(
                f"{place} is nested too deeply or has numbers too long for annotations."
            ) from None


def _load(text: str, source: Source, place: str = "") -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # json would keep the last one and say nothing
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise source.fault(f"{place}the key {short(key)} occurs twice.")
        return found

    return json.loads(text, object_pairs_hook=unique)
