"""The alignment of clips and sentences against slow obvious versions."""

from __future__ import annotations

import pytest
import torch

from lib.base.batch import Layout
from lib.losses.similarity import sentence_nce, within_paragraph_nce
from lib.models.layers.alignment import ClipAlignment, position_logits
from tests.properties import make_batch


def test_a_paragraph_s_similarity_is_the_same_in_training_and_in_retrieval() -> None:
    torch.manual_seed(0)
    batch = make_batch((2, 4, 1, 3))
    align = ClipAlignment(6, attention=5.0, position_bias=2.0, initial_scale=10.0)
    sentences, clips = torch.randn(10, 6), torch.randn(4, 8, 6)
    trained = align(sentences, clips, batch).similarity
    scored = align.paragraph_similarity(
        batch.padded(sentences), batch.sentence_mask, align.clip(clips)
    )
    assert torch.allclose(trained, scored, atol=1e-6)


def test_the_position_bias_looks_where_the_sentence_stands() -> None:
    expected = position_logits(Layout.of(torch.ones(1, 2).bool()), 4, 4.0)
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
