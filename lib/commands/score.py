"""Score a predictions file from any program: NumPy is all that this needs.

    python score.py predictions.jsonl --truth truth.jsonl
    python score.py --protocols
    python score.py --define vcmr_jsg

PREDICTIONS is a file by docs/predictions.md (.jsonl or .npz) or a submission to TVR or
QVHighlights, whose annotation files can be the truth. Every number is printed with chance,
baselines without a model, its ceiling and its 95 % interval; the last lines are five of them, each
with what it is worth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..base.command import COUNT, POSITIVE, number_from
from ..base.errors import InputError
from ..base.files import write_text
from ..base.terminal import shown_path
from ..evaluation import (
    PROTOCOLS,
    console_table,
    fixed_list,
    headline_lines,
    markdown_table,
    summarise,
)
from ..evaluation.files import read_any, read_truth
from ..evaluation.retrieval import TIES
from ..evaluation.scoring import OVERLAPS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", nargs="?", metavar="PREDICTIONS", type=Path)
    parser.add_argument("--truth", metavar="FILE", type=Path, help="what is right, a truth file")
    parser.add_argument("--protocols", action="store_true", help="list the protocols")
    parser.add_argument("--define", metavar="NAME", help="say what a protocol counts (all: all)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="these protocols, refusing what they refuse (default: all that the file allows)",
    )
    parser.add_argument(
        "--iou", nargs="+", type=number_from(0), default=[0.3, 0.5, 0.7], metavar="M"
    )
    parser.add_argument("--n", nargs="+", type=POSITIVE, default=[1, 5], help="moments, for svmr")
    parser.add_argument(
        "--k", nargs="+", type=POSITIVE, default=[1, 5, 10, 100], help="videos, pairs"
    )
    parser.add_argument(
        "--ties",
        choices=TIES,
        default="expected",
        help="equal scores: in random order (default), the right one first, or last, or in the "
        "order of the file",
    )
    parser.add_argument(
        "--overlaps",
        choices=OVERLAPS,
        default="exact",
        help="float64: in svmr, an overlap that is the threshold may miss it by a rounding error, "
        "as in programs that compare plain floats",
    )
    parser.add_argument(
        "--alpha",
        type=number_from(0),
        default=20.0,
        help="weight of the video's score in a pair's, where candidates are scored (default: 20)",
    )
    parser.add_argument(
        "--train-truth", metavar="FILE", type=Path, help="training moments, for the ten fixed spans"
    )
    parser.add_argument(
        "--resamples", type=COUNT, default=1000, help="bootstrap draws; 0: no intervals"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the summary here")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables here")
    args = parser.parse_args(arguments)
    if not (args.protocols or args.define) and not (args.predictions and args.truth):
        parser.error("PREDICTIONS and --truth are needed (or --protocols, or --define NAME)")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.protocols:
        for protocol in PROTOCOLS.values():
            print(f"{protocol.name:20}{protocol.k_counts:30}{protocol.sign:10}{protocol.source}")
        return
    if args.define:
        define(args.define)
        return
    summary = score(args)
    if args.json:
        write_text(args.json, json.dumps(strict(summary), indent=2) + "\n")
    if args.markdown:
        write_text(args.markdown, markdown_table(summary))
    print(f"{console_table(summary)}\n")
    print("\n".join(headline_lines(summary, shown_path(args.predictions))))


def define(name: str) -> None:
    names = list(PROTOCOLS) if name == "all" else [name]
    unknown = [each for each in names if each not in PROTOCOLS]
    if unknown:
        raise InputError(f"unknown protocol {unknown[0]!r}, expected one of {', '.join(PROTOCOLS)}")
    print("\n\n".join(PROTOCOLS[each].describe() for each in names))


def score(args: argparse.Namespace) -> dict[str, Any]:
    truth, predictions = read_any(args.predictions, read_truth(args.truth))
    fixed = None
    if args.train_truth:
        fixed = fixed_list(read_truth(args.train_truth).fractions)
    summary = summarise(
        truth,
        predictions,
        iou=args.iou,
        grounding_n=args.n,
        retrieval_k=args.k,
        protocols=args.only,
        alpha=args.alpha,
        fixed_spans=fixed,
        ties=args.ties,
        overlaps=args.overlaps,
        resamples=args.resamples,
    )
    if not summary["protocols"]:
        raise InputError(f"{args.predictions}: holds no predictions that a protocol counts")
    return summary


def strict(value: Any) -> Any:
    """JSON knows no infinity: a rank past the end of a list is null."""
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
