"""Stop every command that writes, in every way, and let it do its work again.

A command is killed, sent a signal alone or with its group, loses a process that it started, finds
the disk full or the memory gone. It may then not have said a traceback, nor lost a file that was
there; and when it is run again, its files must be those of a command that nobody stopped.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.base.errors import InputError
from lib.index import Store
from lib.training import checkpoint
from tests.runs import Ended, timeless
from tests.stress import home as homes
from tests.stress.commands import wait
from tests.stress.home import COMMANDS, Command
from tests.stress.kill_harness import differences

KINDS = ("kill", "signal", "group", "worker", "disk", "memory")
# After a signal, beside what a command may end with anyway: saved and left, interrupted, or ended
# by the signal itself, and a process that loads data that died.
_STOPPED = {130, 143, -signal.SIGTERM, -signal.SIGINT, 4}
_SMALLEST = 4 * 1024  # bytes of a file on the full disk: what the command says must fit
_STARVED = 12 * 2**20  # bytes beyond what the process has, at most


@dataclass(frozen=True)
class Stopped:
    """What came of one."""

    kind: str
    command: str
    status: int
    interrupted: bool  # whether it had not ended by itself before
    wrong: str
    seconds: float
    output: str


class Stopper:
    """Stops commands over copies of a home.

    Args:
        base: a home that nothing changes.
        scratch: a folder for the copies.
    """

    def __init__(self, base: Path, scratch: Path, draw: random.Random) -> None:
        self.base, self.scratch, self.draw = base, scratch, draw
        self.known: dict[str, tuple[dict[str, Any], float]] = {}
        self.names = [n for n in homes.installed(COMMANDS) if COMMANDS[n].writes]

    def undisturbed(self, name: str) -> tuple[dict[str, Any], float]:
        """What a command that is left alone writes, and how long it takes."""
        if name not in self.known:
            home = self._home()
            began = time.monotonic()
            ended = wait(homes.start(COMMANDS[name], home))
            assert ended.status in COMMANDS[name].statuses, ended.output
            self.known[name] = (written(COMMANDS[name], home), time.monotonic() - began)
        return self.known[name]

    def one(self, kind: str) -> Stopped:
        """Stop one of the commands in this way, and look at it."""
        name = "train" if kind == "worker" else self.draw.choice(self.names)
        expected, seconds = self.undisturbed(name)
        command, home = COMMANDS[name], self._home()
        if kind in ("group", "worker") and name == "train":
            command = replace(command, line=(*command.line, "--workers", "2"))
            seconds *= 3
        before = written(command, home)
        ended, stopped = self._stop(kind, command, home, seconds)
        wrong = self._fault(kind, command, ended)
        if name != "train" and not wrong:
            wrong = lost(before, expected, command, home)
        spent = time.monotonic()
        if not wrong:
            wrong = self._again(command, home, expected)
        seconds = time.monotonic() - spent
        return Stopped(kind, name, ended.status, stopped, wrong, seconds, ended.output)

    def _home(self) -> Path:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        return homes.copy_of(self.base, self.scratch / "home")

    def _stop(self, kind: str, command: Command, home: Path, seconds: float) -> tuple[Ended, bool]:
        if kind in ("disk", "memory"):
            ended = wait(homes.start(command, home, sabotage=self._limit(kind)))
            return ended, ended.status != 0
        sabotage = os.setsid if kind == "group" else lambda: None
        process = homes.start(command, home, sabotage=sabotage)
        ended = process.poll(self.draw.uniform(0, seconds))
        if ended is not None:
            return ended, False
        number = self.draw.choice([signal.SIGTERM, signal.SIGINT])
        if kind == "kill":
            process.kill()
        elif kind == "signal":
            process.kill(number)
        elif kind == "group":
            try:
                os.killpg(process.number, number)
            except ProcessLookupError:  # not yet its own
                process.kill(number)
        else:
            children = _children(process.number)
            if not children:
                return wait(process), False
            os.kill(self.draw.choice(children), signal.SIGKILL)
        return wait(process), True

    def _limit(self, kind: str) -> Callable[[], None]:
        if kind == "disk":
            size = self.draw.randint(_SMALLEST, 10 * _SMALLEST)
            return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        more = self.draw.randint(0, _STARVED)

        def starve() -> None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))

        return starve

    def _fault(self, kind: str, command: Command, ended: Ended) -> str:
        last = (ended.output.strip().splitlines() or [""])[-1][:300]
        if ended.output.startswith("HANGS"):
            return f"hangs: {last}"
        if "Traceback (most recent call last)" in ended.output:
            return f"a traceback: {last}"
        allowed = {*command.statuses, *(_STOPPED if kind in ("signal", "group", "worker") else ())}
        if kind == "kill":
            allowed.add(-signal.SIGKILL)
        if ended.status not in allowed:
            return f"status {ended.status}: {last}"
        return ""

    def _again(self, command: Command, home: Path, expected: Mapping[str, Any]) -> str:
        """Run the command to its end; "" if its files are then as they should be."""
        if any(home.glob(".*.part-*")):  # which is taken for abandoned when it is two seconds old
            time.sleep(2.1)
        ended = wait(homes.start(command, home))
        if ended.status == 2 and any((home / name).exists() for name in command.begins):
            for name in command.begins:  # as its sentence says
                path = home / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            ended = wait(homes.start(command, home))
        if ended.status not in set(command.statuses) - {2}:
            return f"does not do it again: status {ended.status}: {ended.output[-300:]}"
        differing = list(differences(expected, written(command, home)))
        if differing:
            return f"other files than undisturbed: {', '.join(differing[:5])}"
        left = [p for p in home.rglob("*") if re.fullmatch(r"\..*\.new|.*\.part[s]?", p.name)]
        return f"{left[0].name} is left" if left else ""


def written(command: Command, home: Path) -> dict[str, Any]:
    """What a command has written, by name, without what no two of them share."""
    found = sorted({path for pattern in command.writes for path in home.glob(pattern)})
    return {str(path.relative_to(home)): _content(path, home) for path in found if path.is_file()}


def lost(before: Mapping[str, Any], after: Mapping[str, Any], command: Command, home: Path) -> str:
    """A file that is neither what was there nor what was to come; "" if there is none."""
    try:
        now = written(command, home)
    except (InputError, OSError, ValueError, KeyError) as fault:
        return f"a file is damaged ({str(fault)[:200]})"
    for name, content in before.items():
        if name not in now:
            return f"{name} is lost"
        if list(differences(now[name], content)) and list(differences(now[name], after[name])):
            return f"{name} is neither the old one nor the new one"
    return ""


def _content(path: Path, home: Path) -> Any:
    """Of a file, so that two homes can be compared."""
    if path.name == "header.json":  # of an index
        snapshot = Store.open(path.parent).snapshot()
        snapshot.verify()
        return sorted(snapshot.video_ids())
    if path.suffix == ".pt" and path.name != "word_vectors.pt":
        return timeless(checkpoint.load(path))
    if path.suffix == ".hdf5":
        found: dict[str, Any] = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, node: found.update({name: _rows(node)}))
        return found
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].tolist() for name in file.files}
    if path.suffix not in (".json", ".jsonl", ".md", ".html"):
        return path.read_bytes()
    text = path.read_text("utf-8").replace(str(home), "HOME")
    if path.name == "results.json":
        return timeless(json.loads(text))
    if path.name == "log.jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return [line for line in text.splitlines() if not line.startswith(("- test: ", "- training: "))]


def _rows(node: Any) -> Any:
    return node[()].tolist() if isinstance(node, h5py.Dataset) else None


def _children(number: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split()))
    except OSError:
        return []
