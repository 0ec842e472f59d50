"""A run folder is written by one process, loses nothing, and is never replaced unasked."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.base.files import RECORD, record_file, replace_file
from lib.base.terminal import shown_path
from lib.training import checkpoint
from lib.training.console import Console
from lib.training.run import Run
from tests.disk import room_for

REPOSITORY = Path(__file__).resolve().parents[1]
# What a user may have put into a run's folder, though runs have files of such names.
MINE = ("best-of-all.pt", "backup.pt", "mine.step", "results.txt", "weights.safetensors", "log.txt")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "save" / "dense_activitynet" / "acnet"


def in_another_process(code: str, *arguments: str) -> subprocess.Popen:
    program = "import sys; from lib.training.run import *\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestANewRun:
    def test_begins_with_its_configuration(self, folder):
        with Run.create(folder, "TAG: ä\n") as run:
            assert run.config_text == "TAG: ä\n"
            assert run.records() == []

    def test_does_not_replace_another(self, folder):
        with Run.create(folder, "TAG: old\n") as run:
            run.write_json("results.json", {})
        with pytest.raises(InputError) as caught:
            Run.create(folder, "TAG: new\n")
        assert str(caught.value) == (
            f"{folder} holds a run already (config.yaml, results.json); "
            "go on with it by --resume, replace it by --overwrite, or name another by --tag"
        )
        assert (folder / "config.yaml").read_text() == "TAG: old\n"

    def test_that_overwrites_deletes_what_runs_write_and_nothing_else(self, folder):
        with Run.create(folder, "TAG: old\n") as run:
            run.log({"epoch": 1})
            for name in (
                "last.pt",
                "best.pt",
                "results.json",
                "results.md",
                "events.out.tfevents.1",
            ):
                run.write_text(name, "old")
            run.write_text("notes.txt", "mine")
            for name in MINE:
                (folder / name).write_text("mine")
        with Run.create(folder, "TAG: new\n", overwrite=True):
            left = {path.name: path.read_text() for path in folder.glob("[!.]*")}
        expected = {"config.yaml": "TAG: new\n", "notes.txt": "mine"}
        assert left == expected | dict.fromkeys(MINE, "mine")

    def test_that_overwrites_leaves_no_results_of_the_run_before(self, folder):
        names = ("results_val.json", "results_val.md", "results-in_order.md", "results.html")
        with Run.create(folder, "") as run:
            for name in (
                *names,
                "lowest_loss.pt",
                "best-7.pt",
                "epoch1-step2.step",
                "predictions.maps.npz",
            ):
                run.own(name).write_text("old")
        with Run.create(folder, "", overwrite=True):
            assert {path.name for path in folder.glob("[!.]*")} == {"config.yaml"}

    def test_deletes_of_a_run_without_a_record_what_every_run_wrote(self, folder):
        summary = json.dumps({"protocols": {}, "checkpoint": {}})
        with Run.create(folder, "") as run:
            for name in ("last.pt", "log.jsonl", "results_val.md", "results-in_order.md"):
                run.own(name).write_text("old")
            run.own("results-in_order.json").write_text(summary)
        (folder / RECORD).unlink()
        for name in MINE:
            (folder / name).write_text("mine")
        with Run.create(folder, "", overwrite=True):
            assert {path.name for path in folder.glob("[!.]*")} == {"config.yaml", *MINE}

    def test_deletes_of_a_run_without_a_record_all_the_same_after_a_new_test(self, folder):
        with Run.create(folder, "") as run:
            for name in ("last.pt", "best.pt", "log.jsonl"):
                run.own(name).write_text("old")
        (folder / RECORD).unlink()
        record_file(folder, "results.html").write_text("of report.py")
        Run.open(folder, exclusive=False).write_json("results_val.json", {})
        with Run.create(folder, "", overwrite=True):
            assert {path.name for path in folder.glob("[!.]*")} == {"config.yaml"}

    @pytest.mark.parametrize("name", ["best-3.pt", "results-mine.md", "epoch1-step2.step"])
    @pytest.mark.parametrize("begun", [False, True])
    def test_does_not_begin_where_it_might_write_over_a_user_s_file(self, folder, name, begun):
        folder.mkdir(parents=True)
        if begun:
            Run.create(folder, "").close()
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match=f"{name} is in the way, which the record of the run"):
            Run.create(folder, "", overwrite=True)
        assert (folder / name).read_text() == "mine"

    def test_believes_no_record_that_names_other_files(self, folder):
        (folder.parent / "other").mkdir(parents=True)
        with Run.create(folder, "") as run:
            outside = [folder.parent / "best.pt", folder / "notes.txt", folder / ".lock"]
            for path in outside:
                path.write_text("mine")
            for name in ("../best.pt", "notes.txt", ".lock", "", ".", "..", str(outside[0])):
                with (folder / RECORD).open("a") as file:
                    file.write(json.dumps(name) + "\n[1]\nnull\n{\n")
            run.remove("../best.pt")
        with Run.create(folder, "", overwrite=True):
            assert all(path.exists() for path in outside)

    @room_for(4096)
    def test_that_cannot_be_written_leaves_the_old_one_whole(self, folder):
        with Run.create(folder, "TAG: old\n") as run:
            run.write_text("last.pt", "old")
        with pytest.raises(
            InputError, match=r"config\.yaml cannot be written .File too large.; what"
        ):
            Run.create(folder, "#" * 5000, overwrite=True)
        assert (folder / "last.pt").read_text() == "old"
        assert (folder / "config.yaml").read_text() == "TAG: old\n"
        with Run.create(folder, "TAG: new\n", overwrite=True):
            pass  # the failed one let go of the folder

    def test_cannot_be_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be made a run folder"):
            Run.create(tmp_path / "file", "")


class TestAnExistingRun:
    def test_must_exist(self, folder):
        with pytest.raises(InputError) as caught:
            Run.open(folder)
        shown = shown_path(folder)
        assert str(caught.value).startswith(f"{shown} holds no run (no config.yaml); train first")
        assert not folder.exists()

    def test_is_open_to_one_writer_and_many_readers(self, folder):
        code = """
        try:
            Run.open(sys.argv[1])
        except InputError as fault:
            print(fault)
        Run.open(sys.argv[1], exclusive=False)
        """
        with Run.create(folder, ""):
            out, err = in_another_process(code, str(folder)).communicate(timeout=60)
            assert err == ""
            assert out == (
                f"{folder} is in use by another process (number {os.getpid()}); wait for it, or "
                "name another run by --tag\n"
            )
        out, err = in_another_process(code, str(folder)).communicate(timeout=60)
        assert (out, err) == ("", "")

    def test_is_free_again_when_its_writer_was_killed_though_its_workers_live(self, folder):
        code = """
        import os, time
        run = Run.create(sys.argv[1], "")
        if os.fork() == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)
        """
        process = in_another_process(code, str(folder))
        worker = int(process.stdout.readline())
        try:
            with pytest.raises(InputError, match="in use"):
                Run.open(folder)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=60)
            Run.open(folder).close()
        finally:
            os.kill(worker, signal.SIGKILL)
            process.communicate()

    def test_stays_locked_when_a_forked_worker_ends(self, folder):
        with Run.create(folder, ""):
            worker = multiprocessing.get_context("fork").Process(target=int)
            worker.start()
            worker.join()
            with pytest.raises(InputError, match="in use"):
                Run.open(folder)


class TestTheLog:
    def test_holds_one_object_a_line(self, folder):
        with Run.create(folder, "") as run:
            run.log({"epoch": 1, "loss": torch.tensor(0.5), "ious": (np.float32(0.25), 1)})
            run.log({"epoch": 2, "loss": float("nan"), "worst": -np.inf, "video": "ä\n"})
            assert run.records() == [
                {"epoch": 1, "loss": 0.5, "ious": [0.25, 1]},
                {"epoch": 2, "loss": None, "worst": None, "video": "ä\n"},
            ]
        assert (folder / "log.jsonl").read_text("utf-8").count("\n") == 2

    def test_does_not_count_a_line_that_a_kill_cut_short(self, folder):
        with Run.create(folder, "") as run:
            run.log({"epoch": 1})
            with (folder / "log.jsonl").open("a") as file:
                file.write('{"epoch": 2, "lo')
            assert run.records() == [{"epoch": 1}]
            run.truncate_log(epoch=5)
            run.log({"epoch": 2})
            assert run.records() == [{"epoch": 1}, {"epoch": 2}]

    def test_is_cut_at_the_first_record_past_the_checkpoint(self, folder):
        records = [
            {"corpus": "x"},
            {"epoch": 0, "step": 5},
            {"note": "kept"},
            {"epoch": 1, "step": 10},
            {"epoch": 1, "step": 15},
            {"note": "forgotten"},
            {"epoch": 2},
        ]
        with Run.create(folder, "") as run:
            for record in records:
                run.log(record)
            before = (folder / "log.jsonl").read_bytes()
            run.truncate_log(epoch=2, step=15)
            assert (folder / "log.jsonl").read_bytes() == before
            run.truncate_log(epoch=1)
            assert run.records() == records[:6]
            run.truncate_log(step=10)
            assert run.records() == records[:4]

    def test_with_a_foreign_line_is_refused_by_its_number(self, folder):
        with Run.create(folder, "") as run:
            run.write_text("log.jsonl", '{"epoch": 1}\n[1]\n{}\n')
            with pytest.raises(InputError, match=r"log\.jsonl:2: expected one JSON object"):
                run.records()

    @room_for(4096)
    def test_on_a_full_disk_is_reported(self, folder):
        with Run.create(folder, "") as run, pytest.raises(InputError, match="cannot be written"):
            for _ in range(100):
                run.log({"text": "x" * 100})


class TestAFileOfTheRun:
    def test_is_strict_json(self, folder):
        value = {"R@10,IoU=0.5": np.float64("nan"), 10: [torch.arange(2)], "share": True}
        with Run.create(folder, "") as run:
            path = run.write_json("results.json", value)
            with pytest.raises(TypeError, match="set cannot be written as JSON"):
                run.write_json("results.json", {1, 2})
        assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
            "R@10,IoU=0.5": None,
            "10": [[0, 1]],
            "share": True,
        }

    @room_for(4096)
    def test_is_replaced_whole_or_not_at_all(self, folder):
        with Run.create(folder, "") as run:
            path = run.write_text("results.md", "old")
            with pytest.raises(InputError, match="what was there before is unchanged"):
                run.write_text("results.md", "x" * 5000)
            with pytest.raises(KeyboardInterrupt):
                replace_file(path, lambda file: (file.write(b"half"), interrupt()))
            assert path.read_text() == "old"
            assert [p.name for p in folder.glob("*.new")] == []


class TestALinkInTheRunsFolder:
    """Somebody else who may write there leads no write elsewhere."""

    @pytest.fixture
    def victim(self, tmp_path) -> Path:
        path = tmp_path / "victim"
        path.write_text("mine")
        return path

    @pytest.mark.parametrize("name", [".lock", "log.jsonl", "console.log"])
    def test_is_not_written_through(self, folder, victim, name):
        folder.mkdir(parents=True)
        (folder / name).symlink_to(victim)
        refused = pytest.raises(
            InputError, match=rf"{name} (cannot be written .a symbolic link|is in)"
        )
        with refused, Run.create(folder, "") as run:
            run.log({})
        assert victim.read_text() == "mine"

    @pytest.mark.parametrize("name", ["log.jsonl", "console.log"])
    @pytest.mark.parametrize("append", [False, True])
    def test_made_later_is_not_written_through(self, folder, victim, name, append):
        with Run.create(folder, "") as run:
            run.own(name).symlink_to(victim)
            with pytest.raises(InputError, match="a symbolic link, which is not followed"):
                if name == "log.jsonl":
                    run.log({})
                else:
                    Console().attach(run.path(name), append=append)
        assert victim.read_text() == "mine"

    @pytest.mark.parametrize("name", ["last.pt", ".last.pt.new"])
    def test_is_replaced_and_not_written_through(self, folder, victim, name):
        with Run.create(folder, "") as run:
            (folder / name).symlink_to(victim)
            checkpoint.save(run.own("last.pt"), {"epoch": 1})
        assert checkpoint.load(folder / "last.pt") == {"epoch": 1}
        assert victim.read_text() == "mine"
        assert not (folder / "last.pt").is_symlink()

    def test_and_a_pipe_there_is_not_waited_for(self, folder):
        folder.mkdir(parents=True)
        os.mkfifo(folder / ".lock")
        signal.alarm(20)
        try:
            with pytest.raises(InputError, match=r"\.lock cannot be written .not a regular file"):
                Run.create(folder, "")
        finally:
            signal.alarm(0)


def interrupt():
    raise KeyboardInterrupt


def test_a_link_made_between_two_steps_is_not_written_through(tmp_path, monkeypatch):
    victim, unlink = tmp_path / "victim", Path.unlink
    victim.write_text("mine")

    def and_link_again(path: Path, **options: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            unlink(path)
        path.symlink_to(victim)

    monkeypatch.setattr(Path, "unlink", and_link_again)
    with pytest.raises(InputError, match="cannot be written .File exists"):
        replace_file(tmp_path / "last.pt", lambda file: file.write(b"weights"))
    assert victim.read_text() == "mine"
