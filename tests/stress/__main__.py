"""Attack everything for a while, and say in one line what came of it.

    python -m tests.stress --minutes 30 --seed 5

In turn: commands that write are killed, sent signals (alone, with their group, or to a process that
loads data), and find the disk full or the memory gone, and do their work again (``stop``); every
command reads damaged copies of every file that it reads (``commands``); readers read damaged and
invented files (``fuzz``). Seeded, but when a signal comes depends on the machine. Exit status 1
if anything was wrong: a traceback, a file that is lost, a command that takes more than a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tests.stress import commands, fuzz
from tests.stress import home as homes
from tests.stress.stop import KINDS, Stopper

READ_AT_ONCE = 50  # cases of a reader
DAMAGED_AT_ONCE = 5  # of a command


def attack(minutes: float, seed: int, folder: Path) -> tuple[str, list[str]]:
    """The line of figures, and a line for everything that was wrong."""
    draw = random.Random(seed)
    base = folder / "base"
    base.mkdir()
    homes.make(base)
    stopper = Stopper(base, folder / "stopped", draw)
    counts: Counter[str] = Counter()
    by_command: Counter[str] = Counter()
    wrong: list[str] = []
    longest, number, formats = 0.0, 0, list(fuzz.FORMATS.values())
    end = time.monotonic() + 60 * minutes

    def report(line: str) -> None:
        wrong.append(line)
        print(f"WRONG: {line}", flush=True)
        for path in sorted(folder.glob("*.traceback.txt")):
            print("\n".join(path.read_text("utf-8").splitlines()[-8:]), flush=True)
            path.unlink()

    while time.monotonic() < end:
        for kind in KINDS:
            if time.monotonic() >= end:
                break
            stopped = stopper.one(kind)
            longest = max(longest, stopped.seconds)
            counts[kind if stopped.interrupted else "ended before"] += 1
            by_command[stopped.command] += stopped.interrupted
            if stopped.wrong:
                report(f"{kind} of {stopped.command}: {stopped.wrong}")
                print(stopped.output[-3000:], flush=True)
        for _ in range(DAMAGED_AT_ONCE):
            shutil.rmtree(folder / "case", ignore_errors=True)
            (folder / "case").mkdir()
            case = commands.run_case(base, folder / "case", seed, number)
            number += 1
            counts["damaged"] += 1
            longest = max(longest, case.seconds)
            if case.wrong:
                report(f"command case {case.number}, {case.command}, {case.file}: {case.wrong}")
        kind = formats[number // DAMAGED_AT_ONCE % len(formats)]
        numbers = range(number * READ_AT_ONCE, (number + 1) * READ_AT_ONCE)
        for case_number, why in fuzz.fuzz(kind, seed, numbers):
            if kind.name == "features" and why.startswith("ends the process"):
                counts["crashes of the HDF5 library"] += 1  # which docs/trust.md tells of
                continue
            report(f"reader case {case_number} of {kind.name}: {why}")
        counts["read"] += READ_AT_ONCE
    return line_of(minutes, seed, counts, by_command, wrong, longest), wrong


def line_of(
    minutes: float,
    seed: int,
    counts: Counter[str],
    by_command: Counter[str],
    wrong: list[str],
    longest: float,
) -> str:
    """Counts by kind, as docs/trust.md has them."""
    stopped = ", ".join(f"{name} {count}" for name, count in sorted(by_command.items()) if count)
    crashes = counts["crashes of the HDF5 library"]
    parts = [
        f"{counts['kill']:,} kills",
        f"{counts['signal']:,} signals to a process",
        f"{counts['group']:,} to a group",
        f"{counts['worker']:,} killed loader processes",
        f"{counts['disk']:,} full disks",
        f"{counts['memory']:,} starved of memory",
        f"({stopped})",
        f"{counts['damaged']:,} damaged inputs of commands",
        f"{counts['read']:,} of readers",
        f"{crashes} crashes of the HDF5 library",
        f"slowest {longest:.1f} s",
        f"wrong: {len(wrong)}",
    ]
    return f"{minutes:g} minutes, seed {seed}: {'; '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seed = int(time.time()) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder  # of tracebacks, too
        line, wrong = attack(args.minutes, seed, Path(folder))
    print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
