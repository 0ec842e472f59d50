"""Which epoch is the best where several have the same score."""

from __future__ import annotations

from typing import Any

import pytest

from lib.training.selection import better, finer_metric, ties


@pytest.mark.parametrize(
    ("select_by", "finer"),
    [
        ("vr/R@10", "vr/MRR"),
        ("vr_sentences/MedR", "vr_sentences/MRR"),
        ("vr/MRR", None),
        ("svmr_2dtan/R@1,IoU=0.5", "svmr_2dtan/mIoU"),
        ("svmr_discounted/dR@1,IoU=0.5", "svmr_2dtan/mIoU"),
        ("svmr_map/mAP", "svmr_any/mIoU"),
        ("svmr/mIoU", None),
        ("jrg_video_topk/R@1,IoU=0.5", None),
    ],
)
def test_the_finer_number_is_of_the_same_task(select_by: str, finer: str | None) -> None:
    assert finer_metric(select_by) == finer


@pytest.mark.parametrize(
    ("select_by", "score", "best", "expected"),
    [
        ("vr/R@10", (3.0, 0.0), (2.0, 9.0), True),
        ("vr/R@10", (2.0, 5.0), (2.0, 4.0), True),
        ("vr/R@10", (2.0, 4.0), (2.0, 4.0), False),
        ("vr/R@10", (2.0, 5.0), (2.0, None), False),  # of a run that did not keep it
        ("vr/MedR", (1.0, 0.0), (2.0, 9.0), True),
        ("vr/MedR", (1.0, 5.0), (1.0, 4.0), True),
    ],
)
def test_the_finer_number_decides_only_between_equals(
    select_by: str, score: Any, best: Any, expected: bool
) -> None:
    assert better(select_by, score, best) is expected


def record(epoch: int, recall: float, mean: float) -> dict[str, Any]:
    return {"epoch": epoch, "protocols": {"vr": {"R@10": recall, "MRR": mean}}}


def test_ties_of_the_best_epoch_are_said() -> None:
    log = [record(0, 100.0, 34.4), {"epoch": 1}, record(2, 90.0, 99.0), record(3, 100.0, 49.8)]
    assert ties(log, "vr/R@10", 3) == (
        "epochs 1, 4 tie by vr/R@10 at 100.00: epoch 4 is the best of them by vr/MRR (49.80)"
    )
    assert ties(log, "vr/R@10", 2) == ties(log, "vr/R@10", 1) == ties([], "vr/R@10", 0) == ""
    even = [record(epoch, 100.0, 50.0) for epoch in range(12)]
    assert ties(even, "vr/MRR", 0) == (
        "epochs 1, 2, 3, 4, 5, 6, 7, 8 and 4 more tie by vr/MRR at 50.00: the earliest is taken"
    )


@pytest.mark.parametrize(
    "record",
    [{"protocols": {}}, {"epoch": [1], "protocols": {}}, {"epoch": 2, "protocols": [1]}]
    + [{"epoch": 2, "protocols": {"vr": value}} for value in (3, {"R@10": "50"}, {"R@10": {}})],
)
def test_records_that_somebody_changed_do_not_count(record: dict[str, Any]) -> None:
    records = [{"epoch": 0, "protocols": {"vr": {"R@10": 50.0, "MRR": 3.0}}}, record]
    assert ties(records, "vr/R@10", 0) == ""
