"""The two ways in which this package is used: as ``lib`` of its repository, by the scripts of
``moment_localization/``, and installed as ``dmr_jrg``, by the command ``dmr-jrg``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shlex
import sys
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
INSTALLED = PACKAGE != "lib"
CONSOLE = "dmr-jrg"
FOLDER = Path(__file__).resolve().parents[1]  # of this package
REPOSITORY = FOLDER.parent  # where it is installed by itself, no repository
# What ``python -c`` runs first, to find this package and nothing else by its name.
FIND_PACKAGE = f"import sys; sys.path[0] = {str(REPOSITORY)!r}"
OPTIONS_PAGE = f"python -m {PACKAGE}.config.config" if INSTALLED else "docs/options.md"
_NAMES = {"dense_train": "train", "best_test": "test"}


def home() -> Path:
    """Where relative paths of a configuration begin: at the repository's root; installed, in the
    current folder."""
    return Path.cwd() if INSTALLED else REPOSITORY


def release() -> str | None:
    """The version that is installed; None in the repository, where the commit says it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(CONSOLE) if INSTALLED else None
    return None


def subcommand(name: str) -> str:
    """What ``dmr-jrg`` calls a command: ``train`` for ``dense_train``."""
    return _NAMES.get(name, name.replace("_", "-"))


def called(name: str) -> str:
    """What a user calls a command: ``best_test.py``, or ``dmr-jrg test``."""
    return f"{CONSOLE} {subcommand(name)}" if INSTALLED else f"{name}.py"


def typed(name: str, *arguments: str) -> str:
    """A line that a user can type where this process was started: ``python best_test.py …``, or
    ``dmr-jrg test …``."""
    if INSTALLED:
        return shlex.join([CONSOLE, subcommand(name), *arguments])
    started, script = Path(sys.argv[0]), f"{name}.py"
    ours = (REPOSITORY / "moment_localization" / started.name).is_file()
    return shlex.join(["python", str(started.with_name(script) if ours else script), *arguments])


def as_started() -> str:
    """The line that started this process."""
    command, *arguments = sys.argv
    if command.startswith(f"{CONSOLE} "):
        return shlex.join([*command.split(), *arguments])
    return shlex.join(sys.argv)
