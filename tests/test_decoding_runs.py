"""One checkpoint, decoded in several ways; and what a run says of where its numbers come from."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lib.decoding import Decoding
from lib.training import checkpoint, provenance
from tests.test_training import REPOSITORY, Bench, assert_refused, fresh

__all__ = ["fresh"]  # a fixture, for this file too
ALIGNED = """
BASE: tiny.yaml
MODEL:
  NAME: dmr_jrg_evidence
  PARAMS:
    words: true
    alignment: true
    rank_by: alignment
LOSS:
  WEIGHTS:
    sentence_nce: 1
    within_nce: 1
DECODE:
  SOURCE: both
  NORMALIZATION: paragraph_softmax
  POSITION_PRIOR_WEIGHT: 0.3
  CALIBRATION: retrieval
"""
IN_ORDER = """
DECODE:
  SOURCE: evidence
  POSITION_PRIOR_WEIGHT: 0.3
  ORDER_PENALTY: 2
"""


class Aligned(Bench):
    """The same commands over the aligned experiment."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.run = root / "save" / "aligned"

    def train(self, *flags: object, cfg: str = "aligned") -> Any:
        return super().train(*flags, cfg=cfg)

    def test(self, *flags: object, cfg: str = "aligned") -> Any:
        return super().test(*flags, cfg=cfg)

    def copy(self, root: Path) -> Aligned:
        return Aligned(super().copy(root).root)

    def results(self, stem: str = "results") -> dict[str, Any]:
        return json.loads((self.run / f"{stem}.json").read_text("utf-8"))

    def stems(self) -> set[str]:
        return {path.stem for path in self.run.glob("results*.json")}

    def console(self) -> str:
        return (self.run / "console.log").read_text("utf-8")


@pytest.fixture(scope="module")
def untrained(fresh: Bench) -> Aligned:
    bench = Aligned(fresh.copy(fresh.root.with_name("aligned")).root)
    (bench.root / "experiments" / "aligned.yaml").write_text(ALIGNED, "utf-8")
    (bench.root / "in_order.yaml").write_text(IN_ORDER, "utf-8")
    return bench


@pytest.fixture(scope="module")
def tested(untrained: Aligned) -> Aligned:
    """Trained and tested. Copy before changing anything."""
    bench = untrained.copy(untrained.root.with_name("tested"))
    for outcome in (bench.train(), bench.test()):
        assert (outcome.status, outcome.err) == (0, "")
    return bench


@pytest.fixture
def bench(tested: Aligned, tmp_path: Path) -> Aligned:
    return tested.copy(tmp_path / "bench")


@pytest.fixture
def new(untrained: Aligned, tmp_path: Path) -> Aligned:
    return untrained.copy(tmp_path / "new")


# Decoded otherwise.


def test_results_say_how_they_were_decoded(tested: Aligned) -> None:
    results = tested.results()
    expected = Decoding(
        source="both",
        normalization="paragraph_softmax",
        position_prior_weight=0.3,
        calibration="retrieval",
    )
    assert results["decoding"] == dataclasses.asdict(expected)
    assert results["calibration"].keys() == {"trust"}
    (note,) = (n for n in results["notes"] if n.startswith("decoded with "))
    assert "source both" in note and "normalization paragraph_softmax" in note
    assert f"- {note}\n" in (tested.run / "results.md").read_text("utf-8")


def test_another_file_decodes_the_same_checkpoint(bench: Aligned) -> None:
    before = bench.files()
    outcome = bench.test("--decode", bench.root / "in_order.yaml")
    assert (outcome.status, outcome.err) == (0, "")
    after = bench.files()
    assert {name: after[name] for name in before} == before
    assert bench.stems() == {"results", "results-in_order"}
    plain, other = bench.results(), bench.results("results-in_order")
    assert other["decoding"] == dataclasses.asdict(
        Decoding(source="evidence", position_prior_weight=0.3, order_penalty=2.0)
    )
    assert other["calibration"] == {}
    assert other["checkpoint"]["epoch"] == plain["checkpoint"]["epoch"]
    assert other["protocols"]["vr"] == plain["protocols"]["vr"]  # retrieval is not decoded
    assert other["protocols"] != plain["protocols"]
    assert "this is not how the run was decoded in training" in other["notes"]


