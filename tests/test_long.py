"""Long videos: windows, tracks, and moments planted in hours of noise."""

from __future__ import annotations

import dataclasses
import itertools
import math
import resource
import time

import pytest
import torch
from torch import Tensor, nn

from lib.base.batch import Layout, collate
from lib.base.moments import cell_spans, iou
from lib.decoding import Decoding, Evidence
from lib.decoding.long import (
    Grounded,
    Window,
    _contrasts,
    _maxima,
    _noise,
    _path,
    _suppressed,
    ground_windows,
    track,
    windows,
)
from lib.decoding.separation import separation
from lib.models.linear_align import LinearAlign
from tests.properties import DIMS, make_sample

torch.set_num_threads(1)
N = 32
HOURS = 10_800
SPANS = cell_spans(N, torch.ones(N, N, dtype=torch.bool).triu())
ORDERED = Decoding(method="posterior", ordered=True)


# Simulated evidence: one number a second, whose noise is scenes and single seconds.


def noise(sentences: int, seconds: int, seed: int, *, scene: float = 0.15) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    cuts = torch.rand(sentences, seconds, generator=g, dtype=torch.float64) < 1 / 30
    number = cuts.long().cumsum(dim=1)
    levels = torch.randn(sentences, int(number.max()) + 1, generator=g, dtype=torch.float64)
    single = torch.randn(sentences, seconds, generator=g, dtype=torch.float64)
    return scene * levels.gather(1, number) + 0.4 * single


def planted(lengths: list[float], seconds: int, seed: int) -> Tensor:
    """Moments of these lengths anywhere, in the order of their starts."""
    g = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths, dtype=torch.float64).round()
    start = (
        torch.rand(len(lengths), generator=g, dtype=torch.float64) * (seconds - length)
    ).round()
    order = start.argsort()
    return torch.stack([start, start + length], dim=1)[order]


def shown(rows: Tensor, moments: Tensor) -> Tensor:
    at = torch.arange(rows.shape[1])
    return rows + ((at >= moments[:, :1]) & (at < moments[:, 1:])).to(rows)


def averaged(rows: Tensor, part: Window, clips: int = N) -> Tensor:
    """The mean of the seconds of each clip of a window, by area: (S, N)."""
    sums = nn.functional.pad(rows.cumsum(dim=1), (1, 0))
    edges = torch.linspace(part.start, part.end, clips + 1, dtype=torch.float64)
    edges = edges.clamp(0, rows.shape[1])
    low = edges.floor().long().clamp(max=rows.shape[1] - 1)
    at = sums[:, low] + (edges - low) * (sums[:, low + 1] - sums[:, low])
    return at.diff(dim=1) / edges.diff()


def evidence_of(rows: Tensor, parts: tuple[Window, ...]) -> Evidence:
    clips = torch.cat([averaged(rows, part) for part in parts]).float()
    layout = Layout.of(torch.ones(len(parts), len(rows), dtype=torch.bool))
    return Evidence(layout, SPANS, N, clips={"alignment": clips})


def grounded(rows: Tensor, decoding: Decoding = ORDERED, *, top: int = 5) -> Grounded:
    duration = float(rows.shape[1])
    parts = windows(duration, 64, num_clips=N)
    return ground_windows(evidence_of(rows, parts), parts, duration, decoding, top=top, nms_iou=0.5)


SHORT = [5 * 40 ** (i / 23) for i in range(24)]  # 5 to 200 seconds
LONG = [1200.0, 1800.0, 2700.0, 3600.0]


# Windows.


