"""Train and test an experiment several times: seeds, and rows of changed options.

    python sweep.py --cfg ../experiments/dense_activitynet/acnet.yaml \\
        --rows ../experiments/ablations.yaml
    python sweep.py --cfg ../experiments/bench/aligned.yaml --rows ../experiments/ablations.yaml \\
        --only no_words,no_grrm --seeds 3 --jobs 2 --set DATASET.DIR=bench_middle

A file of rows has under ROWS a name for each, and the options that it changes. Every run lies in
its own folder, MODEL_DIR/<experiment>-[TAG-]<row>-<seed>; what is finished is not done again. Ends
with a table, the mean and standard deviation over seeds, and with status 1 if a run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml
from easydict import EasyDict
from tqdm import tqdm

from ..base.command import POSITIVE
from ..base.errors import InputError
from ..base.files import open_input
from ..base.installed import called
from ..base.terminal import duration, shown_path
from ..config.config import load_config
from ..evaluation.comparison import BOOKKEEPING
from ..training.build import run_folder
from ..training.progress import Pace
from ..training.reporting import describe_change
from ..training.run import CONFIG
from . import command_line

METRICS = (
    *(("vr", "R@1"), ("vr", "R@10")),
    *(("svmr_2dtan", f"R@1,IoU={iou}") for iou in (0.3, 0.5, 0.7)),
    ("svmr_2dtan", "mIoU"),
)


@dataclass(frozen=True)
class Job:
    """One run: an experiment with some options changed.

    Attributes:
        name: of its row in a table.
        cfg: the experiment.
        seed: of the training.
        options: what ``--set`` changes, by dotted name.
        tag: ends the run folder's name.
        test_options: what ``--set`` changes in the test alone, for weights that are there.
        suffix: of the names of the files with the results of such a test.
        protocols: that the results should have, if the model retrieves and grounds; a run that was
            tested without them is tested again.
    """

    name: str
    cfg: Path
    seed: int
    options: Mapping[str, Any]
    tag: str
    test_options: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    protocols: tuple[str, ...] = ()

    def tested_with(self, options: Mapping[str, Any], suffix: str) -> Job:
        """The same run, tested otherwise."""
        return replace(self, test_options=options, suffix=suffix)

    @property
    def arguments(self) -> list[str]:
        """Of both commands."""
        options = {**self.options, "TRAIN.SEED": self.seed}
        return ["--cfg", str(self.cfg), "--tag", self.tag, *_changed(options)]

    def config(self) -> EasyDict:
        """Of its test."""
        options = {**self.options, **self.test_options, "TRAIN.SEED": self.seed}
        return load_config(self.cfg, _assignments(options), {"tag": self.tag})

    @property
    def folder(self) -> Path:
        return run_folder(str(self.cfg), self.config())

    def results(self, suffix: str | None = None) -> dict[str, Any] | None:
        """What the test wrote, or the test whose files end in ``suffix``; None before.

        Raises:
            InputError: what is there is cut or foreign.
        """
        path = self.folder / f"results{self.suffix if suffix is None else suffix}.json"
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as fault:
            raise InputError(f"{path} cannot be read ({str(fault)[:80]})") from None
        if not isinstance(found, dict):
            raise InputError(f"{path} holds no results of {called('best_test')}")
        return found

    def is_done(self) -> bool:
        """Whether the results are there that are wanted."""
        found = self.results()
        if found is None:
            return False
        counted = found.get("protocols", {})
        whole = "vr" in counted and "svmr" in counted
        return not whole or all(name in counted for name in self.protocols)

    def require_same_options(self) -> None:
        """Whether a run that is there was trained with this job's options, so that its results are
        not taken for those of others.

        Raises:
            InputError: it was not.
        """
        path = self.folder / CONFIG
        if not path.is_file():
            return
        there, here = load_config(path), replace(self, test_options={}).config()
        changes = [
            text
            for text in describe_change(there, here, ignore=BOOKKEEPING)
            if not text.startswith(("TEST.", "DECODE."))
        ]
        if changes:
            raise InputError(
                f"{shown_path(self.folder)} was trained with other options: {'; '.join(changes)}; "
                "move that folder away, and it is trained anew"
            )


def _changed(options: Mapping[str, Any]) -> list[str]:
    return [f"--set={assignment}" for assignment in _assignments(options)]


def _assignments(options: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in options.items()]


def run(job: Job, *, threads: int = 1, gpus: str | None = None) -> str:
    """Train and test in processes of their own; "" or what went wrong.

    Args:
        gpus: the GPU, in the place of the experiment's.
    """
    try:
        return _run(job, threads, [] if gpus is None else ["--gpus", gpus])
    except InputError as fault:  # the other runs go on
        return str(fault)


def _run(job: Job, threads: int, flags: Sequence[str]) -> str:
    if job.is_done():
        return ""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    steps = [("dense_train", ["--resume"]), ("best_test", _changed(job.test_options))]
    for command, more in steps[1:] if job.results("") is not None else steps:
        ended = subprocess.run(
            [*command_line(command), *job.arguments, *more, *flags],
            capture_output=True,
            text=True,
            env=environment,
        )
        if ended.returncode:
            said = ended.stderr[-2000:].strip()
            return f"{called(command)} ended with status {ended.returncode}\n{said}"
    lacks = f"{called('best_test')} wrote no results into {job.folder}"
    return lacks if job.results() is None else ""


def run_all(jobs: Sequence[Job], *, at_once: int, gpus: Sequence[str] = ()) -> int:
    """Run what is missing; how many failed. Each failure is printed when it happens."""
    return len(failures(jobs, at_once=at_once, gpus=gpus))


def failures(
    jobs: Sequence[Job], *, at_once: int, gpus: Sequence[str] = ()
) -> list[tuple[Job, str]]:
    """Run what is missing; what failed, and why. Each failure is printed when it happens.

    Args:
        at_once: how many runs at a time; on each GPU, where there are some.
        gpus: GPUs to share the runs; none: the experiments' own.
    """
    if at_once < 1:
        raise InputError(f"--jobs {at_once}: expected at least 1")
    found = []
    places: SimpleQueue[str | None] = SimpleQueue()
    for _ in range(at_once):
        for place in gpus or (None,):
            places.put(place)

    def run_somewhere(job: Job) -> str:
        place = places.get()
        try:
            return run(job, gpus=place)
        finally:
            places.put(place)

    with ThreadPoolExecutor(places.qsize()) as pool:
        ended = zip(jobs, pool.map(run_somewhere, jobs), strict=True)
        bar = tqdm(ended, total=len(jobs), desc="runs", dynamic_ncols=True, disable=None)
        pace = Pace(len(jobs))
        for done, (job, fault) in enumerate(bar, start=1):
            if fault:
                found.append((job, fault))
                tqdm.write(f"{job.name}, seed {job.seed}: {fault}", file=sys.stderr)
            if bar.disable:  # nobody watches
                left = duration(pace.left(done))
                line = f"{done}/{len(jobs)} runs: {job.name}, seed {job.seed}; about {left} left"
                print(line, file=sys.stderr, flush=True)
    return found


def require_jobs(jobs: Sequence[Job]) -> None:
    """Raises InputError where there is nothing to run: success would look like runs that are
    there."""
    if not jobs:
        raise InputError("there is nothing to run; expected --seeds of at least 1, and experiments")


def gathered(jobs: Iterable[Job], suffix: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The results that are there, by the jobs' names."""
    found: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        if (results := job.results(suffix)) is not None:
            found.setdefault(job.name, []).append(results)
    return found


