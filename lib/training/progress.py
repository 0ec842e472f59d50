"""The progress of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """The progress of a run. With the seed and the data it determines everything that follows."""

    epoch: int = 0  # the current epoch, from 0
    step: int = 0  # steps of it that are done
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over those steps
    best_score: float | None = None
    best_epoch: int | None = None
    kept: list[tuple[float, int]] = field(default_factory=list)  # (score, epoch), best first
    # Epoch, as text -> the number that decides between epochs of one score
    finer: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps of the epoch so far."""
        return {name: value / max(self.step, 1) for name, value in self.sums.items()}


class Pace:
    """How long a run still takes, from the steps that this process has done.

    Args:
        steps: of the whole run.
        done: of those, before this process began.
        clock: gives seconds.
    """

    def __init__(
        self, steps: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps, self._first, self._clock = steps, done, clock
        self._began = clock()

    def left(self, done: int) -> float:
        """Seconds, when ``done`` steps of the run are done; what lies between steps, such as
        validation, counts as they do. NaN before the first step."""
        rest, own = self.steps - done, done - self._first
        if rest == 0 or own == 0:
            return 0.0 if rest == 0 else math.nan
        return (self._clock() - self._began) * rest / own