@pytest.mark.parametrize("duration", [67.3, 83.0, 100.0, 640.0, 3600.5])
@pytest.mark.parametrize(("overlap", "growth"), [(0.5, 4), (0.25, 2), (0.0, 8)])
def test_windows_lie_on_the_grid_and_leave_no_gap(
    duration: float, overlap: float, growth: int
) -> None:
    parts = windows(duration, 64, num_clips=N, growth=growth, overlap=overlap)
    assert parts[-1] == Window(0.0, duration, parts[-1].scale)
    hop = round(N * (1 - overlap)) / N
    for scale, members in itertools.groupby(parts[:-1], lambda part: part.scale):
        of_scale, length = list(members), 64 * growth**scale
        assert all(part.end - part.start == pytest.approx(length) for part in of_scale)
        on_grid = [part.start / (hop * length) for part in of_scale[:-1]]
        assert on_grid == pytest.approx(list(range(len(on_grid))))
        assert of_scale[0].start == 0 and of_scale[-1].end == pytest.approx(duration)
        for one, other in itertools.pairwise(of_scale):
            assert one.start < other.start <= one.end + 1e-9
    assert [part.scale for part in parts] == sorted(part.scale for part in parts)


def test_a_short_video_is_one_window() -> None:
    assert windows(40, 64, num_clips=N) == (Window(0.0, 40, 0),)
    assert windows(67, 64, num_clips=N) == (Window(0.0, 67, 0),)
    assert len(windows(68, 64, num_clips=N)) == 3
    for bad in ({"duration": 0.0}, {"length": math.nan}, {"growth": 1}, {"overlap": 1.0}):
        with pytest.raises(ValueError, match="windows of|growth"):
            windows(**{"duration": 100.0, "length": 64.0, "num_clips": N, **bad})


# Tracks.


def test_a_track_is_what_the_windows_say() -> None:
    """Evidence that is the same in every window is found again, off the grid averaged by area."""
    rows = noise(3, 301, seed=0)
    parts = windows(301, 64, num_clips=N)[:-3]
    assert {part.scale for part in parts} == {0}
    values = torch.stack([averaged(rows, part) for part in parts])
    stitched = track(values, parts, 301)
    whole = averaged(rows, Window(0, 302, 0), 151)
    assert stitched.shape == (3, 151)
    torch.testing.assert_close(stitched[:, :118], whole[:, :118])  # before the last window
    ramp = torch.arange(301, dtype=torch.float64).expand(1, -1)
    values = torch.stack([averaged(ramp, part) for part in parts])
    torch.testing.assert_close(
        track(values, parts, 301)[:, 118:150],
        averaged(ramp, Window(0, 302, 0), 151)[:, 118:150],
        atol=0.6,
        rtol=0,
    )


def test_clips_at_a_windows_edge_count_least() -> None:
    parts = [Window(0, 8, 0), Window(4, 12, 0)]
    values = torch.stack([torch.zeros(1, 8), torch.ones(1, 8)])
    expected = torch.tensor([[0] * 4 + [1 / 8, 3 / 8, 5 / 8, 7 / 8] + [1] * 4]).float()
    torch.testing.assert_close(track(values, parts, 12), expected)


# Moments from evidence over clips.


def test_contrasts_by_loops() -> None:
    values = noise(2, 40, seed=1)
    lengths = torch.tensor([1, 3, 8, 40])
    found = _contrasts(values, lengths)
    for s, (r, length), i in itertools.product(range(2), enumerate(lengths.tolist()), range(40)):
        around = math.ceil(1.5 * length)
        j = i + length
        beside = [*values[s, max(0, i - around) : i].tolist(), *values[s, j : j + around].tolist()]
        if j > 40 or not beside:
            assert found[s, r, i].isnan()
            continue
        difference = values[s, i:j].mean().item() - sum(beside) / len(beside)
        expected = difference / math.sqrt(1 / length + 1 / len(beside))
        assert found[s, r, i].item() == pytest.approx(expected)


