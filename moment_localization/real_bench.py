#!/usr/bin/env python
"""The real bench: every system on real features, in both orders of sentences, and docs/real.md.

    python real_bench.py run --seeds 3 --jobs 2      train and test what is missing
    python real_bench.py table > ../docs/real.md     the page of what is there

The features are no part of this project: experiments/real/base.yaml says where they are expected.
Without them the command says so and ends. Each run lies in save/real/….
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.base.command import POSITIVE, run_script
from lib.base.errors import InputError
from lib.commands import sweep
from lib.commands.sweep import Job, mean_and_spread, read_rows, require_jobs, run_all
from lib.config.config import load_config
from lib.evaluation import summarise
from lib.evaluation.files import read_any, read_truth
from lib.evaluation.files.run import read_run
from lib.evaluation.spans import overlap
from lib.tools.reproduction.page import commits_of
from lib.training.build import resolve

EXPERIMENTS = ROOT / "experiments" / "real"
FLAGSHIP = "linear_align"
WEAK = (
    *("linear_align", "parts_grounding", "linear_align_separation"),
    *("clip_align", "clip_align_order", "clip_align_position", "clip_align_posterior"),
    *("aligned", "dmr_jrg", "cpl", "cnm", "pps"),
    *("scn", "dciml", "jsg", "ms_sl", "xml_weak", "reloclnet_weak"),
)
FULL = ("tan2d", "mmn", "prvg", "xml", "reloclnet", "mcn", "cal")
# Rows of changed options: which file has them, and the experiment that they change.
ROWS = {
    "ablations": ("aligned", "ablations.yaml"),
    "retrieval_parts": ("parts_retrieval", "retrieval_parts.yaml"),
    "grounding_parts": ("parts_grounding", "grounding_parts.yaml"),
}
# In the order of the file a sentence's position says nothing of its time, and nothing reads it.
ORDERS: dict[str, dict[str, Any]] = {
    "time": {"DATASET.ORDER": "time"},
    "file": {
        "DATASET.ORDER": "file",
        "DECODE.ORDERED": False,
        "DECODE.ORDER_PENALTY": 0.0,
        "DECODE.POSITION_PRIOR_WEIGHT": 0.0,
    },
}
# Further options of single experiments there.
FILE_ORDER = {
    **dict.fromkeys(
        ("linear_align", "parts_retrieval", "parts_grounding", "clip_align_position"),
        {"MODEL.PARAMS.position_bias": 0.0},
    ),
    "aligned": {"MODEL.PARAMS.position_bias": 0.0, "MODEL.PARAMS.sentence_position": False},
}
CORRUPTIONS = {"time_shuffled": "time_shuffled_8", "video_mean": "video_mean_1"}
# Where there is a GPU these train on it; many small runs at once are faster on processors.
DEVICES = dict.fromkeys(("cpl", "cnm", "pps"), "")
FOREIGN = {
    "Moment-DETR, trained on QVHighlights": "moment_detr_qvhighlights.jsonl",
    "CLIP without training, windows of 16 s": "clip_zero_shot.jsonl",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and test what is missing")
    run.add_argument("--jobs", type=POSITIVE, default=1, help="runs at a time, one thread each")
    run.add_argument("--seeds", type=POSITIVE, default=3, help="seeds of each run")
    run.add_argument("--orders", default="time,file", help="of sentences, by comma")
    run.add_argument(
        "--experiments",
        default=",".join((*WEAK, *FULL)),
        help="names below experiments/real, by comma; "
        + ", ".join(f"{n} for the rows of {f} around {e}" for n, (e, f) in ROWS.items()),
    )
    commands.add_parser("table", help="print the page of the runs that are there")
    return parser.parse_args()


def require_data() -> Path:
    """The folder of the features.

    Raises:
        InputError: it is not there.
    """
    config = load_config(EXPERIMENTS / "base.yaml")
    folder = resolve(config.DATA_DIR) / "charades_clip"
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist: the real bench needs features that are no part of this "
            "project (experiments/real/corpus.py says which)"
        )
    return folder


def jobs(names: Sequence[str], order: str, seed: int) -> list[Job]:
    """The runs that the names stand for."""
    found = []
    for name in names:
        if name in ROWS:
            experiment, file = ROWS[name]
            rows = read_rows(ROOT / "experiments" / file)
            found += [
                _job(f"{name}/{row}", experiment, order, seed, options, f"{row}-")
                for row, options in rows.items()
            ]
        else:
            found.append(_job(name, name, order, seed))
    return found


def _job(
    name: str,
    experiment: str,
    order: str,
    seed: int,
    options: dict[str, Any] | None = None,
    tag: str = "",
) -> Job:
    changed = {**ORDERS[order], **(options or {}), "GPUS": DEVICES.get(experiment, "cpu")}
    if order == "file":
        changed |= FILE_ORDER.get(experiment.removesuffix("_separation"), {})
    return Job(name, EXPERIMENTS / f"{experiment}.yaml", seed, changed, f"{tag}{order}-{seed}")


def run(args: argparse.Namespace) -> None:
    require_data()
    for order in args.orders.split(","):
        if order not in ORDERS:
            raise InputError(f"--orders: {order!r} is none, expected some of {', '.join(ORDERS)}")
    wanted = [
        job
        for seed in range(args.seeds)
        for order in args.orders.split(",")
        for job in jobs(args.experiments.split(","), order, seed)
    ]
    require_jobs(wanted)
    failed = run_all(wanted, at_once=args.jobs)
    destroyed = [
        job.tested_with({"TEST.CORRUPTION": kind}, f"_{suffix}")
        for job in wanted
        if job.name in (FLAGSHIP, "aligned", "clip_align_order")
        for kind, suffix in CORRUPTIONS.items()
    ]
    failed += run_all(destroyed, at_once=args.jobs)
    if failed:
        sys.exit(1)


# The page.


def cells(results: Sequence[dict[str, Any]]) -> list[str]:
    """Grounding and retrieval, mean ± deviation over seeds; what is below its floor is marked."""
    grounding = [
        mean_and_spread([r["protocols"]["svmr"][f"R@1,IoU={iou}"] for r in results], 1)
        for iou in (0.3, 0.5, 0.7)
        if "svmr" in results[0]["protocols"]
    ]
    if grounding:
        grounding.append(mean_and_spread([r["protocols"]["svmr"]["mIoU"] for r in results], 1))
        for place, name in ((1, "R@1,IoU=0.5"), (3, "mIoU")):
            value = statistics.mean(r["protocols"]["svmr"][name] for r in results)
            if value <= best_floor(results[0], name):
                grounding[place] += " ↓"
    retrieval = [
        mean_and_spread([r["protocols"][protocol][name] for r in results], 1)
        if all(protocol in r["protocols"] for r in results)
        else ""
        for protocol, name in (("vr", "R@1"), ("vr", "R@10"), ("vr_querybank", "R@10"))
    ]
    return [*(grounding or [""] * 4), *retrieval]


def stages(results: Sequence[dict[str, Any]]) -> list[str]:
    """Retrieval by the similarity, by the first stage, and by both; what the shortlist keeps."""
    found = [
        mean_and_spread([r["protocols"].get(protocol, {}).get(name, math.nan) for r in results], 1)
        for protocol in ("vr", "vr_first_stage", "vr_two_stages")
        for name in ("R@1", "R@10")
    ]
    keeps = ("shortlist_keeps_best", "shortlist_keeps_ten")
    return found + [
        mean_and_spread([r["diagnostics"].get(name, math.nan) for r in results], 1)
        for name in keeps
    ]


def best_floor(result: dict[str, Any], name: str) -> float:
    """The best score without a model; chance is no floor to be proud of."""
    return max(row.get(name, 0.0) for row in result["floors"]["svmr"].values())


def gathered(names: Sequence[str], order: str, suffix: str = "") -> dict[str, list[dict[str, Any]]]:
    """The results that are there, by name."""
    every = (job for seed in range(20) for job in jobs(names, order, seed))
    return sweep.gathered(every, suffix)


@functools.cache  # every other system is paired with the flagship
def sentence_overlaps(name: str, order: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(M,) overlap of each test sentence's first moment, and whether it is at least 0.5, both means
    over seeds. The sentences of all runs in an order stand alike, so that they can be paired."""
    overlaps, hits = [], []
    for seed in range(20):
        (job,) = jobs([name], order, seed)
        if job.results() is None:
            continue
        files = read_run(job.folder)
        best = overlap(files.predictions.spans[:, 0], files.truth.fractions)
        overlaps.append(best)
        hits.append(best >= 0.5 - 1e-9)
    return (np.mean(overlaps, axis=0), np.mean(hits, axis=0)) if overlaps else None


