"""What is to be known of a GPU, in parts that each end by themselves: whether it computes what the
processor does, and how fast.

A part is a function of a device and of ``Scale``; on a processor, and small, it is the same code.
Each gives a dictionary with ``said``, what a reader of the table wants to know of it.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..base import distributed
from ..base.batch import Batch, DataDims
from ..base.errors import InputError
from ..base.files import write_text
from ..base.runtime import Runtime
from ..base.terminal import duration
from ..config.config import load_config
from ..models.interface import Model
from ..models.layers.proposal_map import MaskedConvStack
from ..training.batch_gradient import BatchGradient
from ..training.build import open_batch_gradient, open_decoding, open_optimization
from ..training.prediction import evidence_of, ground_in, read_split, similarities
from .full_square import FullSquare
from .measuring import SIZES, measure_step, open_without_data
from .profiling import Clock, count_flops, matrix_rate, repeated, timed_step, typical_batch

# What this project needs and a machine for Torch need not have, as pip calls it, and as Python.
WHEELS = {
    "easydict": "easydict",
    "terminaltables": "terminaltables",
    "jaxtyping": "jaxtyping",
    "beartype": "beartype",
    "h5py": "h5py",
    "PyYAML": "yaml",
    "tqdm": "tqdm",
    "snowballstemmer": "snowballstemmer",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
}
MOST_SECONDS = 460  # of all parts together
TOLERANCE = 5e-3  # of scores, relative to the largest: sums are in another order
TURNS = 5
TESTS_SECONDS = 100
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Scale:
    """How large the parts are.

    Attributes:
        reference: the experiment of the reference model, by its file …
        boundaries: … and that of 2D-TAN.
        compared: experiments whose scores are compared with those of the processor.
        changes: options that are set in ``reference`` and ``boundaries``.
        batches: paragraphs of a step.
        paragraphs: of an epoch.
        sentences: of a test pass.
        seconds: about how long a measurement is repeated.
    """

    reference: str
    boundaries: str
    compared: tuple[str, ...]
    changes: tuple[str, ...] = ()
    batches: tuple[int, ...] = (16, 64)
    paragraphs: int = SIZES["activitynet"].splits["train"].paragraphs
    sentences: int = 17_031
    seconds: float = 2.0

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Scale:
        """From its fields, as ``asdict`` or JSON has them."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return Scale(**plain)


@dataclass(frozen=True)
class Part:
    """A part to be run: a name of ``PARTS``, its arguments, and the seconds that it may take."""

    title: str
    name: str
    arguments: Mapping[str, Any]
    limit: float


def missing_wheels() -> list[str]:
    """The packages that this Python does not have."""
    return [name for name, module in WHEELS.items() if not _known(module)]


