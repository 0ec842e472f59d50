"""How far a number would move with other paragraphs: intervals, and two runs compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counted:
    """What a protocol counted: the value of every item; a score is 100 times their mean."""

    values: dict[str, NDArray[np.float64]]  # metric -> (items,)
    paragraph: NDArray[np.int64]  # (items,) whose sentence; the bootstrap draws paragraphs
    scalars: dict[str, float]  # statistics that are no mean of items
    missing: int = 0  # queries without an answer, counted as misses

    def scores(self) -> dict[str, float]:
        """Metric -> per cent (scalars as they are)."""
        means = {name: 100.0 * float(value.mean()) for name, value in self.values.items()}
        return {**means, **self.scalars}


def resampled(
    counted: Counted, paragraphs: int, *, resamples: int = 1000, seed: int = 0, chunk: int = 100
) -> dict[str, NDArray[np.float64]]:
    """Every metric in per cent on paragraphs drawn with return, (resamples,) each.

    The draws depend on the seed and the number of paragraphs alone: two runs over the same
    paragraphs are resampled together, which is what makes a comparison paired. The result does not
    depend on ``chunk``.
    """
    names = list(counted.values)
    sums = np.stack(
        [np.bincount(counted.paragraph, counted.values[name], paragraphs) for name in names]
        + [np.bincount(counted.paragraph, minlength=paragraphs).astype(np.float64)],
        axis=-1,
    )
    generator = np.random.default_rng(seed)
    out = np.empty((resamples, len(names)))
    even = np.full(paragraphs, 1.0 / paragraphs)
    for low in range(0, resamples, chunk):
        size = min(chunk, resamples - low)
        drawn = generator.multinomial(paragraphs, even, size=size).astype(np.float64)
        totals = drawn @ sums
        out[low : low + size] = 100.0 * totals[:, :-1] / np.maximum(totals[:, -1:], 1.0)
    return {name: out[:, i] for i, name in enumerate(names)}


def interval(draws: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of the draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare(
    first: Counted,
    second: Counted,
    paragraphs: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, object]]:
    """The second run minus the first, in points, over the same paragraphs.

    Returns:
        metric -> ``difference``, ``interval``, ``verdict``: "better", "worse" or "cannot tell" (the
        interval holds 0). MedR and other scalars are not compared.
    """
    before = resampled(first, paragraphs, resamples=resamples, seed=seed)
    after = resampled(second, paragraphs, resamples=resamples, seed=seed)
    shared: Mapping[str, object] = {name: None for name in before if name in after}
    out: dict[str, dict[str, object]] = {}
    for name in shared:
        low, high = interval(after[name] - before[name], level)
        difference = 100.0 * float(second.values[name].mean() - first.values[name].mean())
        verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
        out[name] = {"difference": difference, "interval": [low, high], "verdict": verdict}
    return out
