"""What training, scoring and the tests read of a model: the whole contract, in one class.

A model derives from ``Model`` and names itself in ``MODELS``, or is named in the YAML from outside
this package. ``missing_parts`` checks it at start-up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Batch
from ..decoding import Decoding, Evidence, Proposals, decode
from ..losses import Losses

Encoded = dict[str, Tensor]  # named tensors with the item axis first
T = TypeVar("T")


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
    """How a model wants to be optimised.

    ``stages`` gives the steps that a batch makes in an epoch (from 0), in order; their learning
    parameters should not overlap, since the optimiser keeps one state for each parameter.
    ``rates`` are factors on the learning rate, by prefix of the parameter's name. ``settings`` are
    numbers that the model itself reads in training in an epoch, by the name of the buffer.
    """

    stages: Callable[[int], tuple[Stage, ...]] = lambda epoch: (Stage(),)
    rates: Mapping[str, float] = field(default_factory=dict)
    settings: Callable[[int], Mapping[str, float]] = lambda epoch: {}


class Model(nn.Module):
    """The contract. A model is constructed as ``Kind(dims, **MODEL.PARAMS)``.

    **Training** calls ``forward(batch, terms)``, which is ``encode`` and then ``compare``, so that
    a batch can be encoded in parts, by one process after the other or by several at once, and still
    be compared as a whole; and ``losses`` of what ``compare`` returned.

    **Scoring** reads every video and every paragraph once, by ``encode_videos`` and
    ``encode_paragraphs``, and answers from what they returned: a model that defines ``similarity``
    retrieves, one that defines ``ground_pairs`` grounds, and each model defines at least one.
    ``encode_videos`` reads no text and ``encode_paragraphs`` reads no video, so that a score cannot
    leak the pairing; a test replaces the one and finds the other unchanged.

    Attributes:
        supervision: ``weak`` for a model that reads no moment in training.
        grounds_from: what ``ground_pairs`` can return, of ``scores`` (of spans) and ``clips``
            (evidence over clips); the decoding chooses between them.
        unavailable_terms: loss terms of parts that an instance was built without.
    """

    supervision: ClassVar[Literal["weak", "full"]] = "weak"
    grounds_from: ClassVar[frozenset[str]] = frozenset({"scores"})

    @property
    def embeddings(self) -> tuple[str, str] | None:
        """The names of two tensors, in what ``encode_videos`` and in what ``encode_paragraphs``
        return: vectors of a video's consecutive parts (B, n, D), or one of the video (B, D), and
        vectors of a paragraph's sentences (B, S, D), or one of the paragraph (B, D), whose cosines
        are what ``similarity`` is mostly made of. A search shortlists videos by them. None: there
        are none, and every video is compared."""
        return None

    @property
    def compares_embeddings(self) -> bool:
        """Whether ``similarity`` is the cosine of these very vectors, one for a video and one for a
        paragraph, so that a first stage has nothing to be faster than."""
        return False

    @property
    def unavailable_terms(self) -> frozenset[str]:
        return frozenset()

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> Any:
        """Everything the named loss terms read; None stands for all of them."""
        return self.compare(self.encode(batch, terms), batch)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        """What the loss terms need of each paragraph and its video.

        Every row stands alone: a paragraph's part is the same whatever else is in the batch (batch
        norm apart, which sees the rows of one call). Tensors are joined along their first axis,
        paragraph after paragraph, so none has a padded axis of sentences or words: rows are
        paragraphs, sentences (M, …) or words, not (B, S, …). What is drawn for a row is drawn by
        ``lib.base.draws``, or by a dropout module whose input has a row for each paragraph, or an
        equal number for each sentence.
        """
        raise NotImplementedError

    def compare(self, parts: Encoded, batch: Batch) -> Any:
        """What the loss terms read, from what ``encode`` gave in float32: here alone a model looks
        across the batch, of which it reads nothing but layout, moments, durations and
        ``video_index``."""
        raise NotImplementedError

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """What scoring keeps of each video."""
        raise NotImplementedError

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """What scoring keeps of each paragraph, with a ``mask`` (B, S): which sentences exist. Rows
        can be picked, repeated and put into another order."""
        raise NotImplementedError

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """How well each video fits each paragraph; higher is better."""
        raise NotImplementedError

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """What is known of the sentences of paragraph b in video b, for all rows b.

        Args:
            read: which of ``grounds_from`` the decoding reads; None: all. The rest may be left out.
        """
        raise NotImplementedError

    def inspect(self, batch: Batch) -> dict[str, Tensor]:
        """Numbers about the model's own parts, logged once an epoch."""
        return {}

    @staticmethod
    def losses() -> Losses:
        """The loss terms by name. Keyword arguments, if any, are ``LOSS.PARAMS``."""
        raise NotImplementedError

    @staticmethod
    def plan() -> Plan:
        """How to optimise. Keyword arguments, if any, are ``TRAIN.PARAMS``. The default takes one
        step per batch, all terms, all parameters at one learning rate."""
        return Plan()

    @classmethod
    def retrieves(cls) -> bool:
        """Whether the model ranks videos."""
        return cls.similarity is not Model.similarity

    @classmethod
    def grounds(cls) -> bool:
        """Whether the model finds moments."""
        return cls.ground_pairs is not Model.ground_pairs


def missing_parts(kind: Any) -> list[str]:
    """What a class lacks to be a model, as parts of one sentence; none if it is complete."""
    if not (inspect.isclass(kind) and issubclass(kind, Model)):
        return [_stranger(kind)]
    needed = ("encode", "compare", "encode_videos", "encode_paragraphs", "losses")
    faults = [
        f"it defines no {name}" for name in needed if getattr(kind, name) is getattr(Model, name)
    ]
    if not (kind.retrieves() or kind.grounds()):
        faults.append("it defines neither similarity nor ground_pairs")
    if kind.supervision not in ("weak", "full"):
        faults.append(f"its supervision is {kind.supervision!r}, expected 'weak' or 'full'")
    if not kind.grounds_from <= {"scores", "clips"}:
        faults.append(f"its grounds_from is {set(kind.grounds_from)}, expected scores or clips")
    for name in ("losses", "plan"):
        if not isinstance(inspect.getattr_static(kind, name), staticmethod):
            faults.append(f"its {name} is not a static method")
    return faults


def _stranger(kind: Any) -> str:
    """What a class derives from instead: the interface has one name in the repository and another
    one in the installed package."""
    wanted = f"{Model.__module__}.{Model.__name__}"
    end = ".models.interface"
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        if base.__name__ == Model.__name__ and base.__module__.endswith(end):
            found = f"{base.__module__}.{base.__name__}"
            return f"it derives from {found}, and what runs here is {wanted}: import that one"
    return f"it does not derive from {wanted}"


def ground(model: Model, batch: Batch, decoding: Decoding | None = None) -> Proposals:
    """Every sentence in the video of its own paragraph."""
    videos = model.encode_videos(batch.video)
    return decode(
        model.ground_pairs(model.encode_paragraphs(batch), videos), decoding or Decoding()
    )


def require(part: T | None) -> T:
    """A part of a model's output that an active term may count on."""
    assert part is not None
    return part


def switch_terms_at(
    epoch: int, at: int, *, before: Collection[str] = (), after: Collection[str] = ()
) -> dict[str, float]:
    """Factors of a stage by which the terms ``after`` take the place of ``before`` in epoch ``at``:
    until then they count nothing, and from then on the others."""
    return dict.fromkeys(before, float(epoch < at)) | dict.fromkeys(after, float(epoch >= at))
