"""A checkpoint is the one that was written, or a sentence: never half of one, never code."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import re
import time
import zipfile
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib.base.batch import DataDims
from lib.base.errors import InputError
from lib.config.config import load_config
from lib.training import checkpoint
from tests.disk import room_for
from tests.test_run import REPOSITORY

DIMS = DataDims(video_dim=8, word_dim=6, vocab_size=20, num_frames=8, num_clips=4, max_sentences=3)


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "model": {"w": torch.randn(40, 30, generator=generator), "n": torch.tensor(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
        "rng": torch.get_rng_state(),
        "epoch": 7,
        "best": None,
        "history": [(1, 0.5), (2, float("nan"))],
    }


@pytest.fixture
def path(tmp_path, state):
    checkpoint.save(tmp_path / "last.pt", state)
    return tmp_path / "last.pt"


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        checkpoint.load(path)
    return str(caught.value)


class TestSaving:
    def test_brings_back_every_bit(self, path, state):
        loaded = checkpoint.load(path)
        assert torch.equal(loaded["model"]["w"], state["model"]["w"])
        assert torch.equal(loaded["rng"], state["rng"])
        assert loaded["history"][0] == (1, 0.5)
        assert loaded.keys() == state.keys()

    @room_for(4096)
    def test_on_a_full_disk_keeps_the_old_one(self, path, state):
        state["epoch"] = 8
        with pytest.raises(InputError) as caught:
            checkpoint.save(path, state)
        assert str(caught.value) == (
            f"{path} cannot be written (File too large); what was there before is unchanged"
        )
        assert checkpoint.load(path)["epoch"] == 7
        assert [p.name for p in path.parent.iterdir()] == ["last.pt"]

    @pytest.mark.parametrize("kept", [0, -1])
    def test_reads_back_what_the_disk_made_of_it(self, kept, path, state, monkeypatch):
        """All of what it writes at once is lost, or the last byte of a tensor."""
        size = state["model"]["w"].nbytes

        class Forgetful(checkpoint._Faults):
            def write(self, data):
                data = bytes(data)
                if len(data) == size:
                    data = data[:kept].ljust(size, b"\x01")
                return self.file.write(data)

        monkeypatch.setattr(checkpoint, "_Faults", Forgetful)
        with pytest.raises(InputError, match="reads back differently than written"):
            checkpoint.save(path, state)
        assert checkpoint.load(path)["epoch"] == 7

    def test_is_not_done_before_the_disk_has_it(self, path, state, monkeypatch):
        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="cannot be written .No space left on device"):
            checkpoint.save(path, {**state, "epoch": 8})
        monkeypatch.undo()
        assert checkpoint.load(path)["epoch"] == 7

    def test_refuses_what_it_could_not_load(self, path, state):
        with pytest.raises(pickle.UnpicklingError):
            checkpoint.save(path, {**state, "config": SimpleNamespace()})
        assert checkpoint.load(path)["epoch"] == 7


class TestLoading:
    def test_a_file_cut_short_is_refused_wherever_it_ends(self, path):
        data = path.read_bytes()
        draw = random.Random(0)
        for length in [0, 1, 100, len(data) - 1, *draw.sample(range(len(data)), 40)]:
            path.write_bytes(data[:length])
            assert refused(path).startswith(f"{path} is ")

    def test_a_changed_byte_is_refused_or_of_no_effect(self, path, state):
        data = path.read_bytes()
        draw = random.Random(0)
        found = 0
        for place in draw.sample(range(len(data)), 300):
            damaged = bytearray(data)
            damaged[place] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            try:
                loaded = checkpoint.load(path)
            except InputError as fault:
                assert str(fault).startswith(f"{path} ")
                found += 1
            else:
                assert torch.equal(loaded["model"]["w"], state["model"]["w"])
                assert loaded["epoch"] == 7
        assert found > 150

    def test_a_damaged_record_is_named(self, path):
        data = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda member: member.file_size)
        data[largest.header_offset + 2000] ^= 1
        path.write_bytes(data)
        assert refused(path) == (
            f"{path} is damaged (the check sum of {largest.filename} is wrong)"
        )

    def test_offers_the_newest_sound_one_beside_it(self, path, state):
        for name, epoch, age in (("best.pt", 3, 200), ("top1.pt", 5, 100), ("bad.pt", 9, 0)):
            checkpoint.save(path.with_name(name), {**state, "epoch": epoch})
            then = time.time() - age
            os.utime(path.with_name(name), (then, then))
        path.with_name("bad.pt").write_bytes(b"")
        path.write_bytes(b"")
        assert refused(path).endswith(f"; {path.with_name('top1.pt')} (epoch 5) is sound")
        path.unlink()
        assert refused(path) == (
            f"{path} does not exist; {path.with_name('top1.pt')} (epoch 5) is sound"
        )

    def test_no_code_is_run(self, path, tmp_path):
        marker = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        torch.save({"format": checkpoint.FORMAT, "version": 1, "state": Evil()}, path)
        assert "it holds Python objects, which may run code when read" in refused(path)
        path.write_bytes(pickle.dumps(Evil()))
        assert "is not a checkpoint of this project" in refused(path)
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ({"state_dict": {}}, 'is not a checkpoint of this project (no "format"'),
            ([1], 'is not a checkpoint of this project (no "format"'),
            (
                {"format": checkpoint.FORMAT, "version": 2, "state": {}},
                "was written by a newer release (format version 2, expected 1 at most)",
            ),
            ({"format": checkpoint.FORMAT, "version": "1", "state": {}}, "is not a checkpoint"),
            ({"format": checkpoint.FORMAT, "version": 1}, "is not a checkpoint"),
        ],
    )
    def test_a_foreign_or_newer_file_is_distinguished(self, path, content, sentence):
        torch.save(content, path)
        assert refused(path).startswith(f"{path} {sentence}")

    def test_archives_of_others_are_not_unpacked(self, path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10_000_000))
        assert "(a packed archive)" in refused(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", b"hello")
        assert refused(path).startswith(f"{path} is ")

    def test_a_folder_is_refused(self, tmp_path):
        assert refused(tmp_path) == f"{tmp_path} is not a file"


class TestMatching:
    @pytest.fixture
    def config(self):
        return load_config(REPOSITORY / "experiments/synthetic/dmr_jrg.yaml")

    def test_accepts_the_same_experiment_after_a_round_trip(self, path, state, config):
        checkpoint.save(path, {**state, "experiment": checkpoint.identity(config, DIMS)})
        checkpoint.check_matches(checkpoint.load(path), config, DIMS)

    def test_names_every_difference(self, state, config):
        state["experiment"] = checkpoint.identity(config, DIMS)
        config.MODEL.PARAMS.hidden_size = 7
        config.MODEL.PARAMS.heads = 1
        other = DataDims(**{**state["experiment"]["dims"], "vocab_size": 21})
        with pytest.raises(InputError) as caught:
            checkpoint.check_matches(state, config, other)
        assert re.fullmatch(
            r"the checkpoint is of another experiment: "
            r"MODEL\.PARAMS\.heads \d+ there, 1 here; "
            r"MODEL\.PARAMS\.hidden_size \d+ there, 7 here; "
            r"dims\.vocab_size 20 there, 21 here",
            str(caught.value),
        )

    def test_names_another_model_alone(self, state, config):
        other = load_config(REPOSITORY / "experiments/synthetic/tan2d.yaml")
        state["experiment"] = checkpoint.identity(other, DIMS)
        with pytest.raises(InputError, match=": MODEL.NAME tan2d there, dmr_jrg_evidence here$"):
            checkpoint.check_matches(state, config, DIMS)
        with pytest.raises(InputError, match=": MODEL.NAME unknown there, dmr_jrg_evidence here$"):
            checkpoint.check_matches({}, config, DIMS)

    def test_lets_a_keyword_newer_than_the_checkpoint_have_its_default(self, state, config):
        state["experiment"] = checkpoint.identity(config, DIMS)
        del state["experiment"]["MODEL"]["PARAMS"]["learn_scale"]
        checkpoint.check_matches(state, config, DIMS)
        config.MODEL.PARAMS.learn_scale = not config.MODEL.PARAMS.learn_scale
        with pytest.raises(InputError, match="learn_scale True there, False here"):
            checkpoint.check_matches(state, config, DIMS)


class TestWeights:
    def test_are_given_to_a_model_that_fits(self):
        source, target = nn.Linear(3, 2), nn.Linear(3, 2)
        checkpoint.load_into(target, {"model": source.state_dict()})
        assert torch.equal(source.weight, target.weight)

    def test_that_do_not_fit_are_named_and_none_is_given(self):
        target = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        before = target[0].bias.clone()
        weights = {"0.weight": torch.zeros(5, 3), "0.bias": torch.zeros(2), "x": torch.zeros(1)}
        with pytest.raises(InputError) as caught:
            checkpoint.load_into(target, {"model": weights})
        assert str(caught.value) == (
            "the checkpoint's weights do not fit the model; missing: 1.weight, 1.bias; "
            "unexpected: x; of another shape: 0.weight (5×3, expected 2×3)"
        )
        assert torch.equal(target[0].bias, before)

    def test_that_are_none_are_reported(self):
        with pytest.raises(InputError, match="holds no weights"):
            checkpoint.load_into(nn.Linear(1, 1), {"epoch": 3})


def test_a_truncated_stream_of_any_kind_raises_nothing_else(path):
    """Random archives and random bytes: an input fault, always."""
    draw = random.Random(1)
    for _ in range(100):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in draw.sample(["a/data.pkl", "a/version", "a/byteorder", "a/data/0"], 3):
                archive.writestr(name, draw.randbytes(draw.randrange(60)))
        path.write_bytes(buffer.getvalue() if draw.random() < 0.7 else draw.randbytes(200))
        refused(path)
