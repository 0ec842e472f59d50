"""Runs that are killed, starved and fed garbage: nothing is lost, and each fault is a sentence."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from lib.base import files
from lib.base.command import run_script
from lib.base.errors import WorkerDied
from lib.commands.dense_train import keep_best
from lib.datasets import dense
from lib.training import checkpoint, nonfinite
from lib.training.progress import Progress
from lib.training.run import Run
from tests.runs import Ended, Process, run, write_experiment
from tests.stress.kill_harness import (
    TRAIN,
    Tally,
    differences,
    everything,
    reference,
    round_of_kills,
)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a run ends with that nothing happens to, and its seconds."""
    return reference(tmp_path_factory.mktemp("untouched"))


class Runs:
    """The same experiment in a folder of its own."""

    def __init__(self, folder: Path, expected: dict[str, Any]) -> None:
        self.folder, self.expected = folder, expected
        self.experiment = write_experiment(folder, **TRAIN)
        self.saved = folder / "save" / "tiny"

    def train(self, *flags: object, **options: Any) -> Ended:
        output = self.folder / "output.txt"
        return run("dense_train", "--cfg", self.experiment, *flags, output=output, **options)

    def ends_as_if_nothing_had_happened(self, *flags: object) -> None:
        ended = self.train("--resume", *flags)
        assert ended.status == 0, ended.output
        assert not list(differences(self.expected, everything(self.saved)))


@pytest.fixture
def runs(tmp_path: Path, untouched: tuple[dict[str, Any], float]) -> Runs:
    return Runs(tmp_path, untouched[0])


def at_call(number: int, module: Any, name: str, act: Any) -> Any:
    """A sabotage: before that call of a function, from 1, ``act`` happens in its place."""

    def sabotage() -> None:
        original, calls = getattr(module, name), [0]

        def replaced(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            return act() if calls[0] == number else original(*args, **options)

        setattr(module, name, replaced)

    return sabotage


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("workers", "kills", "seed"), [(0, 5, 0), (2, 2, 1)])
def test_killed_at_random_moments(untouched, tmp_path, workers, kills, seed):
    expected, seconds = untouched
    tally = Tally()
    found = round_of_kills(tmp_path, random.Random(seed), seconds, kills, tally, workers)
    assert tally.moments.total() > 0  # of these, some may have come before the run was open
    assert not list(differences(expected, found))


def test_killed_while_a_checkpoint_is_written(runs):
    """Before its bytes are safe (the epoch is in the log already), before its name, and after."""
    places = [(13, os, "fsync"), (4, os, "replace"), (3, files, "sync_folder")]
    for number, module, name in places:
        ended = runs.train("--resume", sabotage=at_call(number, module, name, die))
        assert ended.status == -signal.SIGKILL, ended.output
        assert name == "sync_folder" or list(runs.saved.glob(".*.new"))
        checkpoint.load(runs.saved / "last.pt")
    runs.ends_as_if_nothing_had_happened()
    assert not list(runs.saved.glob(".*.new"))


def test_a_full_disk_loses_nothing(runs):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ended = runs.train(sabotage=at_call(7, os, "fsync", full))
    assert ended.status == 2
    line = ended.output.splitlines()[-1]
    assert line.startswith(f"error: {runs.saved}/") and "No space left on device" in line
    assert line.endswith("what was there before is unchanged")
    assert not list(runs.saved.glob(".*.new"))
    runs.ends_as_if_nothing_had_happened()


def at_step(number: int, act: Any) -> Any:
    """A sabotage: ``act`` happens in the middle of that step of the optimiser, from 1."""

    def sabotage() -> None:
        original, calls = torch.optim.Adam.step, [0]

        def step(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                act()
            return original(*args, **options)

        torch.optim.Adam.step = step  # type: ignore[method-assign]

    return sabotage


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_to_the_whole_group_saves(runs, times):
    """As a scheduler sends it, to loader processes too; ``timeout`` sends it twice."""

    def signal_group() -> None:
        for _ in range(times):
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.05)

    def sabotage() -> None:
        os.setpgid(0, 0)
        at_step(4, signal_group)()

    ended = runs.train("--workers", 2, sabotage=sabotage)
    assert ended.status == 128 + signal.SIGTERM, ended.output
    assert "SIGTERM: saved epoch 2, step 1" in ended.output
    assert "Traceback" not in ended.output and "error" not in ended.output
    runs.ends_as_if_nothing_had_happened()


