#!/usr/bin/env python
"""Time training, evaluation and data of experiments, and how cost grows.

    python benchmark.py                             the default cases; minutes on two cores
    python benchmark.py --out ../docs/benchmarks    … and write benchmarks.md and benchmarks.json
    python benchmark.py --cases step --cfg YAML     the training step of an experiment
    python benchmark.py --cases stacks --threads 1  map stacks against convolutions of the square
    python benchmark.py --gpu --out NAME            all there is to know of a GPU, in NAME.gpu.json

No data is needed: batches are random, with the sizes of the experiment and the paragraph lengths of
ActivityNet Captions; the case `data` reads the corpus of its experiment. Each measurement runs in a
process of its own. Options of experiments can be changed by --set in all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Before torch starts its threads: on a busy machine, ones that spin while they wait slow all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from torch import Tensor, nn

from lib.base.batch import collate
from lib.base.command import run_script
from lib.base.errors import InputError
from lib.base.files import write_bytes
from lib.base.runtime import Runtime
from lib.config.config import load_config
from lib.datasets import build_loader
from lib.datasets.dense import EpochBatches
from lib.models.layers.dynamic_conv import DynamicConvStack
from lib.models.layers.proposal_map import MaskedConvStack, ProposalGrid
from lib.tools import gpu_bench, measuring
from lib.tools.full_square import FullSquare
from lib.tools.profiling import (
    SENTENCES,
    Clock,
    Memory,
    exponent,
    matrix_rate,
    repeated,
    timed_step,
    typical_batch,
)
from lib.training.build import (
    open_batch_gradient,
    open_corpus,
    open_decoding,
    open_model,
    open_optimization,
    open_runtime,
)
from lib.training.prediction import ground_in, read_split, similarities

ROOT = Path(__file__).resolve().parents[1]
SHALLOW = ("MODEL.PARAMS.kernel_size=1", "MODEL.PARAMS.conv_layers=1")
REAL, SYNTHETIC = "experiments/dense_activitynet", "experiments/synthetic"
# What is timed step by step: name, experiment, changes, paragraphs (None: as the experiment has).
STEPS = (
    ("dmr_jrg, one 1x1 layer", f"{REAL}/acnet.yaml", SHALLOW, 16),
    ("dmr_jrg, four 5x5 layers", f"{REAL}/acnet.yaml", (), 16),
    (
        "dmr_jrg, four 5x5 layers, bfloat16",
        f"{REAL}/acnet.yaml",
        ("TRAIN.PRECISION=bfloat16",),
        16,
    ),
    *(
        (f"{name}, synthetic", f"{SYNTHETIC}/{name}.yaml", (), None)
        for name in ("dmr_jrg", "clip_align", "tan2d", "mmn", "cdn", "dciml", "scn", "jsg")
    ),
)
# Options of TRAIN that save time or memory, each with a value that is not its default.
OPTIONS = {
    "PRECISION": "bfloat16",
    "COMPILE": True,
    "RECOMPUTE_MAP": True,
    "ACCUMULATE": 4,
    "FUSED": False,
}
GROWTH = {  # three sizes each; N: clips along a map axis
    "paragraphs of a step": (4, 8, 16),
    "sentences of a paragraph": (4, 8, 16),
    "N, sparse": (32, 64, 128),
    "N, dense": (32, 64, 128),
    "pairs": (2, 4, 8),
    "videos": (64, 128, 256),
    "videos and paragraphs": (64, 128, 256),
}
# Map stacks in their published sizes: name, clips, maps of a step, kernel, layers. D = 256 for all,
# where 512 is published, so that the largest fits in memory.
STACKS = (
    ("2D-TAN, ActivityNet", 64, 4, 9, 4),
    ("2D-TAN, Charades", 16, 8, 5, 8),
    ("2D-TAN, TACoS", 128, 2, 5, 8),
    ("MMN, ActivityNet", 64, 4, 9, 4),
    ("MMN, Charades", 16, 8, 5, 8),
    ("MMN, TACoS", 128, 2, 5, 8),
    ("CDN, ActivityNet", 64, 4, 5, 8),
    ("CDN, Charades", 16, 8, 5, 8),
    ("CDN, TACoS", 128, 2, 5, 8),
)
STACK_WIDTH = 256
ALTERNATIONS = 5
# The parts of a measurement that should grow; elsewhere it is the step.
GROWING = {
    "pairs": ("grounding",),
    "videos": ("reading", "similarities"),
    "videos and paragraphs": ("evaluation",),
}
MOST_FILTERED = 0.5  # part of a step's operations that are convolutions, where a share says nothing
GPU = gpu_bench.Scale(
    reference=f"{ROOT}/{REAL}/acnet.yaml",
    boundaries=f"{ROOT}/{REAL}/tan2d.yaml",
    compared=tuple(
        f"{ROOT}/{SYNTHETIC}/{name}.yaml"
        for name in ("dmr_jrg", "clip_align", "tan2d", "mmn", "cdn", "dciml", "scn", "jsg")
    ),
)
CASES = ("step", "stacks", "evaluation", "data", "growth", "options")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases",
        default=",".join(CASES),
        help=f"by comma, some of {','.join(CASES)} (default: all)",
    )
    parser.add_argument(
        "--cfg", metavar="YAML", help="time this experiment instead of the default ones"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="may be repeated"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="paragraphs of a step (default: by case)"
    )
    parser.add_argument(
        "--corpus",
        type=int,
        default=48,
        metavar="N",
        help="videos, and paragraphs, of the evaluation (default: 48)",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=4,
        metavar="N",
        help="videos beside its own that a paragraph is grounded in (default: 4)",
    )
    parser.add_argument("--gpus", default="", metavar="N", help="as in dense_train.py")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the CPU (default: as Torch decides)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="about how long a measurement is repeated (default: 5)",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="instead of the cases: whether the GPU computes what the processor does, and how fast",
    )
    parser.add_argument("--out", metavar="NAME", help="write NAME.md and NAME.json")
    parser.add_argument("--one", metavar="JSON", help=argparse.SUPPRESS)  # in a child
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises InputError for a flag that nothing can be measured with."""
    for case in args.cases.split(","):
        if case not in CASES:
            raise InputError(f"--cases: {case!r} is none, expected some of {', '.join(CASES)}")
    for flag in ("batch", "corpus", "candidates", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag}: found {value}, expected at least 1")
    if args.candidates >= args.corpus:
        raise InputError(
            f"--candidates: found {args.candidates}, expected fewer than the {args.corpus} of "
            "--corpus"
        )


