"""Turn a published checkpoint into the best.pt of an experiment, for best_test.py to score.

    python import_checkpoint.py --cfg ../experiments/dense_activitynet/tan2d.yaml \\
        --layout 2d-tan --from iter005845-0.5945-0.8744.pkl

Every weight must match a weight of the model. What the weights need of the model is checked and
reported: for example --set MODEL.PARAMS.mask_fused=false for the ChenJoya port of 2D-TAN. Words and
videos are read as whoever trained the weights read them, unless --set says otherwise. CNM, CPL and
PPS have a row for each word of their own vocabulary, which --words names:

    python import_checkpoint.py --cfg ../experiments/dense_charades/cpl.yaml \\
        --layout cpl --from model-best.pt --words glove.pkl
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.installed import typed
from ..base.runtime import Runtime
from ..base.terminal import count, print_wrapped, shown_path
from ..config.config import dump_config, load_config
from ..datasets.word_vectors import ranked_words
from ..tools.checkpoint_import import (
    LAYOUTS,
    Layout,
    check_experiment,
    convert,
    read_foreign,
    vocabulary_rows,
)
from ..training import checkpoint
from ..training.build import (
    add_common_flags,
    open_corpus,
    open_model,
    run_folder,
)
from ..training.run import Run


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_flags(parser)
    parser.add_argument("--from", dest="file", required=True, metavar="FILE", help="the checkpoint")
    sources = "; ".join(f"{name}: {layout.source}" for name, layout in LAYOUTS.items())
    parser.add_argument(
        "--layout", required=True, choices=sorted(LAYOUTS), help=f"whose it is ({sources})"
    )
    parser.add_argument(
        "--words",
        metavar="PICKLE",
        help="glove.pkl that numbers the words whose rows the checkpoint has (cnm, cpl, pps)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    config = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    layout = LAYOUTS[args.layout]
    as_trained = differing_options(layout, config)
    stated = {option.partition("=")[0] for option in args.set}
    taken = [f"{key}={value}" for key, value in as_trained.items() if key not in stated]
    config = load_config(args.cfg, [*args.set, *taken], vars(args), decode=args.decode)
    check_experiment(layout, config.MODEL.NAME, config.MODEL.PARAMS)
    weights = read_foreign(args.file)
    corpus = open_corpus(config, ("test",))
    model = open_model(config, corpus, Runtime.start("cpu"))
    rows = None
    if args.words:
        size = len(weights.get(f"{layout.vocabulary}bias", ())) - 1
        if size < 1:
            raise InputError(f"{args.file} has no layer of words for --words to number")
        theirs = ranked_words(Path(args.words), size)
        rows = vocabulary_rows(corpus.vocabulary.words, theirs)
    model.load_state_dict(convert(layout, weights, model, rows=rows))
    run = Run.create(run_folder(args.cfg, config), dump_config(config), overwrite=args.overwrite)
    checkpoint.save(
        run.own("best.pt"),
        {
            "model": model.state_dict(),
            "experiment": checkpoint.identity(config, corpus.dims),
            "epoch": -1,  # trained elsewhere
            "empty_moments": corpus.empty_moments,
            "imported": {"file": Path(args.file).name, "layout": args.layout},
        },
    )
    held = count(len(weights), "weight")
    print_wrapped(f"{args.file}: {held} of {layout.source} in {shown_path(run.path('best.pt'))}")
    for key, value in as_trained.items():
        did = "does not" if key in stated else "is set so"
        print_wrapped(
            f"note: {layout.source} read {config.DATASET.NAME} with {key}={value}; this run {did}"
        )
    if rows is not None:
        known = sum(row is not None for row in rows) - 1
        print_wrapped(
            f"note: {known:,} of its {size:,} words have an id here; the others are never predicted"
        )
    print("score it:", typed("best_test", shown_path(run.folder)))


def differing_options(layout: Layout, config: Any) -> dict[str, str]:
    """Options, as on a command line, by which the weights' own loader read the corpus otherwise
    than the experiment does."""
    return {
        f"DATASET.{key}": str(value).lower()
        for key, value in layout.dataset_options(config.DATASET.NAME).items()
        if config.DATASET[key] != value
    }
