"""Several processes are one: the same loss and gradient, the same answers, and one end for all."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import Subset

import lib.models.layers.text as text_module
from lib.base import distributed
from lib.base.errors import InputError
from lib.base.runtime import Runtime
from lib.datasets import dense, load_corpus
from lib.decoding import Decoding
from lib.evaluation.records import CandidateMoments, Predictions
from lib.losses import Criterion
from lib.models import MODELS
from lib.models.dciml import DCIML
from lib.models.dmr_jrg_evidence import DMRJRGEvidence
from lib.models.jsg import JSG
from lib.models.scn import SCN
from lib.models.tan2d import TAN2D
from lib.training import checkpoint, nonfinite
from lib.training.batch_gradient import BatchGradient
from lib.training.run import Run
from lib.training.scorer import Options, Querybank, Scorer
from tests.conftest import TINY
from tests.properties import make_batch, terms_of
from tests.runs import REPOSITORY, Ended, Process, run, write_experiment
from tests.several import Launcher, together
from tests.test_faults import at_call, die
from tests.tiny_text import tiny_pretrained
from tests.variants import VARIANTS

CPU = Runtime(torch.device("cpu"))
SIZES = (2, 4, 1, 3, 2)  # sentences of each paragraph; two processes have three paragraphs and two
Found = tuple[dict[str, Tensor], dict[str, Tensor]]  # loss terms, gradients


@pytest.fixture(scope="module", autouse=True)
def pretrained_text_is_small() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())
        yield


def learner(variant: str, *, dropout: bool = True) -> tuple[nn.Module, Criterion]:
    """In training, with all that is drawn, and with batch norms that look at no batch."""
    torch.manual_seed(0)
    model = VARIANTS[variant]().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        elif isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention) and not dropout:
            module.dropout = 0.0
    if isinstance(model, SCN):
        model.exploration.fill_(0.5)
    terms = terms_of(model)
    return model, Criterion(terms, dict.fromkeys(terms, 1.0))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def in_one_piece(variant: str) -> Found:
    """The definition: the whole batch at once."""
    model, criterion = learner(variant)
    values = BatchGradient(model, CPU).losses(criterion, make_batch(SIZES), 7, 1, 2, 0)
    values["total"].backward()
    return {name: value.detach() for name, value in values.items()}, gradients(model)


def in_parts(variant: str, accumulate: int) -> Found:
    """As a process of the run computes it."""
    model, criterion = learner(variant)
    share = make_batch(SIZES).split(distributed.world_size())[distributed.rank()]
    whole = BatchGradient(model, CPU, accumulate=accumulate)
    values = whole.backward(criterion, whole.prepare(share), 7, 1, 2, 0)
    return {name: value.detach() for name, value in values.items()}, gradients(model)


def assert_same(found: Found, wanted: Found) -> None:
    for what, ours, theirs in zip(("loss", "gradient"), found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            scale = max(1.0, value.abs().max().item())
            assert torch.allclose(ours[name], value, rtol=0, atol=1e-5 * scale), f"{what} {name}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, int], Found]]:
    """What each of two processes finds for every model, in one part and in two."""

    def all_of_them() -> dict[tuple[str, int], Found]:
        return {(name, parts): in_parts(name, parts) for name in MODELS for parts in (1, 2)}

    return together(all_of_them, tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("variant", MODELS)  # of variants, the next test asks the same in one
def test_two_processes_are_one(variant, shared):
    wanted = in_one_piece(variant)
    for process in shared:
        assert_same(process[variant, 1], wanted)
        assert_same(process[variant, 2], wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_in_three_parts_is_the_batch(variant):
    assert_same(in_parts(variant, 3), in_one_piece(variant))


@pytest.mark.parametrize("variant", ["dmr_jrg_evidence, aligned", "tan2d", "dciml", "jsg"])
def test_processes_answer_for_a_split_as_one_does(variant, data_dir, tmp_path):
    """Seven paragraphs for two, a candidate at a time; all have all answers, in order."""
    corpus = load_corpus(
        name="synthetic",
        data_dir=data_dir,
        splits=("train", "test"),
        num_frames=32,
        num_clips=8,
        limit_test=7,
        synthetic=TINY,
    )
    options = Options(batch_size=2, pairs=5, moments=3, nms_iou=0.5)

    def answers() -> Predictions:
        torch.manual_seed(0)
        model, scorer = build(corpus.dims), Scorer(corpus["test"], CPU, options, decoding)
        bank = None
        if model.retrieves():
            training = corpus["train"].texts
            few = Subset(training, range(1 if variant == "jsg" else len(training)))
            bank = Querybank(few, scorer.querybank_scale(model, few))
        return scorer.predict(model, candidates=3, querybank=bank)

    build = {
        "dmr_jrg_evidence, aligned": lambda dims: DMRJRGEvidence(
            dims, hidden_size=16, heads=2, feedforward=16, encoder_layers=1, kernel_size=3,
            reconstructor_layers=1, alignment=True, rank_by="alignment",
        ),
        "tan2d": lambda dims: TAN2D(dims, hidden_size=16, lstm_layers=1, kernel_size=3),
        "dciml": lambda dims: DCIML(
            dims, retrieval_size=16, grounding_size=8, heads=2, decoder_layers=1, proposals=3
        ),
        "jsg": lambda dims: JSG(dims, hidden_size=16, heads=2),
    }[variant]  # fmt: skip
    decoding = Decoding(
        source="both", calibration="retrieval", position_prior_weight=0.3, order_penalty=1.0
    )
    alone = answers()
    for found in together(answers, tmp_path):
        for field in dataclasses.fields(Predictions):
            ours, theirs = getattr(found, field.name), getattr(alone, field.name)
            if isinstance(theirs, CandidateMoments):
                np.testing.assert_array_equal(ours.videos, theirs.videos)
                ours, theirs = ours.spans, theirs.spans
            np.testing.assert_allclose(ours, theirs, atol=1e-6) if theirs is not None else None


# The command.


class Pair:
    """``dense_train.py`` in two processes, on a small model."""

    count = 2

    def __init__(self, folder: Path, **train: object) -> None:
        self.folder, self.saved = folder, folder / "save" / "tiny"
        self.experiment = write_experiment(folder, **{"BATCH_SIZE": 3, "EPOCHS": 2} | train)
        text = yaml.safe_load(self.experiment.read_text("utf-8"))
        text["BASE"] = str(REPOSITORY / "experiments/synthetic/clip_align.yaml")
        text["MODEL"] = {"PARAMS": {"hidden_size": 16}}
        self.experiment.write_text(yaml.safe_dump(text), "utf-8")

    def start(
        self, *flags: object, sabotage: Callable[[int], Any] = lambda rank: None
    ) -> list[Process]:
        self.launcher = launcher = Launcher(self.count)  # the store lives as long as this does

        def enter(rank: int) -> None:
            launcher.enter(rank)
            sabotage(rank)

        return [
            Process(
                "dense_train",
                *("--cfg", self.experiment, *flags),
                output=self.folder / f"{rank}.txt",
                sabotage=functools.partial(enter, rank),
            )
            for rank in range(self.count)
        ]

    def train(self, *flags: object, **options: Any) -> list[Ended]:
        return [process.wait(60) for process in self.start(*flags, **options)]

    def weights(self) -> dict[str, Tensor]:
        return checkpoint.load(self.saved / "last.pt")["model"]

    def records(self) -> list[dict[str, Any]]:
        return [{**r, "seconds": 0} for r in Run.open(self.saved, exclusive=False).records()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A run of two processes that nothing happened to."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    first, second = pair.train()
    assert (first.status, second.status) == (0, 0), first.output + second.output
    assert "2 processes, each on a cpu" in first.output and "best epoch" in first.output
    assert second.output == ""  # one prints, and one writes
    return pair


def test_two_processes_make_the_run_of_one(pair, tmp_path):
    alone = Pair(tmp_path)
    ended = run("dense_train", "--cfg", alone.experiment, output=tmp_path / "output.txt")
    assert ended.status == 0, ended.output
    for ours, theirs in zip(pair.records(), alone.records(), strict=True):
        assert ours["train"] == pytest.approx(theirs["train"], rel=1e-4)
        assert ours["protocols"] == theirs["protocols"]
    weights = alone.weights()
    for name, value in pair.weights().items():
        assert torch.allclose(value, weights[name], atol=1e-4), name


class Several(Pair):
    """Likewise, on DMR-JRG with all that it draws."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir()
        self.count, self.folder, self.saved = count, folder, folder / "save" / "tiny"
        self.experiment = write_experiment(folder, BATCH_SIZE=6, EPOCHS=2)


