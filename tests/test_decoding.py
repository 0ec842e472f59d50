"""From evidence to moments, against loops in float64 that share nothing with the decoding."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.base.batch import Layout
from lib.base.moments import iou
from lib.decoding import Decoding, Evidence, decode, posterior
from lib.decoding.calibration import calibrate_starts, calibrate_trust
from lib.decoding.decode import decode_prior, prior_starts, reads, span_scores
from lib.decoding.ordering import backward_penalty, ordered_scores, position_prior
from lib.decoding.separation import paragraph_softmax, separation, subtract_paragraph_mean
from lib.models.layers.proposal_map import ProposalGrid
from tests.properties import make_batch

SIZES = (2, 1, 3)  # sentences of the paragraphs


def layout_of(sizes: tuple[int, ...] = SIZES) -> Layout:
    return Layout.of(torch.arange(max(sizes)) < torch.tensor(sizes)[:, None])


def rows_of(sizes: tuple[int, ...]) -> list[range]:
    """The sentences of each paragraph."""
    ends = list(itertools.accumulate(sizes))
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def in_double(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


# Separation.


def slow_separation(row: list[float], start: int, end: int, exponent: float) -> float:
    """Of clips start … end - 1 from the others."""
    N = len(row)
    inside, outside = row[start:end], row[:start] + row[end:]
    if not inside or not outside:
        return 0.0
    mean = sum(row) / N
    spread = max(math.sqrt(sum((x - mean) ** 2 for x in row) / N), 1e-6)
    contrast = sum(inside) / len(inside) - sum(outside) / len(outside)
    return contrast / spread * (len(inside) * len(outside) / N**2) ** exponent


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 1.0])
def test_separation_is_the_contrast_of_inside_and_outside(exponent: float) -> None:
    N, grid, evidence = 7, ProposalGrid(7, "dense"), in_double(3, 7)
    ours = separation(evidence, grid.spans.double(), length_exponent=exponent)
    for (i, j), column in zip(grid.mask.nonzero().tolist(), ours.T, strict=True):
        for m in range(3):
            if (i, j) == (0, N - 1) and exponent == 0:
                continue  # 0 to the power of 0
            slow = slow_separation(evidence[m].tolist(), i, j + 1, exponent)
            assert column[m].item() == pytest.approx(slow, abs=1e-9)


def test_with_a_list_of_spans_for_each_sentence_it_is_the_same() -> None:
    grid, evidence = ProposalGrid(7, "dense"), in_double(4, 7)
    each = torch.stack([torch.randperm(len(grid))[:5] for _ in range(4)])
    spans = grid.spans.double()
    shared = separation(evidence, spans)
    own = separation(evidence, spans[each])
    assert torch.allclose(own, shared.gather(1, each), atol=1e-12)


def test_at_one_half_it_is_the_correlation_of_statistics() -> None:
    """With the span's indicator, for every span but the whole video, which has none."""
    grid, evidence = ProposalGrid(7, "dense"), in_double(3, 7)
    ours = separation(evidence, grid.spans.double())
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        indicator = np.zeros(7)
        indicator[i : j + 1] = 1
        for m in range(3):
            whole = j - i == 6
            expected = 0.0 if whole else np.corrcoef(evidence[m].numpy(), indicator)[0, 1]
            assert ours[m, p].item() == pytest.approx(expected, abs=1e-5)


