"""The provenance of numbers: code, versions, machine, command, seed, data."""

from __future__ import annotations

import datetime
import hashlib
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base import distributed
from ..base.installed import CONSOLE, REPOSITORY, as_started, release
from ..base.runtime import Runtime

FEATURE_FACTS = ("entries", "keys", "width", "dtype")
CODE = ("lib", "moment_localization", "experiments")  # what decides numbers


def provenance(
    runtime: Runtime, *, seed: int, annotations: Mapping[str, Path], features: Mapping[str, Any]
) -> dict[str, Any]:
    """What is written with every result of this process.

    Args:
        annotations: the file of each split that was read.
        features: the fingerprint of the feature file.
    """
    commit, clean = _commit()
    return {
        "commit": commit,
        "clean": clean,
        "command": as_started(),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            **runtime.versions(),
            **({CONSOLE: version} if (version := release()) else {}),
        },
        "device": runtime.name,
        "processes": distributed.world_size(),
        "precision": runtime.precision,
        "annotations": {split: digest(path) for split, path in annotations.items()},
        "features": {name: features[name] for name in FEATURE_FACTS if name in features},
    }


def lines(about: Mapping[str, Any]) -> list[str]:
    """The provenance as lines of text."""
    state = {True: "", False: ", with uncommitted changes", None: ""}[about.get("clean")]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    hours = f", {about['hours']:.2f} hours" if "hours" in about else ""
    return [
        f"commit {about.get('commit') or 'unknown'}{state}",
        f"`{about['command']}`, seed {about['seed']}, {about['started']}{hours}",
        f"{about['device']}, {about['processes']} process(es), {about['precision']}; {versions}",
        "annotations "
        + ", ".join(f"{split} {name}" for split, name in about["annotations"].items()),
    ]


def digest(path: Path) -> str:
    """The name of a file and the first 16 digits of its SHA-256."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def _commit() -> tuple[str | None, bool | None]:
    """The commit that is checked out, and whether the code and the experiments are unchanged; None:
    unknown. Where ``save`` and ``data`` lie changes no number: they may be links."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != REPOSITORY:
            return None, None  # unpacked inside somebody else's repository
        status = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "HEAD"), not status
    except (OSError, subprocess.SubprocessError):
        return None, None
