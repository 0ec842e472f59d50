"""One entry for all commands: a fault is a line and a status, whoever made it and wherever."""

from __future__ import annotations

import ast
import errno
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from lib.base.command import COUNT, POSITIVE, number_from, run_script
from lib.base.errors import InputError, WorkerDied
from lib.datasets.loading import _sentences
from moment_localization import bench
from tests.runs import REPOSITORY, Ended, run
from tests.stress import commands
from tests.stress import home as homes

SCRIPTS = sorted((REPOSITORY / "moment_localization").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_has_the_one_entry(path: Path) -> None:
    last = ast.parse(path.read_text("utf-8")).body[-1]
    assert ast.unparse(last) == "if __name__ == '__main__':\n    run_script(main)"


def left(act: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as leaving:
        run_script(act)
    return int(leaving.value.code or 0), capsys.readouterr().err


def raising(fault: BaseException) -> Any:
    def main() -> None:
        raise fault

    return main


def test_a_fault_of_the_program_is_a_line_a_file_and_status_70(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["some/score.py", "a file", "--k", "1"])
    status, said = left(raising(TypeError("first\nsecond")), capsys)
    assert status == 70 and said.count("\n") == 1
    assert said.startswith("error: this is a fault of the program and not of its input (TypeError:")
    (path,) = tmp_path.iterdir()
    assert said.endswith(f"its traceback is in {path}\n") and path.name.startswith("score-")
    text = path.read_text("utf-8")
    assert "score.py 'a file' --k 1" in text and "raise fault" in text and "second" in text


def test_a_traceback_without_a_place_is_still_a_line(capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    status, said = left(raising(KeyError("x")), capsys)
    assert status == 70 and said.endswith("its traceback could not be written\n")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (InputError("x: is none"), "x: is none"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk: No space left on device"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "a/b: No such file"),
        (OSError(errno.EMFILE, "Too many open files"), "the disk: Too many open files"),
        (MemoryError("Unable to allocate 9 TiB"), "memory ran out (Unable to allocate 9 TiB)"),
        (torch.OutOfMemoryError("of the device"), "memory ran out (of the device)"),
        (
            RuntimeError("Can't write (errno = 28, error message = 'No space left on device')"),
            "the disk: No space left on device",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "memory ran out ([enforce fail] DefaultCPUAllocator: can't allocate memory)",
        ),
        (
            RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"),
            "memory ran out (unable to mmap 9 bytes: Cannot allocate memory (12))",
        ),
        (
            ImportError("x.so: failed to map segment from shared object"),
            "memory ran out (x.so: failed to map segment from shared object)",
        ),
    ],
)
def test_what_the_user_can_mend_is_a_line_and_status_2(fault, line, capsys):
    assert left(raising(fault), capsys) == (2, f"error: {line}\n")


def test_ctrl_c_that_a_library_makes_another_error_of_is_heard(capsys):
    """As NumPy does of one while it compares."""

    def main() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise TypeError("Cannot compare structured arrays") from interrupt

    assert left(main, capsys) == (130, "\ninterrupted\n")


@pytest.fixture
def own_hooks() -> Iterator[None]:
    """A test whose command sets those of the process."""
    hooks, handler = (sys.unraisablehook, sys.excepthook), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    yield
    sys.unraisablehook, sys.excepthook = hooks
    signal.signal(signal.SIGINT, handler)


def test_ctrl_c_that_a_library_hides_is_heard(capsys, own_hooks):
    """Whose error does not name it."""

    def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            fault = TypeError("Cannot compare structured arrays")
        raise fault

    assert left(main, capsys) == (130, "\ninterrupted\n")


def test_what_ctrl_c_left_half_done_does_not_complain(capsys, own_hooks):
    class HalfWritten:
        def __del__(self) -> None:
            raise ValueError("seek of closed file")

    kept = [HalfWritten()]

    def main() -> None:
        signal.raise_signal(signal.SIGINT)

    assert left(main, capsys) == (130, "\ninterrupted\n")
    kept.clear()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("again", [0, 2])
def test_ctrl_c_in_a_callback_is_heard(again, capsys, own_hooks, monkeypatch):
    """Where Python prints a traceback and goes on; and so are others that follow at once."""
    start, left_over = threading.Timer.start, [None] * again

    def disturbed(timer: threading.Timer) -> None:
        if left_over:
            left_over.pop()
            raise KeyboardInterrupt
        start(timer)

    monkeypatch.setattr(threading.Timer, "start", disturbed)

    class Thing:
        pass

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    def main() -> None:
        thing = Thing()
        kept = weakref.ref(thing, interrupted)
        del thing
        time.sleep(5)
        raise AssertionError(f"went on with {kept}")

    assert left(main, capsys) == (130, "\ninterrupted\n")


@pytest.mark.parametrize(
    "text",
    [
        "Can't decrement id ref count (errno = 28, error message = 'No space left on device')",
        "DataLoader worker (pid 7) is killed by signal: Killed. ",
        "'_MultiProcessingDataLoaderIter' object has no attribute '_workers_status'",
    ],
)
def test_what_is_told_elsewhere_is_not_printed_once_more(text, capsys, own_hooks):
    """By a library that closes something, or in a callback."""

    class Thing:
        def __del__(self) -> None:
            raise RuntimeError(text)

    def main() -> None:
        Thing()

    run_script(main)
    sys.excepthook(RuntimeError, RuntimeError(text), None)
    assert capsys.readouterr().err == ""


def test_an_error_with_a_status_of_its_own_keeps_it(capsys):
    fault = InputError("x")
    fault.exit_status = 4
    assert left(raising(fault), capsys) == (4, "error: x\n")


def test_ctrl_c_is_no_fault(capsys):
    assert left(raising(KeyboardInterrupt()), capsys) == (130, "\ninterrupted\n")


def test_a_command_without_torch_ends_likewise():
    code = """
        import sys
        sys.modules["torch"] = None
        from lib.base.command import run_script
        run_script(lambda: [][1])
    """
    ended = subprocess.run(
        [sys.executable, "-c", re.sub("^ +", "", code, flags=re.MULTILINE)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 70 and "IndexError" in ended.stderr
    Path(ended.stderr.split()[-1]).unlink()


def test_numbers_of_a_command_line_are_checked_where_they_are_read():
    assert (COUNT("0"), POSITIVE("7"), number_from(0)("2.5")) == (0, 7, 2.5)
    for kind, words in (
        (COUNT, ("-1", "x", "1.5", "9" * 5000, "")),
        (POSITIVE, ("0", "-3")),
        (number_from(0), ("-1", "nan", "inf", "x")),
    ):
        for word in words:
            with pytest.raises(Exception, match="is none"):
                kind(word)


REFUSED_NUMBERS = [
    ("score", "score", "--k", "-1"),
    ("score", "score", "--iou", "nan"),
    ("score", "score", "--resamples", "-1"),
    ("compare", "compare", "--resamples", "0"),
    ("compare", "compare", "--seed", "-1"),
    ("report", "report", "--count", "-1"),
    ("figures", "figures", "--count", "-1"),
    ("figures", "figures", "--retrieved", "0"),
    ("search", "search", "--top", "0"),
    ("index", "index", "--places", "0"),
    ("index", "index", "--seconds-per-row", "-1"),
    ("doctor", "doctor", "--videos", "-5"),
    ("extract", "extract_features", "--batch", "0"),
    ("extract", "extract_features", "--stride", "0"),
    ("plan", "plan", "--steps", "0"),
    ("sweep", "sweep", "--seeds", "0"),
    ("sweep", "sweep", "--jobs", "0"),
]


@pytest.mark.parametrize(("name", "script", "flag", "value"), REFUSED_NUMBERS)
def test_numbers_that_cannot_be_are_refused(name, script, flag, value, tmp_path):
    line = homes.COMMANDS[name].arguments(tmp_path)
    ended = run(script, *line, flag, value, output=tmp_path / "out")
    assert ended.status == 2, ended.output
    assert f"error: argument {flag}: {value!r} is none" in ended.output


def call(name: str, home: Path, *more: object) -> Ended:
    command = homes.COMMANDS[name]
    return run(command.script, *command.arguments(home), *more, output=home / "out")


def says(ended: Ended, wanted: str) -> None:
    assert ended.status == 2 and "Traceback" not in ended.output, ended.output
    line = next(line for line in ended.output.splitlines() if line.startswith("error: "))
    assert wanted in line, line


class TestImportingFeatures:
    @pytest.mark.parametrize(
        ("name", "text", "wanted"),
        [
            ("shape.txt", "6 ²", "expected the number of rows and their width"),
            ("shape.txt", f"{'1' * 5000} 4", "expected the number of rows and their width"),
            ("video2frames.txt", "{'': ['row_0']}", "names a video ''"),
            ("video2frames.txt", "{'.': ['row_0']}", "names a video '.'"),
            ("video2frames.txt", "{'x/../y': ['row_0']}", "names a video 'x/../y'"),
            (
                "video2frames.txt",
                "{'x/y': ['row_0'], 'x': ['row_1']}",
                "lies inside of the video x",
            ),
            ("video2frames.txt", "{'\\ud800': ['row_0']}", "names a video '\\ud800'"),
            ("video2frames.txt", "{'x': [['row_0']]}", "no list of rows"),
            ("video2frames.txt", "{'x': ['row_9']}", "the row 'row_9', which id.txt lacks"),
        ],
    )
    def test_what_hdf5_cannot_hold_is_refused_and_nothing_is_left(
        self, tmp_path, name, text, wanted
    ):
        homes._write_bigfile(tmp_path / "bigfile")
        (tmp_path / "bigfile" / name).write_text(text)
        says(call("import_features", tmp_path), wanted)
        assert {path.name for path in tmp_path.iterdir()} == {"bigfile", "out"}

    def test_the_rows_come_out(self, tmp_path):
        homes._write_bigfile(tmp_path / "bigfile")
        assert call("import_features", tmp_path).status == 0
        with h5py.File(tmp_path / "imported.hdf5") as file:
            rows = np.fromfile(tmp_path / "bigfile/feature.bin", "<f4").reshape(6, 4)
            assert np.array_equal(file["v_b"][()], rows[2:])


PREDICTIONS = "save/tiny/predictions.jsonl"


def header(**changed: Any) -> bytes:
    return (json.dumps({"predictions": 1, **changed}) + "\n").encode()


class TestScoring:
    @pytest.mark.parametrize(
        ("content", "wanted"),
        [
            (header(pairs_for=5), "pairs_for is 5, expected a list"),
            (header(pairs_for=[{}]), "pairs_for names the unknown protocol {}"),
            (header(unit=[]), "unit is []"),
            (header(proposals=5), "proposals is 5"),
            (header(proposals=[[0, {}]]), "an end is {}"),
            (header(predictions=True), "predictions is True, expected 1"),
            (header(lines=-1), "lines"),
            (b"", "holds no predictions that a protocol counts"),
            (header(), "holds no predictions that a protocol counts"),
            (b'{"predictions": 1, "predictions": 1}\n', "the key 'predictions' stands twice"),
            (b'{"predictions": 1, "note": ' + b"[" * 100_000, "nested too deeply"),
            (b'{"predictions": 1}\n\xff\xfe', "is not UTF-8 text"),
        ],
    )
    def test_a_file_that_is_none_is_refused(self, own_home, content, wanted):
        (own_home / PREDICTIONS).write_bytes(content)
        says(call("score", own_home), wanted)

    @pytest.mark.parametrize("flag", ["--json", "--markdown"])
    def test_no_place_for_the_results_is_said(self, own_home, flag):
        says(call("score", own_home, flag, own_home / "absent/x"), "absent")
        says(call("score", own_home, flag, own_home / "data"), "data")


class TestReports:
    @pytest.mark.parametrize("name", ["report", "compare"])
    def test_no_place_for_the_page_is_said(self, own_home, name):
        says(call(name, own_home, "--out", own_home / "absent/x.html"), "absent")
        says(call(name, own_home, "--out", own_home / "data"), "data")

    @pytest.mark.parametrize(
        ("file", "content", "wanted"),
        [
            ("results.json", b'{"protocols": {}, "protocols": {}}', "stands twice"),
            ("results.json", b"[" * 100_000, "cannot be read"),
            ("results.json", b'{"protocols": {"vr": 3}, "corpus": {}}', "protocols.vr is 3"),
            ("results.json", b"\xff{}", "is not UTF-8"),
            ("config.yaml", b"\xff", "is not UTF-8"),
            ("log.jsonl", b'{"epoch": 0, "train": 3}\n{"epoch": 1}\n', "train is 3"),
            ("log.jsonl", b"\xff\n", "is not UTF-8"),
            ("predictions.maps.npz", b"PK\x03\x04", "cannot be read as score maps"),
        ],
    )
    def test_a_run_whose_files_are_none_is_refused(self, own_home, file, content, wanted):
        if file == "predictions.maps.npz":
            results = json.loads((own_home / "save/tiny/results.json").read_text())
            results.pop("files", None)  # which would tell that another file is there
            (own_home / "save/tiny/results.json").write_text(json.dumps(results))
        (own_home / "save/tiny" / file).write_bytes(content)
        for name in ("report", "compare"):
            says(call(name, own_home), wanted)


@pytest.mark.parametrize("train", ["{}", "3", '{"total": "x"}', '{"total": 1e999}', "null"])
def test_a_log_that_was_changed_stops_no_run(own_home, train):
    path = own_home / "save/tiny/log.jsonl"
    path.write_text(f'{{"epoch": 0, "train": {train}}}\n{{"epoch": 1}}\n')
    ended = call("train", own_home)
    assert ended.status == 0, ended.output


def test_the_doctor_reads_a_sentence_without_a_moment(own_home):
    (path,) = (own_home / "data").rglob("train_data.json")
    tree = json.loads(path.read_text("utf-8"))
    next(iter(tree.values()))["timestamps"][0] = None
    path.write_text(json.dumps(tree))
    ended = call("doctor", own_home)
    assert ended.status in (1, 2) and "this is a fault" not in ended.output, ended.output


def test_the_doctor_sees_rows_of_width_0(own_home):
    (path,) = (own_home / "data").rglob("features.hdf5")
    with h5py.File(path, "r+") as file:
        for name in list(file):
            del file[name]
            file[f"{name}/c3d_features"] = np.zeros((5, 0), np.float32)
    ended = call("doctor", own_home)
    assert ended.status in (1, 2) and "Traceback" not in ended.output, ended.output
    assert "0" in ended.output


@pytest.mark.parametrize("name", [n for n in homes.COMMANDS if homes.COMMANDS[n].weight])
def test_sound_files_are_read(name, own_home):
    """Of which the tests of damage would not speak."""
    if name not in homes.installed([name]):
        pytest.skip("needs a package that is not installed")
    command = homes.COMMANDS[name]
    ended = commands.end(command, own_home, name)
    others = {"doctor": 1, "replay": 3, "import_checkpoint": 2}
    assert ended.status == others.get(name, 0), ended.output
    assert all(list(own_home.glob(pattern)) for pattern in command.writes)


def test_fresh_damage_of_every_command_s_files_is_said_in_lines(made_home, tmp_path):
    for number in range(30):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        found = commands.run_case(made_home, scratch, 2026, number)
        assert found.wrong == "", found


class TestTheFuzzerItself:
    """Every way for a command to end badly is found out."""

    def fault(self, status: int, output: str) -> str:
        return commands.fault(Ended(status, output), homes.COMMANDS["score"], Path("a.jsonl"))

    def test_sees_each(self):
        assert self.fault(0, "fine") == self.fault(2, "error: a line") == ""
        assert self.fault(70, "error: x").startswith("status 70")
        assert self.fault(1, "").startswith("status 1")
        assert self.fault(-11, "").startswith("status -11")
        assert self.fault(2, "no line").startswith("status 2 without a line")
        assert self.fault(2, "Traceback (most recent call last)\nerror: x").startswith(
            "a traceback"
        )
        assert self.fault(-9, "HANGS: waiting").startswith("hangs")

    def test_every_file_of_a_command_is_there_to_be_damaged(self, own_home):
        for name in homes.installed(homes.COMMANDS):
            command = homes.COMMANDS[name]
            for pattern in command.reads:
                assert list(own_home.glob(pattern)), f"{name}: nothing is {pattern}"


class TestBenches:
    """A bench whose run failed does not end with 0."""

    def sabotage(self, train: str, test: str) -> Any:
        status = {"dense_train": train, "best_test": test}

        def act() -> None:
            from lib.commands import sweep

            sweep.command_line = lambda name: [sys.executable, "-c", f"exit({status[name]})"]

        return act

    def experiment(self, folder: Path) -> Path:
        text = {
            "BASE": str(REPOSITORY / "experiments/synthetic/base.yaml"),
            "MODEL_DIR": str(folder),
        }
        text |= {"MODEL": {"NAME": "linear_align"}, "LOSS": {"WEIGHTS": {"sentence": 1}}}
        (folder / "some.yaml").write_text(yaml.safe_dump(text))
        return folder / "some.yaml"

    @pytest.mark.parametrize(
        ("train", "test", "wanted"),
        [
            ("2", "0", "dense_train.py ended with status 2"),
            ("0", "70", "best_test.py ended with status 70"),
            ("0", "0", "best_test.py wrote no results"),
        ],
    )
    def test_a_run_that_fails_is_the_bench_s_failure(self, tmp_path, train, test, wanted):
        act = self.sabotage(train, test)
        ended = run(
            "sweep", "--cfg", self.experiment(tmp_path), output=tmp_path / "out", sabotage=act
        )
        assert ended.status == 1 and wanted in ended.output, ended.output

        def apart() -> None:  # from the results that this checkout may have
            from lib.commands import sweep

            act()
            sweep.run_folder = lambda cfg, config: tmp_path / "runs" / config.TAG

        ended = run(
            "bench",
            *("run", "--seeds", 1, "--levels", "middle", "--experiments", "linear_align"),
            output=tmp_path / "out",
            sabotage=apart,
        )
        assert ended.status == 1 and wanted in ended.output, ended.output

    def test_results_that_are_cut_are_a_failure(self, tmp_path):
        act = self.sabotage("0", "0")
        (tmp_path / "some-some-0").mkdir()
        (tmp_path / "some-some-0/results.json").write_text('{"protocols": ')
        cfg = self.experiment(tmp_path)
        ended = run("sweep", "--cfg", cfg, output=tmp_path / "out", sabotage=act)
        assert ended.status == 2 and "results.json cannot be read" in ended.output, ended.output

    def test_nothing_to_run_is_said(self, tmp_path):
        line = ("run", "--experiments", "fixed/*", "--levels", "middle", "--seeds", 1)
        ended = run("bench", *line, output=tmp_path / "out")
        assert ended.status in (1, 2) and "fixed/*" in ended.output, ended.output

    def test_data_that_cannot_be_made_is_said(self, tmp_path):
        line = ("data", "--annotations", tmp_path / "absent", "--vectors", tmp_path / "absent")

        def act() -> None:  # they may lie in this checkout
            bench.ROOT = tmp_path

        ended = run("bench", *line, output=tmp_path / "out", sabotage=act)
        assert ended.status == 2 and "bench_noise was not made: status 2" in ended.output


class TestLoaderProcesses:
    """One that dies while a batch is fetched from it breaks the connection."""

    @pytest.mark.parametrize(
        "fault",
        [
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            FileNotFoundError(errno.ENOENT, "No such file or directory"),
            EOFError(),
        ],
    )
    def test_a_broken_connection_is_a_dead_process(self, fault):
        with pytest.raises(WorkerDied, match="a process that loads data died"), _sentences():
            raise fault

    def test_a_fault_of_ours_in_one_is_no_dead_process(self):
        text = "Caught FileNotFoundError in DataLoader worker process 0."
        with pytest.raises(FileNotFoundError, match="Caught"), _sentences():
            raise FileNotFoundError(text)
