"""Both commands from end to end on a tiny corpus: what a user does, and what a user gets wrong."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import itertools
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
import yaml

from lib.base.command import run_script
from lib.commands import best_test, dense_train, make_synthetic
from lib.datasets.synthetic import WorldOptions, write_world
from lib.training import checkpoint
from tests.disk import room_for
from tests.runs import timeless

REPOSITORY = Path(__file__).resolve().parents[1]
WORLD = WorldOptions(train=12, val=5, test=6, feature_dim=8, word_dim=6, rows_per_second=0.5)
TINY = """
DATASET:
  NAME: activitynet
  DIR: world
  FEATURES: features.hdf5
  FEATURE_DIM: 8
  NUM_FRAMES: 16
  NUM_CLIPS: 8
MODEL:
  NAME: dmr_jrg
  PARAMS:
    hidden_size: 16
    kernel_size: 3
    conv_layers: 1
    encoder_layers: 1
    heads: 2
    feedforward: 16
    reconstructor_layers: 1
    candidate_frames: 4
LOSS:
  WEIGHTS:
    retrieval_triplet: 1
    retrieval_nce: 0.04
    reconstruction: 1
    rank: 1
    global_triplet: 1
    global_nce: 0.04
    distillation: 1
    temporal: 1
    temporal_rank: 1
TRAIN:
  EPOCHS: 2
  BATCH_SIZE: 4
  LR: 1e-3
TEST:
  RESAMPLES: 20
WORKERS: 0
GPUS: cpu
"""
TAN2D = """
BASE: tiny.yaml
MODEL:
  NAME: tan2d
  PARAMS:
    hidden_size: 8
    lstm_layers: 1
    kernel_size: 3
    conv_layers: 1
LOSS:
  WEIGHTS:
    overlap: 1
TRAIN:
  SUPERVISION: full
  SELECT_BY: svmr_2dtan/R@1,IoU=0.5
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str


def call(main: Callable[[], None], *arguments: object) -> Outcome:
    """A script's ``main`` with a command line, in this process; faults of ours come out as such."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    status: Any = 0
    try:
        with (
            mock.patch.object(sys, "argv", ["script", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            run_script(main)
    except SystemExit as leaving:
        status = leaving.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    gc.collect()  # a run's folder stays locked while anything holds on to the run
    return Outcome(status, out.getvalue(), err.getvalue())


class Bench:
    """A folder with experiments, data and runs, and the two commands over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = root / "data" / "world"
        self.run = root / "save" / "tiny"

    @property
    def folders(self) -> tuple[object, ...]:
        return ("--dataDir", self.root / "data", "--modelDir", self.root / "save")

    def train(self, *flags: object, cfg: str = "tiny") -> Outcome:
        path = self.root / "experiments" / f"{cfg}.yaml"
        return call(dense_train.main, "--cfg", path, *self.folders, *flags)

    def test(self, *flags: object, cfg: str = "tiny") -> Outcome:
        path = self.root / "experiments" / f"{cfg}.yaml"
        return call(best_test.main, "--cfg", path, *self.folders, *flags)

    def state(self, name: str = "last.pt") -> dict[str, Any]:
        """What a checkpoint holds, without what no two runs share."""
        return timeless(checkpoint.load(self.run / name))

    def log(self) -> list[dict[str, Any]]:
        """The records without what no two runs share."""
        lines = (self.run / "log.jsonl").read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert all(record.pop("seconds") >= 0 for record in records)
        return records

    def files(self) -> dict[str, str]:
        """Every file by its digest; locks and records of names are no content."""
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name not in (".lock", ".files")
        }

    def copy(self, root: Path) -> Bench:
        shutil.copytree(self.root, root)
        return Bench(root)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Data and experiments, never trained. Copy before changing anything."""
    bench = Bench(tmp_path_factory.mktemp("bench") / "fresh")
    (bench.root / "experiments").mkdir(parents=True)
    (bench.root / "experiments" / "tiny.yaml").write_text(TINY, "utf-8")
    (bench.root / "experiments" / "tan2d.yaml").write_text(TAN2D, "utf-8")
    write_world(bench.world, WORLD)
    return bench


@pytest.fixture(scope="module")
def trained(fresh: Bench) -> Bench:
    """A finished run. Copy before changing anything."""
    bench = fresh.copy(fresh.root.with_name("trained"))
    outcome = bench.train()
    assert (outcome.status, outcome.err) == (0, "")
    return bench


@pytest.fixture
def new(fresh: Bench, tmp_path: Path) -> Bench:
    return fresh.copy(tmp_path / "bench")


@pytest.fixture
def finished(trained: Bench, tmp_path: Path) -> Bench:
    return trained.copy(tmp_path / "bench")


def same(first: Any, second: Any) -> bool:
    """Equality to the last bit of trees of tensors and plain values."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


