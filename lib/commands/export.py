"""Write a trained run as safetensors and JSON: to keep it, to pass it on, or for other programs.

    python export.py ../save/dense_activitynet/acnet_linear --out acnet_linear
    python export.py ../save/dense_activitynet/acnet_linear --out acnet_linear.zip

weights.safetensors holds the weights under the names of the state dict. With the other files the
folder answers like the run it came from: index.py, search.py and lib.inference.load take it. A name
that ends in .zip makes one file of them, whose digest is printed: with it behind the URL,
https://host/acnet_linear.zip#sha256=…, they take it from anywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.files import digest_of
from ..inference.export import write_export
from ..inference.loaded import words_beside
from ..inference.packed import SUFFIX
from ..inference.trained import checkpoint_of
from ..training import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="OUT", help="a new folder, or FILE.zip"
    )
    args = parser.parse_args()
    file = checkpoint_of(args.run)
    state = checkpoint.load(file, needs=("model",))
    write_export(state, words_beside(file), args.out)
    count = sum(value.numel() for value in state["model"].values())
    print(f"written: {args.out} ({len(state['model'])} tensors, {count:,} numbers)")
    if args.out.suffix == SUFFIX:
        print(f"SHA256: {digest_of(args.out)}\nBYTES: {args.out.stat().st_size}")
