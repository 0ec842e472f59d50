"""What is not scored is said: sentences left out of a split, and moments that were clipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.commands import best_test, dense_train
from lib.datasets.annotations import Paragraph, read_paragraphs
from lib.datasets.left_out import EMPTY_MOMENT, Dropped, LeftOut
from lib.evaluation.files import read_truth, write_truth
from lib.training.scorer import _windows_of
from tests.test_dense import load_small, write_corpus
from tests.test_training import call

SHARED = Path(__file__).resolve().parents[2] / "shared"


def paragraphs_of(folder: Path, data: dict, **rules: object):  # type: ignore[no-untyped-def]
    path = folder / "test.json"
    path.write_text(json.dumps(data))
    return read_paragraphs(path, empty_sentences="drop", **rules)


def test_every_reason_is_counted_in_sentences(tmp_path: Path) -> None:
    data = {
        "a": {
            "duration": 10.0,
            "timestamps": [[0, 4], [6, 6], [1, 12], [2, 3]],
            "sentences": ["one", "two", "three", "..."],
        },
        "b": {"duration": 9.0, "timestamps": [[0, 4]], "sentences": ["alone"]},
        "c": {"duration": 9.0, "timestamps": [[0, 4], [1, 2]], "sentences": ["five", "six"]},
    }
    group, cleaning = paragraphs_of(tmp_path, data, min_sentences=2)
    dropped = Dropped()
    dropped.limit("test", "test", group, group[:1])
    found = dropped.left_out("test", cleaning, group[:1])
    assert found.why == {
        EMPTY_MOMENT: 1,
        "without a word": 1,
        "in paragraphs that are too short": 1,
        "by LIMIT_TEST": 2,
    }
    assert (found.sentences, found.of, found.clipped, found.misses) == (5, 7, 1, 3)
    assert found.lines("test") == [
        "5 of the 7 test sentences are left out and not counted (1 with an empty moment, 1 without "
        "a word, 1 in paragraphs that are too short, 2 by LIMIT_TEST)",
        "the moments of 1 test sentences were clipped to their video",
    ]
    assert LeftOut(of=7).lines("test") == []


def test_a_held_out_validation_split_counts_its_own(tmp_path: Path) -> None:
    write_corpus(
        tmp_path / "charades", {"train": [(f"v{v}", ["a dog", "a cat"]) for v in range(4)]}
    )
    path = tmp_path / "charades" / "train.json"
    rows = json.loads(path.read_text())
    rows[0][2] = [5.0, 5.0]
    path.write_text(json.dumps(rows))
    for seed in range(8):  # until the video with the empty moment is held out
        corpus = load_small(tmp_path, "train", "val", val_fraction=0.5, seed=seed, weak=True)
        held = {p.video_id for p in corpus["val"].paragraphs}
        train, val = corpus.left_out["train"], corpus.left_out["val"]
        assert (train.of, val.of) == (4, 4)
        assert val.sentences == ("v0" in held) and train.sentences == 0
        if "v0" in held:
            return
    raise AssertionError("no seed held the video out")


def test_windows_reach_the_truth_with_the_moment_first(tmp_path: Path) -> None:
    several = np.array([[6.0, 9.0], [1.0, 4.0]])
    moments = np.array([[1.0, 4.0], [2.0, 3.0]])
    whole = Paragraph("p", "v", 10.0, ("x", "y"), moments, ("p#0", "p#1"))
    windows = (several, moments[1:])
    one = Paragraph("q", "w", 10.0, ("z",), moments[:1], ("q#0",))
    assert _windows_of([whole, one]) is None
    found = _windows_of([Paragraph(**{**vars(whole), "windows": windows}), one])
    assert found is not None and found.shape == (3, 2, 2)
    np.testing.assert_array_equal(found[0], several[::-1])
    np.testing.assert_array_equal(found[1:, 0], [[2.0, 3.0], [1.0, 4.0]])
    assert np.isnan(found[1:, 1]).all()


def test_a_truth_file_is_clipped_and_counted_as_annotations_are(tmp_path: Path) -> None:
    rows = [("a", 10.0, [2, 12.5]), ("b", 9.0, [0, 9.0000000004]), ("c", 9.0, [1, 4])]
    path = tmp_path / "truth.jsonl"
    lines = [
        {"desc_id": v, "desc": "x", "vid_name": v, "duration": d, "ts": ts} for v, d, ts in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    truth = read_truth(path)
    data = {v: {"duration": d, "timestamps": [ts], "sentences": ["x"]} for v, d, ts in rows}
    group, cleaning = paragraphs_of(tmp_path, data)
    np.testing.assert_array_equal(truth.moments, [p.moments[0] for p in group])
    assert truth.clipped == 1 <= cleaning.counts["moments clipped to the video"]
    write_truth(path, truth)
    assert read_truth(path).clipped == 0


@pytest.fixture(scope="module")
def left_out_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = SHARED / "cases" / "test_sentences_left_out_unsaid"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    home = tmp_path_factory.mktemp("case")
    for path in source.rglob("*"):
        if path.is_file():
            copy = home / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return home


def test_a_test_says_how_many_sentences_it_left_out(left_out_case: Path) -> None:
    """Four of 54 test sentences of ActivityNet-CD have a moment that is reversed or empty."""
    home = left_out_case
    command = ("--cfg", home / "exp.yaml", "--dataDir", home / "data", "--modelDir", home / "save")
    command = (*command, "--workers", 0, "--set", "GPUS=cpu")
    assert call(dense_train.main, *command).status == 0
    outcome = call(best_test.main, *command)
    assert outcome.status == 0, outcome.err
    (results,) = home.glob("save/**/results.json")
    stored = json.loads(results.read_text())
    assert stored["left_out"] == {
        "sentences": 4,
        "of": 54,
        "why": {EMPTY_MOMENT: 4},
        "clipped": 0,
    }
    said = "4 of the 54 test sentences are left out and not counted"
    assert said in " ".join(outcome.out.split())
    assert said in results.with_suffix(".md").read_text()
    about, scores = stored["queries"]["svmr"], stored["protocols"]["svmr"]
    assert (about["counted"], about["left_out"]) == (50, 4)
    for metric, value in about["as_misses"].items():
        assert value == pytest.approx(scores[metric] * 50 / 54)
    assert "left_out" not in stored["queries"].get("vr", {})