# What a user does.


def test_training_leaves_a_run_and_says_where(trained):
    names = {path.name for path in trained.run.iterdir()}
    assert names >= {"config.yaml", "log.jsonl", "last.pt", "best.pt"}
    assert [record["epoch"] for record in trained.log()] == [0, 1]
    assert trained.state()["progress"]["epoch"] == 2


def test_the_validation_number_comes_out_again_to_the_last_digit(finished):
    outcome = finished.test("--split", "val")
    assert outcome.status == 0, outcome.err
    assert ": the same" in outcome.out and "DIFFERENT" not in outcome.out
    results = json.loads((finished.run / "results_val.json").read_text("utf-8"))
    best = finished.state("best.pt")
    validated = finished.log()[best["epoch"]]["protocols"]
    assert validated == best["validation"]["protocols"]
    assert {name: results["protocols"][name] for name in validated} == validated
    value = results["protocols"]["vr"]["R@10"]
    assert f"vr/R@10 on val: {value:.2f}, in training and here: the same" in outcome.out


def test_of_epochs_that_tie_the_finer_number_chooses_and_the_last_lines_say_so(trained):
    """Of five videos, the right one is always among the first ten."""
    log = trained.log()
    assert [record["protocols"]["vr"]["R@10"] for record in log] == [100.0, 100.0]
    means = [record["protocols"]["vr"]["MRR"] for record in log]
    best = means.index(max(means))
    assert means[0] != means[1] and trained.state("best.pt")["epoch"] == best
    assert [record["best_epoch"] for record in log] == [0, best]
    told = (trained.run / "console.log").read_text("utf-8")
    said = f"epochs 1, 2 tie by vr/R@10 at 100.00: epoch {best + 1} is the best of them by vr/MRR"
    assert said in " ".join(told.split())


def test_testing_writes_tables_with_floors_and_names_its_checkpoint(finished):
    outcome = finished.test()
    assert outcome.status == 0, outcome.err
    results = json.loads((finished.run / "results.json").read_text("utf-8"))
    assert results["protocols"].keys() == results["floors"].keys()
    assert results["corpus"] == {
        "videos": 6,
        "paragraphs": 6,
        "sentences": results["corpus"]["sentences"],
    }
    assert results["checkpoint"]["file"] == str(finished.run / "best.pt")
    assert "training saw no timestamps" in results["notes"]
    table = (finished.run / "results.md").read_text("utf-8")
    for protocol, scores in results["protocols"].items():
        assert protocol in table and all(metric in table for metric in scores)


