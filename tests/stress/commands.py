"""Feed every command damaged copies of every file that it reads.

    python -m tests.stress.commands --count 2000 --seed 1
    python -m tests.stress.commands --only search --count 200
    python -m tests.stress.commands --seed 1 --case 4711 --keep DIR

A command may do its work or say what is wrong in a line or more, with a status that it may end
with; it may not end with a traceback, by a signal, with status 70, or after a minute. A case is a
function of seed and number. Exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.runs import Ended, Process
from tests.stress import home as homes
from tests.stress.fuzz import _rezipped, damage, deep, rearrange, strange
from tests.stress.home import COMMANDS, Command

SECONDS = 60
MEMORY = 3 * 2**30  # that a command may take beyond what this process has
HDF5_CRASHES = (-6, -7, -8, -11)  # inside the library, which not every damage spares


@dataclass(frozen=True)
class Found:
    """What a case came to."""

    number: int
    command: str
    file: str
    status: int
    wrong: str  # "" = as it should be
    seconds: float


def damaged(data: bytes, name: str, draw: random.Random) -> bytes:
    """The bytes of another file of that name, near to these or far."""
    kind = draw.random()
    suffix = Path(name).suffix
    if kind < 0.02:
        return b""
    if kind < 0.06:
        return draw.choice(
            [deep(draw), draw.randbytes(300), "é\ud800".encode("utf-8", "surrogatepass")]
        )
    if kind < 0.35:
        return damage(data, draw)
    if suffix in (".pt", ".step", ".npz") and kind < 0.5:
        return _rezipped(data, draw)
    if suffix in (".pt", ".step"):
        return _other_state(data, draw)
    if suffix == ".json":
        return _json_like(data, draw)
    if suffix == ".jsonl":
        lines = data.splitlines()
        if lines:
            place = draw.randrange(len(lines)) if draw.random() < 0.6 else 0
            lines[place] = _json_like(lines[place], draw)
        return b"\n".join(lines)
    if suffix == ".hdf5" and draw.random() < 0.6:  # headers, not the numbers at the end
        changed = bytearray(data)
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(min(len(changed), 4096))
            changed[place] = draw.choice([0, 1, 0xFF, 0x80, draw.randrange(256)])
        return bytes(changed)
    return damage(data, draw)


def _json_like(data: bytes, draw: random.Random) -> bytes:
    try:
        tree = json.loads(data)
    except ValueError:
        return damage(data, draw)
    for _ in range(draw.randint(1, 3)):
        tree = rearrange(tree, draw)
    text = json.dumps(tree, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.05 and text.startswith("{"):  # a name twice
        text = '{"duration": 1, ' + text[1:]
    return text.encode("utf-8", "surrogatepass")


def _other_state(data: bytes, draw: random.Random) -> bytes:
    """A file of torch.save with some of its values exchanged."""
    whole = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(draw.randint(1, 3)):
        inner = whole
        path: list[Any] = []
        while isinstance(inner, dict | list) and inner and draw.random() < 0.85:
            key = (
                draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
            )
            path.append(key)
            inner = inner[key]
        whole = _with(whole, path, _other(inner, draw))
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return buffer.getvalue()


def _with(tree: Any, path: Sequence[Any], value: Any) -> Any:
    if not path:
        return value
    if isinstance(tree, tuple):
        tree = list(tree)
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    changed[path[0]] = _with(tree[path[0]], path[1:], value)
    return changed


def _other(value: Any, draw: random.Random) -> Any:
    if _is_ordinary(value) and draw.random() < 0.7:
        numbers = value.float()
        return draw.choice(
            [
                lambda: numbers * float("inf"),
                lambda: numbers.flatten()[:-1],
                lambda: numbers.to_sparse(),
                lambda: torch.empty(numbers.shape, device="meta"),
                lambda: numbers.long(),
                lambda: numbers.to(torch.complex64),
                lambda: torch.zeros(1).expand(2**40),
                lambda: numbers[None],
                lambda: numbers.double(),
                lambda: value.flatten()[:0],
            ]
        )()
    if isinstance(value, dict) and value and draw.random() < 0.7:
        key = draw.choice(list(value))
        kept = {k: v for k, v in value.items() if k != key}
        return draw.choice([kept, {**kept, 7: value[key]}, {**value, "more": strange(draw)}])
    if isinstance(value, bool | int | float) and draw.random() < 0.7:
        return draw.choice(
            [-1, 0, 2**70, -(10**400), float("nan"), 1e308, value + 1, not value, 0.5]
        )
    if draw.random() < 0.1:
        return aliased(26)
    return strange(draw)


def _is_ordinary(value: Any) -> bool:
    """Whether it is a tensor that was not exchanged before."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_meta:
        return False
    return not value.is_complex() and value.numel() < 2**30


