"""Random cases for the scorers: ties, missing queries, shared videos, spans on a grid.

Scores are few small numbers, so that ties are common; moments are on a grid that shares points with
the predictions', so that overlaps of exactly 0.5 are common.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from lib.evaluation import Pairs, Predictions, Truth
from tests.brute_force import Case, finished

GRID = 8
DURATIONS = (10.0, 7.3, 61.01, 33.33)


@st.composite
def spans(draw: st.DrawFn) -> tuple[Fraction, Fraction]:
    start = draw(st.integers(0, GRID - 1))
    end = draw(st.integers(start + 1, GRID))
    return Fraction(start, GRID), Fraction(end, GRID)


@st.composite
def cases(draw: st.DrawFn, *, annotators: int = 1, distinct: bool = False) -> Case:
    videos = draw(st.integers(1, 4))
    paragraphs = draw(st.integers(1, 3))
    owner = [p for p in range(paragraphs) for _ in range(draw(st.integers(1, 2)))]
    score = st.integers(0, 2).map(float)
    pair = st.tuples(st.integers(0, videos - 1), spans(), score)
    pairs = [draw(st.lists(pair, max_size=5)) for _ in owner]  # empty: the query is missing
    if distinct:
        pairs = [[(v, s, 10.0 * x + j) for j, (v, s, x) in enumerate(row)] for row in pairs]
    return Case(
        owner=owner,
        video=[draw(st.integers(0, videos - 1)) for _ in range(paragraphs)],
        truth=[draw(st.lists(spans(), min_size=1, max_size=annotators)) for _ in owner],
        similarity=[[draw(score) for _ in range(videos)] for _ in range(paragraphs)],
        moments=[draw(st.lists(spans(), max_size=3)) for _ in owner],
        pairs=pairs,
    )


def same_moments(case: Case) -> Case:
    """Videos ranked by their best moment, and the right video's moments those of the pairs."""
    pairs = [finished(row, 10, None, True) for row in case.pairs]
    owner = list(range(len(case.owner)))  # each sentence a query
    video = [case.video[p] for p in case.owner]
    lowest = -1.0  # a video without a moment
    similarity = [
        [
            max([x for w, _, x in row if w == v], default=lowest)
            for v in range(len(case.similarity[0]))
        ]
        for row in pairs
    ]
    moments = [[s for w, s, _ in row if w == video[i]] for i, row in enumerate(pairs)]
    return Case(owner, video, case.truth, similarity, moments, pairs)


def as_arrays(case: Case) -> tuple[Truth, Predictions]:
    """The case as the library wants it."""
    V, P, M = len(case.similarity[0]), len(case.video), len(case.owner)
    durations = np.array([DURATIONS[v % len(DURATIONS)] for v in range(V)])
    seconds = durations[[case.video[p] for p in case.owner]]
    A = max(len(row) for row in case.truth)
    times = np.full((M, A, 2), np.nan)
    for i, row in enumerate(case.truth):
        times[i, : len(row)] = np.array(row, float) * seconds[i]
    truth = Truth(
        video_ids=tuple(f"video{v}" for v in range(V)),
        durations=durations,
        paragraph_ids=tuple(f"paragraph{p}" for p in range(P)),
        paragraph_video=np.array(case.video),
        sentence_paragraph=np.array(case.owner),
        moments=times[:, 0],
        sentences=tuple(f"sentence {i}" for i in range(M)),
        annotations=times,
    )
    n = max(1, *(len(row) for row in case.moments)) if case.moments else 1
    found, scores = np.full((M, n, 2), np.nan), np.full((M, n), -np.inf)
    for i, row in enumerate(case.moments):
        if row:
            found[i, : len(row)] = np.array(row, float)
            scores[i, : len(row)] = -np.arange(len(row))
    L = max(1, *(len(row) for row in case.pairs)) if case.pairs else 1
    videos, where = np.full((M, L), -1), np.full((M, L, 2), np.nan)
    worth = np.full((M, L), -np.inf)
    for i, listed in enumerate(case.pairs):
        for j, (video, span, score) in enumerate(listed):
            videos[i, j], where[i, j], worth[i, j] = video, np.array(span, float), score
    return truth, Predictions(
        similarity=np.array(case.similarity),
        spans=found,
        scores=scores,
        candidates=Pairs(videos, where, worth),
    )
