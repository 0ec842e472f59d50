"""Benchmarks and plans: what is measured, how it is reported, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lib.base.runtime import Runtime
from lib.commands import plan
from lib.config.config import load_config
from lib.config.options import SCHEMA, fit_option
from lib.tools import profiling
from lib.tools.corpus_sizes import split_sizes
from lib.tools.measuring import Extrapolation, SplitSizes, sizes_of, small_steps
from lib.training.batch_gradient import BatchGradient
from lib.training.build import open_model, open_optimization
from moment_localization import benchmark
from tests import runs
from tests.properties import DIMS

CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_experiment(tmp_path_factory.mktemp("benchmark"))


def test_a_typical_batch_has_the_lengths_of_activitynet() -> None:
    batch = profiling.typical_batch(DIMS, 16)
    assert (len(batch), len(batch.flat_index)) == (16, 58)
    many = profiling.typical_batch(DIMS, 160)
    assert len(many.flat_index) / 160 == pytest.approx(3.74, rel=0.05)
    assert many.word_counts.float().mean() == pytest.approx(13.5, rel=0.05)
    assert (many.moments[many.sentence_mask].diff(dim=1) > 0).all()
    again = profiling.typical_batch(DIMS, 16)
    assert torch.equal(batch.words, again.words) and torch.equal(batch.video, again.video)


def test_the_options_compared_are_no_defaults() -> None:
    options = SCHEMA["TRAIN"]
    for name, value in benchmark.OPTIONS.items():
        assert fit_option(value, options[name]) != options[name].default


def test_a_power_law_is_found_again() -> None:
    sizes = [4, 8, 16]
    assert profiling.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)


def test_a_multiplication_and_an_addition_are_two_operations() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    assert profiling.count_flops(lambda: layer(x)) == profiling.Operations(2 * 3 * 5 * 7, 0)
    grouped, square = nn.Conv2d(6, 4, 3, groups=2), torch.randn(5, 6, 8, 8)
    forward = 2 * 5 * 4 * 6 * 6 * 3 * 3 * 3
    assert profiling.count_flops(lambda: grouped(square)) == profiling.Operations(forward, forward)
    both = profiling.count_flops(lambda: grouped(square).sum().backward())
    assert both == profiling.Operations(2 * forward, 2 * forward)
    # Backwards once more for the weights; nobody asks for the input's gradient.
    assert profiling.count_flops(lambda: layer(x).sum().backward()).total == 2 * 2 * 3 * 5 * 7


def test_a_step_of_convolutions_has_no_share_of_the_peak() -> None:
    result = {"seconds": {"step": 2.0}, "matrix_rate": 10.0, "flops": 10}
    assert benchmark.share_of_peak({**result, "convolution_flops": 5}) == "50 %"
    assert benchmark.share_of_peak({**result, "convolution_flops": 6}) == "–"


def test_paragraphs_have_as_many_sentences_as_are_asked_for() -> None:
    assert profiling.typical_batch(DIMS, 3, sentences=[7]).sentence_counts.tolist() == [7, 7, 7]


def test_work_is_repeated_for_about_the_time_and_once_at_least() -> None:
    assert profiling.repeated(lambda: time.sleep(0.02), seconds=0.1) in (3, 4, 5)
    assert profiling.repeated(lambda: time.sleep(0.02), seconds=0.0) == 1
    assert profiling.repeated(lambda: None, seconds=10.0, most=3) == 3


def test_memory_counts_what_is_touched_and_given_back() -> None:
    """In a fork, since the peak is that of a process's whole life."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        profiling.Memory(CPU).peak(), torch.ones(1_000)  # a fork has no library's pages at first
        memory = profiling.Memory(CPU)
        torch.ones(30_000_000)
        os.write(write, str(memory.peak()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    found = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    assert 115e6 < found < 160e6


def test_a_timed_step_is_a_step() -> None:
    from lib.losses import Criterion
    from lib.models.tan2d import TAN2D
    from lib.training.optimization import Optimization

    torch.manual_seed(0)
    model = TAN2D(DIMS, hidden_size=8, lstm_layers=1, kernel_size=3, conv_layers=1)
    before = [p.detach().clone() for p in model.parameters()]
    optimization = Optimization(model, Criterion(TAN2D.losses(), {"overlap": 1.0}))
    clock = profiling.Clock(CPU)
    batch = profiling.typical_batch(DIMS, 2)
    optimization.steps *= 2  # a plan of two stages
    profiling.timed_step(optimization, BatchGradient(model, CPU), batch, clock, max_grad_norm=10)
    assert all(len(times) == 1 for times in clock.seconds.values())
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    times = clock.medians()
    parts = sum(times[name] for name in ("transfer", "forward", "backward", "optimizer"))
    assert 0.3 * times["step"] < parts <= times["step"]


def run_benchmark(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--threads", "1", "--gpus", "cpu", *flags])
    benchmark.main()


def test_a_page_of_tables_and_the_numbers_beside_it(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(spec: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(benchmark.measure({**spec, "started": time.time()})))

    monkeypatch.setattr(benchmark, "run_case", in_this_process)
    monkeypatch.setattr(benchmark, "matrix_rate", lambda runtime: 1e12)
    monkeypatch.setattr(benchmark, "OPTIONS", {"PRECISION": "bfloat16"})
    stacks = [(f"{name}, tiny", 9, 2, 3, 2) for name in ("2D-TAN", "MMN", "CDN")]
    for name, value in {"STACKS": stacks, "STACK_WIDTH": 8, "ALTERNATIONS": 3}.items():
        monkeypatch.setattr(benchmark, name, value)
    growth = dict.fromkeys(benchmark.GROWTH, (2, 4, 8))
    monkeypatch.setattr(benchmark, "GROWTH", growth)
    flags = ["--cfg", str(tiny_experiment), "--seconds", "0.01", "--corpus", "5", "--batch", "4"]
    run_benchmark(monkeypatch, *flags, "--out", str(tmp_path / "page"))

    found = json.loads((tmp_path / "page.json").read_text("utf-8"))
    assert {"device", "torch", "commit", "python"} < set(found)
    assert set(found["cases"]) == set(benchmark.CASES)
    stack = next(iter(found["cases"]["stacks"].values()))
    assert stack["spec"]["cfg"] == "experiments/synthetic/tan2d.yaml"  # on any machine
    step = found["cases"]["step"]["tiny"]
    assert step["flops"] > 0 and step["paragraphs"] == 4
    assert found["cases"]["evaluation"]["tiny"]["pairs"] == 5 * step_sentences(5)
    assert list(found["cases"]["options"]) == ["PRECISION: bfloat16"]
    assert len(found["cases"]["stacks"]) == 3 * len(stacks)
    for name, *_ in stacks:
        turns = found["cases"]["stacks"][f"{name}: time"]
        assert turns["difference"] < 1e-5 and len(turns["ratios"]) == 3
        assert list(found["cases"]["stacks"][f"{name}: ours"]["seconds"]) == ["ours"]

    page = (tmp_path / "page.md").read_text("utf-8")
    assert found["device"] in page and found["commit"] in page
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line[:2] == "| "}
    share = 100 * step["flops"] / step["seconds"]["step"] / 1e12
    assert f"{share:.0f} %" in next(line for line in page.splitlines() if line[:6] == "| tiny")
    stack = rows["CDN, tiny"].split("|")
    assert stack[2:6] == [" 9 ", " 3 ", " 2 ", " 2 "]
    assert stack[8].startswith(f" {turns['ratios'][1]:.2f} (")
    times = [
        found["cases"]["growth"][f"pairs: {size}"]["seconds"]["grounding"] for size in (2, 4, 8)
    ]
    assert rows["pairs"].split("|")[-2].strip() == f"{profiling.exponent((2, 4, 8), times):.2f}"


def step_sentences(paragraphs: int) -> int:
    return len(profiling.typical_batch(DIMS, paragraphs).flat_index)


def test_a_case_runs_in_a_process_of_its_own(tiny_experiment: Path) -> None:
    spec = {"kind": "step", "cfg": str(tiny_experiment), "set": [], "seconds": 0.1, "batch": 2}
    found = benchmark.run_case({**spec, "threads": 1, "gpus": "cpu"})
    assert found["peak_bytes"] > 0 and found["matrix_rate"] > 0
    with pytest.raises(benchmark.InputError, match="TRAIN.LR"):
        benchmark.run_case({**spec, "set": ["TRAIN.LR=x"], "threads": 1, "gpus": "cpu"})


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (["--cases", "step,nothing"], "--cases: 'nothing' is none"),
        (["--batch", "0"], "--batch: found 0"),
        (["--corpus", "4", "--candidates", "4"], "--candidates: found 4, expected fewer"),
    ],
)
def test_flags_that_measure_nothing_are_refused(
    flags: list[str], reported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(benchmark.InputError, match=reported):
        run_benchmark(monkeypatch, *flags)


def prediction(**changed: float) -> plan.Prediction:
    known: dict[str, Any] = {"step": 2.0, "data": 3.0, "workers": 1, "steps": 10, "epochs": 6}
    return plan.Prediction(**{**known, "validation": 30.0, "validations": 3, **changed})


def test_a_plan_adds_up() -> None:
    """60 steps of 2 s, each with 1 s more of waiting for the one loader; 3 validations of 30 s."""
    assert prediction().parts == {"the device, in training": 120, "data": 60, "validation": 90}
    assert prediction().lines() == [
        "epoch: 30 s, 10 steps; validation: 30 s",
        "run: 4.5 min, 6 epochs and 3 validations",
        "bottleneck: the device, in training (44 % of the time)",
    ]
    assert prediction(workers=2).waiting == 0
    assert prediction(workers=0).waiting == 3
    assert "bottleneck: data" in prediction(workers=0, data=20.0).lines()[-1]
    assert "bottleneck: validation" in prediction(validation=300.0).lines()[-1]


def test_a_plan_says_how_sure_it_is() -> None:
    assert "epoch: 30 s (± 20 %), 10 steps; validation: 30 s" in prediction(spread=0.2).lines()


def test_a_plan_is_made_before_there_is_data(tiny_experiment: Path, tmp_path: Path) -> None:
    """And nothing is made: no world, no run, no cache."""
    flags = ("--dataDir", tmp_path / "nowhere", "--json", tmp_path / "plan.json")
    ended = runs.run("plan", "--cfg", tiny_experiment, *flags, output=tmp_path / "out")
    assert ended.status == 0, ended.output
    lines = ended.output.splitlines()
    assert "sizes of the synthetic world, as its knobs have them" in lines
    for begin in ("step:", "epoch:", "memory:", "disk:", "features:", "cache:", "word vectors:"):
        assert any(line.startswith(begin) for line in lines), ended.output
    numbers = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert numbers["steps"] == 3 and numbers["cache_bytes"] == (12 + 6) * 32 * 12 * 4
    assert numbers["run_seconds"] > 3 * 3 * numbers["step_seconds"] > 0
    assert not (tmp_path / "nowhere").exists()


def opened(folder: Path, *changes: str) -> Any:
    cfg = runs.REPOSITORY / "experiments/dense_charades/tan2d.yaml"
    return load_config(cfg, [f"DATA_DIR={folder}", *changes])


def test_a_corpus_is_counted_or_known(tmp_path: Path) -> None:
    sizes, said = split_sizes(opened(tmp_path))
    assert (
        said == "no annotations of Charades-STA are there yet; sizes of Charades-STA as published"
    )
    assert sizes == {"train": SplitSizes(4802, 11164, 4802), "val": SplitSizes(534, 1240, 534)}
    limited, _ = split_sizes(opened(tmp_path, "DATASET.LIMIT_TRAIN=100"))
    assert limited["train"].paragraphs == 100 and limited["val"] == sizes["val"]
    own = ("NAME=mine", "ANNOTATIONS={train: a.json}", "FEATURES=b.hdf5")
    unknown, said = split_sizes(opened(tmp_path, *(f"DATASET.{each}" for each in own)))
    assert "no annotations of mine" in said and unknown["train"].paragraphs == 10_009
    folder = tmp_path / "charades"
    folder.mkdir()
    videos = {
        f"v{i}": {"duration": 9, "timestamps": [[0, 3]] * 2, "sentences": ["He runs."] * 2}
        for i in range(20)
    }
    (folder / "train.json").write_text(json.dumps(videos), "utf-8")
    counted, said = split_sizes(opened(tmp_path))
    assert said == f"sizes counted in the annotations in {folder}"
    assert counted == {"train": SplitSizes(18, 36, 18), "val": SplitSizes(2, 4, 2)}


def test_what_small_steps_say_of_a_large_one() -> None:
    """Between the line through the last two, and proportion."""
    cost = Extrapolation((2, 4, 8), (9.0, 5.0, 9.0))
    assert cost.at(8) == (9.0, 9.0) and cost.at(16) == (17.0, 18.0)
    assert cost.straight(16) == 17.0
    assert Extrapolation((4,), (2.0,)).at(8) == (4.0, 4.0)
    falling = Extrapolation((2, 4), (5.0, 4.0))
    assert falling.at(8) == (4.0, 8.0) and falling.straight(8) == 4.0


def test_small_steps_go_as_far_as_time_allows(tiny_experiment: Path) -> None:
    config = load_config(tiny_experiment, ["TRAIN.BATCH_SIZE=8"])
    dims = sizes_of(config)

    def sizes(seconds: float) -> tuple[float, ...]:
        model = open_model(config, SimpleNamespace(dims=dims), CPU)  # type: ignore[arg-type]
        optimization = open_optimization(config, model, 3)
        found = small_steps(config, dims, model, optimization, CPU, seconds=seconds)
        assert all(cost > 0 for cost in (*found.seconds.costs, *found.memory.costs))
        return tuple(found.seconds.sizes)

    assert sizes(0.0) == (2, 8)
    assert sizes(10.0) == (2, 8, 15, len(profiling.typical_batch(dims, 8).flat_index))


def test_a_plan_reads_the_data_and_leaves_nothing(tiny_experiment: Path, tmp_path: Path) -> None:
    ended = runs.run("plan", "--cfg", tiny_experiment, "--steps", "2", output=tmp_path / "out")
    assert ended.status == 0, ended.output
    for begin in ("step:", "epoch:", "run:", "bottleneck:", "memory:", "disk:", "cache:"):
        assert any(line.startswith(begin) for line in ended.output.splitlines()), ended.output
    assert not (tiny_experiment.parent / "save").exists()
    assert not list(tiny_experiment.parent.rglob("*.rows"))


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (["--steps", "0"], "--steps: '0' is none of the numbers that are possible, 1, 2"),
        (["--set", "TRAIN.LR=x"], "TRAIN.LR"),
        (["--steps", "1", "--dataDir", "nowhere", "--set", "DATASET.NAME=charades"], "nowhere"),
    ],
)
def test_a_plan_of_what_cannot_run_is_refused(
    flags: list[str], reported: str, tiny_experiment: Path, tmp_path: Path
) -> None:
    ended = runs.run("plan", "--cfg", tiny_experiment, *flags, output=tmp_path / "out")
    assert ended.status == 2 and reported in ended.output


def test_what_is_kept_of_a_validation_is_counted() -> None:
    assert (
        profiling.tensor_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.int64)]})
        == 28
    )
    assert np.isfinite(profiling.peak_resident())
