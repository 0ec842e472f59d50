"""XML: its published sizes, its labels, its losses in loops, and what it ranks and finds."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from lib.base.batch import Batch, collate
from lib.base.moments import iou
from lib.decoding import Decoding, decode
from lib.losses import Criterion
from lib.losses.boundaries import boundary_clips
from lib.losses.sentences import sentence_triplet
from lib.models.interface import Model, ground
from lib.models.reloclnet import ReLoCLNet
from lib.models.xml import XML
from lib.models.xml_weak import ReLoCLNetWeak, XMLWeak
from tests.properties import DIMS, loss_of, make_batch, make_sample, terms_of

SMALL = {"hidden_size": 16, "heads": 2}
WEAK = (XMLWeak, ReLoCLNetWeak)


def cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def in_seconds(*moments: tuple[float, float]) -> Batch:
    """One paragraph with these moments in its video of twelve seconds, eight clips of 1.5."""
    sample = make_sample(0, len(moments))
    return collate([dataclasses.replace(sample, moments=torch.tensor(moments), duration=12.0)])


@pytest.mark.parametrize(
    ("video_dim", "word_dim", "tef", "parameters"),
    [
        (500, 300, False, 1_361_994),
        (500, 300, True, 1_362_510),
        (1024, 1024, False, 1_683_978),
        (3072, 768, False, 2_146_314),
    ],
)
def test_it_has_the_published_number_of_parameters(
    video_dim, word_dim, tef, parameters, monkeypatch
) -> None:
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(
        DIMS, video_dim=video_dim, word_dim=word_dim, num_frames=100, num_clips=100
    )
    assert sum(p.numel() for p in XML(dims, tef=tef).parameters()) == parameters


# Moments and their labels.


def test_a_moment_is_labelled_by_the_clips_that_it_touches() -> None:
    """[3.2, 7.6] in clips of 1.5 seconds is the clips 2 to 5; the release says 2 to 6."""
    batch = in_seconds((3.2, 7.6), (3.0, 4.5), (4.4, 4.6), (11.9, 12.0), (0.0, 12.0))
    moments = batch.flat(batch.moments) / 12
    first, last = boundary_clips(moments, 8)
    assert first.tolist() == [2, 2, 2, 7, 0] and last.tolist() == [5, 2, 3, 7, 7]
    first, last = boundary_clips(moments, 8, exclusive=True)
    assert first.tolist() == [2, 2, 2, 7, 0] and last.tolist() == [6, 3, 4, 7, 7]


def test_a_time_on_the_border_of_two_clips_is_no_part_of_the_other() -> None:
    for N in (10, 64, 100):
        for duration in (7.1, 30.03, 191.7):
            i, j = torch.ones(N, N).triu().nonzero().unbind(dim=1)
            seconds = torch.stack([i, j + 1], dim=1) * (duration / N)
            first, last = boundary_clips(seconds.float() / torch.tensor(duration), N)
            assert torch.equal(first, i) and torch.equal(last, j)


@pytest.mark.parametrize(
    ("kind", "ends", "read"),
    [
        (XML, "right", (3.0, 9.0)),
        (XML, "released", (3.0, 10.5)),
        (ReLoCLNet, "right", (3.0, 9.0)),
        (ReLoCLNet, "released", (3.0, 9.0)),
    ],
)
def test_a_perfect_model_reads_its_labels_back(kind, ends, read, monkeypatch) -> None:
    model, batch = kind(DIMS, **SMALL, ends=ends).eval(), in_seconds((3.2, 7.6))
    out = model(batch)
    logits = torch.zeros(1, 2, 8)
    logits[0, 0, out.first] = logits[0, 1, out.last] = 9
    monkeypatch.setattr(model, "_logits", lambda *_: logits)
    found = ground(model, batch)
    best = found.spans[found.scores[0].argmax()] * 12
    assert best.tolist() == pytest.approx(read, abs=1e-5)


@pytest.mark.parametrize("kind", [XML, ReLoCLNet])
def test_a_moment_to_the_end_of_the_video_loses_a_clip_in_the_released_reading_of_one(kind) -> None:
    batch = in_seconds((6.0, 12.0))
    for ends in ("right", "released"):
        model = kind(DIMS, **SMALL, ends=ends)
        out = model(batch)
        at = (model.span_first == out.first) & (model.span_last == out.last)
        whole = kind is XML or ends == "right"
        assert (model.spans[at] * 12).tolist() == [[6.0, 12.0 if whole else 10.5]]


@pytest.mark.parametrize(("kind", "lengths"), [(XML, (3, 16)), (ReLoCLNet, (2, 15))])
@pytest.mark.parametrize(
    ("clips", "limited", "every"),
    [(16, 105, 136), (32, 329, 528), (64, 777, 2_080), (100, 1_281, 5_050), (128, 1_673, 8_256)],
)
def test_the_released_limits_of_length_leave_as_many_moments(
    kind, lengths, clips, limited, every
) -> None:
    dims = dataclasses.replace(DIMS, num_frames=clips, num_clips=clips)
    low, high = lengths
    model = kind(dims, **SMALL, ends="released", min_clips=low, max_clips=high)
    gap = model.span_last - model.span_first
    assert len(model.spans) == limited and gap.min() == 2 and gap.max() == 15
    assert len(kind(dims, **SMALL).spans) == every


def test_lengths_that_no_moment_has_are_refused() -> None:
    with pytest.raises(ValueError, match="no moment of 8 clips has min_clips 9 to max_clips 8"):
        XML(DIMS, **SMALL, min_clips=9)
    with pytest.raises(ValueError, match="no moment of 8 clips has min_clips 4 to max_clips 3"):
        XML(DIMS, **SMALL, min_clips=4, max_clips=3)
    with pytest.raises(ValueError, match="kernel_size must be odd, found 4"):
        XML(DIMS, **SMALL, kernel_size=4)


# Scores.


def test_products_are_convolved_without_a_flip_and_beside_zeros(monkeypatch) -> None:
    dims = dataclasses.replace(DIMS, num_frames=5, num_clips=5)
    model = XML(dims, **SMALL)
    with torch.no_grad():
        model.boundaries.weight[0, 0] = torch.tensor([1.0, 0, -1, 2, 1])
        model.boundaries.weight[1, 0] = torch.tensor([0.0, 0, 1, 0, 0])
    products = torch.tensor([[0.0, 1, 3, 2, 0]])
    monkeypatch.setattr("lib.models.xml.own_products", lambda *_: products)
    start, end = model._logits(torch.zeros(1, 16), torch.zeros(1, 5, 16), make_batch((1,)))[0]
    assert start.tolist() == [5, 7, 1, -1, 3] and end.tolist() == products[0].tolist()


def test_a_moment_has_the_probability_of_its_start_and_its_end(monkeypatch) -> None:
    dims = dataclasses.replace(DIMS, num_frames=4, num_clips=4)
    model, batch = XML(dims, **SMALL).eval(), collate([make_sample(0, 1)])
    logits = torch.tensor([[[0.0, 1, 0, -1], [-1.0, 0, 1, 2]]])
    monkeypatch.setattr(model, "_logits", lambda *_: logits)
    found = ground(model, batch)
    scores = {
        tuple(span): score.item()
        for span, score in zip((found.spans * 4).tolist(), found.scores[0], strict=True)
    }
    assert len(scores) == 10
    starts, ends = (0.19661, 0.53445, 0.19661, 0.07233), (0.03206, 0.08714, 0.23688, 0.64391)
    for i in range(4):
        for j in range(i, 4):
            wanted = math.log(starts[i] * ends[j])
            assert scores[i, j + 1] == pytest.approx(wanted, abs=2e-4)
    assert max(scores, key=scores.get) == (1, 4)
    assert scores[1, 4] == pytest.approx(-1.06671, abs=1e-5)


@pytest.mark.parametrize("kind", [XML, ReLoCLNet])
def test_what_is_said_of_a_moment_follows_the_formula(kind) -> None:
    """r_t = q' · V_t, two convolutions, soft-maxes: a number at a time."""
    torch.manual_seed(0)
    model, batch = kind(DIMS, **SMALL).eval(), make_batch((2, 3))
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    deep = videos["clips"] if kind is ReLoCLNet else videos["deep"]
    found = ground(model, batch)
    for m, b in enumerate(batch.owner.tolist()):
        q = model.locate(paragraphs["sentences"][batch.sentence_mask][m])
        r = [0.0, 0.0, *(deep[b] @ q).tolist(), 0.0, 0.0]
        probabilities = []
        for weight in model.boundaries.weight[:, 0].tolist():
            logits = [sum(w * r[t + k] for k, w in enumerate(weight)) for t in range(8)]
            total = sum(math.exp(x) for x in logits)
            probabilities.append([math.exp(x) / total for x in logits])
        for p, (i, j) in enumerate((found.spans * 8).long().tolist()):
            wanted = math.log(probabilities[0][i] * probabilities[1][j - 1])
            assert found.scores[m, p].item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", [XML, XMLWeak, ReLoCLNet, ReLoCLNetWeak])