def paired(name: str, order: str, draws: int = 2000) -> str:
    """The flagship's lead over a system in R@1 at IoU 0.5, with a 95 % interval over paragraphs,
    both on the same sentences, seeds averaged."""
    ours, others = sentence_overlaps(FLAGSHIP, order), sentence_overlaps(name, order)
    if ours is None or others is None or len(ours[0]) != len(others[0]):
        return ""
    (job, *_) = jobs([FLAGSHIP], order, 0)
    owner = np.sort(read_run(job.folder).truth.sentence_paragraph)
    difference = 100 * (ours[1] - others[1])
    P = owner.max() + 1
    sums, counts = np.bincount(owner, difference, P), np.bincount(owner, minlength=P)
    drawn = np.random.default_rng(0).multinomial(P, np.full(P, 1 / P), size=draws)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{difference.mean():+.1f} ({low:+.1f} to {high:+.1f})"


TITLES = {
    "ablations": "The paper's parts",
    "retrieval_parts": "Class tokens as the first stage of a search, which the linear alignment "
    "ranks again, and what teaches them",
    "grounding_parts": "The parts that ground, around the linear alignment",
}
STAGES = (
    *("", "seeds", "alignment R@1", "R@10", "first stage R@1", "R@10"),
    *("two stages R@1", "R@10", "shortlist keeps the best", "of the ten best"),
)
HEAD = (
    *("", "seeds", "R@1 .3", "R@1 .5", "R@1 .7", "mIoU"),
    *("retrieval R@1", "R@10", "normalised R@10"),
)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Without the columns in which no row has anything."""
    kept = [place for place in range(len(head)) if not place or any(row[place] for row in rows)]
    print("| " + " | ".join(head[place] for place in kept) + " |")
    print("|---|" + "---:|" * (len(kept) - 1))
    for row in rows:
        print("| " + " | ".join(row[place] for place in kept) + " |")
    print()


def print_page() -> None:
    folder, shown = require_data(), list[dict[str, Any]]()
    print("# The real bench\n\nWritten by `python moment_localization/real_bench.py table`.\n")
    print(
        "1,052 of Charades-STA's test videos with CLIP ViT-B/32 features, one row a second, and "
        "the human sentences with their times, split anew into 782 videos for training, 125 for "
        "validation and 145 for the test. Test split, per cent, IoU ≥ m, mean ± deviation "
        "over training seeds. ↓ marks a mean that is not above the system's best floor: the rows "
        f"in italics. The prior of the decoding is what that of `{FLAGSHIP}` makes of no evidence "
        "at all, with the constants that it states, and a floor of the systems that decode so. "
        "Normalised: retrieval against a bank of the training paragraphs (vr_querybank; "
        "[evaluation.md](evaluation.md)). "
        "It is no official protocol: these are test videos of Charades-STA, so quote no Charades "
        "number of a model that was trained here.\n"
    )
    for order, title in (("time", "In the order of time"), ("file", "In the order of the file")):
        weak, full = gathered(WEAK, order), gathered(FULL, order)
        if not weak:
            continue
        print(f"## {title}\n")
        first = next(iter(weak.values()))[0]
        floors = [
            [f"*{rule}*", "", *(f"{row[f'R@1,IoU={iou}']:.1f}" for iou in (0.3, 0.5, 0.7)),
             f"{row['mIoU']:.1f}", "", "", "", ""]
            for rule, row in first["floors"]["svmr"].items()
        ]  # fmt: skip
        rows = [
            [f"`{name}`", str(len(results)), *cells(results),
             "" if name == FLAGSHIP else paired(name, order)]
            for name, results in weak.items()
        ]  # fmt: skip
        lead = f"lead of `{FLAGSHIP}` at .5 (95 %)"
        print("Trained without a timestamp, and what needs no model:\n")
        print_table((*HEAD, lead), [*floors, *rows])
        if full:
            print("Trained on the moments (full supervision), on the same videos:\n")
            print_table(
                (*HEAD, lead),
                [
                    [f"`{name}`", str(len(results)), *cells(results), paired(name, order)]
                    for name, results in full.items()
                ],
            )
        for group, (experiment, file) in ROWS.items():
            parts = gathered([experiment, group], order)
            if len(parts) > 1:
                shown += [r for results in parts.values() for r in results]
                print(f"{TITLES[group]} (rows of `experiments/{file}` around `{experiment}`):\n")
                head, row = (STAGES, stages) if group == "retrieval_parts" else (HEAD, cells)
                print_table(head, [[f"`{n}`", str(len(r)), *row(r)] for n, r in parts.items()])
        shown += [r for results in (*weak.values(), *full.values()) for r in results]
    print_destroyed()
    print_foreign(folder.parent / "foreign_predictions")
    if commits := commits_of(shown):
        print(f"Trained by {commits}.")


def print_destroyed() -> None:
    rows = []
    for order in ORDERS:
        for kind, suffix in CORRUPTIONS.items():
            for name, results in gathered(
                [FLAGSHIP, "aligned", "clip_align_order"], order, f"_{suffix}"
            ).items():
                floor = [best_floor(results[0], metric) for metric in ("R@1,IoU=0.5", "mIoU")]
                values = [
                    statistics.mean(r["protocols"]["svmr"][metric] for r in results)
                    for metric in ("R@1,IoU=0.5", "mIoU")
                ]
                trust = [r["calibration"].get("trust") for r in results]
                known = [f"{value:.2f}" for value in trust if value is not None]
                rows.append(
                    [f"`{name}`, {order}, {kind}", *(f"{v:.1f}" for v in values),
                     *(f"{v:.1f}" for v in floor), ", ".join(known)]
                )  # fmt: skip
    if rows:
        print("## Where there is nothing to find\n")
        print(
            "The same weights on test videos whose blocks stand in random order (`time_shuffled`), "
            "or whose rows are all their mean plus noise (`video_mean`). At trust 0 the score is "
            "that of the decoding's prior alone; what a run scores above it further up is what "
            "its evidence brings.\n"
        )
        head = ("", "R@1 .5", "mIoU", "best floor .5", "mIoU", "trust, by seed")
        print_table(head, rows)


def print_foreign(folder: Path) -> None:
    if not folder.is_dir():
        return
    rows = []
    for title, name in FOREIGN.items():
        truth, predictions = read_any(folder / name, read_truth(folder / "truth.jsonl"))
        summary = summarise(truth, predictions, protocols=["svmr"], resamples=0)
        scores = summary["protocols"]["svmr"]
        values = [scores[f"R@1,IoU={iou}"] for iou in (0.3, 0.5, 0.7)] + [scores["mIoU"]]
        rows.append([title, *(f"{value:.1f}" for value in values)])
    if rows:
        print("## Others' predictions\n")
        print("On all 3,720 test sentences of Charades-STA, scored here:\n")
        print_table(("", "R@1 .3", "R@1 .5", "R@1 .7", "mIoU"), rows)


def main() -> None:
    args = parse_arguments()
    if args.command == "run":
        run(args)
    else:
        print_page()


if __name__ == "__main__":
    run_script(main)
