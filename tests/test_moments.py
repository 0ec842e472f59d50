"""Spans of time: by hand, and against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.base.moments import cell_spans, greedy_suppression, iou


def slow_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union > 0 else 0.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 10), (10, 20), 0.0),
        ((0, 10), (2, 4), 0.2),
        ((11, 21), (12, 22), 9 / 11),
        ((3, 3), (3, 3), 0.0),
    ],
)
def test_iou_by_hand(a: tuple, b: tuple, expected: float) -> None:
    found = iou(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert found.item() == pytest.approx(expected)


def test_the_overlap_of_a_map_equals_a_loop_over_its_cells() -> None:
    N, duration, truth = 8, 37.0, (5.0, 20.0)
    mask = torch.ones(N, N).triu().bool()
    found = iou(cell_spans(N, mask) * duration, torch.tensor(truth))
    cells = [(i, j) for i in range(N) for j in range(i, N)]
    for p, (i, j) in enumerate(cells):
        span = (i / N * duration, (j + 1) / N * duration)
        assert found[p].item() == pytest.approx(slow_iou(span, truth), abs=1e-6)


def slow_nms(spans: list, scores: list, keep: int, max_iou: float) -> list[int]:
    left, kept = sorted(range(len(spans)), key=lambda p: (-scores[p], p)), []
    while left and len(kept) < keep:
        best = left.pop(0)
        kept.append(best)
        left = [p for p in left if slow_iou(spans[best], spans[p]) <= max_iou + 1e-6]
    return kept


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    N=st.integers(2, 7),
    keep=st.integers(1, 6),
    max_iou=st.sampled_from([0.3, 0.5, 0.75]),
)
def test_suppression_equals_brute_force_with_ties(
    data: st.DataObject, N: int, keep: int, max_iou: float
) -> None:
    spans = cell_spans(N, torch.ones(N, N).triu().bool())
    P = len(spans)
    scores = data.draw(st.lists(st.integers(0, 5), min_size=P, max_size=P))
    table = torch.tensor([scores, scores[::-1]], dtype=torch.float32)
    chosen, exists = greedy_suppression(spans, table, keep=keep, max_iou=max_iou)
    for row, values in enumerate((scores, scores[::-1])):
        expected = slow_nms(spans.tolist(), values, keep, max_iou)
        assert chosen[row][exists[row]].tolist() == expected


def test_an_overlap_equal_to_the_threshold_survives() -> None:
    spans = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.75]])
    chosen, exists = greedy_suppression(spans, torch.tensor([[3.0, 2.0, 1.0]]), keep=3, max_iou=0.5)
    assert chosen[0][exists[0]].tolist() == [0, 1]


def test_exploring_draws_evenly_among_the_spans_left() -> None:
    """Three spans, of which the first two exclude each other: six choices of two, the pairs of the
    first two impossible, and after the third one either of them."""
    spans = torch.tensor([[0.0, 0.5], [0.0, 0.6], [0.6, 1.0]])
    scores = torch.tensor([[3.0, 2.0, 1.0]]).expand(6000, -1)
    torch.manual_seed(0)
    chosen, exists = greedy_suppression(
        spans, scores, keep=2, max_iou=0.5, explore=torch.tensor(1.0)
    )
    counts = torch.bincount(chosen[:, 0] * 3 + chosen[:, 1], minlength=9)
    assert exists.all() and counts[[0, 1, 3, 4, 8]].sum() == 0
    assert (counts[[2, 5]] / 6000 - 1 / 3).abs().max() < 0.03
    assert (counts[[6, 7]] / 6000 - 1 / 6).abs().max() < 0.03
    chosen, _ = greedy_suppression(spans, scores, keep=1, max_iou=0.5, explore=torch.tensor(0.3))
    assert ((chosen == 0).float().mean() - (0.7 + 0.3 / 3)).abs() < 0.03


def test_each_sentence_may_have_spans_of_its_own() -> None:
    spans = torch.tensor([[[0.0, 0.5], [0.0, 0.6]], [[0.0, 0.5], [0.5, 1.0]]])
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    _, exists = greedy_suppression(spans, scores, keep=2, max_iou=0.5)
    assert exists.tolist() == [[True, False], [True, True]]
