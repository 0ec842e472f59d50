"""Compute once more the step at which a run stopped because it was not finite.

    python replay.py ../save/dense_activitynet/acnet/epoch3-step17.step

The file holds the weights, the batch and the options; no data is needed. Exit status: 3 when the
step is not finite here either, 0 when it is, 2 when the file cannot be used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ..base.errors import InputError
from ..config.config import load_config
from ..training import checkpoint, nonfinite
from ..training.build import model_of_file, open_decoding, open_optimization, open_runtime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the step that the run kept")
    parser.add_argument("--gpus", metavar="N", help="default: as the run had it; cpu for none")
    args = parser.parse_args()
    state = checkpoint.load(args.file, finite=False)  # that is why the step was kept
    batch = nonfinite.batch_of(state)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.yaml"
        path.write_text(state["config"], "utf-8")
        try:
            config = load_config(path, flags={"gpus": args.gpus})
        except InputError as fault:
            raise InputError(str(fault).replace(str(path), f"{args.file}, its config")) from None

    runtime = open_runtime(config)
    dims, decoding = nonfinite.dims_of(state), open_decoding(config)
    model = model_of_file(args.file, state, config, dims, decoding).to(runtime.device)
    optimization = open_optimization(config, model, 1)
    epoch, step = state["progress"]["epoch"], state["progress"]["step"]
    if state["stage"] >= len(optimization.steps):
        raise InputError(f"{args.file}: stage {state['stage']} is none of the model's")
    origin = nonfinite.locate(
        model,
        optimization,
        batch,
        seed=config.TRAIN.SEED,
        epoch=epoch,
        step=step,
        stage=state["stage"],
        runtime=runtime,
    )
    print(f"epoch {epoch + 1}, step {step + 1} on the videos {', '.join(batch.video_ids)}")
    if not origin:
        print(f"finite on {runtime.device}: another device or library version than the run's?")
        return
    print("\n".join(origin.lines()))
    sys.exit(nonfinite.EXIT_STATUS)
