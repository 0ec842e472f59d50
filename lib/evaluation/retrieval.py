"""The rank of the right video among all videos, for every paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .records import Ranking

TIES = ("expected", "optimistic", "pessimistic", "file")


@dataclass(frozen=True)
class Ranks:
    """The rank of the right video of each paragraph, ties kept apart. Letters as in ``spans``.

    Ties follow one of four rules. ``expected``: ties stand in random order and the value is its
    mean, so that recall at K is the probability of being among the first K and the rank is
    1 + better + equal / 2. ``optimistic`` puts the right video first among its equals,
    ``pessimistic`` last, ``file`` where it is listed. A model that gives every video the same score
    has the recall of chance, by the first rule.
    """

    better: NDArray[np.int64]  # (P,) videos with a higher score
    equal: NDArray[np.int64]  # (P,) other videos with the same score
    listed: NDArray[np.bool_]  # (P,) False: the right video was not ranked, a miss at every K
    ahead: NDArray[np.int64]  # (P,) of the equal ones, those that are listed before it

    def within(self, k: int, ties: str = "expected") -> NDArray[np.float64]:
        """(P,) probability that the right video is among the first ``k``."""
        if ties == "expected":
            inside = np.clip((k - self.better) / (self.equal + 1), 0.0, 1.0)
        else:
            inside = (self.rank(ties) <= k).astype(np.float64)
        return np.where(self.listed, inside, 0.0)

    def rank(self, ties: str = "expected") -> NDArray[np.float64]:
        """(P,) from 1; infinite where not listed."""
        above = {
            "expected": 0.5 * self.equal,
            "optimistic": 0.0 * self.equal,
            "pessimistic": 1.0 * self.equal,
            "file": 1.0 * self.ahead,
        }[ties]
        return np.where(self.listed, 1.0 + self.better + above, np.inf)

    def reciprocal(self, ties: str = "expected") -> NDArray[np.float64]:
        """(P,) one over the rank (its mean over tie orders when expected); 0 where not listed."""
        if ties != "expected":
            return 1.0 / self.rank(ties)
        last = self.better + self.equal + 1
        top = int(last.max(initial=1))
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, top + 1))])
        mean = (harmonic[last] - harmonic[self.better]) / (self.equal + 1)
        return np.where(self.listed, mean, 0.0)


def rank_videos(
    similarity: NDArray[np.floating] | Ranking, target: NDArray[np.int64], *, chunk: int = 1024
) -> Ranks:
    """Rank the corpus for every paragraph.

    Args:
        similarity: (P, V), higher is nearer; or listed videos.
        target: (P,) the right video's index.
        chunk: paragraphs at once; the result does not depend on it.

    Scores are compared as they are given: two are equal when their bits are.
    """
    if isinstance(similarity, Ranking):
        right = similarity.videos == target[:, None]
        listed = right.any(axis=1)
        right_score = np.where(right, similarity.scores, -np.inf).max(axis=1, initial=-np.inf)
        real = similarity.videos >= 0
        better = (real & (similarity.scores > right_score[:, None])).sum(axis=1)
        level = real & (similarity.scores == right_score[:, None])
        equal = level.sum(axis=1) - listed
        return Ranks(better, np.maximum(equal, 0), listed, _before(level, right))
    better = np.empty(len(target), np.int64)
    equal = np.empty(len(target), np.int64)
    ahead = np.empty(len(target), np.int64)
    for low in range(0, len(target), chunk):
        rows = slice(low, low + chunk)
        part = similarity[rows]
        right_score = np.take_along_axis(part, target[rows, None], axis=1)
        better[rows] = (part > right_score).sum(axis=1)
        level = part == right_score
        equal[rows] = level.sum(axis=1) - 1
        ahead[rows] = _before(level, np.arange(part.shape[1]) == target[rows, None])
    return Ranks(better, equal, np.ones(len(target), np.bool_), ahead)


def _before(level: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(m,) how many of the entries (m, L) that score as the right one stand before its first."""
    first = (level & right).argmax(axis=1)[:, None]
    return np.asarray((level & (np.arange(level.shape[1]) < first)).sum(axis=1))


def top_videos(similarity: NDArray[np.floating], k: int) -> Ranking:
    """The k best videos of every paragraph, best first; equal scores in the order of the corpus."""
    k = min(k, similarity.shape[1])
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return Ranking(order.astype(np.int32), np.take_along_axis(similarity, order, axis=1))


def shortlisted(first_stage: NDArray[np.floating], share: float = 0.05) -> NDArray[np.bool_]:
    """(P, V) which videos the first stage puts first: this share of the corpus, rounded up; equal
    scores in the order of the corpus."""
    P, V = first_stage.shape
    kept = np.zeros((P, V), np.bool_)
    best = top_videos(first_stage, max(1, int(np.ceil(share * V - 1e-9)))).videos
    np.put_along_axis(kept, best, True, axis=1)
    return kept


def in_two_stages(
    similarity: NDArray[np.floating], first_stage: NDArray[np.floating], share: float = 0.05
) -> NDArray[np.float64]:
    """(P, V) scores that rank the shortlist by ``similarity`` and behind it the other videos by the
    first stage."""
    behind = first_stage.astype(np.float64)
    behind = behind - behind.max() - 1 + similarity.min()
    return np.where(shortlisted(first_stage, share), similarity, behind)


def retrieval_values(
    ranks: Ranks, k: Sequence[int], *, ties: str = "expected"
) -> dict[str, NDArray[np.float64]]:
    """R@k and the reciprocal rank of every paragraph, each (P,) in [0, 1]."""
    values = {f"R@{number}": ranks.within(number, ties) for number in k}
    return {**values, "MRR": ranks.reciprocal(ties)}


MOST_SCALE = 1000.0


def similarity_scale(
    similarity: NDArray[np.floating], target: NDArray[np.int64], sentences: float
) -> float:
    """λ for which the soft-max over videos of λ times the similarities makes paragraphs' own videos
    most likely, divided by the mean number of a paragraph's ``sentences``: what a similarity of 1
    adds to the log-odds of a video for each sentence. Never below 0; it needs no timestamp.

    The likelihood is concave in λ; the search is by thirds, up to ``MOST_SCALE``: where every
    paragraph finds its video, it would never end.
    """
    centred = similarity - similarity[np.arange(len(target)), target][:, None]
    low, high = 0.0, MOST_SCALE
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        loss = [np.logaddexp.reduce(each * centred.astype(float), axis=1).mean() for each in (a, b)]
        low, high = (low, b) if loss[0] <= loss[1] else (a, high)
    return (low + high) / 2 / sentences


def pairing_skill(similarity: NDArray[np.floating], target: NDArray[np.int64]) -> float:
    """How surely a paragraph's own video scores above another one: 0 by chance, 1 always.

    Twice the mean share of other videos that score lower (ties count half), minus one, less two
    standard errors over paragraphs, so that chance is not mistaken for skill; never below 0. It
    needs to know which paragraph belongs to which video, and no timestamp.
    """
    P, V = similarity.shape
    right_score = similarity[np.arange(P), target][:, None]
    below = (similarity < right_score).sum(axis=1) + 0.5 * (
        (similarity == right_score).sum(axis=1) - 1
    )
    skill = 2 * below / max(V - 1, 1) - 1
    return float(np.clip(skill.mean() - 2 * skill.std() / np.sqrt(P), 0, 1))
