"""Other people's prediction files come out with the numbers of their own evaluations.

The files lie in ../shared; a test whose file is absent skips.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.evaluation import console_table, summarise
from lib.evaluation.files import read_any, read_truth, write_tvr
from tests.test_evaluation import world

SHARED = Path(__file__).resolve().parents[2] / "shared"
LAYOUTS = SHARED / "data" / "layouts"


def shared(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def scored(predictions: Path, truth: Path, **asked: Any) -> dict[str, Any]:
    used, found = read_any(shared(predictions), read_truth(shared(truth)))
    return summarise(used, found, resamples=0, **asked)


# --- TVR ------------------------------------------------------------------------------------------

TVR = LAYOUTS / "made_tvr_predictions"
TVR_TRUTH = LAYOUTS / "tvr" / "tvr_val_release.jsonl"


@pytest.mark.parametrize("order", ["rising", "falling", "tied"])
def test_a_submission_to_tvr_scores_as_its_evaluation_says(order: str) -> None:
    official = json.loads(shared(TVR / f"{order}.official.json").read_text())
    asked = {"iou": (0.5, 0.7), "grounding_n": (1, 5, 10, 100), "retrieval_k": (1, 5, 10, 100)}
    names = {"VCMR": "vcmr_tvr", "SVMR": "svmr", "VR": "vr"}
    summary = scored(TVR / f"{order}.json", TVR_TRUTH, protocols=list(names.values()), **asked)
    for task, name in names.items():
        for key, value in official[task].items():
            iou, _, rank = key.rpartition("-")
            metric = f"R@{rank[1:]}" + (f",IoU={iou}" if iou else "")
            assert round(summary["protocols"][name][metric], 2) == value, (task, key)


def changed_submission(folder: Path, change: Any) -> Path:
    data = json.loads(shared(TVR / "falling.json").read_text())
    change(data)
    path = folder / "submission.json"
    path.write_text(json.dumps(data))
    return path


def test_a_submission_without_one_query_or_with_a_foreign_one_is_refused(tmp_path: Path) -> None:
    path = changed_submission(tmp_path, lambda data: data["VR"].pop())
    with pytest.raises(InputError, match="VR: lacks 1 of the 60 desc_ids of the truth"):
        scored(path, TVR_TRUTH)
    path = changed_submission(tmp_path, lambda data: data["VCMR"][0].update(desc_id=7))
    with pytest.raises(InputError, match="has a line for 1 of the 60 .*first is '7'"):
        scored(path, TVR_TRUTH)


def test_a_video_listed_again_and_a_moment_that_is_none_take_up_a_rank(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for entry in data["VR"]:
            entry["predictions"] = [entry["predictions"][0]] * 100 + entry["predictions"]
        for entry in data["SVMR"]:
            own = [row for row in entry["predictions"] if row[0] == entry["predictions"][0][0]]
            entry["predictions"] = [[row[0], 9.0, 9.0, 1.0] for row in own] + entry["predictions"]

    summary = scored(changed_submission(tmp_path, change), TVR_TRUTH, protocols=["vr", "svmr"])
    vr, svmr = (summary["protocols"][name] for name in ("vr", "svmr"))
    assert vr["R@1"] == vr["R@100"] == pytest.approx(43.33, abs=0.01)  # the first, or none
    assert svmr["R@1,IoU=0.3"] == 0.0


def test_a_submission_is_written_best_first(tmp_path: Path) -> None:
    truth, predictions = world(paragraphs=12, videos=9, candidates=5)
    write_tvr(tmp_path / "s.json", truth, predictions)
    data = json.loads((tmp_path / "s.json").read_text())
    for task in ("VR", "VCMR", "SVMR"):
        for entry in data[task]:
            found = [row[3] for row in entry["predictions"]]
            assert found == sorted(found, reverse=True)


# --- QVHighlights ---------------------------------------------------------------------------------

DETR = LAYOUTS / "moment_detr_predictions"
DETR_TRUTH = DETR / "truth_of_these_lines.jsonl"


@pytest.mark.parametrize(
    ("name", "at_half", "at_seven", "precision"),
    [
        ("sample_val_preds.jsonl", 50.0, 33.33, 31.49),
        ("inference_hl_val_test_code_preds.jsonl", 53.33, 30.0, 31.67),
    ],
)
def test_a_submission_to_qvhighlights_scores_as_moment_detr_says(
    name: str, at_half: float, at_seven: float, precision: float
) -> None:
    found = scored(DETR / name, DETR_TRUTH)["protocols"]
    assert round(found["svmr_any"]["R@1,IoU=0.5"], 2) == at_half
    assert round(found["svmr_any"]["R@1,IoU=0.7"], 2) == at_seven
    assert round(found["svmr_map"]["mAP"], 2) == precision


def test_the_first_window_is_the_answer_whatever_its_score(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in shared(DETR / "sample_val_preds.jsonl").open()]
    for record in lines:
        for place, window in enumerate(record["pred_relevant_windows"]):
            window[2] = 0.1 * place
    path = tmp_path / "rising.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    found = scored(path, DETR_TRUTH)["protocols"]
    assert round(found["svmr_any"]["R@1,IoU=0.5"], 2) == 50.0
    assert round(found["svmr_map"]["mAP"], 2) != 31.49  # which ranks the ten by score


def test_qids_must_be_those_of_the_truth(tmp_path: Path) -> None:
    truth = LAYOUTS / "qvhighlights" / "highlight_val_release.jsonl"  # ten lines more
    with pytest.raises(InputError, match="lacks 10 of the 40 qids of the truth"):
        scored(DETR / "sample_val_preds.jsonl", truth)
    lines = shared(DETR / "sample_val_preds.jsonl").read_text().splitlines()
    (tmp_path / "twice.jsonl").write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(InputError, match="qid '2579': occurs twice"):
        scored(tmp_path / "twice.jsonl", DETR_TRUTH)


# --- several windows, in this project's own format ------------------------------------------------

WINDOWS = SHARED / "cases" / "several_windows_per_query"


def test_a_hit_with_any_window_is_a_protocol_of_its_own() -> None:
    summary = scored(WINDOWS / "predictions.jsonl", WINDOWS / "truth.jsonl", grounding_n=(1,))
    found = summary["protocols"]["svmr_any"]
    assert (found["R@1,IoU=0.5"], found["R@1,IoU=0.7"]) == (48.5, 37.5)
    first = summary["protocols"]["svmr"]
    assert (first["R@1,IoU=0.5"], first["R@1,IoU=0.7"]) == (44.5, 34.0)
    table = console_table(summary)
    assert "IoU >= m, first of several true moments (67 sentences)" in table
    assert "IoU >= m, any of several true moments (67 sentences)" in table
    assert not any("several" in text for text in summary["warnings"])


def test_where_only_the_first_window_is_counted_a_line_says_so() -> None:
    files = WINDOWS / "predictions.jsonl", WINDOWS / "truth.jsonl"
    summary = scored(*files, protocols=["svmr"])
    assert any(
        "67 of 200 sentences have several true moments, of which the first is counted" in text
        for text in summary["warnings"]
    )


def test_the_ceiling_and_chance_of_any_window_are_those_of_the_nearest() -> None:
    truth, predictions = world(paragraphs=30, videos=30, candidates=3)
    other = truth.moments.mean(axis=1, keepdims=True) * [0.1, 0.4]
    several = np.stack([truth.moments, other], axis=1)
    truth = replace(truth, annotations=several)
    quarters = np.array([[start, start + 1] for start in range(4)]) / 4
    predictions = replace(predictions, proposal_spans=quarters)
    summary = summarise(truth, predictions, protocols=["svmr", "svmr_any"], resamples=0)
    for row in ("ceilings", "protocols"):
        one, any_of = summary[row]["svmr"], summary[row]["svmr_any"]
        assert all(any_of[metric] >= one[metric] for metric in one) and any_of != one
    chance = {name: summary["floors"][name]["chance"]["mIoU"] for name in ("svmr", "svmr_any")}
    assert chance["svmr_any"] > chance["svmr"]


# --- real predictions on Charades-STA -------------------------------------------------------------

FOREIGN = SHARED / "data" / "foreign_predictions"


@pytest.mark.parametrize(
    ("name", "recalls", "exact", "mean"),
    [
        ("moment_detr_qvhighlights.jsonl", (41.45, 25.70, 9.95), (41.45, 25.70, 9.95), 26.62),
        # Of 3,720 overlaps, one is 0.3 and four are 0.5 but for a rounding error.
        ("clip_zero_shot.jsonl", (59.44, 23.68, 8.23), (59.46, 23.79, 8.23), None),
    ],
)
def test_predictions_from_elsewhere_score_to_their_author_s_digits(
    name: str, recalls: tuple[float, ...], exact: tuple[float, ...], mean: float | None
) -> None:
    files = FOREIGN / name, FOREIGN / "truth.jsonl"
    for overlaps, expected in (("float64", recalls), ("exact", exact)):
        summary = scored(*files, protocols=["svmr"], overlaps=overlaps)
        found = summary["protocols"]["svmr"]
        assert tuple(round(found[f"R@1,IoU={m}"], 2) for m in (0.3, 0.5, 0.7)) == expected
        assert mean is None or round(found["mIoU"], 2) == mean
        assert ("overlaps in float64" in console_table(summary)) == (overlaps == "float64")
