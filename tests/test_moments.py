"""Spans of time: by hand, and against brute force."""

from __future__ import annotations

import numpy as np
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


def rounded_suppression(spans, order, duration: float, max_iou: float) -> list[int]:
    """2D-TAN's: end points in seconds of 32 bits, their overlap in 64, kept where not above."""
    seconds = (spans * np.float32(duration)).astype(np.float64)
    kept: list[int] = []
    for i in order:
        for j in kept:
            low, high = np.maximum(seconds[i, 0], seconds[j, 0]), min(seconds[i, 1], seconds[j, 1])
            inside = max(0.0, high - low)
            lengths = (seconds[j, 1] - seconds[j, 0]) + (seconds[i, 1] - seconds[i, 0])
            if inside / (lengths - inside) > max_iou:
                break
        else:
            kept.append(int(i))
    return kept


def test_suppression_in_rounded_seconds_is_that_of_2d_tan() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = cell_spans(16, torch.ones(16, 16, dtype=torch.bool).triu())
    scores = torch.rand(50, len(grid), generator=generator)
    durations = 10 + 200 * torch.rand(50, generator=generator)
    rules = {"keep": 5, "max_iou": 0.5}
    found, exists = greedy_suppression(grid, scores, **rules, durations=durations)
    exact, _ = greedy_suppression(grid, scores, **rules)
    assert exists.all()
    for row, each, duration in zip(found, scores, durations, strict=True):
        order = (-each).argsort(stable=True).tolist()
        assert row.tolist() == rounded_suppression(grid.numpy(), order, float(duration), 0.5)[:5]
    assert (found[:, 0] == exact[:, 0]).all() and (found != exact).any()


def test_a_third_of_the_overlaps_that_are_the_threshold_are_rounded_above_it() -> None:
    grid = cell_spans(16, torch.ones(16, 16, dtype=torch.bool).triu())
    i, j = ((iou(grid[:, None], grid) - 0.5).abs() < 1e-6).nonzero().unbind(dim=1)
    pairs = torch.stack([grid[i], grid[j]], dim=1)  # (n, 2, 2), each pair a list of two spans
    scores = torch.tensor([[2.0, 1.0]]).expand(len(pairs), 2)
    gone = []
    for duration in 10 + 200 * np.random.default_rng(0).random(50):
        lengths = torch.full((len(pairs),), duration)
        _, exists = greedy_suppression(pairs, scores, keep=2, max_iou=0.5, durations=lengths)
        gone.append(float((~exists[:, 1]).float().mean()))
    assert 0.3 < np.mean(gone) < 0.45  # 37.6 % of them with other durations


def test_each_sentence_may_have_spans_of_its_own() -> None:
    spans = torch.tensor([[[0.0, 0.5], [0.0, 0.6]], [[0.0, 0.5], [0.5, 1.0]]])
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    _, exists = greedy_suppression(spans, scores, keep=2, max_iou=0.5)
    assert exists.tolist() == [[True, False], [True, True]]
