"""Packages that only parts of extraction need, imported when one of them is used."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..base.errors import InputError


def optional(module: str, package: str, purpose: str) -> ModuleType:
    """Import a package that may be absent.

    Raises:
        InputError: it is absent, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        if fault.name != module.partition(".")[0]:
            raise
        raise InputError(f"{purpose} needs {package}: pip install {package}") from None
