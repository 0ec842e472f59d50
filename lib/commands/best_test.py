"""Score the best checkpoint of a run and write its tables.

    python best_test.py ../save/dense_activitynet/acnet
    python best_test.py --cfg ../experiments/dense_activitynet/acnet.yaml
    python best_test.py RUN --decode ../experiments/bench/decoding/in_order.yaml

Every option is the one that the run was trained with (config.yaml in its folder); --set and
--decode change those of TEST and DECODE. The checkpoint is best.pt there, or the one given. The
last lines are five numbers, each beside its floor; every score goes to results.json and results.md
there, and predictions beside them. Results of another split (--split val, or a test_ood that
DATASET.ANNOTATIONS names) go to results_SPLIT.*, and weights that are decoded otherwise than they
were trained with, videos that TEST.CORRUPTION has changed, and data of another corpus
(--other-data) have names of their own too, so that nothing is overwritten.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from ..base import distributed
from ..base.batch import Sample
from ..base.errors import InputError
from ..base.terminal import print_wrapped, shown_path
from ..datasets import LoadedCorpus
from ..datasets.catalog import facts
from ..datasets.dense import DenseParagraphs
from ..datasets.fingerprint import difference, differences, fingerprint, require_recipe
from ..datasets.standardization import Standardization
from ..decoding import Decoding
from ..decoding.calibration import measures_split
from ..evaluation import choose_alpha, fixed_list, headline_lines, markdown_table
from ..evaluation.examples import paragraphs_named
from ..evaluation.files.run import save_run_predictions
from ..evaluation.records import CandidateMoments
from ..training import checkpoint
from ..training.build import (
    add_common_flags,
    corpus_options,
    corruption_of,
    open_corpus,
    open_decoding,
    open_model,
    open_runtime,
    open_scorer,
    provenance_of,
)
from ..training.provenance import lines as provenance_lines
from ..training.run import Run, strict_json
from ..training.run_options import other_data, tested_run
from ..training.scorer import Querybank, calibration_lines, metric
from ..training.selection import finer_metric


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser, of_run=True)
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="score this one (default: best.pt of the run)"
    )
    parser.add_argument(
        "--split", default="test", metavar="NAME", help="a split of the corpus (default: test)"
    )
    parser.add_argument(
        "--other-data",
        type=label,
        metavar="NAME",
        help="score data that are not those of the run (--dataDir, --set DATASET.DIR=…); the "
        "results are results_on_NAME.*",
    )
    parser.add_argument(
        "--maps",
        nargs="+",
        metavar="ID",
        help="paragraphs whose score maps are kept too, for report and figures",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    began = time.monotonic()
    folder, config, notes = tested_run(args)
    require_split(config, args.split)
    run = Run.open(folder, exclusive=False)
    path = Path(args.checkpoint) if args.checkpoint else run.path("best.pt")
    state = checkpoint.load(path, needs=("model", "experiment", "epoch"))
    decoding = open_decoding(config)
    trained = trained_decoding(state, decoding)
    corruption = corruption_of(config)
    plain = not corruption and decoding == trained
    keeps_predictions = plain and args.split not in ("train", "val")
    if args.maps and not keeps_predictions:
        raise InputError(
            "--maps: this test keeps no score maps; it must be of a test split, of whole videos, "
            "and decoded as in training"
        )

    standardization = Standardization.of_checkpoint(state, wanted=config.DATASET.STANDARDIZE)
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
    wanted = [args.split]
    banked = config.TEST.QUERYBANK > 0 and args.split != "train"
    if needs_val or banked:
        wanted.append("val")
    if banked:
        wanted.append("train")
    splits = dict.fromkeys(wanted)
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
            print_wrapped(line)
    features = fingerprint(corpus.features)
    require_recipe(state.get("features", {}), features, str(corpus.features))
    here = provenance_of(config, corpus, runtime, features)
    trained_on = state.get("features")
    differing = differences(trained_on, features, of_kind=True) if trained_on else []
    others = other_data(state, here["annotations"], "; ".join(differing))
    if others and not args.other_data:
        raise InputError(
            f"{shown_path(run.folder)}: {'; '.join(others)}; --other-data NAME scores these, into "
            "results_on_NAME.json and .md"
        )
    checkpoint.check_matches(state, config, corpus.dims)
    model = open_model(config, corpus, runtime, trained)
    checkpoint.load_into(model, state)

    alpha, querybank = 0.0, None
    normalises = banked and model.retrieves()
    if needs_val or normalises:
        validation = open_scorer(config, corpus["val"], runtime, verbose=args.verbose)
    if normalises:
        bank = draw_paragraphs(corpus["train"], config.TEST.QUERYBANK)
        querybank = Querybank(bank, validation.querybank_scale(model, bank))
    if needs_val:
        answers = validation.predict(
            model, calibration=calibration, candidates=config.TEST.CANDIDATES
        )
        calibration = validation.calibration
        if isinstance(answers.candidates, CandidateMoments) and validation.truth.timed:
            alpha = choose_alpha(validation.truth, answers.candidates)[0]
    scorer = open_scorer(config, corpus[args.split], runtime, verbose=args.verbose)
    named = paragraphs_named(scorer.truth, args.maps or ())
    if joint and scorer.truth.timed and not validation.truth.timed:
        raise InputError(
            "TEST.CANDIDATES: what a video counts beside a moment is chosen on validation, which "
            "has no timestamps; expected 0"
        )
    predictions = scorer.predict(
        model,
        calibration=calibration,
        candidates=config.TEST.CANDIDATES,
        querybank=querybank,
    )
    if not distributed.is_main():
        return
    maps = scorer.score_maps(model, predictions, named) if keeps_predictions else None
    if args.maps and maps is None:
        raise InputError(
            f"--maps: {config.MODEL.NAME} scores no list of spans that all sentences share, so "
            "that it has no score maps"
        )
    left_out = corpus.left_out[args.split]
    summary = scorer.summarise(
        predictions,
        resamples=config.TEST.RESAMPLES,
        fixed_spans=fixed_list(corpus.training_fractions)
        if len(corpus.training_fractions)
        else None,
        alpha=alpha,
        left_out=left_out.misses,
    )
    summary["left_out"] = dataclasses.asdict(left_out)
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
    if querybank is not None:
        summary["querybank"] = {
            "paragraphs": len(querybank.paragraphs),
            "scale": querybank.scale,
        }
    hours = round((time.monotonic() - began) / 3600, 4)
    summary["provenance"] = {
        "test": {**here, "hours": hours},
        "training": state.get("provenance"),
    }
    summary["notes"] = [
        *corpus.notes,
        *how_it_came_about(corpus, config),
        *left_out.lines(args.split),
        *counted_as_misses(summary),
        *timestamp_notes(args.split, scorer.truth.timed, corpus),
        *decoding_notes(decoding, trained, scorer.calibration),
        *querybank_notes(querybank),
        *notes,
        *others,
    ]
    if trained_on and not differing and (fewer := difference(trained_on, features)):
        summary["notes"].append(f"the features are not those of training: {fewer}")

    stem = "results" if args.split == "test" else f"results_{args.split}"
    if args.other_data:
        stem += f"_on_{args.other_data}"
    if corruption:
        stem += f"_{corruption.name}"
    if decoding != trained:
        stem += f"-{decoding_name(args.decode, decoding)}"
    title = f"# {config.MODEL.NAME} on {config.DATASET.NAME}, {args.split} split\n\n"
    about = [*summary["notes"], *provenance_notes(summary["provenance"])]
    listed = "\n".join(f"- {line}" for line in about)
    tables = {f"{stem}.md": f"{title}{markdown_table(summary)}\n{listed}\n"}

    def results(digests: dict[str, str]) -> dict[str, str]:
        about = {"files": digests} if digests else {}
        return {**tables, f"{stem}.json": strict_json(summary | about)}

    if keeps_predictions:
        save_run_predictions(
            run.folder,
            scorer.truth,
            predictions,
            results=results,
            maps=maps,
            alpha=alpha,
            stem=stem.replace("results", "predictions"),
        )
    else:
        run.write_texts(results({}))

    for warning in summary["warnings"]:
        print_wrapped(f"warning: {warning}")
    for note in summary["notes"]:
        print_wrapped(f"note: {note}")
    if stem == "results_val" and "validation" in state:
        print_wrapped(compare_with_training(summary, state))
    weights = f"epoch {state['epoch'] + 1}" if state["epoch"] >= 0 else "weights trained elsewhere"
    print_wrapped(
        f"{weights} of {shown_path(path)}; all protocols: {shown_path(run.path(stem))}.md\n"
    )
    print("\n".join(headline_lines(summary, f"{name_of(run.folder)}, {args.split} split")))


def draw_paragraphs(split: DenseParagraphs, most: int) -> Subset[Sample]:
    """Paragraphs of a split without their videos: all, or ``most`` of them, the same each time."""
    drawn = np.random.default_rng(0).permutation(len(split))[:most]
    return Subset(split.texts, sorted(drawn.tolist()))


def querybank_notes(querybank: Querybank | None) -> list[str]:
    if querybank is None:
        return []
    return [
        f"vr_querybank: normalised by {len(querybank.paragraphs):,} training paragraphs, scale "
        f"{querybank.scale:.2f} chosen on validation"
    ]


def label(text: str) -> str:
    """For ``type=``: what may be a part of a file's name."""
    if not re.fullmatch(r"[\w.+=,-]{1,100}", text):
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is none of the names that are possible: letters, digits and _ . + = , -"
        )
    return text


