"""Where the numbers of a run go besides its log: one curve for one run, whatever stops it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lib.base.errors import InputError
from lib.training.loggers import RunInfo, Scalars, find_logger
from tests.runs import run, write_experiment

OUTSIDE = """
import json

class Lines:
    def __init__(self, run):
        self.file = open(run.folder / "outside.jsonl", "a")
        epochs = run.config["TRAIN"]["EPOCHS"]
        self.say(opened=[run.project, run.name, run.id, run.first_step, epochs])

    def say(self, **what):
        self.file.write(json.dumps(what) + "\\n")
        self.file.flush()

    def log(self, step, values):
        self.say(step=step, values=values)

    def close(self):
        self.say(closed=True)


def broken(run):
    raise OSError("no network")
"""


def about(folder: Path, first_step: int = 0) -> RunInfo:
    return RunInfo("project", "name", "0123abcd", folder, {"TRAIN": {"SEED": 3}}, first_step)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "outside.py").write_text(OUTSIDE)
    return write_experiment(tmp_path, CHECKPOINT_EVERY=0)


def test_a_run_that_goes_on_continues_its_curve(experiment: Path) -> None:
    experiment.write_text(experiment.read_text() + "LOGGER: outside.py:Lines\n")
    output = experiment.parent / "out"

    def logged(*flags: str) -> list[dict[str, Any]]:
        ended = run("dense_train", "--cfg", experiment, *flags, output=output)
        assert ended.status == 0, ended.output
        (path,) = (experiment.parent / "save").rglob("outside.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    first = logged("--set", "TRAIN.EPOCHS=1")
    assert [list(each)[0] for each in first] == ["opened", "step", "closed"]
    project, name, known, first_step, epochs = first[0]["opened"]
    assert (name, first_step, epochs) == ("tiny", 0, 1) and known
    assert first[1]["step"] == 0
    assert {"train/total", "lr", "protocols/vr/R@1", "seconds"} <= set(first[1]["values"])
    assert "epoch" not in first[1]["values"]

    again = logged("--resume", "--set", "TRAIN.EPOCHS=2")[len(first) :]
    assert again[0]["opened"] == [project, name, known, 1, 2]
    assert again[1]["step"] == 1 and again[2] == {"closed": True}

    replaced = logged("--overwrite", "--set", "TRAIN.EPOCHS=1")[len(first) + len(again) :]
    assert replaced[0]["opened"][2] != known and replaced[0]["opened"][3] == 0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("wandb", "LOGGER: wandb needs wandb: pip install wandb"),
        ("trackio", "LOGGER: trackio needs trackio: pip install trackio"),
        ("tensorboard", "LOGGER: tensorboard needs tensorboard: pip install tensorboard"),
        ("outside.py:absent", "has no absent; it has"),
        ("outside.py:broken", "cannot be opened (OSError: no network)"),
        ("wand", "LOGGER is 'wand' (text), expected text that is auto, none, tensorboard, wandb,"),
    ],
)
def test_a_logger_that_cannot_be_is_a_sentence(experiment: Path, name: str, wanted: str) -> None:
    experiment.write_text(experiment.read_text() + f"LOGGER: {name}\n")

    def without_packages() -> None:
        for package in ("wandb", "trackio", "tensorboard"):
            sys.modules[package] = None  # type: ignore[assignment]

    output = experiment.parent / "out"
    ended = run("dense_train", "--cfg", experiment, output=output, sabotage=without_packages)
    assert ended.status == 2 and "Traceback" not in ended.output, ended.output
    assert wanted in " ".join(ended.output.split()), ended.output
    assert not list((experiment.parent / "save").rglob("log.jsonl"))


class Service:
    """What wandb and trackio have in common."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def init(self, **options: Any) -> Service:
        self.said.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.said.append((step, values))

    def finish(self) -> None:
        self.said.append("finished")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_the_numbers_under_one_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=service.init))  # type: ignore
    opener = find_logger(name)
    assert opener is not None
    for first in (0, 1):
        with Scalars() as scalars:
            scalars.open(opener, name, about(tmp_path, first))
            scalars.write({"epoch": first, "train": {"total": 2}, "lr": 0.5, "note": "x"})
    start, numbers, end, *again = service.said
    assert start["project"] == "project" and start["resume"] == "allow"
    assert start["config"] == {"TRAIN": {"SEED": 3}}
    assert "0123abcd" in (start.get("id") or start["name"])
    assert numbers == (0, {"train/total": 2.0, "lr": 0.5}) and end == "finished"
    assert again[0] == start and again[1][0] == 1


def test_trackio_goes_on_with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs trackio")
    opener = find_logger("trackio")
    assert opener is not None
    for epoch in (0, 1):
        with Scalars() as scalars:
            scalars.open(opener, "trackio", about(tmp_path, epoch))
            scalars.write({"epoch": epoch, "train": {"total": 2.0 - epoch}})
    from trackio.sqlite_storage import SQLiteStorage

    (kept,) = SQLiteStorage.get_runs("project")
    rows = SQLiteStorage.get_logs("project", kept)
    assert [(row["step"], row["train/total"]) for row in rows] == [(0, 2.0), (1, 1.0)]


def test_a_logger_that_fails_stops_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing:
        def log(self, step: int, values: dict[str, float]) -> None:
            raise ConnectionError("gone")

        def close(self) -> None:
            raise AssertionError("a logger that failed is left alone")

    with Scalars() as scalars:
        scalars.open(lambda run: Failing(), "mine", about(Path()))
        scalars.write({"epoch": 0, "lr": 1.0})
        scalars.write({"epoch": 1, "lr": 1.0})
    said = capsys.readouterr().out
    assert said.count("WARNING: LOGGER mine failed (ConnectionError: gone)") == 1


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(InputError, match="returned a dict without log, expected an object with"):
        Scalars().open(lambda run: {}, "mine", about(Path()))  # type: ignore[arg-type,return-value]


def test_tensorboard_forgets_what_is_logged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Writer(types.SimpleNamespace):
        def __init__(self, folder: str, purge_step: int) -> None:
            super().__init__(folder=folder, purge_step=purge_step, scalars=[])
            (Path(folder) / "events.out.tfevents.1").touch()
            made.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    for name in ("auto", "tensorboard"):
        with Scalars() as scalars:
            opener = find_logger(name)
            assert opener is not None
            scalars.open(opener, name, about(tmp_path, 4))
            scalars.write({"epoch": 4, "train": {"total": 1.5}})
    assert made[0].purge_step == 4 and made[0].scalars == [("train/total", 1.5, 4)]
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert find_logger("auto") is None and find_logger("none") is None
