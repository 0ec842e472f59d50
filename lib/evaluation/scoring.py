"""One protocol applied to one set of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import InputError
from .bootstrap import Counted
from .grounding import grounding_values, precision_values
from .joint import pair_values, video_values
from .protocols import PROTOCOLS, Protocol
from .records import Pairs, Predictions, Truth, check
from .retrieval import TIES, Ranks, in_two_stages, rank_videos, retrieval_values
from .spans import TIE

OVERLAPS = ("exact", "float64")


@dataclass(frozen=True)
class ScoringOptions:
    """The thresholds and list lengths to count at, and how ties and mixed scores are read."""

    iou: Sequence[float] = (0.3, 0.5, 0.7)
    grounding_n: Sequence[int] = (1, 5)
    retrieval_k: Sequence[int] = (1, 5, 10, 100)
    ties: str = "expected"  # or "optimistic", "pessimistic", "file"; see Ranks
    alpha: float = 20.0  # weight of the video's score where a protocol mixes it in (XML: 20)
    # "float64": svmr protocols compare overlaps of seconds as they come out, unequal by a rounding
    # error, as others' programs do; else an overlap that is the threshold is found to be equal
    overlaps: str = "exact"

    def __post_init__(self) -> None:
        if self.ties not in TIES:
            raise InputError(f"ties: {self.ties!r}, expected one of {', '.join(TIES)}")
        if self.overlaps not in OVERLAPS:
            raise InputError(f"overlaps: {self.overlaps!r}, expected one of {', '.join(OVERLAPS)}")
        if not all(0 <= m <= 1 for m in self.iou):
            raise InputError(f"iou: {list(self.iou)}, expected thresholds from 0 to 1")
        if not all(n > 0 for n in (*self.grounding_n, *self.retrieval_k)):
            raise InputError("grounding_n, retrieval_k: expected whole numbers from 1")


def count(
    name: str,
    truth: Truth,
    predictions: Predictions,
    *,
    ranks: Ranks | None = None,
    **fields: object,
) -> Counted | None:
    """Score predictions under one protocol; None when they, or the truth, lack what it counts.

    Args:
        name: a key of ``PROTOCOLS``.
        ranks: those of ``ranks_of``, where known: the predictions are then taken as checked.
        fields: the fields of ``ScoringOptions``.

    Raises:
        InputError: predictions that do not fit the truth, an unknown protocol, or a missing query
            under a protocol that refuses those.
    """
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}, expected one of {', '.join(PROTOCOLS)}")
    if ranks is None:
        check(truth, predictions)
        ranks = ranks_of(truth, predictions)
    protocol, options = PROTOCOLS[name], ScoringOptions(**fields)  # type: ignore[arg-type]
    if protocol.ranked == "videos":
        if protocol.ranked_by != "similarity":
            ranks = other_ranks(protocol, truth, predictions)
        return None if ranks is None else count_videos(protocol, truth, ranks, options)
    if not truth.timed:
        return None
    if protocol.ranked == "pairs":
        values = _count_pairs(protocol, truth, predictions, options)
    else:
        values = _count_spans(protocol, truth, predictions, ranks, options)
    if values is None:
        return None
    missing = missing_sentences(protocol, truth, predictions)
    return Counted(values, truth.sentence_paragraph, missing=missing)


def ranks_of(truth: Truth, predictions: Predictions) -> Ranks | None:
    """The ranks of the right videos; None if the model does not retrieve."""
    if predictions.similarity is None:
        return None
    return rank_videos(predictions.similarity, truth.paragraph_video)


def other_ranks(protocol: Protocol, truth: Truth, predictions: Predictions) -> Ranks | None:
    """The ranks of the right videos by other scores than the similarity; None if there are none."""
    first, exact = predictions.first_stage, predictions.similarity
    scores = predictions.normalised if protocol.ranked_by == "querybank" else first
    if scores is None or not isinstance(exact, np.ndarray):
        return None
    if protocol.ranked_by == "two stages":
        scores = in_two_stages(exact, scores)
    return rank_videos(scores, truth.paragraph_video)


def guided(
    protocol: Protocol,
    truth: Truth,
    ranks: Ranks,
    spans: NDArray[np.float64],
    options: ScoringOptions,
) -> dict[str, NDArray[np.float64]]:
    """``video_values`` with a protocol's settings."""
    return video_values(
        truth,
        ranks,
        spans,
        k=options.retrieval_k,
        iou=options.iou,
        n=protocol.moments_per_video or 1,
        strict=bool(protocol.strict),
        ties=options.ties,
    )


