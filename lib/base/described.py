"""Fields of option classes, which carry what an experiment needs to know of them."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any


def described(
    default: Any, help: str, *, low: float = -math.inf, high: float = math.inf, open: bool = False
) -> Any:
    """A dataclass field with its meaning and, for a number, the range that it may have.

    Args:
        low, high: both allowed, unless ``open``.
    """
    about = {"help": help, "low": low, "high": high, "open": open}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=about)
    return dataclasses.field(default=default, metadata=about)