# In a child process: one measurement.


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """The measurement of one case of ``plan_cases``."""
    if spec["kind"] == "gpu":
        return gpu_bench.run_part(spec, Runtime.start(spec["gpus"]))
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    config = load_config(spec["cfg"], spec["set"], {"gpus": spec["gpus"]})
    runtime = open_runtime(config)
    kinds = {
        "step": measure_step,
        "stack": measure_stack,
        "evaluation": measure_evaluation,
        "data": measure_data,
    }
    result = kinds[spec["kind"]](spec, config, runtime)
    result["matrix_rate"] = matrix_rate(runtime)
    return result | {"device": runtime.name, "torch": torch.__version__}


def measure_step(spec: dict[str, Any], config: Any, runtime: Runtime) -> dict[str, Any]:
    """See ``lib.tools.measuring.measure_step``."""
    return measuring.measure_step(
        config,
        runtime,
        seconds=spec["seconds"],
        batch=spec["batch"],
        sentences=spec.get("sentences", SENTENCES),
    )


def build_stack(name: str, num_clips: int, kernel_size: int, layers: int, width: int) -> nn.Module:
    """As the model of that name has it."""
    grid = ProposalGrid(num_clips)
    if name.startswith("CDN"):
        return DynamicConvStack(
            width,
            grid,
            kernel_size=kernel_size,
            num_layers=layers,
            dynamic_layers=layers // 2,
            base_kernels=8,
        )
    return MaskedConvStack(
        width,
        grid,
        kernel_size=kernel_size,
        num_layers=layers,
        padding="first",
        norm="count",
        batch_norm=name.startswith("MMN"),
    )


