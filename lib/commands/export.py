"""Write a trained run as safetensors and JSON: to keep it, to pass it on, or for other programs.

    python export.py ../save/dense_activitynet/acnet_linear --out acnet_linear

weights.safetensors holds the weights under the names of the state dict. With the other files the
folder answers like the run it came from: index.py, search.py and lib.inference.load take it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..inference.export import write_export
from ..inference.loaded import words_beside
from ..inference.trained import checkpoint_of
from ..training import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    args = parser.parse_args()
    file = checkpoint_of(args.run)
    state = checkpoint.load(file, needs=("model",))
    write_export(state, words_beside(file), args.out)
    count = sum(value.numel() for value in state["model"].values())
    print(f"written: {args.out} ({len(state['model'])} tensors, {count:,} numbers)")