def test_a_signal_to_the_group_while_loader_processes_start_saves(runs):
    """Before they have said that they do not heed it."""
    from torch.utils.data import _utils

    def sabotage() -> None:
        os.setpgid(0, 0)
        original = _utils.worker._worker_loop

        def begin(*args: Any, **options: Any) -> Any:
            os.killpg(0, signal.SIGTERM)
            return original(*args, **options)

        _utils.worker._worker_loop = begin

    ended = runs.train("--workers", 2, sabotage=sabotage)
    assert ended.status == 128 + signal.SIGTERM, ended.output
    assert "SIGTERM: saved epoch 1, step 1" in ended.output
    assert "Traceback" not in ended.output and "error" not in ended.output


def kill_loader_processes() -> None:
    for process in multiprocessing.active_children():
        process.kill()
    time.sleep(0.3)  # the signal of its death comes before the step of the optimiser is done


def test_a_loader_process_that_is_killed_costs_nothing(runs):
    ended = runs.train("--workers", 2, sabotage=at_step(5, kill_loader_processes))
    assert ended.status == WorkerDied.exit_status == 4, ended.output
    (line,) = [line for line in ended.output.splitlines() if "error" in line]
    assert line.startswith("error: a process that loads data died (process ")
    assert "by the signal SIGKILL" in line
    assert line.endswith(
        "epoch 2, step 2 is saved, and the same command with --resume goes on from there"
    )
    assert "Traceback" not in ended.output
    assert checkpoint.load(runs.saved / "last.pt")["progress"]["step"] == 2
    runs.ends_as_if_nothing_had_happened()


def test_a_loader_process_that_dies_during_an_import_leaves_the_module_whole(runs):
    """Torch imports some when the first batch is fetched, and swallows what is raised there."""
    finished = runs.folder / "finished"

    def sabotage() -> None:
        from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Batches

        original = Batches._next_data

        def importing(self: Any) -> Any:
            if (runs.saved / "last.pt").exists() and not finished.exists():
                self._workers[0].kill()
                limit = time.monotonic() + 0.3
                while time.monotonic() < limit:
                    pass
                finished.touch()
            return original(self)

        Batches._next_data = importing

    ended = runs.train("--workers", 1, sabotage=sabotage)
    assert finished.exists() and ended.status == WorkerDied.exit_status, ended.output
    runs.ends_as_if_nothing_had_happened()


def test_a_loader_process_of_validation_that_dies_costs_nothing(runs):
    def sabotage() -> None:
        from lib.training.scorer import Scorer

        main, validating = os.getpid(), runs.folder / "validating"
        predict, get = Scorer.predict, dense.VideoFrames.__getitem__

        def told(*args: Any, **options: Any) -> Any:
            validating.touch()
            return predict(*args, **options)

        def dying(self: Any, index: int) -> Any:
            return die() if os.getpid() != main and validating.exists() else get(self, index)

        Scorer.predict = told  # type: ignore[method-assign]
        dense.VideoFrames.__getitem__ = dying  # type: ignore[method-assign]

    ended = runs.train("--workers", 1, sabotage=sabotage)
    assert ended.status == 4 and "epoch 1, step 3 is saved" in ended.output, ended.output
    runs.ends_as_if_nothing_had_happened()


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))


def nothing_can_be_sent() -> None:
    """Python would print why in a loader process, and the other would wait."""
    from multiprocessing import queues

    main, dumps = os.getpid(), queues._ForkingPickler.dumps  # type: ignore[attr-defined]

    def fail(*given: Any) -> Any:
        if os.getpid() != main:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return dumps(*given)

    queues._ForkingPickler.dumps = staticmethod(fail)  # type: ignore[attr-defined]


@pytest.mark.parametrize("sabotage", [few_files, nothing_can_be_sent])
def test_too_few_open_files_for_loader_processes(runs, sabotage):
    ended = runs.train("--workers", 2, sabotage=sabotage)
    assert ended.status == 2, ended.output
    line = ended.output.splitlines()[-1]
    assert line.startswith("error: the processes that load data lack what they need (Too many")
    assert "ulimit -n" in line and "Traceback" not in ended.output


def test_loader_processes_end_with_the_process_that_trains(runs):
    """Even where it is killed before they know that it is their parent."""
    from torch.utils.data import _utils

    def sabotage() -> None:
        os.setpgid(0, 0)
        original = _utils.worker._worker_loop

        def begin(*args: Any, **options: Any) -> Any:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(0.2)
            return original(*args, **options)

        _utils.worker._worker_loop = begin

    process = Process(
        "dense_train",
        *("--cfg", runs.experiment, "--workers", 1),
        output=runs.folder / "output.txt",
        sabotage=sabotage,
    )
    assert process.wait().status == -signal.SIGKILL
    limit = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < limit:
            os.killpg(process.number, 0)
            time.sleep(0.05)


