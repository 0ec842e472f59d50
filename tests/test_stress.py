"""The stress command: each way of stopping a command once, and that it sees what goes wrong."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.runs import Ended
from tests.stress import home as homes
from tests.stress.__main__ import line_of
from tests.stress.commands import damaged
from tests.stress.home import COMMANDS
from tests.stress.kill_harness import differences
from tests.stress.stop import KINDS, Stopper, lost, written


@pytest.fixture
def stopper(made_home: Path, tmp_path: Path) -> Stopper:
    return Stopper(made_home, tmp_path / "scratch", random.Random(5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_is_stopped_loses_nothing(kind: str, stopper: Stopper) -> None:
    stopper.names = ["train", "report", "export", "import_features"]
    for _ in range(2):
        stopped = stopper.one(kind)
        assert stopped.wrong == "", stopped


@pytest.mark.parametrize("name", homes.installed(n for n in COMMANDS if COMMANDS[n].writes))
def test_every_command_that_writes_is_compared_with_itself(name: str, stopper: Stopper) -> None:
    """Two that nobody stops write the same, so that a difference means something."""
    expected, _ = stopper.undisturbed(name)
    assert len(expected) > 0
    stopper.known.clear()
    again, _ = stopper.undisturbed(name)
    assert not list(differences(expected, again))


class TestItSees:
    @pytest.fixture
    def score(self, stopper: Stopper) -> tuple[Stopper, Path, dict]:
        expected, _ = stopper.undisturbed("score")
        return stopper, stopper.scratch / "home", expected

    def test_a_file_that_is_lost_or_cut(self, score) -> None:
        _, home, expected = score
        command = COMMANDS["score"]
        before = written(command, home)
        assert lost(before, expected, command, home) == ""
        text = (home / "scores.md").read_text()
        (home / "scores.md").write_text(text[: len(text) // 2])
        assert "scores.md is neither" in lost(before, expected, command, home)
        (home / "scores.md").unlink()
        assert lost(before, expected, command, home) == "scores.md is lost"
        (home / "scores.md").write_text(text)
        (home / "scores.json").write_text(json_of_half(home))
        assert "scores.json" in lost(before, expected, command, home)

    def test_a_damaged_checkpoint(self, made_home, tmp_path) -> None:
        home = homes.copy_of(made_home, tmp_path / "home")
        before = written(COMMANDS["train"], home)
        path = home / "save/tiny/last.pt"
        path.write_bytes(path.read_bytes()[:-100])
        assert "a file is damaged" in lost(before, before, COMMANDS["train"], home)

    def test_what_is_left_and_what_comes_out_otherwise(self, score) -> None:
        stopper, home, expected = score
        (home / ".other.json.new").write_text("")
        assert ".other.json.new is left" in stopper._again(
            dataclasses.replace(COMMANDS["score"], writes=()), home, {}
        )
        (home / ".other.json.new").unlink()
        lines = (home / "save/tiny/predictions.jsonl").read_text().splitlines()
        (home / "save/tiny/predictions.jsonl").write_text("\n".join([lines[0], *lines[2:]]))
        assert stopper._again(COMMANDS["score"], home, expected) != ""

    @pytest.mark.parametrize(
        ("kind", "status", "output", "wanted"),
        [
            ("kill", 0, "Traceback (most recent call last)\nKeyError", "a traceback"),
            ("kill", 70, "error: x", "status 70"),
            ("kill", -9, "", ""),
            ("disk", -9, "", "status -9"),
            ("signal", 143, "saved", ""),
            ("disk", 143, "saved", "status 143"),
            ("memory", 2, "error: memory ran out", ""),
            ("group", -9, "HANGS: x", "hangs"),
        ],
    )
    def test_how_a_command_ends(self, stopper, kind, status, output, wanted) -> None:
        found = stopper._fault(kind, COMMANDS["score"], Ended(status, output))
        assert found.startswith(wanted) and bool(found) == bool(wanted)


def json_of_half(home: Path) -> str:
    text = (home / "scores.json").read_text()
    return text[: len(text) // 2]


def test_the_line_has_every_count() -> None:
    counts = Counter({"kill": 7, "signal": 1200, "disk": 3, "damaged": 11, "read": 50})
    line = line_of(30, 4, counts, Counter({"train": 5, "test": 0}), ["x"], 2.34)
    assert line == (
        "30 minutes, seed 4: 7 kills; 1,200 signals to a process; 0 to a group; 0 killed loader "
        "processes; 3 full disks; 0 starved of memory; (train 5); 11 damaged inputs of commands; "
        "50 of readers; 0 crashes of the HDF5 library; slowest 2.3 s; wrong: 1"
    )


def test_a_damaged_file_can_always_be_made(made_home: Path) -> None:
    """Also where a value is exchanged twice."""
    data = {path: path.read_bytes() for path in sorted((made_home / "save").rglob("*.pt"))}
    for number in range(200):
        for path, content in data.items():
            damaged(content, path.name, random.Random(number))
