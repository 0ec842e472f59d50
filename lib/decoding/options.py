"""The options of the decoding; the ``DECODE`` section of an experiment has them in capitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lib.base.described import described


@dataclass(frozen=True)
class Decoding:
    """How evidence becomes moments. The defaults change nothing: a model's span scores as they are,
    or where it has none the span that best separates its evidence."""

    source: Literal["auto", "scores", "evidence", "both"] = described(
        "auto",
        "What is read of a model: its span scores, its evidence over clips, or both;"
        " auto = span scores where it has them, evidence elsewhere.",
    )
    evidence: Mapping[str, float] = described(
        {}, "Weight of each source of evidence over clips; a source that is not named has 1."
    )
    score_weight: float = described(
        1.0, "Weight of the span scores beside the evidence, where both are read.", low=0
    )
    normalization: Literal["none", "paragraph_mean", "paragraph_softmax"] = described(
        "none",
        "How a sentence's evidence counts against that of the paragraph's other sentences:"
        " alone, minus their mean, or by a soft-max over the paragraph.",
    )
    normalization_scale: float = described(5.0, "Inverse temperature of that soft-max.", low=0)
    raw_weight: float = described(
        0.0, "Weight of the evidence before that normalisation, beside the one after it.", low=0
    )
    length_exponent: float = described(
        0.5,
        "How much the length of a span counts when it separates evidence; 0.5 is the correlation"
        " with the span's indicator, less holds back short and long spans less.",
        high=1.0,
        low=0,
    )
    position_prior_weight: float = described(
        0.0,
        "Weight of the overlap with where a sentence would be if the paragraph's sentences cut the"
        " video into equal parts, 1.5 times as wide.",
        low=0,
    )
    order_penalty: float = described(
        0.0,
        "What it costs a sentence to lie before its predecessor, per length of the video; the"
        " sentences of a paragraph are then decoded together.",
        low=0,
    )
    calibration: Literal["none", "retrieval"] = described(
        "none",
        "What the evidence is scaled by before it meets the prior: nothing, or how well pairs are"
        " found on validation.",
    )
