"""Rows standardised by the training videos' mean and deviation, which the checkpoint keeps."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from lib.base.errors import InputError
from lib.datasets import LoadedCorpus, build_loader
from lib.datasets.standardization import Standardization
from lib.training import checkpoint
from tests.runs import run, write_experiment
from tests.test_dense import load_small, load_tiny, write_corpus

SIZES = {"num_frames": 32, "num_clips": 8}


class Given:
    """Rows from memory."""

    def __init__(self, rows: dict[str, Float[np.ndarray, "T C"]]) -> None:
        self.rows = {video: torch.from_numpy(x.astype(np.float32)) for video, x in rows.items()}
        self.dim = next(iter(self.rows.values())).shape[1]

    def __getitem__(self, video_id: str) -> Tensor:
        return self.rows[video_id].clone()


def given(count: int = 50, T: int = 16, C: int = 5, offset: float = 0.0) -> Given:
    random = np.random.default_rng(0)
    scale = np.array([1.0, 10.0, 0.01, 3.0, 100.0])[:C]
    videos = random.standard_normal((count, T, C)) * scale + offset
    return Given({f"v{i}": videos[i] for i in range(count)})


def all_rows(corpus: LoadedCorpus, split: str) -> Float[Tensor, "n C"]:
    return torch.cat([corpus[split].videos[i] for i in range(len(corpus[split].videos))])


# Measuring


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_one_pass_finds_what_all_rows_together_have(offset: float) -> None:
    rows = given(offset=offset)
    found = Standardization.measure(rows, rows.rows, normalize=True)
    together = torch.cat(list(rows.rows.values())).double()
    torch.testing.assert_close(found.mean.double(), together.mean(dim=0), rtol=1e-6, atol=1e-6)
    expected = together.std(dim=0, correction=0)
    torch.testing.assert_close(found.deviation.double(), expected, rtol=1e-6, atol=1e-9)
    assert found.rows == 50 * 16
    standard = torch.cat([found(rows[video]) for video in rows.rows]).double()
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(5).double(), rtol=0, atol=2e-2)
    torch.testing.assert_close(standard.std(dim=0), torch.ones(5).double(), rtol=2e-2, atol=0)


def test_a_video_of_several_paragraphs_counts_once() -> None:
    rows = given()
    once = Standardization.measure(rows, rows.rows, normalize=True)
    twice = Standardization.measure(rows, [*rows.rows, "v3", "v3"], normalize=True)
    assert torch.equal(once.mean, twice.mean) and once.rows == twice.rows


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_a_number_that_never_changes_becomes_zero_whatever_it_is_elsewhere(value: float) -> None:
    rows = given()
    for x in rows.rows.values():
        x[:, 1] = value
    found = Standardization.measure(rows, rows.rows, normalize=True)
    other = torch.full((16, 5), 7.0)
    for x in (rows["v0"], other):
        assert (found(x)[:, 1] == 0).all() and torch.isfinite(found(x)).all()
    nothing = Given({"v0": np.full((4, 3), 0.3)})
    found = Standardization.measure(nothing, ["v0"], normalize=True)
    assert (found(nothing["v0"]) == 0).all()


# In a corpus


def test_training_rows_are_standard_and_other_splits_use_the_same_numbers(data_dir: Path) -> None:
    raw = load_tiny(data_dir, "train", "val", **SIZES)
    corpus = load_tiny(data_dir, "train", "val", **SIZES, standardize=True)
    rows = all_rows(corpus, "train").double()
    assert rows.mean(dim=0).abs().max() < 1e-6
    torch.testing.assert_close(
        rows.std(dim=0, correction=0), torch.ones_like(rows[0]), rtol=1e-5, atol=0
    )
    before = all_rows(raw, "train")
    expected = (all_rows(raw, "val") - before.mean(dim=0)) / before.std(dim=0, correction=0)
    torch.testing.assert_close(all_rows(corpus, "val"), expected, rtol=1e-4, atol=1e-5)
    count = f"{len(before):,}"
    assert f"rows standardised by {count} rows of training videos" in corpus.lines()


def test_held_out_videos_are_no_training_videos(tmp_path: Path) -> None:
    entries = [(f"v{i}", ["a dog barks"]) for i in range(10)]
    write_corpus(tmp_path / "charades", {"train": entries, "test": entries[:1]})
    corpus = load_small(tmp_path, "train", "val", val_fraction=0.3, standardize=True)
    assert corpus.standardization is not None
    assert corpus.standardization.rows == 7 * corpus.dims.num_frames


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_cache_and_the_workers_change_no_bit(data_dir: Path, dtype: str) -> None:
    made = {
        mode: load_tiny(
            data_dir, "train", "test", **SIZES, standardize=True, cache=mode, cache_dtype=dtype
        )
        for mode in ("direct", "memory", "disk")
    }
    for split in ("train", "test"):
        expected = all_rows(made["direct"], split)
        for corpus in made.values():
            assert torch.equal(all_rows(corpus, split), expected)
            assert torch.equal(all_rows(pickle.loads(pickle.dumps(corpus)), split), expected)
        loader = build_loader(made["disk"][split].videos, batch_size=4, workers=2)
        assert torch.equal(torch.cat([b.flatten(0, 1) for b in loader]), expected)
    again = load_tiny(data_dir, "test", **SIZES, cache="disk", cache_dtype=dtype)
    raw = load_tiny(data_dir, "test", **SIZES, cache="direct", cache_dtype=dtype)
    assert torch.equal(all_rows(again, "test"), all_rows(raw, "test"))  # what is kept stays raw


def test_a_test_takes_the_checkpoints_numbers_and_reads_no_training_video(data_dir: Path) -> None:
    trained = load_tiny(data_dir, "train", "test", **SIZES, standardize=True)
    assert trained.standardization is not None
    kept = Standardization.of_checkpoint(
        {"features": {"standardization": trained.standardization.state()}}, wanted=True
    )
    assert kept is not None
    tested = load_tiny(data_dir, "test", **SIZES, standardize=kept)
    assert torch.equal(all_rows(tested, "test"), all_rows(trained, "test"))
    with pytest.raises(InputError, match="expected the training split, or a checkpoint"):
        load_tiny(data_dir, "test", **SIZES, standardize=True)
    with pytest.raises(InputError, match="NORMALIZE is false, but the checkpoint's mean"):
        load_tiny(data_dir, "test", **SIZES, standardize=kept, normalize=False)
    narrow = Standardization(torch.zeros(3), torch.ones(3), 1, True)
    with pytest.raises(InputError, match="rows 3 wide; found 12"):
        load_tiny(data_dir, "test", **SIZES, standardize=narrow)


def test_other_statistics_are_refused_and_rounding_is_not() -> None:
    one = Standardization(torch.rand(8), 1 + torch.rand(8), 10, True)
    one.require_same(Standardization(one.mean * (1 + 1e-7), one.deviation, 10, True))
    for other in (
        Standardization(one.mean + 0.01, one.deviation, 10, True),
        Standardization(one.mean, one.deviation * 1.01, 10, True),
        Standardization(one.mean[:4], one.deviation[:4], 10, True),
    ):
        with pytest.raises(InputError, match="is not that of the checkpoint"):
            one.require_same(other)


# In a run


def command(folder: Path, script: str, *flags: object) -> Any:
    path = folder / "tiny.yaml"
    if not path.exists():
        write_experiment(folder, EPOCHS=2)
    return run(script, "--cfg", path, *flags, output=folder / "output")


ON = ("--set", "DATASET.STANDARDIZE=true")


def test_a_run_keeps_its_statistics_and_is_tested_without_training_features(
    tmp_path: Path,
) -> None:
    ended = command(tmp_path, "dense_train", *ON)
    assert ended.status == 0, ended.output
    (folder,) = (path.parent for path in (tmp_path / "save").rglob("best.pt"))
    state = checkpoint.load(folder / "best.pt")
    assert state["features"]["standardization"]["mean"].shape == (12,)
    assert command(tmp_path, "best_test", *ON).status == 0
    results = folder / "results.json"
    first = json.loads(results.read_text())
    assert any("rows standardised by" in note for note in first["notes"])

    off = ("--set", "DATASET.STANDARDIZE=false", "--other-data", "raw")
    refused = command(tmp_path, "best_test", *off)
    assert refused.status == 2
    assert "DATASET.STANDARDIZE is false, but the checkpoint was trained with" in refused.output
    assert command(tmp_path, "dense_train", *ON, "--resume").status == 0  # the same numbers

    (source,) = (tmp_path / "data").rglob("features.hdf5")
    with h5py.File(source, "a") as file:
        for video in [name for name in file if "train" in name]:
            file[f"{video}/c3d_features"][...] = file[f"{video}/c3d_features"][()] ** 2
    ended = command(tmp_path, "dense_train", *ON, "--resume", "--set", "TRAIN.EPOCHS=3")
    assert ended.status == 2 and "is not that of the checkpoint" in ended.output
    with h5py.File(source, "a") as file:
        for video in [name for name in file if "train" in name]:
            del file[video]
    assert command(tmp_path, "best_test").status == 0
    again = json.loads(results.read_text())
    assert again["protocols"] == first["protocols"]
    assert any("other videos (24 there, 12 here)" in note for note in again["notes"])


def test_a_run_on_raw_rows_is_not_tested_on_standardised_ones(tmp_path: Path) -> None:
    assert command(tmp_path, "dense_train").status == 0
    (folder,) = (path.parent for path in (tmp_path / "save").rglob("best.pt"))
    assert "standardization" not in checkpoint.load(folder / "best.pt")["features"]
    for split in ("test", "train"):
        refused = command(tmp_path, "best_test", *ON, "--split", split, "--other-data", "x")
        assert refused.status == 2
        assert "was trained without standardised rows" in refused.output


def test_a_stopped_run_goes_on_with_the_same_rows(tmp_path: Path) -> None:
    for name, epochs in (("whole", [2]), ("parts", [1, 2])):
        (tmp_path / name).mkdir()
        for count in epochs:
            flags = ["--resume", "--set", f"TRAIN.EPOCHS={count}"]
            ended = command(tmp_path / name, "dense_train", *ON, *flags)
            assert ended.status == 0, ended.output
    whole, parts = (
        checkpoint.load(next((tmp_path / name / "save").rglob("last.pt")))["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
