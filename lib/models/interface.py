"""What a model is told about the data, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lib.datasets.batch import Batch

Encoded = dict[str, Tensor]  # named tensors with the item axis first
T = TypeVar("T")
Term = Callable[[Any, Batch], Tensor]  # (a model's output, batch) -> scalar loss in float32


@dataclass(frozen=True)
class DataDims:
    """What the data decides: sizes, and the vectors of the words that have an id."""

    video_dim: int  # C
    word_dim: int  # E
    vocab_size: int  # V: word ids are 0 (padding), 1 (unknown), 2 … V-1
    num_frames: int  # T
    num_clips: int  # N
    max_sentences: int  # most sentences of any paragraph, for learned sentence positions
    # None where words have no vector of their own but one wherever they stand
    word_vectors: Float[Tensor, "V E"] | None = field(default=None, compare=False, repr=False)

    def sizes(self) -> dict[str, int]:
        """All but the vectors, by name."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if name != "word_vectors"}


@dataclass(frozen=True)
class Proposals:
    """Scored spans of every real sentence, before any suppression.

    ``spans`` are [start, end) as fractions of the video, one list shared by all sentences (P, 2) or
    one list each (M, P, 2). A higher score is a better span.
    """

    spans: Float[Tensor, "*M P 2"]
    scores: Float[Tensor, "M P"]


class Encoder(Protocol):
    """A model that reads every video once and every paragraph once, and answers from what it kept.

    ``encode_videos`` reads no text and ``encode_paragraphs`` reads no video, so that a score cannot
    leak the pairing. A test replaces the one and finds the other unchanged.

    What ``encode_paragraphs`` gives has a ``mask`` (B, S): which sentences exist. Rows of either
    side can be picked, repeated and put into another order.
    """

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded: ...

    def encode_paragraphs(self, batch: Batch) -> Encoded: ...


@runtime_checkable
class Grounder(Encoder, Protocol):
    """A model that finds the sentences of a paragraph in a video: row b of the one in row b of the
    other. M are the sentences of all rows, in order."""

    def ground_pairs(self, paragraphs: Encoded, videos: Encoded) -> Proposals: ...


@runtime_checkable
class Retriever(Encoder, Protocol):
    """A model that ranks videos for paragraphs."""

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]: ...


def ground(model: Grounder, batch: Batch) -> Proposals:
    """Every sentence in the video of its own paragraph."""
    return model.ground_pairs(model.encode_paragraphs(batch), model.encode_videos(batch.video))


class Learner(Protocol):
    """What training asks of every model: its ``forward(batch, terms)`` is ``encode`` and then
    ``compare``, so that a batch can be encoded in parts, by one process after the other or by
    several at once, and still be compared as a whole.

    In ``encode`` every row stands alone: a paragraph's part of it is the same whatever else is in
    the batch (batch norm apart, which sees the rows of one call). Its tensors are joined along
    their first axis, paragraph after paragraph, so none has a padded axis of sentences or words:
    rows are paragraphs, sentences (M, …) or words, not (B, S, …).

    ``compare`` does what looks across the batch, reads nothing of it but its layout, moments,
    durations and ``video_index``, and is given what ``encode`` gave in float32.

    ``terms`` are the loss terms wanted; None stands for all of them.
    """

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded: ...

    def compare(self, parts: Encoded, batch: Batch) -> Any: ...


@runtime_checkable
class Inspected(Protocol):
    """A model with something to tell about its own parts, logged once an epoch."""

    def inspect(self, batch: Batch) -> dict[str, Tensor]: ...


@runtime_checkable
class Calibrated(Protocol):
    """A model that is told after each epoch how well its retrieval does on validation."""

    def calibrate(self, skill: float) -> None: ...


Losses = Mapping[str, Term]


def there(part: T | None) -> T:
    """A part of a model's output that an active term may count on."""
    assert part is not None
    return part


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
    ``rates`` are factors on the learning rate, by prefix of the parameter's name. ``settings`` are
    numbers that the model itself reads in training in an epoch, by the name of the buffer.
    """

    stages: Callable[[int], tuple[Stage, ...]] = lambda epoch: (Stage(),)
    rates: Mapping[str, float] = field(default_factory=dict)
    settings: Callable[[int], Mapping[str, float]] = lambda epoch: {}


def relieved(
    epoch: int, at: int, *, before: Collection[str] = (), after: Collection[str] = ()
) -> dict[str, float]:
    """Factors of a stage by which the terms ``after`` take the place of ``before`` in epoch ``at``:
    until then they count nothing, and from then on the others."""
    return dict.fromkeys(before, float(epoch < at)) | dict.fromkeys(after, float(epoch >= at))
