"""What commands print: the answer at the end, in the width of a terminal, and none of a terminal's
controls in a file."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lib.base import terminal
from lib.base.errors import InputError
from lib.base.terminal import coloured, count, duration, for_file, shown_path, wrapped
from lib.evaluation import console_table, headline_lines, headline_numbers, summarise, table
from lib.evaluation.examples import sentences_of
from lib.evaluation.files.run import read_run
from lib.evaluation.records import Predictions, Truth
from lib.training import scorer
from lib.training.console import Console
from lib.training.progress import Pace, Progress
from lib.training.reporting import EpochTable
from lib.training.run import require_run
from tests.demo_run import make_run
from tests.runs import REPOSITORY, Ended, run, write_experiment

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal of 80 columns with colours."""
    monkeypatch.setattr(terminal, "is_terminal", lambda stream=None: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


class TestWords:
    def test_counts(self):
        assert count(1, "video") == "1 video" and count(0, "video") == "0 videos"
        assert count(2055, "entry", "entries") == "2,055 entries"

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0, "0 s"),
            (0.1 + 0.2, "0.3 s"),
            (9.96, "10 s"),
            (75.4, "75 s"),
            (100, "1.7 min"),
            (7200, "2.0 h"),
            (2e5, "2.3 days"),
            (float("nan"), "unknown"),
        ],
    )
    def test_durations(self, seconds, text):
        assert duration(seconds) == text

    def test_a_path_is_as_one_would_type_it(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert shown_path(tmp_path / "save/run") == "../save/run"
        assert shown_path("save") == "save"
        assert shown_path("/x") == "/x"


class TestATerminal:
    def test_wraps_and_has_colours(self, watched):
        text = "word " * 40
        lines = wrapped(text).split("\n")
        assert max(map(len, lines)) <= 80 and lines[1].startswith("  word")
        assert " ".join(" ".join(lines).split()) == text.strip()
        assert coloured("x", "bold", "red") == "\x1b[1;31mx\x1b[0m"

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_has_no_colours_where_they_are_not_wanted(self, watched, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        assert coloured("x", "red") == "x"

    def test_a_file_has_neither(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        assert wrapped("word " * 40) == "word " * 40 and coloured("x", "red") == "x"

    def test_the_console_s_file_keeps_text_alone(self, watched, tmp_path):
        with Console() as console:
            print(coloured("a line", "green"))
            sys.stdout.write("\r 50%|#####     |")
            sys.stdout.write("\n\x1b[A")  # how bars move between their lines
            console.attach(tmp_path / "log", append=False)
            print("another")
        assert (tmp_path / "log").read_text() == "a line\nanother\n"
        assert for_file("\x1b[1;32mx\x1b[0m\n") == "x\n"


def summary_of(*, timed: bool = True, retrieves: bool = True, **more: Any) -> dict[str, Any]:
    """Three videos with a paragraph of two sentences each, all of them right."""
    moments = np.array([[0.0, 5.0], [5.0, 10.0]] * 3)
    truth = Truth(
        video_ids=("a", "b", "c"),
        durations=np.full(3, 10.0),
        paragraph_ids=("a", "b", "c"),
        paragraph_video=np.arange(3),
        sentence_paragraph=np.repeat(np.arange(3), 2),
        moments=moments if timed else np.full((6, 2), np.nan),
        sentences=("x",) * 6,
    )
    predictions = Predictions(
        similarity=np.eye(3) if retrieves else None,
        spans=moments[:, None] / 10,
        scores=np.zeros((6, 1)),
    )
    return summarise(truth, predictions, resamples=20, **more)


class TestTheHeadline:
    def names(self, summary: dict[str, Any]) -> list[str]:
        return [f"{each.question} {each.metric}" for each in headline_numbers(summary)]

    def test_has_five_numbers_beside_floor_and_interval(self):
        summary = summary_of()
        assert self.names(summary) == [
            *("retrieval R@1", "retrieval R@10"),
            *("grounding R@1,IoU=0.5", "grounding mIoU", "joint R@10,IoU=0.5"),
        ]
        first, *_ = headline_numbers(summary)
        assert (first.protocol, first.score, first.rule) == ("vr", 100.0, "chance")
        assert first.floor == pytest.approx(100 / 3) and first.interval == (100.0, 100.0)
        lines = headline_lines(summary, "a run, test split")
        assert lines[0] == "a run, test split: 3 videos, 3 paragraphs, 6 sentences"
        row = "retrieval R@1           100.00  100.00 to 100.00    33.33  above its floor"
        assert row in lines
        # Equal parts in order are exactly the moments of this world.
        (mean,) = (line for line in lines if line.startswith("grounding mIoU"))
        assert mean.endswith("100.00  not above its floor")
        assert max(map(len, lines)) <= 80

    def test_the_joint_number_is_the_run_s_own(self):
        summary = summary_of()
        assert headline_numbers(summary)[-1].protocol == "jrg_video_topk"
        summary["protocols"]["jrg_joint"] = {"R@10,IoU=0.5": 7.0}
        joint = headline_numbers(summary)[-1]
        assert (joint.protocol, joint.score, joint.verdict) == ("jrg_joint", 7.0, "")

    def test_without_timestamps_it_is_of_retrieval_and_without_retrieval_of_grounding(self):
        assert self.names(summary_of(timed=False)) == ["retrieval R@1", "retrieval R@10"]
        found = self.names(summary_of(retrieves=False))
        assert found == ["grounding R@1,IoU=0.5", "grounding mIoU"]
        empty = {**summary_of(), "protocols": {}}
        assert headline_lines(empty)[-1] == "no number of the headline was counted"

    def test_other_k_and_iou_give_the_nearest(self):
        summary = summary_of(retrieval_k=(5, 8), iou=(0.7, 0.9), grounding_n=(2,))
        assert self.names(summary) == [
            *("retrieval R@5", "retrieval R@8"),
            *("grounding R@2,IoU=0.7", "grounding mIoU", "joint R@8,IoU=0.7"),
        ]

    @pytest.mark.parametrize(
        ("interval", "verdict"),
        [
            ([40.0, 60.0], "above"),
            ([20.0, 60.0], "not above"),
            ([33.0, 60.0], "not above"),
            ([10.0, 30.0], "below"),
            (None, "above"),
        ],
    )
    def test_the_interval_decides(self, interval, verdict):
        summary = summary_of()
        summary["protocols"]["vr"]["R@1"] = 50.0
        summary["intervals"]["vr"]["R@1"] = interval
        assert headline_numbers(summary)[0].verdict == verdict

    def test_verdicts_are_coloured_for_who_watches(self, watched):
        text = "\n".join(headline_lines(summary_of()))
        assert "\x1b[32mabove its floor\x1b[0m" in text
        assert "\x1b[33mnot above its floor\x1b[0m" in text

    def test_tables_fit_a_terminal_and_are_whole_in_a_file(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        summary = summary_of(fixed_spans=np.array([[0.0, 0.5]] * 10))
        whole = console_table(summary)
        assert "ten fixed" in whole and max(map(len, whole.splitlines())) > 80
        for module in (table, terminal):
            monkeypatch.setattr(module, "is_terminal", lambda stream=None: True)
        narrow = console_table(summary)
        assert "best floor" in narrow and max(map(len, narrow.splitlines())) <= 80
        (row,) = (line for line in narrow.splitlines() if line.startswith("| dR@1,IoU=0.5 "))
        assert row.split("|")[4].strip() == "100.00"  # of equal parts in order

    def test_the_scorer_ends_with_it(self, tmp_path):
        make_run(tmp_path / "run", skill=0.5)
        folder = tmp_path / "run"
        line = (folder / "predictions.jsonl", "--truth", folder / "predictions.truth.jsonl")
        ended = run("score", *line, "--resamples", "20", output=tmp_path / "out")
        assert ended.status == 0, ended.output
        *_, answer, reading = ended.output.split("\n\n")
        rows = [line for line in answer.splitlines() if line.endswith("its floor")]
        assert [row.split()[0] for row in rows][:2] == ["retrieval", "retrieval"]
        assert len(rows) >= 4 and reading.startswith("retrieval (vr): the right video is")
        assert max(map(len, [*answer.splitlines(), *reading.splitlines()])) <= 80


class TestEpochs:
    def table(self, select_by: str = "vr/R@10") -> EpochTable:
        return EpochTable(100, select_by)

    def rows(self, table: EpochTable, summary: dict[str, Any], epoch: int = 99) -> list[str]:
        progress = Progress(best_epoch=99)
        return table.rows(epoch, {"total": 23.29512}, summary, progress, seconds=12, left=3600.0)

    def test_a_row_has_loss_scores_and_time_under_its_head(self):
        table, summary = self.table(), summary_of()
        head, names, floors, row = self.rows(table, summary)
        assert head.split() == ["retrieval", "grounding"]
        assert names.split() == [
            "epoch",
            "loss",
            "R@1",
            "R@10",
            "R@1,IoU=0.5",
            "mIoU",
            "time",
            "left",
        ]
        assert floors.split() == ["floors", "33.33", "100.00", "100.00", "100.00"]
        assert row.split() == [
            *("100/100", "23.2951", "100.00", "100.00", "100.00", "100.00"),
            *("12", "s", "60.0", "min", "best"),
        ]
        assert max(map(len, (head, names, floors, row))) <= 80
        (next_row,) = self.rows(table, summary, epoch=50)
        assert "best" not in next_row
        assert table.unscored(51, {"total": 1.0}, seconds=1, left=2).endswith("1 s      2 s")

    @pytest.mark.parametrize(
        "name", ["vr/MedR", "svmr_2dtan/R@1,IoU=0.7", "jrg_video_topk/R@1,IoU=0.3"]
    )
    def test_what_chooses_the_epoch_has_a_column(self, name):
        head, names, floors, row = self.rows(self.table(name), summary_of())
        assert name.partition("/")[0] in head and name.partition("/")[2] in names.split()
        assert max(map(len, (head, names, floors, row))) <= 80
        if name == "vr/MedR":
            assert floors.split()[-1] == "2.00"  # the lowest, of ranks

    def test_a_warning_is_printed_when_it_is_new(self):
        table, summary = self.table(), {"warnings": ["mIoU 1.00 is below 2.00"]}
        assert table.warnings(summary) == ["  WARNING: mIoU 1.00 is below 2.00"]
        assert table.warnings({"warnings": ["mIoU 1.50 is below 2.00"]}) == []
        assert table.warnings({"warnings": []}) == []
        assert len(table.warnings(summary)) == 1

    def test_what_is_left_is_in_proportion(self):
        now = iter([100.0, 130.0, 200.0])
        pace = Pace(50, 10, clock=lambda: next(now))
        assert np.isnan(pace.left(10))
        assert pace.left(20) == pytest.approx(90.0)
        assert pace.left(50) == 0.0


# Whole commands.


class Bench:
    """A run of which options were set on the command line, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.saved = folder, folder / "save/tiny"
        self.experiment = folder / "tiny.yaml"

    def call(self, name: str, *line: object, **options: Any) -> Ended:
        return run(name, *line, output=self.folder / "out.txt", **options)

    def results(self, name: str = "results.json") -> dict[str, Any]:
        return dict(json.loads((self.saved / name).read_text("utf-8")))

    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.saved.iterdir() if p.name not in HIDDEN}


HIDDEN = {".files", ".lock"}
TRAINED_WITH = ("--set", "MODEL.PARAMS.hidden_size=8", "--set", "DECODE.ORDER_PENALTY=1")


def make(folder: Path) -> Bench:
    path = write_experiment(folder, EPOCHS=2, LOG_EVERY=2)
    text = yaml.safe_load(path.read_text("utf-8"))
    text |= {"BASE": str(REPOSITORY / "experiments/synthetic/base.yaml")}
    text |= {"MODEL": {"NAME": "linear_align", "PARAMS": {"hidden_size": 16}}}
    text |= {"LOSS": {"WEIGHTS": {"sentence": 1, "within": 1}}, "TEST": {"RESAMPLES": 20}}
    path.write_text(yaml.safe_dump(text), "utf-8")
    return Bench(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Trained and tested; ``said.txt`` and ``tested.txt`` are what was printed. Copy before
    changing anything."""
    bench = make(tmp_path_factory.mktemp("answers"))
    ended = bench.call("dense_train", "--cfg", bench.experiment, *TRAINED_WITH)
    assert ended.status == 0, ended.output
    (bench.folder / "said.txt").write_text(ended.output, "utf-8")
    ended = bench.call("best_test", bench.saved)
    assert ended.status == 0, ended.output
    (bench.folder / "tested.txt").write_text(ended.output, "utf-8")
    return bench


@pytest.fixture
def bench(trained: Bench, tmp_path: Path) -> Bench:
    shutil.copytree(trained.folder, tmp_path / "bench")
    for path in (tmp_path / "bench").rglob("*.yaml"):
        text = path.read_text("utf-8")
        path.write_text(text.replace(str(trained.folder), str(tmp_path / "bench")), "utf-8")
    return Bench(tmp_path / "bench")


def watch() -> None:
    """A sabotage: both streams are a terminal."""
    os.environ |= {"COLUMNS": "80", "TERM": "xterm"}
    os.environ.pop("NO_COLOR", None)
    for name in ("stdout", "stderr"):
        getattr(sys, name).isatty = lambda: True
        assert terminal.is_terminal(getattr(sys, name))


def test_training_ends_with_the_best_epoch_and_the_next_command(trained, monkeypatch):
    said = (trained.folder / "said.txt").read_text("utf-8")
    assert not CONTROLS.search(said)
    *_, block = said.split("\n\n")
    lines = block.splitlines()
    assert re.match(r"best epoch [12] of 2 on validation: 6 videos, 6 paragraphs", lines[0])
    assert sum(line.endswith("its floor") for line in lines) == 5
    chosen = r"chosen by vr/R@10 \(\d+\.\d\d\); training saw no timestamps and took [\d.]+ s"
    assert sum(re.fullmatch(chosen, line) is not None for line in lines) == 1
    assert lines[-1] == f"test it: python best_test.py {shown_path(trained.saved)}"
    assert re.search(r"\n  step 2/3: loss [\d.]+, [\d.]+ s, about [\d.]+ s left\n", said)
    assert max(map(len, lines[:6])) <= 80


def test_a_run_is_tested_by_its_folder_without_its_options(bench):
    said = (bench.folder / "tested.txt").read_text("utf-8")
    assert not CONTROLS.search(said)
    *_, answer, reading = said.split("\n\n")
    assert answer.startswith("save/tiny, test split: 6 videos, 6 paragraphs")
    assert sum(line.endswith("its floor") for line in answer.splitlines()) == 5
    assert "+---" not in said and "/save/tiny/results.md" in said
    assert max(map(len, [*answer.splitlines(), *reading.splitlines()])) <= 80
    results = bench.results()
    assert results["decoding"]["order_penalty"] == 1.0
    of_folder = bench.files()
    # The experiment finds the same run, and says whose options count.
    ended = bench.call("best_test", "--cfg", bench.experiment)
    assert ended.status == 0, ended.output
    assert "note: options are the run's, not those of" in ended.output
    assert "MODEL.PARAMS.hidden_size was 16 and is 8" in ended.output
    again = bench.results()
    assert again["protocols"] == results["protocols"] and again["decoding"] == results["decoding"]
    assert bench.files().keys() == of_folder.keys()


def test_verbose_lines_come_before_the_answer(bench):
    ended = bench.call("best_test", bench.saved, "--verbose")
    assert ended.status == 0, ended.output
    before, answer, _ = ended.output.split("\n\n")
    assert answer.startswith("save/tiny, test split") and "sentences kept" in before
    assert not CONTROLS.search(ended.output)  # no bars where nobody watches


def test_test_options_change_and_those_of_training_do_not(bench):
    ended = bench.call("best_test", bench.saved, "--set", "TEST.RETRIEVAL_K=[1, 2]")
    assert ended.status == 0 and "R@2" in bench.results()["protocols"]["vr"], ended.output
    before = bench.files()
    ended = bench.call("best_test", bench.saved, "--set", "DECODE.ORDER_PENALTY=0")
    assert ended.status == 0, ended.output
    after = bench.files()
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 2
    for line, said in (
        (("--set", "TRAIN.SEED=3"), "TRAIN.SEED was 0 and is 3; a test can change TEST and DECODE"),
        (("--set", "LOSS.WEIGHTS.within=2"), "LOSS.WEIGHTS.within was 1.0 and is 2.0"),
        (("--tag", "x"), "--tag is for --cfg"),
        (("--set", "MODEL_DIR=x"), "--set MODEL_DIR=x is for --cfg"),
        (("--cfg", bench.experiment), "either the folder of a run (best_test.py RUN) or --cfg"),
        (("--other-data", "../x"), "--other-data: '../x' is none of the names"),
    ):
        ended = bench.call("best_test", bench.saved, *line)
        assert ended.status == 2 and said in ended.output, ended.output
    assert bench.files() == after


def test_retrieval_is_normalised_by_training_paragraphs_beside_the_rest(bench):
    before = bench.results()
    ended = bench.call("best_test", bench.saved, "--set", "TEST.QUERYBANK=5")
    assert ended.status == 0, ended.output
    assert "vr_querybank: normalised by 5 training paragraphs, scale" in ended.output
    after = bench.results()
    assert after["querybank"]["paragraphs"] == 5 and after["querybank"]["scale"] > 0
    assert set(after["protocols"].pop("vr_querybank")) == set(after["protocols"]["vr"])
    assert after["protocols"] == before["protocols"]
    # Against the training split's own paragraphs it would say nothing.
    ended = bench.call("best_test", bench.saved, "--set", "TEST.QUERYBANK=5", "--split", "train")
    assert ended.status == 0, ended.output
    assert "vr_querybank" not in bench.results("results_train.json")["protocols"]


def choose_none() -> None:
    """A sabotage: a test chooses no paragraph whose maps it keeps."""
    scorer.choose_paragraphs = lambda quality: {"best": []}


def test_score_maps_of_named_paragraphs_are_kept(bench):
    truth = read_run(bench.saved).truth
    name = truth.paragraph_ids[4]
    line = (bench.saved, "--maps", name)
    ended = bench.call("best_test", *line, sabotage=choose_none)
    assert ended.status == 0, ended.output
    maps = read_run(bench.saved).maps
    assert maps is not None and maps.paragraphs(truth) == [4]
    assert maps.sentences.tolist() == sentences_of(truth, [4]).tolist()
    before = bench.files()
    refused = "--maps: this test keeps no score maps"
    for more, said in (
        (("--maps", "nobody"), "the split has no paragraph 'nobody'; its ids are such as"),
        (("--maps", name, "--split", "val"), refused),
        (("--maps", name, "--set", "DECODE.ORDER_PENALTY=0"), refused),
        (("--maps", name, "--set", "TEST.CORRUPTION=video_mean"), refused),
    ):
        ended = bench.call("best_test", bench.saved, *more)
        assert ended.status == 2 and said in ended.output, ended.output
    assert bench.files() == before


def without_maps() -> None:
    """A sabotage: the model has no spans that all sentences share."""
    scorer.Scorer.score_maps = lambda self, *more: None


def test_maps_of_a_model_without_proposals_cannot_be_kept(bench):
    before = bench.files()
    name = read_run(bench.saved).truth.paragraph_ids[0]
    ended = bench.call("best_test", bench.saved, "--maps", name, sabotage=without_maps)
    assert ended.status == 2 and bench.files() == before
    assert "--maps: linear_align scores no list of spans" in ended.output


def rewrite_moments(folder: Path, split: str) -> None:
    """Other annotations of the same videos and words."""
    (path,) = folder.rglob(f"{split}_data.json")
    tree = json.loads(path.read_text("utf-8"))
    entry = next(iter(tree.values()))
    entry["timestamps"][0] = [0.0, 0.5]
    path.write_text(json.dumps(tree), "utf-8")


def another_folder(bench: Bench) -> tuple[object, ...]:
    shutil.copytree(bench.folder / "data", bench.folder / "other")
    rewrite_moments(bench.folder / "other", "val")
    return ("--dataDir", bench.folder / "other")


def another_file(bench: Bench) -> tuple[object, ...]:
    rewrite_moments(bench.folder / "data", "train")
    return ()


def another_option(bench: Bench) -> tuple[object, ...]:
    return ("--set", "DATASET.LIMIT_TEST=3")


def test_other_data_need_a_flag_and_leave_the_results(bench):
    before = bench.files()
    for change, said in (
        (another_option, "DATASET.LIMIT_TEST was 0 and is 3"),
        (another_folder, "the val annotations are not those of training"),
        (another_file, "the train annotations are not those of training"),
    ):
        flags = change(bench)
        ended = bench.call("best_test", bench.saved, *flags)
        assert ended.status == 2 and said in ended.output, ended.output
        assert "--other-data NAME" in ended.output and bench.files() == before
    ended = bench.call("best_test", bench.saved, *flags, "--other-data", "that")
    assert ended.status == 0, ended.output
    after = bench.files()
    assert {name: after[name] for name in before} == before
    new = after.keys() - before.keys()
    assert {"results_on_that.json", "results_on_that.md"} <= new
    assert all("_on_that" in name for name in new)


def test_the_same_data_in_another_place_are_the_run_s_own(bench, monkeypatch):
    shutil.move(bench.folder / "data", bench.folder / "elsewhere")
    shutil.move(bench.saved, bench.folder / "kept")
    bench.saved = bench.folder / "kept"
    monkeypatch.chdir(bench.folder)
    ended = bench.call("best_test", "kept", "--dataDir", "elsewhere")
    assert ended.status == 0, ended.output
    assert (bench.saved / "results.json").is_file() and not (bench.folder / "data").exists()


def test_paths_of_the_command_line_are_relative_to_the_current_folder(bench, monkeypatch):
    here = bench.folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.move(bench.folder / "data", here / "mydata")
    flags = ("--cfg", "../tiny.yaml", "--dataDir", "mydata", "--modelDir", "mysave")
    ended = bench.call("dense_train", *flags, "--set", "TRAIN.EPOCHS=1")
    assert ended.status == 0, ended.output
    assert "mysave/tiny: a new run of 1 epoch\n" in ended.output
    assert (here / "mysave/tiny/best.pt").is_file() and not (REPOSITORY / "mysave").exists()
    command = ended.output.splitlines()[-1]
    assert command == "test it: python best_test.py mysave/tiny"
    ended = bench.call("best_test", *command.split()[-1:])
    assert ended.status == 0, ended.output


def test_help_says_where_paths_begin(tmp_path):
    for name in ("dense_train", "best_test", "doctor", "plan", "import_checkpoint"):
        ended = run(name, "--help", output=tmp_path / "out")
        assert ended.status == 0 and "relative to the current\nfolder" in ended.output
        assert "data of the repository" in " ".join(ended.output.split())


def test_a_folder_without_a_run_names_those_near_it(tmp_path):
    for name in ("exp-a", "exp/inner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
    with pytest.raises(
        InputError, match=r"holds no run .* expected one of .*best_test\.py"
    ) as fault:
        require_run(tmp_path / "exp")
    assert "exp-a" in str(fault.value) and "exp/inner" in str(fault.value)
    with pytest.raises(InputError, match="train first"):
        require_run(tmp_path / "absent")
    with pytest.raises(InputError, match="is a file; expected the folder of a run"):
        require_run(tmp_path / "exp-a/config.yaml")


def test_who_watches_sees_bars_and_colours_and_the_log_has_none(tmp_path):
    bench = make(tmp_path)
    line = ("--cfg", bench.experiment, "--verbose")
    ended = bench.call("dense_train", *line, sabotage=watch)
    assert ended.status == 0, ended.output
    shown = (bench.folder / "out.txt").read_bytes()
    assert b"\repoch 1/2:" in shown and b"\x1b[32m" in shown
    log = (bench.saved / "console.log").read_text("utf-8")
    assert "best epoch" in log and not CONTROLS.search(log)
    for words in ("loss", "epoch 1/2:", "it/s"):
        assert (words in log) == (words == "loss")
    ended = bench.call("best_test", bench.saved, sabotage=watch)
    assert ended.status == 0, ended.output
    lines = re.sub(r"\x1b\[[0-9;]*m", "", ended.output).splitlines()
    assert not [line for line in lines if len(line) > 80 and " " in line.strip()]
