"""The parts of the GPU's bench on a processor, small: the same code, on another device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lib.base.errors import InputError
from lib.base.runtime import Runtime
from lib.models.layers.dynamic_conv import DynamicConvStack
from lib.models.layers.proposal_map import MaskedConvStack, ProposalGrid
from lib.tools import gpu_bench
from lib.tools.full_square import FullSquare
from lib.tools.gpu_bench import Part, Scale
from moment_localization import benchmark
from tests import runs

CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Scale:
    folder = tmp_path_factory.mktemp("gpu")
    text = {
        "BASE": str(runs.REPOSITORY / "experiments/synthetic/tan2d.yaml"),
        "DATASET": {"NUM_FRAMES": 32, "NUM_CLIPS": 8, "SYNTHETIC": runs.TINY_WORLD},
        "MODEL": {"PARAMS": {"hidden_size": 8, "kernel_size": 3, "conv_layers": 2}},
    }
    maps = folder / "tan2d.yaml"
    maps.write_text(yaml.safe_dump(text), "utf-8")
    tiny = str(runs.write_experiment(folder))
    return Scale(
        tiny, str(maps), (tiny, str(maps)), batches=(4,), paragraphs=9, sentences=20, seconds=0.01
    )


def run(part: Part, scale: Scale) -> dict[str, Any]:
    """As the process of a part does, its description and its result through JSON."""
    spec = {"part": part.name, "scale": vars(scale), "arguments": dict(part.arguments)}
    return json.loads(json.dumps(gpu_bench.run_part(json.loads(json.dumps(spec)), CPU)))


def test_every_part_runs_on_a_processor_too(scale: Scale) -> None:
    parts = gpu_bench.all_parts(scale, {"ACCUMULATE": 2, "COMPILE": True})
    assert parts[0].name == "same_scores" and parts[-1].arguments["changes"] == (
        "TRAIN.COMPILE=True",
    )
    assert {part.name for part in parts} == set(gpu_bench.PARTS)
    found = {p.title: run(p, scale) for p in parts[:-1] if p.name != "step_tests"}
    checked = [each for each in found.values() if "same" in each]
    assert len(checked) == 3 and all(each["same"] for each in checked), found
    step = found["a step of tiny, 4 paragraphs, ACCUMULATE 2"]
    assert step["epoch_seconds"] == pytest.approx(3 * step["seconds"]["step"])
    assert found["two processes on this card"]["by"] == "gloo"
    stacks = found["the map stack in bfloat16"]["stacks"]
    assert all(each["share"] > 0 and each["flops"] > 0 for each in stacks.values())
    assert not found["a test pass over 20 sentences"]["extrapolated"]
    assert gpu_bench.test_pass(CPU, scale, limit=0.0)["extrapolated"]
    assert all(each["said"] for each in found.values())


def test_scores_that_differ_are_told(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, calls = gpu_bench._answers, [0]

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        calls[0] += 1
        return {k: v * (1 + 0.01 * calls[0]) for k, v in answers(*arguments).items()}

    monkeypatch.setattr(gpu_bench, "_answers", wrong)
    found = gpu_bench.same_scores(CPU, scale)
    assert not found["same"] and found["said"].startswith("NOT the same; furthest apart")


def test_a_part_that_fails_leaves_the_others(scale: Scale, tmp_path: Path) -> None:
    limits, path = [], tmp_path / "found.json"

    def some(spec: dict[str, Any], limit: float) -> dict[str, Any]:
        limits.append(limit)
        if limits[1:]:
            assert json.loads(path.read_text("utf-8"))["parts"]["first"]["said"] == "fine"
            raise InputError("it took longer than 3 s, and its measurement was ended")
        return {"said": "fine"}

    parts = [Part(name, "no_waits", {}, 3.0) for name in ("first", "second")]
    said: list[str] = []
    found = gpu_bench.run_parts(parts, scale, some, {"device": "X"}, path, say=said.append)
    assert limits == [3.0, 3.0] and said[0].startswith("first: fine (")
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(found))
    assert gpu_bench.table(found)[-1].startswith("| second | it took longer than 3 s")
    late = gpu_bench.run_parts(parts, scale, some, {"device": "X"}, path, most=0, say=said.append)
    assert "time for all parts was spent" in late["parts"]["first"]["fault"] and len(limits) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--gpu", "--out", str(tmp_path / "x")])
    with pytest.raises(InputError, match="--gpu: no GPU is here"):
        benchmark.main()
    assert not list(tmp_path.iterdir())
    assert any("No GPU was at hand" in x for x in benchmark.gpu_section(tmp_path / "x.gpu.json"))


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_published_stack_is_ours(dynamic: bool) -> None:
    torch.manual_seed(0)
    grid = ProposalGrid(16)
    stack: Any = MaskedConvStack(
        4, grid, kernel_size=3, num_layers=2, padding="first", norm="count"
    )
    if dynamic:
        stack = DynamicConvStack(
            4, grid, kernel_size=3, num_layers=2, dynamic_layers=1, base_kernels=2
        ).eval()
    features, sentence = torch.randn(2, len(grid), 4), torch.randn(2, 4)
    ours = stack(features, sentence) if dynamic else stack(features)
    assert torch.allclose(ours, FullSquare(stack)(features, sentence), atol=1e-5)
