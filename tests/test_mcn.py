"""MCN and CAL: their sizes, distances and losses in loops, what is drawn, and what they learn."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from lib.base.batch import Batch, collate
from lib.base.moments import iou
from lib.decoding import Decoding, decode
from lib.losses import Criterion
from lib.models.cal import CAL
from lib.models.interface import ground
from lib.models.mcn import (
    MCN,
    MCNOutput,
    draw_spans,
    first_apart,
    running_sum,
    touched,
    window_lengths,
)
from tests.properties import DIMS, make_batch, make_sample

SMALL = {"hidden_size": 16, "joint_size": 8, "lstm_size": 12}


@pytest.mark.parametrize(
    ("kind", "video_dim", "sizes", "parameters"),
    [
        (MCN, 2048, {}, 7_407_700),
        (MCN, 2048, {"endpoints": False}, 7_406_700),
        (CAL, 2048, {}, 7_406_700),
        (MCN, 500, {}, 5_859_700),
        # The layers of the TVR collection's release, which has 256 of everything.
        (MCN, 500, {"hidden_size": 256, "joint_size": 256, "lstm_size": 256}, 959_744),
    ],
)
def test_they_have_the_published_number_of_parameters(
    kind, video_dim, sizes, parameters, monkeypatch
) -> None:
    monkeypatch.setattr(nn.init, "uniform_", lambda tensor, *_, **__: tensor)
    model = kind(dataclasses.replace(DIMS, video_dim=video_dim, word_dim=300), **sizes)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_weights_start_within_eight_hundredths_and_biases_at_zero() -> None:
    for name, parameter in MCN(DIMS, **SMALL).named_parameters():
        if "bias" in name:
            assert not parameter.any(), name
        else:
            assert 0.06 < parameter.abs().max() <= 0.08, name


# Spans of clips, and what is summed over them.


def test_a_span_has_every_clip_that_it_touches() -> None:
    spans = torch.tensor([[0.3, 0.55], [0.25, 0.5], [0.5, 0.5], [1.0, 1.0], [0.0, 1.0]])
    start, stop = touched(spans, 8)
    assert list(zip(start.tolist(), stop.tolist(), strict=True)) == [
        *((2, 5), (2, 4), (4, 5), (7, 8), (0, 8))
    ]


@pytest.mark.parametrize("num_clips", [7, 12, 50])
def test_spans_of_the_grid_have_their_own_clips_whatever_the_rounding(num_clips: int) -> None:
    dims = dataclasses.replace(DIMS, num_frames=num_clips, num_clips=num_clips)
    start, stop = touched(MCN(dims, density="dense", **SMALL).spans, num_clips)
    cells = [(i, j) for i in range(num_clips) for j in range(i + 1, num_clips + 1)]
    assert list(zip(start.tolist(), stop.tolist(), strict=True)) == cells


def test_sums_and_lengths_of_all_windows_follow_from_those_of_single_clips() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 9, 5)
    sums, lengths = running_sum(rows), window_lengths(rows)
    for i in range(9):
        for j in range(i + 1, 10):
            window = rows[:, i:j].sum(dim=1)
            assert torch.allclose(sums[:, j] - sums[:, i], window, atol=1e-5)
            assert torch.allclose(lengths[:, i, j], window.norm(dim=1), atol=1e-6)


def test_proposals_may_have_a_least_length() -> None:
    model = MCN(DIMS, min_clips=3, density="dense", **SMALL)
    lengths = (model.spans[:, 1] - model.spans[:, 0]) * 8
    assert len(model.spans) == 6 * 7 // 2 and lengths.min() == 3
    with pytest.raises(ValueError, match="min_clips 9 is not from 1 to 8"):
        CAL(DIMS, min_clips=9, **SMALL)
    with pytest.raises(ValueError, match="8 clips do not divide 30 frames"):
        MCN(dataclasses.replace(DIMS, num_frames=30), **SMALL)


# Distances.


def slow_clips(video: Tensor) -> list[Tensor]:
    return [video[4 * n : 4 * n + 4].mean(dim=0) for n in range(8)]


def slow_distance(model: MCN, video: Tensor, span: tuple[float, float], e: Tensor) -> Tensor:
    """Of one sentence and one span: the first layer on one row of everything side by side."""
    clips = slow_clips(video)
    g = sum(clips) / 8
    g = g / g.norm()
    inside = [clips[n] for n in range(8) if (n + 1) / 8 > span[0] and n / 8 < span[1]]
    if isinstance(model, CAL):
        rows = [torch.cat([x / x.norm(), g]) for x in inside]
    else:
        x = sum(inside) / len(inside)
        rows = [torch.cat([x / x.norm(), g, torch.tensor(span)])]
    parts = [model.clip.weight, model.context.weight]
    if model.endpoints is not None:
        parts.append(model.endpoints.weight)
    total = torch.zeros(())
    for row in rows:
        hidden = (torch.cat(parts, dim=1) @ row + model.context.bias).clamp(min=0)
        z = model.moment.weight @ hidden + model.moment.bias
        total = total + sum((a - b) ** 2 for a, b in zip(z, e, strict=True)) / len(rows)
    return total


def livelier(model: MCN) -> MCN:
    """With weights whose distances differ, and biases that are not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    return model.eval()