def test_the_training_split_can_be_scored_and_training_still_saw_no_timestamps(finished):
    assert finished.test("--split", "train").status == 0
    results = json.loads((finished.run / "results_train.json").read_text("utf-8"))
    assert results["corpus"]["paragraphs"] == WORLD.train
    assert "training saw no timestamps" in results["notes"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_cpu_is_taken_and_said_once(new):
    outcome = new.train("--gpus", "", "--set", "TRAIN.EPOCHS=1")
    assert outcome.out.count("running on the CPU") == 1


def test_a_run_is_replaced_only_when_asked(finished):
    before = finished.files()
    outcome = finished.train("--set", "TRAIN.SEED=5")
    assert outcome.status == 2
    assert "holds a run already" in outcome.err and "--overwrite" in outcome.err
    assert finished.files() == before
    weights = finished.state()["model"]
    outcome = finished.train("--overwrite", "--set", "TRAIN.SEED=5")
    assert outcome.status == 0, outcome.err
    assert not same(finished.state()["model"], weights)
    assert [record["epoch"] for record in finished.log()] == [0, 1]


def test_a_tag_makes_another_run(finished):
    before = finished.files()
    assert finished.train("--tag", "two").status == 0
    assert finished.test("--tag", "two").status == 0
    assert (finished.root / "save" / "tiny-two" / "results.json").is_file()
    after = finished.files()
    assert {name: after[name] for name in before} == before


def test_both_folders_are_a_place_to_start_from(tmp_path, monkeypatch):
    sizes = TINY_SIZES + ["DATASET.NUM_FRAMES=16", "DATASET.NUM_CLIPS=8", "TRAIN.EPOCHS=1"]
    sizes += [f"DATASET.SYNTHETIC.{name}={value}" for name, value in vars(WORLD).items()]
    flags = [word for size in sizes for word in ("--set", size)]
    flags += ["--workers", "0", "--dataDir", str(tmp_path), "--modelDir", str(tmp_path / "save")]
    monkeypatch.chdir(REPOSITORY / "moment_localization")
    cfg = "../experiments/synthetic/dmr_jrg.yaml"
    outcome = call(dense_train.main, "--verbose", "--cfg", cfg, *flags)
    assert outcome.status == 0, outcome.err
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("test it: "))
    _, script, *test_flags = shlex.split(line.removeprefix("test it: "))
    assert script == "best_test.py"
    outcome = call(best_test.main, *test_flags)
    assert outcome.status == 0, outcome.err
    results = tmp_path / "save" / "synthetic" / "dmr_jrg" / "results.json"
    first = timeless(json.loads(results.read_text()))
    results.unlink()
    monkeypatch.chdir(REPOSITORY)
    cfg = "experiments/synthetic/dmr_jrg.yaml"
    outcome = call(best_test.main, "--cfg", cfg, *flags)
    assert outcome.status == 0, outcome.err
    assert timeless(json.loads(results.read_text())) == first


