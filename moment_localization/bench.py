#!/usr/bin/env python
"""The bench: train and test many runs on simulated features, and write docs/results.md.

    python bench.py data --annotations DIR --vectors FILE   make the simulated corpora
    python bench.py run --jobs 2                            train and test what is missing
    python bench.py decode                                  decode the same weights otherwise
    python bench.py table > ../docs/results.md              tables of what is there

Simulated features on real ActivityNet annotations at several signal levels; each run is an
experiment of experiments/bench trained with a seed on a level, in save/bench/….
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.base.command import POSITIVE, run_script
from lib.base.errors import InputError
from lib.commands.sweep import Job, read_rows, require_jobs, run_all, table

HERE = Path(__file__).resolve().parent
EXPERIMENTS = ROOT / "experiments" / "bench"
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
    "topic": {"signal": 0.0, "topic": 1.0},  # what a video is about, and nothing that says when
}
MAIN = ("linear_align", "aligned", "alignment_only", "clip_align", "clip_align_order")
SYSTEMS = (
    *("tan2d", "tan2d_order", "mmn", "cdn", "mcn", "cal", "xml", "reloclnet"),
    *("scn", "scn_words", "dciml", "dciml_tied", "jsg", "jsg_separation", "ms_sl", "base"),
)
# Title of a table -> its experiments: a folder below experiments/bench, or rows around `aligned`.
TABLES = {
    "fixed": "The paper's reading, fixed step by step",
    "ablations": "`aligned` trained otherwise",
}
# MAIN's runs at these levels are tested on videos whose blocks stand in random order, too.
SHUFFLED_LEVELS = ("middle", "high")
SHUFFLED = "_time_shuffled_8"
DECODED = ("aligned", "alignment_only", "fixed/3_masked", "fixed/4_self_trained")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="make the simulated corpora in data/bench_LEVEL")
    data.add_argument("--annotations", required=True, help="folder of ActivityNet's annotations")
    data.add_argument("--vectors", required=True, help="word vectors to take the words' from")
    run = commands.add_parser("run", help="train and test what is missing")
    run.add_argument("--jobs", type=POSITIVE, default=1, help="runs at a time, one thread each")
    run.add_argument("--seeds", type=POSITIVE, default=3, help="seeds of each run")
    run.add_argument("--levels", default="middle,high,noise,low", help="signal levels, by comma")
    run.add_argument(
        "--experiments",
        default=",".join(MAIN),
        help="names below experiments/bench, by comma; a folder there stands for all in it, "
        "systems for the models beside the method, ablations for its rows",
    )
    decode = commands.add_parser(
        "decode", help="decode trained weights by experiments/bench/decoding"
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
        ended = subprocess.run([sys.executable, HERE / "make_synthetic.py", *command])
        if ended.returncode:
            raise InputError(f"{out} was not made: status {ended.returncode} of make_synthetic.py")


def jobs(names: str, level: str, seed: int) -> Iterator[Job]:
    """The runs that the names stand for."""
    for name in names.split(","):
        if name == "ablations":
            for row, options in read_rows(ROOT / "experiments" / f"{name}.yaml").items():
                yield _job(f"{name}/{row}", "aligned", level, seed, options, f"{row}-")
        elif (EXPERIMENTS / name).is_dir():
            for path in sorted((EXPERIMENTS / name).glob("*.yaml")):
                yield _job(f"{name}/{path.stem}", f"{name}/{path.stem}", level, seed)
        elif name == "systems":
            yield from (_job(each, each, level, seed) for each in SYSTEMS)
        else:
            yield _job(name, name, level, seed)


def _job(
    name: str,
    experiment: str,
    level: str,
    seed: int,
    options: dict[str, Any] | None = None,
    tag: str = "",
) -> Job:
    shared = {"DATASET.DIR": f"bench_{level}", "GPUS": "cpu", **(options or {})}
    return Job(name, EXPERIMENTS / f"{experiment}.yaml", seed, shared, f"{tag}{level}-{seed}")


def run(args: argparse.Namespace) -> None:
    for level in args.levels.split(","):
        if level not in LEVELS:
            raise InputError(f"--levels: {level!r} is none, expected some of {', '.join(LEVELS)}")
    wanted = [
        job
        for seed in range(args.seeds)
        for level in args.levels.split(",")
        for job in jobs(args.experiments, level, seed)
    ]
    require_jobs(wanted)
    failed = run_all(wanted, at_once=args.jobs)
    shuffled = [
        job.tested_with({"TEST.CORRUPTION": "time_shuffled"}, SHUFFLED)
        for seed in range(args.seeds)
        for level in args.levels.split(",")
        if level in SHUFFLED_LEVELS
        for job in jobs(args.experiments, level, seed)
        if job.name in MAIN
    ]
    failed += run_all(shuffled, at_once=args.jobs)
    if failed:
        sys.exit(1)


def decode(levels: Sequence[str]) -> None:
    """Test trained weights once for each file of experiments/bench/decoding."""
    failed = 0
    for level in levels:
        for seed in range(10):
            for job in (job for name in DECODED for job in jobs(name, level, seed)):
                if job.results() is None:
                    continue
                for rule in sorted((EXPERIMENTS / "decoding").glob("*.yaml")):
                    if not (job.folder / f"results-{rule.stem}.json").exists():
                        test = [sys.executable, "-W", "ignore", HERE / "best_test.py"]
                        command = [*test, *job.arguments, "--decode", rule]
                        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
                        failed += status != 0
                        ended = f"status {status}" if status else "done"
                        print(f"{job.name} {level}-{seed}, {rule.stem}: {ended}", flush=True)
    if failed:
        sys.exit(1)


def print_tables() -> None:
    knobs = ", ".join(f"{name} {value}" for name, value in {**SIZES, **SIMULATOR}.items())
    print("# Results on the bench\n\nWritten by `python moment_localization/bench.py table`.\n")
    print(f"Simulated features on ActivityNet's annotations ({knobs}); test split, per cent,")
    print("mean ± standard deviation over training seeds; what each row is, its YAML says.")

    def rows(names: str, level: str, suffix: str | None = None) -> list[str]:
        return table((job for seed in range(10) for job in jobs(names, level, seed)), suffix)

    for level, own in LEVELS.items():
        if lines := rows(",".join((*MAIN, *SYSTEMS)), level):
            trained = "" if own.get("train", 1) else ", all training paragraphs"
            print(f"\n## Signal: {level} ({own['signal']:g}{trained})\n")
            print("\n".join(lines))
    for level in SHUFFLED_LEVELS:
        if lines := rows(",".join(MAIN), level, SHUFFLED):
            print(f"\n## Blocks of test videos in random order, signal {level}\n")
            print("\n".join(lines))
    for names, title in TABLES.items():
        for level in LEVELS:
            if len(lines := rows(names, level)) > 3:
                print(f"\n## {title}, signal {level}\n")
                print("\n".join(lines))
    for rule in sorted((EXPERIMENTS / "decoding").glob("*.yaml")):
        for level in LEVELS:
            if lines := rows(",".join(DECODED), level, f"-{rule.stem}"):
                what = rule.read_text("utf-8").split("\n")[0].lstrip("# ")
                print(f"\n## Decoded by `decoding/{rule.stem}`, signal {level}: {what}\n")
                print("\n".join(lines))


def main() -> None:
    args = parse_arguments()
    if args.command == "data":
        make_data(args.annotations, args.vectors)
    elif args.command == "run":
        run(args)
    elif args.command == "decode":
        decode(args.levels.split(","))
    else:
        print_tables()


if __name__ == "__main__":
    run_script(main)