@pytest.mark.parametrize("kind", [MCN, CAL])
def test_scores_are_minus_the_distances_of_the_formulas(kind) -> None:
    torch.manual_seed(0)
    model, batch = livelier(kind(DIMS, **SMALL)), make_batch((2, 1))
    sentences = model.encode_paragraphs(batch)["sentences"][batch.sentence_mask]
    scores = ground(model, batch).scores
    for m, b in enumerate(batch.owner.tolist()):
        for p, span in enumerate(model.spans.tolist()):
            wanted = slow_distance(model, batch.video[b], tuple(span), sentences[m])
            assert scores[m, p].item() == pytest.approx(-wanted.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", [MCN, CAL])
def test_a_paragraph_likes_a_video_by_the_closest_moment_of_each_sentence(
    kind, monkeypatch
) -> None:
    torch.manual_seed(0)
    model, batch = livelier(kind(DIMS, min_clips=2, **SMALL)), make_batch()
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found = model.similarity(paragraphs, videos)
    for v in range(4):
        of_one = {name: rows[[v] * 4] for name, rows in videos.items()}
        best = model.ground_pairs(paragraphs, of_one).scores.amax(dim=1)
        for b in range(4):
            wanted = best[batch.owner == b].mean()
            assert found[b, v].item() == pytest.approx(wanted.item(), abs=1e-5)
    monkeypatch.setattr("lib.models.mcn.GALLERY_BLOCK", 3)
    assert torch.allclose(model.similarity(paragraphs, videos), found, atol=1e-6)


def test_cal_s_best_proposal_is_one_of_the_shortest() -> None:
    """A mean is not below the least of what it is of; evidence over clips has no such limit."""
    torch.manual_seed(0)
    model = CAL(DIMS, joint_size=2, hidden_size=4, lstm_size=4)
    points = torch.tensor([[3.0, 0.0]]).repeat(1, 8, 1)
    points[0, 2:6, 0] = 1.0
    points[0, 3, 0] = 0.9
    paragraphs = {"sentences": torch.zeros(1, 1, 2), "mask": torch.ones(1, 1, dtype=torch.bool)}
    answers = {}
    for source in ("scores", "evidence"):
        found = decode(model.ground_pairs(paragraphs, {"points": points}), Decoding(source=source))
        answers[source] = found.spans[found.scores[0].argmax()].tolist()
    assert answers == {"scores": [3 / 8, 4 / 8], "evidence": [2 / 8, 6 / 8]}
    for read, names in (({"scores"}, set()), ({"clips"}, {"closeness"})):
        evidence = model.ground_pairs(paragraphs, {"points": points}, frozenset(read))
        assert set(evidence.clips) == names and (evidence.scores is None) == ("clips" in read)


# Training.


def foreseen(model: MCN, batch: Batch, spans: Tensor, monkeypatch) -> MCNOutput:
    """With these spans drawn for each sentence, the first for another video."""
    monkeypatch.setattr(
        "lib.models.mcn.draw_spans", lambda rows, count: spans.expand(len(rows), -1, -1)
    )
    return model(batch)


@pytest.mark.parametrize("kind", [MCN, CAL])
def test_losses_and_gradients_are_those_of_the_formulas(kind, monkeypatch) -> None:
    """Two videos, so that the other one is known. The second is shorter: its sentences have their
    own seconds in the first, the first's have what was drawn."""
    torch.manual_seed(0)
    first, second = make_sample(3, 2), make_sample(1, 3)
    batch = collate([first, second])
    assert batch.duration.tolist() == [23.0, 21.0]
    model = livelier(kind(DIMS, **SMALL)).double()
    batch = dataclasses.replace(
        batch, video=batch.video.double(), words=batch.words.double(),
        moments=batch.moments.double(), duration=batch.duration.double(),
    )  # fmt: skip
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    drawn = torch.tensor([[0.31, 0.62], [0.05, 0.12], [0.88, 0.93], [0.4, 0.45]]).double()
    out = foreseen(model, batch, drawn, monkeypatch)
    assert out.has_other.all()
    torch.set_default_dtype(torch.float64)
    try:
        sentences = model.encode_paragraphs(batch)["sentences"][batch.sentence_mask]
        wanted = {"intra": torch.zeros(()), "inter": torch.zeros(())}
        for m, b in enumerate(batch.owner.tolist()):
            moment = batch.flat(batch.moments)[m]
            own = tuple((moment / batch.duration[b]).tolist())
            apart = next(
                s for s in drawn[1:].tolist() if iou(torch.tensor(own), torch.tensor(s)) < 0.35
            )
            other = (
                tuple((moment / batch.duration[0]).tolist()) if b == 1 else tuple(drawn[0].tolist())
            )
            d = slow_distance(model, batch.video[b], own, sentences[m])
            near = slow_distance(model, batch.video[b], tuple(apart), sentences[m])
            far = slow_distance(model, batch.video[1 - b], other, sentences[m])
            for name, rival in (("intra", near), ("inter", far)):
                wanted[name] = wanted[name] + (0.3 + d - rival).clamp(min=0) / 5
    finally:
        torch.set_default_dtype(torch.float32)
    for name, term in kind.losses(margin=0.3).items():
        assert term(out, batch).item() == pytest.approx(wanted[name].item(), abs=1e-9) != 0
        for parameter in (model.clip.weight, model.moment.bias, model.sentence.weight):
            ours, formula = (
                torch.autograd.grad(x, parameter, retain_graph=True)[0]
                for x in (term(out, batch), wanted[name])
            )
            assert formula.abs().max() > 1e-6 and torch.allclose(ours, formula, atol=1e-8)


@pytest.mark.parametrize("kind", [MCN, CAL])
def test_another_video_is_another_video(kind, monkeypatch) -> None:
    """And any of these. Two paragraphs of one video alone have none, which costs nothing."""
    torch.manual_seed(0)
    model, first = kind(DIMS, **SMALL), make_sample(0, 3, video=7)
    twin = dataclasses.replace(make_sample(0, 2, video=7), paragraph_id="twin")
    alone = collate([first, twin])
    out = model(alone)
    assert not out.has_other.any() and kind.losses()["inter"](out, alone).item() == 0
    drawn: list[Tensor] = []
    distances = model._drawn_distances
    monkeypatch.setattr(
        model, "_drawn_distances", lambda *given: drawn.append(given[1]) or distances(*given)
    )
    batch = collate([first, twin, make_sample(4, 1), make_sample(5, 1)])
    parts = model.encode(batch)
    for _ in range(30):
        assert model.compare(parts, batch).has_other.all()
    videos = torch.stack(drawn)
    assert (videos[..., :2] == batch.owner[:, None]).all()
    for m, possible in enumerate([{2, 3}] * 5 + [{0, 1, 3}, {0, 1, 2}]):
        assert set(videos[:, m, 2].tolist()) == possible


def test_drawn_spans_lie_evenly_and_apart_from_the_moment() -> None:
    torch.manual_seed(0)
    moments = torch.tensor([[0.2, 0.8], [0.0, 1.0], [0.4, 0.41]]).repeat(2000, 1)
    drawn = draw_spans(torch.zeros(6000, 4), 25)
    assert drawn.shape == (6000, 25, 2) and (drawn[..., 0] <= drawn[..., 1]).all()
    assert drawn.mean(dim=(0, 1)).tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.01)
    apart = first_apart(moments, drawn[:, 1:], 0.35)
    assert (iou(moments, apart) < 0.35).all()
    # Of the whole video these are the spans shorter than 0.35: two points that lie as close.
    short = apart[1::3, 1] - apart[1::3, 0]
    shares = [2 * x - x * x for x in (0.1, 0.35)]
    assert (short < 0.1).float().mean().item() == pytest.approx(shares[0] / shares[1], abs=0.04)