def measure_stack(spec: dict[str, Any], config: Any, runtime: Runtime) -> dict[str, Any]:
    """Forward and backward pass of a stack, of ours and of ``FullSquare`` in turn, or of one."""
    torch.manual_seed(0)
    stack = build_stack(*(spec[key] for key in ("name", "clips", "kernel", "layers", "width")))
    stack.to(runtime.device)
    if isinstance(stack, DynamicConvStack):
        for conv in stack.dynamic:
            conv.dropout.p = 0.0  # so that both compute the same
    kinds: dict[str, nn.Module] = {"ours": stack, "full square": FullSquare(stack)}
    cells = torch.randn(spec["maps"], len(stack.grid), spec["width"], device=runtime.device)
    features = nn.functional.normalize(cells, dim=-1).requires_grad_()
    sentence = torch.randn(spec["maps"], spec["width"], device=runtime.device)
    clock, memory = Clock(runtime), Memory(runtime)

    def once(kind: str) -> Tensor:
        stack.zero_grad()
        of_sentence = (sentence,) if isinstance(stack, DynamicConvStack) else ()
        with clock(kind):
            with runtime.autocast():
                out = kinds[kind](features, *of_sentence)
            out.float().square().sum().backward()
        return out.detach()

    if spec["only"]:
        once(spec["only"])
        return {"seconds": clock.medians(), "peak_bytes": memory.peak()}
    first, second = (once(kind) for kind in kinds)
    clock.seconds.clear()
    for _ in range(ALTERNATIONS):
        for kind in kinds:
            once(kind)
    ratios = [a / b for a, b in zip(*(clock.seconds[kind] for kind in kinds), strict=True)]
    return {
        "seconds": clock.medians(),
        "ratios": sorted(ratios),
        "difference": float((first - second).abs().max() / second.abs().max()),
    }


def measure_evaluation(spec: dict[str, Any], config: Any, runtime: Runtime) -> dict[str, Any]:
    """A corpus read, all similarities, and paragraphs, as many as videos unless stated otherwise,
    grounded in their own video and others."""
    memory, test, decoding = Memory(runtime), config.TEST, open_decoding(config)
    dims, model = measuring.open_without_data(config, runtime)
    model.eval()
    count, size = spec["corpus"], config.TEST.BATCH_SIZE
    paragraphs = spec.get("paragraphs", count)
    corpus, batches = (
        [typical_batch(dims, min(size, n - first), seed=first) for first in range(0, n, size)]
        for n in (count, paragraphs)
    )
    clock = Clock(runtime)
    rng = np.random.default_rng(0)
    own_video = np.arange(paragraphs)[:, None]
    steps = rng.permuted(np.tile(np.arange(1, count), (paragraphs, 1)), axis=1)
    others = (own_video + steps) % count
    videos = np.concatenate([own_video, others[:, : spec["candidates"]]], axis=1)

    def evaluate() -> None:
        with clock("evaluation"):
            with clock("reading"):
                rows = (batch.video for batch in corpus)
                read = read_split(model, batches, rows, runtime, num_videos=count)
            with clock("similarities"):
                similarities(model, read, runtime)
            with clock("grounding"):
                ground_in(
                    model,
                    read,
                    videos,
                    runtime,
                    decoding,
                    {},
                    pairs=test.PAIRS,
                    moments=test.MOMENTS,
                    nms_iou=test.NMS_IOU,
                )

    repeats = repeated(evaluate, seconds=spec["seconds"])
    sentences = sum(len(batch.flat_index) for batch in batches)
    return {
        "seconds": clock.medians(),
        "repeats": repeats,
        "peak_bytes": memory.peak(),
        "videos": count,
        "sentences": sentences,
        "pairs": sentences * videos.shape[1],
    }


