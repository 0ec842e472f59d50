"""Slow scorers that say what each protocol means in plain Python, in exact fractions.

A case is a ``Case`` of lists; nothing here is shared with ``lib.evaluation``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Span = tuple[Fraction, Fraction]


@dataclass
class Case:
    """Sentences, their answers, and what a model said. Spans are fractions of a video."""

    owner: list[int]  # sentence -> paragraph
    video: list[int]  # paragraph -> video
    truth: list[list[Span]]  # sentence -> its annotators' spans; the first is the moment
    similarity: list[list[float]]  # paragraph x video
    moments: list[list[Span]]  # sentence -> spans in its own video, best first
    pairs: list[list[tuple[int, Span, float]]]  # sentence -> (video, span, score), in any order


def iou(a: Span, b: Span) -> Fraction:
    inside = max(min(a[1], b[1]) - max(a[0], b[0]), Fraction(0))
    return inside / ((a[1] - a[0]) + (b[1] - b[0]) - inside)


def passes(value: Fraction, threshold: float, strict: bool) -> bool:
    exact = Fraction(str(threshold))
    return value > exact if strict else value >= exact


def places(case: Case, paragraph: int, ties: str) -> list[int]:
    """The places at which the right video may stand, all equally likely."""
    row = case.similarity[paragraph]
    own = row[case.video[paragraph]]
    better = sum(score > own for score in row)
    equal = sum(score == own for score in row)
    every = list(range(better + 1, better + equal + 1))
    before = sum(score == own for score in row[: case.video[paragraph]])
    listed = [better + before + 1]
    rules = {"expected": every, "optimistic": every[:1], "pessimistic": every[-1:], "file": listed}
    return rules[ties]


def vr(case: Case, k: int, ties: str, unit: str = "paragraph") -> float:
    queries = range(len(case.video)) if unit == "paragraph" else case.owner
    found = [[place <= k for place in places(case, p, ties)] for p in queries]
    return 100 * sum(sum(each) / len(each) for each in found) / len(found)


def mrr(case: Case, ties: str) -> float:
    found = [[1 / place for place in places(case, p, ties)] for p in range(len(case.video))]
    return 100 * sum(sum(each) / len(each) for each in found) / len(found)


def svmr(case: Case, n: int, m: float, strict: bool) -> float:
    hits = [
        any(passes(iou(span, case.truth[i][0]), m, strict) for span in case.moments[i][:n])
        for i in range(len(case.owner))
    ]
    return 100 * sum(hits) / len(hits)


def svmr_any(case: Case, n: int, m: float) -> float:
    hits = [
        any(passes(iou(s, true), m, False) for s in case.moments[i][:n] for true in case.truth[i])
        for i in range(len(case.owner))
    ]
    return 100 * sum(hits) / len(hits)


def mean_best_iou(case: Case) -> float:
    first = [
        max(iou(listed[0], true) for true in case.truth[i]) if listed else 0
        for i, listed in enumerate(case.moments)
    ]
    return float(100 * sum(first) / len(first))


def mean_average_precision(case: Case, thresholds: list[float]) -> float:
    """The area under the interpolated precision-recall curve, step by step."""
    total = Fraction(0)
    for i, listed in enumerate(case.moments):
        for m in thresholds:
            left, points = list(case.truth[i]), [(Fraction(0), Fraction(0))]
            for place, span in enumerate(listed[:10], start=1):
                near = max(left, key=lambda true: iou(span, true), default=None)
                if near is not None and passes(iou(span, near), m, False):
                    left.remove(near)
                found = len(case.truth[i]) - len(left)
                points.append((Fraction(found, len(case.truth[i])), Fraction(found, place)))
            for (before, _), (recall, _) in itertools.pairwise(points):
                best = max(precision for there, precision in points if there >= recall)
                total += (recall - before) * best
    return float(100 * total / len(case.moments) / len(thresholds))


def mean_iou(case: Case) -> float:
    first = [iou(s[0], case.truth[i][0]) if s else 0 for i, s in enumerate(case.moments)]
    return float(100 * sum(first) / len(first))


def svmr_discounted(case: Case, n: int, m: float) -> float:
    total = Fraction(0)
    for i in range(len(case.owner)):
        true, best = case.truth[i][0], Fraction(0)
        for span in case.moments[i][:n]:
            if passes(iou(span, true), m, True):
                best = max(best, (1 - abs(span[0] - true[0])) * (1 - abs(span[1] - true[1])))
        total += best
    return float(100 * total / len(case.owner))


def jrg_video_topk(case: Case, k: int, m: float, ties: str, n: int = 10) -> float:
    total = 0.0
    for i, p in enumerate(case.owner):
        where = places(case, p, ties)
        retrieved = sum(place <= k for place in where) / len(where)
        right = any(passes(iou(span, case.truth[i][0]), m, True) for span in case.moments[i][:n])
        total += retrieved * right
    return 100 * total / len(case.owner)


def finished(pairs: list[Any], n: int | None, before: int | None, nms: bool) -> list[Any]:
    """One sentence's list, best first: equal scores stay as they are listed."""
    ranked = sorted(pairs, key=lambda pair: -pair[2])
    if n is not None:
        ranked = [
            pair
            for i, pair in enumerate(ranked)
            if sum(other[0] == pair[0] for other in ranked[:i]) < n
        ]
    ranked = ranked[:before]
    kept: list[Any] = []
    for pair in ranked:
        close = [other for other in kept if other[0] == pair[0]]
        if not nms or all(iou(pair[1], other[1]) <= Fraction(1, 2) for other in close):
            kept.append(pair)
    return kept


def vcmr(
    case: Case,
    k: int,
    m: float,
    *,
    n: int | None = None,
    before: int | None = None,
    nms: bool = False,
    annotators: int = 1,
    after: int = 100,
    ties: str = "expected",
) -> float:
    """Mean over the orders in which equal scores of the finished list may stand, or as listed."""
    total = 0.0
    for i, p in enumerate(case.owner):
        ranked = finished(case.pairs[i], n, before, nms)
        needed = min(annotators, len(case.truth[i]))
        hits = []
        for video, span, _ in ranked:
            agreeing = sum(passes(iou(span, true), m, False) for true in case.truth[i])
            hits.append(video == case.video[p] and agreeing >= needed)
        orders = [
            sorted(order, key=lambda j: -ranked[j][2])
            for order in itertools.permutations(range(len(ranked)))
        ]
        orders = orders[:1] if ties == "file" else orders
        first = [any(hits[j] for j in order[: min(k, after)]) for order in orders]
        total += sum(first) / len(first)
    return 100 * total / len(case.owner)
