"""Protocols: golden cases, slow scorers in exact fractions, and what must hold between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.base.errors import InputError
from lib.evaluation import (
    PROTOCOLS,
    CandidateMoments,
    Pairs,
    Predictions,
    Truth,
    choose_alpha,
    compare_predictions,
    console_table,
    count,
    markdown_table,
    merge_videos,
    per_sentence,
    summarise,
    top_videos,
)
from lib.evaluation import joint as joint_module
from lib.evaluation.bootstrap import resampled
from lib.evaluation.retrieval import TIES, rank_videos
from lib.evaluation.spans import miss_probability, overlap, suppress
from tests import brute_force
from tests.cases import as_arrays, cases, same_moments

IOU, K, N = (0.3, 0.5, 0.7), (1, 2, 4, 200), (1, 2, 5)
property_test = settings(max_examples=60, deadline=None)


def scores(name: str, truth: Truth, predictions: Predictions, **asked: object) -> dict[str, float]:
    counted = count(name, truth, predictions, **{"iou": IOU, "retrieval_k": K, **asked})
    assert counted is not None
    return counted.scores()


# --- golden cases ---------------------------------------------------------------------------------


def golden(nms_on_own: bool = True) -> tuple[Truth, Predictions]:
    """Videos A, B, C of 100 s; q1 lies in A at [10, 20], q2 in C at [0, 10]."""
    truth = Truth(
        video_ids=("A", "B", "C"),
        durations=np.full(3, 100.0),
        paragraph_ids=("q1", "q2"),
        paragraph_video=np.array([0, 2]),
        sentence_paragraph=np.array([0, 1]),
        moments=np.array([[10.0, 20.0], [0.0, 10.0]]),
        sentences=("", ""),
    )
    nan, off = np.nan, -np.inf
    listed = Pairs(
        videos=np.array([[1, 0, 0, 0, 2], [2, 0, 1, -1, -1]]),
        spans=np.array(
            [
                [[0, 50], [40, 60], [12, 22], [11, 21], [0, 10]],
                [[0, 20], [0, 30], [5, 9], [nan, nan], [nan, nan]],
            ]
        )
        / 100,
        scores=np.array([[0.9, 0.8, 0.7, 0.6, 0.5], [0.9, 0.4, 0.3, off, off]]),
    )
    return truth, Predictions(
        similarity=np.array([[0.8, 0.9, 0.5], [0.4, 0.3, 0.9]]),  # each video's best moment
        spans=np.array([[[40, 60], [12, 22]], [[0, 20], [nan, nan]]]) / 100,  # after suppression
        scores=np.array([[0.8, 0.7], [0.9, off]]),
        candidates=listed,
    )


@pytest.mark.parametrize(
    ("name", "at_1", "at_10"),
    [
        ("vcmr_tvr", (50, 50, 0), (100, 100, 50)),
        ("vcmr_tvr_nms", (50, 50, 0), (100, 100, 0)),  # A 11-21 goes: it overlaps A 12-22 by 9/11
        ("vcmr_jsg", (50, 50, 0), (100, 100, 0)),
        ("jrg_joint", (50, 50, 0), (100, 100, 0)),
        ("jrg_video_topk", (50, 0, 0), (100, 50, 0)),  # q2's overlap is 0.5; q1's video is second
    ],
)
def test_golden_cases(name: str, at_1: tuple[float, ...], at_10: tuple[float, ...]) -> None:
    found = scores(name, *golden(), retrieval_k=(1, 10))
    wanted = {f"R@1,IoU={m}": value for m, value in zip(IOU, at_1, strict=True)}
    wanted |= {f"R@10,IoU={m}": value for m, value in zip(IOU, at_10, strict=True)}
    assert found == wanted


def test_golden_joint_with_a_strict_sign() -> None:
    """The row that no protocol has: pairs, IoU > m, suppression."""
    truth, predictions = golden()
    assert isinstance(predictions.candidates, Pairs)
    found = joint_module.pair_values(
        truth, predictions.candidates, k=(1, 10), iou=IOU, strict=True, nms_iou=0.5
    )
    assert [100 * v.mean() for v in found.values()] == [50, 0, 0, 100, 50, 0]


# --- slow scorers ---------------------------------------------------------------------------------


@property_test
@given(cases(), st.sampled_from(TIES))
def test_retrieval_agrees_with_the_slow_scorer(case: brute_force.Case, ties: str) -> None:
    truth, predictions = as_arrays(case)
    for name, unit in (("vr", "paragraph"), ("vr_sentences", "sentence")):
        found = scores(name, truth, predictions, ties=ties)
        for k in K:
            assert found[f"R@{k}"] == pytest.approx(brute_force.vr(case, k, ties, unit), abs=1e-9)
    found = scores("vr", truth, predictions, ties=ties)
    assert found["MRR"] == pytest.approx(brute_force.mrr(case, ties), abs=1e-9)


@property_test
@given(cases())
def test_grounding_agrees_with_the_slow_scorer(case: brute_force.Case) -> None:
    truth, predictions = as_arrays(case)
    for name, strict in (("svmr_2dtan", True), ("svmr", False)):
        found = scores(name, truth, predictions, grounding_n=N)
        assert found["mIoU"] == pytest.approx(brute_force.mean_iou(case), abs=1e-9)
        for n in N:
            for m in IOU:
                slow = brute_force.svmr(case, n, m, strict)
                assert found[f"R@{n},IoU={m}"] == pytest.approx(slow, abs=1e-9)
    found = scores("svmr_discounted", truth, predictions, grounding_n=N)
    for n in N:
        for m in IOU:
            slow = brute_force.svmr_discounted(case, n, m)
            assert found[f"dR@{n},IoU={m}"] == pytest.approx(slow, abs=1e-9)


@property_test
@given(cases(annotators=3))
def test_several_true_moments_agree_with_the_slow_scorer(case: brute_force.Case) -> None:
    truth, predictions = as_arrays(case)
    found = scores("svmr_any", truth, predictions, grounding_n=N)
    assert found["mIoU"] == pytest.approx(brute_force.mean_best_iou(case), abs=1e-9)
    for n in N:
        for m in IOU:
            slow = brute_force.svmr_any(case, n, m)
            assert found[f"R@{n},IoU={m}"] == pytest.approx(slow, abs=1e-9)
    precision = scores("svmr_map", truth, predictions)
    thresholds = [round(0.5 + 0.05 * i, 2) for i in range(10)]
    for metric, asked in (("mAP", thresholds), ("mAP@0.5", [0.5]), ("mAP@0.75", [0.75])):
        slow = brute_force.mean_average_precision(case, asked)
        assert precision[metric] == pytest.approx(slow, abs=1e-9)


def test_the_sum_of_recalls_is_counted_per_paragraph_and_per_sentence() -> None:
    truth, predictions = world(paragraphs=20, videos=15, candidates=3)
    found = summarise(truth, predictions, protocols=["vr", "vr_sentences"], resamples=0)
    for row in found["protocols"].values():
        recalls = [value for metric, value in row.items() if metric.startswith("R@")]
        assert len(recalls) == 4 and row["SumR"] == pytest.approx(sum(recalls))
    sums = {name: row["SumR"] for name, row in found["protocols"].items()}
    assert sums["vr"] != sums["vr_sentences"]


def test_average_precision_ranks_the_first_ten_of_the_list_by_score() -> None:
    truth, predictions = world(paragraphs=4, videos=4, candidates=2)
    true = truth.fractions[:, None]
    truth = replace(truth, annotations=truth.moments[:, None])
    wrong = np.broadcast_to([0.0, 1e-4], true.shape)
    twelve = np.concatenate([wrong, true, *[wrong] * 9, true], axis=1)
    scored = np.zeros(twelve.shape[:2])
    for score, expected in ((1.0, 100.0), (0.0, 50.0), (-1.0, 10.0)):
        scored[:, 1], scored[:, 11] = score, 9.0
        answer = replace(predictions, spans=twelve, scores=scored)
        assert scores("svmr_map", truth, answer)["mAP"] == pytest.approx(expected)


@property_test
@given(cases())
def test_equal_scores_can_be_ranked_as_they_are_listed(case: brute_force.Case) -> None:
    truth, predictions = as_arrays(case)
    found = scores("vcmr_tvr", truth, predictions, ties="file")
    for k in K:
        for m in IOU:
            slow = brute_force.vcmr(case, k, m, before=200, ties="file")
            assert found[f"R@{k},IoU={m}"] == pytest.approx(slow, abs=1e-9)


@property_test
@given(cases(), st.sampled_from(TIES))
def test_videos_then_moments_agrees_with_the_slow_scorer(case: brute_force.Case, ties: str) -> None:
    truth, predictions = as_arrays(case)
    for name, n in (("jrg_video_topk", 10), ("jrg_video_topk_n1", 1)):
        found = scores(name, truth, predictions, ties=ties)
        for k in K:
            for m in IOU:
                slow = brute_force.jrg_video_topk(case, k, m, ties, n)
                assert found[f"R@{k},IoU={m}"] == pytest.approx(slow, abs=1e-9)


@property_test
@given(cases(annotators=3), st.integers(1, 3), st.sampled_from([None, 1, 2]))
def test_pairs_agree_with_the_slow_scorer(
    case: brute_force.Case, annotators: int, n: int | None
) -> None:
    truth, predictions = as_arrays(case)
    for before, max_iou in ((None, None), (3, None), (None, 0.5), (3, 0.5)):
        assert isinstance(predictions.candidates, Pairs)
        found = joint_module.pair_values(
            truth,
            predictions.candidates,
            k=K,
            iou=IOU,
            moments_per_video=n,
            before=before,
            nms_iou=max_iou,
            annotators=annotators,
            after=3,
        )
        for k in K:
            for m in IOU:
                slow = brute_force.vcmr(
                    case,
                    k,
                    m,
                    n=n,
                    before=before,
                    nms=max_iou is not None,
                    annotators=annotators,
                    after=3,
                )
                mean = 100 * found[f"R@{k},IoU={m:g}"].mean()
                assert mean == pytest.approx(slow, abs=1e-9)


@property_test
@given(cases())
def test_named_pair_protocols_agree_with_the_slow_scorer(case: brute_force.Case) -> None:
    truth, predictions = as_arrays(case)
    rules: dict[str, dict[str, object]] = {
        "vcmr_tvr": {"before": 200},
        "vcmr_tvr_nms": {"before": 200, "nms": True},
        "vcmr_jsg": {"n": 10, "before": 1000, "nms": True},
        "vcmr_didemo": {"n": 10, "before": 1000, "nms": True, "annotators": 2},
        "jrg_joint": {"n": 10, "nms": True},
    }
    for name, rule in rules.items():
        found = scores(name, truth, predictions)
        for k in K:
            for m in IOU:
                slow = brute_force.vcmr(case, k, m, **rule)  # type: ignore[arg-type]
                assert found[f"R@{k},IoU={m}"] == pytest.approx(slow, abs=1e-9)


# --- what must hold between protocols -------------------------------------------------------------


@property_test
@given(cases(), st.sampled_from(["optimistic", "pessimistic"]))
def test_pairs_never_beat_videos_and_videos_never_beat_retrieval(
    case: brute_force.Case, ties: str
) -> None:
    """VCMR@K <= JRG@K <= VR@K: same moments, same sign, videos ranked by their best moment."""
    truth, predictions = as_arrays(same_moments(case))
    _assert_ordered(truth, predictions, ties)


@property_test
@given(cases(distinct=True))
def test_the_same_order_holds_for_expected_ranks_without_ties(case: brute_force.Case) -> None:
    truth, predictions = as_arrays(same_moments(case))
    _assert_ordered(truth, predictions, "expected")


def _assert_ordered(truth: Truth, predictions: Predictions, ties: str) -> None:
    assert isinstance(predictions.candidates, Pairs)
    assert isinstance(predictions.similarity, np.ndarray)
    assert predictions.spans is not None
    ranks = rank_videos(predictions.similarity, truth.paragraph_video)
    asked = {"k": K, "iou": IOU, "ties": ties}
    pairs = joint_module.pair_values(truth, predictions.candidates, nms_iou=0.5, **asked)  # type: ignore[arg-type]
    videos = joint_module.video_values(
        truth,
        ranks,
        predictions.spans,
        n=10,
        strict=False,
        **asked,  # type: ignore[arg-type]
    )
    for k in K:
        for m in IOU:
            name = f"R@{k},IoU={m:g}"
            assert (pairs[name] <= videos[name] + 1e-12).all()
            assert (videos[name] <= ranks.within(k, ties) + 1e-12).all()


@property_test
@given(cases())
def test_expected_lies_between_pessimistic_and_optimistic(case: brute_force.Case) -> None:
    truth, predictions = as_arrays(case)
    for name in ("vr", "jrg_video_topk", "vcmr_tvr"):
        low, mean, high = (
            scores(name, truth, predictions, ties=t)
            for t in ("pessimistic", "expected", "optimistic")
        )
        for metric in mean:
            if metric != "MedR":
                assert low[metric] - 1e-9 <= mean[metric] <= high[metric] + 1e-9


def test_with_ties_between_videos_an_expected_pair_score_may_beat_retrieval() -> None:
    """Three of four equal moments lie in the right video: 3/4 of the orders begin with one, while
    only half of the orders of two equal videos begin with the right one. The order of the protocols
    is one of ranks, and holds without such ties."""
    truth = Truth(
        ("a", "b"),
        np.ones(2),
        ("p",),
        np.array([0]),
        np.array([0]),
        np.array([[0.0, 1.0]]),
        ("",),
    )
    pairs = Pairs(np.array([[0, 0, 0, 1]]), np.tile([0.0, 1.0], (1, 4, 1)), np.zeros((1, 4)))
    predictions = Predictions(similarity=np.zeros((1, 2)), candidates=pairs)
    assert scores("vr", truth, predictions)["R@1"] == 50
    assert scores("vcmr_tvr", truth, predictions)["R@1,IoU=0.5"] == 75


# --- safety ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_similarity_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    truth, predictions = golden()
    similarity = np.array(predictions.similarity)
    similarity[1, 0] = bad
    with pytest.raises(InputError, match=r"'q2'.*'A'"):
        summarise(truth, Predictions(similarity=similarity))


def test_a_moment_score_that_is_nan_is_refused_by_name() -> None:
    truth, predictions = golden()
    assert predictions.scores is not None
    worse = predictions.scores.copy()
    worse[0, 1] = np.nan
    with pytest.raises(InputError, match="'q1', sentence 1"):
        count("svmr", truth, Predictions(spans=predictions.spans, scores=worse))


def test_a_pair_score_that_is_nan_is_refused_by_name() -> None:
    truth, predictions = golden()
    assert isinstance(predictions.candidates, Pairs)
    worse = predictions.candidates.scores.copy()
    worse[1, 2] = np.nan
    pairs = Pairs(predictions.candidates.videos, predictions.candidates.spans, worse)
    with pytest.raises(InputError, match="'q2', sentence 1"):
        count("vcmr_tvr", truth, Predictions(candidates=pairs))


@property_test
@given(cases(), st.sampled_from(["similarity", "moments", "pairs"]), st.data())
def test_a_planted_nan_never_becomes_a_number(
    case: brute_force.Case, where: str, data: st.DataObject
) -> None:
    truth, predictions = as_arrays(case)
    assert isinstance(predictions.candidates, Pairs)
    array, exists, protocol = {
        "similarity": (predictions.similarity, np.isfinite(predictions.similarity), "vr"),  # type: ignore[arg-type]
        "moments": (predictions.scores, ~np.isnan(predictions.spans[..., 0]), "svmr"),  # type: ignore[index]
        "pairs": (predictions.candidates.scores, predictions.candidates.videos >= 0, "vcmr_tvr"),
    }[where]
    assert isinstance(array, np.ndarray)
    places = np.argwhere(exists)
    if not len(places):
        return
    row, column = data.draw(st.sampled_from(places.tolist()))
    array[row, column] = np.nan
    paragraph = row if where == "similarity" else case.owner[row]
    with pytest.raises(InputError, match=f"'paragraph{paragraph}'"):
        count(protocol, truth, predictions)


@property_test
@given(cases(), st.data())
def test_planted_duplicates_of_videos_change_nothing(
    case: brute_force.Case, data: st.DataObject
) -> None:
    """A corpus with copies that score no higher is, merged, the corpus without them."""
    truth, predictions = as_arrays(case)
    similarity = predictions.similarity
    assert isinstance(similarity, np.ndarray)
    V = similarity.shape[1]
    copies = data.draw(st.lists(st.integers(0, V - 1), max_size=4))
    names = [f"video{v}" for v in (*range(V), *copies)]
    lower = similarity[:, copies] - data.draw(st.sampled_from([0.0, 1.0]))
    unique, merged = merge_videos(names, np.concatenate([similarity, lower], axis=1))
    assert unique == truth.video_ids
    found = scores("vr", truth, Predictions(similarity=merged))
    assert found == scores("vr", truth, predictions)


def test_candidates_that_list_a_video_twice_or_an_unknown_one_are_refused() -> None:
    truth, predictions = world(paragraphs=6, videos=5, candidates=3)
    assert isinstance(predictions.candidates, CandidateMoments)
    c = predictions.candidates
    for column, value, message in ((1, c.videos[2, 0], "listed twice"), (1, 99, "none of the 5")):
        videos = c.videos.copy()
        videos[2, column] = value
        worse = CandidateMoments(videos, c.spans, c.scores, c.video_scores)
        with pytest.raises(InputError, match=message):
            count("vcmr_jsg", truth, Predictions(candidates=worse))


def test_a_constant_similarity_scores_chance_and_is_reported() -> None:
    """All scores equal: an arg-sort would rank the videos in file order and look like a model."""
    P = 40
    truth = many(P)
    summary = summarise(truth, Predictions(similarity=np.zeros((P, P))), resamples=0)
    assert summary["protocols"]["vr"] == pytest.approx(summary["floors"]["vr"]["chance"])
    assert summary["protocols"]["vr"]["R@10"] == pytest.approx(25)
    assert any("same score" in text for text in summary["warnings"])


def test_missing_queries_are_misses_or_refused_as_the_protocol_says() -> None:
    truth, predictions = golden()
    partial = Predictions(
        similarity=predictions.similarity,
        spans=predictions.spans,
        scores=predictions.scores,
        candidates=predictions.candidates,
        answered=np.array([True, False]),
    )
    with pytest.raises(InputError, match="vcmr_jsg: 1 of 2 sentences .* 'q2'"):
        count("vcmr_jsg", truth, partial)
    summary = summarise(truth, partial, resamples=0)
    assert summary["queries"]["svmr"]["missing"] == 1
    assert "vcmr_jsg" not in summary["protocols"] and "jrg_joint" in summary["protocols"]
    assert any("vcmr_jsg" in text for text in summary["warnings"])
    said = "1 of 2 sentences have no prediction and count as misses: is the file complete?"
    assert said in summary["warnings"]
    assert said not in summarise(truth, predictions, resamples=0)["warnings"]


def test_duplicates_in_a_truth_are_refused() -> None:
    with pytest.raises(InputError, match="'a' is in the truth twice"):
        Truth(
            ("a", "a"),
            np.ones(2),
            ("p",),
            np.array([0]),
            np.array([0]),
            np.array([[0.0, 1.0]]),
            ("",),
        )


def test_duplicates_of_a_video_in_a_corpus_are_merged() -> None:
    names = ("a", "b", "a", "c", "b")
    similarity = np.array([[0.1, 0.9, 0.4, 0.2, 0.3], [0.5, 0.0, 0.4, 0.2, 0.7]])
    unique, merged = merge_videos(names, similarity)
    assert unique == ("a", "b", "c")
    np.testing.assert_array_equal(merged, [[0.4, 0.9, 0.2], [0.5, 0.7, 0.2]])


def test_several_paragraphs_of_one_video_share_it() -> None:
    truth = Truth(
        ("a", "b"),
        np.ones(2),
        ("p1", "p2"),
        np.array([1, 1]),
        np.array([0, 1]),
        np.tile([0.0, 1.0], (2, 1)),
        ("", ""),
    )
    found = scores("vr", truth, Predictions(similarity=np.array([[0.0, 1.0], [1.0, 0.0]])))
    assert found["R@1"] == 50 and found["R@2"] == 100


# --- arithmetic -----------------------------------------------------------------------------------


def test_an_overlap_at_the_threshold_is_decided_on_any_grid() -> None:
    """[0, k/N) against [0, 1): the overlap is exactly k/N, whatever float64 makes of it."""
    for duration in (1.0, 7.3, 61.01, 113.88):
        for clips, part in ((20, 6), (20, 10), (10, 7), (30, 9), (40, 28)):
            truth = Truth(
                ("v",),
                np.array([duration]),
                ("p",),
                np.array([0]),
                np.array([0]),
                np.array([[0.0, duration]]),
                ("",),
            )
            spans = np.array([[[0.0, part / clips]]])
            guess = Predictions(spans=spans, scores=np.zeros((1, 1)))
            name = f"R@1,IoU={part / clips:g}"
            asked = {"iou": (part / clips,)}
            assert scores("svmr_2dtan", truth, guess, **asked)[name] == 0
            assert scores("svmr", truth, guess, **asked)[name] == 100


def test_suppression_keeps_what_overlaps_by_exactly_the_threshold() -> None:
    spans = np.array([[[0.0, 1.0], [0.0, 0.5], [0.0, 0.51], [0.5, 1.0]]])
    kept = suppress(spans, np.ones((1, 4), bool), max_iou=0.5)
    assert kept.tolist() == [[True, True, False, True]]


def test_the_overlap_equals_the_one_that_training_uses() -> None:
    torch = pytest.importorskip("torch")
    from lib.base.moments import iou

    spans = np.sort(np.random.default_rng(0).random((2, 50, 2)), axis=-1)
    np.testing.assert_allclose(
        overlap(spans[0], spans[1]), iou(*torch.as_tensor(spans)).numpy(), atol=1e-12
    )


def test_drawing_without_return() -> None:
    """Three of five items, two of them hits: C(3, 3) / C(5, 3) = 1/10 miss both."""
    found = miss_probability(np.array([5, 5, 5]), np.array([2, 0, 2]), np.array([3, 3, 4]))
    assert found.tolist() == pytest.approx([0.1, 1.0, 0.0], abs=1e-15)


def test_the_chunk_size_changes_nothing() -> None:
    truth, predictions = world(paragraphs=37, videos=23, candidates=9)
    assert isinstance(predictions.candidates, CandidateMoments)
    rules = {"k": K, "iou": IOU, "alpha": 3.0, "nms_iou": 0.5, "before": 40}
    whole = joint_module.pair_values(truth, predictions.candidates, chunk=10**6, **rules)  # type: ignore[arg-type]
    for chunk in (1, 7, 64):
        parts = joint_module.pair_values(truth, predictions.candidates, chunk=chunk, **rules)  # type: ignore[arg-type]
        for name in whole:
            np.testing.assert_array_equal(parts[name], whole[name])
    assert isinstance(predictions.similarity, np.ndarray)
    at_once = rank_videos(predictions.similarity, truth.paragraph_video, chunk=10**6)
    in_parts = rank_videos(predictions.similarity, truth.paragraph_video, chunk=5)
    np.testing.assert_array_equal(at_once.better, in_parts.better)


# --- candidates and the mixing weight -------------------------------------------------------------


def many(paragraphs: int, videos: int | None = None) -> Truth:
    V = videos or paragraphs
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(paragraphs), rng.integers(1, 4, paragraphs))
    durations = rng.integers(100, 2000, V) / 10
    start = rng.integers(0, 24, len(owner)) / 32
    video = np.arange(paragraphs) % V
    moments = np.stack([start, start + rng.integers(2, 9, len(owner)) / 32], axis=-1)
    return Truth(
        tuple(f"v{v}" for v in range(V)),
        durations,
        tuple(f"p{p}" for p in range(paragraphs)),
        video,
        owner,
        moments * durations[video[owner], None],
        ("",) * len(owner),
    )


def world(paragraphs: int, videos: int, candidates: int) -> tuple[Truth, Predictions]:
    """A model that is right now and then, with candidates from its own ranking."""
    rng = np.random.default_rng(2)
    truth = many(paragraphs, videos)
    M, n = len(truth.sentences), 4
    similarity = rng.random((paragraphs, videos)).round(2)
    similarity[np.arange(paragraphs), truth.paragraph_video] += 0.4
    best = top_videos(similarity, candidates)
    owner = truth.sentence_paragraph
    start = rng.integers(0, 24, (M, candidates, n)) / 32
    spans = np.stack([start, start + rng.integers(2, 9, start.shape) / 32], axis=-1)
    right = best.videos[owner] == truth.sentence_video[:, None]
    spans[right, 1] = truth.fractions[right.any(axis=1)]
    scores_ = -np.sort(-rng.random((M, candidates, n)).round(2), axis=-1)
    own = np.where(right.any(axis=1), right.argmax(axis=1), 0)
    return truth, Predictions(
        similarity=similarity,
        spans=spans[np.arange(M), own],
        scores=scores_[np.arange(M), own],
        proposal_spans=np.array([[i, j + 1] for i in range(32) for j in range(i, 32)]) / 32,
        candidates=CandidateMoments(best.videos[owner], spans, scores_, best.scores[owner]),
    )


def test_candidates_and_their_pairs_written_out_score_the_same() -> None:
    truth, predictions = world(paragraphs=30, videos=20, candidates=8)
    assert isinstance(predictions.candidates, CandidateMoments)
    c = predictions.candidates
    mixed = 3.0 * c.video_scores[..., None] + c.scores
    videos = np.broadcast_to(c.videos[..., None], mixed.shape)
    M = len(mixed)
    pairs = Pairs(videos.reshape(M, -1), c.spans.reshape(M, -1, 2), mixed.reshape(M, -1))
    from_candidates = scores("jrg_joint", truth, predictions, alpha=3.0)
    assert from_candidates == scores("jrg_joint", truth, Predictions(candidates=pairs))
    finished = joint_module.finished_pairs(c, PROTOCOLS["jrg_joint"], alpha=3.0)
    assert from_candidates == scores("jrg_joint", truth, Predictions(candidates=finished))
    assert count("vcmr_jsg", truth, Predictions(candidates=finished)) is None


def test_the_weight_is_the_one_that_scores_best_where_it_is_chosen() -> None:
    truth, predictions = world(paragraphs=30, videos=20, candidates=8)
    assert isinstance(predictions.candidates, CandidateMoments)
    weights = (0.0, 1.0, 5.0, 20.0)
    alpha, table = choose_alpha(truth, predictions.candidates, alphas=weights, nms_iou=0.5)
    assert table[alpha] == max(table.values()) and set(table) == {0, 1, 5, 20}
    name = "R@10,IoU=0.5"
    again = scores("jrg_joint", truth, predictions, alpha=alpha, retrieval_k=(10,))
    assert table[alpha] == pytest.approx(again[name])


# --- the summary ----------------------------------------------------------------------------------


def test_every_number_stands_between_what_bounds_it() -> None:
    truth, predictions = world(paragraphs=40, videos=30, candidates=8)
    fixed = np.array([[0.0, 0.25], [0.25, 0.5]])
    summary = summarise(truth, predictions, fixed_spans=fixed, resamples=50)
    staged = {"vr_first_stage", "vr_two_stages", "vr_querybank"}
    several = {"svmr_any", "svmr_map", "vcmr_didemo"}
    assert set(summary["protocols"]) == set(PROTOCOLS) - several - staged
    for name, row in summary["protocols"].items():
        for metric, score in row.items():
            low, high = summary["intervals"][name][metric]
            assert low <= score <= high
            if metric in summary["ceilings"][name]:
                assert score <= summary["ceilings"][name][metric] + 1e-9
            assert metric in summary["floors"][name]["chance"] or metric.startswith("dR@5")
    assert "ten fixed spans" in summary["floors"]["jrg_video_topk"]
    assert summary["queries"]["jrg_video_topk"]["moment_budget"]["10"] == 100
    assert summary["queries"]["vcmr_jsg"]["moment_budget"]["10"] == 10
    for text in (console_table(summary), markdown_table(summary)):
        assert all(name in text for name in summary["protocols"])
        assert "equal parts" in text.replace("\n", " ") and "ceiling" in text


def test_chance_is_what_random_guesses_score() -> None:
    """The closed forms against 400 models that guess."""
    truth, predictions = world(paragraphs=12, videos=6, candidates=6)
    cells = predictions.proposal_spans
    assert cells is not None
    rng = np.random.default_rng(0)
    M, V = len(truth.sentences), len(truth.video_ids)
    found: dict[str, list[float]] = {"svmr": [], "jrg_video_topk": [], "vcmr_tvr": []}
    for _ in range(400):
        drawn = cells[rng.permuted(np.tile(np.arange(len(cells)), (M, 1)), axis=1)[:, :10]]
        pairs = Pairs(rng.integers(0, V, (M, 10)), drawn, rng.random((M, 10)))
        guess = Predictions(
            similarity=rng.random((12, V)),
            spans=drawn,
            scores=rng.random((M, 10)),
            candidates=pairs,
        )
        found["svmr"].append(scores("svmr", truth, guess)["R@5,IoU=0.5"])
        found["jrg_video_topk"].append(scores("jrg_video_topk", truth, guess)["R@2,IoU=0.5"])
        found["vcmr_tvr"].append(scores("vcmr_tvr", truth, guess)["R@4,IoU=0.5"])
    asked = {"retrieval_k": K, "resamples": 0, "protocols": list(found)}
    floors = summarise(truth, predictions, **asked)["floors"]  # type: ignore[arg-type]
    wanted = {"svmr": "R@5,IoU=0.5", "jrg_video_topk": "R@2,IoU=0.5", "vcmr_tvr": "R@4,IoU=0.5"}
    for name, metric in wanted.items():
        error = 4 * np.std(found[name]) / 20
        assert floors[name]["chance"][metric] == pytest.approx(np.mean(found[name]), abs=error)


def test_a_collapse_is_reported() -> None:
    truth = many(40)
    whole = np.broadcast_to([0.0, 1.0], (len(truth.sentences), 1, 2))
    guess = Predictions(spans=whole, scores=np.zeros(whole.shape[:2]))
    summary = summarise(truth, guess, resamples=0)
    assert any("same span" in text for text in summary["warnings"])
    assert any("floor" in text for text in summary["warnings"])
    assert summary["diagnostics"]["most_common_span"] == [0.0, 1.0]
    assert summary["diagnostics"]["identical_within_paragraph"] == 100


def test_protocols_asked_for_by_name_must_be_possible() -> None:
    truth, predictions = golden()
    with pytest.raises(InputError, match="jrg_joint"):
        summarise(truth, Predictions(similarity=predictions.similarity), protocols=["jrg_joint"])
    with pytest.raises(InputError, match="unknown protocol 'recall'"):
        summarise(truth, predictions, protocols=["recall"])


def test_every_definition_names_its_sign_and_its_budget() -> None:
    for protocol in PROTOCOLS.values():
        text = protocol.describe()
        assert protocol.sign in text and protocol.k_counts in text and protocol.source in text
    assert PROTOCOLS["jrg_video_topk"].moment_budget(100) == 1000
    assert PROTOCOLS["vcmr_jsg"].moment_budget(1000) == 100


# --- intervals and comparisons --------------------------------------------------------------------


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Paragraphs drawn from a known mean of one half; 200 repetitions of a 95 % interval."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        P = 80
        truth = many(P)
        similarity = np.zeros((P, P))
        hits = rng.random(P) < 0.5
        similarity[np.arange(P), truth.paragraph_video] = np.where(hits, 1.0, -1.0)
        counted = count("vr", truth, Predictions(similarity=similarity), retrieval_k=(1,))
        assert counted is not None
        draws = resampled(counted, P, resamples=300, seed=seed)["R@1"]
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= 50 <= high
    assert 180 <= covered <= 199


def test_the_bootstrap_equals_a_loop_over_paragraphs() -> None:
    truth, predictions = world(paragraphs=11, videos=7, candidates=4)
    for name in ("vr", "svmr"):
        counted = count(name, truth, predictions)
        assert counted is not None
        draws = resampled(counted, 11, resamples=20, seed=3)
        weights = np.random.default_rng(3).multinomial(11, np.full(11, 1 / 11), size=20)
        for b, weight in enumerate(weights):
            items = [i for i, p in enumerate(counted.paragraph) for _ in range(weight[p])]
            for metric, value in counted.values.items():
                assert draws[metric][b] == pytest.approx(100 * value[items].mean())
            if counted.ranks is not None:
                assert draws["MedR"][b] == np.median(counted.ranks[items])


def test_two_runs_are_distinguished_or_not() -> None:
    truth, predictions = world(paragraphs=60, videos=40, candidates=8)
    assert isinstance(predictions.similarity, np.ndarray)
    weak = predictions.similarity.copy()
    weak[np.arange(60), truth.paragraph_video] -= 0.2
    better = weak.copy()
    better[np.arange(60), truth.paragraph_video] += 1
    noise = weak + np.random.default_rng(0).normal(0, 0.1, better.shape)

    def verdict(second: np.ndarray, metric: str) -> str:
        runs = [Predictions(similarity=weak)], [Predictions(similarity=second)]
        row = compare_predictions(truth, runs)["vr"][metric][1]
        assert row is not None
        return row["verdict"]

    assert verdict(better, "R@1") == "better"
    assert verdict(better, "MedR") == "better"  # a lower rank
    assert verdict(noise, "R@1") == "cannot tell"
    assert verdict(weak.copy(), "R@1") == "the same"
    runs = [Predictions(similarity=better)], [Predictions(similarity=weak)]
    row = compare_predictions(truth, runs)["vr"]["R@1"][1]
    assert row is not None and row["verdict"] == "worse"


def test_one_query_per_sentence() -> None:
    truth = per_sentence(many(5))
    assert len(truth.paragraph_ids) == len(truth.sentences)
    assert truth.sentence_video.tolist() == many(5).sentence_video.tolist()
