#!/usr/bin/env python
"""The table of runs: every experiment with what was published, what ours reach, and what it costs.

    python zoo.py measure                    measure the experiments that are new or changed
    python zoo.py measure --only real/jsg    … these alone
    python zoo.py page > ../docs/zoo.md      the page of what is there

A measurement takes no data: parameters, seconds of a training step on one thread, and peak memory,
each in a process of its own, kept in docs/zoo.json under a digest of the experiment's options. The
results on the benches are those of the runs of bench.py and real_bench.py that are there; published
numbers are in docs/published.yaml, trained checkpoints in lib/inference/checkpoints.yaml.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Before torch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from tqdm import tqdm

from lib.base.command import number_from, run_script
from lib.base.errors import InputError
from lib.base.files import write_text
from lib.base.schema import listed, mapping, number, record, text
from lib.base.yaml_file import read_checked
from lib.commands import sweep
from lib.config.config import SCHEMA, load_config
from lib.config.external import find_model
from lib.config.options import Option
from lib.evaluation import PROTOCOLS
from lib.evaluation.baselines import PRIOR
from lib.inference.checkpoints import MANIFEST, read_checkpoints
from lib.tools.measuring import measure_step, measured_apart, sizes_of
from lib.tools.reproduction import read_corpora
from lib.training.build import open_runtime
from moment_localization import bench, real_bench

EXPERIMENTS = ROOT / "experiments"
MEASURED = ROOT / "docs" / "zoo.json"
PUBLISHED = ROOT / "docs" / "published.yaml"
FOLDERS = {
    "dense_activitynet": "ActivityNet Captions",
    "dense_charades": "Charades-STA",
    "dense_tacos": "TACoS",
    "real": "The real bench",
    "bench": "The simulated bench",
    "synthetic": "The synthetic world",
}
LEVEL = "middle"  # of the simulated bench
SECONDS = number_from(0.0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="measure what is new or changed")
    measure.add_argument(
        "--only", default="", metavar="NAME,NAME", help="experiments, or folders of them"
    )
    measure.add_argument("--again", action="store_true", help="also what was measured before")
    measure.add_argument(
        "--seconds",
        type=SECONDS,
        default=5.0,
        metavar="S",
        help="about how long a step is repeated (default: 5)",
    )
    measure.add_argument(
        "--most",
        type=SECONDS,
        default=600.0,
        metavar="S",
        help="end the measurement of an experiment after so long (default: 600)",
    )
    measure.add_argument("--gpus", default="cpu", metavar="N", help="a GPU (default: none)")
    measure.add_argument("--one", metavar="JSON", help=argparse.SUPPRESS)  # in a child
    commands.add_parser("page", help="print the page")
    return parser.parse_args()


# The experiments.


def names() -> list[str]:
    """All experiments, as paths below experiments/; files of rows and of decodings are none."""
    found = []
    for folder in FOLDERS:
        paths = sorted((EXPERIMENTS / folder).rglob("*.yaml"))
        for path in paths:
            if path.parent.name != "decoding":
                found.append(path.relative_to(EXPERIMENTS).with_suffix("").as_posix())
    return found


def path_of(name: str) -> Path:
    return EXPERIMENTS / f"{name}.yaml"


def chosen(only: str) -> list[str]:
    """The experiments that are asked for.

    Raises:
        InputError: one that is not there.
    """
    everything = names()
    if not only:
        return everything
    wanted: list[str] = []
    for each in only.split(","):
        below = [name for name in everything if name == each or name.startswith(f"{each}/")]
        if not below:
            raise InputError(
                f"--only: {each!r} is neither an experiment nor a folder of them, as "
                f"{everything[0]} or {', '.join(FOLDERS)}"
            )
        wanted += below
    return list(dict.fromkeys(wanted))


# Measurements.


def key_of(config: Any) -> str:
    """By which it is known whether a measurement is still one of this experiment: a digest of the
    options that a step reads, those left out that have their defaults, and of the sizes."""
    stated = {
        section: {
            name: value
            for name, value in config[section].items()
            if not isinstance(option := SCHEMA[section][name], Option) or value != option.default
        }
        for section in ("MODEL", "LOSS", "TRAIN", "DECODE")
    }
    content = {"options": stated, "sizes": sizes_of(config).sizes()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measure_one(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a step of an experiment takes on one thread, or on a GPU. On one thread the processor's
    time is that of a quiet machine, more or less; what other processes take is not in it."""
    torch.set_num_threads(1)
    config = load_config(spec["cfg"], spec["set"], {"gpus": spec["gpus"]})
    runtime = open_runtime(config)
    found = measure_step(config, runtime, seconds=spec["seconds"], flops=False)
    on_processor = runtime.device.type == "cpu"
    seconds = found["processor_seconds"] if on_processor else found["seconds"]["step"]
    return {
        "parameters": found["parameters"],
        "step_seconds": float(f"{seconds:.3g}"),
        "peak_bytes": found["peak_bytes"],
        "paragraphs": found["paragraphs"],
        "sentences": found["sentences"],
        "device": runtime.name,
        "torch": torch.__version__,
    }


