"""While tests run, every array is compared with the shape in its type hint."""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray

Function = TypeVar("Function")


def check_all_shapes() -> None:
    """From here on, in every module of the library that is not imported yet.

    Functions that take and return no array are left as they are: their checks would find nothing,
    and a reader of a million words would take ten times as long.
    """
    jaxtyped: Any = jaxtyping.jaxtyped

    def where_there_are_shapes(*, typechecker: Any) -> Callable[[Function], Function]:
        decorated = jaxtyped(typechecker=typechecker)
        return lambda thing: decorated(thing) if _may_have_shapes(thing) else thing

    jaxtyping.jaxtyped = where_there_are_shapes  # type: ignore[assignment]  # what the hook calls
    jaxtyping.install_import_hook("lib", "tests.check_shapes")


def check_shapes(function: Function) -> Function:
    """Execute the shapes in a signature and leave the rest of it to mypy.

    So a test may pass a whole number for a float, or a stand-in for a model.
    """
    hints: dict[str, Any] = getattr(function, "__annotations__", {})
    for name in [name for name, hint in hints.items() if not _has_shape(hint)]:
        del hints[name]
    return beartype(function)  # type: ignore[call-overload]


def _may_have_shapes(thing: Any) -> bool:
    """Of a function or class. Hints are text as yet, in which a shape stands in quotation marks or
    behind the name of a type."""
    named = getattr(sys.modules.get(thing.__module__), "__dict__", {})
    for owner in getattr(thing, "__mro__", [thing]):
        for hint in map(str, getattr(owner, "__annotations__", {}).values()):
            if re.search("[\"']", hint) or any(
                _has_shape(named.get(name)) for name in re.findall(r"\w+", hint)
            ):
                return True
    return False


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))