def test_scalars_lie_where_they_were_asked_for(new):
    pytest.importorskip("tensorboard")
    assert new.train("--logDir", new.root / "logs", "--set", "TRAIN.EPOCHS=1").status == 0
    assert list((new.root / "logs" / "tiny").glob("events.out.tfevents.*"))
    assert not list(new.run.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("main", [dense_train.main, best_test.main])
def test_help_explains_every_flag(main):
    outcome = call(main, "--help")
    assert outcome.status == 0
    flags = ["--cfg", "--set", "--gpus", "--workers", "--dataDir", "--modelDir"]
    flags += ["--logDir", "--tag", "--verbose"]
    flags += {
        dense_train.main: ["--resume", "--overwrite"],
        best_test.main: ["--checkpoint", "--split"],
    }[main]
    entries = [" ".join(entry.split()) for entry in outcome.out.split("\n  --")[1:]]
    for flag in flags:
        (entry,) = (text for text in entries if text.split()[0] == flag.removeprefix("--"))
        words = [word for word in entry.split()[1:] if not word.isupper()]
        assert len(words) > 1, flag


# The same numbers, whatever happens on the way.


def test_loader_processes_change_no_weight(new, trained):
    assert new.train("--workers", 2, "--set", "DATASET.CACHE=direct").status == 0
    assert same(new.state()["model"], trained.state()["model"])
    assert new.log() == trained.log()


@pytest.mark.parametrize(
    "saves", [2, 3, 4, 6], ids=["inside", "after the last step", "between epochs", "second epoch"]
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(new, trained, monkeypatch, saves):
    count = itertools.count(1)
    real = checkpoint.save

    def save_and_stop(path: Path, state: Any) -> None:
        real(path, state)
        if path.name == "last.pt" and next(count) == saves:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    stopped = new.train("--set", "TRAIN.CHECKPOINT_EVERY=1")
    assert stopped.status == 128 + signal.SIGTERM
    assert "--resume goes on from there" in stopped.out
    monkeypatch.undo()
    outcome = new.train("--resume")
    assert (outcome.status, outcome.err) == (0, "")
    for name in ("last.pt", "best.pt"):
        assert same(new.state(name), trained.state(name)), name
    assert new.log() == trained.log()


def test_a_finished_run_can_be_made_longer_but_not_another(finished, fresh, tmp_path):
    outcome = finished.train("--resume", "--set", "TRAIN.LR=0.5")
    assert outcome.status == 2
    assert "TRAIN.LR was 0.001 and is 0.5" in outcome.err
    longer = ("--set", "TRAIN.EPOCHS=3")
    assert finished.train("--resume", *longer).status == 0
    whole = fresh.copy(tmp_path / "whole")
    assert whole.train(*longer).status == 0
    assert same(finished.state(), whole.state())
    assert finished.log() == whole.log()
    assert "EPOCHS: 3" in (finished.run / "config.yaml").read_text("utf-8")


def permute_moments(path: Path) -> None:
    """Give every sentence the moment of another, as a fraction of its video."""
    entries = json.loads(path.read_text("utf-8"))
    places = [(entry, i) for entry in entries.values() for i in range(len(entry["timestamps"]))]
    shares = [[t / entry["duration"] for t in entry["timestamps"][i]] for entry, i in places]
    random.Random(0).shuffle(shares)
    for (entry, i), share in zip(places, shares, strict=True):
        entry["timestamps"][i] = [t * entry["duration"] for t in share]
    path.write_text(json.dumps(entries), "utf-8")


def test_training_times_reach_no_weight_of_a_weakly_supervised_run(new, trained):
    permute_moments(new.world / "train_data.json")
    assert new.train().status == 0
    for name in ("last.pt", "best.pt"):
        assert same(new.state(name)["model"], trained.state(name)["model"])
    assert new.log() == trained.log()


def test_training_times_reach_the_weights_of_a_supervised_run(new):
    new.run = new.root / "save" / "tan2d"
    assert new.train(cfg="tan2d").status == 0
    weights = new.state()["model"]
    permute_moments(new.world / "train_data.json")
    assert new.train("--overwrite", cfg="tan2d").status == 0
    assert not same(new.state()["model"], weights)


# What a user gets wrong: one sentence, status 2, and everything is as it was.


def assert_refused(outcome: Outcome, *said: str) -> None:
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1, outcome.err
    for words in said:
        assert words in outcome.err, outcome.err


def change_features(
    change: Callable[[h5py.Dataset], np.ndarray | None],
) -> Callable[[Path, str], None]:
    """Replace the rows of a split's third video, or take them out."""

    def apply(world: Path, split: str) -> None:
        with h5py.File(world / "features.hdf5", "r+") as file:
            group = file[f"v_{split}00002"]
            rows = change(group["c3d_features"])
            del group["c3d_features"]
            if rows is not None:
                group["c3d_features"] = rows

    return apply


def change_sentence(**values: object) -> Callable[[Path, str], None]:
    """Put other values in the place of the second sentence of a split's third video."""

    def apply(world: Path, split: str) -> None:
        path = world / f"{split}_data.json"
        entries = json.loads(path.read_text("utf-8"))
        for key, value in values.items():
            entries[f"v_{split}00002"][key][1] = value
        path.write_text(json.dumps(entries), "utf-8")

    return apply


def rewrite(name: str, data: bytes | None) -> Callable[[Path, str], None]:
    """Put other bytes into a file, or remove it."""

    def apply(world: Path, split: str) -> None:
        path = world / name.format(split=split)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    return apply


def cut_short(name: str) -> Callable[[Path, str], None]:
    def apply(world: Path, split: str) -> None:
        path = world / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return apply


def with_nan(rows: h5py.Dataset) -> np.ndarray:
    values = rows[()]
    values[3, 1] = np.nan
    return values


VIDEO = "v_{split}00002"
BAD_INPUT: dict[str, tuple[Callable[[Path, str], None], list[str]]] = {
    "no features": (rewrite("features.hdf5", None), ["features.hdf5", "does not exist"]),
    "features cut short": (cut_short("features.hdf5"), ["features.hdf5"]),
    "no annotations": (rewrite("{split}_data.json", None), ["no {split} annotations", "world"]),
    "no JSON": (rewrite("{split}_data.json", b'{"v_a": '), ["{split}_data.json"]),
    "no paragraphs": (rewrite("{split}_data.json", b"{}"), ["{split}_data.json", "no paragraph"]),
    "a video without features": (change_features(lambda rows: None), ["features.hdf5", VIDEO]),
    "features of another width": (
        change_features(lambda rows: rows[:, :5]),
        ["features.hdf5", VIDEO, "5", "8"],
    ),
    "NaN": (change_features(with_nan), ["features.hdf5", VIDEO, "NaN"]),
    "a video without rows": (
        change_features(lambda rows: rows[:0]),
        ["features.hdf5", VIDEO, "no rows"],
    ),
    "an empty sentence": (
        change_sentence(sentences=""),
        ["{split}_data.json", VIDEO, "sentence 2", "no word"],
    ),
    "only punctuation": (
        change_sentence(sentences=" ?!... "),
        ["{split}_data.json", VIDEO, "sentence 2", "no word"],
    ),
    "an end before its start": (
        change_sentence(timestamps=[9.0, 4.0]),
        ["{split}_data.json", VIDEO, "sentence 2", "[9, 4]"],
    ),
    "no word vectors": (rewrite("glove.pkl", None), ["glove.pkl", "do not exist"]),
    "word vectors of no known form": (rewrite("glove.pkl", b"%PDF-1.7\n\x00\xff"), ["glove.pkl"]),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_data_is_refused_by_both_commands(what, finished):
    spoil, said = BAD_INPUT[what]
    strict = ("--set", "DATASET.BAD_MOMENTS=refuse")
    shutil.copytree(finished.world, finished.root / "sound")
    for command, split in ((finished.train, "train"), (finished.test, "test")):
        spoil(finished.world, split)
        before = finished.files()
        flags = ["--overwrite"] if command == finished.train else []
        outcome = command(*strict, *flags)
        assert_refused(outcome, *(words.format(split=split) for words in said))
        assert finished.files() == before
        shutil.rmtree(finished.world)
        shutil.copytree(finished.root / "sound", finished.world)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "TRAIN.EPOCH=3"], ["TRAIN.EPOCH", "EPOCHS"]),
        (["--set", "MODEL.PARAMS.hiden_size=3"], ["hiden_size", "hidden_size"]),
        (["--set", "TRAIN.SELECT_BY=vr/R@7"], ["SELECT_BY", "vr/R@7", "vr/R@10"]),
        (["--gpus", "97"], ["--gpus 97", "no such device"]),
    ],
)
def test_a_bad_command_line_is_refused_before_anything_is_written(flags, said, new):
    before = new.files()
    assert_refused(new.train(*flags), *said)
    assert new.files() == before