def measure_data(spec: dict[str, Any], config: Any, runtime: Runtime) -> dict[str, Any]:
    """Batches of an experiment's own corpus, and how long it takes to the first step."""
    corpus = open_corpus(config, ("train",))
    train, size = corpus["train"], min(spec["batch"], len(corpus["train"]))
    model = open_model(config, corpus, runtime)
    sampler = EpochBatches(len(train), size, seed=0)
    optimization = open_optimization(config, model, sampler.total)
    batch_gradient, first = open_batch_gradient(config, model, runtime), Clock(runtime)
    batch = collate([train[index] for index in range(size)])
    timed_step(optimization, batch_gradient, batch, first, max_grad_norm=1.0)
    started = time.time() - spec["started"]

    clock = Clock(runtime)
    order = cycle(sampler)

    def by_hand() -> None:
        with clock("items"):
            samples = [train[index] for index in next(order)]
        with clock("collate"):
            collate(samples)

    repeated(by_hand, seconds=spec["seconds"] / 4, most=500)
    loader = build_loader(train, batch_size=size, workers=spec["workers"], sampler=sampler)
    for _ in loader:  # starts the processes
        pass
    with clock("epoch"):
        for _ in loader:
            pass
    medians = clock.medians()
    return {
        "seconds": {
            "items": medians["items"],
            "collate": medians["collate"],
            "loader": medians["epoch"] / len(loader),
            "start": started,
        },
        "paragraphs": size,
        "workers": spec["workers"],
        "corpus": f"{config.DATASET.NAME}, {len(train)} paragraphs",
    }


# In the parent process: the list of measurements, and their tables.