def test_as_many_processes_as_one_likes_draw_what_one_draws(tmp_path):
    alone = Several(tmp_path / "1", 1)
    ended = run("dense_train", "--cfg", alone.experiment, output=tmp_path / "output.txt")
    assert ended.status == 0, ended.output
    for count in (2, 3):
        shared = Several(tmp_path / str(count), count)
        assert [each.status for each in shared.train()] == [0] * count
        for ours, theirs in zip(shared.records(), alone.records(), strict=True):
            assert ours["train"] == pytest.approx(theirs["train"], rel=1e-3)


def test_a_process_that_the_launcher_ends_before_training_says_so(tmp_path):
    """As torchrun does when another one was killed while it read the corpus."""
    import lib.commands.dense_train as script

    def sabotage(rank: int) -> None:
        original = script.open_model

        def slow(*args: Any) -> Any:
            (tmp_path / f"{rank}.here").touch()
            time.sleep(20)
            return original(*args)

        script.open_model = slow

    pair = Pair(tmp_path)
    processes = pair.start(sabotage=sabotage)
    while not all((tmp_path / f"{rank}.here").exists() for rank in range(2)):
        time.sleep(0.01)
    processes[1].kill(signal.SIGKILL)
    processes[0].kill(signal.SIGTERM)
    ended = [process.wait(15) for process in processes]
    assert [each.status for each in ended] == [128 + signal.SIGTERM, -signal.SIGKILL]
    assert "error: SIGTERM before training began" in ended[0].output


