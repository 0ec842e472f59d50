"""Train and test all rows of a table, and write its page: published numbers, ours, and floors.

    python reproduce.py table2 --corpus activitynet --seeds 3 --plan
    python reproduce.py table2 --corpus activitynet --seeds 3 --gpus 0,1
    python reproduce.py table4 --corpus real_bench --seeds 3 --jobs 2 --out ../docs/table4_real.md

Tables are those of the paper (table2 to table6, figure7, figure8), systems (all that are here), and
a YAML file of your own; experiments/tables has them, and the corpora. A folder of experiments named
as the rows' EXPERIMENT is a corpus, too. What is finished is not done again, and what was stopped
goes on where it was. The page lies in save/tables unless --out says otherwise, and is written anew
from what is there; the command ends with status 1 if a row could not be trained or tested.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..base.command import POSITIVE
from ..base.errors import InputError
from ..base.files import write_text
from ..base.installed import called, home
from ..base.terminal import count, duration, print_wrapped, shown_path
from ..config.config import load_config
from ..config.external import find_model
from ..tools.reproduction import page
from ..tools.reproduction.chart import FORMATS, draw
from ..tools.reproduction.page import Trained
from ..tools.reproduction.tables import CorpusOfTable, Table, find_corpus, read_table
from ..training.build import open_corpus
from . import command_line
from .figures import pyplot
from .sweep import Job, add_gpus_flag, failures

METHOD = "dmr_jrg"  # what the tables call the paper's method


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", metavar="TABLE", help="its name, or a YAML file of your own")
    parser.add_argument("--corpus", metavar="NAME", help="or a folder (default: the table's own)")
    parser.add_argument("--seeds", type=POSITIVE, default=1, metavar="N", help="of each row")
    parser.add_argument("--only", default="", metavar="ROW,ROW", help="these rows alone")
    parser.add_argument(
        "--method",
        default=METHOD,
        metavar="NAME",
        help=f"the experiment that stands for {METHOD} in all rows, aligned for example",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="in all runs"
    )
    parser.add_argument(
        "--tag", default="", metavar="TEXT", help="in the run folders' names; needed with --set"
    )
    parser.add_argument("--jobs", type=POSITIVE, default=1, metavar="N", help="runs at once")
    add_gpus_flag(parser)
    parser.add_argument(
        "--plan", action="store_true", help="say what is missing and what it takes; train nothing"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="of the page")
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="FILE",
        help="draw the first protocol's metrics over the rows, as .pdf, .png or .svg",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    table = read_table(args.table)
    corpus = find_corpus(args.corpus or table.corpus)
    if args.only:
        table = table.only(args.only.split(","))
    if args.set and not args.tag:
        raise InputError("--set changes the runs; name them by --tag TEXT, so that they lie apart")
    plt = None if args.draw is None else drawing(args.draw)
    jobs, faults = jobs_of(table, corpus, args)
    if not jobs:
        raise InputError(
            f"{table.name} has no row that can be trained on {corpus.name}: "
            + "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        )
    for job in (job for each in jobs.values() for job in each):
        job.require_same_options()
    if args.plan:
        print_plan(jobs, faults, at_once=args.jobs * max(1, len(args.gpus.split(","))))
        return
    faults |= without_data({name: each[0] for name, each in jobs.items()})
    runs = [job for name, each in jobs.items() if name not in faults for job in each]
    if not runs:
        raise InputError(f"nothing can be trained: {next(iter(faults.values()))}")
    # Seed by seed, so that a table of fewer seeds is there early.
    runs.sort(key=lambda job: job.seed)
    failed = failures(runs, at_once=args.jobs, gpus=args.gpus.split(",") if args.gpus else ())
    for job, fault in failed:
        faults.setdefault(job.name, f"seed {job.seed}: {fault.splitlines()[-1]}")
    trained = {name: trained_of(jobs.get(name, []), faults.get(name, "")) for name in table.rows
               if not table.rows[name].absent}  # fmt: skip
    text = page(table, corpus, trained, command=command_of(args), seeds=args.seeds)
    out = args.out or home() / "save" / "tables" / f"{page_name(table, corpus, args)}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    if plt is not None:
        draw(plt, table, corpus, trained, args.draw)
    for name, fault in faults.items():
        print_wrapped(f"{name}: {fault}")
    print_wrapped(
        f"{shown_path(out)}: {table.title}, on {corpus.name}, {count(args.seeds, 'seed')}"
    )
    if faults:
        sys.exit(1)


def command_of(args: argparse.Namespace) -> str:
    """The line that writes the page, without what changes nothing in it."""
    words = [called("reproduce"), args.table]
    words += ["--corpus", args.corpus] if args.corpus else []
    words += ["--seeds", str(args.seeds)]
    words += ["--only", args.only] if args.only else []
    words += ["--method", args.method] if args.method != METHOD else []
    words += [word for setting in args.set for word in ("--set", setting)]
    words += ["--tag", args.tag] if args.tag else []
    return shlex.join(words)


def page_name(table: Table, corpus: CorpusOfTable, args: argparse.Namespace) -> str:
    parts = [table.name, corpus.name, args.method if args.method != METHOD else "", args.tag]
    return "-".join(part for part in parts if part)


def jobs_of(
    table: Table, corpus: CorpusOfTable, args: argparse.Namespace
) -> tuple[dict[str, list[Job]], dict[str, str]]:
    """The runs of each row, one a seed; and why rows have none, a sentence each."""
    shared = {key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in args.set)}
    jobs: dict[str, list[Job]] = {}
    faults: dict[str, str] = {}
    for name, row in table.rows.items():
        if row.absent:
            continue
        experiment = args.method if row.experiment == METHOD else row.experiment
        path = corpus.path(experiment)
        if not path.is_file():
            faults[name] = f"there is no experiment {shown_path(path)}"
            continue
        options = {**corpus.options, **row.options, **shared}
        # A row without options of its own is the experiment itself, whichever table it stands in.
        parts = [args.tag, name if row.options else "", corpus.tag]
        tag = "-".join(part for part in parts if part)
        load_config(path, [f"{key}={json.dumps(value)}" for key, value in options.items()])
        jobs[name] = [
            Job(
                name,
                path,
                seed,
                options,
                f"{tag}-{seed}" if tag else str(seed),
                protocols=tuple(table.protocols),
            )
            for seed in range(args.seeds)
        ]
    return jobs, faults


def without_data(jobs: Mapping[str, Job]) -> dict[str, str]:
    """The rows whose data are not there, and what is missing. Each corpus is opened once."""
    known: dict[str, str] = {}
    faults = {}
    for name, job in jobs.items():
        if job.is_done():
            continue
        config = job.config()
        config.DATASET.CACHE = "direct"  # so that no cache is written
        key = json.dumps({"data": config.DATASET, "dir": config.DATA_DIR}, sort_keys=True)
        if key not in known:
            known[key] = ""
            try:
                open_corpus(config, ("train", "val"))
            except InputError as fault:
                known[key] = str(fault)
        if known[key]:
            faults[name] = known[key]
    return faults


def trained_of(jobs: Sequence[Job], fault: str) -> Trained:
    done = [(job, found) for job in jobs if (found := job.results()) is not None]
    if not jobs:
        return Trained("weak", fault=fault)
    return Trained(
        supervision=find_model(jobs[0].config().MODEL.NAME).supervision,
        folders=[job.folder for job, _ in done],
        results=[found for _, found in done],
        fault=fault,
    )


def drawing(path: Path) -> Any:
    """Matplotlib, to draw into a file.

    Raises:
        InputError: it is missing, or the file's ending is none that it is asked for.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"--draw {path}: expected a name that ends in {', '.join(FORMATS)}")
    return pyplot()


