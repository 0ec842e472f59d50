"""MS-SL: the numbers it is known by, its windows in loops, and its tables against pairs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from lib.base.batch import Batch, Sample, collate
from lib.decoding import Decoding, decode
from lib.losses import Criterion
from lib.losses.sentences import joint_nce, multi_positive_nce, sentence_triplet
from lib.models.interface import ground
from lib.models.ms_sl import FRAME, MSSL, uniform_windows
from tests.properties import DIMS, make_batch, make_sample

SMALL = {"hidden_size": 16, "heads": 2}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def runs(num_clips: int) -> list[tuple[int, int]]:
    """Starts and widths, in the released order."""
    return [(s, w) for w in range(1, num_clips + 1) for s in range(num_clips - w + 1)]


def shaken(seed: int = 0, **more: float) -> MSSL:
    """Small, in evaluation mode, and with an attention that is not flat."""
    torch.manual_seed(seed)
    model = MSSL(DIMS, **SMALL, **more).eval()
    for p in model.parameters():
        p.data += torch.randn_like(p) * 0.3
    return model


@pytest.mark.parametrize(
    ("video_dim", "word_dim", "parameters"),
    [(1024, 1024, 3_370_752), (3072, 768, 4_852_992), (500, 300, 2_686_760)],
)
def test_it_has_the_released_number_of_parameters(
    video_dim: int, word_dim: int, parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    dims = dataclasses.replace(
        DIMS, video_dim=video_dim, word_dim=word_dim, num_frames=128, num_clips=32
    )
    assert sum(p.numel() for p in MSSL(dims).parameters()) == parameters


def test_the_windows_are_the_means_of_all_runs_of_clips() -> None:
    spans, windows = uniform_windows(32)
    assert len(spans) == len(windows) == 528
    assert int((windows > 0).sum()) == 5984
    rows = torch.randn(32, 5)
    for p, (start, width) in enumerate(runs(32)):
        assert spans[p].tolist() == [start / 32, (start + width) / 32]
        assert torch.allclose(windows[p] @ rows, rows[start : start + width].mean(0), atol=1e-6)


def test_clips_are_unit_means_of_consecutive_rows_and_frames_are_unit_rows() -> None:
    model, video = shaken(), torch.randn(2, 32, DIMS.video_dim)
    found = model.encode_videos(video)
    for b in range(2):
        means = torch.stack([video[b, 4 * n : 4 * n + 4].mean(dim=0) for n in range(8)])
        clips = means / means.norm(dim=1, keepdim=True)
        clips = model.clip_encoder(model.clip_positions(model.clip(clips[None])))
        frames = video[b] / video[b].norm(dim=1, keepdim=True)
        frames = model.frame_encoder(model.frame_positions(model.frame(frames[None])))
        assert torch.allclose(found["clips"][b], clips[0], atol=1e-5)
        assert torch.allclose(found["values"][b], frames[0] @ model.attended.weight.T, atol=1e-5)


# Losses.


def test_contrasts_and_hinges_of_known_matrices() -> None:
    D = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    owner, same = torch.tensor([0, 0, 1]), torch.eye(2, dtype=torch.bool)
    assert multi_positive_nce(D, owner, same).item() == pytest.approx(0.2895542 + 0.1320951)
    S = torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 0.0], [0.0, 1.0, 1.0]])
    each = torch.arange(3), torch.eye(3, dtype=torch.bool)
    assert joint_nce(S, *each).item() == pytest.approx(1.1729628)
    pools = {"margin": 0.1, "video_pool": 1, "sentence_pool": 1}
    assert sentence_triplet(S / 4, *each, **pools).item() == pytest.approx(2 * 0.0333333, abs=1e-6)
    constant = torch.full((4, 4), -1.3)
    found = joint_nce(constant, torch.arange(4), torch.eye(4, dtype=torch.bool))
    assert found.item() == pytest.approx(2.0794415)


def test_hard_negatives_take_over_in_the_twentieth_epoch() -> None:
    terms = MSSL.losses()
    criterion = Criterion(terms, dict.fromkeys(terms, 1.0))
    for epoch in (0, 19, 20, 99):
        (stage,) = MSSL.plan().stages(epoch)
        active = {name for name in criterion.scaled(stage.factors).active if "triplet" in name}
        kind = "hard_triplet" if epoch >= 20 else "triplet"
        assert active == {f"{part}_{kind}" for part in ("clip", "frame")}


def test_the_hardest_sentence_is_no_draw_over_the_clips_and_one_over_the_frames() -> None:
    """Of two videos there is one other for a sentence, but three other sentences for a video."""
    model, batch = shaken(), make_batch((3, 3))
    terms, out = MSSL.losses(margin=2.0), model(batch)
    seen: dict[str, set[float]] = {"clip_hard_triplet": set(), "frame_hard_triplet": set()}
    for seed in range(10):
        for name, values in seen.items():
            torch.manual_seed(seed)
            values.add(round(terms[name](out, batch).item(), 5))
    assert len(seen["clip_hard_triplet"]) == 1 < len(seen["frame_hard_triplet"])


def test_frames_that_no_term_reads_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = shaken(), make_batch()
    assert model(batch, terms=FRAME).frame is not None
    monkeypatch.setattr(model, "_frames", None)
    assert model(batch, terms=frozenset({"clip_nce", "clip_triplet"})).frame is None


def test_sentences_of_one_video_lend_each_other_no_negatives() -> None:
    """Over the frames the release takes them as such."""
    model, first = shaken(), make_sample(0, 3, video=7)
    batch = collate([first, dataclasses.replace(first, paragraph_id="other")])
    terms, out = MSSL.losses(), model(batch)
    for name in ("clip_triplet", "clip_hard_triplet", "frame_triplet", "frame_hard_triplet"):
        assert terms[name](out, batch).item() == 0
    # Nothing but the pair itself, twice.
    assert terms["frame_nce"](out, batch).item() == pytest.approx(math.log(2), rel=1e-5)
    assert terms["clip_nce"](out, batch).item() == pytest.approx(0, abs=1e-5)


def test_in_training_all_sentences_see_a_video_through_the_key_clip_of_its_own() -> None:
    """The release's gap: at test each sentence has a key clip in each video. On the own videos
    both are one, and elsewhere they are not."""
    model, batch = shaken(), make_batch((3, 1))
    seen = model(batch).frame.cosine
    videos = model.encode_videos(batch.video)
    paragraphs = model.encode_paragraphs(batch)
    sentences = batch.flat(paragraphs["sentences"])
    model.clip_share = 0.0
    at_test = model._block(sentences, *videos.values())
    for m, b in enumerate(batch.owner.tolist()):
        assert seen[m, m].item() == pytest.approx(at_test[m, b].item(), abs=1e-5)
    # The columns of the three sentences of the first video differ, for one and the same sentence.
    assert (seen[3, :3].max() - seen[3, :3].min()).item() > 1e-3


# Answers.


def pairwise(model: MSSL, q: torch.Tensor, clips: torch.Tensor, frames: torch.Tensor) -> float:
    """The released score of a sentence and a video: an attention for each pair."""
    pooled = [clips[s : s + w].mean(dim=0) for s, w in runs(len(clips))]
    key = max(pooled, key=lambda x: cosine(q, x))
    guide = model.attended_by.weight @ key
    share = torch.stack([guide @ row for row in frames]).softmax(dim=0)
    attended = sum(s * (model.attended.weight @ row) for s, row in zip(share, frames, strict=True))
    return model.clip_share * cosine(q, key) + (1 - model.clip_share) * cosine(q, attended)


@pytest.mark.parametrize("block", [32, 3])
def test_the_tables_of_a_video_score_as_an_attention_for_each_pair(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a paragraph likes a video as its sentences do on average, once scales are summed."""
    monkeypatch.setattr("lib.models.ms_sl.GALLERY_BLOCK", block)
    model, batch = shaken(clip_share=0.6), make_batch()
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found, frames = model.similarity(paragraphs, videos), model._frames(batch.video)
    for b, sentences in enumerate(paragraphs["sentences"]):
        own = sentences[batch.sentence_mask[b]]
        for v in range(len(batch)):
            each = [pairwise(model, q, videos["clips"][v], frames[v]) for q in own]
            assert found[b, v].item() == pytest.approx(sum(each) / len(own), abs=1e-5)
    assert found.std() > 0.01


