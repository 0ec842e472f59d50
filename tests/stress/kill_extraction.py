"""Kill an extraction at random moments, finish it, and compare the feature file's bytes.

    python -m tests.stress.kill_extraction --kills 100

Each round extracts the same small videos by a tiny network, is killed by SIGKILL some times, and
continued until it ends by itself. Exit status 0: every file was that of an extraction that nobody
touched, and whole whenever it was looked at.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import torch

from tests.test_videos_extraction import kill_and_finish
from tests.video_files import write_video

_PER_ROUND = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.5, help="the latest moment of a kill")
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for number, count in enumerate((200, 120, 160)):
            write_video(videos / f"{number}.mp4", count=count, first=number)
        wanted = Path(folder) / "undisturbed.hdf5"
        kill_and_finish(videos, wanted, draw, 0, 0)
        killed = rounds = 0
        while killed < args.kills:
            out = Path(folder) / "killed.hdf5"
            out.unlink(missing_ok=True)
            killed += kill_and_finish(videos, out, draw, _PER_ROUND, args.seconds)
            rounds += 1
            if out.read_bytes() != wanted.read_bytes():
                sys.exit(f"round {rounds}: the feature file is another one")
            print(f"{killed} kills in {rounds} rounds: equal", flush=True)


if __name__ == "__main__":
    main()
