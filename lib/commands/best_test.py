"""Score the best checkpoint of an experiment and write its tables.

    python best_test.py --verbose --cfg ../experiments/dense_activitynet/acnet.yaml
    python best_test.py --cfg … --decode ../experiments/bench/decoding/in_order.yaml

The checkpoint is best.pt in the run's folder, or the one given. Results go to results.json and
results.md there, every score beside its floor: results_val.* for --split val, and another name for
weights that are decoded otherwise than they were trained with, or videos that TEST.CORRUPTION has
changed, so that nothing is overwritten.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from ..base import distributed
from ..base.errors import InputError
from ..config.config import load_config
from ..datasets.fingerprint import difference, fingerprint, require_recipe
from ..datasets.standardization import Standardization
from ..decoding import Decoding
from ..decoding.calibration import measures_split
from ..evaluation import choose_alpha, console_table, fixed_list, markdown_table
from ..evaluation.files.run import save_run_predictions
from ..evaluation.records import CandidateMoments
from ..training import checkpoint
from ..training.build import (
    add_common_flags,
    corruption_of,
    open_corpus,
    open_decoding,
    open_model,
    open_runtime,
    open_scorer,
    provenance_of,
    run_folder,
)
from ..training.provenance import lines as provenance_lines
from ..training.run import Run, strict_json
from ..training.scorer import calibration_lines, metric


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
    began = time.monotonic()
    config = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    run = Run.open(run_folder(args.cfg, config), exclusive=False)
    path = Path(args.checkpoint) if args.checkpoint else run.path("best.pt")
    state = checkpoint.load(path, needs=("model", "experiment", "epoch"))
    decoding = open_decoding(config)
    trained = trained_decoding(state, decoding)

    standardization = Standardization.of_checkpoint(state, wanted=config.DATASET.STANDARDIZE)
    corruption = corruption_of(config)

    runtime = open_runtime(config)
    calibration = state.get("calibration")
    if decoding.calibration == "none" and decoding.method == "separation":
        calibration = {}
    elif decoding != trained:
        calibration = None
    joint = config.TEST.CANDIDATES > 0
    # The weight of the video in a joint score and what is calibrated are chosen on validation,
    # never where they are reported.
    needs_val = joint or calibration is None
    splits = dict.fromkeys((args.split, "val") if needs_val else (args.split,))
    with distributed.main_first():
        corpus = open_corpus(
            config,
            list(splits),
            show_moments=True,
            standardization=standardization,
            trained=state,
            scored=args.split,
        )
    for line in corpus.lines() if args.verbose else [str(corpus.rows)]:
        if distributed.is_main():
            print(line)
    features = fingerprint(corpus.features)
    require_recipe(state.get("features", {}), features, str(corpus.features))
    checkpoint.check_matches(state, config, corpus.dims)
    model = open_model(config, corpus, runtime, trained)
    checkpoint.load_into(model, state)

    alpha = 0.0
    if needs_val:
        validation = open_scorer(config, corpus["val"], runtime, verbose=args.verbose)
        answers = validation.predict(
            model, calibration=calibration, candidates=config.TEST.CANDIDATES
        )
        calibration = validation.calibration
        if isinstance(answers.candidates, CandidateMoments) and validation.truth.timed:
            alpha = choose_alpha(validation.truth, answers.candidates)[0]
    scorer = open_scorer(config, corpus[args.split], runtime, verbose=args.verbose)
    if joint and scorer.truth.timed and not validation.truth.timed:
        raise InputError(
            "TEST.CANDIDATES: what a video counts beside a moment is chosen on validation, which "
            "has no timestamps; expected 0"
        )
    predictions = scorer.predict(model, calibration=calibration, candidates=config.TEST.CANDIDATES)
    if not distributed.is_main():
        return
    summary = scorer.summarise(
        predictions,
        resamples=config.TEST.RESAMPLES,
        fixed_spans=fixed_list(corpus.training_fractions)
        if len(corpus.training_fractions)
        else None,
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
    summary["decoding"] = dataclasses.asdict(decoding)
    summary["calibration"] = scorer.calibration
    hours = round((time.monotonic() - began) / 3600, 4)
    summary["provenance"] = {
        "test": {**provenance_of(config, corpus, runtime, features), "hours": hours},
        "training": state.get("provenance"),
    }
    summary["notes"] = [
        *corpus.notes,
        *how_it_came_about(corpus, config),
        *([] if scorer.truth.timed else ["no timestamps to score against: retrieval alone is"]),
        *decoding_notes(decoding, trained, scorer.calibration),
    ]
    if "features" in state:
        differing = difference(state["features"], features)
        if differing:
            summary["notes"].append(f"the features are not those of training: {differing}")

    stem = "results" if args.split == "test" else f"results_{args.split}"
    if corruption:
        stem += f"_{corruption.name}"
    if decoding != trained:
        stem += f"-{decoding_name(args.decode, decoding)}"
    title = f"# {config.MODEL.NAME} on {config.DATASET.NAME}, {args.split} split\n\n"
    notes = [*summary["notes"], *provenance_notes(summary["provenance"])]
    listed = "\n".join(f"- {note}" for note in notes)
    tables = {f"{stem}.md": f"{title}{markdown_table(summary)}\n{listed}\n"}

    def results(digests: dict[str, str]) -> dict[str, str]:
        about = {"files": digests} if digests else {}
        return {**tables, f"{stem}.json": strict_json(summary | about)}

    if stem == "results":
        save_run_predictions(
            run.folder,
            scorer.truth,
            predictions,
            results=results,
            maps=scorer.score_maps(model, predictions),
            alpha=alpha,
        )
    else:
        run.write_texts(results({}))

    print(console_table(summary))
    for note in summary["notes"]:
        print(f"note: {note}")
    epoch = state["epoch"] + 1
    print(f"epoch {epoch} of {path}; tables in {run.path(stem + '.json')} and {stem}.md")
    if stem == "results_val" and "validation" in state:
        compare_with_training(summary, state)


def trained_decoding(state: dict[str, Any], default: Decoding) -> Decoding:
    """How the run decoded while it trained; checkpoints of earlier releases do not say."""
    return Decoding(**state["decoding"]) if "decoding" in state else default


def decoding_name(file: str | None, decoding: Decoding) -> str:
    """What keeps the results of another decoding apart: the name of its file, or a digest."""
    if file:
        return Path(file).stem
    text = json.dumps(dataclasses.asdict(decoding), sort_keys=True)
    return "decoded-" + hashlib.sha256(text.encode()).hexdigest()[:8]


def decoding_notes(decoding: Decoding, trained: Decoding, calibration: dict[str, Any]) -> list[str]:
    """How evidence became moments, as far as it is not the default."""
    plain = Decoding()
    chosen = {
        field.name: getattr(decoding, field.name)
        for field in dataclasses.fields(decoding)
        if getattr(decoding, field.name) != getattr(plain, field.name)
    }
    said = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "the defaults"
    notes = [f"decoded with {said}"]
    if decoding != trained:
        notes.append("this is not how the run was decoded in training")
    where = "here" if measures_split(decoding) else "on validation"
    notes += [f"{line}, chosen {where}" for line in calibration_lines(calibration)]
    return notes


def provenance_notes(about: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {line}" for what, one in about.items() if one for line in provenance_lines(one)
    ]


def how_it_came_about(corpus: Any, config: Any) -> list[str]:
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
