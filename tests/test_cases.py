"""Inputs of users on which this project once fell short, as they lie in ../shared/cases.

Those of the other folders there are in the tests of their kind: annotations, half characters and
spaces in test_layouts.py, features in test_feature_layouts.py, sentences that are left out in
test_left_out.py, several windows in test_scored_like_the_field.py, Windows in test_systems.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from lib.base.errors import InputError
from lib.commands import report, score
from lib.datasets import load_corpus
from lib.datasets.annotations import MOST_LETTERS
from lib.datasets.word_vectors import read_word_vectors
from lib.evaluation.files import read_any, read_truth, write_predictions
from lib.inference import load
from lib.training import checkpoint
from tests.runs import REPOSITORY, TINY_MODEL, Ended, run
from tests.test_corpora import Own
from tests.test_training import Outcome, call

CASES = REPOSITORY.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases at {CASES}")
SPLITS = ("train", "val", "test")
WORLD = "hostile_h_nowidth"  # three splits of the world that the other hostile_* folders change
Write = Callable[[h5py.File, str, np.ndarray], object]


def refused(ended: Ended | Outcome, *wanted: str) -> None:
    """One line, status 2."""
    output = ended.output if isinstance(ended, Ended) else ended.err
    assert ended.status == 2 and "Traceback" not in output, output
    (line,) = (line for line in output.splitlines() if re.match(r"(\S+: )?error: ", line))
    for text in wanted:
        assert text in line, line


def put(file: h5py.File, video: str, rows: np.ndarray) -> None:
    file[video] = rows


class Case(Own):
    """A corpus of a case's files, and the usual ones of the world where it brings none.

    Args:
        write: the features of a video.
        model: the sections of the experiment that choose it.
    """

    def __init__(self, root: Path, case: str, *, write: Write = put, **sections: Any) -> None:
        super().__init__(root)
        for name in (*(f"{split}_data.json" for split in SPLITS), "glove.pkl"):
            own = CASES / case / name
            shutil.copyfile(own if own.is_file() else CASES / WORLD / name, self.folder / name)
        draw = np.random.default_rng(0)
        with h5py.File(self.folder / "features.hdf5", "w") as file:
            for split in SPLITS:
                for video in self.read(split):
                    write(file, video, draw.standard_normal((30, 4)).astype(np.float32))
        self.experiment(
            {"ANNOTATIONS": {split: f"{split}_data.json" for split in SPLITS}}, **sections
        )

    def read(self, split: str) -> dict[str, dict[str, Any]]:
        return dict(json.loads((self.folder / f"{split}_data.json").read_text("utf-8")))

    def lengthen(self, split: str, letters: int) -> str:
        """Give the first video's first sentence so many letters; the name of the video."""
        videos = self.read(split)
        video = next(iter(videos))
        videos[video]["sentences"][0] = ("a man " * (letters // 6 + 1))[:letters]
        self.write(f"{split}_data.json", videos)
        return video


# Annotations


def test_a_training_sentence_of_ten_megabytes_is_refused_by_its_bound(tmp_path: Path) -> None:
    case = Case(tmp_path, "hostile_a_10MBsentence")
    video = case.lengthen("train", 10_000_000)
    began = time.monotonic()
    ended = case.call("dense_train")
    assert time.monotonic() - began < 20
    refused(ended, f"{video} sentence 1 has 10,000,000 letters", f"at most {MOST_LETTERS:,} of a")


def test_a_long_test_sentence_stops_the_test_and_not_the_training(tmp_path: Path) -> None:
    case = Case(tmp_path, "hostile_s_long_test")
    video = case.lengthen("test", 1_000_000)
    case.done("dense_train")
    refused(case.call("best_test"), f"{video} sentence 1 has 1,000,000 letters", "at most 20,000")
    assert not (tmp_path / "save/mine/results.json").exists()


def test_a_long_test_paragraph_changes_no_trained_weight(tmp_path: Path) -> None:
    """One of 40 sentences, where the others have six at most; the run can be tested on it."""
    weights = dict.fromkeys(("retrieval_nce", "reconstruction", "rank", "temporal_rank"), 1)
    model = {"MODEL": {"NAME": "dmr_jrg", "PARAMS": TINY_MODEL}, "LOSS": {"WEIGHTS": weights}}
    cases = [Case(tmp_path / case, case, **model) for case in ("hostile_longtest_leak", WORLD)]
    states = []
    for case in cases:
        case.done("dense_train")
        states.append(checkpoint.load(case.root / "save/mine/best.pt"))
    assert [len(case.read("test")["v_test00000"]["sentences"]) for case in cases] == [40, 5]
    assert list(states[0]["model"]) == list(states[1]["model"])
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name
    cases[0].done("best_test")
    assert cases[0].results()["corpus"]["sentences"] == 68


def test_nothing_is_said_of_other_splits_under_a_known_name() -> None:
    """ActivityNet-CD's val and test, which share no video (corpus_notes_of_other_splits)."""
    files = CASES / "test_sentences_left_out_unsaid"
    options = yaml.safe_load((files / "exp.yaml").read_text("utf-8"))["DATASET"]
    assert options.pop("NAME") == "activitynet"
    corpus = load_corpus(
        name="activitynet",
        data_dir=files / "data",
        splits=("val", "test"),
        cache="none",
        **{name.lower(): value for name, value in options.items()},
    )
    videos = [{p.video_id for p in corpus[split].paragraphs} for split in ("val", "test")]
    assert not videos[0] & videos[1]
    said = [note for note in corpus.notes if not note.startswith("val: ")]
    assert not any(untrue in note for note in said for untrue in ("share", "same", "verbatim"))


# Features


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def stops_at_once(case: Case, *wanted: str) -> None:
    """Training ends with the sentence, the doctor finds the problem, and nothing waits."""
    began = time.monotonic()
    refused(case.call("dense_train"), *wanted)
    ended = case.call("doctor")
    assert ended.status == 1 and "Traceback" not in ended.output, ended.output
    cells = [line.split("|")[3] for line in ended.output.splitlines() if line.count("|") == 5]
    found = " ".join(" ".join(cells).split())
    assert all(text in found for text in wanted), ended.output
    assert time.monotonic() - began < 20


@pytest.mark.timeout(60)
def test_an_external_link_to_a_fifo_is_not_opened(tmp_path: Path, fifo: Path) -> None:
    def write(file: h5py.File, video: str, rows: np.ndarray) -> None:
        file[video] = h5py.ExternalLink(str(fifo), video)

    stops_at_once(Case(tmp_path, "hostile_h_extlink_fifo", write=write), "is a link into", "fifo")


@pytest.mark.timeout(60)
def test_external_storage_in_a_fifo_is_not_opened(tmp_path: Path, fifo: Path) -> None:
    def write(file: h5py.File, video: str, rows: np.ndarray) -> None:
        place = [(str(fifo), 0, rows.nbytes)]
        file.create_dataset(video, rows.shape, rows.dtype, external=place)

    case = Case(tmp_path, "hostile_h_extstorage_fifo", write=write)
    stops_at_once(case, "keeps its rows in", "another file")


def test_rows_without_numbers_are_refused(tmp_path: Path) -> None:
    def write(file: h5py.File, video: str, rows: np.ndarray) -> None:
        file[video] = rows[:, :0]

    stops_at_once(Case(tmp_path, WORLD, write=write), "no numbers in")


# What is unpickled


def test_no_class_of_the_process_is_changed_by_word_vectors(tmp_path: Path) -> None:
    """The file asks for ``Counter.total = 5``."""
    before = dict(vars(Counter))
    path = CASES / "hostile_glove_poison_counter" / "glove.pkl"
    with pytest.raises(InputError, match=r"asks for new attributes of collections\.Counter"):
        read_word_vectors(path)
    assert dict(vars(Counter)) == before and Counter("aab").total() == 3
    case = Case(tmp_path, "hostile_glove_poison_counter")
    refused(case.call("dense_train"), "asks for new attributes of collections.Counter")


@pytest.mark.parametrize("read", [checkpoint.load, lambda path: load(path, device="cpu")])
def test_a_checkpoint_with_a_number_for_a_name_is_refused(read: Callable[[Path], Any]) -> None:
    path = CASES / "hostile_ck_model_intkeys" / "best.pt"
    with pytest.raises(InputError, match="model has the key 1") as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# Predictions and results


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Of the world that the predictions are of; its sentences are numbered from 1 there."""
    videos = json.loads((CASES / WORLD / "test_data.json").read_text("utf-8"))
    path = tmp_path / "predictions.truth.jsonl"
    lines = [
        {
            "desc_id": f"{video}/{number}",
            "desc": sentence,
            "vid_name": video,
            "duration": entry["duration"],
            "paragraph_id": video,
            "ts": moment,
        }
        for video, entry in videos.items()
        for number, (sentence, moment) in enumerate(
            zip(entry["sentences"], entry["timestamps"], strict=True), start=1
        )
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def predictions(case: str) -> Path:
    (path,) = (CASES / case).glob("*.jsonl")
    return path


@pytest.mark.parametrize(
    ("case", "flags", "wanted"),
    [
        ("pairs_for_int", (), ":1: pairs_for is 5, expected a list"),
        ("pairs_for_nested", (), ":1: pairs_for names the unknown protocol [1]"),
        ("pairs_for_null", (), ":1: pairs_for is None, expected a list"),
        ("res_neg", ("--resamples", -5), "'-5' is none of the numbers that are possible"),
        ("json_nodir", ("--json", "gone/scores.json"), "gone/scores.json cannot be written"),
        ("md_dir", ("--markdown", "folder"), "folder cannot be written"),
    ],
)
def test_the_scorer_refuses_in_a_line(
    case: str,
    flags: tuple[object, ...],
    wanted: str,
    truth: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(truth.parent)
    (truth.parent / "folder").mkdir()
    path = predictions(f"hostile_score_{case}")
    flags = ("--resamples", 0, *flags)
    refused(call(score.main, path, "--truth", truth, *flags), wanted)
    assert sorted(p.name for p in truth.parent.rglob("*")) == ["folder", truth.name]


def test_the_predictions_of_the_refused_lines_are_otherwise_scored(truth: Path) -> None:
    path = predictions("hostile_score_res_neg")
    outcome = call(score.main, path, "--truth", truth, "--resamples", 0)
    assert outcome.status == 0 and "no prediction" not in outcome.out


def test_what_a_killed_test_left_is_not_taken_without_a_word(truth: Path) -> None:
    """It was cut after a line, and does not say how many it should have: five sentences of 33 are
    answered."""
    folder = truth.parent
    shutil.copyfile(predictions("hostile_best_test_half_written"), folder / "predictions.jsonl")
    said = "28 of 33 sentences have no prediction"
    outcome = call(score.main, folder / "predictions.jsonl", "--truth", truth, "--resamples", 0)
    assert outcome.status == 0 and said in " ".join(outcome.out.split())
    outcome = call(report.main, folder, "--out", folder / "page.html")
    assert outcome.status == 0 and said in (folder / "page.html").read_text("utf-8")


def test_a_file_of_today_that_is_cut_at_the_same_line_is_refused(truth: Path) -> None:
    folder = truth.parent
    half = predictions("hostile_best_test_half_written").read_text("utf-8").count("\n")
    whole = read_any(predictions("hostile_score_res_neg"), read_truth(truth))
    path = folder / "predictions.jsonl"
    write_predictions(path, *whole)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:half]), "utf-8")
    cut = f'has {half} lines and says "lines": {len(lines)}; was it cut short?'
    refused(call(score.main, path, "--truth", truth), cut)
    refused(call(report.main, folder, "--out", folder / "page.html"), cut)
    assert not (folder / "page.html").exists()


# Runs


def test_the_best_of_tied_epochs_is_the_finest_and_the_ties_are_said(tmp_path: Path) -> None:
    text = (CASES / "best_of_tied_epochs" / "exp.yaml").read_text("utf-8")
    experiment = yaml.safe_load(text.replace("REPOSITORY", str(REPOSITORY)))
    world = {"feature_dim": 12, "word_dim": 8}
    experiment["DATASET"] = {"NUM_FRAMES": 32, "NUM_CLIPS": 8} | experiment["DATASET"]
    experiment["DATASET"]["SYNTHETIC"] |= world
    experiment |= {"MODEL": {"PARAMS": TINY_MODEL}, "GPUS": "cpu"}
    experiment["TEST"]["CANDIDATES"], experiment["TRAIN"]["CHECKPOINT_EVERY"] = 0, 12
    path = tmp_path / "exp.yaml"
    path.write_text(yaml.safe_dump(experiment), "utf-8")
    folders = ("--dataDir", tmp_path / "data", "--modelDir", tmp_path / "save")
    ended = run(*("dense_train", "--cfg", path, *folders, "--workers", 0), output=tmp_path / "out")
    assert ended.status == 0, ended.output
    log = (tmp_path / "save/exp/log.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line)["protocols"]["vr"] for line in log]
    assert len(rows) == 12 and {row["R@10"] for row in rows} == {100.0}
    finest = max(row["MRR"] for row in rows)
    best = [row["MRR"] for row in rows].index(finest)
    assert rows[0]["MRR"] < finest
    assert checkpoint.load(tmp_path / "save/exp/best.pt")["epoch"] == best
    said = " ".join(ended.output.split())
    assert "epochs 1, 2, 3, 4, 5, 6, 7, 8 and 4 more tie by vr/R@10 at 100.00" in said
    assert f"epoch {best + 1} is the best of them by vr/MRR ({finest:.2f})" in said


def test_folders_of_the_command_line_are_relative_to_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the case says: ``--cfg exp.yaml --dataDir mydata --modelDir mysave`` in another folder."""
    assert "--dataDir mydata --modelDir mysave" in (
        CASES / "relative_folders_of_the_command_line" / "README"
    ).read_text("utf-8")
    case = Case(tmp_path, WORLD)
    shutil.move(tmp_path / "data", tmp_path / "mydata")
    shutil.move(tmp_path / "mine.yaml", tmp_path / "exp.yaml")
    monkeypatch.chdir(tmp_path)
    flags = ("--cfg", "exp.yaml", "--dataDir", "mydata", "--modelDir", "mysave")
    for name in ("dense_train", "best_test"):
        ended = run(name, *flags, output=case.root / "out")
        assert ended.status == 0, ended.output
    assert (tmp_path / "mysave/exp/results.json").is_file()
    assert not (REPOSITORY / "mysave").exists() and not (REPOSITORY / "mydata").exists()