def table(jobs: Iterable[Job], suffix: str | None = None) -> list[str]:
    """Markdown: mean ± standard deviation over seeds, a line a row, and the best floors."""
    groups = gathered(jobs, suffix)
    if not groups:
        return []
    head = ["", "seeds", *(f"{protocol} {name}" for protocol, name in METRICS)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, group in groups.items():
        cells = [
            mean_and_spread([r["protocols"][p][m] for r in group if m in r["protocols"].get(p, {})])
            for p, m in METRICS
        ]
        lines.append(f"| `{name}` | {len(group)} | " + " | ".join(cells) + " |")
    everything = [group[0]["floors"] for group in groups.values()]
    best = [
        max((row.get(m, 0.0) for f in everything for row in f.get(p, {}).values()), default=0.0)
        for p, m in METRICS
    ]
    return [*lines, "| best floor | | " + " | ".join(f"{value:.2f}" for value in best) + " |"]


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Over seeds, the spread being the standard deviation; "" of none."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def read_rows(path: Path, only: str = "") -> dict[str, dict[str, Any]]:
    """The rows of a file, or those of them named in ``only`` with commas between.

    Raises:
        InputError: it is no file of rows, or lacks one that is named.
    """
    try:
        with open_input(path, encoding="utf-8") as file:
            content = yaml.safe_load(file.read())
    except (OSError, ValueError, yaml.YAMLError) as fault:
        raise InputError(f"{path} cannot be read ({str(fault).splitlines()[0]})") from None
    rows = content.get("ROWS") if isinstance(content, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise InputError(f"{path} holds no rows; expected ROWS, and under it NAME: {{OPTION: …}}")
    missing = [name for name in only.split(",") if only and name not in rows]
    if missing:
        raise InputError(f"{path} has no row {', '.join(missing)}; it has {', '.join(rows)}")
    return {name: row for name, row in rows.items() if not only or name in only.split(",")}


def add_gpus_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpus", default="", metavar="N,N", help="GPUs to share the runs, each with --jobs at once"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, type=Path, metavar="YAML", help="the experiment")
    parser.add_argument("--rows", type=Path, metavar="YAML", help="rows of changed options")
    parser.add_argument("--only", default="", metavar="ROW,ROW", help="of the rows, these alone")
    parser.add_argument(
        "--seeds", type=POSITIVE, default=1, metavar="N", help="of each (default: 1)"
    )
    parser.add_argument(
        "--jobs", type=POSITIVE, default=1, metavar="N", help="runs at once, one thread"
    )
    add_gpus_flag(parser)
    parser.add_argument("--tag", default="", metavar="TEXT", help="in the run folders' names")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="in all runs"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows: dict[str, dict[str, Any]] = {args.cfg.stem: {}}
    if args.rows:
        rows |= read_rows(args.rows, args.only)
    load_config(args.cfg, args.set)  # refuses before anything is run
    shared = {key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in args.set)}
    tag = f"{args.tag}-" if args.tag else ""
    jobs = [
        Job(name, args.cfg, seed, {**shared, **row}, f"{tag}{name}-{seed}")
        for seed in range(args.seeds)
        for name, row in rows.items()
    ]
    require_jobs(jobs)
    for job in jobs:
        job.require_same_options()
    failed = run_all(jobs, at_once=args.jobs, gpus=args.gpus.split(",") if args.gpus else ())
    print("\n".join(table(jobs)))
    if failed:
        sys.exit(1)