def test_a_port_in_use_is_a_sentence(tmp_path):
    experiment = write_experiment(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        def enter() -> None:
            os.environ.update(Launcher().environment(0) | {"MASTER_PORT": str(port)})
            del os.environ["TORCHELASTIC_USE_AGENT_STORE"]

        ended = run("dense_train", "--cfg", experiment, output=tmp_path / "0.txt", sabotage=enter)
    assert ended.status == 2, ended.output
    line = ended.output.splitlines()[-1]
    assert line.startswith(f"error: the processes of this run cannot meet at 127.0.0.1:{port} (")
    assert "in use" in line and "--master_port" in line and "Traceback" not in ended.output


def test_a_signal_to_one_stops_both_and_both_go_on(pair, tmp_path):
    again = Pair(tmp_path)
    processes = again.start()
    while not (again.saved / "last.pt").exists():
        time.sleep(0.01)
    processes[1].kill(signal.SIGTERM)
    ended = [process.wait(60) for process in processes]
    assert [each.status for each in ended] == [128 + signal.SIGTERM] * 2, ended
    assert ended[0].output.count("SIGTERM: saved epoch") == 1 and ended[1].output == ""
    assert [each.status for each in again.train("--resume")] == [0, 0]
    weights = pair.weights()
    assert all(torch.equal(value, weights[name]) for name, value in again.weights().items())
    assert again.records() == pair.records()


def refuse() -> None:
    raise InputError("features.hdf5: v_7 is damaged")


@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_process_refuses_ends_both_with_its_message(failing, tmp_path):
    def sabotage(rank: int) -> None:
        if rank == failing:
            at_call(4, BatchGradient, "backward", refuse)()

    ended = Pair(tmp_path).train(sabotage=sabotage)
    assert [each.status for each in ended] == [2, 2], ended
    reported = [line for each in ended for line in each.output.splitlines() if "error" in line]
    assert reported == ["error: features.hdf5: v_7 is damaged"]


def test_a_process_that_is_killed_does_not_leave_the_other_waiting(tmp_path):
    def sabotage(rank: int) -> None:
        if rank == 1:
            at_call(4, BatchGradient, "backward", die)()

    ended = Pair(tmp_path).train(sabotage=sabotage)
    assert [each.status for each in ended] == [2, -signal.SIGKILL], ended
    (line,) = [line for line in ended[0].output.splitlines() if "error" in line]
    assert line.startswith("error: a process of this run ended without a message")


def test_a_step_that_is_not_finite_in_one_process_is_reported_by_one(tmp_path):
    def sabotage(rank: int) -> None:
        original = dense.DenseParagraphs.__getitem__

        def get(self: Any, index: int) -> Any:
            sample = original(self, index)
            if self.hide_moments and index == 5:
                sample = dataclasses.replace(sample, video=sample.video * torch.nan)
            return sample

        dense.DenseParagraphs.__getitem__ = get

    pair = Pair(tmp_path)
    ended = pair.train(sabotage=sabotage)
    assert [each.status for each in ended] == [nonfinite.EXIT_STATUS] * 2, ended
    assert ended[0].output.count("the step is not finite") == 1 and ended[1].output == ""
    assert "not finite in the batch: video of" in ended[0].output
    (step,) = pair.saved.glob("*.step")
    assert len(nonfinite.batch_of(checkpoint.load(step))) == 3


def test_a_batch_too_small_for_its_processes_is_refused_once(tmp_path):
    ended = Pair(tmp_path, BATCH_SIZE=1).train()
    assert [each.status for each in ended] == [2, 2]
    reported = [line for each in ended for line in each.output.splitlines() if "error" in line]
    assert len(reported) == 1 and reported[0].startswith(
        "error: TRAIN.BATCH_SIZE 1: 12 paragraphs make"
    )