def plan_cases(args: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Case, name and the argument of ``measure``, for every measurement."""
    wanted = args.cases.split(",")
    steps = [(name, str(ROOT / path), changes, size) for name, path, changes, size in STEPS]
    if args.cfg:
        steps = [(Path(args.cfg).stem, args.cfg, (), None)]
    first, cfg, changes, batch = steps[0]
    common = {key: getattr(args, key) for key in ("gpus", "threads", "corpus", "candidates")}

    def spec(kind: str, cfg: str, changes: Sequence[str], **more: Any) -> dict[str, Any]:
        fields = {"kind": kind, "cfg": cfg, "set": [*changes, *args.set], "seconds": args.seconds}
        return {**common, **fields, **more}

    def step(cfg: str, changes: Sequence[str], size: int | None, **more: Any) -> dict[str, Any]:
        return spec("step", cfg, changes, batch=args.batch or size, **more)

    if "step" in wanted:
        for name, *fields in steps:
            yield "step", name, step(*fields)
    if "stacks" in wanted:
        for name, clips, maps, kernel, layers in STACKS:
            shape = {"clips": clips, "maps": maps, "kernel": kernel, "layers": layers}
            one = spec(
                "stack", f"{ROOT}/{SYNTHETIC}/tan2d.yaml", (), name=name, width=STACK_WIDTH, **shape
            )
            for only in ("", "ours", "full square"):
                yield "stacks", f"{name}: {only or 'time'}", {**one, "only": only}
    if "options" in wanted:
        on_cpu = not Runtime.start(args.gpus, log=lambda line: None).counts_memory
        for option, value in OPTIONS.items():
            if option == "COMPILE" and on_cpu:  # takes minutes there, which nothing gives back
                continue
            changed = [*changes, f"TRAIN.{option}={value}"]
            yield "options", f"{option}: {value}", step(cfg, changed, batch)
    if "evaluation" in wanted:
        yield "evaluation", first, spec("evaluation", cfg, changes)
    if "data" in wanted:
        path = args.cfg or str(ROOT / SYNTHETIC / "dmr_jrg.yaml")
        yield "data", Path(path).stem, spec("data", path, (), batch=args.batch or 16, workers=1)
    if "growth" in wanted:
        short = {"seconds": args.seconds / 5}
        grow = {
            "paragraphs of a step": lambda n: spec("step", cfg, changes, batch=n, **short),
            # Deep and narrow, so that the map is what is timed.
            **{
                f"N, {density}": lambda n, density=density: spec(
                    "step",
                    cfg,
                    [
                        "MODEL.PARAMS.hidden_size=128",
                        f"MODEL.PARAMS.density={density}",
                        f"DATASET.NUM_CLIPS={n}",
                    ],
                    batch=2,
                    **short,
                )
                for density in ("sparse", "dense")
            },
            "sentences of a paragraph": lambda n: spec(
                "step", cfg, changes, batch=4, sentences=[n], **short
            ),
            "pairs": lambda n: spec(
                "evaluation", cfg, changes, corpus=16, candidates=n - 1, **short
            ),
            "videos": lambda n: spec(
                "evaluation",
                cfg,
                changes,
                corpus=n,
                paragraphs=min(16, *GROWTH["videos"]),
                candidates=0,
                **short,
            ),
            "videos and paragraphs": lambda n: spec(
                "evaluation", cfg, changes, corpus=n, candidates=0, **short
            ),
        }
        for what, sizes in GROWTH.items():
            for size in sizes:
                yield "growth", f"{what}: {size}", grow[what](size)


def run_case(spec: dict[str, Any]) -> dict[str, Any]:
    """See ``lib.tools.measuring.measured_apart``."""
    return measuring.measured_apart([__file__], spec)


def run_all(args: argparse.Namespace) -> dict[str, Any]:
    """Every measurement, with the device and the versions of the software."""
    results: dict[str, Any] = {}
    for case, name, spec in plan_cases(args):
        began = time.perf_counter()
        result = run_case(spec)
        print(f"{case}, {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        known = {**spec, "cfg": spec["cfg"].removeprefix(f"{ROOT}/")}
        results.setdefault(case, {})[name] = {**result, "spec": known}
    any_one = next(result for case in results.values() for result in case.values())
    return {
        "device": any_one["device"],
        "torch": any_one["torch"],
        "commit": commit(),
        "python": sys.version.split()[0],
        "cases": results,
    }


def commit() -> str:
    """The commit of the repository, and whether files differ from it."""
    try:
        outputs = [
            subprocess.run(
                ["git", "-C", ROOT, *command], capture_output=True, text=True, check=True
            )
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return outputs[0].stdout.strip() + (" with changes" if outputs[1].stdout.strip() else "")


def run_gpu(args: argparse.Namespace) -> None:
    """What ``lib.tools.gpu_bench`` says of the GPU, and a file of it.

    Raises:
        InputError: there is none, or packages are missing.
    """
    missing = gpu_bench.missing_wheels()
    wheels = f"; --gpu needs {', '.join(gpu_bench.WHEELS)}, of which {', '.join(missing)} lack"
    runtime = Runtime.start(args.gpus, log=lambda line: None)
    if not runtime.counts_memory:
        raise InputError(f"--gpu: no GPU is here ({runtime.name}){wheels if missing else ''}")
    if missing:
        raise InputError(f"--gpu: packages are missing{wheels}")

    def run(spec: dict[str, Any], limit: float) -> dict[str, Any]:
        whole = {**spec, "gpus": args.gpus, "cfg": spec["part"], "set": []}
        return measuring.measured_apart([__file__], whole, timeout=limit)

    about = {
        "device": runtime.name,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": commit(),
        **runtime.versions(),
    }
    path = Path(f"{args.out or 'benchmark'}.gpu.json")
    found = gpu_bench.run_parts(gpu_bench.all_parts(GPU, OPTIONS), GPU, run, about, path)
    print("\n".join(gpu_bench.table(found)))


def gpu_section(path: Path) -> list[str]:
    """What was found of a GPU, from its file, or that nothing was."""
    lines = ["", "## A GPU", ""]
    if not path.is_file():
        return [
            *lines,
            "No GPU was at hand: nothing of this page was measured on one. "
            "`benchmark.py --gpu` does it in under eight minutes.",
        ]
    found = json.loads(path.read_text("utf-8"))
    where = f"torch {found['torch']}, Python {found['python']}, commit {found['commit']}"
    return [*lines, f"Written by `benchmark.py --gpu`; {where}.", "", *gpu_bench.table(found)]


def page(results: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    tables = {
        "step": ("A training step", step_table, STEP_NOTE),
        "stacks": ("Map stacks", stacks_table, STACKS_NOTE),
        "options": ("Options of training", options_table, OPTIONS_NOTE),
        "evaluation": ("Evaluation", evaluation_table, EVALUATION_NOTE),
        "data": ("Data", data_table, DATA_NOTE),
        "growth": ("Growth", growth_table, GROWTH_NOTE),
    }
    lines = [
        "# Benchmarks",
        "",
        "Written by `python moment_localization/benchmark.py --out docs/benchmarks`.",
        "",
        f"{results['device']}; torch {results['torch']}, Python {results['python']}, "
        f"commit {results['commit']}.",
    ]
    for case, (title, table, note) in tables.items():
        if case in results["cases"]:
            lines += ["", f"## {title}", "", *note.strip().splitlines(), ""]
            lines += table(results["cases"])
    return "\n".join(lines) + "\n"


STEP_NOTE = """
Random batches with the sizes of the experiment and the paragraph lengths of ActivityNet Captions,
with all loss terms of the experiment. Times are medians in seconds. Memory is the peak of model,
optimiser and step (on a CPU, of resident memory). GFLOP counts matrix products, convolutions and
attention as they are defined; the share compares their rate with the peak, which is measured in a
plain product of large matrices. No share is given where more than half of the operations are
convolutions: these are computed by minimal filtering (Winograd), with fewer multiplications than
are counted, and would have shares above 100 %.
"""
STACKS_NOTE = f"""
Seconds of a forward and a backward pass of the published map stacks with D = {STACK_WIDTH}, and of
`FullSquare` in `lib/tools/full_square.py`: the same layers as published, with every convolution
over the whole padded square. They take turns, {ALTERNATIONS} times each; the ratio is the median of
the turns, with the smallest and the largest. The difference is that of the results, relative to the
largest. Memory is the peak of one pass, in a process of its own.
"""
OPTIONS_NOTE = """
The first row of the table above, with one option of `TRAIN` changed. COMPILE is left out on a CPU.
"""
EVALUATION_NOTE = """
Seconds to read each video and paragraph once, to compute all similarities, and to ground every
paragraph's sentences in its own video and in candidates.
"""
DATA_NOTE = """
Milliseconds per batch for its items and their collation in one process, and for the loader as
training uses it. `start` is the seconds from the start of the process to the end of the first step.
"""
GROWTH_NOTE = """
Time at three sizes, and the exponent b of the fitted law time = a · size^b, which is below 1 where
constant costs still count. N is timed with the experiment's own layers and D = 128; a dense map has
N (N + 1) / 2 proposals, a sparse one of 32, 64 and 128 clips 428, 1,104 and 2,548. `sentences of a
paragraph` are those of 4 paragraphs of a step; `videos` are read and compared with 16 paragraphs.
"""
PARTS = ("forward", "backward", "optimizer", "step")


def rows_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(cells) + " |"
        for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)
    ]


def step_row(name: str, result: dict[str, Any]) -> list[str]:
    seconds = result["seconds"]
    return [
        name,
        f"{result['paragraphs']} / {result['sentences']}",
        *(f"{seconds.get(part, 0.0):.3g}" for part in PARTS),
        f"{result['peak_bytes'] / 2**30:.2f}",
        f"{result['paragraphs'] / seconds['step']:.3g}",
        f"{result['sentences'] / seconds['step']:.3g}",
        f"{result['flops'] / 1e9:.3g}",
        f"{result['matrix_rate'] / 1e9:.3g}",
        share_of_peak(result),
    ]


def share_of_peak(result: dict[str, Any]) -> str:
    """Of the matrix rate; nothing where it would not be a share."""
    if result["convolution_flops"] > MOST_FILTERED * result["flops"]:
        return "–"
    rate = result["flops"] / result["seconds"]["step"]
    return f"{100 * rate / result['matrix_rate']:.0f} %"


STEP_HEAD = (
    "",
    "paragraphs / sentences",
    *PARTS,
    "GiB",
    "paragraphs/s",
    "sentences/s",
    "GFLOP",
    "peak GFLOP/s",
    "share",
)


def step_table(cases: dict[str, Any]) -> list[str]:
    return rows_of(STEP_HEAD, [step_row(name, result) for name, result in cases["step"].items()])


def stacks_table(cases: dict[str, Any]) -> list[str]:
    head = ("", "clips", "kernel", "layers", "maps", "ours", "full square", "ratio")
    rows = []
    for name, clips, maps, kernel, layers in STACKS:
        times, ours, square = (
            cases["stacks"][f"{name}: {part}"] for part in ("time", "ours", "full square")
        )
        ratios = times["ratios"]
        rows.append(
            [
                name,
                *map(str, (clips, kernel, layers, maps)),
                *(f"{times['seconds'][kind]:.3g}" for kind in ("ours", "full square")),
                f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                f"{times['difference']:.0e}",
                *(f"{one['peak_bytes'] / 2**30:.2f}" for one in (ours, square)),
            ]
        )
    return rows_of((*head, "difference", "GiB, ours", "GiB, full square"), rows)


def options_table(cases: dict[str, Any]) -> list[str]:
    rows = [step_row(f"`{name}`", result) for name, result in cases["options"].items()]
    return rows_of(STEP_HEAD, rows)


def evaluation_table(cases: dict[str, Any]) -> list[str]:
    parts = ("reading", "similarities", "grounding", "evaluation")
    head = ("", "videos", "sentences", "pairs", *parts, "GiB", "sentences/s", "pairs/s")
    rows = []
    for name, result in cases["evaluation"].items():
        seconds = result["seconds"]
        rows.append(
            [
                name,
                *(f"{result[key]:,}" for key in ("videos", "sentences", "pairs")),
                *(f"{seconds[part]:.3g}" for part in parts),
                f"{result['peak_bytes'] / 2**30:.2f}",
                f"{result['sentences'] / seconds['evaluation']:.3g}",
                f"{result['pairs'] / seconds['grounding']:.3g}",
            ]
        )
    return rows_of(head, rows)


def data_table(cases: dict[str, Any]) -> list[str]:
    head = ("", "corpus", "paragraphs", "items", "collate", "loader", "workers", "start")
    rows = []
    for name, result in cases["data"].items():
        seconds = result["seconds"]
        rows.append(
            [
                name,
                result["corpus"],
                str(result["paragraphs"]),
                *(f"{1000 * seconds[part]:.3g}" for part in ("items", "collate", "loader")),
                str(result["workers"]),
                f"{seconds['start']:.3g}",
            ]
        )
    return rows_of(head, rows)


def growth_table(cases: dict[str, Any]) -> list[str]:
    rows = []
    for what, sizes in GROWTH.items():
        costs = [growing_cost(what, cases["growth"][f"{what}: {size}"]) for size in sizes]
        times = ", ".join(f"{size}: {cost:.3g} s" for size, cost in zip(sizes, costs, strict=True))
        rows.append([what, times, f"{exponent(sizes, costs):.2f}"])
    return rows_of(("", "time", "exponent"), rows)


def growing_cost(what: str, result: dict[str, Any]) -> float:
    """The part of a measurement that should grow with ``what``."""
    return sum(result["seconds"][part] for part in GROWING.get(what, ("step",)))


def main() -> None:
    args = parse_arguments()
    if args.one:
        print(json.dumps(measure(json.loads(args.one))))
        return
    check(args)
    if args.gpu:
        return run_gpu(args)
    results = run_all(args)
    gpu = gpu_section(Path(f"{args.out or ROOT / 'docs' / 'benchmarks'}.gpu.json"))
    text = page(results) + "\n".join(gpu) + "\n"
    print(text)
    if args.out:
        for suffix, content in (("md", text), ("json", json.dumps(results, indent=1) + "\n")):
            write_bytes(Path(f"{args.out}.{suffix}"), content.encode())


if __name__ == "__main__":
    run_script(main)
