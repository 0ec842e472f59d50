"""Small YAML files of plain values that ship with the package, or that a user writes like them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import InputError
from .files import open_input, reason_of
from .schema import Check, Wrong

_MOST = 256 * 1024  # characters; the largest that ships has some ten thousand


def read_checked(path: Path, key: str, check: Check) -> Any:
    """What a file has under its only key.

    Raises:
        InputError: it cannot be read, has another key, or holds what ``check`` does not take.
    """
    try:
        with open_input(path, encoding="utf-8") as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise ValueError(f"it has more than {_MOST:,} characters")
        found = yaml.safe_load(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as fault:
        raise InputError(f"{path} cannot be read ({reason_of(fault)})") from None
    if not isinstance(found, dict) or set(found) != {key}:
        raise InputError(f"{path}: expected {key} at its top and nothing else")
    try:
        check(found[key], key)
    except Wrong as wrong:
        raise InputError(f"{path}: {wrong}") from None
    return found[key]
