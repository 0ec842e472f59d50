"""Alignment and ordered decoding against slow obvious versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lib.base.moments import iou
from lib.losses.similarity import sentence_nce, within_paragraph_nce
from lib.models.layers.alignment import (
    ClipAlignment,
    against_siblings,
    among_siblings,
    position_prior,
    separation,
)
from lib.models.layers.position import ordered_scores
from lib.models.layers.proposal_map import ProposalGrid
from tests.properties import make_batch


def test_correlation_is_the_one_of_statistics() -> None:
    """With the span's indicator, for every span but the whole video, which has none."""
    torch.manual_seed(0)
    grid, evidence = ProposalGrid(7, "dense"), torch.randn(3, 7)
    found = separation(evidence, grid.spans)
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        indicator = np.zeros(7)
        indicator[i : j + 1] = 1
        for m in range(3):
            whole = j - i == 6
            expected = 0.0 if whole else np.corrcoef(evidence[m].numpy(), indicator)[0, 1]
            assert found[m, p].item() == pytest.approx(expected, abs=1e-5)


def test_evidence_counts_against_the_other_sentences_of_its_paragraph() -> None:
    batch = make_batch((2, 1, 3))
    evidence = torch.randn(6, 4)
    found = against_siblings(evidence, batch)
    assert torch.allclose(found[0], evidence[0] - evidence[1], atol=1e-6)
    assert torch.equal(found[2], evidence[2])  # no siblings
    assert torch.allclose(found[4], evidence[4] - (evidence[3] + evidence[5]) / 2, atol=1e-6)


def test_a_clip_is_shared_out_among_the_sentences_of_its_paragraph() -> None:
    batch = make_batch((2, 1, 3))
    evidence = torch.randn(6, 4)
    found = among_siblings(evidence, batch, scale=5.0)
    powers = (5 * evidence).exp()
    assert torch.allclose(found[0], powers[0] / (powers[0] + powers[1]), atol=1e-6)
    assert torch.equal(found[2], evidence[2])  # no siblings
    assert torch.allclose(found[3:].sum(dim=0), torch.ones(4), atol=1e-6)
    assert torch.allclose(found[5], powers[5] / powers[3:].sum(dim=0), atol=1e-6)


def test_the_prior_is_the_overlap_with_the_widened_equal_part() -> None:
    """Second of four sentences, 1.5 wide: [0.25, 0.5] becomes [0.1875, 0.5625]; the first is cut
    at the start of the video: [0, 0.3125]."""
    grid = ProposalGrid(16, "dense")
    found = position_prior(grid.spans, torch.tensor([1, 0]), torch.tensor([4, 4]), width=1.5)
    for row, expected in zip(found, ([0.1875, 0.5625], [0.0, 0.3125]), strict=True):
        assert torch.allclose(row, iou(torch.tensor(expected), grid.spans), atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 1.0, math.inf])
def test_ordered_scores_are_the_best_assignment_with_each_choice_made(strength: float) -> None:
    torch.manual_seed(0)
    grid = ProposalGrid(3, "dense")
    P, S = len(grid), 3
    centre = grid.spans.mean(dim=1)
    scores = torch.randn(2, S, P)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = ordered_scores(scores, mask, grid, strength=strength)
    for b, count in enumerate((3, 2)):
        best: dict[tuple[int, int], float] = {}
        for choice in itertools.product(range(P), repeat=count):
            value = sum(scores[b, s, p].item() for s, p in enumerate(choice))
            for before, after in itertools.pairwise(choice):
                back = max(0.0, (centre[before] - centre[after]).item())
                value -= strength * back if back > 1e-6 else 0.0
            for s, p in enumerate(choice):
                best[s, p] = max(best.get((s, p), -math.inf), value)
        for (s, p), value in best.items():
            assert found[b, s, p].item() == pytest.approx(value, abs=1e-4)


def test_ranking_by_ordered_scores_gives_the_best_joint_assignment() -> None:
    """Sentence 2 alone would go to the first clip; in order it follows sentence 1."""
    grid = ProposalGrid(2, "dense")  # spans: [0, .5], [0, 1], [.5, 1]
    scores = torch.tensor([[[0.0, 0.0, 3.0], [2.0, 0.0, 1.5]]])
    free = ordered_scores(scores, torch.ones(1, 2).bool(), grid, strength=0.0).argmax(dim=2)
    strict = ordered_scores(scores, torch.ones(1, 2).bool(), grid, strength=math.inf)
    assert free.tolist() == [[2, 0]] and strict.argmax(dim=2).tolist() == [[2, 2]]


def test_a_paragraph_s_similarity_is_the_same_in_training_and_in_retrieval() -> None:
    torch.manual_seed(0)
    batch = make_batch((2, 4, 1, 3))
    align = ClipAlignment(6, attention=5.0, in_order=2.0, initial_scale=10.0)
    sentences, clips = torch.randn(10, 6), torch.randn(4, 8, 6)
    trained = align(sentences, clips, batch).similarity
    scored = align.paragraph_similarity(
        batch.padded(sentences), batch.sentence_mask, align.clip(clips)
    )
    assert torch.allclose(trained, scored, atol=1e-6)


def test_attention_in_order_looks_where_the_sentence_stands() -> None:
    align = ClipAlignment(6, attention=5.0, in_order=4.0, initial_scale=10.0)
    expected = align.expectation(torch.tensor([0, 1]), torch.tensor([2, 2]), 4)
    assert expected[0].argmax() in (0, 1) and expected[1].argmax() in (2, 3)
    assert torch.allclose(expected[0], expected[1].flip(0))


def test_sentence_nce_equals_a_loop() -> None:
    """A sentence against videos, and a video against sentences of other videos; the siblings of a
    sentence are no negatives of it."""
    torch.manual_seed(0)
    owner = torch.tensor([0, 0, 1, 2])
    same = torch.eye(3, dtype=torch.bool)
    S = torch.randn(4, 3)
    expected = 0.0
    for m, b in enumerate(owner.tolist()):
        row = torch.logsumexp(S[m] * 3, dim=0) - S[m, b] * 3
        rivals = [k for k in range(4) if k == m or owner[k] != b]
        column = torch.logsumexp(S[rivals, b] * 3, dim=0) - S[m, b] * 3
        expected += (row + column).item() / 4
    assert sentence_nce(S, torch.tensor(3.0), owner, same).item() == pytest.approx(expected, 1e-5)


def test_within_paragraph_nce_equals_a_loop_and_ignores_padding() -> None:
    torch.manual_seed(0)
    S = torch.randn(2, 3, 3)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rows = []
    for b, count in enumerate((3, 2)):
        inner = S[b, :count, :count] * 2
        for matrix in (inner, inner.T):
            rows += (-matrix.log_softmax(dim=1).diagonal()).tolist()
    found = within_paragraph_nce(S, torch.tensor(2.0), mask)
    assert found.item() == pytest.approx(2 * sum(rows) / len(rows), rel=1e-5)


def test_one_sentence_has_nothing_to_tell_apart_within_its_paragraph() -> None:
    mask = torch.tensor([[True, False]])
    assert within_paragraph_nce(torch.randn(1, 2, 2), torch.tensor(2.0), mask).item() == 0
