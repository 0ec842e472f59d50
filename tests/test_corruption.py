"""Features whose time is destroyed: what is left of a video, what is not, and where it is said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from lib.datasets import LoadedCorpus
from lib.datasets.corruption import Corruption, time_shuffled, video_mean
from tests.runs import run, write_experiment
from tests.test_dense import load_tiny

SIZES = {"num_frames": 32, "num_clips": 8}


def ramp(T: int, C: int = 3) -> Float[Tensor, "T C"]:
    """Row t is t everywhere."""
    return torch.arange(float(T))[:, None].expand(T, C).clone()


@pytest.mark.parametrize(("T", "blocks"), [(64, 8), (61, 8), (16, 4), (5, 8)])
def test_shuffling_keeps_rows_and_blocks_and_loses_their_order(T: int, blocks: int) -> None:
    rows = ramp(T)
    found = time_shuffled(rows, blocks, "v_1")
    assert torch.equal(found.sort(dim=0).values, rows)
    steps = found[:, 0].diff()
    assert (steps == 1).sum() >= T - min(blocks, T)  # inside blocks, time runs
    assert not torch.equal(found, rows)


def test_after_shuffling_a_place_says_nothing_about_time() -> None:
    rows, places = ramp(64), torch.arange(64.0)
    found = torch.stack([time_shuffled(rows, 8, f"v_{i}")[:, 0] for i in range(400)])
    blocks = found.unflatten(1, (8, 8)).mean(dim=(0, 2))
    assert (blocks - 31.5).abs().max() < 3  # means of 400, each of deviation 18
    alone = torch.stack([torch.corrcoef(torch.stack([each, places]))[0, 1] for each in found])
    assert abs(float(alone.mean())) < 0.08


def test_the_mean_of_a_video_is_left_and_no_row_knows_its_time() -> None:
    rows = ramp(2048, 4) / 2048 + torch.tensor([0.0, 1.0, 2.0, 3.0])
    spread = rows.std(dim=0, correction=0)
    for noise in (0.0, 0.5, 1.0):
        found = video_mean(rows, noise, "v_1")
        error = (found.mean(dim=0) - rows.mean(dim=0)).abs()
        assert (error <= 4 * noise * spread / 2048**0.5 + 1e-6).all()
        torch.testing.assert_close(
            found.std(dim=0, correction=0), noise * spread, rtol=0.06, atol=1e-6
        )
        if noise:
            steps = found[:-1, 0] - found[:, 0].mean(), found[1:, 0] - found[:, 0].mean()
            assert abs(float((steps[0] * steps[1]).mean() / spread[0] ** 2)) < 0.1 * noise


@pytest.mark.parametrize("kind", ["time_shuffled", "video_mean"])
def test_a_video_is_corrupted_alike_every_time_and_unlike_others(kind: str) -> None:
    corruption = Corruption(kind)  # type: ignore[arg-type]
    rows = torch.randn(64, 4)
    one = corruption(rows, "v_1")
    assert torch.equal(one, pickle.loads(pickle.dumps(corruption))(rows, "v_1"))
    assert not torch.equal(one, corruption(rows, "v_2"))
    assert one.shape == rows.shape and one.dtype == rows.dtype


def test_settings_are_part_of_the_name() -> None:
    kinds = [
        Corruption("time_shuffled"),
        Corruption("time_shuffled", blocks=4),
        Corruption("video_mean"),
        Corruption("video_mean", noise=0.25),
    ]
    names = [kind.name for kind in kinds]
    assert names == ["time_shuffled_8", "time_shuffled_4", "video_mean_1", "video_mean_0.25"]


def rows_of(corpus: LoadedCorpus, split: str) -> Float[Tensor, "G T C"]:
    return torch.stack([corpus[split].videos[i] for i in range(len(corpus[split].videos))])


@pytest.mark.parametrize("standardize", [False, True])
def test_only_the_split_that_is_scored_is_corrupted(data_dir: Path, standardize: bool) -> None:
    splits = ("train", "val", "test")
    corruption = Corruption("time_shuffled", blocks=4)
    whole = load_tiny(data_dir, *splits, **SIZES, standardize=standardize)
    broken = load_tiny(
        data_dir, *splits, **SIZES, standardize=standardize, corruption={"test": corruption}
    )
    for split in ("train", "val"):
        assert torch.equal(rows_of(whole, split), rows_of(broken, split))
    expected = torch.stack(
        [
            corruption(rows, video)
            for rows, video in zip(rows_of(whole, "test"), whole["test"].corpus, strict=True)
        ]
    )
    assert torch.equal(rows_of(broken, "test"), expected)
    assert any("test: features CORRUPTED on purpose: 4 blocks" in n for n in broken.notes)
    assert not any("CORRUPTED" in note for note in whole.notes)


def test_results_on_corrupted_features_say_so_and_lie_beside_the_others(tmp_path: Path) -> None:
    cfg = write_experiment(tmp_path, EPOCHS=2)

    def command(script: str, *flags: str) -> str:
        ended = run(script, "--cfg", cfg, *flags, output=tmp_path / "output")
        assert ended.status == 0, ended.output
        return ended.output

    command("dense_train")
    command("best_test")
    (folder,) = (path.parent for path in (tmp_path / "save").rglob("best.pt"))
    before = {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()}
    assert json.loads(before["results.json"])["corruption"] is None
    for kind, name in (("time_shuffled", "time_shuffled_8"), ("video_mean", "video_mean_1")):
        said = command("best_test", "--set", f"TEST.CORRUPTION={kind}")
        assert "note: test: features CORRUPTED on purpose" in said
        found = json.loads((folder / f"results_{name}.json").read_text())
        plain = json.loads(before["results.json"])["floors"]
        assert found["corruption"]
        for protocol in ("vr", "svmr", "svmr_2dtan"):  # others take the run's own retrieval
            assert found["floors"][protocol] == plain[protocol]
        assert "CORRUPTED on purpose" in (folder / f"results_{name}.md").read_text()
    command("best_test", "--set", "TEST.CORRUPTION=video_mean", "--split", "val")
    assert (folder / "results_val_video_mean_1.json").is_file()
    after = {name: (folder / name).read_bytes() for name in before}
    assert after == before
    command("dense_train", "--overwrite")  # a new run has no results of the old one
    assert not list(folder.glob("results*"))
