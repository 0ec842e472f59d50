#!/usr/bin/env python
"""Score the best checkpoint of an experiment and write its tables.

    python best_test.py --verbose --cfg ../experiments/dense_activitynet/acnet.yaml

The checkpoint is best.pt in the run's folder, or the one given. Results go to results.json and
results.md there (results_val.* for --split val), every score beside its floor. With TEST.CORRUPTION
the files are called after it too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Before torch starts its threads: on a busy machine, ones that spin while they wait slow all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from lib.core import checkpoint, distributed
from lib.core.assembly import (
    Scorer,
    add_common_flags,
    corruption_of,
    metric,
    open_corpus,
    open_model,
    open_runtime,
    run_folder,
    run_script,
)
from lib.core.config import load_config
from lib.core.run import Run
from lib.core.runtime import Runtime
from lib.datasets.fingerprint import difference, fingerprint
from lib.datasets.standardization import Standardization
from lib.evaluation import choose_alpha, console_table, fixed_list, markdown_table
from lib.evaluation.files.run import save_run_predictions
from lib.evaluation.records import CandidateMoments


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser)
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="score this one (default: best.pt of the run)"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="default: test"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.cfg, args.set, vars(args))
    run = Run.open(run_folder(args.cfg, config), exclusive=False)
    path = Path(args.checkpoint) if args.checkpoint else run.path("best.pt")
    state = checkpoint.load(path)
    standardization = Standardization.of_checkpoint(state, wanted=config.DATASET.STANDARDIZE)
    corruption = corruption_of(config)

    runtime = open_runtime(config)
    joint = config.TEST.CANDIDATES > 0
    # The weight of the video in a joint score is chosen on validation, never where it is reported.
    splits = dict.fromkeys((args.split, "val") if joint else (args.split,))
    with distributed.main_first():
        corpus = open_corpus(
            config,
            list(splits),
            show_moments=True,
            standardization=standardization,
            scored=args.split,
        )
    for line in corpus.lines() if args.verbose else [str(corpus.rows)]:
        if distributed.is_main():
            print(line)
    checkpoint.check_matches(state, config, corpus.dims)
    model = open_model(config, corpus, runtime)
    checkpoint.load_into(model, state)

    scorer = Scorer(config, corpus[args.split], runtime, verbose=args.verbose)
    predictions = scorer.predict(model, candidates=config.TEST.CANDIDATES)
    alpha = 0.0
    if predictions.candidates is not None:
        alpha = choose_weight(config, corpus, model, runtime, args.verbose)
    if not distributed.is_main():
        return
    summary = scorer.summarise(
        predictions,
        resamples=config.TEST.RESAMPLES,
        fixed_spans=fixed_list(corpus.training_fractions),
        alpha=alpha,
    )
    summary["checkpoint"] = {
        "file": str(path),
        "epoch": state["epoch"],
        "selected_by": state.get("select_by"),
        "selected_on": "validation" if "select_by" in state else None,
    }
    summary["split"] = args.split
    summary["corruption"] = corruption and str(corruption)
    summary["notes"] = list(corpus.notes) + provenance(corpus, config)
    if "features" in state:
        differing = difference(state["features"], fingerprint(corpus.features))
        if differing:
            summary["notes"].append(f"the features are not those of training: {differing}")

    stem = "results" if args.split == "test" else f"results_{args.split}"
    if corruption:
        stem += f"_{corruption.name}"
    run.write_json(f"{stem}.json", summary)
    title = f"# {config.MODEL.NAME} on {config.DATASET.NAME}, {args.split} split\n\n"
    notes = "\n".join(f"- {note}" for note in summary["notes"])
    run.write_text(f"{stem}.md", f"{title}{markdown_table(summary)}\n{notes}\n")
    if args.split == "test" and not corruption:
        save_run_predictions(
            run.folder,
            scorer.truth,
            predictions,
            maps=scorer.score_maps(model, predictions),
            alpha=alpha,
        )

    print(console_table(summary))
    for note in summary["notes"]:
        print(f"note: {note}")
    epoch = state["epoch"] + 1
    print(f"epoch {epoch} of {path}; tables in {run.path(stem + '.json')} and {stem}.md")
    if args.split == "val" and "validation" in state and not corruption:
        compare_with_training(summary, state)


def choose_weight(config: Any, corpus: Any, model: Any, runtime: Runtime, verbose: bool) -> float:
    """Alpha of the joint protocols: the best on validation."""
    scorer = Scorer(config, corpus["val"], runtime, verbose=verbose)
    candidates = scorer.predict(model, candidates=config.TEST.CANDIDATES).candidates
    assert isinstance(candidates, CandidateMoments)
    return choose_alpha(scorer.truth, candidates)[0]


def provenance(corpus: Any, config: Any) -> list[str]:
    """What a reader of the numbers must know about how they came about."""
    order = "in the order of their times" if corpus.order == "time" else "in file order"
    supervision = {
        "weak": "training saw no timestamps",
        "full": "training saw the timestamps (full supervision)",
    }[config.TRAIN.SUPERVISION]
    chosen = f"checkpoint chosen on validation by {config.TRAIN.SELECT_BY}"
    if not config.TRAIN.SELECT_BY.startswith("vr"):
        chosen += " (which reads validation timestamps)"
    return [f"sentences stand {order}", supervision, chosen]


def compare_with_training(summary: dict[str, Any], state: dict[str, Any]) -> None:
    """Say whether the number that training printed came out again."""
    name = state["select_by"]
    there, here = metric(state["validation"], name), metric(summary, name)
    verdict = "the same" if there == here else "DIFFERENT (another device or library version?)"
    print(f"{name} on val: {there!r} in training, {here!r} here: {verdict}")


if __name__ == "__main__":
    run_script(main)
