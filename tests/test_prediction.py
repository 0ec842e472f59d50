"""Every video and paragraph is read once, and what is kept answers as reading afresh would."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lib.training.prediction as prediction
from lib.base.batch import Batch, Layout, Sample, collate
from lib.base.runtime import Runtime
from lib.datasets import LoadedCorpus
from lib.decoding import Decoding, Evidence
from lib.evaluation.examples import maps_of_cells
from lib.evaluation.records import Ranking, clips_of
from lib.models.interface import Encoded, Model, ground
from lib.models.scn import spans_by_end
from lib.training.prediction import (
    Grounding,
    Read,
    best_moments,
    ground_in,
    read_split,
    similarities,
    split_candidates,
)
from tests.properties import make_sample
from tests.test_properties import a_tiny_pretrained_encoder  # noqa: F401 (a fixture)
from tests.variants import PARAGRAPH_SOFTMAX, VARIANTS

CPU = Runtime(torch.device("cpu"))
SIZES = (3, 1, 4, 2, 2)
SAMPLES = [make_sample(index, size) for index, size in enumerate(SIZES)]
PAIRS = np.array([[0, 3, 1], [1, 0, 4], [2, 4, 4], [3, 1, 0], [4, 0, 2]])  # the own video first
RULES = {"moments": 3, "nms_iou": 0.5}


def batch_of(samples: Sequence[Sample], dtype: torch.dtype = torch.float64) -> Batch:
    """In double precision, so that the order of a sum does not matter: scores may be ratios."""
    batch = collate(samples)
    return dataclasses.replace(batch, video=batch.video.to(dtype), words=batch.words.to(dtype))


def read(model: nn.Module, dtype: torch.dtype = torch.float64) -> Read:
    """Paragraphs two by two, without their videos, and videos three by three."""
    blind = [dataclasses.replace(s, video=s.video[:0]) for s in SAMPLES]
    texts = [batch_of(blind[i : i + 2], dtype) for i in range(0, len(blind), 2)]
    videos = batch_of(SAMPLES, dtype).video.split(3)
    return read_split(model, texts, videos, CPU, num_videos=len(SAMPLES))


def built(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return VARIANTS[name]().to(dtype).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_pairs_from_what_is_kept_are_grounded_as_each_pair_alone(name: str) -> None:
    model = built(name)
    decoding = getattr(model, "decoding", Decoding())
    found = ground_in(model, read(model), PAIRS, CPU, decoding, {}, pairs=7, **RULES)
    spans, scores = [], []
    for sample, row in zip(SAMPLES, PAIRS, strict=True):
        for video in row:
            alone = batch_of([dataclasses.replace(sample, video=SAMPLES[video].video)])
            with torch.no_grad():
                proposals = ground(model, alone, decoding)
            span, score = best_moments(proposals, **RULES)
            spans.append(span)
            scores.append(score)
    assert np.allclose(found.scores, np.concatenate(scores), rtol=1e-6, atol=1e-6)
    assert np.allclose(found.spans, np.concatenate(spans), atol=1e-6, equal_nan=True)


def test_suppression_in_rounded_seconds_takes_the_duration_of_each_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, taken = prediction.greedy_suppression, []

    def suppress(*arguments: Tensor, durations: Tensor | None, **rules: object) -> object:
        taken.append(durations)
        return real(*arguments, durations=durations, **rules)

    monkeypatch.setattr(prediction, "greedy_suppression", suppress)
    model, durations = built("tan2d"), 10.0 + np.arange(len(SAMPLES))
    kept = read(model)
    ground_in(model, kept, PAIRS, CPU, Decoding(), {}, pairs=7, **RULES)
    assert taken and all(each is None for each in taken)
    taken.clear()
    ground_in(model, kept, PAIRS, CPU, Decoding(), {}, pairs=7, **RULES, durations=durations)
    found = torch.cat([each for each in taken if each is not None]).tolist()
    wanted = [
        durations[v]
        for size, row in zip(SIZES, PAIRS, strict=True)
        for v in row
        for _ in range(size)
    ]
    assert found == wanted


@pytest.mark.parametrize("pairs", [1, 5, 10_000])
def test_how_many_pairs_are_grounded_at_once_changes_nothing(pairs: int) -> None:
    model = built("dmr_jrg_evidence, aligned")
    kept = read(model)
    few, many = (
        ground_in(model, kept, PAIRS, CPU, PARAGRAPH_SOFTMAX, {}, pairs=n, **RULES)
        for n in (pairs, 7)
    )
    assert np.allclose(few.scores, many.scores, atol=1e-6)
    assert np.array_equal(few.grid, many.grid)


def test_spans_are_exact_on_a_grid_of_clips_and_left_alone_elsewhere() -> None:
    clips = built("mmn")
    found = ground_in(clips, read(clips), PAIRS, CPU, Decoding(), {}, pairs=7, **RULES)
    assert np.array_equal(found.grid * 8, np.round(found.grid * 8))
    bells = built("jsg")
    found = ground_in(bells, read(bells), PAIRS, CPU, Decoding(), {}, pairs=7, **RULES)
    assert np.abs(found.grid - bells.spans.numpy()).max() < 1e-6  # and to no coarser grid


class Counting(Model):
    """A model that remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.videos, self.paragraphs, self.grounded = 0, 0, []

    def encode_videos(self, video: Tensor) -> Encoded:
        self.videos += len(video)
        return {"mean": video.mean(dim=1)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        self.paragraphs += len(batch)
        return {"mask": batch.sentence_mask}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Tensor:
        return paragraphs["mask"].sum(dim=1, keepdim=True) + videos["mean"].sum(dim=1)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        sentences = int(paragraphs["mask"].sum())
        self.grounded.append(sentences)
        assert len(paragraphs["mask"]) == len(videos["mean"])
        spans = torch.tensor([[0.0, 0.5], [0.5, 1.0]])
        layout = Layout.of(paragraphs["mask"])
        return Evidence(layout, spans, 2, torch.zeros(sentences, 2))


def test_everything_is_read_once_and_pairs_stay_below_the_limit() -> None:
    model = Counting()
    kept = read(model)
    similarities(model, kept, CPU)
    ground_in(model, kept, PAIRS, CPU, Decoding(), {}, pairs=5, **RULES)
    assert (model.videos, model.paragraphs) == (len(SAMPLES), len(SAMPLES))
    assert sum(model.grounded) == sum(SIZES) * PAIRS.shape[1]
    # A step's paragraphs of 3 and 1, 4 and 2, and 2 sentences, in three videos each.
    assert model.grounded == [3, 3, 5, 1, 4, 4, 4, 4, 2, 4, 2]


@pytest.mark.parametrize("name", ["dmr_jrg", "dmr_jrg_evidence, aligned", "mmn", "dciml", "jsg"])
def test_videos_kept_in_main_memory_answer_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(name, torch.float32)
    whole = similarities(model, read(model, torch.float32), CPU)
    monkeypatch.setattr(prediction, "ON_DEVICE", 1)  # compared one by one
    assert np.allclose(similarities(model, read(model, torch.float32), CPU), whole, atol=1e-6)
    assert whole.shape == (len(SAMPLES), len(SAMPLES))


def test_own_video_and_candidates_are_distinguished() -> None:
    # Two paragraphs of 1 and 2 sentences, each in its own video and in two candidates.
    number = np.arange(9.0)[:, None]
    grounding = Grounding(np.stack([number, number + 0.5], axis=-1), number, None)
    best = Ranking(np.array([[5, 6], [7, 8]]), np.array([[0.5, 0.6], [0.7, 0.8]]))
    own, candidates = split_candidates(grounding, best, np.array([1, 2]))
    assert own.scores[:, 0].tolist() == [0, 3, 4]
    assert candidates.scores[..., 0].tolist() == [[1, 2], [5, 7], [6, 8]]
    assert candidates.videos.tolist() == [[5, 6], [7, 8], [7, 8]]
    assert candidates.video_scores.tolist() == [[0.5, 0.6], [0.7, 0.8], [0.7, 0.8]]
    assert candidates.spans[1, 1, 0].tolist() == [7, 7.5]


def test_paragraphs_are_read_without_their_videos(tiny: LoadedCorpus) -> None:
    split = tiny["val"]
    for index in range(len(split)):
        whole, text = split[index], split.texts[index]
        assert text.video.shape == (0, whole.video.shape[1]) and len(whole.video)
        assert all(torch.equal(a, b) for a, b in zip(whole.words, text.words, strict=True))
        assert (whole.video_index, whole.paragraph_id) == (text.video_index, text.paragraph_id)


def test_spans_need_not_be_as_short_as_the_clips_they_end_on() -> None:
    """Eighths of a video, the shortest span two of them: score maps keep the odd ones."""
    cells, spans = spans_by_end(8, (0.25, 0.625))
    assert clips_of(spans.double().numpy()) == 8
    scores = np.arange(len(cells), dtype=np.float32)[None]
    maps = maps_of_cells(spans.double().numpy(), scores)
    assert maps.shape == (1, 8, 8) and np.isfinite(maps).sum() == len(cells)
    for score, (start, end) in zip(scores[0], (spans * 8).round().long().tolist(), strict=True):
        assert maps[0, start, end - 1] == score


def test_spans_without_common_borders_share_the_cells_they_fall_into() -> None:
    """Centres and widths: a cell is as long as the shortest span, and shows the best score."""
    centre, width = np.linspace(0.1, 0.9, 7)[:, None], np.array([0.2, 0.37, 0.59, 1.0])
    spans = np.stack([centre - width / 2, centre + width / 2], axis=-1).clip(0, 1).reshape(-1, 2)
    assert clips_of(spans) == 5
    scores = np.random.default_rng(0).random((2, len(spans)))
    maps = maps_of_cells(spans, scores)
    assert maps.shape == (2, 5, 5)
    for row in range(2):
        best: dict[tuple[int, int], float] = {}
        for score, (start, end) in zip(scores[row], np.round(spans * 5).astype(int), strict=True):
            cell = (min(start, 4), max(end - 1, min(start, 4)))
            best[cell] = max(score, best.get(cell, 0))
        assert np.isfinite(maps[row]).sum() == len(best)
        assert all(maps[row][cell] == np.float32(score) for cell, score in best.items())