def test_options_decode_the_same_checkpoint(bench: Aligned) -> None:
    for value in (2, 2.0, 3):
        assert bench.test("--set", f"DECODE.ORDER_PENALTY={value}").status == 0
    stems = bench.stems() - {"results"}
    assert len(stems) == 2  # 2 and 2.0 are one decoding
    assert all(re.fullmatch(r"results-decoded-[0-9a-f]{8}", stem) for stem in stems)
    penalties = {bench.results(stem)["decoding"]["order_penalty"] for stem in stems}
    assert penalties == {2.0, 3.0}


def test_options_go_over_the_file_which_takes_the_place_of_the_section(bench: Aligned) -> None:
    flags = ("--decode", bench.root / "in_order.yaml", "--set", "DECODE.ORDER_PENALTY=5")
    assert bench.test(*flags).status == 0
    decoding = bench.results("results-in_order")["decoding"]
    assert decoding == dataclasses.asdict(
        Decoding(source="evidence", position_prior_weight=0.3, order_penalty=5.0)
    )


def test_the_file_may_be_an_experiment_of_which_nothing_else_is_read(bench: Aligned) -> None:
    path = bench.root / "experiments" / "other.yaml"
    path.write_text("BASE: aligned.yaml\nTRAIN: {LR: 3}\nDECODE: {RAW_WEIGHT: 0.5}\n", "utf-8")
    assert bench.test("--decode", path).status == 0
    decoding = bench.results("results-other")["decoding"]
    assert (decoding["raw_weight"], decoding["source"]) == (0.5, "both")


def test_the_same_decoding_by_a_file_is_the_same_result(bench: Aligned) -> None:
    """Which has its own name only where it differs."""
    section = {"DECODE": yaml.safe_load(ALIGNED)["DECODE"]}
    (bench.root / "same.yaml").write_text(yaml.safe_dump(section), "utf-8")
    plain = bench.results()
    assert bench.test("--decode", bench.root / "same.yaml").status == 0
    assert bench.stems() == {"results"}
    assert bench.results()["protocols"] == plain["protocols"]


def test_a_split_and_a_decoding_are_both_in_the_name(bench: Aligned) -> None:
    flags = ("--split", "val", "--decode", bench.root / "in_order.yaml")
    assert bench.test(*flags).status == 0
    assert bench.stems() == {"results", "results_val-in_order"}


def test_what_was_calibrated_is_that_of_validation_and_is_taken_from_the_checkpoint(
    bench: Aligned,
) -> None:
    best = checkpoint.load(bench.run / "best.pt")
    assert best["calibration"] == bench.results()["calibration"]
    assert best["calibration"] == bench.log()[best["epoch"]]["calibration"]
    assert f"trust {best['calibration']['trust']:.3f}" in bench.console()
    assert best["decoding"] == bench.results()["decoding"]
    # Another value there is believed; a decoding that calibrates nothing has none.
    best["calibration"] = {"trust": 0.987}
    checkpoint.save(bench.run / "best.pt", best)
    assert bench.test().status == 0
    assert bench.results()["calibration"] == {"trust": 0.987}
    assert bench.test("--set", "DECODE.CALIBRATION=none").status == 0
    (stem,) = bench.stems() - {"results"}
    assert bench.results(stem)["calibration"] == {}


def test_a_checkpoint_that_does_not_know_is_calibrated_on_validation(bench: Aligned) -> None:
    best = checkpoint.load(bench.run / "best.pt")
    expected = best.pop("calibration")
    checkpoint.save(bench.run / "best.pt", best)
    assert bench.test("--set", "TEST.CANDIDATES=0").status == 0
    assert bench.results()["calibration"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "DECODE: {SORCE: evidence}\n",
            "DECODE.SORCE is not an option; did you mean DECODE.SOURCE",
        ),
        ("DECODE: {SOURCE: map}\n", "DECODE.SOURCE is 'map' (text), expected one of auto, scores"),
        ("DECODE: {LENGTH_EXPONENT: 2}\n", "expected float from 0 to 1"),
    ],
)
def test_a_wrong_option_of_the_file_is_refused(bench: Aligned, text: str, why: str) -> None:
    (bench.root / "wrong.yaml").write_text(text, "utf-8")
    assert_refused(bench.test("--decode", bench.root / "wrong.yaml"), "wrong.yaml:1", why)
    assert bench.stems() == {"results"}


# Where numbers come from.


