"""What users call: a module a command, each with a ``main``, which moment_localization/ starts."""

from __future__ import annotations

import os
import sys

from ..base.installed import FIND_PACKAGE, PACKAGE, called

# Before torch starts its threads: on a busy machine, ones that spin while they wait slow all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def command_line(name: str) -> list[str]:
    """The arguments that start a command in a process of its own, wherever this package lies and
    whatever lies in the folder in which it is started."""
    start = (
        f"{FIND_PACKAGE}; sys.argv[0] = {called(name)!r}; "
        f"from {PACKAGE}.base.command import run_script; "
        f"from {PACKAGE}.commands.{name} import main; run_script(main)"
    )
    return [sys.executable, "-W", "ignore", "-c", start]
