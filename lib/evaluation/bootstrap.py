"""How far a number would move with other paragraphs: intervals, and two runs compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def mean_resampled(
    counted: Sequence[Counted], paragraphs: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """``resampled`` of the mean over runs that differ in their seed alone, (resamples,) each.

    Every draw also draws as many of the runs, with return: the spread holds what other seeds would
    have given, as far as these show it. Of one run it is ``resampled``.
    """
    draws = [resampled(each, paragraphs, resamples=resamples, seed=seed) for each in counted]
    if len(draws) == 1:
        return draws[0]
    chosen = np.random.default_rng(seed).integers(len(draws), size=(len(draws), resamples))
    return {
        name: np.take_along_axis(np.stack([each[name] for each in draws]), chosen, 0).mean(axis=0)
        for name in draws[0]
        if all(name in each for each in draws)
    }


def mean_scores(counted: Sequence[Counted]) -> dict[str, tuple[float, float | None]]:
    """Metric -> the mean over runs, and their standard deviation (n - 1); None for one run."""
    scores = [each.scores() for each in counted]
    out: dict[str, tuple[float, float | None]] = {}
    for name in (name for name in scores[0] if all(name in each for each in scores)):
        values = np.array([each[name] for each in scores])
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        out[name] = (float(values[0]) if len(values) == 1 else float(values.mean()), spread)
    return out


def judge(
    name: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    *,
    old: float,
    new: float,
    level: float = 0.95,
) -> dict[str, Any]:
    """A score of one model against that of another, in points, from both on the same draws.

    Each number is judged by itself: among twenty at 95 %, one will look different by chance.

    Args:
        before, after: (resamples,) the scores on the draws; ``old`` and ``new`` on the data.

    Returns:
        ``difference``, ``interval`` and ``verdict``: "better", "worse", "cannot tell" (the interval
        holds 0), or "the same" (no draw differs).
    """
    with np.errstate(invalid="ignore"):
        moved = np.nan_to_num(after - before, nan=0.0)  # inf - inf: both unlisted
    low, high = interval(moved, level)
    sign = -1 if lower_is_better(name) else 1
    verdict = "better" if min(sign * low, sign * high) > 0 else "cannot tell"
    verdict = "worse" if max(sign * low, sign * high) < 0 else verdict
    if (moved == 0).all() and old == new:
        verdict = "the same"
    return {
        "difference": 0.0 if old == new else new - old,
        "interval": [low, high],
        "verdict": verdict,
    }


def lower_is_better(metric: str) -> bool:
    """Of a rank; everything else is better when higher."""
    return metric.endswith("MedR")
