"""Check a data folder against an experiment, before days are spent on it.

    python doctor.py --cfg ../experiments/dense_activitynet/acnet.yaml
    python doctor.py --cfg ../experiments/dense_activitynet/acnet.yaml --annotations-only

A line for everything that is wrong, odd or worth knowing, with its remedy. Exit status: 0 if there
is nothing but notes, 1 if there is a warning or a problem, 2 if the experiment cannot be read.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..base.command import COUNT
from ..base.errors import InputError
from ..base.files import write_text
from ..base.terminal import count, print_wrapped, shown_path
from ..config.config import load_config
from ..datasets import corpus_folder, find_vectors
from ..datasets.catalog import facts
from ..datasets.features import Features
from ..datasets.fingerprint import difference, fingerprint
from ..datasets.videos import corpus_features
from ..tools.doctor import Finding, examine_annotations, examine_word_vectors, table, worst
from ..tools.feature_checks import examine_features, missing_of
from ..training import checkpoint
from ..training.build import add_common_flags, corpus_options, resolve

# A fork starts at once; macOS's own libraries do not survive one, and Windows has none.
_START = "fork" if sys.platform == "linux" else "spawn"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser)
    parser.add_argument(
        "--annotations-only", action="store_true", help="leave features and word vectors out"
    )
    parser.add_argument(
        "--videos",
        type=COUNT,
        default=0,
        metavar="N",
        help="read a sample of N videos (0: all)",
    )
    parser.add_argument(
        "--fingerprint",
        nargs="?",
        const="",
        metavar="CHECKPOINT",
        help="print the feature file's statistics, and compare them with a checkpoint's",
    )
    parser.add_argument(
        "--missing",
        metavar="FILE",
        help="write a line, split and id, for every video without features (--verbose prints them)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    data = config.DATASET
    options, data_dir = corpus_options(config), resolve(config.DATA_DIR)
    corpus = facts(data.NAME, options)
    folder = corpus_folder(corpus, data_dir, data.get("SYNTHETIC"))
    print_wrapped(f"{corpus.title} in {shown_path(folder)}")
    findings, records = examine_annotations(
        corpus,
        folder,
        bad_moments=data.BAD_MOMENTS,
        empty_sentences=data.EMPTY_SENTENCES,
        paragraphs=data.PARAGRAPHS,
    )
    if not args.annotations_only:
        features = corpus_features(corpus, folder, options)
        findings += in_a_process(
            features,
            records,
            videos=args.videos,
            missing_videos=data.MISSING_VIDEOS,
            seconds_per_row=data.SECONDS_PER_ROW,
        )
        if not data.WORD_FEATURES:
            try:
                vectors = find_vectors(data.WORD_VECTORS, folder, data_dir)
            except InputError as fault:
                findings.append(Finding("problem", data.WORD_VECTORS, str(fault), "get the file"))
            else:
                findings += examine_word_vectors(
                    vectors, records, tokens=data.TOKENS, width=data.WORD_DIM
                )
        if args.missing or args.verbose:
            list_missing(features, records, args.missing, shown=args.verbose)
        if args.fingerprint is not None:
            findings += take_fingerprint(features, args.fingerprint)
    print(table(findings, width=shutil.get_terminal_size((140, 24)).columns))
    levels = [finding.level for finding in findings]
    print(", ".join(count(levels.count(level), level) for level in ("problem", "warning", "note")))
    sys.exit(0 if worst(findings) == "note" else 1)


def list_missing(features: Features, records: Any, path: str | None, *, shown: bool) -> None:
    """Write all videos without features into a file, and print them."""
    try:
        lines = missing_of(features, records)
    except InputError:  # of which there is a line already
        return
    for line in lines if shown else ():
        print(f"no features: {line}")
    if path:
        write_text(Path(path), "".join(f"{line}\n" for line in lines))
        print(f"written: {path} ({len(lines):,} videos without features)")


def in_a_process(features: Features, records: Any, **options: Any) -> list[Finding]:
    """``examine_features`` where a crash is a finding: HDF5 does not survive every damage."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context(_START)) as pool:
            return pool.submit(examine_features, features, records, **options).result()
    except BrokenProcessPool:
        description = "reading it ends the process: the HDF5 library crashes, or memory runs out"
        return [Finding("problem", features.path.name, description, "get the file again")]


def take_fingerprint(features: Features, against: str) -> list[Finding]:
    """The numbers that training keeps in its checkpoints, and those of a checkpoint beside them."""
    name = features.path.name
    try:
        current = fingerprint(features)
    except InputError as fault:
        return [Finding("problem", name, str(fault), "see the lines about this file")]
    description = (
        f"{count(current['entries'], 'entry', 'entries')} (keys {current['keys'][:12]}), "
        f"{current['dtype']}, width {current['width']}; in {count(current['rows'], 'row')} of "
        f"{count(len(current['sample']), 'video')} "
        f"the mean is {float(current['mean'].mean()):.4g} "
        f"and the spread {float(current['std'].mean()):.4g}"
    )
    findings = [Finding("note", name, description)]
    if against:
        saved = checkpoint.load(against).get("features")
        if not isinstance(saved, dict):
            remedy = "train with this release"
            return [*findings, Finding("warning", name, f"{against} has no fingerprint", remedy)]
        if differing := difference(saved, current):
            description = f"not the file that {against} was trained on: {differing}"
            findings.append(Finding("problem", name, description, "use the file of training"))
        else:
            findings.append(Finding("note", name, f"the file that {against} was trained on"))
    return findings
