"""ReLoCLNet: its size, its two contrasts in loops, and which clips they and the scores read."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.losses.boundaries import frame_contrast, inside
from lib.losses.sentences import joint_nce
from lib.models.reloclnet import ReLoCLNet
from lib.models.xml_weak import ReLoCLNetWeak
from tests.properties import DIMS, make_batch

SMALL = {"hidden_size": 16, "heads": 2}


@pytest.mark.parametrize(
    ("video_dim", "word_dim", "parameters"), [(500, 300, 3_480_650), (1024, 1024, 3_962_378)]
)
def test_without_subtitles_it_has_the_parameters_of_its_published_parts(
    video_dim, word_dim, parameters, monkeypatch
) -> None:
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(
        DIMS, video_dim=video_dim, word_dim=word_dim, num_frames=128, num_clips=128
    )
    assert sum(p.numel() for p in ReLoCLNet(dims).parameters()) == parameters
    more = sum(p.numel() for p in ReLoCLNet(dims, tef=True).parameters()) - parameters
    assert more == 2 * (384 + 2)  # two inputs: their weights and their layer norm


def test_the_contrast_of_clips_is_the_published_number() -> None:
    x = torch.tensor([[2.0, -1, 0, 1]])
    moment = inside(torch.tensor([0]), torch.tensor([1]), 4)
    assert moment.tolist() == [[True, True, False, False]]
    assert frame_contrast(x, moment).item() == pytest.approx(0.3370048, abs=1e-6)
    assert frame_contrast(torch.zeros(1, 4), moment).item() == pytest.approx(0, abs=1e-7)
    alone = frame_contrast(x[:, :2], moment[:, :2])  # a moment that is all of its video
    assert alone.item() == pytest.approx(0.0269476, abs=1e-6)


def test_the_contrast_of_videos_is_the_published_number() -> None:
    D = torch.tensor([[2.0, 0, 1], [1, 3, 0], [0, 1, 1]])
    found = joint_nce(D, torch.arange(3), torch.eye(3, dtype=torch.bool))
    assert found.item() == pytest.approx(1.1729628, abs=1e-6)


@pytest.mark.parametrize("ends", ["right", "released"])
def test_the_contrasts_equal_their_definitions(ends) -> None:
    """Of the middle clips, with the sentence as it is, each sentence a row with its own video; the
    release counts the clip behind a moment to it."""
    torch.manual_seed(0)
    model, batch = ReLoCLNet(DIMS, **SMALL, ends=ends).eval(), make_batch((2, 3, 1))
    out, terms = model(batch), ReLoCLNet.losses()
    q, (_, middle, _) = model._queries(batch), model._states(batch.video)
    owner, M = batch.owner.tolist(), 6

    def best(m: int, b: int) -> float:
        return max((q[m] @ clip).item() for clip in middle[b])

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    frames = videos = 0.0
    for m, b in enumerate(owner):
        s, e = (batch.flat(batch.moments)[m] / batch.duration[b] * 8).tolist()
        first, last = math.floor(s), math.ceil(e) - (ends == "right")
        x = [(q[m] @ clip).item() for clip in middle[b]]
        own = [math.log(2) - softplus(-x[t]) for t in range(8) if first <= t <= last]
        others = [softplus(x[t]) - math.log(2) for t in range(8) if not first <= t <= last]
        frames += (sum(others) / max(len(others), 1) - sum(own) / len(own)) / M
        rivals = [n for n in range(M) if n == m or owner[n] != b]
        among = sum(math.exp(best(m, owner[n])) + math.exp(best(n, b)) for n in rivals)
        videos += (math.log(among) - best(m, b)) / M
    assert terms["frame_contrast"](out, batch).item() == pytest.approx(frames, abs=1e-5)
    assert terms["video_contrast"](out, batch).item() == pytest.approx(videos, rel=1e-5)


def test_everything_is_scored_behind_the_third_block() -> None:
    model, batch = ReLoCLNet(DIMS, **SMALL).eval(), make_batch()
    videos = model.encode_videos(batch.video)
    assert set(videos) == {"clips"}
    assert torch.equal(videos["clips"], model._states(batch.video)[2])


def test_a_term_that_is_not_wanted_is_not_computed() -> None:
    model, batch = ReLoCLNet(DIMS, **SMALL), make_batch()
    out = model(batch, terms=frozenset({"triplet"}))
    assert out.start is out.product is out.own_product is out.first is None
    out = model(batch, terms=frozenset({"frame_contrast"}))
    assert out.start is out.product is None and out.own_product is not None
    assert model(batch, terms=frozenset({"video_contrast"})).product is not None


def test_without_supervision_the_contrast_of_videos_is_left() -> None:
    model = ReLoCLNetWeak(DIMS, **SMALL)
    assert model.unavailable_terms == {"span", "frame_contrast"}
    out = model(make_batch())
    assert out.product is not None and out.own_product is None and out.start is None
