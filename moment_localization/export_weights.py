#!/usr/bin/env python
"""Write the weights of a checkpoint as a safetensors file, for programs that do not know this one.

python export_weights.py ../save/dense_activitynet/acnet/best.pt acnet.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.base.errors import InputError
from lib.training import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="FILE", help="must not exist")
    args = parser.parse_args()
    state = checkpoint.load(args.checkpoint)
    if args.out.exists():
        raise InputError(f"{args.out} exists already; expected a new file")
    checkpoint.export_safetensors(args.out, state)
    count = sum(value.numel() for value in state["model"].values())
    print(f"written: {args.out} ({len(state['model'])} tensors, {count:,} numbers)")


if __name__ == "__main__":
    run_script(main)
