"""What a model is told about the data, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lib.datasets.batch import Batch

Encoded = dict[str, Tensor]  # named tensors with the item axis first
Term = Callable[[Any, Batch], Tensor]  # (a model's output, batch) -> scalar loss in float32


@dataclass(frozen=True)
class DataDims:
    """The sizes that the data decides."""

    video_dim: int  # C
    word_dim: int  # E
    vocab_size: int  # V: word ids are 0 (padding), 1 (unknown), 2 … V-1
    num_frames: int  # T
    num_clips: int  # N
    max_sentences: int  # most sentences of any paragraph, for learned sentence positions


@dataclass(frozen=True)
class Proposals:
    """Scored spans of every real sentence, before any suppression.

    ``spans`` are [start, end) as fractions of the video, one list shared by all sentences (P, 2) or
    one list each (M, P, 2). A higher score is a better span.
    """

    spans: Float[Tensor, "*M P 2"]
    scores: Float[Tensor, "M P"]


@runtime_checkable
class Grounder(Protocol):
    """A model that finds sentences in their video."""

    def ground(self, batch: Batch) -> Proposals: ...


@runtime_checkable
class Retriever(Protocol):
    """A model that ranks videos for paragraphs.

    ``encode_videos`` reads no text and ``encode_paragraphs`` reads no video, so that a score cannot
    leak the pairing. A test replaces the one and finds the other unchanged.
    """

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded: ...

    def encode_paragraphs(self, batch: Batch) -> Encoded: ...

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]: ...


@runtime_checkable
class Inspected(Protocol):
    """A model with something to tell about its own parts, logged once an epoch."""

    def inspect(self, batch: Batch) -> dict[str, Tensor]: ...


@runtime_checkable
class Calibrated(Protocol):
    """A model that is told after each epoch how well its retrieval does on validation."""

    def calibrate(self, skill: float) -> None: ...


Losses = Mapping[str, Term]


@dataclass(frozen=True)
class Stage:
    """One optimiser step on a batch: which loss terms count, and which parameters learn.

    ``factors`` multiply the weights of the terms they name, 0 leaves a term out, and a term not
    named keeps its weight. ``frozen`` are prefixes of names of parameters that do not learn.
    """

    factors: Mapping[str, int | float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How a model wants to be optimised; what a static ``plan(**constants)`` of it returns.

    A model without one takes one step per batch, all terms, all parameters at one learning rate.

    ``stages`` gives the steps that a batch makes in an epoch (from 0), in order; their learning
    parameters should not overlap, since the optimiser keeps one state for each parameter.
    ``rates`` are factors on the learning rate, by prefix of the parameter's name.
    """

    stages: Callable[[int], tuple[Stage, ...]] = lambda epoch: (Stage(),)
    rates: Mapping[str, float] = field(default_factory=dict)
