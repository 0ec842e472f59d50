"""The type checker of ``pytest --jaxtyping-packages=lib,tests.check_shapes``."""

from __future__ import annotations

import typing
from typing import Any, TypeVar

from beartype import beartype
from jaxtyping import AbstractArray

Function = TypeVar("Function")


def check_shapes(function: Function) -> Function:
    """Execute the shapes in a signature and leave the rest of it to mypy.

    So a test may pass a whole number for a float, or a stand-in for a model.
    """
    hints: dict[str, Any] = getattr(function, "__annotations__", {})
    for name in [name for name, hint in hints.items() if not _has_shape(hint)]:
        del hints[name]
    return beartype(function)  # type: ignore[call-overload]


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))
