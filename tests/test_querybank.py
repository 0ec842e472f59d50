"""Querybank normalisation: against loops, where videos are hubs, and in the command's results."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.evaluation import Predictions, summarise
from lib.evaluation.querybank import choose_scale, normalised
from lib.evaluation.retrieval import rank_videos
from tests.test_evaluation import world


def test_it_is_what_a_loop_says() -> None:
    rng = np.random.default_rng(0)
    similarity, bank, scale = rng.normal(size=(30, 6)), rng.normal(size=(4, 6)), 3.0
    found = normalised(similarity, bank, scale)
    first_of_bank = {int(row.argmax()) for row in bank}
    changed = [int(row.argmax()) in first_of_bank for row in similarity]
    assert any(changed) and not all(changed)
    for p, row in enumerate(similarity):
        for v, value in enumerate(row):
            expected = math.exp(scale * value)
            if changed[p]:
                expected /= sum(math.exp(scale * other[v]) for other in bank)
            assert found[p, v] == pytest.approx(math.log(expected), abs=1e-9)


def test_a_paragraph_s_scores_are_its_own_affair() -> None:
    rng = np.random.default_rng(1)
    similarity, bank = rng.normal(size=(9, 5)), rng.normal(size=(7, 5))
    alone = [normalised(row[None], bank, 2.0) for row in similarity]
    np.testing.assert_array_equal(np.concatenate(alone), normalised(similarity, bank, 2.0))


def test_large_similarities_do_not_overflow() -> None:
    similarity = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    assert np.isfinite(normalised(similarity, similarity, 50.0)).all()
    assert np.isfinite(choose_scale(similarity, similarity, np.arange(2)))


def others(rng: np.random.Generator, count: int, nearness: np.ndarray) -> np.ndarray:
    """Similarities of paragraphs with videos that are not theirs; some are near to everything."""
    return rng.normal(size=(count, len(nearness))) + nearness


def owners(rng: np.random.Generator, count: int, nearness: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same, of paragraphs that belong to one of them."""
    target = rng.integers(0, len(nearness), count)
    similarity = others(rng, count, nearness)
    similarity[np.arange(count), target] += 3.0
    return similarity, target


def test_it_finds_what_stood_behind_hubs_and_leaves_alone_where_there_are_none() -> None:
    rng = np.random.default_rng(2)
    for spread, gains in ((2.0, True), (0.0, False)):
        nearness = spread * rng.normal(size=60)
        bank = others(rng, 400, nearness)
        (own, own_target), (similarity, target) = (owners(rng, 400, nearness) for _ in range(2))
        # The scale is chosen on one set of paragraphs and used for another.
        scale = choose_scale(own, bank, own_target)
        before, after = (
            rank_videos(scores, target).within(1).mean()
            for scores in (similarity, normalised(similarity, bank, scale))
        )
        assert after > before + 0.3 if gains else abs(after - before) < 0.05


def test_a_model_that_tells_no_videos_apart_stays_at_chance() -> None:
    flat, target = np.zeros((8, 4)), np.arange(8) % 4
    scores = normalised(flat, flat, choose_scale(flat, flat, target))
    assert rank_videos(scores, target).within(1).mean() == pytest.approx(0.25)


def test_the_scale_follows_the_unit_of_the_similarities() -> None:
    rng = np.random.default_rng(3)
    bank = others(rng, 100, np.zeros(20))
    similarity, target = owners(rng, 100, np.zeros(20))
    one, hundredth = (choose_scale(s * similarity, s * bank, target) for s in (1.0, 0.01))
    assert hundredth == pytest.approx(100 * one)


def test_scores_that_are_no_numbers_are_refused() -> None:
    truth, predictions = world(paragraphs=4, videos=3, candidates=2)
    bad = Predictions(predictions.similarity, normalised=np.full((4, 3), np.nan))
    with pytest.raises(InputError, match="a score of normalised is not a finite number"):
        summarise(truth, bad, resamples=0)
