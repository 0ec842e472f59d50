"""What makes simulated feature rows harder than signal plus noise; shared by both simulators.

Every function is the identity at its knob's default, and draws from a stream of its own, so that a
knob changes what it names and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

_UNIT_SPREAD = 0.5  # standard deviation of the log of a unit's scale, in ``Rectifier``


def named_generator(seed: int, *names: str) -> np.random.Generator:
    """A stream that depends on the seed and the names, and on nothing drawn before."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(list(digest[:16]))


def visible_parts(
    moments: Float[np.ndarray, "L 2"], share: float, random: np.random.Generator
) -> Float[np.ndarray, "L 2"]:
    """The part of each moment that rows show: ``share`` of it, in one piece, anywhere in it."""
    if share == 1:
        return moments
    lengths = moments[:, 1] - moments[:, 0]
    starts = moments[:, 0] + random.random(len(moments)) * (1 - share) * lengths
    return np.stack([starts, starts + share * lengths], axis=1)


def echo_spans(
    moments: Float[np.ndarray, "L 2"], mean: float, random: np.random.Generator
) -> tuple[Int[np.ndarray, " R"], Float[np.ndarray, "R 2"]]:
    """Where events show again: which event, and a span half as long outside its moment.

    Args:
        moments: fractions of the video.
        mean: echoes of an event, by a Poisson law. One without room beside its moment is left out.
    """
    counts = random.poisson(mean, len(moments)) if mean else np.zeros(len(moments), dtype=np.int64)
    owner = np.repeat(np.arange(len(moments)), counts)
    start, end = moments[owner].T
    length = (end - start) / 2
    # Starts in [0, before) or [end, end + after) keep the echo out of the moment.
    before, after = np.maximum(start - length, 0), np.maximum(1 - length - end, 0)
    drawn = random.random(len(owner)) * (before + after)
    first = np.where(drawn < before, drawn, end + drawn - before)
    room = before + after > 0
    return owner[room], np.stack([first, first + length], axis=1)[room]


def topic_of(looks: Sequence[Float[np.ndarray, " C"]], dim: int) -> Float[np.ndarray, " C"]:
    """What a video is about: the mean direction of what its paragraph describes; length 1, or 0
    where nothing has a look."""
    total = np.sum(looks, axis=0) if len(looks) else np.zeros(dim)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12))


def video_gain(spread: float, random: np.random.Generator) -> float:
    """A video's factor on all its rows: log-normal, ``spread`` the deviation of its log."""
    return math.exp(spread * random.standard_normal()) if spread else 1.0


class Rectifier:
    """A fixed random layer of rectified units: sparse, non-negative, heavy-tailed rows.

    Unit j of a row x is ``s_j · expm1(max(w_j · x / √energy − b, 0)) / √C`` with normal weights, a
    threshold b that leaves ``sparsity`` of a normal variable at 0, and log-normal scales s. So a
    few large numbers make up most of a row, units differ in scale, and all rows share the direction
    of the units' means: as activations of trained networks after a ReLU.

    Args:
        dim: C.
        sparsity: share of zeros in rows of the given energy; 0 = the layer is left out.
        energy: mean square length of the rows that will come.
    """

    def __init__(self, dim: int, sparsity: float, energy: float, seed: int) -> None:
        self.sparsity = sparsity
        self.dim, self.energy, self.seed = dim, energy, seed

    @functools.cached_property
    def _layer(self) -> tuple[Float[np.ndarray, "C C"], Float[np.ndarray, " C"]]:
        random = named_generator(self.seed, "rectifier")
        weights = random.standard_normal((self.dim, self.dim)) / math.sqrt(self.energy)
        scales = np.exp(_UNIT_SPREAD * random.standard_normal(self.dim)) / math.sqrt(self.dim)
        return weights, scales

    def __call__(self, rows: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        if not self.sparsity:
            return rows
        weights, scales = self._layer
        threshold = NormalDist().inv_cdf(self.sparsity)
        return np.expm1(np.maximum(rows @ weights - threshold, 0)) * scales