def _known(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# Correctness.


def same_scores(runtime: Runtime, scale: Scale) -> dict[str, Any]:
    """Similarities and evidence of moments, on the device and on the processor."""
    apart, here = {}, Runtime(torch.device("cpu"))
    for path in scale.compared:
        config, dims, model = _opened(path, (), here)
        batch = typical_batch(dims, 4)
        theirs = _answers(config, model.eval(), batch)
        there = copy.deepcopy(model).to(runtime.device)
        ours = _answers(config, there, batch.to(runtime.device))
        apart[Path(path).stem] = max(
            float((ours[name].cpu() - value).abs().max() / value.abs().max().clamp(min=1e-6))
            for name, value in theirs.items()
        )
    worst = max(apart, key=lambda name: apart[name])
    same = apart[worst] < TOLERANCE
    said = f"{'the same' if same else 'NOT the same'}; furthest apart {worst}, {apart[worst]:.0e}"
    return {"said": said, "same": same, "apart": apart}


@torch.no_grad()
def _answers(config: Any, model: Model, batch: Batch) -> dict[str, Tensor]:
    texts, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found: dict[str, Tensor] = {}
    if model.retrieves():
        found["similarities"] = model.similarity(texts, videos)
    if model.grounds():
        evidence = evidence_of(model, texts, videos, open_decoding(config))
        found |= {f"clips {name}": clips for name, clips in evidence.clips.items()}
        if evidence.scores is not None:
            found["scores"] = evidence.scores
    return found


def step_tests(runtime: Runtime, scale: Scale) -> dict[str, Any]:
    """The tests of what may make a step faster, among them one that needs a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/test_step_options.py"]
    try:
        ended = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TESTS_SECONDS - 5
        )
    except subprocess.TimeoutExpired:
        return {"said": f"not done within {TESTS_SECONDS - 5} s", "same": False}
    last = (ended.stdout.strip().splitlines() or [f"status {ended.returncode}"])[-1]
    return {"said": last, "same": ended.returncode == 0}


def no_waits(runtime: Runtime, scale: Scale) -> dict[str, Any]:
    """A step, from its batch in main memory to its gradient, without waiting for the device."""
    waiting = {}
    for path in (scale.reference, scale.boundaries):
        config, dims, model = _opened(path, scale.changes, runtime)
        whole = open_batch_gradient(config, model.train(), runtime)
        optimization = open_optimization(config, model, 10)
        batch = typical_batch(dims, min(scale.batches))
        if runtime.pin_memory:
            batch = batch.pin_memory()
        for step in optimization.steps:  # libraries are made ready by the first one
            whole.backward(step.criterion, whole.prepare(batch), 0, 0, 0, 0)
        try:
            with runtime.refusing_waits():
                for step in optimization.steps:
                    whole.backward(step.criterion, whole.prepare(batch), 0, 0, 0, 0)
        except RuntimeError as fault:
            place = traceback.extract_tb(fault.__traceback__)
            ours = [line for line in place if str(REPOSITORY) in line.filename]
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "Torch"
            waiting[Path(path).stem] = f"{where}: {str(fault).splitlines()[0][:120]}"
    said = "; ".join(f"{name} waits at {where}" for name, where in waiting.items())
    kind = "no step waits" if runtime.counts_memory else "a processor waits for nothing"
    return {"said": said or kind, "same": not waiting, "waiting": waiting}


def two_processes(runtime: Runtime, scale: Scale) -> dict[str, Any]:
    """The gradient of a batch that two processes share on this one device, and that of the batch in
    one, by NCCL where that allows two processes on a device, else by gloo."""
    kind, faults = runtime.device.type, []
    wanted = _gradient(runtime, scale, None)
    backends = {} if kind == "cpu" else {"NCCL": f"cpu:gloo,{kind}:nccl"}
    for name, backend in {**backends, "gloo": "gloo"}.items():
        with tempfile.TemporaryDirectory() as folder:
            fault = _together(folder, backend, runtime, scale)
            if fault:
                faults.append(f"{name}: {fault}")
                continue
            found = torch.load(Path(folder) / "0.pt", weights_only=True)
        apart = float((found - wanted).abs().max() / wanted.abs().max())
        refused = f"; {faults[0]}" if faults else ""
        said = f"by {name}, gradients {apart:.0e} apart{refused}"
        return {"said": said, "same": apart < TOLERANCE, "by": name, "faults": faults}
    return {"said": "; ".join(faults), "same": False, "by": None, "faults": faults}


def _together(folder: str, backend: str, runtime: Runtime, scale: Scale) -> str:
    """Why two processes did not compute a gradient together; "" if they did."""
    context = multiprocessing.get_context("spawn")
    arguments = (folder, backend, str(runtime.device), runtime.precision, asdict(scale))
    children = [context.Process(target=_share, args=(rank, *arguments)) for rank in range(2)]
    for child in children:
        child.start()
    until = time.monotonic() + 45
    while any(child.is_alive() for child in children) and time.monotonic() < until:
        time.sleep(0.1)
        if any(child.exitcode for child in children):  # the other one would wait for it
            break
    for child in children:
        child.kill()
        child.join()
    if all(child.exitcode == 0 for child in children):
        return ""
    said = [path.read_text("utf-8") for path in sorted(Path(folder).glob("*.txt"))]
    return said[0] if said else "it did not end in 45 s"


def _share(
    rank: int, folder: str, backend: str, device: str, precision: str, scale: Mapping[str, Any]
) -> None:
    """One of the two processes."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group(
            backend,
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=40),
        )
        found = _gradient(Runtime(torch.device(device), precision), Scale.of(scale), rank)
        torch.save(found, Path(folder) / f"{rank}.pt")
        distributed.end()
    except Exception as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[-1][:200]
        (Path(folder) / f"{rank}.txt").write_text(reason, "utf-8")
        os._exit(1)


def _gradient(runtime: Runtime, scale: Scale, rank: int | None) -> Tensor:
    """Of all parameters, on the processor; by this process alone, or by its part of the batch."""
    config, dims, model = _opened(scale.reference, scale.changes, runtime)
    optimization = open_optimization(config, model.train(), 10)
    whole = BatchGradient(model, runtime)
    batch = typical_batch(dims, 4)
    batch = batch if rank is None else batch.split(2)[rank]
    step = optimization.steps[0]
    with optimization.learning(step):
        whole.backward(step.criterion, whole.prepare(batch), 0, 0, 0, 0)
    gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
    return torch.cat(gradients)


# Speed.