def read_measured() -> dict[str, dict[str, Any]]:
    """What was measured, by experiment.

    Raises:
        InputError: the file is cut or foreign.
    """
    if not MEASURED.exists():
        return {}
    try:
        found = json.loads(MEASURED.read_text("utf-8"))
        return {name: dict(entry) for name, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        raise InputError(f"{MEASURED} cannot be read ({str(fault)[:80]})") from None


def measure(args: argparse.Namespace) -> None:
    """Measure what is new or changed. The file is written after each, so that the same command goes
    on where it was stopped."""
    there = set(names())
    done = read_measured()
    wanted = chosen(args.only)
    keys = {name: key_of(load_config(path_of(name))) for name in wanted}
    kept = {name for name, entry in done.items() if "fault" not in entry and not args.again}
    left = [name for name in wanted if name not in kept or done[name]["key"] != keys[name]]
    for name in tqdm(left, desc="experiments", dynamic_ncols=True, disable=None):
        spec = {"cfg": str(path_of(name)), "set": [], "gpus": args.gpus, "seconds": args.seconds}
        before = load()
        try:
            found = measured_apart([__file__, "measure"], spec, timeout=args.most)
        except InputError as fault:
            found = {"fault": str(fault).replace(f"{ROOT}/", "")}
        # Read anew: another process may measure others.
        done = {n: entry for n, entry in read_measured().items() if n in there}
        done[name] = {"key": keys[name], **found, "load": before}
        write_text(MEASURED, json.dumps(dict(sorted(done.items())), indent=1) + "\n")
        print(f"{name}: {found.get('fault') or found['step_seconds']}", file=sys.stderr)


def load() -> float | None:
    """How many processes want a processor, by the mean of the last minute; for each processor."""
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    except (AttributeError, OSError):
        return None


# Published numbers.


@dataclass(frozen=True)
class Published:
    """What a source says of an experiment.

    Attributes:
        protocol: a name of ``PROTOCOLS``; "" where none is meant, and ``counted`` says how.
        differs: what is otherwise here; "" = nothing.
    """

    source: str
    numbers: Mapping[str, float]
    protocol: str = ""
    counted: str = ""
    differs: str = ""


_PUBLISHED = mapping(
    listed(
        record(
            {
                "SOURCE": text,
                "PROTOCOL": text,
                "COUNTED": text,
                "NUMBERS": mapping(number(0, 1000)),
                "DIFFERS": text,
            },
            needed=("SOURCE", "NUMBERS"),
        )
    )
)


def read_published(path: Path = PUBLISHED) -> dict[str, list[Published]]:
    """The published numbers, by experiment.

    Raises:
        InputError: the file cannot be read, or names an experiment, a protocol or a metric that is
            not there.
    """
    found: dict[str, list[Published]] = {}
    known = set(names())
    for name, entries in read_checked(path, "PUBLISHED", _PUBLISHED).items():
        if name not in known:
            raise InputError(f"{path}: {name} is no experiment below {EXPERIMENTS}")
        for entry in entries:
            protocol = entry.get("PROTOCOL", "")
            if ("COUNTED" in entry) == bool(protocol):
                raise InputError(f"{path}: {name} needs either PROTOCOL or COUNTED")
            if protocol and protocol not in PROTOCOLS:
                raise InputError(
                    f"{path}: {name} has the PROTOCOL {protocol!r}, expected one of "
                    f"{', '.join(PROTOCOLS)}"
                )
            counted = PROTOCOLS[protocol or "jrg_joint"]
            if strange := [metric for metric in entry["NUMBERS"] if not counted.counts(metric)]:
                raise InputError(
                    f"{path}: {name} has {strange}, which are no metrics of its protocol"
                )
            more = (entry.get("COUNTED", ""), entry.get("DIFFERS", ""))
            found.setdefault(name, []).append(
                Published(entry["SOURCE"], entry["NUMBERS"], protocol, *more)
            )
    return found


def numbers_cell(numbers: Mapping[str, float]) -> str:
    """The recalls of one K together, one value for each threshold."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for metric, value in numbers.items():
        recall, _, threshold = metric.partition(",IoU=")
        groups.setdefault(recall, []).append((threshold, value))
    parts = []
    for recall, values in groups.items():
        at = " / ".join(threshold.lstrip("0") for threshold, _ in values if threshold)
        if at:
            parts.append(f"{recall} at {at}: " + " / ".join(f"{value:.2f}" for _, value in values))
        else:
            parts.append(f"{recall} {max(f'{values[0][1]:.1f}', f'{values[0][1]:g}', key=len)}")
    return "; ".join(parts)


def published_cell(entries: Sequence[Published]) -> str:
    cells = []
    for entry in entries:
        how = f"`{entry.protocol}`" if entry.protocol else entry.counted
        differs = f" ({entry.differs})" if entry.differs else ""
        cells.append(f"{numbers_cell(entry.numbers)}. {entry.source}; {how}{differs}.")
    return "<br>".join(cells)


# The page.


def system_of(name: str) -> str:
    """What an experiment is called on every corpus: ``dmr_jrg`` of ``dense_activitynet/acnet``."""
    folder, _, inner = name.partition("/")
    return next((system for system, file in _files(folder).items() if file == inner), inner)


def file_of(system: str, folder: str) -> str:
    """What trains a system in a folder of experiments, whether or not it is there."""
    return _files(folder).get(system, system)


@functools.cache
def _files(folder: str) -> Mapping[str, str]:
    """System -> its experiment in a folder, where that is called otherwise."""
    return {each.folder.name: each.files for each in read_corpora().values()}.get(folder, {})


def real_results() -> dict[str, list[dict[str, Any]]]:
    """Of the real bench in the order of time, by experiment."""
    inner = [name.partition("/")[2] for name in names() if name.startswith("real/")]
    return real_bench.gathered(inner, "time")


def bench_results() -> dict[str, list[dict[str, Any]]]:
    """Of the simulated bench at its middle level, by experiment."""
    inner = [name.partition("/")[2] for name in names() if name.startswith("bench/")]
    return sweep.gathered(
        job for seed in range(10) for name in inner for job in bench.jobs(name, LEVEL, seed)
    )


def result_cell(results: Sequence[dict[str, Any]]) -> str:
    """R@1 at IoU 0.5, mIoU and retrieval's R@1 and R@10, means over seeds."""
    if not results:
        return ""
    cells = real_bench.cells(results)
    shown = " / ".join(cells[place] or "–" for place in (1, 3, 4, 5))
    return f"{shown} ({len(results)})"


def floors_of(results: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """The best scores of the rules without a model that all systems share, in the order of
    ``result_cell``."""
    for group in results.values():
        floors = group[0]["floors"]
        if "svmr" in floors and "vr" in floors:
            wanted = (("svmr", "R@1,IoU=0.5"), ("svmr", "mIoU"), ("vr", "R@1"), ("vr", "R@10"))
            best = (
                max(row.get(m, 0.0) for rule, row in floors[p].items() if rule != PRIOR)
                for p, m in wanted
            )
            return " / ".join(f"{value:.1f}" for value in best)
    return "–"


def what_it_is(name: str) -> str:
    """The first line of its file."""
    line = path_of(name).read_text("utf-8").partition("\n")[0]
    return line.removeprefix("#").strip().replace("|", "\\|")


def cost_cells(entry: Mapping[str, Any] | None) -> list[str]:
    if entry is None:
        return ["not measured yet", "", ""]
    if "fault" in entry:
        return [f"not measured: {entry['fault']}", "", ""]
    return [
        f"{entry['parameters']:,}",
        f"{entry['step_seconds']:.3g} ({entry['paragraphs']})",
        f"{entry['peak_bytes'] / 2**30:.2f}",
    ]


COSTS = ("parameters", "seconds a step (paragraphs)", "GiB")
KINDS = {
    "weak": "Trained without timestamps:",
    "full": "Trained on the moments (full supervision):",
}


def page() -> str:
    measured, published = read_measured(), read_published()
    real, simulated = real_results(), bench_results()
    lines = [*about(measured, floors_of(real), floors_of(simulated)), *checkpoints_section()]
    rows: dict[str, dict[str, list[list[str]]]] = {}
    for name in names():
        folder, _, inner = name.partition("/")
        model = load_config(path_of(name)).MODEL.NAME
        on_benches = {each: file_of(system_of(name), each) for each in ("real", "bench")}
        cells = [f"[`{inner}`](../experiments/{name}.yaml)", what_it_is(name), f"`{model}`"]
        if folder.startswith("dense_"):
            cells.append(published_cell(published.get(name, ())))
        if folder != "bench":
            cells.append(result_cell(real.get(on_benches["real"], ())))
        if folder != "real":
            cells.append(result_cell(simulated.get(on_benches["bench"], ())))
        kinds = rows.setdefault(folder, {kind: [] for kind in KINDS})
        kinds[find_model(model).supervision].append([*cells, *cost_cells(measured.get(name))])
    for folder, title in FOLDERS.items():
        columns = (
            ["", "", "model", "published"] if folder.startswith("dense_") else ["", "", "model"]
        )
        columns += ["real bench"] if folder != "bench" else []
        columns += ["simulated bench"] if folder != "real" else []
        lines += ["", f"## {title} (`experiments/{folder}`)"]
        for kind, says in KINDS.items():
            if rows[folder][kind]:
                lines += ["", says, "", *markdown((*columns, *COSTS), rows[folder][kind])]
    return "\n".join(lines) + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = ["---:" if column in COSTS else "---" for column in head]
    return ["| " + " | ".join(cells) + " |" for cells in (head, align, *rows)]


def about(measured: Mapping[str, Mapping[str, Any]], real: str, simulated: str) -> list[str]:
    """What the columns mean, and on what machine the costs were measured."""
    done = [entry for entry in measured.values() if "fault" not in entry]
    machines = sorted({f"{entry['device']}, torch {entry['torch']}" for entry in done})
    loads = [entry["load"] for entry in done if entry["load"] is not None]
    busy = ""
    if loads:
        busy = (
            f" Before a measurement {min(loads):.1f} to {max(loads):.1f} processes wanted each "
            "processor of the machine; above about 1 the processor's time, too, is longer than on "
            "a quiet one."
        )
    return [
        "# The table of runs",
        "",
        "Written by `python moment_localization/zoo.py page`; costs by `zoo.py measure`.",
        "",
        "Every experiment that trains a model, in the folders of its corpus; what is trained on "
        "moments stands in tables of its own. Per cent everywhere.",
        "",
        "- *published*: what a paper or a README says, by which protocol "
        "([evaluation.md](evaluation.md)), and in brackets what is otherwise here. Nobody has "
        "trained these experiments on the real corpora yet, so that no number of ours stands "
        "beside.",
        "- *real bench*: the same system on the real bench ([real.md](real.md)), in the order of "
        "time: R@1 at IoU 0.5 / mIoU (`svmr`) / retrieval R@1 / R@10 (`vr`), mean ± deviation over "
        f"so many seeds. The best scores without a model are {real}; ↓ marks a mean that is not "
        "above them. Sizes there are small: a number says whether a system learns, and nothing "
        "about the published one.",
        f"- *simulated bench*: the same on the simulated bench ([results.md](results.md)), "
        f"{LEVEL} signal. The best scores without a model are {simulated}.",
        "- *parameters*, *seconds a step*, *GiB*: of a training step, on random batches with "
        "the sizes of the corpus and the paragraph lengths of ActivityNet Captions, and its peak "
        "memory; the seconds are the processor's, on one "
        "thread. "
        f"{'; '.join(machines) or 'Nothing was measured yet'}.{busy}",
    ]


def checkpoints_section() -> list[str]:
    """The trained runs of the manifest, and how one gets there."""
    rows = []
    for entry in read_checkpoints().values():
        results = [
            f"`{protocol}` {metric} {score:g} (floor {floor:g})"
            for protocol, scores in entry.results.items()
            for metric, (score, floor) in scores.items()
        ]
        rows.append(
            [
                f"`{entry.name}`",
                f"[`{entry.experiment}`](../experiments/{entry.experiment}.yaml)",
                "; ".join(results),
                f"{entry.size / 1e6:.3g} MB",
                f"`{entry.sha256[:12]}…`",
            ]
        )
    there = ["None yet: nobody has trained on the real corpora."]
    if rows:
        there = markdown(("", "experiment", "test", "size", "SHA-256"), rows)
    where = MANIFEST.relative_to(ROOT).as_posix()
    return [
        "",
        "## Checkpoints",
        "",
        *there,
        "",
        f'`load("NAME")`, and `--run NAME` of `index.py`, fetch a run of [{where}](../{where}), '
        "check its digest and keep it. A run that you have trained gets there in three steps:",
        "",
        "1. Test it (`best_test.py`), and export it as one file: `python export.py RUN --out "
        "NAME.zip` prints its `SHA256` and `BYTES`. The same run makes the same file.",
        '2. Put the file where https can fetch it. `load("https://host/NAME.zip#sha256=…")` '
        "loads it from there.",
        f"3. Enter it in `{where}`, whose first lines show an entry: `URL`, `SHA256`, `BYTES`, "
        "`EXPERIMENT`, and under `RESULTS` the numbers of the test, each beside the best floor of "
        "`results.md`. `zoo.py page` then lists it here.",
    ]


def main() -> None:
    args = parse_arguments()
    if args.command == "page":
        print(page(), end="")
    elif args.one:
        print(json.dumps(measure_one(json.loads(args.one))))
    else:
        measure(args)


if __name__ == "__main__":
    run_script(main)
