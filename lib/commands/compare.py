"""Tested runs side by side: what was changed between them, and how their numbers differ.

    python compare.py ../save/dense_activitynet/base ../save/dense_activitynet/acnet
    python compare.py ../save/bench/tan2d-middle-* ../save/bench/aligned-middle-* --out page.html

The first run is the one that others are compared with. Runs that differ in TRAIN.SEED alone are
one column, a mean with its standard deviation. Differences are bootstrapped over paragraphs (and
seeds), all on the same draws; a verdict is "better", "worse", "cannot tell" or "the same", and no
number that does not beat its floor is called better. --out FILE.md and --out FILE.html write every
number, and the page examples too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..base.command import POSITIVE
from ..base.errors import InputError
from ..base.files import write_text
from ..evaluation.comparison import compare_runs
from ..evaluation.files.run import read_run
from ..evaluation.report import comparison_report
from ..evaluation.report.plain import console_comparison, markdown_comparison
from .report import add_example_flags, videos_beside

_KINDS = (".html", ".md")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="tested runs")
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write a page (.html) or tables (.md); may be given for both",
    )
    add_example_flags(parser)
    parser.add_argument("--resamples", type=POSITIVE, default=1000, help="bootstrap draws")
    args = parser.parse_args(arguments)
    for out in args.out:
        if out.suffix.lower() not in _KINDS:
            raise InputError(f"--out {out}: is neither a page nor tables, expected .html or .md")
    runs = [
        read_run(path, name=name) for path, name in zip(args.runs, names(args.runs), strict=True)
    ]
    comparison = compare_runs(runs, resamples=args.resamples)
    for out in args.out:
        if out.suffix.lower() == ".md":
            text = markdown_comparison(comparison)
        else:
            videos = videos_beside(args.videos, out)
            text = comparison_report(comparison, count=args.count, seed=args.seed, videos=videos)
        write_text(out, text)
    print(console_comparison(comparison))
    for out in args.out:
        print(out)


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish the runs."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(each[-depth:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise InputError("a run is named twice, expected different folders")
