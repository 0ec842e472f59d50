"""Functions that a compiler leaves as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def uncompiled(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function``, called as it is from a compiled model too.

    ``torch.compiler.disable`` as a decorator would import the compiler, in over a second at every
    start, though nothing is compiled.
    """

    def called(*arguments: object) -> Result:
        if torch.compiler.is_compiling():
            plain: Callable[..., Result] = torch.compiler.disable(function)
            return plain(*arguments)
        return function(*arguments)

    return called
