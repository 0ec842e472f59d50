"""What is drawn belongs to a paragraph: the same in any batch, and as random as it should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lib.base import draws
from lib.base.batch import collate
from tests.properties import make_sample

SIZES = (2, 4, 1, 3)


def drawn(order: tuple[int, ...], width: int, times: int) -> dict[int, Tensor]:
    """Numbers of each paragraph's sentences, ``times`` rows each, in a batch of that order."""
    batch = collate([make_sample(index, SIZES[index]) for index in order])
    torch.manual_seed(3)
    with draws.drawn_for(batch):
        numbers = draws.uniform(torch.zeros(len(batch.flat_index) * times, 6, width))
    pieces = numbers.split([SIZES[index] * times for index in order])
    return dict(zip(order, pieces, strict=True))


@pytest.mark.parametrize("times", [1, 3])
def test_a_paragraph_draws_the_same_in_any_batch(times):
    whole = drawn((0, 1, 2, 3), 9, times)
    for order in ((3, 0), (2, 1), (1,), (2,)):
        for index, numbers in drawn(order, 5, times).items():
            assert torch.equal(numbers, whole[index][..., :5])


def test_a_paragraph_and_its_first_sentence_draw_the_same():
    """So that a batch whose paragraphs have one sentence each is no matter of interpretation."""
    batch = collate([make_sample(index, size) for index, size in enumerate(SIZES)])
    with draws.drawn_for(batch):
        torch.manual_seed(3)
        paragraphs = draws.uniform(torch.zeros(4, 5))
        torch.manual_seed(3)
        sentences = draws.uniform(torch.zeros(10, 5))
    assert torch.equal(paragraphs, sentences[batch.sentence_position == 0])


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_dropout_is_as_random_as_it_should_be(chance):
    batch = collate([make_sample(index, size) for index, size in enumerate(SIZES)])
    with draws.drawn_for(batch):
        torch.manual_seed(0)
        first, second = (draws.dropout(torch.ones(40, 300, 64), chance) for _ in range(2))
    dropped = torch.stack([first == 0, second == 0]).float()
    assert first.mean().item() == pytest.approx(1, abs=0.005)
    assert dropped.mean().item() == pytest.approx(chance, abs=0.002)
    # No two rows, columns, places or calls go together: 0 but for chance, in deviations of 1.
    for axis in range(4):
        flat = dropped.movedim(axis, 0).flatten(1)
        between = torch.corrcoef(flat).fill_diagonal_(0) * flat.shape[1] ** 0.5
        assert between.abs().max() < 5.5, axis


def test_what_is_dropped_behind_a_relu_is_what_dropout_drops():
    """And so is the gradient, though it reads nothing but the result."""
    batch = collate([make_sample(index, size) for index, size in enumerate(SIZES)])
    found = []
    for function in (draws.dropout_of_relu, lambda x, p: draws.dropout(x.relu(), p)):
        torch.manual_seed(0)
        weight = torch.randn(4, 9, 33, requires_grad=True)
        with draws.drawn_for(batch):
            dropped = function(weight * 2, 0.3)
        (dropped * torch.randn(4, 9, 33)).sum().backward()
        found.append((dropped.detach(), weight.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs) and (ours == 0).float().mean() > 0.5


def test_an_item_draws_the_same_wherever_it_stands():
    """Of sentences without their padding, and however many of them are read."""
    batch = collate([make_sample(index, size) for index, size in enumerate(SIZES)])
    row, place = batch.word_counts.nonzero()[:, 0].repeat_interleave(3), torch.arange(3).repeat(10)
    found = []
    for kept in (torch.arange(30), torch.arange(0, 30, 2)):
        torch.manual_seed(0)
        with draws.drawn_for(batch), draws.rows_of(row[kept], place[kept], 10):
            found.append(draws.dropout(torch.ones(len(kept), 65), 0.5))
    assert torch.equal(found[0][::2], found[1])
    assert len(found[0].unique(dim=0)) == 30


def test_attention_that_drops_nothing_is_torchs():
    """Its equations, with each kind of mask."""
    batch = collate([make_sample(index, size) for index, size in enumerate(SIZES)])
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, dropout=1e-9, batch_first=True)
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    plain.load_state_dict(attention.state_dict())
    draws.drop_by_paragraph(attention)
    x, y = torch.randn(4, 5, 8), torch.randn(4, 7, 8)
    padding = torch.arange(7) >= torch.tensor([7, 3, 1, 5])[:, None]
    masks = ({}, {"key_padding_mask": padding}, {"attn_mask": torch.randn(8, 5, 7)})
    masks += ({"attn_mask": torch.ones(5, 7, dtype=torch.bool).triu(1)},)
    for mask in masks:
        with draws.drawn_for(batch):
            ours, weights = attention(x, y, y, **mask)
        theirs, wanted = plain(x, y, y, **mask)
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert torch.allclose(weights, wanted, atol=1e-6)


def test_rows_of_nobody_known_are_drawn_by_torch():
    batch = collate([make_sample(index, size) for index, size in enumerate(SIZES)])
    for context in (
        draws.drawn_for(batch),
        draws.rows_of(*torch.zeros(2, 1, dtype=torch.int64), 10),
    ):
        torch.manual_seed(0)
        with context:
            found = draws.dropout(torch.ones(7, 50), 0.5)
        torch.manual_seed(0)
        assert torch.equal(found, nn.functional.dropout(torch.ones(7, 50), 0.5))
