"""Write a corpus to try the code on, without real features.

    python make_synthetic.py world --out ../data/my_world
    python make_synthetic.py features --corpus activitynet --annotations DIR --out ../data/simulated

``world`` invents everything. ``features`` takes real annotations, keeps a sample of each split, and
simulates features in which every sentence's moment shows its words.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ..base.command import COUNT, POSITIVE
from ..datasets import catalog
from ..datasets.annotations import Paragraph, read_paragraphs
from ..datasets.synthetic import (
    FeatureOptions,
    WorldOptions,
    simulate_features,
    whole_folder,
    write_annotations,
    write_manifest,
    write_word_vectors,
    write_world,
)
from ..datasets.vocabulary import read_word_vectors


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; None = that of this process."""
    args = parse(arguments)
    if args.command == "world":
        write_world(args.out, _options(WorldOptions, args))
    else:
        write_simulated(args, _options(FeatureOptions, args))
    print(f"written: {args.out}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    world = commands.add_parser(
        "world", help="invent a corpus", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    simulated = commands.add_parser(
        "features",
        help="simulate features for real annotations",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for command in (world, simulated):
        command.add_argument(
            "--out", type=Path, required=True, help="folder to write; must be empty or new"
        )
    names = [name for name in catalog.CORPORA if name != "synthetic"]
    simulated.add_argument("--corpus", choices=names, required=True, help="whose annotations")
    simulated.add_argument("--annotations", type=Path, required=True, help="folder they are in")
    for split in catalog.SPLITS:
        simulated.add_argument(
            f"--{split}", type=COUNT, default=0, help=f"{split} paragraphs to sample; 0 = all"
        )
    simulated.add_argument(
        "--vectors", type=Path, help="glove.pkl or GloVe text file to copy the words' vectors from"
    )
    simulated.add_argument("--word-dim", type=POSITIVE, default=300, help="width without --vectors")
    _add_knobs(world, WorldOptions)
    _add_knobs(simulated, FeatureOptions)
    return parser.parse_args(arguments)


def write_simulated(args: argparse.Namespace, options: FeatureOptions) -> None:
    """A folder with a sample of real annotations and everything else that a corpus needs."""
    corpus = catalog.facts(args.corpus)
    everything: dict[str, list[Paragraph]] = {}
    for split in catalog.SPLITS:
        path = catalog.find_annotations(corpus, args.annotations, split)
        if path is None and split == "train":
            catalog.require_annotations(corpus, args.annotations, split)
        if path is not None:
            everything[split], report = read_paragraphs(
                path,
                split=split,
                cut_descriptions=corpus.cut_descriptions,
                min_sentences=corpus.min_sentences.get(split, 1),
            )
            print("\n".join(report.lines()))
    sampled = {
        split: sample(group, getattr(args, split), options.seed)
        for split, group in everything.items()
    }
    vectors = read_word_vectors(args.vectors) if args.vectors else None
    sentences = [s for group in sampled.values() for p in group for s in p.sentences]
    with whole_folder(args.out) as part:
        for split, group in sampled.items():
            write_annotations(part / f"{split}_data.json", group)
        write_word_vectors(
            part / "glove.pkl", sentences, dim=args.word_dim, seed=options.seed, vectors=vectors
        )
        simulate_features(
            [paragraph for group in everything.values() for paragraph in group],
            part / str(corpus.features),  # one file, of a corpus that ships
            options,
            only=[paragraph.video_id for group in sampled.values() for paragraph in group],
            vectors=vectors,
        )
        counts = {split: len(group) for split, group in sampled.items()}
        write_manifest(part, "features", options, corpus=args.corpus, paragraphs=counts)


def sample(group: list[Paragraph], count: int, seed: int) -> list[Paragraph]:
    """Some paragraphs, in their old order; a larger sample holds the smaller one."""
    if not count:
        return group
    chosen = np.random.default_rng(seed).permutation(len(group))[:count]
    return [group[i] for i in sorted(chosen)]


def _add_knobs(parser: argparse.ArgumentParser, kind: type) -> None:
    for knob in dataclasses.fields(kind):
        flag = f"--{knob.name.replace('_', '-')}"
        parser.add_argument(
            flag, type=type(knob.default), default=knob.default, help=knob.metadata["help"]
        )


def _options(kind: Any, args: argparse.Namespace) -> Any:
    return kind(**{knob.name: getattr(args, knob.name) for knob in dataclasses.fields(kind)})