def checked_out() -> str | None:
    """The commit of this repository, if it is one."""
    asked = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return asked.stdout.strip() if asked.returncode == 0 else None


def test_results_say_where_they_come_from(tested: Aligned) -> None:
    both = tested.results()["provenance"]
    assert both.keys() == {"test", "training"}
    for part, splits in (("training", {"train", "val"}), ("test", {"test", "val"})):
        about = both[part]
        assert about["commit"] == checked_out() or checked_out() is None
        assert about["clean"] in (True, False) or checked_out() is None
        assert about["versions"].keys() >= {"python", "torch", "numpy"}
        assert about["versions"]["torch"] == str(torch.__version__)
        assert about["versions"]["numpy"] == np.__version__
        assert about["device"] and about["processes"] == 1 and about["precision"] == "float32"
        assert "aligned.yaml" in about["command"]
        assert about["seed"] == 0
        assert 0 <= about["hours"] < 0.2
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["started"])
        assert about["annotations"].keys() >= splits
        for split, digest in about["annotations"].items():
            path = tested.world / f"{split}_data.json"
            whole = hashlib.sha256(path.read_bytes()).hexdigest()
            assert digest == f"{path.name} {whole[:16]}"
        assert about["features"]["width"] == 8
    table = (tested.run / "results.md").read_text("utf-8")
    for words in (f"torch {torch.__version__}", "seed 0", "test test_data.json"):
        assert words in table


def test_every_checkpoint_says_where_it_comes_from(tested: Aligned) -> None:
    for name in ("best.pt", "last.pt"):
        about = checkpoint.load(tested.run / name)["provenance"]
        assert about == {**tested.results()["provenance"]["training"], "hours": about["hours"]}


def test_other_annotations_are_seen(bench: Aligned) -> None:
    before = bench.results()["provenance"]["test"]
    path = bench.world / "test_data.json"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    assert bench.test().status == 0
    after = bench.results()["provenance"]["test"]
    differing = {
        split
        for split in before["annotations"]
        if before["annotations"][split] != after["annotations"][split]
    }
    assert differing == {"test"}


# What was printed.


def test_the_console_s_lines_lie_in_the_run_s_folder(new: Aligned) -> None:
    outcome = new.train("--verbose")
    assert outcome.status == 0
    assert outcome.err == ""  # no bar where nobody watches
    assert new.console() == outcome.out
    assert "\r" not in new.console() and "it/s" not in new.console()
    assert "best epoch" in new.console() and ": a new run of 2 epochs" in new.console()


def test_the_console_goes_on_after_a_stop(new: Aligned, monkeypatch: pytest.MonkeyPatch) -> None:
    real, saves = checkpoint.save, itertools.count()

    def save_and_stop(path: Path, state: Any) -> None:
        real(path, state)
        if path.name == "last.pt" and next(saves) == 0:  # a second signal would end at once
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    stopped = new.train("--set", "TRAIN.CHECKPOINT_EVERY=1")
    assert stopped.status == 128 + signal.SIGTERM
    monkeypatch.undo()
    first = new.console()
    assert "SIGTERM: saved epoch 1" in first
    resumed = new.train("--resume")
    assert resumed.status == 0
    assert new.console() == first + resumed.out
    assert "going on at epoch" in resumed.out
    over = new.train("--overwrite")
    assert over.status == 0 and new.console() == over.out


def test_hours_add_up_after_a_stop(new: Aligned) -> None:
    assert new.train("--set", "TRAIN.EPOCHS=1").status == 0
    state = checkpoint.load(new.run / "last.pt")
    state["provenance"]["hours"] = 5.0
    checkpoint.save(new.run / "last.pt", state)
    assert new.train("--resume").status == 0
    assert 5.0 <= checkpoint.load(new.run / "last.pt")["provenance"]["hours"] < 5.2


def test_a_checkout_is_unchanged_while_its_code_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of runs that is a link changes no number; a line of code may."""
    for name in ("lib/code.py", "save/README.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("something")
    person = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for words in (["init", "-q"], ["add", "."], [*person, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path.resolve())
    commit, clean = provenance._commit()
    assert commit is not None and len(commit) == 40 and clean
    (tmp_path / "save/README.md").unlink()
    assert provenance._commit() == (commit, True)
    (tmp_path / "lib/code.py").write_text("something else")
    assert provenance._commit() == (commit, False)
