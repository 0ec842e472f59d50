"""SCN: its size, its spans, what it says of one sentence at a time, and how it explores."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.base.moments import greedy_suppression, iou
from lib.losses import Criterion
from lib.models.interface import ground
from lib.models.layers.transformer import sinusoids
from lib.models.scn import SCN, SCNOutput, spans_by_end
from lib.training.optimization import Optimization
from tests.properties import DIMS, make_batch

SMALL = {"hidden_size": 8, "heads": 2, "layers": 2, "candidate_frames": 5, "widths": (0.25, 0.6, 1)}


def built(**keywords: object) -> SCN:
    torch.manual_seed(0)
    return SCN(DIMS, **{**SMALL, **keywords}).eval()


def test_it_has_the_parameters_of_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from the released layers: 500-wide frames, 300-wide words, eight widths, 8,001 words.
    Its vector for a hidden word is as wide as the words, ours as the states: 44 less."""
    for draw in ("uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(DIMS, video_dim=500, word_dim=300, vocab_size=8001, num_frames=200)
    model = SCN(dims, widths=[k / 8 for k in range(1, 9)])
    attention = 3 * 256 * 256 + 3 * 256 + 256 * 256 + 256
    layer = 2 * attention + 256 * 512 + 512 + 512 * 256 + 256 + 3 * 2 * 256
    read = 500 * 256 + 256 + 300 * 256 + 256 + 2 * 300
    heads = 256 * 8 + 8 + 256 * 8001 + 8001
    assert sum(p.numel() for p in model.parameters()) == 6 * layer + read + heads - 44


# Spans.


@pytest.mark.parametrize("T", [1, 7, 16, 200])
def test_spans_end_at_every_frame_and_begin_inside_the_video(T: int) -> None:
    widths = (0.167, 0.5, 1.0) if T > 1 else (1.0,)
    expected = [
        (end * len(widths) + k, (end + 1 - length) / T, (end + 1) / T)
        for end in range(T)
        for k, length in enumerate(max(1, math.floor(width * T)) for width in widths)
        if end + 1 >= length
    ]
    cells, spans = spans_by_end(T, widths)
    assert cells.tolist() == [cell for cell, *_ in expected]
    assert torch.allclose(spans, torch.tensor([span for _, *span in expected]), atol=1e-6)


@pytest.mark.parametrize("widths", [(0.0, 0.5), (0.5, 1.1), (0.5, 0.51), (0.001, 0.05)])
def test_widths_must_be_parts_of_the_video_that_differ(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1 and differ"):
        spans_by_end(16, widths)


# One sentence at a time.


@pytest.mark.parametrize("reranked", [0, 4])
def test_scores_and_likelihoods_are_those_of_a_sentence_alone(reranked: int) -> None:
    """Without padding, batch or blocks; words and frames each read by one decoder, then both."""
    model, batch = built(reranked=reranked), make_batch((2, 3))
    both, T = model.decoders, DIMS.num_frames
    found, out = ground(model, batch), model(batch)
    words, ids = batch.flat(batch.words), batch.flat(batch.word_ids)
    for m, b in enumerate(batch.owner.tolist()):
        count = int(batch.word_counts[m])
        w = both.word(torch.cat([both.first_word[None], words[m, :count]]))[None]
        w = w + sinusoids(count + 1, 8)
        x = both.frame(batch.video[b])[None]
        h = both.frame_decoder(x, memory=both.word_decoder(w))[0]
        scores = model.score(h).flatten()[model.cells].sigmoid()
        spans = [tuple(span) for span in model.spans.tolist()]

        def reconstructed(start: float, end: float, x=x, w=w, m=m, count=count) -> float:
            length = (end - start) * T
            rows = [math.floor(start * T + (j + 0.5) / 5 * length + 1e-6) for j in range(5)]
            seen = both.frame_decoder(x[:, rows])
            logp = model.vocabulary(both.word_decoder(w[:, :-1], memory=seen))[0].log_softmax(1)
            right = logp[torch.arange(count), ids[m, :count]]
            return (-0.9 * right - 0.1 * logp.mean(dim=1)).mean().item()

        order, kept = scores.argsort(descending=True).tolist(), []
        while order:  # at most 0.65 with any that is kept
            best = order.pop(0)
            if all(iou(model.spans[best], model.spans[k]) <= 0.65 + 1e-6 for k in kept):
                kept.append(best)
        assert out.scores[m].tolist() == pytest.approx(scores[kept[:3]].tolist(), abs=1e-5)
        wanted = [reconstructed(*spans[k]) for k in kept[:4]]
        assert out.nll[m].tolist() == pytest.approx(wanted[:3], rel=1e-4)
        if reranked:
            assert torch.allclose(found.spans[m], model.spans[kept[:4]])
            assert found.scores[m].tolist() == pytest.approx([-x for x in wanted], rel=1e-4)
        else:
            assert torch.allclose(found.scores[m], scores, atol=1e-5)


def test_a_frame_does_not_see_what_comes_after_it() -> None:
    model, batch = built(), make_batch((2, 3))
    other = batch.video.clone()
    other[:, 20:] = torch.randn_like(other[:, 20:])
    before = ground(model, batch).scores
    after = ground(model, dataclasses.replace(batch, video=other)).scores
    early = model.spans[:, 1] <= 20 / 32
    assert torch.allclose(before[:, early], after[:, early], atol=1e-6)
    assert not torch.isclose(before[:, ~early], after[:, ~early], atol=1e-6).any()


# Training.


def test_the_rewards_are_the_released_ones() -> None:
    """Scores .2, .9, .4 and likelihoods that rank them second, last, first: 0.5, 0, 1."""
    nll, scores = torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[0.2, 0.9, 0.4]])
    among = sum(math.exp(x) for x in (0.2, 0.9, 0.4))
    expected = -(0.5 * math.log(math.exp(0.2) / among) + math.log(math.exp(0.4) / among)) / 3
    terms, out = SCN.losses(), SCNOutput(scores, nll)
    assert terms["rank"](out, make_batch((1,))).item() == pytest.approx(expected, rel=1e-6)
    assert terms["reconstruction"](out, make_batch((1,))).item() == pytest.approx(2.0)


