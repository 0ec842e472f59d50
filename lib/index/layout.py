"""What the items of an index hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layout:
    """What every item of an index holds; it does not change once the index is made.

    Attributes:
        tensors: what the second stage reads, by name: the shape of one item's, and its dtype, such
            as ``"float16"``.
        places: P, vectors of an item for the first stage, in the order of time.
        width: of the vectors that the first stage keeps. Wider ones are projected to it.
        ordered: whether the first stage gives the sentences of a query places in order, none before
            the place of the sentence before it; otherwise each sentence its best place.
    """

    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    places: int = 4
    width: int = 128
    ordered: bool = True

    def __post_init__(self) -> None:
        if self.places < 1 or self.width < 1:
            raise ValueError(f"{self.places} places of width {self.width}, expected at least 1")
        for name, (shape, dtype) in self.tensors.items():
            if np.dtype(dtype).kind not in "fiub" or any(length < 1 for length in shape):
                raise ValueError(f"tensor {name}: {dtype} of shape {shape} cannot be kept")

    def to_json(self) -> dict[str, Any]:
        return {
            "tensors": {
                name: [list(shape), dtype] for name, (shape, dtype) in self.tensors.items()
            },
            "places": self.places,
            "width": self.width,
            "ordered": self.ordered,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        tensors = {name: (tuple(shape), dtype) for name, (shape, dtype) in value["tensors"].items()}
        return cls(tensors, value["places"], value["width"], value["ordered"])


@dataclass(frozen=True)
class Item:
    """What is searched: a whole video, or a window of a long one. Times in seconds."""

    video: str
    start: float
    end: float
