"""A run folder is written by one process, loses nothing, and is never replaced unasked."""

from __future__ import annotations

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
from lib.base.files import replace_file
from lib.training.run import Run
from tests.disk import room_for

REPOSITORY = Path(__file__).resolve().parents[1]


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
        with Run.create(folder, "TAG: new\n", overwrite=True):
            left = {path.name: path.read_text() for path in folder.glob("[!.]*")}
        assert left == {"config.yaml": "TAG: new\n", "notes.txt": "mine"}

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
        assert str(caught.value).startswith(f"{folder} holds no run (no config.yaml); train first")
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


def interrupt():
    raise KeyboardInterrupt
