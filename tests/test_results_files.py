"""Results are whole: a kill or a full disk leaves the old ones, and a cut file is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.base.errors import InputError
from lib.base.files import replace_files
from lib.commands import compare, report, score
from lib.evaluation.files import read_predictions, read_truth
from lib.evaluation.files.run import read_run
from tests.demo_run import make_run
from tests.disk import room_for
from tests.runs import Ended, run, write_experiment
from tests.test_faults import at_call, die

WRITTEN = ("predictions.truth.jsonl", "predictions.jsonl", "predictions.maps.npz")
WRITTEN += ("results.md", "results.json")


class Bench:
    """A run that was tested, and is tested again under another seed of its intervals."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.experiment = folder, write_experiment(folder, EPOCHS=1)
        self.saved = folder / "save" / "tiny"

    def call(self, name: str, **options: Any) -> Ended:
        flags = ("--cfg", self.experiment)
        return run(name, *flags, output=self.folder / f"{name}.txt", **options)

    def contents(self) -> dict[str, bytes]:
        return {name: (self.saved / name).read_bytes() for name in WRITTEN}


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    run = Bench(tmp_path_factory.mktemp("tested"))
    for name in ("dense_train", "best_test"):
        ended = run.call(name)
        assert ended.status == 0, ended.output
    return run


@pytest.mark.parametrize("call", [1, 3, 5])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_killed_test_leaves_results_that_belong_together(tested, name, call) -> None:
    before = tested.contents()
    ended = tested.call("best_test", sabotage=at_call(call, os, name, die))
    assert ended.status == -signal.SIGKILL, ended.output
    after = tested.contents()
    changed = [name for name in WRITTEN if after[name] != before[name]]
    if name == "fsync":  # nothing is replaced before all is safe
        assert not changed
    read_run(tested.saved)  # the predictions come out the same, so they are those of the results
    ended = tested.call("best_test")
    assert ended.status == 0, ended.output
    assert not list(tested.saved.glob(".*.new"))


@pytest.mark.parametrize("call", range(1, 6))
def test_a_full_disk_is_a_sentence_and_leaves_the_results(tested, call) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = tested.contents()
    ended = tested.call("best_test", sabotage=at_call(call, os, "fsync", full))
    assert ended.status == 2
    path = tested.saved / WRITTEN[call - 1]
    assert ended.output.splitlines()[-1] == (
        f"error: {path} cannot be written (No space left on device); "
        "what was there before is unchanged"
    )
    assert tested.contents() == before
    assert not list(tested.saved.glob(".*.new"))


def test_files_that_belong_together_are_replaced_when_all_are_safe(tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("old")

    def fail(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"two cannot be written .No space"):
        replace_files({one: lambda file: file.write(b"new"), two: fail})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one": "old"}


def test_a_process_does_not_put_another_one_s_file_in_place(tmp_path) -> None:
    path = tmp_path / "results.json"

    def write(file: Any) -> None:
        file.write(b"ours")
        temporary = tmp_path / ".results.json.new"
        temporary.unlink()
        temporary.write_text("half of another one's")

    with pytest.raises(InputError, match="is being written by another process"):
        replace_files({path: write})
    assert not path.exists()


def test_a_folder_in_a_file_s_place_leaves_nothing_beside_it(tmp_path) -> None:
    (tmp_path / "scores.md").mkdir()
    with pytest.raises(InputError, match=r"scores.md cannot be written .Is a directory"):
        replace_files({tmp_path / "scores.md": lambda file: file.write(b"x")})
    assert [path.name for path in tmp_path.iterdir()] == ["scores.md"]


# Readers


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_run(folder / "run", skill=0.5)
    make_run(folder / "other", skill=0.7, seed=1)
    return folder


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("predictions.truth.jsonl", lambda folder: read_truth(folder / "predictions.truth.jsonl")),
        (
            "predictions.jsonl",
            lambda folder: read_predictions(
                folder / "predictions.jsonl", read_truth(folder / "predictions.truth.jsonl")
            ),
        ),
    ],
)
def test_a_file_cut_after_a_line_is_refused(
    demo: Path, tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    shutil.copytree(demo / "run", tmp_path / "run")
    path = tmp_path / "run" / name
    lines = path.read_text("utf-8").splitlines(keepends=True)
    for kept in (1, 30, len(lines) - 1):
        path.write_text("".join(lines[:kept]), "utf-8")
        with pytest.raises(
            InputError, match=rf'{name}: has {kept:,} lines and says "lines": {len(lines):,}; was'
        ):
            read(tmp_path / "run")


@pytest.mark.parametrize("name", WRITTEN[:3])
def test_a_report_refuses_files_that_its_results_were_not_counted_on(
    tested: Bench, tmp_path: Path, name: str
) -> None:
    shutil.copytree(tested.saved, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match=f"{name}: is not the file that results.json was written"):
        read_run(tmp_path / "run")
    path.unlink()
    with pytest.raises(InputError, match=name):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (report.main, ["run", "--out", "out.html"]),
        (compare.main, ["run", "other", "--out", "out.html", "--resamples", "10"]),
        (score.main, [*WRITTEN[1:2], "--truth", WRITTEN[0], "--resamples", "0", "--json", "out"]),
        (
            score.main,
            [*WRITTEN[1:2], "--truth", WRITTEN[0], "--resamples", "0", "--markdown", "out"],
        ),
    ],
)
def test_the_other_commands_replace_their_output_whole(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Any, flags: list[str]
) -> None:
    shutil.copytree(demo, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs" / ("run" if main is score.main else ""))
    (out,) = (Path(flag) for flag in flags if flag.startswith("out"))
    out.write_text("old")
    with room_for(1000), pytest.raises(InputError, match="out.* cannot be written .File too large"):
        main(flags)
    assert out.read_text() == "old"
    assert not list(Path().glob(".out*"))
    main(flags)
    assert out.read_text() != "old"


def test_the_report_goes_with_the_run(tested: Bench, tmp_path: Path) -> None:
    shutil.copytree(tested.saved, tmp_path / "run")
    report.main([str(tmp_path / "run")])
    names = [json.loads(line) for line in (tmp_path / "run" / ".files").read_text().splitlines()]
    assert "results.html" in names
