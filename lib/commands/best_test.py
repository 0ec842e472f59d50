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
from ..base.runtime import Runtime
from ..base.terminal import print_wrapped, shown_path
from ..datasets import LoadedCorpus
from ..datasets.catalog import facts
from ..datasets.corruption import Corruption
from ..datasets.dense import DenseParagraphs
from ..datasets.fingerprint import difference, differences, fingerprint, require_recipe
from ..datasets.standardization import Standardization
from ..decoding import Decoding
from ..evaluation import choose_alpha, fixed_list, headline_lines, markdown_table
from ..evaluation.examples import paragraphs_named
from ..evaluation.files.run import save_run_predictions
from ..evaluation.records import CandidateMoments
from ..models.interface import Model
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
from ..training.notes import (
    compare_with_training,
    counted_as_misses,
    decoding_notes,
    how_it_came_about,
    provenance_notes,
    querybank_notes,
    timestamp_notes,
)
from ..training.run import Run, strict_json
from ..training.run_options import other_data, tested_run
from ..training.scorer import Querybank, Scorer


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
    began = time.monotonic()
    test = open_test(parse_arguments())
    runtime = open_runtime(test.config)
    data = open_data(test, runtime)
    checkpoint.check_matches(test.state, test.config, data.corpus.dims)
    model = open_model(test.config, data.corpus, runtime, test.trained)
    checkpoint.load_into(model, test.state)

    chosen = choose_on_validation(test, data.corpus, model, runtime)
    split, verbose = test.args.split, test.args.verbose
    scorer = open_scorer(test.config, data.corpus[split], runtime, verbose=verbose)
    named = paragraphs_named(scorer.truth, test.args.maps or ())
    if test.joint and scorer.truth.timed and not chosen.timed:
        raise InputError(
            "TEST.CANDIDATES: what a video counts beside a moment is chosen on validation, which "
            "has no timestamps; expected 0"
        )
    predictions = scorer.predict(
        model,
        calibration=chosen.calibration,
        candidates=test.config.TEST.CANDIDATES,
        querybank=chosen.querybank,
    )
    if not distributed.is_main():
        return
    maps = scorer.score_maps(model, predictions, named) if test.keeps_predictions else None
    if test.args.maps and maps is None:
        raise InputError(
            f"--maps: {test.config.MODEL.NAME} scores no list of spans that all sentences share, "
            "so that it has no score maps"
        )
    left_out, fractions = data.corpus.left_out[split], data.corpus.training_fractions
    summary = scorer.summarise(
        predictions,
        resamples=test.config.TEST.RESAMPLES,
        fixed_spans=fixed_list(fractions) if len(fractions) else None,
        alpha=chosen.alpha,
        left_out=left_out.misses,
    )
    summary |= about_the_test(test, data, scorer, chosen)
    summary["provenance"]["test"]["hours"] = round((time.monotonic() - began) / 3600, 4)
    summary["notes"] = notes_of(test, data, scorer, chosen, summary)
    if test.keeps_predictions:
        save_run_predictions(
            test.run.folder,
            scorer.truth,
            predictions,
            results=lambda digests: files_of(test, summary, digests),
            maps=maps,
            alpha=chosen.alpha,
            stem=test.stem.replace("results", "predictions"),
        )
    else:
        test.run.write_texts(files_of(test, summary, {}))
    print_answer(test, summary)


