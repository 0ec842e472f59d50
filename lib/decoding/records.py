"""What goes into the decoding, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from ..base.batch import Layout


@dataclass(frozen=True)
class Proposals:
    """Scored spans of every real sentence, before any suppression.

    ``spans`` are [start, end) as fractions of the video, one list shared by all sentences (P, 2) or
    one list each (M, P, 2). A higher score is a better span.
    """

    spans: Float[Tensor, "*M P 2"]
    scores: Float[Tensor, "M P"]


@dataclass(frozen=True)
class Evidence:
    """What a model knows of M sentences, each in one video, before anything is decided.

    Attributes:
        layout: which paragraphs the sentences make up, in order.
        spans: the moments to choose from, as in ``Proposals``.
        resolution: clips of the grid that the spans lie on; their order in time is judged in halves
            of such a clip.
        scores: of the spans, from a model that scores spans.
        clips: by source, one number for each of N equal parts of the video, from a model that
            scores clips. Sources may differ in N.
        text: features of the sentences alone, by whose cosines sentences are alike.
    """

    layout: Layout
    spans: Float[Tensor, "*M P 2"]
    resolution: int
    scores: Float[Tensor, "M P"] | None = None
    clips: Mapping[str, Float[Tensor, "M _"]] = field(default_factory=dict)
    text: Float[Tensor, "M F"] | None = None
