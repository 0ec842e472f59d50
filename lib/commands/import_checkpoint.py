"""Turn a published checkpoint into the best.pt of an experiment, for best_test.py to score.

    python import_checkpoint.py --cfg ../experiments/dense_activitynet/tan2d.yaml \\
        --layout 2d-tan --from iter005845-0.5945-0.8744.pkl

Every weight must match a weight of the model. What the weights need of the model is checked and
reported: for example --set MODEL.PARAMS.mask_fused=false for the ChenJoya port of 2D-TAN. CNM, CPL
and PPS have a
row for each word of their own vocabulary, which --words names:

    python import_checkpoint.py --cfg ../experiments/dense_charades/cpl.yaml \\
        --layout cpl --from model-best.pt --words glove.pkl
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..base.errors import InputError
from ..base.runtime import Runtime
from ..config.config import dump_config, load_config
from ..datasets.word_vectors import ranked_words
from ..tools.checkpoint_import import (
    LAYOUTS,
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
    print(f"{args.file}: {len(weights)} weights of {layout.source} in {run.path('best.pt')}")
    if layout.tokens != config.DATASET.TOKENS:
        print(f"note: {layout.source} read words as --set DATASET.TOKENS={layout.tokens} does")
    for key, value in layout.data.items():
        if config.DATASET[key] != value:
            wanted = str(value).lower()
            print(f"note: {layout.source} read videos as --set DATASET.{key}={wanted} does")
    if rows is not None:
        known = sum(row is not None for row in rows) - 1
        print(
            f"note: {known:,} of its {size:,} words have an id here; the others are never predicted"
        )
    command = ["python", "best_test.py", "--cfg", args.cfg]
    command += ["--tag", config.TAG] if config.TAG else []
    print("score it:", shlex.join([*command, *(f"--set={option}" for option in args.set)]))
