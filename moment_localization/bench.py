#!/usr/bin/env python
"""The bench: train and score many runs, and write docs/results.md from their folders.

    python bench.py data --annotations DIR --vectors FILE   make the simulated corpora
    python bench.py run --jobs 2                            train and score what is missing
    python bench.py decode                                  weights that are there, grounded anew
    python bench.py table > ../docs/results.md              tables of what is there

Simulated features on real ActivityNet annotations at several signal levels; each run is an
experiment of experiments/bench trained with a seed on a level, in save/bench/….
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.core import checkpoint
from lib.core.assembly import Scorer, open_corpus, open_model, run_script
from lib.core.config import load_config
from lib.core.errors import InputError
from lib.core.runtime import Runtime
from lib.datasets.standardization import Standardization

HERE = Path(__file__).resolve().parent
# Nothing was tuned on the settings below.
SIMULATOR = {"seed": 29, "correlation": 0.6, "distractors": 1.5, "rows-per-second": 1.5}
SIZES = {"train": 1200, "val": 300, "test": 400}
# signal: length of a moment's, where one row's noise has 1; train: paragraphs, 0 = all 10,009.
LEVELS: dict[str, dict[str, float]] = {
    "noise": {"signal": 0.0},
    "low": {"signal": 0.45},
    "middle": {"signal": 0.75},
    "high": {"signal": 5.0},
    "large": {"signal": 0.75, "train": 0},  # middle's, with its validation and test videos
    # Where assumptions break; chosen by hand, tuned on nothing.
    "hard": {
        **{"signal": 1.5, "topic": 0.5, "echoes": 1.0, "visible": 0.6, "gain": 0.3},
        "sparsity": 0.8,
    },
    "topic": {"signal": 0.0, "topic": 1.0},  # what a video is about, and nothing that tells when
}
MAIN = ("plus", "clip_align", "clip_align_balance", "clip_align_order")
SYSTEMS = (
    *("tan2d", "tan2d_order", "mmn", "cdn"),
    *("scn", "scn_words", "dciml", "dciml_vectors", "jsg", "jsg_separation", "table4/full"),
)
# Folder of experiments -> title of its table, and the row that stands above it.
FOLDERS = {
    "mended": ("The paper's reading, mended step by step", "table4/full"),
    "told": ("`mended/3_hidden` grounded otherwise, with the same weights", "mended/3_hidden"),
    "taught": ("`mended/4_taught` grounded otherwise, with the same weights", "mended/4_taught"),
    "decoding": ("`plus` grounded otherwise, with the same weights", "plus"),
    "ablations": ("`plus` trained otherwise", "plus"),
    "table4": ("Table IV, in the paper's reading", "plus"),
    "variations": ("Variations of Q, w, λ, Δ and β1, around `plus`", "plus"),
}
# Their experiments are not trained: they ground with the weights of the row above.
DECODED = ("decoding", "told", "taught")
METRICS = (
    ("vr", "R@1"),
    ("vr", "R@10"),
    ("svmr_2dtan", "R@1,IoU=0.3"),
    ("svmr_2dtan", "R@1,IoU=0.5"),
    ("svmr_2dtan", "R@1,IoU=0.7"),
    ("svmr_2dtan", "mIoU"),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="make the simulated corpora in data/bench_LEVEL")
    data.add_argument("--annotations", required=True, help="folder of ActivityNet's annotations")
    data.add_argument("--vectors", required=True, help="word vectors to take the words' from")
    run = commands.add_parser("run", help="train and score what is missing")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    run.add_argument("--seeds", type=int, default=3, help="seeds of each run")
    run.add_argument("--levels", default="middle,high,noise,low", help="signal levels, by comma")
    run.add_argument(
        "--experiments",
        default=",".join(MAIN),
        help="names below experiments/bench, by comma; a folder there stands for all in it, "
        "systems for the models beside the method",
    )
    decode = commands.add_parser(
        "decode", help="score weights that are there by the rules of decoding, told, taught"
    )
    decode.add_argument("--levels", default="middle,high", help="signal levels, by comma")
    commands.add_parser("table", help="print Markdown tables of the runs that are there")
    return parser.parse_args()


def make_data(annotations: str, vectors: str) -> None:
    for level, knobs in LEVELS.items():
        out = ROOT / "data" / f"bench_{level}"
        if out.exists():
            print(f"{out}: there already")
            continue
        settings = {**SIMULATOR, **SIZES, **knobs}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        command = ["features", "--corpus", "activitynet", "--out", str(out), *flags]
        command += ["--annotations", annotations, "--vectors", vectors]
        subprocess.run([sys.executable, HERE / "make_synthetic.py", *command], check=True)


def experiments(names: str) -> Iterator[str]:
    for name in names.split(","):
        folder = ROOT / "experiments" / "bench" / name
        if folder.is_dir():
            yield from (f"{name}/{path.stem}" for path in sorted(folder.glob("*.yaml")))
        elif name == "systems":
            yield from SYSTEMS
        else:
            yield name


def train_and_score(experiment: str, level: str, seed: int) -> str:
    """One run, in processes of its own. What is finished is not done again."""
    tag = f"{level}-{seed}"
    folder = ROOT / "save" / "bench" / f"{experiment}-{tag}"
    if (folder / "results.json").exists():
        return f"{experiment} {tag}: there already"
    shared = ["--cfg", str(ROOT / "experiments" / "bench" / f"{experiment}.yaml"), "--tag", tag]
    shared += ["--gpus", "cpu", "--set", f"DATASET.DIR=bench_{level}"]
    shared += ["--set", f"TRAIN.SEED={seed}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for script, more in (("dense_train.py", ["--overwrite"]), ("best_test.py", [])):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", HERE / script, *shared, *more],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            return f"{experiment} {tag}: {script} failed\n{done.stderr[-2000:]}"
    return f"{experiment} {tag}: done"


def run_all(args: argparse.Namespace) -> None:
    for level in args.levels.split(","):
        if level not in LEVELS:
            raise InputError(f"--levels: {level!r} is none, expected some of {', '.join(LEVELS)}")
    wanted = [
        (experiment, level, seed)
        for seed in range(args.seeds)
        for level in args.levels.split(",")
        for experiment in experiments(args.experiments)
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        for line in pool.map(lambda run: train_and_score(*run), wanted):
            print(line, flush=True)


def decode(rules: str, weights: str, levels: Sequence[str]) -> None:
    """Score the weights of an experiment with keywords that only its grounding reads.

    Training reads some of them too, for candidates and labels; what is left equal here is all that
    was learnt.

    Args:
        rules: folder of the experiments with these keywords.
        weights: the experiment.
    """
    saved, runtime = ROOT / "save" / "bench", Runtime.start("cpu", log=lambda line: None)
    for folder in sorted(saved.glob(f"{weights}-*")):
        _, level, seed = folder.name.rsplit("-", 2)
        if level not in levels or not (folder / "results.json").exists():
            continue
        state = checkpoint.load(folder / "best.pt")
        corpus = scorer = None
        for name in experiments(rules):
            out = saved / f"{name}-{level}-{seed}"
            if (out / "results.json").exists():
                continue
            config = load_config(
                ROOT / "experiments" / "bench" / f"{name}.yaml", [f"DATASET.DIR=bench_{level}"]
            )
            kept = Standardization.of_checkpoint(state, wanted=config.DATASET.STANDARDIZE)
            corpus = corpus or open_corpus(config, ("test",), standardization=kept)
            scorer = scorer or Scorer(config, corpus["test"], runtime)
            model = open_model(config, corpus, runtime)
            checkpoint.load_into(model, state)
            summary = scorer.summarise(scorer.predict(model), resamples=0)
            summary["checkpoint"] = {"file": str(folder / "best.pt"), "epoch": state["epoch"]}
            out.mkdir(parents=True, exist_ok=True)
            (out / "results.json").write_text(json.dumps(summary))
            print(f"{name} {level}-{seed}: done", flush=True)


def table(level: str, names: Sequence[str]) -> list[str]:
    """Mean and standard deviation over seeds, one row per experiment, and the floors."""
    head = ["", "seeds", *(f"{protocol} {name}" for protocol, name in METRICS)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    floors = []
    for name in names:
        results = sorted((ROOT / "save" / "bench").glob(f"{name}-{level}-*/results.json"))
        if not results:
            continue
        found = [json.loads(path.read_text()) for path in results]
        floors.append(found[0]["floors"])
        cells = [f"`{name}`", str(len(found))]
        for protocol, metric in METRICS:
            values = [r["protocols"].get(protocol, {}).get(metric) for r in found]
            known = [value for value in values if value is not None]
            cells.append(_mean(known))
        lines.append("| " + " | ".join(cells) + " |")
    if not floors:
        return []
    best = [
        max(row.get(metric, 0.0) for floor in floors for row in floor.get(protocol, {}).values())
        for protocol, metric in METRICS
    ]
    lines.append("| best floor | | " + " | ".join(f"{value:.2f}" for value in best) + " |")
    return lines


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def print_tables() -> None:
    knobs = ", ".join(f"{name} {value}" for name, value in {**SIZES, **SIMULATOR}.items())
    print("# Results on the bench\n\nWritten by `python moment_localization/bench.py table`.\n")
    print(f"Simulated features on ActivityNet's annotations ({knobs}); test split, per cent,")
    print("mean ± standard deviation over training seeds; what each row is, its YAML says.")
    for level, own in LEVELS.items():
        rows = table(level, (*MAIN, *SYSTEMS))
        if rows:
            trained = "" if own.get("train", 1) else ", all training paragraphs"
            print(f"\n## Signal: {level} ({own['signal']:g}{trained})\n")
            print("\n".join(rows))
    for folder, (title, above) in FOLDERS.items():
        for level in LEVELS:
            rows = table(level, [above, *experiments(folder)])
            if len(rows) > 4:
                print(f"\n## {title}, signal {level}\n")
                print("\n".join(rows))


def main() -> None:
    args = parse_arguments()
    if args.command == "data":
        make_data(args.annotations, args.vectors)
    elif args.command == "run":
        run_all(args)
    elif args.command == "decode":
        for rules in DECODED:
            decode(rules, FOLDERS[rules][1], args.levels.split(","))
    else:
        print_tables()


if __name__ == "__main__":
    run_script(main)