def test_moments_of_seconds_and_of_an_hour_are_found_in_three_hours() -> None:
    moments = planted(SHORT + LONG, HOURS, seed=0)
    rows = shown(noise(len(moments), HOURS, seed=0), moments)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = grounded(rows)
    assert time.process_time() - began < 10  # seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    overlap = iou(found.spans, moments[:, None])
    assert found.spans.dtype == torch.float64 and found.spans.shape == (28, 5, 2)
    assert (overlap[:, 0] >= 0.5).double().mean() >= 0.9
    assert (overlap >= 0.5).any(dim=1).double().mean() >= 0.95
    is_long = moments[:, 1] - moments[:, 0] > 1000
    assert (overlap[is_long, 0] >= 0.7).all()  # as a whole, not in pieces
    ends = (found.spans[is_long, 0] - moments[is_long]).abs()
    assert ends.median() <= 8  # though the clips of the scales that see it are 128 seconds and more
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.spans >= 0).all() and (found.spans <= HOURS).all()
    assert (found.spans[..., 0] < found.spans[..., 1]).all()
    twins = iou(found.spans[:, :, None], found.spans[:, None]) - torch.eye(5)
    assert twins.max() <= 0.5 + 1e-6


@pytest.mark.parametrize("offset", [17, 21, 1000])  # 21: a third of a window
def test_material_in_front_moves_no_moment(offset: int) -> None:
    seconds = 3600
    moments = planted([8.0, 20.0, 45.0, 100.0, 200.0, 600.0], seconds, seed=2)
    rows = shown(noise(6, seconds, seed=2), moments)
    longer = torch.cat([noise(6, offset, seed=3), rows], dim=1)
    here = grounded(rows).spans[:, 0]
    moved = grounded(longer).spans[:, 0] - offset
    clip = torch.tensor([2.0, 2.0, 8.0, 8.0, 8.0, 32.0])[
        (moments[:, 1] - moments[:, 0]).argsort().argsort()
    ]
    assert (iou(here, moments) >= 0.5).all()
    assert ((moved - here).abs() <= 2 * clip[:, None]).all()


def test_an_empty_window_has_no_moment() -> None:
    """What a sentence finds is where the evidence is, however quiet the other windows are."""
    moments = torch.tensor([[1510.0, 1530.0]], dtype=torch.float64)
    rows = shown(noise(1, 3600, seed=4), moments)
    rows[:, :1000] *= 0.05  # where a standardised window would have peaks of its own
    found = grounded(rows, Decoding())
    assert iou(found.spans[:, 0], moments) > 0.7
    assert found.scores[0, 0] > 3 * found.scores[0, 1].clamp(min=1)


def test_log_odds_of_maxima() -> None:
    """A third of twelve places lies where nothing beats it: z²/2 less the places of its length."""
    z = torch.full((1, 2, 12), -1.0)
    z[0, 1, 4] = 3.0
    z[0, 0, 11] = torch.nan
    prior = torch.tensor([[-math.log(12)], [-math.log(12 / 4)]]).expand(-1, 12)
    spans, odds = _maxima(z, torch.tensor([1, 4]), prior)
    assert spans[0, 0].tolist() == [4, 8]
    assert odds[0, 0].item() == pytest.approx(9 / 2 - math.log(12 / 4))
    assert odds[0].isfinite().sum() < 24 - 9  # those beside it are none


def test_where_the_paragraph_fits_decides_between_equal_moments() -> None:
    """Two moments of every sentence, alike in strength: the windows that fit say which."""
    rows = noise(3, 2000, seed=5)
    places = torch.tensor([[300.0, 340.0], [340.0, 380.0], [380.0, 420.0]])
    for shift in (0, 1200):
        rows = shown(rows, places + shift)
    parts = windows(2000, 64, num_clips=N)
    evidence = evidence_of(rows, parts)
    found = []
    for middle in (360.0, 1560.0):
        fit = torch.tensor([9.0 * (part.start <= middle < part.end) for part in parts])
        answer = ground_windows(evidence, parts, 2000, ORDERED, top=1, nms_iou=0.5, fit=fit)
        found.append(answer.spans[:, 0])
        assert (iou(found[-1], places + (middle - 360)) > 0.5).all()
    even = torch.full((len(parts),), 7.0)  # fits everywhere alike: no prior
    plain, same = (
        ground_windows(evidence, parts, 2000, ORDERED, top=1, nms_iou=0.5, fit=each)
        for each in (None, even)
    )
    assert torch.equal(plain.spans, same.spans)
    assert torch.allclose(plain.scores, same.scores)


