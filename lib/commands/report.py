"""One page about a tested run: the answer, examples, errors, all numbers, curves, options.

    python report.py ../save/dense_activitynet/acnet
    python report.py ../save/dense_activitynet/acnet --videos ../videos

Writes results.html into the run's folder (or --out). The page is one file: it opens from a disk and
loads nothing from a network. With --videos it plays the files in that folder, which must stay where
it is.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from urllib.parse import quote

from ..base.command import COUNT
from ..base.files import record_file, write_text
from ..base.installed import called
from ..evaluation.files.run import read_run
from ..evaluation.report import report
from ..evaluation.report.videos import Videos


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tested = f"a run that {called('best_test')} tested"
    parser.add_argument("run", type=Path, metavar="FOLDER", help=tested)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results.html in FOLDER")
    add_example_flags(parser)
    args = parser.parse_args(arguments)
    out = args.out or args.run / "results.html"
    run = read_run(args.run)
    page = report(run, count=args.count, seed=args.seed, videos=videos_beside(args.videos, out))
    if args.out is None:
        record_file(args.run, out.name)
    write_text(out, page)
    print(out)


def add_example_flags(parser: argparse.ArgumentParser) -> None:
    """What decides which paragraphs are on a page, and what is seen of them."""
    parser.add_argument(
        "--count", type=COUNT, default=50, help="paragraphs of each kind (default: 50)"
    )
    parser.add_argument("--seed", type=COUNT, default=0, help="draws the random paragraphs")
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="FOLDER",
        help="play the video files in this folder, each named by its video's id",
    )


def videos_beside(folder: Path | None, page: Path) -> Videos:
    """The files of a folder as a page refers to them: relative to it, so that both can be moved.

    Raises:
        InputError: as ``find_videos`` does.
    """
    if folder is None:
        return Videos()
    from ..videos.extract import find_videos  # which imports Torch

    found = find_videos([folder])
    return Videos({video: _address(path, page) for video, path in found.items()})


def _address(path: Path, page: Path) -> str:
    try:
        relative = os.path.relpath(path.absolute(), page.absolute().parent)
    except ValueError:  # another drive
        return path.absolute().as_uri()
    return quote(Path(relative).as_posix())
