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
from typing import Any

from ..base.command import COUNT
from ..base.errors import InputError
from ..config.config import load_config
from ..datasets import corpus_folder, find_vectors
from ..datasets.catalog import facts
from ..datasets.features import FeatureFile
from ..datasets.fingerprint import difference, fingerprint
from ..tools.doctor import Finding, examine_annotations, examine_word_vectors, table, worst
from ..tools.feature_checks import examine_features
from ..training import checkpoint
from ..training.build import corpus_options, resolve


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, metavar="YAML", help="the experiment")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change an option"
    )
    parser.add_argument("--dataDir", metavar="DIR", help="folder of the corpora (default: data)")
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
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.cfg, args.set, vars(args))
    data = config.DATASET
    corpus, data_dir = facts(data.NAME, corpus_options(config)), resolve(config.DATA_DIR)
    folder = corpus_folder(corpus, data_dir, data.get("SYNTHETIC"))
    print(f"{corpus.title} in {folder}")
    findings, records = examine_annotations(
        corpus,
        folder,
        bad_moments=data.BAD_MOMENTS,
        empty_sentences=data.EMPTY_SENTENCES,
        paragraphs=data.PARAGRAPHS,
    )
    if not args.annotations_only:
        features = FeatureFile(
            folder / corpus.features,
            expected_dim=data.FEATURE_DIM,
            linked=data.LINKED_FEATURES,
        )
        findings += in_a_process(features, records, videos=args.videos)
        try:
            vectors = find_vectors(data.WORD_VECTORS, folder, data_dir)
        except InputError as fault:
            findings.append(Finding("problem", data.WORD_VECTORS, str(fault), "get the file"))
        else:
            findings += examine_word_vectors(vectors, records, tokens=data.TOKENS)
        if args.fingerprint is not None:
            findings += take_fingerprint(features, args.fingerprint)
    print(table(findings, width=shutil.get_terminal_size((140, 24)).columns))
    counts = {
        f"{level}s": sum(finding.level == level for finding in findings)
        for level in ("problem", "warning", "note")
    }
    print(", ".join(f"{count} {level}" for level, count in counts.items()))
    sys.exit(0 if worst(findings) == "note" else 1)


def in_a_process(features: FeatureFile, records: Any, *, videos: int) -> list[Finding]:
    """``examine_features`` where a crash is a finding: HDF5 does not survive every damage."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            return pool.submit(examine_features, features, records, videos=videos).result()
    except BrokenProcessPool:
        description = "reading it ends the process: the HDF5 library crashes, or memory runs out"
        return [Finding("problem", features.path.name, description, "get the file again")]


def take_fingerprint(features: FeatureFile, against: str) -> list[Finding]:
    """The numbers that training keeps in its checkpoints, and those of a checkpoint beside them."""
    name = features.path.name
    try:
        current = fingerprint(features)
    except InputError as fault:
        return [Finding("problem", name, str(fault), "see the lines about this file")]
    description = (
        f"{current['entries']:,} entries (keys {current['keys'][:12]}), {current['dtype']}, "
        f"width {current['width']}; in {current['rows']:,} rows of {len(current['sample'])} videos "
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