def aliased(levels: int) -> list[Any]:
    """A list of 2^levels values that is small in memory and in a file."""
    tree: list[Any] = ["x"]
    for _ in range(levels):
        tree = [tree, tree]
    return tree


def run_case(base: Path, scratch: Path, seed: int, number: int, only: str = "") -> Found:
    """One case.

    Args:
        base: a home that nothing changes.
        scratch: an empty folder; a home is made in it.
    """
    draw = random.Random(f"commands {seed} {number} {only}")
    names = [only] if only else homes.installed(COMMANDS)
    name = draw.choices(names, [max(COMMANDS[n].weight, bool(only)) for n in names])[0]
    command = COMMANDS[name]
    home = homes.copy_of(base, scratch / "home")
    files = command.inputs(home)
    path = draw.choice(files)
    path.write_bytes(damaged(path.read_bytes(), path.name, draw))
    began = time.monotonic()
    ended = end(command, home, name)
    seconds = time.monotonic() - began
    wrong = fault(ended, command, path)
    return Found(number, name, str(path.relative_to(home)), ended.status, wrong, seconds)


def end(command: Command, home: Path, name: str) -> Ended:
    """Let a command end by itself, at most in a minute; a page's server is asked to."""
    process = homes.start(command, home, sabotage=bounded)
    if name == "serve":
        began = time.monotonic()
        while (ended := process.poll(0.02)) is None and time.monotonic() < began + SECONDS:
            if "http://" in process.output.read_text("utf-8", errors="replace"):
                process.kill(2)
                break
        if ended is not None:
            return ended
    return wait(process)


def wait(process: Process) -> Ended:
    try:
        return process.wait(SECONDS)
    except TimeoutError:
        return Ended(-9, f"HANGS: {process.output.read_text('utf-8', errors='replace')}")


def bounded() -> None:
    """In the command's process: its memory, and where tracebacks go."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def fault(ended: Ended, command: Command, path: Path | None = None) -> str:
    """What is wrong with the end of a command; "" = nothing."""
    last = (ended.output.strip().splitlines() or [""])[-1][:300]
    if ended.output.startswith("HANGS"):
        return f"hangs: {last}"
    if path is not None and path.suffix == ".hdf5" and ended.status in HDF5_CRASHES:
        return ""
    if "Traceback (most recent call last)" in ended.output:
        return f"a traceback: {last}"
    if ended.status not in command.statuses:
        return f"status {ended.status}: {last}"
    if ended.status == 2 and "error: " not in ended.output:
        return f"status 2 without a line: {last}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS, default="", help="one command")
    parser.add_argument("--case", type=int, help="this one only")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the --case's home there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder  # of tracebacks, too
        base = Path(folder) / "base"
        base.mkdir()
        homes.make(base)
        numbers = range(args.count) if args.case is None else [args.case]
        for number in numbers:
            scratch = args.keep or Path(folder) / "case"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            case = run_case(base, scratch, args.seed, number, args.only)
            found.append(case)
            if case.wrong or args.case is not None:
                print(
                    f"case {number}, {case.command}, {case.file}: {case.wrong or 'fine'}",
                    flush=True,
                )
                for path in Path(folder).glob("*.traceback.txt"):
                    print("\n".join(path.read_text("utf-8").splitlines()[-7:]))
                    path.unlink()
    wrong = [case for case in found if case.wrong]
    statuses = Counter(case.status for case in found)
    slowest = max(found, key=lambda case: case.seconds)
    print(
        f"{len(found):,} cases, {len(wrong)} wrong; statuses {dict(statuses.most_common())}; "
        f"slowest {slowest.seconds:.1f} s ({slowest.command})"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