def test_where_the_paragraph_fits_counts_for_span_scores_too() -> None:
    rows = noise(1, 1000, seed=6)
    for shift in (200.0, 700.0):
        rows = shown(rows, torch.tensor([[shift, shift + 30]]))
    parts = windows(1000, 64, num_clips=N)
    for middle in (215.0, 715.0):
        fit = torch.tensor([9.0 * (part.start <= middle < part.end) for part in parts])
        answer = ground_windows(
            scored(rows, parts), parts, 1000, ORDERED, top=1, nms_iou=0.5, fit=fit
        )
        assert answer.spans[0, 0, 0] < middle < answer.spans[0, 0, 1]


def test_long_spans_have_the_noise_of_those_that_are_repeated() -> None:
    values = noise(3, 160, seed=11)
    lengths = torch.tensor([2, 10, 40])
    found = _noise(values, lengths, 2)
    assert found[2] == found[1] != found[0]
    for r in range(2):
        contrast = _contrasts(values, lengths[r : r + 1])[:, 0]
        shown = [_robust(row[~row.isnan()]) for row in contrast]
        single = [_robust(row) for row in values]
        assert found[r].item() == pytest.approx(
            sorted(max(pair) for pair in zip(shown, single, strict=True))[1]
        )


def _robust(row: Tensor) -> float:
    return (1.4826 * (row - row.median()).abs().median()).item()


def test_the_unit_of_a_sentences_evidence_does_not_matter() -> None:
    moments = planted([30.0, 60.0, 90.0], 1200, seed=10)
    rows = shown(noise(3, 1200, seed=10), moments)
    here, scaled = grounded(rows), grounded(rows * torch.tensor([[1.0], [100.0], [0.01]]))
    torch.testing.assert_close(here.spans, scaled.spans)
    torch.testing.assert_close(here.scores, scaled.scores, atol=1e-3, rtol=1e-3)


def test_a_moment_may_end_with_the_video() -> None:
    rows = shown(noise(1, 1201, seed=12), torch.tensor([[1150.0, 1201.0]]))
    found = grounded(rows).spans
    assert found.max() == 1201 and found[0, 0, 1] == 1201


def test_sources_and_normalisation_are_read_as_by_decode() -> None:
    """What all sentences share is no evidence, and a source of weight 0 is not read."""
    moments = planted([60.0, 60.0, 60.0, 60.0], 1800, seed=5)
    rows = shown(noise(4, 1800, seed=5), moments)
    shared = shown(torch.zeros(1, 1800, dtype=torch.float64), torch.tensor([[700.0, 760.0]]))
    rows = rows + 3 * shared
    own = grounded(rows, Decoding(normalization="paragraph_mean")).spans[:, 0]
    assert (iou(own, moments) > 0.5).all()
    raw = Decoding(normalization="paragraph_mean", raw_weight=5.0)
    for decoding in (Decoding(), raw):  # what they share wins
        common = grounded(rows, decoding).spans[:, 0]
        assert (iou(common, torch.tensor([[700.0, 760.0]]).double()) > 0.5).any()
    parts = windows(1800, 64, num_clips=N)
    evidence = evidence_of(rows, parts)
    other = torch.cat([averaged(shared.expand(4, -1), part) for part in parts]).float()
    evidence = dataclasses.replace(evidence, clips={**evidence.clips, "shared": other})
    weighted = Decoding(evidence={"shared": -3.0})
    found = ground_windows(evidence, parts, 1800, weighted, top=1, nms_iou=0.5).spans[:, 0]
    assert (iou(found, moments) > 0.5).all()