def test_a_model_that_cannot_retrieve_cannot_be_chosen_by_retrieval(new):
    before = new.files()
    outcome = new.train("--set", "TRAIN.SELECT_BY=vr/R@10", cfg="tan2d")
    assert_refused(outcome, "SELECT_BY", "vr/R@10", "svmr_2dtan/mIoU")
    assert new.files() == before


def test_testing_needs_a_run(new):
    before = new.files()
    assert_refused(new.test(), "holds no run", "train first")
    assert new.files() == before


def test_a_checkpoint_of_another_experiment_is_refused(finished):
    before = finished.files()
    outcome = finished.test("--set", "MODEL.PARAMS.hidden_size=24")
    assert_refused(outcome, "tiny is trained", "hidden_size was 16 and is 24")
    clips = ("--set", "DATASET.NUM_CLIPS=4")
    assert_refused(finished.test(*clips), "other data", "NUM_CLIPS was 8 and is 4", "--other-data")
    outcome = finished.test(*clips, "--other-data", "coarse")
    assert_refused(outcome, "another experiment", "num_clips")
    assert finished.files() == before
    assert finished.train(cfg="tan2d").status == 0
    before = finished.files()
    outcome = finished.test("--checkpoint", finished.run / "best.pt", cfg="tan2d")
    assert_refused(outcome, "another experiment", "MODEL.NAME dmr_jrg there, tan2d here")
    assert finished.files() == before


def test_a_truncated_checkpoint_is_refused_and_a_sound_one_named(finished):
    path = finished.run / "best.pt"
    path.write_bytes(path.read_bytes()[:-2000])
    before = finished.files()
    assert_refused(finished.test(), "best.pt", "last.pt")
    path = finished.run / "last.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = finished.files()
    assert_refused(finished.train("--resume", "--set", "TRAIN.EPOCHS=3"), "last.pt")
    assert finished.files() == before


def test_a_full_disk_loses_nothing(finished, fresh, tmp_path):
    longer = ("--set", "TRAIN.EPOCHS=3")
    weights, best = finished.state(), finished.state("best.pt")
    with room_for(60_000):
        assert_refused(finished.train("--resume", *longer), "cannot be written")
    assert same(finished.state(), weights) and same(finished.state("best.pt"), best)
    with room_for(4_000):
        assert_refused(finished.test(), "predictions.jsonl", "cannot be written")
    assert not [*finished.run.glob("results*"), *finished.run.glob("predictions*")]

    again = finished.copy(tmp_path / "again")  # Torch's writer still holds the first one's lock
    assert again.train("--resume", *longer).status == 0
    whole = fresh.copy(tmp_path / "whole")
    assert whole.train(*longer).status == 0
    assert same(again.state(), whole.state())
    assert again.log() == whole.log()


