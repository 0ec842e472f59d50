"""Truth and predictions on disk: round trips, other people's files, messages with line numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from lib.base.errors import InputError
from lib.evaluation import CandidateMoments, Predictions, Truth, per_sentence, summarise
from lib.evaluation.files import (
    load_arrays,
    read_any,
    read_predictions,
    read_truth,
    read_tvr,
    save_arrays,
    write_predictions,
    write_truth,
    write_tvr,
)
from tests import brute_force
from tests.cases import as_arrays, cases
from tests.test_evaluation import world

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = Path(__file__).parent / "data" / "predictions"
SCORE = ROOT / "moment_localization" / "score.py"


def test_the_example_has_its_expected_scores() -> None:
    truth = read_truth(EXAMPLE / "truth.jsonl")
    expected = json.loads((EXAMPLE / "expected.json").read_text())
    for name, wanted in expected.items():
        own_truth, predictions = read_any(EXAMPLE / name, truth)
        found = summarise(own_truth, predictions, retrieval_k=(1, 10), resamples=0)
        assert set(found["protocols"]) == set(wanted)
        for protocol, row in wanted.items():
            assert found["protocols"][protocol] == pytest.approx(row)


@settings(max_examples=25, deadline=None)
@given(cases(annotators=2))
def test_what_is_written_scores_as_before(
    tmp_path_factory: pytest.TempPathFactory, case: brute_force.Case
) -> None:
    folder = tmp_path_factory.mktemp("round")
    truth, predictions = as_arrays(case)
    write_truth(folder / "truth.jsonl", truth)
    again = read_truth(folder / "truth.jsonl")
    _assert_same_truth(again, truth)
    wanted = summarise(truth, predictions, retrieval_k=(1, 2, 10), resamples=0)
    write_predictions(folder / "predictions.jsonl", truth, predictions)
    save_arrays(folder / "predictions.npz", truth, predictions)
    for name in ("predictions.jsonl", "predictions.npz"):
        own_truth, found = read_any(folder / name, again)
        summary = summarise(own_truth, found, retrieval_k=(1, 2, 10), resamples=0)
        for protocol, row in summary["protocols"].items():
            assert row == pytest.approx(wanted["protocols"][protocol], abs=1e-9)


def _assert_same_truth(a: Truth, b: Truth) -> None:
    assert (a.video_ids, a.paragraph_ids, a.sentences) == (
        b.video_ids,
        b.paragraph_ids,
        b.sentences,
    )
    assert a.names == b.names
    for name in ("durations", "paragraph_video", "sentence_paragraph", "moments"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_candidates_survive_as_arrays_and_as_a_finished_list(tmp_path: Path) -> None:
    truth, predictions = world(paragraphs=20, videos=15, candidates=6)
    save_arrays(tmp_path / "p.npz", truth, predictions)
    again = load_arrays(tmp_path / "p.npz", truth)
    assert isinstance(again.candidates, CandidateMoments)
    assert summarise(truth, again) == summarise(truth, predictions)
    write_predictions(tmp_path / "p.jsonl", truth, predictions, alpha=3.0)
    listed = summarise(truth, read_predictions(tmp_path / "p.jsonl", truth), resamples=0)
    whole = summarise(truth, predictions, alpha=3.0, resamples=0)
    assert "vcmr_jsg" in whole["protocols"] and "vcmr_jsg" not in listed["protocols"]
    for name, row in listed["protocols"].items():
        assert row == pytest.approx(whole["protocols"][name], abs=1e-9)
    assert listed["ceilings"]["svmr"] == whole["ceilings"]["svmr"]


def test_arrays_of_another_corpus_are_refused(tmp_path: Path) -> None:
    truth, predictions = world(paragraphs=6, videos=5, candidates=3)
    save_arrays(tmp_path / "p.npz", truth, predictions)
    with pytest.raises(InputError, match="paragraph_ids are not those of the truth"):
        load_arrays(tmp_path / "p.npz", per_sentence(truth))


def test_a_shortened_ranking_keeps_the_recalls_it_covers(tmp_path: Path) -> None:
    truth, predictions = world(paragraphs=20, videos=15, candidates=6)
    write_predictions(tmp_path / "p.jsonl", truth, predictions, videos=5)
    short = summarise(truth, read_predictions(tmp_path / "p.jsonl", truth), resamples=0)
    whole = summarise(truth, predictions, resamples=0)
    for metric in ("R@1", "R@5"):
        assert short["protocols"]["vr"][metric] == pytest.approx(whole["protocols"]["vr"][metric])


def test_tvr_submissions_are_read_and_written(tmp_path: Path) -> None:
    truth, predictions = world(paragraphs=12, videos=9, candidates=5)
    sentences = per_sentence(truth)
    write_tvr(tmp_path / "s.json", truth, predictions, alpha=3.0)
    data = json.loads((tmp_path / "s.json").read_text())
    assert set(data) == {"video2idx", "VR", "SVMR", "VCMR"}
    assert len(data["VCMR"]) == len(truth.sentences)
    queries, again = read_tvr(tmp_path / "s.json", truth)
    _assert_same_truth(queries, sentences)
    assert isinstance(predictions.similarity, np.ndarray)
    owner = truth.sentence_paragraph
    wanted = Predictions(
        similarity=predictions.similarity[owner],
        spans=predictions.spans,
        scores=predictions.scores,
        candidates=predictions.candidates,
    )
    for name in ("vr", "svmr_2dtan", "vcmr_tvr"):
        one = summarise(sentences, again, protocols=[name], resamples=0, retrieval_k=(1, 5))
        two = summarise(
            sentences, wanted, protocols=[name], resamples=0, retrieval_k=(1, 5), alpha=3.0
        )
        assert one["protocols"][name] == pytest.approx(two["protocols"][name], abs=1e-9)


def test_svmr_rows_shifted_into_another_video_are_left_out_and_said(tmp_path: Path) -> None:
    data = json.loads((EXAMPLE / "tvr_submission.json").read_text())
    data["SVMR"][0]["predictions"].insert(0, [12, 12, 22, 5.0])
    (tmp_path / "s.json").write_text(json.dumps(data))
    truth = read_truth(EXAMPLE / "truth.jsonl")
    rows = [
        summarise(*read_any(path, truth), resamples=0)
        for path in (EXAMPLE / "tvr_submission.json", tmp_path / "s.json")
    ]
    assert rows[0]["protocols"] == rows[1]["protocols"]
    assert any("SVMR: 1 entries lie in other videos" in text for text in rows[1]["warnings"])


def test_tvr_annotation_lines_are_a_truth(tmp_path: Path) -> None:
    line = {"vid_name": "v", "duration": 9.5, "ts": [1, 2], "desc": "x", "desc_id": 7, "type": "t"}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    truth = read_truth(tmp_path / "t.jsonl")
    assert truth.paragraph_ids == truth.names == ("7",)


GOOD = '{"desc_id": "q1", "moments": [[0, 0.5, 1]]}'
BAD_LINES: list[tuple[str, str]] = [
    ("{", r":2: not valid JSON"),
    ("[]", r":2: expected a JSON object, found \[\]"),
    ('{"moments": []}', r":2: has no paragraph_id and no desc_id"),
    ('{"desc_id": "q9", "moments": []}', r":2: desc_id 'q9' is not in the truth"),
    (GOOD + "\n" + GOOD, r":3: desc_id 'q1' was in .*:2 already"),
    ('{"desc_id": "q1", "moment": []}', r":2: unknown key 'moment'"),
    ('{"desc_id": "q1", "moments": 5}', r":2: desc_id 'q1': moments is 5, expected a list"),
    ('{"desc_id": "q1", "moments": [[0, 1]]}', r"moments holds \[0, 1\], expected \[start, end"),
    ('{"desc_id": "q1", "moments": [[0.5, 0.5, 1]]}', r":2: desc_id 'q1': the moment \[0.5, 0.5\]"),
    ('{"desc_id": "q1", "moments": [[0, 1, NaN]]}', r":2: desc_id 'q1': a moment's score is nan"),
    ('{"desc_id": "q1", "moments": [[0, "1", 1]]}', r":2: desc_id 'q1': an end is '1'"),
    ('{"paragraph_id": "A", "videos": [["Z", 1]]}', r":2: .* the video 'Z' is not in the corpus"),
    ('{"paragraph_id": "A", "videos": [["A", 1], ["A", 2]]}', r":2: .*ranks the video 'A' twice"),
    ('{"paragraph_id": "A", "videos": [["A", Infinity]]}', r"video 'A' is inf, expected a finite"),
    ('{"desc_id": "q1", "pairs": [[["A"], 0, 1, 1]]}', r":2: .* the video \['A'\] is not in"),
    ('{"predictions": 1}', r":2: a header, expected only in the first line"),
]


@pytest.mark.parametrize(("lines", "message"), BAD_LINES)
def test_a_malformed_file_is_reported_by_line(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"predictions": 1}\n' + lines + "\n")
    with pytest.raises(InputError, match=message):
        read_predictions(path, read_truth(EXAMPLE / "truth.jsonl"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"vid_name": "v"}, ":1: lacks duration"),
        ({"vid_name": "v", "duration": 0}, ":1: duration is 0, expected more than 0"),
        ({"vid_name": "v", "duration": 5, "desc": "x"}, ":1: lacks desc_id"),
        ({"vid_name": "v", "duration": 5, "desc": "x", "desc_id": 1, "ts": [3, 1]}, "is none"),
        ({"vid_name": "v", "duration": 5, "desc": "x", "desc_id": 1, "ts": 3}, ":1: ts is 3"),
    ],
)
def test_a_malformed_truth_is_reported_by_line(
    tmp_path: Path, line: dict[str, Any], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=message):
        read_truth(path)


def test_ten_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"desc_id": "?", "moments": []}\n' * 30)
    with pytest.raises(InputError) as caught:
        read_predictions(path, read_truth(EXAMPLE / "truth.jsonl"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 10 and lines[9].startswith(f"{path}:10:")


def run_score(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process that cannot import torch."""
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(SCORE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_scorer_runs_without_torch(tmp_path: Path) -> None:
    truth, predictions = str(EXAMPLE / "truth.jsonl"), str(EXAMPLE / "predictions.jsonl")
    out = tmp_path / "out.json"
    done = run_score(predictions, "--truth", truth, "--json", str(out), "--k", "1", "10")
    assert done.returncode == 0, done.stderr
    assert "vcmr_jsg: 3 videos, 2 sentences" in done.stdout
    found = json.loads(out.read_text())["protocols"]["vcmr_jsg"]
    assert found["R@10,IoU=0.7"] == 0 and found["R@10,IoU=0.5"] == 100


def test_the_scorer_reports_bad_input_in_lines_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"desc_id": "?"}\nno\n')
    done = run_score(str(tmp_path / "p.jsonl"), "--truth", str(EXAMPLE / "truth.jsonl"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "p.jsonl:1" in done.stderr + done.stdout
    assert run_score("--define", "recall").returncode == 2
    assert run_score().returncode == 2


def test_the_scorer_defines_its_protocols() -> None:
    assert "IoU > m" in run_score("--define", "jrg_video_topk").stdout
    listed = run_score("--protocols").stdout
    assert "vcmr_didemo" in listed and "svmr_discounted" in listed