def test_a_span_of_less_than_half_a_clip_and_flat_evidence_are_worth_nothing() -> None:
    spans = torch.tensor([[0.5, 0.51], [0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    assert separation(in_double(2, 4), spans)[:, :2].abs().max() == 0
    assert separation(torch.ones(1, 4), spans.float()).abs().max() == 0


# Against the paragraph's other sentences.


def test_a_sentence_s_evidence_less_the_mean_of_the_others() -> None:
    evidence = in_double(6, 4)
    ours = subtract_paragraph_mean(evidence, layout_of())
    for rows in rows_of(SIZES):
        for m in rows:
            for n in range(4):
                others = [evidence[k, n].item() for k in rows if k != m]
                mean = sum(others) / len(others) if others else 0.0
                assert ours[m, n].item() == pytest.approx(evidence[m, n].item() - mean, abs=1e-12)


def test_a_clip_is_divided_among_the_sentences_of_its_paragraph() -> None:
    evidence = in_double(6, 4)
    ours = paragraph_softmax(evidence, layout_of(), scale=5.0)
    for rows in rows_of(SIZES):
        for m in rows:
            for n in range(4):
                total = sum(math.exp(5 * evidence[k, n].item()) for k in rows)
                share = math.exp(5 * evidence[m, n].item()) / total
                expected = share if len(rows) > 1 else evidence[m, n].item()
                assert ours[m, n].item() == pytest.approx(expected, abs=1e-6)


# The prior and the order.


def test_the_prior_is_the_overlap_with_the_widened_equal_part() -> None:
    """Second of four sentences, 1.5 wide: [0.25, 0.5] becomes [0.1875, 0.5625]; the first is cut
    at the start of the video: [0, 0.3125]."""
    grid = ProposalGrid(16, "dense")
    first, second, *_ = position_prior(grid.spans, layout_of((4,)), width=1.5)
    for row, expected in ((second, [0.1875, 0.5625]), (first, [0.0, 0.3125])):
        assert torch.allclose(row, iou(torch.tensor(expected), grid.spans), atol=1e-6)


def test_the_prior_of_own_spans_is_that_of_shared_ones() -> None:
    spans, layout = ProposalGrid(8, "dense").spans, layout_of()
    own = spans.expand(6, -1, -1)
    assert torch.equal(position_prior(own, layout), position_prior(spans, layout))


def slow_order(
    scores: list[list[float]], centre: list[list[float]], strength: float
) -> dict[tuple[int, int], float]:
    """For every sentence and span: the best total of all assignments that choose it."""
    best: dict[tuple[int, int], float] = {}
    for choice in itertools.product(*(range(len(row)) for row in scores)):
        value = sum(scores[s][p] for s, p in enumerate(choice))
        for s, (before, after) in enumerate(itertools.pairwise(choice)):
            back = max(0.0, centre[s][before] - centre[s + 1][after])
            value -= strength * back if back > 1e-6 else 0.0
        for s, p in enumerate(choice):
            best[s, p] = max(best.get((s, p), -math.inf), value)
    return best


@pytest.mark.parametrize("own_spans", [False, True])
@pytest.mark.parametrize("strength", [0.0, 1.0, math.inf])
def test_ordered_scores_are_the_best_assignment_with_each_choice_made(
    strength: float, own_spans: bool
) -> None:
    N, sizes = 3, (3, 2)
    spans = ProposalGrid(N, "dense").spans.double()
    if own_spans:
        each = torch.stack([torch.randperm(len(spans))[:4] for _ in range(sum(sizes))])
        spans = spans[each]
    layout = layout_of(sizes)
    P = spans.shape[-2]
    scores = in_double(sum(sizes), P)
    steps = (spans.sum(dim=-1) * N).round().long().expand(sum(sizes), P)
    ours = ordered_scores(
        layout.padded(scores),
        layout.padded(steps),
        layout.sentence_mask,
        backward_penalty(N, strength).double(),
    )
    centre = spans.mean(dim=-1).expand(sum(sizes), P)
    for b, rows in enumerate(rows_of(sizes)):
        index = list(rows)
        best = slow_order(scores[index].tolist(), centre[index].tolist(), strength)
        for (s, p), value in best.items():
            assert ours[b, s, p].item() == pytest.approx(value, abs=1e-6)


def test_ranking_by_ordered_scores_gives_the_best_joint_assignment() -> None:
    """Sentence 2 alone would go to the first clip; in order it follows sentence 1."""
    spans = ProposalGrid(2, "dense").spans  # [0, .5], [0, 1], [.5, 1]
    scores = torch.tensor([[0.0, 0.0, 3.0], [2.0, 0.0, 1.5]])
    evidence = Evidence(layout_of((2,)), spans, 2, scores)
    free = decode(evidence, Decoding()).scores.argmax(dim=1)
    strict = decode(evidence, Decoding(order_penalty=1e6)).scores.argmax(dim=1)
    assert free.tolist() == [2, 0] and strict.tolist() == [2, 2]


# The whole decoding.


def evidence_of(sizes: tuple[int, ...] = SIZES, *, own_spans: bool = False) -> Evidence:
    """Of two sources, and with scores."""
    M, N = sum(sizes), 8
    spans = ProposalGrid(N, "dense").spans.double()
    if own_spans:
        spans = spans[torch.stack([torch.randperm(len(spans))[:6] for _ in range(M)])]
    return Evidence(
        layout_of(sizes),
        spans,
        N,
        in_double(M, spans.shape[-2], seed=1),
        {"alignment": in_double(M, N, seed=2), "reconstruction": in_double(M, N, seed=3)},
    )


def test_the_default_changes_nothing_of_a_score_map() -> None:
    evidence = evidence_of()
    assert decode(evidence, Decoding()).scores is evidence.scores
    assert decode(evidence, Decoding()).spans is evidence.spans
    assert (
        decode(evidence, Decoding(calibration="retrieval"), {"trust": 0.1}).scores
        is evidence.scores
    )


def test_what_is_read_of_a_model_is_what_there_is_of_what_is_wanted() -> None:
    source = get_args(get_type_hints(Decoding)["source"])
    assert set(source) == {"auto", "scores", "evidence", "both"}
    for name, scores, clips, expected in (
        ("auto", True, True, {"scores"}),
        ("auto", False, True, {"clips"}),
        ("scores", True, True, {"scores"}),
        ("scores", False, True, {"clips"}),
        ("evidence", True, True, {"clips"}),
        ("evidence", True, False, {"scores"}),
        ("both", True, True, {"scores", "clips"}),
        ("both", True, False, {"scores"}),
    ):
        assert reads(Decoding(source=name), has_scores=scores, has_clips=clips) == expected
    silent = Decoding(source="both", score_weight=0.0)
    assert reads(silent, has_scores=True, has_clips=True) == {"clips"}


@pytest.mark.parametrize("own_spans", [False, True])
@pytest.mark.parametrize("normalization", ["none", "paragraph_mean", "paragraph_softmax"])
def test_span_scores_put_together_what_the_options_say(normalization: str, own_spans: bool) -> None:
    evidence = evidence_of(own_spans=own_spans)
    decoding = Decoding(
        source="both",
        evidence={"reconstruction": 0.7},
        score_weight=0.4,
        normalization=normalization,  # type: ignore[arg-type]
        normalization_scale=3.0,
        raw_weight=0.2,
        length_exponent=0.3,
    )
    ours = span_scores(evidence, decoding)
    total = evidence.clips["alignment"] + 0.7 * evidence.clips["reconstruction"]
    normalized = total.clone()
    for rows in rows_of(SIZES):
        for m in rows:
            for n in range(8):
                others = [total[k, n].item() for k in rows if k != m]
                if not others:
                    continue
                if normalization == "paragraph_mean":
                    normalized[m, n] -= sum(others) / len(others)
                elif normalization == "paragraph_softmax":
                    everyone = sum(math.exp(3 * total[k, n].item()) for k in rows)
                    normalized[m, n] = math.exp(3 * total[m, n].item()) / everyone
    assert evidence.scores is not None
    for m in range(6):
        own = evidence.spans[m] if own_spans else evidence.spans
        for p, (start, end) in enumerate((own * 8).round().long().tolist()):
            slow = slow_separation(normalized[m].tolist(), start, end, 0.3)
            slow += 0.2 * slow_separation(total[m].tolist(), start, end, 0.3)
            slow += 0.4 * evidence.scores[m, p].item()
            assert ours[m, p].item() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("own_spans", [False, True])
def test_trust_scales_the_evidence_before_it_meets_the_prior(own_spans: bool) -> None:
    evidence = evidence_of((2, 1), own_spans=own_spans)
    decoding = Decoding(source="scores", position_prior_weight=0.5, order_penalty=2.0)
    ours = decode(evidence, decoding, {"trust": 0.3}).scores
    assert evidence.scores is not None
    prior = position_prior(evidence.spans, evidence.layout)
    worth = 0.3 * evidence.scores + 0.5 * prior
    centre = evidence.spans.mean(dim=-1).expand(3, worth.shape[1])
    for rows in ([0, 1], [2]):
        best = slow_order(worth[rows].tolist(), centre[rows].tolist(), 2.0)
        for (s, p), value in best.items():
            assert ours[rows[s], p].item() == pytest.approx(value, abs=1e-6)


def test_only_the_calibration_that_is_chosen_calibrates() -> None:
    retrieval = Decoding(calibration="retrieval")
    assert calibrate_trust(retrieval, retrieval_skill=0.4) == {"trust": 0.4}
    assert calibrate_trust(retrieval, retrieval_skill=None) == {}
    assert calibrate_trust(Decoding(), retrieval_skill=0.4) == {}


def test_nothing_of_a_paragraph_depends_on_its_neighbours() -> None:
    whole = evidence_of()
    decoding = Decoding(
        source="both",
        normalization="paragraph_softmax",
        position_prior_weight=0.3,
        order_penalty=1.0,
    )
    together = decode(whole, decoding).scores
    assert whole.scores is not None
    for size, rows in zip(SIZES, map(list, rows_of(SIZES)), strict=True):
        alone = dataclasses.replace(
            whole,
            layout=layout_of((size,)),
            scores=whole.scores[rows],
            clips={name: values[rows] for name, values in whole.clips.items()},
        )
        assert torch.allclose(decode(alone, decoding).scores, together[rows], atol=1e-6)


# The posterior.


def test_the_likelihood_is_that_of_a_correlation() -> None:
    grid, evidence = ProposalGrid(7, "dense"), in_double(3, 7)
    ours = posterior.log_likelihood(evidence, grid.spans.double(), independent=6.0)
    for p, (i, j) in enumerate(grid.mask.nonzero().tolist()):
        for m in range(3):
            rho = slow_separation(evidence[m].tolist(), i, j + 1, 0.5)
            rho = min(max(rho, 0.0), posterior.MAX_CORRELATION)
            assert ours[m, p].item() == pytest.approx(-3 * math.log(1 - rho**2), abs=1e-6)


def test_the_mass_of_a_start_is_that_of_its_spans() -> None:
    spans, scores = ProposalGrid(5, "dense").spans.double(), in_double(2, 15)
    start = posterior.starts(spans, 5)
    ours = posterior.by_start(scores, start.expand(2, -1), 5)
    for m in range(2):
        for n in range(5):
            mass = sum(
                math.exp(scores[m, p].item())
                for p in range(15)
                if round(spans[p, 0].item() * 5) == n
            )
            assert ours[m, n].item() == pytest.approx(math.log(mass), abs=1e-9)


def test_a_hit_is_an_overlap_of_at_least_half() -> None:
    spans = ProposalGrid(4, "dense").spans.double()
    log_posterior = in_double(2, 10).log_softmax(dim=1)
    shared = posterior.hit_probability(log_posterior, spans)
    own = posterior.hit_probability(log_posterior, spans.expand(2, -1, -1))
    assert torch.allclose(own, shared, atol=1e-12)
    for m in range(2):
        for p, (start, end) in enumerate(spans.tolist()):
            total = 0.0
            for q, (s, e) in enumerate(spans.tolist()):
                inside = max(0.0, min(end, e) - max(start, s))
                if inside / ((end - start) + (e - s) - inside) >= 0.5 - 1e-6:
                    total += math.exp(log_posterior[m, q].item())
            assert shared[m, p].item() == pytest.approx(total, abs=1e-9)


def test_events_in_order_have_the_posterior_of_all_assignments_in_order() -> None:
    """Three sentences, the first two one event, which therefore counts once by its mean."""
    N, spans = 3, ProposalGrid(3, "dense").spans.double()
    P, start = len(spans), posterior.starts(spans, 3).tolist()
    scores, layout = in_double(4, P), layout_of((3, 1))
    event = torch.tensor([[0, 0, 1], [0, 0, 0]])
    ours = posterior.in_order(scores, torch.tensor(start).expand(4, -1), event, layout, N)
    first, second = scores[:2].mean(dim=0).tolist(), scores[2].tolist()
    mass = [[0.0] * P, [0.0] * P]
    for p, q in itertools.product(range(P), repeat=2):
        if start[q] >= start[p]:
            weight = math.exp(first[p] + second[q])
            mass[0][p] += weight
            mass[1][q] += weight
    for row, slot in ((0, 0), (1, 0), (2, 1)):
        for p in range(P):
            share = mass[slot][p] / sum(mass[slot])
            expected = math.log(share) if share else -math.inf
            assert ours[row, p].item() == pytest.approx(expected, abs=1e-8)
    assert torch.allclose(ours[3], scores[3].log_softmax(dim=0), atol=1e-9)


def test_a_posterior_is_decoded_for_each_paragraph_alone() -> None:
    decoding = Decoding(method="posterior", ordered=True)
    whole = dataclasses.replace(evidence_of(), scores=None)
    together = decode(whole, decoding).scores
    assert ((together > -1e-9) & (together < 1 + 1e-9)).all()  # probabilities of a hit
    for size, rows in zip(SIZES, map(list, rows_of(SIZES)), strict=True):
        alone = dataclasses.replace(
            whole,
            layout=layout_of((size,)),
            clips={name: values[rows] for name, values in whole.clips.items()},
        )
        assert torch.allclose(decode(alone, decoding).scores, together[rows], atol=1e-6)


def test_a_batch_is_a_layout() -> None:
    batch = make_batch(SIZES)
    assert torch.equal(batch.owner, layout_of().owner)
    assert torch.equal(batch.sentence_position, layout_of().sentence_position)


def marked_evidence(sizes: tuple[int, ...], places: list[float], N: int = 16) -> Evidence:
    """Evidence whose best spans lie at given centres, a fraction of the video for each sentence."""
    mask = torch.zeros(len(sizes), max(sizes), dtype=torch.bool)
    for row, size in enumerate(sizes):
        mask[row, :size] = True
    grid = ProposalGrid(N, "dense")
    clip = (torch.arange(N) + 0.5) / N
    rows = torch.stack([(-((clip - place) ** 2) / 0.005).exp() for place in places])
    return Evidence(Layout.of(mask), grid.spans, N, clips={"alignment": rows})


def test_trust_by_order_is_full_in_order_and_none_at_random() -> None:
    by_order = Decoding(calibration="order")
    ordered = marked_evidence((3, 4), [0.1, 0.5, 0.9, 0.1, 0.3, 0.6, 0.9])
    found = calibrate_trust(by_order, own=[ordered])
    assert found == {"trust": 1.0, "backward": 0.0}
    backward = marked_evidence((3, 4), [0.9, 0.5, 0.1, 0.9, 0.6, 0.3, 0.1])
    assert calibrate_trust(by_order, own=[backward])["trust"] == 0.0
    places = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    assert calibrate_trust(by_order, own=[marked_evidence((4,) * 100, places)])["trust"] < 0.1


def test_a_sentence_alone_says_nothing_of_order() -> None:
    alone = marked_evidence((1, 1), [0.2, 0.7])
    assert calibrate_trust(Decoding(calibration="order"), own=[alone])["trust"] == 0.0


def test_trust_by_contiguity_asks_whether_shuffled_time_is_worse() -> None:
    options = Decoding(calibration="contiguity")
    torch.manual_seed(0)
    own = marked_evidence((3,) * 30, torch.rand(90).tolist())
    rows = own.clips["alignment"]
    order = torch.stack([torch.randperm(16) for _ in rows])
    shuffled = dataclasses.replace(own, clips={"alignment": rows.gather(1, order)})
    assert calibrate_trust(options, own=[own], shuffled=[shuffled])["trust"] == 1.0
    assert calibrate_trust(options, own=[shuffled], shuffled=[own])["trust"] == 0.0
    assert calibrate_trust(options, own=[own], shuffled=[own])["trust"] == 0.0


STARTING = Decoding(method="posterior", source="evidence")


def test_starts_are_estimated_where_evidence_shows_them() -> None:
    """Of forty events, half begin with the video and the others a third into it."""
    begin = [0, 5] * 20
    rows = torch.zeros(40, 16)
    for row, first in zip(rows, begin, strict=True):
        row[first : first + 4] = 1.0
    rows = rows + 0.1 * in_double(40, 16).to(rows.dtype)
    spans = ProposalGrid(16, "dense").spans
    evidence = [Evidence(layout_of((4,) * 10), spans, 16, clips={"a": rows})]
    found = calibrate_starts(STARTING, evidence)["starts"]
    assert sum(found) == pytest.approx(1, abs=1e-5)
    assert found[0] == pytest.approx(0.5, abs=0.1) and found[5] == pytest.approx(0.5, abs=0.1)
    stated = dataclasses.replace(STARTING, estimate_starts=False)
    assert calibrate_starts(stated, evidence) == {}


@pytest.mark.parametrize("ordered", [False, True])
def test_estimated_starts_count_as_far_as_the_evidence_they_come_from(ordered: bool) -> None:
    decoding = dataclasses.replace(STARTING, ordered=ordered)
    evidence = evidence_of()
    stated = prior_starts(evidence, decoding).tolist()
    other = [0.0] * len(stated)
    other[2] = 1.0
    mixed = [0.75 * a + 0.25 * b for a, b in zip(stated, other, strict=True)]

    def scores(trust: float, starts: list[float] | None) -> Tensor:
        return decode(evidence, decoding, {"trust": trust, "starts": starts}).scores

    torch.testing.assert_close(scores(0.0, other), scores(0.0, None))
    none = decode_prior(evidence, decoding, {"trust": 1.0, "starts": other})
    assert none is not None
    torch.testing.assert_close(none.scores, scores(0.0, None))
    assert not torch.allclose(scores(1.0, other), scores(1.0, None))
    # A quarter of trust is a quarter of the way, and all of it all the way.
    whole = dataclasses.replace(decoding, independent_clips=decoding.independent_clips / 4)
    torch.testing.assert_close(
        scores(0.25, other), decode(evidence, whole, {"trust": 1.0, "starts": mixed}).scores
    )
