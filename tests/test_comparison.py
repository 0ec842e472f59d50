"""Runs side by side: what was changed, seeds joined, floors marked, verdicts on the same draws."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.commands import compare
from lib.evaluation import Predictions, compare_predictions, count
from lib.evaluation.baselines import best_floor
from lib.evaluation.bootstrap import judge, mean_resampled, mean_scores, resampled
from lib.evaluation.comparison import (
    Result,
    below_floor,
    compare_runs,
    joined,
    options_of,
)
from lib.evaluation.files.run import RunFiles, read_run
from lib.evaluation.report import comparison_report
from lib.evaluation.report.plain import console_comparison, markdown_comparison
from lib.evaluation.report.tables import result_cells
from tests.demo_run import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a good model, one of a bad one."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1, 10):
        make_run(folder / f"good-{seed}", skill=0.9, seed=seed, epochs=2)
    make_run(folder / "bad", skill=0.1, seed=0, epochs=2)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[RunFiles]:
    names = ("bad", "good-10", "good-0", "good-1")
    return [read_run(folder / name) for name in names]


def changed(run: RunFiles, config: str = "", **provenance: object) -> RunFiles:
    about = {"provenance": {"training": provenance}} if provenance else {}
    return dataclasses.replace(run, config=config or run.config, summary=run.summary | about)


def test_runs_that_differ_in_their_seed_alone_are_one_column(runs: list[RunFiles]) -> None:
    bad, good = joined(runs)
    assert (bad.label, bad.seeds) == ("bad", ("0",))
    assert (good.label, good.seeds) == ("good (3 seeds)", ("0", "1", "10"))
    assert [run.name for run in good.runs] == ["good-0", "good-1", "good-10"]
    assert [column.name for column in joined(runs[1:])] == ["good"]
    folders = "MODEL: {NAME: demo, PARAMS: {skill: 0.9}}\nTAG: x\nGPUS: cpu\nTRAIN: {SEED: 4}\n"
    assert len(joined([runs[1], changed(runs[2], folders)])) == 1


def test_what_is_not_known_to_be_the_same_is_not_joined(runs: list[RunFiles]) -> None:
    first, second = runs[1], runs[2]
    code = {"commit": "a" * 40, "clean": True}
    assert len(joined([changed(first, **code), changed(second, **code)])) == 1
    for other in (
        changed(second, commit="b" * 40, clean=True),
        changed(second, commit="a" * 40, clean=False),
        changed(second, **code, annotations={"train": "other"}),
        changed(second, "MODEL: {NAME: other}\nTRAIN: {SEED: 1}\n"),
        second,
        dataclasses.replace(second, config=""),
    ):
        assert len(joined([changed(first, **code), other])) == 2
    same_seed = dataclasses.replace(first, name="again")
    assert len(joined([first, same_seed])) == 2  # a change that is in no file
    without = dataclasses.replace(first, config="")
    assert len(joined([without, dataclasses.replace(second, config="")])) == 2


def test_the_changes_are_named(runs: list[RunFiles]) -> None:
    first = changed(runs[0], commit="a" * 40, clean=True, versions={"torch": "2.11"})
    second = changed(
        runs[1],
        "MODEL: {NAME: demo, PARAMS: {skill: 0.9, width: [1, {a: b}]}}\nTRAIN: {SEED: 7}\nTAG: x\n",
        commit="b" * 40,
        clean=False,
        versions={"torch": "2.13"},
    )
    changes = compare_runs([first, second], resamples=20).changes
    assert changes == {
        "MODEL.PARAMS.skill": ["0.1", "0.9"],
        "code version (training)": ["aaaaaaaaaa", "bbbbbbbbbb, with uncommitted changes"],
        "libraries (training)": ["torch 2.11", "torch 2.13"],
        "MODEL.PARAMS.width": ["–", "[1, {a: b}]"],
        "TRAIN.SEED": ["0", "7"],
    }


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("a: [", "expected the node content"),
        ("3", "no mapping"),
        ("a: " + "[" * 60_000, "recursion"),
        (BOMB, "more than 10,000 values"),
        ("a: &a {b: *a}", "recursi"),
        ("#" * 70_000, "longer than"),
        ("a: \x01", "special characters"),
    ],
)
def test_a_configuration_that_is_none_is_refused(
    runs: list[RunFiles], config: str, wanted: str
) -> None:
    with pytest.raises(InputError, match=rf"bad: its config.yaml cannot be read \(.*{wanted}"):
        options_of(dataclasses.replace(runs[0], config=config))


def test_options_are_texts_and_build_nothing(runs: list[RunFiles]) -> None:
    config = "A: !!python/object/apply:os.system [exit]\nB: {C: 1e-3, D: {}, E: []}\n"
    found = options_of(dataclasses.replace(runs[0], config=config))
    assert found == {"A": "[exit]", "B.C": "1e-3", "B.E": "[]"}


def test_a_console_counts_the_options_of_one_model_alone(runs: list[RunFiles]) -> None:
    first = changed(runs[0], "A: 1\nB: 2\nTRAIN: {SEED: 0}\n")
    second = changed(runs[1], "A: 2\nC: 3\nD: 4\nTRAIN: {SEED: 0}\n")
    comparison = compare_runs([first, second], resamples=20)
    head = console_comparison(comparison).split("\n\n")[0].splitlines()
    assert [line.split() for line in head[3:-1]] == [["A", "1", "2"]]
    assert head[-1] == "and 3 options that not all of them have: see --out FILE"
    assert "| B | 2 | – |" in markdown_comparison(comparison)
    other = changed(runs[1], "B: 2\nA: 1\nC: 3\nTRAIN: {SEED: 0}\n")
    head = console_comparison(compare_runs([first, other], resamples=20)).splitlines()
    assert head[1] == "1 option that not all of them have: see --out FILE"


def test_seeds_are_a_mean_with_its_deviation(runs: list[RunFiles]) -> None:
    comparison = compare_runs(runs, resamples=50)
    scores = [run.summary["protocols"]["vr"]["R@1"] for run in runs[1:]]
    bad, good = comparison.results["vr"]["R@1"]
    assert bad is not None and good is not None
    assert good.score == pytest.approx(np.mean(scores))
    assert good.deviation == pytest.approx(np.std(scores, ddof=1)) and bad.deviation is None
    assert good.difference == pytest.approx(good.score - bad.score) and good.verdict == "better"
    cells = result_cells(good)
    assert cells[0] == (f"{good.score:.2f} ± {good.deviation:.2f}", "score")


def test_draws_of_several_seeds_are_means_of_drawn_seeds(runs: list[RunFiles]) -> None:
    truth = runs[0].truth
    counted = [each for run in runs[1:] if (each := count("vr", truth, run.predictions))]
    assert len(counted) == 3
    alone = [resampled(each, 60, resamples=40, seed=2)["R@1"] for each in counted]
    drawn = np.random.default_rng(2).integers(3, size=(3, 40))
    together = mean_resampled(counted, 60, resamples=40, seed=2)["R@1"]
    for b in range(40):
        assert together[b] == pytest.approx(np.mean([alone[s][b] for s in drawn[:, b]]))
    one = mean_resampled(counted[:1], 60, resamples=40, seed=2)["R@1"]
    assert np.array_equal(one, alone[0])
    wide, narrow = together.std(), np.mean(alone, axis=0).std()
    assert wide > narrow  # the seeds differ, and the interval holds that
    means = mean_scores(counted)
    assert means["R@1"][0] == pytest.approx(np.mean([each.scores()["R@1"] for each in counted]))


def test_verdicts_are_on_the_same_draws(runs: list[RunFiles]) -> None:
    truth, first, second = runs[0].truth, runs[0].predictions, runs[1].predictions
    rows = compare_predictions(truth, [[first], [second], [first]], protocols=["vr"], resamples=80)
    counted = [count("vr", truth, each) for each in (first, second)]
    assert counted[0] is not None and counted[1] is not None
    before, after = (resampled(each, 60, resamples=80)["R@1"] for each in counted if each)
    own, other, itself = rows["vr"]["R@1"]
    assert own is not None and other is not None and itself is not None
    assert "verdict" not in own and itself["verdict"] == "the same"
    assert other["interval"] == judge("R@1", before, after, old=0.0, new=1.0)["interval"]
    grounds = Predictions(spans=second.spans, scores=second.scores)
    rows = compare_predictions(truth, [[first], [second], [grounds]], resamples=20)
    assert rows["vr"]["R@1"][2] is None and rows["svmr"]["mIoU"][2] is not None
    assert "vr" not in compare_predictions(truth, [[grounds], [first]], resamples=20)


def test_nothing_below_its_floor_is_called_better(runs: list[RunFiles]) -> None:
    floors = json.loads(json.dumps(runs[1].summary["floors"]))
    score = runs[1].summary["protocols"]["vr"]["R@1"]
    floors["vr"]["chance"] |= {"R@1": score + 0.1, "MedR": 0.5}
    above = dataclasses.replace(runs[1], summary=runs[1].summary | {"floors": floors})
    result = compare_runs([runs[0], above], resamples=50).results["vr"]["R@1"][1]
    assert isinstance(result, Result)
    assert result.below and result.verdict == "higher, not above its floor"
    assert result_cells(result)[0] == (f"{score:.2f} *", "score below")
    rank = compare_runs([runs[0], above], resamples=50).results["vr"]["MedR"][1]
    assert rank is not None and rank.verdict == "lower, not below its floor"
    worse = compare_runs([above, runs[0]], resamples=50).results["vr"]["R@1"]
    assert worse[0] is not None and worse[0].below
    assert worse[1] is not None and worse[1].verdict == "worse"


def test_a_floor_that_is_as_good_is_not_beaten() -> None:
    assert below_floor("mIoU", 30.0, 30.0) and not below_floor("mIoU", 30.0, 29.9)
    assert below_floor("MedR", 30.0, 30.0) and not below_floor("MedR", 29.0, 30.0)
    assert not below_floor("mIoU", 3.0, None)
    rows = {"a": {"MedR": 3.0, "R@1": 5.0}, "b": {"MedR": 2.0, "R@1": None}}
    assert best_floor({"floors": {"vr": rows}}, "vr", "MedR") == (2.0, "b")
    assert best_floor({"floors": {"vr": rows}}, "vr", "R@1") == (5.0, "a")
    assert best_floor({}, "vr", "R@1") == (None, "")


def test_any_number_of_runs_are_compared(runs: list[RunFiles]) -> None:
    many = [
        changed(dataclasses.replace(runs[1], name=f"run {i}"), f"A: {i}\nTRAIN: {{SEED: 0}}\n")
        for i in range(6)
    ]
    comparison = compare_runs(many, resamples=20)
    assert len(comparison.columns) == 6 and comparison.changes == {"A": list("012345")}
    text = comparison_report(comparison, count=2)
    assert "Of 6 columns the first 4 are drawn." in text and "run 5" in text
    assert "rect.run4" not in text and 'class="run4' not in text
    assert len(compare_runs(runs[1:], resamples=20).columns) == 1  # seeds alone: their mean


def test_runs_over_other_queries_are_refused(runs: list[RunFiles]) -> None:
    truth = dataclasses.replace(runs[1].truth, moments=runs[1].truth.moments + 0.01)
    other = dataclasses.replace(runs[1], truth=truth)
    with pytest.raises(InputError, match="not scored against the same moments"):
        compare_runs([runs[0], other])
    with pytest.raises(InputError, match="1 run, expected two or more"):
        compare_runs(runs[:1])


def test_the_command_prints_and_writes_all_three(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / "x.md", tmp_path / "x.html"]
    flags = [word for out in outs for word in ("--out", str(out))]
    names = ["bad", "good-0", "good-1", "good-10"]
    compare.main([*(str(folder / name) for name in names), *flags, "--resamples", "50"])
    said = capsys.readouterr().out
    head, *blocks = said.split("\n\n")
    lines = [line.split() for line in head.splitlines()]
    assert lines[0] == ["What", "was", "changed"] and ["MODEL.PARAMS.skill", "0.1", "0.9"] in lines
    assert ["TRAIN.SEED", "0", "0,", "1,", "10"] in lines
    assert [block.split(" (")[0] for block in blocks[:5]] == [
        "Right video first",
        "Right video among the first 10",
        "Best moment right",
        "Mean overlap",
        "Video and moment together",
    ]
    assert max(map(len, said.splitlines()[:-2])) <= 80
    assert said.endswith(f"{outs[0]}\n{outs[1]}\n")
    assert len(re.findall(r"^good \(3 seeds\)  +[\d.]+ ± [\d.]+ ", said, re.MULTILINE)) == 5
    markdown = outs[0].read_text()
    for wanted in ("## What was changed", "| MODEL.PARAMS.skill | 0.1 | 0.9 |", " ± ", "better"):
        assert wanted in markdown
    assert re.search(r"^\| R@1,IoU=0.7, good \(3 seeds\) \| ", markdown, re.MULTILINE)
    assert "good (3 seeds)" in outs[1].read_text()


def test_a_kind_of_file_that_is_not_written_is_refused(folder: Path, tmp_path: Path) -> None:
    runs = [str(folder / "bad"), str(folder / "good-0")]
    with pytest.raises(InputError, match="x.pdf: is neither a page nor tables"):
        compare.main([*runs, "--out", str(tmp_path / "x.pdf")])
    with pytest.raises(InputError, match="a run is named twice"):
        compare.main([runs[0], runs[0]])


def test_texts_of_a_run_are_no_markup_and_no_control_characters(runs: list[RunFiles]) -> None:
    name = "a|b\x1b[31m*c*\n<d>"
    other = dataclasses.replace(runs[1], name=name, config=f"X: {json.dumps(name)}\n")
    comparison = compare_runs([runs[0], other], resamples=20)
    text = markdown_comparison(comparison)
    assert "a\\|b" in text and "\\*c\\*" in text and "\\<d\\>" in text
    assert "\x1b" not in console_comparison(comparison)