def test_a_world_that_does_not_fit_the_disk_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: mock.Mock(free=10_000_000))
    cfg = REPOSITORY / "experiments" / "synthetic" / "dmr_jrg.yaml"
    flags = ("--dataDir", tmp_path / "data", "--modelDir", tmp_path / "save")
    assert_refused(call(dense_train.main, "--cfg", cfg, *flags), "features.hdf5", "no space left")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_loader_process_finds_wrong_is_one_line_in_a_shell(new):
    BAD_INPUT["NaN"][0](new.world, "train")
    command = [sys.executable, "moment_localization/dense_train.py"]
    command += ["--cfg", new.root / "experiments/tiny.yaml", *map(str, new.folders)]
    command += ["--workers", "2", "--set", "DATASET.CACHE=direct"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    outcome = Outcome(found.returncode, found.stdout, found.stderr)
    assert_refused(outcome, "features.hdf5", "v_train00002", "NaN")


# The real experiments on real annotations.

TINY_SIZES = [
    *("MODEL.PARAMS.hidden_size=16", "MODEL.PARAMS.encoder_layers=1", "MODEL.PARAMS.heads=2"),
    *("MODEL.PARAMS.feedforward=16", "MODEL.PARAMS.reconstructor_layers=1"),
]


@pytest.mark.parametrize(
    ("name", "corpus", "source"),
    [
        ("dense_activitynet/acnet", "activitynet", "annotations/activitynet"),
        ("dense_charades/charades", "charades", "cpl_layout/charades"),  # with its glove.pkl
        ("dense_tacos/tacos", "tacos", "annotations/tacos"),
    ],
)
def test_a_real_experiment_runs_on_simulated_features(name, corpus, source, shared, tmp_path):
    data, save = tmp_path / "data", tmp_path / "save"
    vectors = shared / source / "glove.pkl"
    outcome = call(
        make_synthetic.main,
        *("features", "--corpus", corpus, "--annotations", shared / source),
        *("--out", data / corpus, "--train", 20, "--val", 6, "--test", 6),
        *("--dim", 24, "--max-rows", 40),
        *(("--vectors", vectors) if vectors.is_file() else ("--word-dim", 16)),
    )
    assert outcome.status == 0, outcome.err
    sizes = [*TINY_SIZES, "DATASET.FEATURE_DIM=24", "TRAIN.EPOCHS=1", "TEST.RESAMPLES=20"]
    flags = [word for size in sizes for word in ("--set", size)]
    flags += ["--cfg", str(REPOSITORY / "experiments" / f"{name}.yaml"), "--workers", "0"]
    flags += ["--dataDir", str(data), "--modelDir", str(save)]
    outcome = call(dense_train.main, *flags)
    assert outcome.status == 0, outcome.err
    outcome = call(best_test.main, *flags)
    assert outcome.status == 0, outcome.err
    results = json.loads((save / name / "results.json").read_text("utf-8"))
    assert results["corpus"]["paragraphs"] == 6
    assert {"vr", "svmr_2dtan", "jrg_video_topk", "jrg_video_topk_n1"} <= set(results["protocols"])


def test_an_epoch_in_which_nothing_would_learn_is_refused(tmp_path) -> None:
    """As where a YAML that names another model than its BASE has lost the weights of the first
    stage of its plan."""
    text = {
        "BASE": str(REPOSITORY / "experiments/synthetic/linear_align.yaml"),
        "MODEL_DIR": str(tmp_path),
        "DATASET": {"SYNTHETIC": {"train": 12, "val": 6, "test": 6}},
        "MODEL": {"NAME": "dmr_jrg_linear", "PARAMS": {"hidden_size": 8, "heads": 2}},
        "LOSS": {"WEIGHTS": {"distillation": 1}},
        "TRAIN": {"PARAMS": {"alignment_epochs": 1}},
    }
    (tmp_path / "some.yaml").write_text(yaml.safe_dump(text))
    outcome = call(dense_train.main, "--cfg", tmp_path / "some.yaml")
    assert outcome.status == 2
    assert "no term that dmr_jrg_linear trains in epoch 1 has a weight" in outcome.err
    assert not (tmp_path / "some" / "last.pt").exists()