def test_exploration_falls_with_the_epochs_and_ends_with_training() -> None:
    model, batch = built(num_candidates=2), make_batch((4, 5))
    criterion = Criterion(SCN.losses(), {"reconstruction": 1.0, "rank": 1.0})
    optimization = Optimization(model, criterion, SCN.plan(exploration=0.8, exploration_epochs=5))
    found = []
    for epoch in (0, 5, 10):
        optimization.set_epoch(epoch)
        found.append(model.exploration.item())
    assert found == pytest.approx([0.8, 0.8 / math.e, 0.8 / math.e**2])
    assert not any("exploration" in name for name in model.state_dict())

    model.exploration.fill_(1)
    scores = torch.rand(9, len(model.spans))
    plain, _ = greedy_suppression(model.spans, scores, keep=2, max_iou=0.65)
    assert torch.equal(model._select(scores, 2), plain)
    assert not torch.equal(model.train()._select(scores, 2), plain)
    model.exploration.fill_(0)
    assert torch.equal(model._select(scores, 2), plain)
    assert model(batch).scores.shape == (9, 2)


def test_words_are_masked_in_training_only() -> None:
    model, batch = built(), make_batch()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before, hidden = model(batch).nll, model.train()(batch).nll
    with torch.no_grad():
        model.decoders.mask_word += 3
    assert torch.equal(model.eval()(batch).nll, before)
    assert not torch.allclose(hidden, before)
    model.mask_ratio = 1.0
    assert torch.equal(*(model._read(batch, hide=True).inputs for _ in range(2)))  # all: no draw


def test_the_gap_is_what_the_frames_tell() -> None:
    model, batch = built(), make_batch((2, 3))
    assert model.inspect(batch)["reconstruction_gap"].abs() > 1e-4
    twins = dataclasses.replace(batch, video=batch.video[:1].expand(2, -1, -1))
    assert model.inspect(twins)["reconstruction_gap"] == 0