def test_one_sentence_of_one_word_and_one_video() -> None:
    """The release squeezes such axes away and fails."""
    model, sample = shaken(), make_sample(0, 1)
    sample = dataclasses.replace(
        sample,
        **{name: getattr(sample, name)[:1] for name in ("words", "word_ids", "word_weights")},
        word_counts=torch.tensor([1]),
    )
    batch = collate([sample])
    out = model(batch)
    assert out.frame.cosine.shape == out.clip.cosine.shape == (1, 1)
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    assert model.similarity(paragraphs, videos).isfinite().all()


def test_moments_are_ranked_by_the_cosines_with_all_windows() -> None:
    model, batch = shaken(), make_batch((2, 3))
    found = ground(model, batch, Decoding(source="scores"))
    queries = model.encode_paragraphs(batch)["sentences"][batch.sentence_mask]
    clips = model.encode_videos(batch.video)["clips"]
    assert torch.equal(found.spans, model.spans)
    for m, b in enumerate(batch.owner.tolist()):
        for p, (start, width) in enumerate(runs(8)):
            pooled = clips[b, start : start + width].mean(dim=0)
            assert found.scores[m, p].item() == pytest.approx(cosine(queries[m], pooled), abs=1e-5)


def test_evidence_over_rows_is_that_of_single_clips_and_single_frames() -> None:
    model, batch = shaken(clip_share=0.6), make_batch((2,))
    paragraphs, videos = model.encode_paragraphs(batch), model.encode_videos(batch.video)
    found = model.ground_pairs(paragraphs, videos, frozenset({"clips"}))
    frames = model._frames(batch.video)[0]
    assert found.scores is None and found.clips["row_cosine"].shape == (2, 32)
    for m, q in enumerate(paragraphs["sentences"][0]):
        for t in range(32):
            clip = cosine(q, videos["clips"][0, t // 4])
            frame = cosine(q, model.attended.weight @ frames[t])
            wanted = 0.6 * clip + 0.4 * frame
            assert found.clips["row_cosine"][m, t].item() == pytest.approx(wanted, abs=1e-5)


def test_the_cosine_takes_the_best_clip_where_separation_takes_the_moment() -> None:
    """Clips of the middle third are like the sentence, one of them most; another sentence is like
    the whole video. The best of many windows is then one of the narrowest."""
    model = MSSL(dataclasses.replace(DIMS, num_clips=32), hidden_size=4, heads=2)
    clips = torch.tensor([0.0, 0.5, 1.0, 0.0]).repeat(1, 32, 1)
    clips[0, 11:21, 0] = 1
    clips[0, 15] = torch.tensor([2.0, 0.5, 0.0, 0.0])
    paragraphs = {"sentences": torch.eye(4)[None, :2], "mask": torch.ones(1, 2, dtype=torch.bool)}
    videos = {"clips": clips, "values": clips}
    videos["clip_lengths"] = (model.windows @ clips).norm(dim=-1)
    answers = {}
    for source in ("scores", "evidence"):
        found = decode(model.ground_pairs(paragraphs, videos), Decoding(source=source))
        answers[source] = found.spans[found.scores[0].argmax()].tolist()
    assert answers["scores"] == [15 / 32, 16 / 32]
    assert answers["evidence"] == pytest.approx([11 / 32, 21 / 32], abs=0.04)


def partly_told(count: int, first: int, words: torch.Tensor, rows: torch.Tensor) -> list[Sample]:
    """Videos of noise in which each of two sentences is visible for a quarter of the time. A
    sentence is one of ten words beside four that say nothing."""
    samples = []
    for index in range(first, first + count):
        g = torch.Generator().manual_seed(index)
        sample = make_sample(index, 2)
        ids = torch.randperm(10, generator=g)[:2]
        video = torch.randn(32, DIMS.video_dim, generator=g) * 0.5
        video[4:12] += 2 * rows[ids[0]]
        video[18:26] += 2 * rows[ids[1]]
        told = torch.randn(10, DIMS.word_dim, generator=g) * 0.3
        told[[2, 7]] = words[ids]
        samples.append(
            dataclasses.replace(
                sample,
                video=video,
                words=told,
                word_ids=torch.full((10,), 2),
                word_weights=torch.ones(10),
                word_counts=torch.tensor([5, 5]),
                moments=torch.full((2, 2), torch.nan),
            )
        )
    return samples


def test_it_finds_unseen_videos_and_what_is_told_in_them_without_a_moment() -> None:
    """Of 24 videos at chance the right one is first for 1 in 24, and a quarter of the rows is in a
    moment."""
    g = torch.Generator().manual_seed(0)
    words = torch.randn(10, DIMS.word_dim, generator=g) * 2
    rows = nn.functional.normalize(torch.randn(10, DIMS.video_dim, generator=g), dim=1) * 2
    torch.manual_seed(0)
    model = MSSL(DIMS, hidden_size=32, heads=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    weights = {"clip_nce": 0.02, "clip_triplet": 1, "frame_nce": 0.04, "frame_triplet": 1}
    criterion = Criterion(MSSL.losses(), weights)
    batches = [collate(partly_told(24, 100 + 24 * i, words, rows)) for i in range(4)]
    for step in range(50):
        batch: Batch = batches[step % 4]
        optimizer.zero_grad()
        criterion(model(batch, frozenset(weights)), batch)["total"].backward()
        optimizer.step()
    model.eval()
    unseen = collate(partly_told(24, 0, words, rows))
    with torch.no_grad():
        paragraphs, videos = model.encode_paragraphs(unseen), model.encode_videos(unseen.video)
        scores = model.similarity(paragraphs, videos)
        evidence = model.ground_pairs(paragraphs, videos).clips["row_cosine"].unflatten(0, (-1, 2))
    right = (scores.argmax(dim=1) == torch.arange(24)).float().mean()
    best = evidence.argmax(dim=-1)
    inside = (best >= torch.tensor([4, 18])) & (best < torch.tensor([12, 26]))
    assert right > 0.4 and inside.float().mean() > 0.6