def step(
    runtime: Runtime, scale: Scale, *, path: str, batch: int, changes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A training step, the epoch that it makes, and the peak of memory."""
    config = load_config(path, [*scale.changes, *changes])
    runtime = Runtime(runtime.device, config.TRAIN.PRECISION)
    found = measure_step(config, runtime, seconds=scale.seconds, batch=batch, flops=False)
    seconds = found["seconds"]["step"]
    epoch = seconds * math.ceil(scale.paragraphs / batch)
    said = (
        f"{seconds:.3g} s, an epoch {duration(epoch)}, {found['peak_bytes'] / 2**30:.2f} GiB, "
        f"{found['sentences'] / seconds:.3g} sentences/s"
    )
    return {"said": said, "epoch_seconds": epoch, **found}


def map_stack(runtime: Runtime, scale: Scale) -> dict[str, Any]:
    """2D-TAN's map stack in bfloat16, of ours and as published, and the share of the rate at which
    the device multiplies large matrices."""
    runtime = Runtime(runtime.device, "bfloat16")
    peak = matrix_rate(runtime)
    _, dims, model = _opened(scale.boundaries, scale.changes, runtime)
    stack = _stack(model)
    maps = len(typical_batch(dims, min(scale.batches)).flat_index)
    width = next(stack.parameters()).shape[0]
    cells = torch.randn(maps, len(stack.grid), width, device=runtime.device, requires_grad=True)
    found, clock = {}, Clock(runtime)
    for name, kind in {"ours": stack, "full square": FullSquare(stack)}.items():

        def once(kind: nn.Module = kind) -> None:
            stack.zero_grad()
            with runtime.autocast():
                out = kind(cells)
            out.float().square().sum().backward()

        flops = count_flops(once).total
        timed = _timed(clock, name, once)
        repeated(timed, seconds=scale.seconds)
        seconds = min(clock.seconds[name])
        found[name] = {"seconds": seconds, "flops": flops, "share": flops / seconds / peak}
    said = ", ".join(
        f"{name} {each['seconds']:.3g} s ({100 * each['share']:.0f} % of the rate)"
        for name, each in found.items()
    )
    return {"said": f"{said}; rate {peak / 1e12:.3g} TFLOP/s", "peak": peak, "stacks": found}


def _timed(clock: Clock, name: str, work: Callable[[], None]) -> Callable[[], None]:
    def timed() -> None:
        with clock(name):
            work()

    return timed


def official_step(runtime: Runtime, scale: Scale) -> dict[str, Any]:
    """2D-TAN's step with its stack over the full square, as published, beside ours, in turns."""
    config, dims, ours = _opened(scale.boundaries, scale.changes, runtime)
    theirs = copy.deepcopy(ours)
    name, stack = next(
        (n, each) for n, each in theirs.named_modules() if isinstance(each, MaskedConvStack)
    )
    setattr(
        theirs.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], FullSquare(stack)
    )
    batch, clock = typical_batch(dims, min(scale.batches)), {}
    steps: dict[str, Callable[[], None]] = {}
    for kind, model in {"ours": ours, "full square": theirs}.items():
        clock[kind] = Clock(runtime)
        optimization = open_optimization(config, model.train(), 10)
        whole = open_batch_gradient(config, model, runtime)

        steps[kind] = partial(
            timed_step,
            *(optimization, whole, batch, clock[kind]),
            max_grad_norm=config.TRAIN.MAX_GRAD_NORM,
        )
    for _ in range(TURNS + 1):  # the first turn warms up
        for once in steps.values():
            once()
    seconds = {kind: each.seconds["step"][1:] for kind, each in clock.items()}
    ratios = sorted(a / b for a, b in zip(seconds["ours"], seconds["full square"], strict=True))
    middle = {kind: sorted(each)[len(each) // 2] for kind, each in seconds.items()}
    said = (
        f"ours {middle['ours']:.3g} s, full square {middle['full square']:.3g} s, ratio "
        f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    return {"said": said, "seconds": middle, "ratios": ratios}


def test_pass(runtime: Runtime, scale: Scale, *, limit: float = 40.0) -> dict[str, Any]:
    """A test split read, all its similarities, and every sentence grounded in its own video; what
    takes longer than ``limit`` seconds is that of a part of it, and extrapolated."""
    config, dims, model = _opened(scale.reference, scale.changes, runtime)
    model.eval()
    test, decoding = config.TEST, open_decoding(config)
    batch = typical_batch(dims, test.BATCH_SIZE)
    whole = max(1, math.ceil(scale.sentences / len(batch.flat_index)))
    rules = {"pairs": test.PAIRS, "moments": test.MOMENTS, "nms_iou": test.NMS_IOU}

    def once(batches: int) -> dict[str, float]:
        clock, count = Clock(runtime), batches * len(batch)
        with clock("reading"):
            rows = [batch.video] * batches
            read = read_split(model, [batch] * batches, rows, runtime, num_videos=count)
        with clock("similarities"):
            similarities(model, read, runtime)
        with clock("grounding"):
            own = np.arange(count)[:, None]
            ground_in(model, read, own, runtime, decoding, {}, **rules)
        return clock.medians()

    once(1)  # warms up
    few = min(2, whole)
    seconds = once(few)
    times = whole / few
    factors = {"reading": times, "similarities": times**2, "grounding": times}
    extrapolated = sum(factors[name] * value for name, value in seconds.items()) > limit
    if extrapolated:
        seconds = {name: factors[name] * value for name, value in seconds.items()}
    else:
        seconds = once(whole)
    total = sum(seconds.values())
    how = f", extrapolated from {few * len(batch.flat_index):,}" if extrapolated else ""
    said = f"{duration(total)}, {scale.sentences / total:.3g} sentences/s{how}"
    return {"said": said, "seconds": seconds, "extrapolated": extrapolated}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "same_scores": same_scores,
    "step_tests": step_tests,
    "no_waits": no_waits,
    "two_processes": two_processes,
    "step": step,
    "map_stack": map_stack,
    "official_step": official_step,
    "test_pass": test_pass,
}


def all_parts(scale: Scale, options: Mapping[str, Any]) -> list[Part]:
    """What is measured, in this order: correctness first, and what a compiler makes of it last,
    which may take minutes.

    Args:
        options: of TRAIN, each with a value that is compared with its default.
    """
    parts = [
        Part("scores on the processor and here", "same_scores", {}, 60),
        Part("tests/test_step_options.py", "step_tests", {}, TESTS_SECONDS),
        Part("waiting inside a step", "no_waits", {}, 40),
        Part("two processes on this card", "two_processes", {}, 110),
    ]
    for batch in scale.batches:
        for path in (scale.reference, scale.boundaries):
            for precision in ("float32", "bfloat16"):
                settings = (f"TRAIN.PRECISION={precision}",)
                arguments = {"path": path, "batch": batch, "changes": settings}
                title = f"a step of {Path(path).stem}, {batch} paragraphs, {precision}"
                parts.append(Part(title, "step", arguments, 30))
    sentences = f"{scale.sentences:,} sentences"
    parts += [
        Part("the map stack in bfloat16", "map_stack", {}, 40),
        Part("2D-TAN as published beside ours", "official_step", {}, 40),
        Part(f"a test pass over {sentences}", "test_pass", {}, 75),
    ]
    batch, name = min(scale.batches), Path(scale.reference).stem
    for option, value in sorted(options.items(), key=lambda each: each[0] == "COMPILE"):
        if option != "PRECISION":
            arguments = {
                "path": scale.reference,
                "batch": batch,
                "changes": (f"TRAIN.{option}={value}",),
            }
            title = f"a step of {name}, {batch} paragraphs, {option} {value}"
            parts.append(Part(title, "step", arguments, 200 if option == "COMPILE" else 30))
    return parts


def run_part(spec: Mapping[str, Any], runtime: Runtime) -> dict[str, Any]:
    """The part that ``run_parts`` described."""
    return PARTS[spec["part"]](runtime, Scale.of(spec["scale"]), **spec["arguments"])


def run_parts(
    parts: list[Part],
    scale: Scale,
    run: Callable[[dict[str, Any], float], dict[str, Any]],
    about: Mapping[str, Any],
    path: Path,
    *,
    most: float = MOST_SECONDS,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Every part in its turn. One that fails or does not end leaves the others' results, which are
    in the file after each.

    Args:
        run: runs what ``run_part`` reads, with a limit in seconds.
        about: the card and the software, for the file.
        most: seconds for all of them; those for which none are left are passed over.
    """
    found: dict[str, Any] = {**about, "scale": asdict(scale), "parts": {}}
    began = time.monotonic()
    for part in parts:
        left = most - (time.monotonic() - began)
        started = time.monotonic()
        spec = {"kind": "gpu", "part": part.name, "scale": asdict(scale)}
        if left < 5:
            result = {"fault": "passed over, since the time for all parts was spent"}
        else:
            try:
                result = run({**spec, "arguments": dict(part.arguments)}, min(part.limit, left))
            except InputError as fault:
                result = {"fault": str(fault)}
        spent = time.monotonic() - started
        found["parts"][part.title] = {**result, "part_seconds": round(spent, 1)}
        say(f"{part.title}: {result.get('said') or result['fault']} ({spent:.0f} s)")
        write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def table(found: Mapping[str, Any]) -> list[str]:
    """The rows of a Markdown table of what was found."""
    rows = [("", found["device"]), ("---", "---")]
    rows += [(title, each.get("said") or each["fault"]) for title, each in found["parts"].items()]
    return ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]


def _opened(path: str, changes: tuple[str, ...], runtime: Runtime) -> tuple[Any, DataDims, Model]:
    config = load_config(path, changes)
    return config, *open_without_data(config, runtime)


def _stack(model: Model) -> MaskedConvStack:
    return next(each for each in model.modules() if isinstance(each, MaskedConvStack))
