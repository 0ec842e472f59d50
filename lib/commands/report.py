"""One page about a tested run: tables with baselines, errors, cases, curves, options.

    python report.py ../save/dense_activitynet/acnet

Writes results.html into the run's folder (or --out). The page is one file: it opens from a disk,
loads nothing from a network, and runs no script.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.command import COUNT
from ..base.files import record_file, write_text
from ..base.installed import called
from ..evaluation.files.run import read_run
from ..evaluation.report import report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tested = f"a run that {called('best_test')} tested"
    parser.add_argument("run", type=Path, metavar="FOLDER", help=tested)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results.html in FOLDER")
    parser.add_argument(
        "--count", type=COUNT, default=3, help="paragraphs of each kind (default: 3)"
    )
    parser.add_argument("--seed", type=COUNT, default=0, help="draws the random paragraphs")
    args = parser.parse_args(arguments)
    out = args.out or args.run / "results.html"
    page = report([read_run(args.run)], count=args.count, seed=args.seed)
    if args.out is None:
        record_file(args.run, out.name)
    write_text(out, page)
    print(out)