def name_of(folder: Path) -> str:
    """The last two folders of a run's path, by which people know it."""
    return "/".join(folder.resolve().parts[-2:])


def require_split(config: Any, split: str) -> None:
    """Raises InputError if the corpus has no such split."""
    corpus = facts(config.DATASET.NAME, corpus_options(config))
    known = corpus.splits
    if split in ("train", "val") or split in known:
        return
    if not corpus.inside or not re.fullmatch(r"[A-Za-z]\w{0,39}", split):
        raise InputError(
            f"--split {split[:40]!r}: {corpus.title} has {', '.join(known)}; expected one of them "
            "(DATASET.ANNOTATIONS names the files of more)"
        )


def timestamp_notes(split: str, timed: bool, corpus: LoadedCorpus) -> list[str]:
    """What is not scored for want of timestamps, those of the split or of training."""
    if not timed:
        return [f"{split} has no timestamps to score against: retrieval is scored, and no moment"]
    if len(corpus.training_fractions):
        return []
    return ["the floor of ten fixed spans is left out: no training sentence has a timestamp"]


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
    finer = finer_metric(config.TRAIN.SELECT_BY)
    chosen += f" (of epochs that tie, by {finer})" if finer else ""
    if not config.TRAIN.SELECT_BY.startswith("vr"):
        chosen += " (which reads validation timestamps)"
    about = [f"sentences stand {order}", supervision, chosen]
    if config.TEST.NMS_ROUNDED:
        about.append("suppressed in rounded seconds, as 2D-TAN's release does (TEST.NMS_ROUNDED)")
    return about


def counted_as_misses(summary: dict[str, Any]) -> list[str]:
    """What grounding would be if sentences that are left out were misses, as published protocols
    have it; empty where none is left out."""
    for name in ("svmr_any", "svmr", "svmr_2dtan"):
        as_misses = summary["queries"].get(name, {}).get("as_misses", {})
        recalls = [metric for metric in as_misses if metric.startswith("R@1,")]
        if recalls:
            listed = ", ".join(f"{metric} {as_misses[metric]:.2f}" for metric in recalls)
            return [f"{name} with them counted as misses: {listed} (all scores: the tables)"]
    return []


def compare_with_training(summary: dict[str, Any], state: dict[str, Any]) -> str:
    """Whether the number that training printed came out again, in a line."""
    name = state["select_by"]
    there, here = metric(state["validation"], name), metric(summary, name)
    if there == here:
        return f"{name} on val: {here:.2f}, in training and here: the same"
    return (
        f"{name} on val: {there!r} in training, {here!r} here: DIFFERENT (another device or "
        "library version?)"
    )