def test_a_paragraph_likes_a_video_as_its_sentences_do_on_average(kind, monkeypatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("lib.models.xml.GALLERY_BLOCK", 3)
    model, batch = kind(DIMS, **SMALL).eval(), make_batch()
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found = model.similarity(paragraphs, videos)
    for b, sentences in enumerate(paragraphs["sentences"]):
        own = sentences[batch.sentence_mask[b]]
        for v, clips in enumerate(videos["clips"]):
            best = [max(cosine(q, clip) for clip in clips) for q in own]
            assert found[b, v].item() == pytest.approx(sum(best) / len(best), abs=1e-5)


def test_xml_ranks_behind_its_first_block_and_locates_behind_its_third() -> None:
    torch.manual_seed(0)
    model, batch = XML(DIMS, **SMALL).eval(), make_batch()
    before = model.encode_videos(batch.video)
    with torch.no_grad():
        model.video_encoder[1].norm[0].weight.mul_(2)
    after = model.encode_videos(batch.video)
    assert torch.equal(before["clips"], after["clips"])
    assert not torch.allclose(before["deep"], after["deep"])


def test_each_clip_is_told_its_start_and_its_end(monkeypatch) -> None:
    model = XML(DIMS, **SMALL, tef=True)
    seen = []
    monkeypatch.setattr(model.clip, "forward", lambda rows: seen.append(rows) or rows[..., :16])
    monkeypatch.setattr(
        model.clip_positions, "forward", lambda rows: rows.repeat(1, 1, 2)[..., :16]
    )
    model.encode_videos(torch.randn(2, 32, DIMS.video_dim))
    for t in range(8):
        assert seen[0][1, t, -2:].tolist() == [t / 8, (t + 1) / 8]
    assert torch.allclose(seen[0][..., :-2].norm(dim=2), torch.ones(2, 8))


# Losses.


def test_hinges_of_the_hardest_negatives() -> None:
    S = torch.tensor([[2.0, 0, 1], [1, 3, 0], [0, 1, 1]]) / 4
    same = torch.eye(3, dtype=torch.bool)
    options = {"margin": 0.1, "video_pool": 1, "sentence_pool": 1}
    found = sentence_triplet(S, torch.arange(3), same, **options)
    assert found.item() == pytest.approx(2 * 0.0333333, abs=1e-6)


def test_the_losses_equal_their_definitions() -> None:
    """With the hardest negative, which is certain, and sentences as rows of the batch."""
    torch.manual_seed(0)
    model, batch = XML(DIMS, **SMALL).eval(), make_batch((2, 3, 1))
    out, terms = model(batch), XML.losses(margin=0.7, pool=1)
    owner, M = batch.owner.tolist(), 6
    triplet = span = 0.0
    for i in range(M):
        others = [n for n in range(M) if owner[n] != owner[i]]
        own = out.similarity[i, owner[i]].item()
        video = max(out.similarity[i, owner[n]].item() for n in others)
        sentence = max(out.similarity[n, owner[i]].item() for n in others)
        triplet += (max(0, 0.7 + video - own) + max(0, 0.7 + sentence - own)) / M
        s, e = (batch.flat(batch.moments)[i] / batch.duration[owner[i]] * 8).tolist()
        first = min(math.floor(s), 7)
        last = min(max(first, math.ceil(e) - 1), 7)
        for logits, label in ((out.start[i], first), (out.end[i], last)):
            span -= math.log(logits[label].exp().item() / logits.exp().sum().item()) / M
    assert terms["hard_triplet"](out, batch).item() == pytest.approx(triplet, rel=1e-5)
    assert terms["span"](out, batch).item() == pytest.approx(span, rel=1e-5)


def test_a_random_negative_is_a_sentence_s_video_as_often_as_it_has_sentences() -> None:
    """Of the two other videos one has three sentences and one has one, so the former is drawn three
    times out of four."""
    batch = make_batch((1, 3, 1))
    similarity = torch.zeros(5, 3)
    similarity[0] = torch.tensor([0.0, 1.0, 0.0])
    out = dataclasses.replace(
        XML(DIMS, **SMALL)(batch, frozenset({"triplet"})), similarity=similarity
    )
    term, drawn = XML.losses(margin=0.0)["triplet"], []
    for seed in range(400):
        torch.manual_seed(seed)
        drawn.append(5 * term(out, batch).item())
    # the first sentence against the second video; and of the second's three, against sentence one
    assert set(map(round, drawn)) <= {0, 1, 2, 3, 4}
    assert sum(drawn) / len(drawn) == pytest.approx(0.75 + 3 * 0.5, abs=0.15)


def test_hard_negatives_take_over_in_the_twentieth_epoch() -> None:
    criterion = Criterion(XML.losses(), dict.fromkeys(XML.losses(), 1.0))
    for epoch, hard in ((0, False), (19, False), (20, True), (99, True)):
        (stage,) = XML.plan().stages(epoch)
        active = criterion.scaled(stage.factors).active
        assert active == {"span", "hard_triplet" if hard else "triplet"}


def test_what_only_moments_train_is_not_computed_without_them() -> None:
    model, batch = XML(DIMS, **SMALL), make_batch()
    seen = []
    model.video_encoder[2].register_forward_hook(lambda *_: seen.append(1))
    assert model(batch, terms=frozenset({"triplet"})).start is None and not seen
    assert model(batch, terms=frozenset({"span"})).start is not None and seen


@pytest.mark.parametrize("kind", WEAK)
def test_without_supervision_no_moment_is_read_and_nothing_is_left_untrained(kind) -> None:
    torch.manual_seed(0)
    model, batch = kind(DIMS, **SMALL).eval(), make_batch()
    blind = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    blind |= {"moments": torch.full_like(batch.moments, torch.nan)}
    torch.manual_seed(1)
    wanted = loss_of(model, batch)
    torch.manual_seed(1)
    found = loss_of(model, Batch(**blind))
    assert wanted.keys() == found.keys() and all(wanted[k] == found[k] for k in wanted)
    assert "span" not in terms_of(model) and not hasattr(model, "locate")
    assert kind.supervision == "weak" and len(model.spans) == 36


def test_without_boundaries_a_moment_is_where_clips_are_like_the_sentence() -> None:
    model = XMLWeak(DIMS, hidden_size=4, heads=2)
    clips = torch.tensor([0.0, 0.5, 1.0, 0.0]).repeat(1, 8, 1)
    clips[0, 3:6, 0] = 1
    paragraphs = {"sentences": torch.eye(4)[None, :1], "mask": torch.ones(1, 1, dtype=torch.bool)}
    found = decode(model.ground_pairs(paragraphs, {"clips": clips}), Decoding())
    assert (found.spans[found.scores[0].argmax()] * 8).tolist() == [3, 6]


# Learning.


def trained(model: Model, batch: Batch) -> Model:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model, batch)["total"].backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind", [XML, ReLoCLNet])
def test_four_videos_are_learned_by_heart(kind) -> None:
    torch.manual_seed(0)
    dims = dataclasses.replace(DIMS, num_clips=32)
    batch = make_batch()
    model = trained(kind(dims, **SMALL), batch)
    found = ground(model, batch)
    best = found.spans[found.scores.argmax(dim=1)] * batch.duration[batch.owner, None]
    assert iou(best, batch.flat(batch.moments)).mean() > 0.8
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    assert model.similarity(paragraphs, videos).argmax(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", WEAK)
def test_without_a_moment_videos_are_found(kind) -> None:
    torch.manual_seed(0)
    batch = make_batch((2, 3, 1, 2, 3, 1, 2, 2))
    model = trained(kind(DIMS, **SMALL), batch)
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found = model.similarity(paragraphs, videos).argmax(dim=1)
    assert (found == torch.arange(8)).float().mean() > 0.7
