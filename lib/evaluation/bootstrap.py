"""How far a number would move with other paragraphs: intervals, and two runs compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRAWS_AT_ONCE = 100  # memory; fixed, so that every machine sums in the same order


@dataclass(frozen=True)
class Counted:
    """What a protocol counted: the value of every sentence or paragraph (item); a score is 100
    times their mean.

    ``ranks`` are the right videos' ranks, where videos are ranked; then ``MedR`` (their median) and
    ``SumR`` (the sum of the recalls) are scores too.
    """

    values: dict[str, NDArray[np.float64]]  # metric -> (items,) in [0, 1]
    paragraph: NDArray[np.int64]  # (items,) of each item; the bootstrap draws paragraphs
    ranks: NDArray[np.float64] | None = None  # (items,) from 1
    missing: int = 0  # queries without an answer, counted as misses

    def scores(self) -> dict[str, float]:
        """Metric -> per cent; the median rank as it is."""
        means = {name: 100.0 * float(value.mean()) for name, value in self.values.items()}
        if self.ranks is not None:
            means["MedR"] = float(np.median(self.ranks))
            means["SumR"] = sum(v for name, v in means.items() if name.startswith("R@"))
        return means


def resampled(
    counted: Counted, paragraphs: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Every score on paragraphs drawn with return, (resamples,) each.

    The draws depend on the seed and the number of paragraphs alone: two runs over the same
    paragraphs are resampled together, which is what makes a comparison paired.
    """
    names = list(counted.values)
    columns = [np.bincount(counted.paragraph, counted.values[n], paragraphs) for n in names]
    size = np.bincount(counted.paragraph, minlength=paragraphs).astype(np.float64)
    sums = np.stack([*columns, size], axis=-1)
    totals = np.concatenate([w @ sums for w in _weights(paragraphs, resamples, seed)])
    means = 100.0 * totals[:, :-1] / np.maximum(totals[:, -1:], 1.0)
    out = {name: means[:, i] for i, name in enumerate(names)}
    if counted.ranks is not None:
        medians = [
            _weighted_median(counted.ranks, w[:, counted.paragraph])
            for w in _weights(paragraphs, resamples, seed)
        ]
        out["MedR"] = np.concatenate(medians)
        out["SumR"] = np.sum([v for name, v in out.items() if name.startswith("R@")], axis=0)
    return out


def _weights(paragraphs: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each paragraph is drawn: (draws, paragraphs), in parts."""
    generator = np.random.default_rng(seed)
    even = np.full(paragraphs, 1.0 / paragraphs)
    for low in range(0, resamples, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, resamples - low)
        yield generator.multinomial(paragraphs, even, size=draws).astype(np.float64)


def _weighted_median(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The median of values that occur as often as their weights (draws, items) say."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[:, order], axis=1)
    half = below[:, -1:] / 2
    low, high = (below >= half).argmax(axis=1), (below > half).argmax(axis=1)
    return (values[order][low] + values[order][high]) / 2


def interval(draws: NDArray[np.float64], level: float = 0.95) -> list[float]:
    """[low, high] bounds between which the middle ``level`` (a fraction) of the draws lies."""
    bounds_at = np.array([1 - level, 1 + level]) / 2 * (len(draws) - 1)
    bounds = np.sort(draws)[
        np.round(bounds_at).astype(int)
    ]  # no mean of two: ranks may be infinite
    return [float(bound) for bound in bounds]


def compare(
    first: Counted,
    second: Counted,
    paragraphs: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """The second run minus the first, in points, over the same paragraphs.

    Each number is judged by itself: among twenty at 95 %, one will look different by chance.

    Returns:
        metric -> ``first``, ``second``, ``difference``, ``interval`` and ``verdict``: "better",
        "worse", "cannot tell" (the interval holds 0), or "the same" (no query differs).
    """
    before = resampled(first, paragraphs, resamples=resamples, seed=seed)
    after = resampled(second, paragraphs, resamples=resamples, seed=seed)
    old, new = first.scores(), second.scores()
    out: dict[str, dict[str, Any]] = {}
    for name in (name for name in before if name in after):
        with np.errstate(invalid="ignore"):
            moved = np.nan_to_num(after[name] - before[name], nan=0.0)  # inf - inf: both unlisted
        low, high = interval(moved, level)
        sign = -1 if name == "MedR" else 1
        verdict = "better" if min(sign * low, sign * high) > 0 else "cannot tell"
        verdict = "worse" if max(sign * low, sign * high) < 0 else verdict
        if (moved == 0).all() and old[name] == new[name]:
            verdict = "the same"
        out[name] = {
            "first": old[name],
            "second": new[name],
            "difference": 0.0 if old[name] == new[name] else new[name] - old[name],
            "interval": [low, high],
            "verdict": verdict,
        }
    return out
