"""The answer of a test in five numbers, each beside its floor and its interval, in 80 columns."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base.terminal import Colour, coloured, count
from .baselines import best_floor
from .protocols import PROTOCOLS, Protocol

WIDTH = 80
# What is answered, by which protocol (the first that was counted), and by which of its metrics.
_ANSWERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("retrieval", ("vr", "vr_sentences"), ("R@1", "R@10")),
    ("grounding", ("svmr", "svmr_2dtan"), ("R@1,IoU=0.5", "mIoU")),
    (
        "joint",
        ("jrg_joint", "vcmr_tvr", "vcmr_tvr_nms", "vcmr_jsg", "vcmr_didemo", "jrg_video_topk"),
        ("R@10,IoU=0.5",),
    ),
)
_RECALL = re.compile(r"R@(\d+)(?:,IoU=([\d.]+))?")
_COLOURS: dict[str, Colour] = {"above": "green", "not above": "yellow", "below": "red"}


@dataclass(frozen=True)
class HeadlineNumber:
    """One number of the headline.

    Attributes:
        question: retrieval, grounding or joint.
        score, floor: in per cent; the floor is the best score of a rule without a model, NaN where
            no rule was scored.
        interval: the 95 % interval of the score; None: not computed.
        rule: whose score the floor is.
    """

    question: str
    protocol: str
    metric: str
    score: float
    interval: tuple[float, float] | None
    floor: float
    rule: str

    @property
    def verdict(self) -> str:
        """``above``: the whole interval is above the floor, ``below`` it, or ``not above``: the
        floor lies in the interval. Without an interval, by the score alone. "" without a floor."""
        if math.isnan(self.floor):
            return ""
        low, high = self.interval or (self.score, self.score)
        return "above" if low > self.floor else "below" if high < self.floor else "not above"


def headline_numbers(summary: Mapping[str, Any]) -> list[HeadlineNumber]:
    """The numbers of the headline that a summary of ``summarise`` has, five at most.

    Args:
        summary: where it was counted at other K or IoU than the headline's, the nearest are taken.
    """
    found = []
    for question, protocols, metrics in _ANSWERS:
        name = next((p for p in protocols if summary["protocols"].get(p)), None)
        if name is None:
            continue
        row = summary["protocols"][name]
        scores = {metric: row[metric] for metric in row if row[metric] is not None}
        nearest = (_nearest(wanted, scores) for wanted in metrics)
        for metric in dict.fromkeys(metric for metric in nearest if metric is not None):
            floor, rule = best_floor(summary, name, metric)
            low, high = summary.get("intervals", {}).get(name, {}).get(metric) or (None, None)
            interval = None if low is None or high is None else (low, high)
            found.append(
                HeadlineNumber(
                    *(question, name, metric, scores[metric], interval),
                    math.nan if floor is None else floor,
                    rule,
                )
            )
    return found


def headline_lines(
    summary: Mapping[str, Any], title: str = "", *, explained: bool = True
) -> list[str]:
    """The headline as lines of at most 80 columns.

    Args:
        title: what was tested, before the sizes of the corpus.
        explained: whether what the numbers and words mean follows.
    """
    numbers = headline_numbers(summary)
    corpus = summary["corpus"]
    sizes = [count(corpus[f"{noun}s"], noun) for noun in ("video", "paragraph", "sentence")]
    about = f"{title}: {', '.join(sizes)}" if title else ", ".join(sizes)
    lines = [coloured(line, "bold") for line in textwrap.wrap(about, WIDTH)]
    if not numbers:
        return [*lines, "no number of the headline was counted"]
    drawn = any(number.interval is not None for number in numbers)
    head = f"{'95 % interval':>18}" if drawn else ""
    lines.append(f"{'per cent':22}{'score':>8}{head}{'floor':>9}")
    for number in numbers:
        bounds = ""
        if number.interval is not None:
            bounds = f"{number.interval[0]:.2f} to {number.interval[1]:.2f}"
        name = f"{number.question} {number.metric}"
        row = f"{name:22}{number.score:8.2f}"
        row += f"{bounds:>18}" if drawn else ""
        if number.verdict:
            verdict = coloured(f"{number.verdict} its floor", _COLOURS[number.verdict])
            row += f"{number.floor:9.2f}  {verdict}"
        lines.append(row)
    return [*lines, "", *_explanation(numbers)] if explained else lines


def _explanation(numbers: list[HeadlineNumber]) -> list[str]:
    lines = []
    for question in dict.fromkeys(number.question for number in numbers):
        own = [number for number in numbers if number.question == question]
        protocol = PROTOCOLS[own[0].protocol]
        rules = " or ".join(dict.fromkeys(number.rule for number in own if number.rule))
        guided = " in the videos that the run retrieves" if question == "joint" else ""
        floor = f"; floor: {rules}{guided}" if rules else ""
        lines.append(f"{question} ({protocol.name}): {_meaning(protocol)}{floor}")
    if any(number.interval is not None for number in numbers):
        verdicts = "above and below are said of the whole interval; not above: the floor is in it"
    else:
        verdicts = "without intervals, a score may be above it by chance"
    lines.append(f"A floor is the best score without a model; {verdicts}.")
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def _meaning(protocol: Protocol) -> str:
    """What a recall of the protocol counts, as a clause."""
    overlap = "by more than IoU" if protocol.strict else "by IoU or more"
    return {
        "videos": "the right video is among the first K",
        "moments": f"one of the first K moments overlaps the true one {overlap}",
        "pairs": f"one of the first K pairs is the right video and a moment right {overlap}",
        "videos, then moments": (
            "the right video is among the first K, and one of "
            f"{count(protocol.moments_per_video or 1, 'moment')} in it is right {overlap}"
        ),
    }[protocol.ranked]


def _nearest(wanted: str, scores: Mapping[str, float]) -> str | None:
    """The metric itself, or the recall of the nearest IoU and K."""
    if wanted in scores:
        return wanted
    target = _RECALL.fullmatch(wanted)
    if target is None:
        return None

    def distance(found: re.Match[str]) -> tuple[float, float]:
        overlaps = (float(each[2] or 0) for each in (found, target))
        return abs(next(overlaps) - next(overlaps)), abs(math.log(int(found[1]) / int(target[1])))

    recalls = [found for name in scores if (found := _RECALL.fullmatch(name))]
    return min(recalls, key=distance)[0] if recalls else None