def test_where_no_drawn_span_is_apart_the_least_overlapping_is_taken() -> None:
    drawn = torch.tensor(
        [[[0.1, 0.9], [0.3, 0.8], [0.2, 0.8]], [[0.1, 0.9], [0.0, 0.2], [0.1, 0.2]]]
    )
    moments = torch.tensor([[0.2, 0.8], [0.2, 0.8]])
    assert torch.equal(first_apart(moments, drawn, 0.35), drawn[[0, 1], [0, 1]])


def test_every_span_is_dropped_for_itself_in_mcn_and_every_clip_in_cal() -> None:
    torch.manual_seed(0)
    batch = make_batch((3, 2))
    kept = MCN(DIMS, dropout=0.5, **SMALL)(batch), MCN(DIMS, dropout=0.0, **SMALL).encode(batch)
    assert isinstance(kept[0], MCNOutput) and (kept[1]["kept"] == 1).all()
    mask = MCN(DIMS, dropout=0.5, **SMALL).encode(batch)["kept"]
    assert mask.shape == (5, 3, 8) and set(mask.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(mask[:, 0], mask[:, 1])
    points = CAL(DIMS, dropout=0.5, **SMALL).encode(batch)["points"]
    assert 0.2 < (points == 0).float().mean() < 0.8


def test_the_lstm_alone_learns_ten_times_as_fast() -> None:
    model, plan = MCN(DIMS, **SMALL), MCN.plan()
    fast = {n.split(".")[1] for n, _ in model.named_parameters() if n.startswith("words.")}
    assert plan.rates == {"words.": 10.0} and fast == {"lstm"}
    assert CAL.plan(lstm_rate=1.0).rates == {"words.": 1.0}


@pytest.mark.parametrize("kind", [MCN, CAL])
def test_four_videos_are_learnt_as_far_as_the_loss_asks(kind) -> None:
    """It asks that a moment is closer than spans that hardly overlap it. CAL's moments are decoded
    from its clips here, the closest of which lies in the moment."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    batch, dims = make_batch(), dataclasses.replace(DIMS, num_clips=16)
    model = kind(dims, hidden_size=32, joint_size=16, lstm_size=16, dropout=0.0)
    criterion = Criterion(kind.losses(), {"intra": 1.0, "inter": 1.0})
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        criterion(model(batch), batch)["total"].backward()
        optimizer.step()
    model.eval()
    similarity = model.similarity(model.encode_paragraphs(batch), model.encode_videos(batch.video))
    assert (similarity.argmax(dim=1) == torch.arange(4)).sum() >= 3
    truth = batch.flat(batch.moments) / batch.duration[batch.owner, None]

    def answers(source: str) -> Tensor:
        found = ground(model, batch, Decoding(source=source))
        return found.spans[found.scores.argmax(dim=1)]

    middle = answers("scores").mean(dim=1)
    assert ((truth[:, 0] < middle) & (middle < truth[:, 1])).float().mean() >= 0.8
    assert iou(answers("evidence" if kind is CAL else "scores"), truth).mean() > 0.5
