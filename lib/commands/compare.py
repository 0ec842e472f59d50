"""Two to four tested runs side by side: differences, their intervals, and what they changed.

    python compare.py ../save/dense_activitynet/base ../save/dense_activitynet/acnet --out page.html

The first run is the one that others are compared with. Differences are bootstrapped over
paragraphs, both runs on the same draws; a verdict is "better", "worse" or "cannot tell".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..base.command import COUNT, POSITIVE
from ..base.errors import InputError
from ..base.files import write_text
from ..base.installed import called
from ..evaluation.files.run import RunFiles, read_run
from ..evaluation.report import report
from ..evaluation.report.tables import difference_tables


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="FOLDER", help="tested runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page here")
    parser.add_argument(
        "--count", type=COUNT, default=3, help="paragraphs of each kind (default: 3)"
    )
    parser.add_argument("--seed", type=COUNT, default=0, help="draws the random paragraphs")
    parser.add_argument("--resamples", type=POSITIVE, default=1000, help="bootstrap draws")
    args = parser.parse_args(arguments)
    if len(args.runs) < 2:
        raise InputError(f"one run, expected two to four ({called('report')} makes a page of one)")
    runs = [
        read_run(path, name=name) for path, name in zip(args.runs, names(args.runs), strict=True)
    ]
    if args.out:
        page = report(runs, count=args.count, seed=args.seed, resamples=args.resamples)
        write_text(args.out, page)
    print(console(runs, args.resamples))
    if args.out:
        print(args.out)


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish the runs."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(each[-depth:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise InputError("a run is named twice, expected different folders")


def console(runs: Sequence[RunFiles], resamples: int) -> str:
    from terminaltables import AsciiTable

    blocks = []
    for title, head, rows in difference_tables(runs, resamples=resamples):
        text = [[cell if isinstance(cell, str) else cell[0] for cell in row] for row in rows]
        grid = AsciiTable([head, *text])
        grid.justify_columns = dict.fromkeys(range(1, len(head)), "right")
        blocks.append(f"{title}\n{grid.table}")
    return "\n\n".join(blocks)