def print_plan(
    jobs: Mapping[str, Sequence[Job]], faults: Mapping[str, str], *, at_once: int
) -> None:
    """What is there, what is missing, and what the rest takes on this machine."""
    seconds, disk = 0.0, 0.0
    for name, each in jobs.items():
        left = [job for job in each if not job.is_done()]
        if not left:
            print_wrapped(f"{name}: {count(len(each), 'run')}, all done")
            continue
        found = planned(left[0])
        if isinstance(found, str):
            print_wrapped(f"{name}: {found}")
            continue
        seconds += len(left) * found["run_seconds"]
        disk += len(left) * found["disk_bytes"]
        print_wrapped(
            f"{name}: {count(len(left), 'run')} of {len(each)} to do, "
            f"{duration(found['run_seconds'])} each, {found['memory_bytes'] / 1e9:.2g} GB of memory"
        )
    for name, fault in faults.items():
        print_wrapped(f"{name}: {fault}")
    several = f", {at_once} at a time {duration(seconds / at_once)}" if at_once > 1 else ""
    print_wrapped(
        f"all: {duration(seconds)} on this machine{several}; {disk / 1e9:.2g} GB of checkpoints. "
        "Tests, which read the test split once, are not in it."
    )


def planned(job: Job) -> dict[str, Any] | str:
    """What ``plan.py`` says of a run, or why it says nothing, in a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        settings = [word for word in job.arguments if word.startswith("--set=")]
        ended = subprocess.run(
            [*command_line("plan"), "--cfg", str(job.cfg), *settings, "--json", str(out)],
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
            return " ".join(line.strip() for line in lines)
        return json.loads(out.read_text("utf-8"))
