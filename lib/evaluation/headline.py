"""The few numbers that a reader wants first, and what each of them means in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bootstrap import lower_is_better
from .protocols import PROTOCOLS

# In the order in which they are shown: title, protocols, metric, meaning. Of each line the first
# protocol that a run has counts. ``{}`` in a metric is a threshold of overlap, 0.5 or the middle
# one of those that were counted, and in a meaning how it is passed.
_LINES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "Right video first",
        ("vr",),
        "R@1",
        "Paragraphs that rank their own video first among all videos.",
    ),
    (
        "Right video among the first ten",
        ("vr",),
        "R@10",
        "Paragraphs that rank their own video among the first ten of all videos.",
    ),
    (
        "Video and moment together",
        ("jrg_joint", "vcmr_jsg", "vcmr_tvr"),
        "R@10,IoU={}",
        "Sentences for which one of the first ten (video, moment) pairs is the right video and "
        "overlaps the true moment by {}.",
    ),
    (
        "Video among the first ten, ten moments in it",
        ("jrg_video_topk",),
        "R@10,IoU={}",
        "Sentences whose video is among the paragraph's first ten, where one of ten moments "
        "overlaps the true one by {}: a hundred moments may be shown.",
    ),
    (
        "Best moment right",
        ("svmr_2dtan", "svmr"),
        "R@1,IoU={}",
        "Sentences whose best-ranked moment in the right video overlaps the true one by {}.",
    ),
    (
        "Mean overlap",
        ("svmr_2dtan", "svmr"),
        "mIoU",
        "Overlap (intersection over union) of the best-ranked moment in the right video with the "
        "true one, mean over sentences.",
    ),
)
_MOST = 5


@dataclass(frozen=True)
class Headline:
    """One number of a summary, with what stands beside it; per cent."""

    protocol: str
    metric: str
    title: str
    meaning: str
    score: float
    floor: float | None  # the best score without a model
    rule: str  # which rule's the floor is
    interval: tuple[float, float] | None
    ceiling: float | None

    @property
    def below(self) -> bool:
        """Whether a guess without a model does as well."""
        return below_floor(self.metric, self.score, self.floor)


def headlines(summary: dict[str, Any]) -> list[Headline]:
    """At most five numbers of a summary (``summarise``), the first ones that a reader wants."""
    chosen = [
        (protocol, metric, title, meaning)
        for title, names, pattern, meaning in _LINES
        for protocol, metric in [_first_of(summary, names, pattern)]
        if metric
    ]
    if len(chosen) > _MOST:  # the hundred moments of the released script are in the tables
        chosen = [line for line in chosen if line[0] != "jrg_video_topk"]
    if not chosen:  # protocols of which no line speaks
        chosen = [
            (name, metric, f"{name}, {metric}", "As score.py --define says.")
            for name, scores in summary["protocols"].items()
            for metric in list(scores)[:1]
        ]
    return [
        _headline(summary, *line)
        for line in chosen[:_MOST]
        if summary["protocols"][line[0]][line[1]] is not None
    ]


def _first_of(summary: dict[str, Any], names: Sequence[str], pattern: str) -> tuple[str, str]:
    for name in names:
        scores = summary["protocols"].get(name, {})
        start, hole, _ = pattern.partition("{}")
        if pattern.format("0.5") in scores:
            return name, pattern.format("0.5")
        fitting = [metric for metric in scores if metric.startswith(start)]
        if hole and fitting:
            return name, fitting[len(fitting) // 2]
    return "", ""


def _headline(
    summary: dict[str, Any], name: str, metric: str, title: str, meaning: str
) -> Headline:
    bounds = summary.get("intervals", {}).get(name, {}).get(metric)
    floor, rule = best_floor(summary, name, metric)
    known = bounds is not None and None not in bounds
    return Headline(
        protocol=name,
        metric=metric,
        title=title,
        meaning=meaning.format(_passed(name, metric)),
        score=summary["protocols"][name][metric],
        floor=floor,
        rule=rule,
        interval=(bounds[0], bounds[1]) if known else None,
        ceiling=summary.get("ceilings", {}).get(name, {}).get(metric),
    )


def _passed(name: str, metric: str) -> str:
    threshold = metric.rpartition("=")[2]
    return f"more than {threshold}" if PROTOCOLS[name].strict else f"{threshold} or more"


def best_floor(summary: dict[str, Any], name: str, metric: str) -> tuple[float | None, str]:
    """The best score without a model ("floor"), in per cent, and its rule; None without one."""
    rows = summary.get("floors", {}).get(name, {})
    values = [(row[metric], rule) for rule, row in rows.items() if row.get(metric) is not None]
    choose = min if lower_is_better(metric) else max
    return choose(values, default=(None, ""))


def below_floor(metric: str, score: float, floor: float | None) -> bool:
    """Whether a score does not beat its floor."""
    if floor is None:
        return False
    return score >= floor if lower_is_better(metric) else score <= floor