def count_videos(
    protocol: Protocol, truth: Truth, ranks: Ranks, options: ScoringOptions
) -> Counted:
    """Ranks counted per paragraph, or with each paragraph's rank once per sentence."""
    owner = np.arange(len(truth.paragraph_ids))
    if protocol.unit == "sentence":
        owner = truth.sentence_paragraph
    values = retrieval_values(ranks, options.retrieval_k, ties=options.ties)
    return Counted(
        {name: value[owner] for name, value in values.items()},
        owner,
        ranks.rank(options.ties)[owner],
        int((~ranks.listed[owner]).sum()),
    )


def missing_sentences(protocol: Protocol, truth: Truth, predictions: Predictions) -> int:
    """How many sentences were left out.

    Raises:
        InputError: any, under a protocol that refuses them.
    """
    if predictions.answered is None or predictions.answered.all():
        return 0
    left_out = np.flatnonzero(~predictions.answered)
    if protocol.missing == "refuse":
        first = left_out[0]
        raise InputError(
            f"{protocol.name}: {len(left_out)} of {len(truth.sentences)} sentences have no "
            f"prediction, the first is sentence {truth.position[0][first] + 1} of paragraph "
            f"{truth.paragraph_ids[truth.sentence_paragraph[first]]!r}; all are expected here"
        )
    return len(left_out)


def _count_spans(
    protocol: Protocol,
    truth: Truth,
    predictions: Predictions,
    ranks: Ranks | None,
    options: ScoringOptions,
) -> dict[str, NDArray[np.float64]] | None:
    spans, any_window = predictions.spans, protocol.windows == "any"
    if spans is None or (any_window and truth.annotations is None):
        return None
    if protocol.ranked != "moments":
        return None if ranks is None else guided(protocol, truth, ranks, spans, options)
    if protocol.average_precision:
        assert predictions.scores is not None
        return precision_values(spans, predictions.scores, truth.windows)
    windows = truth.windows if any_window else truth.fractions[:, None]
    tie = TIE
    if options.overlaps == "float64" and not protocol.discounted:
        unit = truth.durations[truth.sentence_video, None, None]
        # To a millionth of a second: as they were before they became fractions.
        spans, windows, tie = np.round(spans * unit, 6), np.round(windows * unit, 6), 0.0
    return grounding_values(
        spans,
        windows,
        n=options.grounding_n,
        iou=options.iou,
        strict=bool(protocol.strict),
        discounted=protocol.discounted,
        tie=tie,
    )


def _count_pairs(
    protocol: Protocol, truth: Truth, predictions: Predictions, options: ScoringOptions
) -> dict[str, NDArray[np.float64]] | None:
    candidates = predictions.candidates
    if candidates is None or (protocol.annotators > 1 and truth.annotations is None):
        return None
    made_for = candidates.made_for if isinstance(candidates, Pairs) else ()
    if made_for and protocol.name not in made_for:
        return None
    return pair_values(
        truth,
        candidates,
        k=options.retrieval_k,
        iou=options.iou,
        strict=bool(protocol.strict),
        alpha=options.alpha if protocol.mixed else None,
        moments_per_video=protocol.moments_per_video,
        before=protocol.before,
        nms_iou=protocol.nms_iou,
        after=protocol.after,
        annotators=protocol.annotators,
        ties=options.ties,
    )
