"""The first stage: the vectors of all items in eight bits, and the score of a query with each.

A vector is normalised, projected by one matrix and rounded to ``127 / limit`` steps. The matrix
holds the principal axes of a sample (not centred, so that it keeps inner products), turned by a
random rotation: that spreads the length evenly over the components, which one step size for all of
them needs. A query is rounded with a step of its own, and all sums are of integers, so every way to
compute them gives the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

# Items scored at once: their scores of a query of four sentences stay in a second-level cache.
CHUNK = 2**13
_STEPS = 127
_CLIPPED = 1e-5  # share of the sample's numbers beyond the limit
_DEVIATIONS = 4.5  # of the components of a unit vector, which the limit reaches at least
_SEED = 0


@dataclass(frozen=True)
class Quantizer:
    """Vectors of width D to W numbers of eight bits.

    Attributes:
        projection: W rows that are orthonormal.
        limit: the largest magnitude that eight bits reach; larger numbers are clipped to it.
        kept: share of the squared length of the sample's vectors that the projection keeps.
    """

    projection: Float[np.ndarray, "W D"]
    limit: float
    kept: float

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "n P D"], width: int) -> Quantizer:
        """By the vectors of a sample of items; W is the smaller one of ``width`` and D."""
        rows = normalised(vectors).reshape(-1, vectors.shape[-1])
        width = min(width, rows.shape[1])
        energy, axes = np.linalg.eigh(rows.T.astype(np.float64) @ rows)  # ascending
        rotation, _ = np.linalg.qr(np.random.default_rng(_SEED).standard_normal((width, width)))
        projection = (rotation @ axes[:, -width:].T).astype(np.float32)
        sizes = np.abs(rows @ projection.T)
        kept = float(energy[-width:].sum() / max(energy.sum(), 1e-12))
        limit = max(float(np.quantile(sizes, 1 - _CLIPPED)), _DEVIATIONS / width**0.5)
        return cls(projection, min(limit, 1.0), kept)

    def stored(self, vectors: Float[np.ndarray, "n P D"]) -> Int8[np.ndarray, "P n W"]:
        """The vectors of items as they are kept: all of the first place, then of the next."""
        projected = normalised(vectors).transpose(1, 0, 2) @ self.projection.T
        projected *= _STEPS / self.limit
        return np.rint(projected).clip(-_STEPS, _STEPS).astype(np.int8)

    def query(self, vectors: Float[np.ndarray, "S D"]) -> Int8[Tensor, "S W"]:
        """The vectors of a query's sentences, all with one step."""
        projected = normalised(vectors) @ self.projection.T
        largest = np.abs(projected).max(initial=0.0) or 1.0
        return torch.from_numpy(np.rint(projected * (_STEPS / largest)).astype(np.int8))


def normalised(vectors: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
    """Vectors of length 1; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


Products = Callable[[Tensor, Tensor], Tensor]  # (n, W) and (S, W), both int8, to (n, S) int32


def integer_products(rows: Int8[Tensor, "n W"], query: Int8[Tensor, "S W"]) -> Int[Tensor, "n S"]:
    return torch._int_mm(rows, query.t())


def float_products(rows: Int8[Tensor, "n W"], query: Int8[Tensor, "S W"]) -> Int[Tensor, "n S"]:
    """The same numbers: float32 adds integers below 2²⁴ exactly, and W · 127² is below it up to a
    width of 1,040."""
    return (rows.float() @ query.float().t()).int()


def _best_products() -> Products:
    """Integer products take half the time, but Torch does not promise their function."""
    try:
        one = torch.ones(1, 1, dtype=torch.int8)
        if integer_products(one, one).item() == 1:
            return integer_products
    except (AttributeError, RuntimeError, NotImplementedError):
        pass
    return float_products


products: Products = _best_products()


def scores_of(
    query: Int8[Tensor, "S W"], places: Int8[Tensor, "P n W"], *, ordered: bool
) -> Int[Tensor, " n"]:
    """The sum over a query's sentences of their inner products with the places they are given.

    Ordered: the best way to give the sentences places of which none lies before the place of the
    sentence before; else the best place for each.
    """
    each = torch.stack([products(place, query) for place in places])
    scores = each.permute(2, 0, 1).contiguous()  # (S, P, n), for long contiguous runs
    if not ordered:
        return scores.amax(dim=1).sum(dim=0, dtype=torch.int32)
    reach = scores[0]  # the best way for the sentences so far that ends in each place
    for sentence in scores[1:]:  # order is the point
        for before, place in itertools.pairwise(reach):
            torch.maximum(before, place, out=place)
        reach += sentence
    return reach.amax(dim=0)
