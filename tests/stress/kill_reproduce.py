"""Kill reproduce.py with all that it started at random moments, finish it, and compare the page.

    python -m tests.stress.kill_reproduce --kills 10

A table of two rows and two seeds on a tiny simulated corpus is first made undisturbed. Then, over
and over until it was killed so many times, its process group gets SIGKILL after a random time, and
it is started again. Exit status 0: the page was the same to the byte whenever it was finished.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.runs import REPOSITORY, write_alignment
from tests.test_reproduce import write_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder)
        began = time.monotonic()
        finish(folder)
        whole = time.monotonic() - began
        wanted = (folder / "page.md").read_bytes()
        killed = rounds = 0
        while killed < args.kills:
            shutil.rmtree(folder / "save")
            (folder / "page.md").unlink()
            while killed < args.kills and kill_after(folder, draw.uniform(0.1, 0.6) * whole):
                killed += 1
            finish(folder)
            rounds += 1
            if (folder / "page.md").read_bytes() != wanted:
                sys.exit(f"round {rounds}: the page is another one, in {killed} kills")
            print(f"{killed} kills, finished {rounds} times: the same page", flush=True)


def write_corpus(folder: Path) -> None:
    """The table, and the experiment of its rows."""
    (folder / "own").mkdir()
    write_table(folder / "table.yaml")
    train = {"EPOCHS": 20, "BATCH_SIZE": 4, "CHECKPOINT_EVERY": 1}
    write_alignment(folder, folder / "own/small.yaml", TRAIN=train)


def started(folder: Path) -> subprocess.Popen:
    """The command, as the leader of a process group of its own."""
    line = [sys.executable, "-W", "ignore", "reproduce.py", str(folder / "table.yaml")]
    line += ["--corpus", str(folder / "own"), "--seeds", "2", "--out", str(folder / "page.md")]
    return subprocess.Popen(
        line,
        cwd=REPOSITORY / "moment_localization",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path) -> None:
    process = started(folder)
    said = process.communicate()[1]
    if process.returncode:
        sys.exit(f"reproduce.py ended with status {process.returncode}:\n{said}")


def kill_after(folder: Path, seconds: float) -> bool:
    """Whether it had not ended by itself before."""
    process = started(folder)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    process.communicate()
    return False


if __name__ == "__main__":
    main()
