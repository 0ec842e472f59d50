"""PRVG: what its release prints, from weights under its own names; its batches; its draws."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.base.batch import Batch, Sample, collate
from lib.losses.regression import attention_inside, span_distance, span_overlap_loss
from lib.models.interface import ground
from lib.models.layers.transformer import interleaved_sinusoids
from lib.models.prvg import PRVG, draw_sentences
from lib.tools.checkpoint_import import LAYOUTS, convert
from tests import released
from tests.properties import DIMS, make_batch, make_sample

SMALL = {"hidden_size": 16, "heads": 2, "feedforward": 24, "lstm_layers": 2}


def built(**keywords: object) -> PRVG:
    torch.manual_seed(0)
    return PRVG(DIMS, **{**SMALL, **keywords}).eval()


@pytest.mark.parametrize(
    ("video_dim", "released_size", "ours"),
    [(500, 23_465_986, 22_410_242), (4096, 25_307_138, 24_251_394)],
)
def test_it_has_the_parameters_of_the_release_that_are_used(
    video_dim: int, released_size: int, ours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    shapes = released.prvg_shapes(video_dim)
    assert (released.size(shapes), len(shapes)) == (released_size, 69)
    unused = {n: s for n, s in shapes.items() if n.startswith(LAYOUTS["prvg"].left)}
    model = PRVG(dataclasses.replace(released.DIMS, video_dim=video_dim))
    assert sum(p.numel() for p in model.parameters()) == ours
    assert released_size - released.size(unused) == ours
    assert len(model.state_dict()) == 69 - len(unused)


def test_positions_have_the_released_values() -> None:
    table = interleaved_sinusoids(300, 512)
    assert table[0, :4].tolist() == [0, 1, 0, 1]
    assert table[1, [0, 1, 2, 3, 510, 511]].tolist() == pytest.approx(
        [0.841471, 0.540302, 0.82186, 0.56970, 1.0366e-4, 1.0], rel=1e-4
    )


# What the release prints.


def paragraph() -> Batch:
    counts = (7, 4, 2)
    t, c = torch.arange(64.0).double()[:, None], torch.arange(500.0).double()
    e = torch.arange(300.0).double()
    words = [
        (0.5 * (torch.arange(n)[:, None] + 1) + 0.013 * (e + 1) * (b + 2)).sin()
        for b, n in enumerate(counts)
    ]
    return collate(
        [
            Sample(
                video=(0.3 * (t + 1) + 0.017 * (c + 1)).cos().float(),
                words=torch.cat(words).float(),
                word_ids=torch.ones(13, dtype=torch.int64),
                word_weights=torch.ones(13),
                word_counts=torch.tensor(counts),
                moments=torch.tensor([[0.1, 0.3], [0.2, 0.5], [0.6, 1.0]]),
                duration=1.0,
                video_index=0,
                video_id="v",
                paragraph_id="p",
            )
        ]
    )


def test_spans_attention_and_losses_are_the_released_ones() -> None:
    dims = dataclasses.replace(released.DIMS, video_dim=500, num_frames=64)
    model, batch = PRVG(dims).eval(), paragraph()
    weights = released.weights_of(released.prvg_shapes(500))
    model.load_state_dict(convert(LAYOUTS["prvg"], weights, model))
    with torch.no_grad():
        out, found = model(batch), ground(model, batch)
    boxes = [[0.78951, 0.73655], [0.77108, 0.75089], [0.75839, 0.71415]]
    assert torch.allclose(out.spans, torch.tensor(boxes), atol=1e-5)
    first, middle = [0.014707, 0.015411, 0.014650], [0.014763, 0.013844, 0.013705]
    assert out.attention[:, 0].tolist() == pytest.approx(first, abs=1e-6)
    assert out.attention[:, 31].tolist() == pytest.approx(middle, abs=1e-6)
    assert out.attention.argmax(dim=1).tolist() == [46, 45, 45]
    values = {name: term(out, batch).item() for name, term in PRVG.losses().items()}
    assert values == pytest.approx(
        {"attention": 1.74374, "distance": 0.79742, "overlap": 1.0}, abs=1e-5
    )
    total = values["attention"] + 2 * values["distance"] + 2 * values["overlap"]
    assert total == pytest.approx(5.33859, abs=1e-5)
    ordered = torch.tensor(boxes).flip(1)[:, None]  # theirs end before they start
    assert torch.allclose(found.spans, ordered, atol=1e-5)


# Losses.


def test_losses_have_the_released_values() -> None:
    even, moment = torch.full((1, 8), 1 / 8), torch.tensor([[0.25, 0.5]])
    assert attention_inside(even, moment).item() == pytest.approx(1.415037, abs=1e-6)
    none = attention_inside(even, torch.tensor([[0.26, 0.3]]))
    assert none.item() == pytest.approx(-math.log2(1e-10))
    span = torch.tensor([[0.2, 0.6]])
    assert span_distance(span, moment).item() == pytest.approx(0.15)
    assert span_overlap_loss(span, moment).item() == pytest.approx(0.375)


@pytest.mark.parametrize("span", [(0.6, 0.9), (0.0, 0.1), (0.45, 0.3)])
def test_a_span_that_misses_has_no_gradient_of_its_overlap(span: tuple[float, float]) -> None:
    moment = torch.tensor([[0.25, 0.5]]) if span[0] != 0.45 else torch.tensor([[0.7, 0.9]])
    leaf = torch.tensor([span], requires_grad=True)
    value = span_overlap_loss(leaf, moment).sum()
    value.backward()
    assert value.item() == 1 and not leaf.grad.any()
    leaf.grad = None
    value = span_overlap_loss(leaf, moment, generalised=True).sum()
    value.backward()
    assert 1 < value.item() < 2 and leaf.grad.any()


def test_the_generalised_overlap_by_hand() -> None:
    """(.2, .6) and (.25, .5) overlap by .25 of .4; (.6, .9) is .1 away, in a hull of .65."""
    moment = torch.tensor([[0.25, 0.5], [0.25, 0.5]])
    found = span_overlap_loss(torch.tensor([[0.2, 0.6], [0.6, 0.9]]), moment, generalised=True)
    assert found.tolist() == pytest.approx([0.375, 1 + 0.1 / 0.65])


# Paragraphs.


def test_a_batch_is_its_paragraphs_one_by_one() -> None:
    model = built()
    samples = [make_sample(index, size) for index, size in enumerate((2, 5, 1, 3))]
    together = model(collate(samples))
    alone = [model(collate([sample])) for sample in samples]
    for name in ("spans", "attention"):
        parts = torch.cat([getattr(each, name) for each in alone])
        assert torch.allclose(getattr(together, name), parts, atol=1e-6)


def test_sentences_know_their_places_and_each_other() -> None:
    model, sample = built(), make_sample(0, 3)
    twice = dataclasses.replace(  # the same sentence three times over
        sample,
        word_counts=sample.word_counts[:1].repeat(3),
        **{
            name: torch.cat([getattr(sample, name)[: int(sample.word_counts[0])]] * 3)
            for name in ("words", "word_ids", "word_weights")
        },
        sentences=sample.sentences[:1] * 3,
    )
    spans = model(collate([twice])).spans
    assert (spans[0] - spans[1]).abs().max() > 1e-5
    first = model(collate([sample])).spans[0]
    assert (spans[0] - first).abs().max() > 1e-6


def test_drawn_sentences_are_those_of_a_paragraph_without_the_others() -> None:
    model, sample = built(), make_sample(0, 4)
    kept = torch.tensor([[True, False, True, True]])
    batch = collate([sample])
    found = model._sentences(batch, kept)[kept]
    first = torch.cat([torch.zeros(1, dtype=torch.int64), sample.word_counts.cumsum(0)])
    rows = torch.cat([torch.arange(first[i], first[i + 1]) for i in (0, 2, 3)])
    fewer = dataclasses.replace(
        sample,
        word_counts=sample.word_counts[[0, 2, 3]],
        moments=sample.moments[[0, 2, 3]],
        sentences=tuple(sample.sentences[i] for i in (0, 2, 3)),
        **{name: getattr(sample, name)[rows] for name in ("words", "word_ids", "word_weights")},
    )
    batch = collate([fewer])
    assert torch.allclose(found, model._sentences(batch, batch.sentence_mask)[0], atol=1e-6)


def test_one_to_eight_sentences_are_drawn_each_as_often() -> None:
    torch.manual_seed(0)
    real = torch.arange(12) < torch.tensor([[12], [3], [1]]).repeat(2000, 1)
    drawn = draw_sentences(real, 8)
    assert not (drawn & ~real).any()
    counts = drawn.sum(dim=1).view(2000, 3)
    for column, most in ((0, 8), (1, 3), (2, 1)):
        share = torch.bincount(counts[:, column], minlength=9)[1:] / 2000
        wanted = [1 / most] * most + [0.0] * (8 - most)
        assert share.tolist() == pytest.approx(wanted, abs=0.04)
    assert (drawn[::3].float().mean(dim=0) - 4.5 / 12).abs().max() < 0.05


def test_losses_are_of_the_drawn_sentences_alone() -> None:
    model, batch = built(drawn_sentences=3).train(), make_batch((4, 5))
    torch.manual_seed(2)
    out = model(batch)
    kept = out.kept.bool()
    assert 2 <= kept.sum() <= 6 and not kept.all()
    moments = (batch.moments / batch.duration[:, None, None])[batch.sentence_mask]
    wanted = {
        "attention": attention_inside(out.attention, moments),
        "distance": span_distance(out.spans, moments),
        "overlap": span_overlap_loss(out.spans, moments),
    }
    for name, term in PRVG.losses().items():
        assert torch.allclose(term(out, batch), wanted[name][kept].mean())
    assert model.eval()(batch).kept.all()