def test_a_loader_process_that_dies_is_reported(runs):
    def sabotage() -> None:
        main, original = os.getpid(), dense.DenseParagraphs.__getitem__

        def get(self: Any, index: int) -> Any:
            late = (runs.saved / "last.pt").exists()
            if os.getpid() != main and late and self.hide_moments:
                die()
            return original(self, index)

        dense.DenseParagraphs.__getitem__ = get  # type: ignore[method-assign]

    ended = runs.train("--workers", 1, sabotage=sabotage)
    assert ended.status == WorkerDied.exit_status, ended.output
    assert "error: a process that loads data died (process " in ended.output
    assert "Traceback" not in ended.output
    runs.ends_as_if_nothing_had_happened()


def test_a_truncated_feature_file_is_refused_before_anything_is_written(runs, untouched):
    runs.train("--set", "TRAIN.EPOCHS=1")
    shutil.rmtree(runs.saved)
    (features,) = runs.folder.rglob("features.hdf5")
    features.write_bytes(features.read_bytes()[:-1000])
    ended = runs.train()
    assert ended.status == 2
    assert f"error: {features}: is not an HDF5 file or is incomplete" in ended.output
    assert not runs.saved.exists()


def test_two_runs_in_one_folder(runs):
    def slow() -> None:
        original = torch.optim.Adam.step
        torch.optim.Adam.step = lambda *a, **k: (time.sleep(0.2), original(*a, **k))[1]

    first = Process(
        "dense_train",
        *("--cfg", runs.experiment),
        output=runs.folder / "first.txt",
        sabotage=slow,
    )
    while not (runs.saved / "last.pt").exists():
        time.sleep(0.01)
    for flag in ("--resume", "--overwrite"):
        ended = runs.train(flag)
        assert ended.status == 2
        assert f"{runs.saved} is in use by another process (number {first.number})" in ended.output
    assert first.wait().status == 0
    assert not list(differences(runs.expected, everything(runs.saved)))


class TestAStepThatIsNotFinite:
    @pytest.fixture
    def stopped(self, runs: Runs) -> tuple[Runs, Ended, bytes]:
        """NaN in one video's features, in the second epoch; and last.pt as it was before."""

        def sabotage() -> None:
            original, count = dense.DenseParagraphs.__getitem__, [0]

            def get(self: Any, index: int) -> Any:
                sample = original(self, index)
                count[0] += self.hide_moments
                if count[0] != 18 or not self.hide_moments:
                    return sample
                shutil.copy(runs.saved / "last.pt", runs.folder / "before.pt")
                video = sample.video.clone()
                video[3, 4] = torch.nan
                return dataclasses.replace(sample, video=video)

            dense.DenseParagraphs.__getitem__ = get  # type: ignore[method-assign]

        ended = runs.train(sabotage=sabotage)
        return runs, ended, (runs.folder / "before.pt").read_bytes()

    def test_stops_the_run_and_says_where_and_can_be_seen_again(self, stopped):
        runs, ended, before = stopped
        assert ended.status == nonfinite.EXIT_STATUS == 3
        path = runs.saved / "epoch2-step2.step"
        videos = checkpoint.load(path)["batch"]["video_ids"]
        reported = ended.output[ended.output.index("error:") :]
        assert reported.startswith("error: epoch 2, step 2: the step is not finite (total nan, ")
        assert f"on the videos {', '.join(videos)}" in reported
        (bad,) = [
            v for v in videos if f"error: not finite in the batch: video of {v}\n" in reported
        ]
        assert "error: first module: clips" in reported
        assert ", output is " in reported and "and so is its input" in reported
        assert "error: loss terms: retrieval_triplet, retrieval_nce" in reported
        assert f"See it again: python replay.py {path}" in reported
        assert (runs.saved / "last.pt").read_bytes() == before

        again = run("replay", path, output=runs.folder / "replay.txt")
        assert again.status == 3, again.output
        assert f"not finite in the batch: video of {bad}\n" in again.output
        assert [line for line in reported.splitlines() if "first module" in line] == [
            f"error: {line}" for line in again.output.splitlines() if "first module" in line
        ]
        runs.ends_as_if_nothing_had_happened()

    def test_needs_its_own_kind_of_file(self, runs, tmp_path):
        checkpoint.save(tmp_path / "x.pt", {"model": {}})
        ended = run("replay", tmp_path / "x.pt", output=tmp_path / "out")
        assert ended.status == 2
        assert "error: the checkpoint holds no step to replay" in ended.output


def test_the_number_of_loader_processes_changes_no_bit(runs):
    ended = runs.train("--workers", 2)
    assert ended.status == 0, ended.output
    assert not list(differences(runs.expected, everything(runs.saved)))


