"""Make videos searchable by a trained run: extract their features, encode them, keep them.

    python index.py my_videos/ --run ../save/mine/linear --out my_videos.index
    python index.py features.hdf5 --run ../save/mine/linear --seconds-per-row 1
    python index.py clip/ slowfast/ --run ../save/mine/linear --seconds-per-row 2
    python index.py --out my_videos.index --remove OB660
    python index.py --out my_videos.index --check paragraphs.txt

What is in the index stays: the same command adds new videos and replaces changed ones, and goes on
where it was stopped. Exit status: 0 all videos, 3 some were skipped (each is named), 2 none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..base.command import POSITIVE, SOME_SKIPPED, number_from
from ..base.errors import InputError
from ..base.files import open_input
from ..base.installed import typed
from ..inference import VideoIndex, load, open_index
from ..inference.index import PLACES
from ..inference.sentences import split_sentences
from ..inference.sources import read_durations


def main() -> None:
    args = _parser().parse_args()
    if not args.videos:
        index = change(args)
    else:
        if args.run is None:
            raise InputError("--run is missing; expected the folder of a trained run")
        index = load(args.run, device=args.gpus).index(
            args.videos,
            args.out,
            weights=args.weights,
            same_recipe=args.same_recipe,
            seconds_per_row=args.seconds_per_row,
            durations=read_durations(args.durations) if args.durations else None,
            files=args.files,
            places=args.places,
            prune=args.prune,
            log=tqdm.write,
        )
    if args.check:
        check(index, args.check)
    done = index.updated
    print(
        f"{index.folder}: {len(index):,} videos ({done.added:,} added, {done.replaced:,} replaced, "
        f"{done.removed:,} removed now); search it by: {typed('search', str(index.folder), 'TEXT')}"
    )
    if index.skipped:
        print(f"skipped: {len(index.skipped):,} videos, named above")
        sys.exit(SOME_SKIPPED)


def change(args: argparse.Namespace) -> VideoIndex:
    """Remove videos, or give back the space of those removed."""
    if args.out is None or not (args.remove or args.compact or args.check):
        raise InputError(
            "there are no videos to index; expected a folder of them or a feature file, or --out "
            "with --remove, --compact or --check"
        )
    index = open_index(args.out, run=args.run, device=args.gpus)
    if args.remove:
        missing = [video for video in args.remove if video not in index]
        if missing:
            raise InputError(f"{args.out} has no video {missing[0]!r}; nothing was removed")
        index.remove(args.remove)
    if args.compact:
        with index.store.writer() as writer:
            writer.compact()
    return index


def check(index: VideoIndex, path: Path) -> None:
    """Say how much of an exhaustive search the shortlist keeps, for the paragraphs of a file."""
    try:
        with open_input(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError) as fault:
        raise InputError(f"{path} cannot be read ({str(fault)[:80]})") from None
    paragraphs = [sentences for line in lines if (sentences := split_sentences(line))]
    if not paragraphs:
        raise InputError(f"{path} holds no words; expected one paragraph a line")
    found = index.check(tqdm(paragraphs, desc="checking", leave=False, disable=None))
    print(
        f"of {found['queries']:,} paragraphs, the {found['compared']:,} windows on the shortlist "
        f"hold {100 * found['recall']:.1f} % of the ten best of all, and {100 * found['first']:.1f}"
        " % of the best one"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "videos",
        type=Path,
        nargs="*",
        metavar="VIDEOS",
        help="folders of videos, videos, or features in one of their layouts; several are joined",
    )
    add("--run", metavar="RUN", help="folder of a trained run, a checkpoint, an export, or its URL")
    add("--out", type=Path, metavar="INDEX", help="default: beside the videos, with .index added")
    add("--weights", metavar="FILE", help="of the backbone, where its library has none")
    add(
        "--same-recipe",
        action="store_true",
        help="the feature file was made as that of the run, though it does not say so",
    )
    add(
        "--seconds-per-row",
        type=number_from(1e-6),
        metavar="S",
        help="of a file that does not say so",
    )
    add(
        "--durations",
        type=Path,
        metavar="JSON",
        help="seconds by video id, or annotations with a duration",
    )
    add("--files", type=Path, metavar="FOLDER", help="of the videos that a feature file is of")
    add(
        "--places",
        type=POSITIVE,
        default=PLACES,
        metavar="P",
        help="vectors of a window that stay in memory, 128 bytes each (%(default)s)",
    )
    add("--prune", action="store_true", help="remove what is not among the videos any more")
    add("--remove", nargs="+", default=[], metavar="ID", help="remove videos")
    add("--compact", action="store_true", help="give back the space of removed videos")
    add(
        "--check",
        type=Path,
        metavar="FILE",
        help="compare the shortlist with an exhaustive search, for a paragraph a line",
    )
    add("--gpus", default="", metavar="N", help="GPU to use; cpu or -1 for none")
    return parser
