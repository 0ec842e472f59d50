"""Loss terms as pure functions, and the criterion that weighs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..base.batch import Batch

Term = Callable[[Any, Batch], Tensor]  # (a model's output, batch) -> scalar loss in float32
Losses = Mapping[str, Term]


class Criterion:
    """The weighted sum of a model's loss terms.

    Args:
        terms: the model's, by name.
        weights: by the same names; a term without a weight or with weight 0 is not computed.
        external: terms from outside, which the model does not know by name: where one counts, the
            model computes all that it can.

    Raises:
        ValueError: a weight for a term that the model does not have, or no weight above zero.
    """

    def __init__(
        self, terms: Losses, weights: Mapping[str, int | float], external: Losses | None = None
    ) -> None:
        self.external = dict(external or {})
        terms = {**terms, **self.external}
        unknown = sorted(set(weights) - set(terms))
        if unknown:
            raise ValueError(f"no loss terms {unknown}; the model has {sorted(terms)}")
        self.weights = {name: float(w) for name, w in weights.items() if w != 0}
        if not self.weights:
            raise ValueError(f"every loss weight is zero; the model has {sorted(terms)}")
        self.terms = {name: terms[name] for name in self.weights}

    @property
    def active(self) -> frozenset[str] | None:
        """The terms that are computed, for which a model has to provide outputs; None: all."""
        return None if set(self.external) & set(self.terms) else frozenset(self.terms)

    def scaled(self, factors: Mapping[str, int | float]) -> Criterion | None:
        """The same criterion with some weights multiplied; None if no weight above zero is left.

        A factor for a term of another experiment's weights changes nothing.
        """
        weights = {name: w * factors.get(name, 1.0) for name, w in self.weights.items()}
        return Criterion(self.terms, weights, self.external) if any(weights.values()) else None

    def __call__(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Every term, unweighted, and their weighted sum under ``total``."""
        values = {name: term(output, batch) for name, term in self.terms.items()}
        total = sum(self.weights[name] * value for name, value in values.items())
        assert isinstance(total, Tensor)
        return {"total": total, **values}
