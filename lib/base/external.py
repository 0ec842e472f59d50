"""Classes and functions from outside this package, named in an experiment."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from .errors import InputError
from .installed import PACKAGE


def is_external(name: str) -> bool:
    """Whether a name is a reference: ``package.module:Name`` or ``folder/file.py:Name``."""
    return ":" in name


def absolute(name: str, folder: Path) -> str:
    """The same reference with the path of a file, if it names one, made absolute."""
    module, _, attribute = name.rpartition(":")
    if not module.endswith(".py"):
        return name
    return f"{os.path.normpath(os.path.abspath(folder / module))}:{attribute}"


def load_object(name: str) -> Any:
    """What a reference names. Modules are looked up as Python does, the working folder included.

    Raises:
        InputError: there is no such file, module or name, or it cannot be imported.
    """
    module_name, _, attribute = name.rpartition(":")
    try:
        module = (
            _load_file(Path(module_name))
            if module_name.endswith(".py")
            else _load_module(module_name)
        )
    except Exception as fault:  # whatever a stranger's module raises while it is imported
        reason = str(fault).split("\n")[0] or type(fault).__name__
        raise InputError(
            f"{name} cannot be imported ({type(fault).__name__}: {reason}){_other_name(fault)}"
        ) from None
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise InputError(
            f"{module_name} has no {attribute}; it has {', '.join(public) or 'nothing'}"
        )
    return getattr(module, attribute)


def _other_name(fault: Exception) -> str:
    """How this package is called here, where a file imports it by its other name."""
    missing = fault.name if isinstance(fault, ModuleNotFoundError) and fault.name else ""
    own = missing.partition(".")[0]
    if own == PACKAGE or own not in ("lib", "dmr_jrg"):
        return ""
    return f"; what runs here is called {PACKAGE}: from {PACKAGE}.models.interface import Model"


def _load_module(name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _load_file(path: Path) -> Any:
    name = f"external_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