def test_sentences_that_are_alike_share_their_evidence() -> None:
    moment = torch.tensor([[300.0, 360.0]] * 3, dtype=torch.float64)
    rows = shown(noise(3, 1200, seed=8, scene=0.05), moment)
    rows[1] = noise(1, 1200, seed=58, scene=0.05)[0]  # says nothing of its own
    parts = windows(1200, 64, num_clips=N)
    text = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]).repeat(len(parts), 1)
    evidence = dataclasses.replace(evidence_of(rows, parts), text=text)
    alone = Decoding(method="posterior")
    together = dataclasses.replace(alone, alike=0.9)
    hits = [
        iou(ground_windows(evidence, parts, 1200, d, top=1, nms_iou=0.5).spans[:, 0], moment) > 0.5
        for d in (alone, together)
    ]
    assert [hit.tolist() for hit in hits] == [[True, False, True], [True, True, True]]


def test_the_evidence_must_be_that_of_the_windows() -> None:
    rows = noise(2, 400, seed=0)
    parts = windows(400, 64, num_clips=N)
    with pytest.raises(ValueError, match="expected the same sentences in each of"):
        ground_windows(evidence_of(rows, parts), parts[1:], 400, Decoding(), top=1, nms_iou=0.5)


def test_equal_scores_are_told_apart_by_place() -> None:
    spans = torch.tensor([[[5.0, 9.0], [5.0, 8.0], [0.0, 1.0], [20.0, 30.0]]], dtype=torch.float64)
    scores = torch.tensor([[1.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    expected = [[20.0, 30.0], [0.0, 1.0], [5.0, 8.0]]
    for order in itertools.permutations(range(4)):
        kept, values = _suppressed(spans[:, order], scores[:, order], 4, 0.5)
        assert kept[0, :3].tolist() == expected
        assert values[0].tolist() == [2.0, 1.0, 1.0, -math.inf]


# The path.


def brute_force(spans: Tensor, scores: Tensor, penalty: float) -> tuple[float, tuple[int, ...]]:
    best = (-math.inf, ())
    for choice in itertools.product(range(spans.shape[1]), repeat=len(spans)):
        total = 0.0
        for s, k in enumerate(choice):
            total += scores[s, k].item()
            if s:
                (a, b), (c, d) = spans[s - 1, choice[s - 1]].tolist(), spans[s, k].tolist()
                total -= penalty * min(1.0, max(0.0, a - c) / max(b - a, d - c))
        best = max(best, (total, choice))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_the_best_assignment(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(4, 5, generator=g, dtype=torch.float64) * 1000
    spans = torch.stack([start, start + 20 + 100 * torch.rand(4, 5, generator=g)], dim=-1)
    scores = 4 * torch.rand(4, 5, generator=g, dtype=torch.float64)
    scores[2, 3:] = -torch.inf
    total, choice = brute_force(spans, scores, 3.0)
    found = _path(spans, scores, 3.0, 5)
    assert torch.equal(found.spans[:, 0], spans[torch.arange(4), torch.tensor(choice)])
    for k in range(5):  # what it costs that the second sentence takes this one
        forced = scores.clone()
        forced[1, torch.arange(5) != k] = -torch.inf
        rank = (found.spans[1] == spans[1, k]).all(dim=1).nonzero()[0, 0]
        lost = (found.scores[1, 0] - found.scores[1, rank]).item()
        assert lost == pytest.approx(total - brute_force(spans, forced, 3.0)[0])
    assert found.scores[2].isinf().sum() == 2
    assert torch.equal(found.spans[2, 3], found.spans[2, 0])


def test_sentences_an_hour_apart_keep_their_order() -> None:
    """A second sentence whose words are true twice: before the first one, a little better, and an
    hour later."""
    first = torch.tensor([[3000.0, 3060.0]], dtype=torch.float64)
    early, late = ([608.0, 648.0], [7200.0, 7240.0])
    rows = noise(2, 9000, seed=8)
    rows[:1] = shown(rows[:1], first)
    rows[1:] = shown(rows[1:], torch.tensor([late]))
    rows[1, 408:848] = rows[1, 7000:7440]
    rows[1, 608:648] += 0.002
    ordered = grounded(rows, ORDERED)
    free = grounded(rows, Decoding(method="posterior"))
    assert iou(free.spans[1, 0], torch.tensor(early).double()) > 0.5
    assert iou(ordered.spans[1, 0], torch.tensor(late).double()) > 0.5
    assert iou(ordered.spans[1, 1], torch.tensor(early).double()) > 0.5
    parts = windows(9000, 64, num_clips=N)
    evidence = evidence_of(rows, parts)
    for calibration, span in (({"backward": 0.5}, early), ({"trust": 100.0}, early)):
        found = ground_windows(
            evidence, parts, 9000, ORDERED, calibration, top=1, nms_iou=0.5
        ).spans[1, 0]
        assert iou(found, torch.tensor(span).double()) > 0.5


# Scores of spans.


def scored(rows: Tensor, parts: tuple[Window, ...]) -> Evidence:
    """Of a model that scores spans: the contrast with the rest of the window, as it is."""
    evidence = evidence_of(rows, parts)
    clips = evidence.clips["alignment"]
    spread = clips.std(dim=1, unbiased=False, keepdim=True)
    return dataclasses.replace(evidence, clips={}, scores=separation(clips, SPANS) * spread)


def test_span_scores_of_windows_find_moments_of_all_lengths() -> None:
    moments = planted([10.0, 20.0, 40.0, 80.0, 160.0, 900.0], 5000, seed=9)
    rows = shown(noise(6, 5000, seed=9), moments)
    parts = windows(5000, 64, num_clips=N)
    found = ground_windows(scored(rows, parts), parts, 5000, Decoding(), top=3, nms_iou=0.5)
    overlap = iou(found.spans, moments[:, None])
    assert (overlap[:, 0] >= 0.5).sum() >= 5 and (overlap >= 0.45).any(dim=1).all()
    assert overlap[moments.diff(dim=1)[:, 0] == 900, 0] >= 0.5


def test_a_scale_of_many_windows_needs_a_better_score() -> None:
    """Of equal deviations the one that there were fewer windows to find it in is the answer."""
    parts = windows(300, 64, num_clips=N)
    layout = Layout.of(torch.ones(len(parts), 1, dtype=torch.bool))
    fine = ((SPANS * N).round() == torch.tensor((8, 16))).all(dim=1)
    coarse = ((SPANS * N).round() == torch.tensor((20, 24))).all(dim=1)
    scores = (torch.arange(len(SPANS)) % 3 - 1.0).repeat(len(parts), 1)
    scores[0, fine], scores[-1, coarse] = 3.0, 3.0
    evidence = Evidence(layout, SPANS, N, scores=scores)
    found = ground_windows(evidence, parts, 300, Decoding(), top=1, nms_iou=0.5)
    assert found.spans[0, 0].tolist() == pytest.approx([187.5, 225.0])


def test_a_span_cut_by_an_edge_is_left_out() -> None:
    """The best score of all, of a span that touches an inner edge, is not an answer; at the ends of
    the video it is."""
    parts = windows(300, 64, num_clips=N)
    layout = Layout.of(torch.ones(len(parts), 1, dtype=torch.bool))
    g = torch.Generator().manual_seed(0)
    for window, cell, kept in ((2, (0, 4), False), (2, (28, 32), False), (2, (4, 8), True),
                               (0, (0, 4), True)):  # fmt: skip
        scores = 0.1 * torch.rand(len(parts), len(SPANS), generator=g)
        at = ((SPANS * N).round() == torch.tensor(cell)).all(dim=1)
        scores[window, at] = 5.0
        for spans in (SPANS, SPANS.expand(len(parts), -1, -1)):  # shared, or each sentence's own
            found = ground_windows(
                Evidence(layout, spans, N, scores=scores),
                parts,
                300,
                Decoding(),
                top=1,
                nms_iou=0.5,
            ).spans[0, 0]
            part = parts[window]
            expected = part.start + torch.tensor(cell).double() / N * (part.end - part.start)
            assert torch.allclose(found, expected) == kept


# A model.


def resampled(rows: Tensor, part: Window, frames: int) -> Tensor:
    """The rows of a window, one a second, as the mean of each of the frames: (T, C)."""
    return averaged(rows.T, part, frames).T.float()


def test_a_linear_alignment_reads_windows_of_rows() -> None:
    """Rows hold the direction of a sentence's word where it happens; smoothing over clips, which
    ends at a window's edge, is part of the model."""
    S, C, seconds = 4, 16, 4000
    dims = dataclasses.replace(
        DIMS, video_dim=C, num_frames=64, num_clips=N, word_idf=torch.ones(DIMS.vocab_size)
    )
    model = LinearAlign(dims, hidden_size=C, smoothing=2).eval()
    samples = [make_sample(0, S)]
    samples[0] = dataclasses.replace(
        samples[0],
        word_ids=torch.arange(2, 2 + S),
        word_counts=torch.ones(S, dtype=torch.long),
        words=torch.zeros(S, DIMS.word_dim),
        word_weights=torch.ones(S),
        video=torch.zeros(dims.num_frames, C),
    )
    with torch.no_grad():
        model.clip.weight.copy_(torch.eye(C))
        model.text.weight.zero_()
        for s in range(S):  # the bag's number of word 2 + s is direction s
            model.text.weight[s, DIMS.word_dim + 2 + s] = 1.0
        model.clip.bias.zero_()
        model.text.bias.zero_()
    # Each moment ends or starts within a few seconds of the edge of a window, at 32, 64, 96, ….
    moments = torch.tensor(
        [[322.0, 350.0], [1000.0, 1060.0], [1890.0, 1914.0], [2300.0, 3200.0]], dtype=torch.float64
    )
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(seconds, C, generator=g, dtype=torch.float64)
    rows[:, -1] += 3  # what all rows of a video have in common
    rows[:, :S] += 2.5 * shown(torch.zeros(S, seconds, dtype=torch.float64), moments).T
    parts = windows(seconds, 64, num_clips=N)
    with torch.no_grad():
        videos = model.encode_videos(
            torch.stack([resampled(rows, part, dims.num_frames) for part in parts])
        )
        paragraphs = model.encode_paragraphs(collate(samples))
        repeated = {name: x.expand(len(parts), *x.shape[1:]) for name, x in paragraphs.items()}
        evidence = model.ground_pairs(repeated, videos)
        found = ground_windows(evidence, parts, seconds, ORDERED, top=1, nms_iou=0.5)
    assert (iou(found.spans[:, 0], moments) > 0.6).all()
    # At the finest scale the stitched cosines are those of the whole video at once.
    finest = [part for part in parts if part.scale == 0]
    once = LinearAlign(
        dataclasses.replace(dims, num_frames=seconds, num_clips=seconds // 2),
        hidden_size=C, smoothing=2, density="sparse",
    ).eval()  # fmt: skip
    once.load_state_dict(model.state_dict())
    with torch.no_grad():
        clips = once.encode_videos(rows[None].float())["clips"][0]
        whole = paragraphs["sentences"][0] @ clips.T
    values = evidence.clips["alignment"].unflatten(0, (len(parts), S))[: len(finest)]
    away = (track(values, finest, seconds) - whole).abs()
    assert away.mean() < 0.01 and away.max() < 0.2
