"""The progress reports of a run: lines for the console."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from ..base.terminal import coloured, duration
from ..evaluation import headline_numbers
from ..evaluation.baselines import best_floor
from .loggers import leaves
from .progress import Progress

_ROOM = 41  # of 80 columns, for the scores of an epoch


class EpochTable:
    """The epochs of a run, a row each: loss, validation scores, and time.

    The head, with the best baseline (floor) of each score, stands over the first row, and again
    where the floors have changed.

    Args:
        epochs: of the whole run.
        select_by: the score that chooses the best epoch; it has a column whatever it is.
    """

    def __init__(self, epochs: int, select_by: str) -> None:
        self.epochs, self.select_by = epochs, select_by
        self._head: list[str] = []
        self._warned: set[str] = set()

    def rows(
        self,
        epoch: int,
        means: Mapping[str, float],
        summary: Mapping[str, Any],
        progress: Progress,
        *,
        seconds: float,
        left: float,
    ) -> list[str]:
        """The row of an epoch, with what must stand over it.

        Args:
            epoch: from 0.
            means: of the loss terms, ``total`` among them.
            seconds: that the epoch took; ``left``: that the run still takes.
        """
        columns = _columns(summary, self.select_by)
        head = [f"{'':16}", f"{'epoch':>7}{'loss':>9}", f"{'floors':16}"]
        for question, group in groupby(columns, key=lambda column: column.question):
            head[0] += f"{question:^{sum(column.width for column in group)}}"
        for column in columns:
            head[1] += f"{column.metric:>{column.width}}"
            head[2] += f"{column.floor:{column.width}.2f}"
        head[1] += f"{'time':>8}{'left':>9}"
        row = f"{f'{epoch + 1}/{self.epochs}':>7}{means['total']:9.4f}"
        row += "".join(f"{column.score:{column.width}.2f}" for column in columns)
        row += f"{duration(seconds):>8}{duration(left):>9}"
        row += coloured("  best", "green") if progress.best_epoch in (None, epoch) else ""
        if head == self._head:
            return [row]
        self._head = head
        return [coloured(head[0].rstrip(), "bold"), coloured(head[1], "bold"), head[2], row]

    def unscored(
        self, epoch: int, means: Mapping[str, float], *, seconds: float, left: float
    ) -> str:
        """The row of an epoch without validation; arguments as of ``rows``."""
        row = f"{f'{epoch + 1}/{self.epochs}':>7}{means['total']:9.4f}"
        width = len(self._head[2]) if self._head else 16
        return f"{row:{width}}{duration(seconds):>8}{duration(left):>9}"

    def warnings(self, summary: Mapping[str, Any]) -> list[str]:
        """The warnings of an epoch that the epoch before did not have, whatever their numbers."""
        kinds = {re.sub(r"[\d.]+", "", text): text for text in summary["warnings"]}
        new = [f"  WARNING: {text}" for kind, text in kinds.items() if kind not in self._warned]
        self._warned = set(kinds)
        return new


class _Column(NamedTuple):
    question: str
    metric: str
    score: float
    floor: float

    @property
    def width(self) -> int:
        return max(len(self.metric), 6) + 2


def _columns(summary: Mapping[str, Any], select_by: str) -> list[_Column]:
    """Retrieval and grounding as the headline has them, and what chooses the epoch, as far as there
    is room."""
    numbers = [each for each in headline_numbers(summary) if each.question != "joint"]
    columns = [_Column(each.question, each.metric, each.score, each.floor) for each in numbers]
    protocol, _, metric = select_by.partition("/")
    if select_by not in {f"{each.protocol}/{each.metric}" for each in numbers}:
        floor, _ = best_floor(summary, protocol, metric)
        score = summary["protocols"][protocol][metric]
        columns.append(_Column(protocol, metric, score, math.nan if floor is None else floor))
    while sum(column.width for column in columns) > _ROOM:
        columns.pop(0)
    return columns


def describe_change(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignore: Collection[str]
) -> list[str]:
    """Options that differ between two configurations, as ``KEY was x and is y``."""
    old, new = dict(leaves(before)), dict(leaves(now))
    return [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old | new)
        if key not in ignore and old.get(key) != new.get(key)
    ]