def test_strict_algorithms_train_the_same_model_on_a_cpu(runs):
    ended = runs.train("--set", "TRAIN.DETERMINISTIC=true")
    assert ended.status == 0, ended.output
    assert not list(differences(runs.expected, everything(runs.saved)))


def test_an_operation_without_a_strict_algorithm_is_reported(capsys):
    def main() -> None:
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but …")

    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "error: TRAIN.DETERMINISTIC: on this device "
        "cumsum_cuda_kernel does not have a deterministic implementation\n"
    )


def test_a_reader_who_has_seen_enough_is_no_fault():
    """As ``| head`` leaves it: the pipe is closed before all is said."""
    code = "from lib.base.command import run_script; run_script(lambda: print('a line'))"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_features_that_changed_since_training_are_pointed_out_and_weights_exported(runs):
    runs.train("--set", "TRAIN.EPOCHS=1")
    output = runs.folder / "test.txt"
    flags = ("--cfg", runs.experiment, "--set", "TRAIN.EPOCHS=1")
    ended = run("best_test", *flags, output=output)
    assert ended.status == 0, ended.output
    assert "features are not those" not in ended.output
    (features,) = runs.folder.rglob("features.hdf5")
    with h5py.File(features, "r+") as file:
        for name in file:
            file[name]["c3d_features"][:, 2] += 1
    said = "the features are not those of training: values of another kind"
    saved = runs.folder / "save" / "tiny"
    before = (saved / "results.json").read_bytes()
    ended = run("best_test", *flags, output=output)
    assert ended.status == 2 and said in ended.output and "--other-data NAME" in ended.output
    ended = run("best_test", *flags, "--other-data", "moved", output=output)
    assert ended.status == 0 and f"note: {said}" in ended.output, ended.output
    assert (saved / "results.json").read_bytes() == before
    assert (saved / "results_on_moved.json").is_file()


def test_weights_from_before_a_divergence_are_left(runs):
    """The loss stays finite for a while, and each step is saved."""

    def ruin() -> None:
        original, calls = torch.optim.Adam.step, [0]

        def step(self: Any, *args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] > 3:
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.data.mul_(30)
            return original(self, *args, **options)

        torch.optim.Adam.step = step  # type: ignore[method-assign]

    def largest(name: str) -> float:
        weights = checkpoint.load(runs.saved / name)["model"].values()
        return max(float(each.abs().max()) for each in weights if each.is_floating_point())

    ended = runs.train("--set", "TRAIN.EPOCHS=3", sabotage=ruin)
    assert ended.status in (0, nonfinite.EXIT_STATUS), ended.output
    assert largest("last.pt") > 1000 > 100 > largest("lowest_loss.pt")
    assert checkpoint.load(runs.saved / "lowest_loss.pt")["progress"]["epoch"] == 1


@pytest.mark.parametrize(
    ("select_by", "scores", "finer", "expected", "never"),
    [
        ("vr/R@10", [1.0, 3.0, 2.0, 3.0, 0.0], [], {2, 4}, 5),
        ("vr/R@10", [5.0, 5.0, 5.0], [], {1, 2}, 3),
        ("vr/R@10", [5.0, 5.0, 5.0], [1.0, 3.0, 2.0], {2, 3}, 4),
        ("vr/R@10", [5.0, 5.0, 5.0, 6.0], [1.0, 2.0, 2.0, 0.0], {2, 4}, 5),
        ("vr/MedR", [1.0, 3.0, 2.0, 3.0, 0.0], [], {1, 5}, 4),
        ("vr/MedR", [2.0, 2.0, 3.0], [1.0, 1.5, 9.0], {1, 2}, 3),
    ],
)
def test_the_best_epochs_are_kept_and_ties_go_to_the_finer_number_then_to_the_earlier(
    tmp_path, select_by, scores, finer, expected, never
):
    progress = Progress()
    mine = {"best-of-all.pt", "best-99.pt", f"best-{never}.pt"}  # an epoch that is never kept
    with Run.create(tmp_path / "run", "") as folder:
        for name in mine:
            (folder.folder / name).write_text("not the run's")
        for epoch, score in enumerate(scores):
            state = {"epoch": epoch, "select_by": select_by}
            if finer:
                progress.finer[str(epoch)] = finer[epoch]
            keep_best(folder, state, score, progress, count=2)
            progress = Progress(**dataclasses.asdict(progress))  # as a resumed run has it
        kept = {path.name for path in folder.folder.glob("*.pt")}
    assert kept == {f"best-{epoch}.pt" for epoch in expected} | mine