@dataclasses.dataclass(frozen=True)
class Test:
    """What is tested, and how."""

    args: argparse.Namespace
    config: Any
    run: Run
    path: Path  # of the checkpoint
    state: dict[str, Any]  # in it
    decoding: Decoding
    trained: Decoding  # how the run decoded while it trained
    corruption: Corruption | None
    notes: list[str]

    @property
    def keeps_predictions(self) -> bool:
        plain = not self.corruption and self.decoding == self.trained
        return plain and self.args.split not in ("train", "val")

    @property
    def joint(self) -> bool:
        """Whether sentences are grounded in retrieved videos too."""
        return self.config.TEST.CANDIDATES > 0

    @property
    def normalises(self) -> bool:
        """Whether retrieval is normalised too, where the model retrieves; against the training
        split's own paragraphs it would say nothing."""
        return self.config.TEST.QUERYBANK > 0 and self.args.split != "train"

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What the run chose on validation; None where it is to be chosen for this decoding."""
        if self.decoding.calibration == "none" and self.decoding.method == "separation":
            return {}
        return self.state.get("calibration") if self.decoding == self.trained else None

    @property
    def splits(self) -> list[str]:
        """Those that are read, each once. The weight of the video in a joint score and what is
        calibrated are chosen on validation, never where they are reported."""
        chooses = self.joint or self.normalises or self.calibration is None
        wanted = [self.args.split, *["val"] * chooses, *["train"] * self.normalises]
        return list(dict.fromkeys(wanted))

    @property
    def stem(self) -> str:
        """The name of the results, without its ending."""
        split = self.args.split
        stem = "results" if split == "test" else f"results_{split}"
        if self.args.other_data:
            stem += f"_on_{self.args.other_data}"
        if self.corruption:
            stem += f"_{self.corruption.name}"
        if self.decoding != self.trained:
            stem += f"-{decoding_name(self.args.decode, self.decoding)}"
        return stem


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run is tested on, and how that compares with what it was trained on."""

    corpus: LoadedCorpus
    provenance: dict[str, Any]
    others: list[str]  # what is not the run's own, a clause each
    fewer: str  # how features of the same kind differ


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is chosen on validation."""

    calibration: dict[str, Any] | None
    alpha: float = 0.0  # the weight of the video in a joint score
    querybank: Querybank | None = None
    timed: bool = False  # whether validation has timestamps


def open_test(args: argparse.Namespace) -> Test:
    """The run with its checkpoint.

    Raises:
        InputError: they are not there, or what is asked for is not possible.
    """
    folder, config, notes = tested_run(args)
    require_split(config, args.split)
    run = Run.open(folder, exclusive=False)
    path = Path(args.checkpoint) if args.checkpoint else run.path("best.pt")
    state = checkpoint.load(path, needs=("model", "experiment", "epoch"))
    decoding = open_decoding(config)
    trained = trained_decoding(state, decoding)
    test = Test(args, config, run, path, state, decoding, trained, corruption_of(config), notes)
    if args.maps and not test.keeps_predictions:
        raise InputError(
            "--maps: this test keeps no score maps; it must be of a test split, of whole videos, "
            "and decoded as in training"
        )
    return test


def open_data(test: Test, runtime: Runtime) -> Data:
    """The splits that are read.

    Raises:
        InputError: features of another recipe than the run's, or data that are not the run's where
            nobody said so.
    """
    state, wanted = test.state, test.config.DATASET.STANDARDIZE
    with distributed.main_first():
        corpus = open_corpus(
            test.config,
            test.splits,
            show_moments=True,
            standardization=Standardization.of_checkpoint(state, wanted=wanted),
            trained=state,
            scored=test.args.split,
        )
    for line in corpus.lines() if test.args.verbose else [str(corpus.rows)]:
        if distributed.is_main():
            print_wrapped(line)
    features = fingerprint(corpus.features)
    require_recipe(state.get("features", {}), features, str(corpus.features))
    here = provenance_of(test.config, corpus, runtime, features)
    trained_on = state.get("features")
    differing = differences(trained_on, features, of_kind=True) if trained_on else []
    others = other_data(state, here["annotations"], "; ".join(differing))
    if others and not test.args.other_data:
        raise InputError(
            f"{shown_path(test.run.folder)}: {'; '.join(others)}; --other-data NAME scores these, "
            "into results_on_NAME.json and .md"
        )
    fewer = difference(trained_on, features) if trained_on and not differing else ""
    return Data(corpus, here, others, fewer)


def choose_on_validation(
    test: Test, corpus: LoadedCorpus, model: Model, runtime: Runtime
) -> Chosen:
    """What the test takes from validation, as far as the run has not chosen it."""
    chosen = Chosen(test.calibration)
    normalises = test.normalises and model.retrieves()
    predicts = test.joint or chosen.calibration is None
    if not (normalises or predicts):
        return chosen
    validation = open_scorer(test.config, corpus["val"], runtime, verbose=test.args.verbose)
    chosen = dataclasses.replace(chosen, timed=validation.truth.timed)
    if normalises:
        bank = draw_paragraphs(corpus["train"], test.config.TEST.QUERYBANK)
        querybank = Querybank(bank, validation.querybank_scale(model, bank))
        chosen = dataclasses.replace(chosen, querybank=querybank)
    if predicts:
        answers = validation.predict(
            model, calibration=chosen.calibration, candidates=test.config.TEST.CANDIDATES
        )
        chosen = dataclasses.replace(chosen, calibration=validation.calibration)
        if isinstance(answers.candidates, CandidateMoments) and chosen.timed:
            alpha = choose_alpha(validation.truth, answers.candidates)[0]
            chosen = dataclasses.replace(chosen, alpha=alpha)
    return chosen


def about_the_test(test: Test, data: Data, scorer: Scorer, chosen: Chosen) -> dict[str, Any]:
    """What ``results.json`` says beside the numbers."""
    state, bank = test.state, chosen.querybank
    about: dict[str, Any] = {
        "left_out": dataclasses.asdict(data.corpus.left_out[test.args.split]),
        "checkpoint": {
            "file": str(test.path),
            "epoch": state["epoch"],
            "selected_by": state.get("select_by"),
            "selected_on": "validation" if "select_by" in state else None,
        },
        "split": test.args.split,
        "corruption": test.corruption and str(test.corruption),
        "decoding": dataclasses.asdict(test.decoding),
        "calibration": scorer.calibration,
        "provenance": {"test": dict(data.provenance), "training": state.get("provenance")},
    }
    if bank is not None:
        about["querybank"] = {"paragraphs": len(bank.paragraphs), "scale": bank.scale}
    return about


def notes_of(
    test: Test, data: Data, scorer: Scorer, chosen: Chosen, summary: dict[str, Any]
) -> list[str]:
    """What a reader of the numbers must know, a sentence each."""
    split, corpus = test.args.split, data.corpus
    notes = [
        *corpus.notes,
        *how_it_came_about(corpus, test.config),
        *corpus.left_out[split].lines(split),
        *counted_as_misses(summary),
        *timestamp_notes(split, scorer.truth.timed, corpus),
        *decoding_notes(test.decoding, test.trained, scorer.calibration),
        *querybank_notes(chosen.querybank),
        *test.notes,
        *data.others,
    ]
    if data.fewer:
        notes.append(f"the features are not those of training: {data.fewer}")
    return notes


def files_of(test: Test, summary: dict[str, Any], digests: dict[str, str]) -> dict[str, str]:
    """The results as texts by name.

    Args:
        digests: of the files of predictions beside them; empty where none are kept.
    """
    config = test.config
    title = f"# {config.MODEL.NAME} on {config.DATASET.NAME}, {test.args.split} split\n\n"
    about = [*summary["notes"], *provenance_notes(summary["provenance"])]
    listed = "\n".join(f"- {line}" for line in about)
    files = {"files": digests} if digests else {}
    return {
        f"{test.stem}.md": f"{title}{markdown_table(summary)}\n{listed}\n",
        f"{test.stem}.json": strict_json(summary | files),
    }


def print_answer(test: Test, summary: dict[str, Any]) -> None:
    """Warnings and notes, where everything lies, and five numbers."""
    state, run = test.state, test.run
    for warning in summary["warnings"]:
        print_wrapped(f"warning: {warning}")
    for note in summary["notes"]:
        print_wrapped(f"note: {note}")
    if test.stem == "results_val" and "validation" in state:
        print_wrapped(compare_with_training(summary, state))
    weights = f"epoch {state['epoch'] + 1}" if state["epoch"] >= 0 else "weights trained elsewhere"
    tables = f"all protocols: {shown_path(run.path(test.stem))}.md"
    print_wrapped(f"{weights} of {shown_path(test.path)}; {tables}\n")
    title = f"{name_of(run.folder)}, {test.args.split} split"
    print("\n".join(headline_lines(summary, title)))


def draw_paragraphs(split: DenseParagraphs, most: int) -> Subset[Sample]:
    """Paragraphs of a split without their videos: all, or ``most`` of them, the same each time."""
    drawn = np.random.default_rng(0).permutation(len(split))[:most]
    return Subset(split.texts, sorted(drawn.tolist()))


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


def trained_decoding(state: dict[str, Any], default: Decoding) -> Decoding:
    """How the run decoded while it trained; checkpoints of earlier releases do not say."""
    return Decoding(**state["decoding"]) if "decoding" in state else default


def decoding_name(file: str | None, decoding: Decoding) -> str:
    """What keeps the results of another decoding apart: the name of its file, or a digest."""
    if file:
        return Path(file).stem
    text = json.dumps(dataclasses.asdict(decoding), sort_keys=True)
    return "decoded-" + hashlib.sha256(text.encode()).hexdigest()[:8]
