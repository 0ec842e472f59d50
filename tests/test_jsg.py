"""JSG: the numbers it is known by, its proposals in loops, and where it looks."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.base.batch import collate
from lib.decoding import Decoding, decode
from lib.losses import Criterion
from lib.losses.sentences import joint_nce, sentence_triplet
from lib.losses.similarity import hinge_against_one
from lib.models.interface import ground, switch_terms_at
from lib.models.jsg import ATTENTION, BESIDE, GAZE, JSG
from lib.models.layers.gaussian import gaussian_windows, outside_windows
from tests.properties import DIMS, make_batch, make_sample

SMALL = {"hidden_size": 16, "heads": 2, "num_centers": 5, "num_widths": 4, "gaze_widths": 3}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


@pytest.mark.parametrize(
    ("frames", "video_level", "parameters"), [(64, False, 2_434_565), (128, True, 2_778_629)]
)
def test_it_has_the_published_number_of_parameters_that_learn(
    frames, video_level, parameters, monkeypatch
) -> None:
    """But for one: the bias of the convolution, which the layer norm behind it takes away."""
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(DIMS, video_dim=1024, word_dim=1024, num_frames=frames)
    model = JSG(dims, video_level=video_level)
    assert sum(p.numel() for p in model.parameters()) == parameters - 1


@pytest.mark.parametrize(("frames", "clips"), [(64, 13), (128, 29)])
def test_the_glance_has_the_released_length(frames: int, clips: int) -> None:
    model = JSG(dataclasses.replace(DIMS, num_frames=frames), **SMALL)
    video = torch.randn(2, frames, DIMS.video_dim)
    assert model.encode_videos(video)["clips"].shape == (2, clips, 16)


def test_too_few_frames_for_the_glance_are_refused() -> None:
    with pytest.raises(ValueError, match="need 16 frames, found 12"):
        JSG(dataclasses.replace(DIMS, num_frames=12), **SMALL)


def test_clips_are_slid_over_maxima_each_entry_by_itself() -> None:
    torch.manual_seed(0)
    model, video = JSG(DIMS, **SMALL).eval(), torch.randn(1, 32, DIMS.video_dim)
    rows = video[0] / video[0].norm(dim=1, keepdim=True)
    weight = model.slide.weight.flatten()
    clips = torch.zeros(5, DIMS.video_dim)
    for n in range(5):
        for c in range(DIMS.video_dim):
            for k in range(4):
                highest = max(rows[4 * (n + k) + i, c] for i in range(4))
                clips[n, c] += weight[k] * highest
    wanted = model.video_encoder(model.clip_positions(model.clip(clips[None])))
    assert torch.allclose(model.encode_videos(video)["clips"], wanted, atol=1e-5)


def test_the_proposals_are_the_released_ones() -> None:
    """Sixteen centres times ten widths, the centre first; shares of the rows by a bell."""
    model = JSG(dataclasses.replace(DIMS, num_frames=64))
    assert model.spans.shape == (160, 2) and model.focus_windows.shape == (16, 8, 64)
    centers = [0.025, 0.088333, 0.151667]
    widths = [0.05, 0.155556, 0.261111]
    for c in range(3):
        for w in range(3):
            start, end = centers[c] - widths[w] / 2, centers[c] + widths[w] / 2
            found = model.spans[10 * c + w].tolist()
            assert found == pytest.approx([max(start, 0), min(end, 1)], abs=1e-5)
    assert model.spans[159].tolist() == pytest.approx([0.475, 1])
    for windows in (model.glance_windows, model.gaze_windows):
        P, L = windows.shape
        for p in (0, 7, 101, 159):
            center = 0.025 + p // 10 * 0.95 / 15
            deviation = (0.05 + p % 10 * 0.95 / 9) / 9
            bell = [math.exp(-((j / (L - 1) - center) ** 2) / (2 * deviation**2)) for j in range(L)]
            wanted = [x / sum(bell) for x in bell]
            assert windows[p].tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_what_lies_beside_a_gaze_is_half_a_bell_from_each_end_and_everything() -> None:
    model = JSG(DIMS, **SMALL)
    T, center, width = 32, 0.025 + 0.95 / 4, 0.525  # the second centre, the middle width
    sides = [(0.0, max(center - width / 2, 0.01) / 4.5), (1.0, (1 - center - width / 2) / 4.5)]
    for side, (middle, deviation) in enumerate(sides):
        bell = [math.exp(-((j / (T - 1) - middle) ** 2) / (2 * deviation**2)) for j in range(T)]
        found = model.beside_windows[1, 1, side].tolist()
        assert found == pytest.approx([x / sum(bell) for x in bell], rel=1e-3, abs=1e-6)
    assert model.beside_windows[1, 1, 2].tolist() == pytest.approx([1 / T] * T)
    at_ends = outside_windows(torch.tensor(0.5), torch.tensor(0.4), 32, at_ends=True)
    assert [x.argmax().item() for x in at_ends] == [0, 31]


@pytest.mark.parametrize("frames", [16, 20])
def test_narrow_windows_between_two_rows_are_numbers(frames: int) -> None:
    """One and two clips: the exponentials of the release are all zero there, and 0 / 0."""
    model = JSG(dataclasses.replace(DIMS, num_frames=frames), num_centers=32)
    for windows in (model.glance_windows, model.gaze_windows):
        assert torch.allclose(windows.sum(dim=1), torch.ones(320))
    bell = gaussian_windows(torch.tensor(0.26), torch.tensor(1e-3), 3)
    assert bell.tolist() == [0, 1, 0]  # exp(-33800) and exp(-28800)


# Losses.


def test_the_contrast_of_equal_scores_is_the_logarithm_of_twice_the_batch() -> None:
    everything = torch.full((6, 6), 3.7)
    found = joint_nce(everything, torch.arange(6), torch.eye(6, dtype=torch.bool))
    assert found.item() == pytest.approx(math.log(12), rel=1e-6)


def test_a_hard_negative_is_one_of_the_pool() -> None:
    """Of four possible negatives: the best, one of the best two, any."""
    scores = torch.tensor([[0.0, 0.4, 0.1, 0.3, 0.2, 0.9]])
    negatives = torch.tensor([[False, True, True, True, True, False]])
    seen = {}
    for pool in (1, 2, 4, 20, None):
        generator = torch.Generator().manual_seed(0)
        seen[pool] = {
            round(
                hinge_against_one(
                    scores, scores[:, 0], negatives, margin=0.0, pool=pool, generator=generator
                ).item(),
                4,
            )
            for _ in range(60)
        }
    assert seen[1] == {0.4} and seen[2] == {0.3, 0.4}
    assert seen[4] == seen[20] == seen[None] == {0.1, 0.2, 0.3, 0.4}


def test_pools_bound_both_directions() -> None:
    """Video 0's best negative sentence is the third, sentence 0's best negative video the second;
    at both ends nothing else is drawn."""
    S = torch.tensor([[0.5, 0.6, 0.1], [0.4, 0.5, 0.2], [0.7, 0.3, 0.5]])
    same = torch.eye(3, dtype=torch.bool)
    rows = (0.2 + 0.6 - 0.5) + (0.2 + 0.4 - 0.5) + (0.2 + 0.7 - 0.5)
    columns = (0.2 + 0.7 - 0.5) + (0.2 + 0.6 - 0.5) + 0
    for seed in range(5):
        found = sentence_triplet(
            S, torch.arange(3), same, margin=0.2, video_pool=1, sentence_pool=1,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        assert found.item() == pytest.approx((rows + columns) / 3, abs=1e-6)


@pytest.mark.parametrize(("glance_pool", "alike"), [(1, True), (20, False)])
def test_the_glance_has_a_pool_of_sentences_of_its_own(glance_pool: int, alike: bool) -> None:
    """Of two videos there is one other for a sentence, but three other sentences for a video."""
    torch.manual_seed(0)
    model, batch = JSG(DIMS, **SMALL).eval(), make_batch((3, 3))
    term, out = JSG.losses(margin=2.0, glance_pool=glance_pool)["glance_hard_triplet"], model(batch)
    seen = set()
    for seed in range(10):
        torch.manual_seed(seed)
        seen.add(round(term(out, batch).item(), 5))
    assert (len(seen) == 1) == alike


def test_hard_negatives_take_over_in_the_twentieth_epoch() -> None:
    terms = JSG.losses()
    criterion = Criterion(terms, dict.fromkeys(terms, 1.0))
    for epoch in (0, 19, 20, 99):
        (stage,) = JSG.plan().stages(epoch)
        active = {name for name in criterion.scaled(stage.factors).active if "triplet" in name}
        kind = "hard_triplet" if epoch >= 20 else "triplet"
        assert active == {f"{part}_{kind}" for part in ("glance", "gaze", "attention")}
    assert switch_terms_at(3, 4, before={"a"}, after={"b"}) == {"a": 1, "b": 0}


def test_a_term_that_is_not_wanted_is_not_computed() -> None:
    model, batch = JSG(DIMS, **SMALL), make_batch()
    glance = model(batch, terms=frozenset({"glance_nce", "glance_triplet"}))
    assert glance.gaze is None and glance.sides is None
    assert model(batch, terms=GAZE).sides is None
    assert model(batch, terms=BESIDE).sides is not None
    assert (
        model.unavailable_terms == ATTENTION
        and not JSG(DIMS, video_level=True, **SMALL).unavailable_terms
    )


def test_two_paragraphs_of_one_video_lend_each_other_no_negatives() -> None:
    torch.manual_seed(0)
    model = JSG(DIMS, **SMALL).eval()
    first = make_sample(0, 3, video=7)
    batch = collate([first, dataclasses.replace(first, paragraph_id="other")])
    terms, out = JSG.losses(), model(batch)
    for name in ("glance_triplet", "gaze_triplet", "gaze_hard_triplet"):
        assert terms[name](out, batch).item() == 0
    for name in ("glance_nce", "gaze_nce"):  # nothing but the pair itself, twice
        assert terms[name](out, batch).item() == pytest.approx(math.log(2), rel=1e-5)


def test_for_ranking_videos_the_gaze_does_not_teach_the_sentences() -> None:
    for video_level in (False, True):
        torch.manual_seed(0)
        model, batch = JSG(DIMS, video_level=video_level, **SMALL), make_batch()
        out = model(batch, terms=GAZE)
        JSG.losses()["gaze_nce"](out, batch).backward()
        learns = any(p.grad is not None for p in model.query.parameters())
        assert learns != video_level
        assert model.frame[2].weight.grad.abs().sum() > 0


# Answers.


def test_a_paragraph_likes_a_video_as_its_sentences_do_on_average() -> None:
    torch.manual_seed(0)
    model, batch = JSG(DIMS, glance_share=0.3, **SMALL).eval(), make_batch()
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found = model.similarity(paragraphs, videos)
    streams = {"clips": (model.glance_windows, 0.3), "frames": (model.gaze_windows, 0.7)}
    for b, sentences in enumerate(paragraphs["sentences"]):
        own = sentences[batch.sentence_mask[b]]
        for v in range(4):
            total = 0.0
            for q in own:
                for stream, (windows, share) in streams.items():
                    pooled = [sum(w * x for w, x in zip(row, videos[stream][v], strict=True))
                              for row in windows]  # fmt: skip
                    total += share * max(cosine(q, x) for x in pooled)
            assert found[b, v].item() == pytest.approx(total / len(own), abs=1e-5)


def test_a_gallery_in_blocks_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = JSG(DIMS, **SMALL).eval(), make_batch()
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    whole = model.similarity(paragraphs, videos)
    monkeypatch.setattr("lib.models.jsg.GALLERY_BLOCK", 3)
    assert torch.allclose(model.similarity(paragraphs, videos), whole, atol=1e-6)


def test_moments_are_ranked_by_the_gaze_over_the_whole_grid() -> None:
    torch.manual_seed(0)
    model, batch = JSG(DIMS, **SMALL).eval(), make_batch((2, 3))
    found = ground(model, batch)
    queries = model.encode_paragraphs(batch)["sentences"][batch.sentence_mask]
    frames = model.encode_videos(batch.video)["frames"]
    assert torch.equal(found.spans, model.spans)
    for m, b in enumerate(batch.owner.tolist()):
        for p, window in enumerate(model.gaze_windows):
            assert found.scores[m, p].item() == pytest.approx(
                cosine(queries[m], window @ frames[b]), abs=1e-5
            )


def test_the_cosine_takes_the_best_row_where_separation_takes_the_moment() -> None:
    """Rows of the middle third are like the sentence, one of them most; another sentence is like
    the whole video."""
    dims = dataclasses.replace(DIMS, num_frames=64)
    answers = {}
    model = JSG(dims, hidden_size=4, heads=2)
    for source in ("scores", "evidence"):
        frames = torch.tensor([0.0, 0.5, 1.0, 0.0]).repeat(1, 64, 1)
        frames[0, 21:43, 0] = 1
        frames[0, 30] = torch.tensor([2.0, 0.5, 0.0, 0.0])
        paragraphs = {
            "sentences": torch.eye(4)[None, :2],
            "mask": torch.ones(1, 2, dtype=torch.bool),
        }
        clips = frames[:, 2::5]
        videos = {"clips": clips, "frames": frames}
        videos["frame_lengths"] = (model.gaze_windows @ frames).norm(dim=-1)
        found = decode(model.ground_pairs(paragraphs, videos), Decoding(source=source))
        answers[source] = found.spans[found.scores[0].argmax()].tolist()
    start, end = answers["scores"]
    assert end - start < 0.06 and start < 30.5 / 64 < end
    assert answers["evidence"] == pytest.approx([21 / 64, 43 / 64], abs=0.07)
