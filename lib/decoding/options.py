"""The options of the decoding; the ``DECODE`` section of an experiment has them in capitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..base.described import described


@dataclass(frozen=True)
class Decoding:
    """How evidence becomes moments. The defaults change nothing: a model's span scores as they are,
    or where it has none the span that best separates its evidence."""

    method: Literal["separation", "posterior"] = described(
        "separation",
        "separation scores a span by how it separates the evidence, and adds prior and order as"
        " weights; posterior makes log-likelihoods of the evidence and log-priors of spans, and"
        " decides for the span that most probably overlaps the moment by half.",
    )
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
    calibration: Literal["none", "retrieval", "contiguity", "order"] = described(
        "none",
        "What the evidence is scaled by before it meets the prior: nothing; how well pairs are"
        " found on validation, which says nothing of moments (retrieval; earlier runs have it);"
        " and, on the split that is scored: how much better spans fit it in the video's own time"
        " than in shuffled time, or how rarely neighbouring sentences' moments run backwards, where"
        " sentences stand in the order of time. None reads a timestamp.",
    )
    prior: Literal["corpus", "parts"] = described(
        "corpus",
        "Prior of the posterior. corpus: a width that does not depend on the number of sentences,"
        " and a histogram of starts. parts: the paragraph's sentences cut the video into equal"
        " parts, in order.",
    )
    prior_width: float = described(
        0.25, "Median width of the prior: of the video, or for parts in equal parts.", low=0.01
    )
    prior_spread: float = described(0.3, "Deviation of that width's logarithm.", low=0.01)
    prior_offset: float = described(
        0.5, "Deviation of a moment's centre from the middle of its part, in parts.", low=0.01
    )
    start_share: float = described(
        0.3, "Share of moments that start with the video, before starts are estimated.", high=1
    )
    estimate_starts: bool = described(
        True,
        "Estimate the histogram of starts from unlabelled evidence of validation. It counts as far"
        " as the evidence is trusted; without trust, starts are as stated.",
    )
    independent_clips: float = described(
        8.0, "Stretches of a video whose evidence is independent, in the likelihood.", low=0
    )
    ordered: bool = described(
        False, "In the posterior, events of a paragraph do not start before their predecessors."
    )
    alike: float = described(
        1.0,
        "Cosine of text features above which sentences of a paragraph are one event, and share"
        " their evidence and its place in the order; 1 = never.",
        high=1,
    )
    full_trust: float = described(
        0.05, "Gain in correlation over shuffled time at which evidence is trusted fully.", low=1e-6
    )
