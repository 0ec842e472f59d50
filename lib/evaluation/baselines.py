"""What a number is compared with: baselines without a model, chance, and the ceiling of a grid.

A baseline's scores are called floors in results and tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Counted, lower_is_better
from .protocols import Protocol
from .records import Predictions, Truth
from .retrieval import Ranks
from .scoring import ScoringOptions, count, count_videos, guided
from .spans import miss_probability, overlap, passes

WHOLE_VIDEO = "whole video"
EQUAL_PARTS = "equal parts in order"
WIDE_EQUAL_PARTS = "equal parts in order, 1.5 wide"
TEN_FIXED_SPANS = "ten fixed spans"
CHANCE = "chance"
PRIOR = "prior of the decoding"

Row = dict[str, float]  # metric -> per cent


# Predictions that need no model.


def whole_video(truth: Truth) -> NDArray[np.float64]:
    """(M, 1, 2) the span [0, 1), the whole video, for every sentence."""
    return np.broadcast_to(np.array([0.0, 1.0]), (len(truth.sentences), 1, 2))


def equal_parts(truth: Truth, *, width: float = 1.0) -> NDArray[np.float64]:
    """(M, 1, 2) the i-th of S equal parts of the video for the i-th of S sentences.

    Uses the number of sentences of the paragraph and their order, nothing else.

    Args:
        width: factor on the length of a part, about its middle; the result is cut to [0, 1].
    """
    position, count = truth.position
    middle = (position + 0.5) / count
    half = 0.5 * width / count
    return np.stack([middle - half, middle + half], axis=-1).clip(0.0, 1.0)[:, None]


def fixed_list(
    moments: NDArray[np.float64],
    *,
    size: int = 10,
    iou: float = 0.5,
    max_iou: float = 0.5,
    grid: int = 32,
) -> NDArray[np.float64]:
    """(size, 2) spans, the same for every sentence, that pass for as many moments as possible.

    Greedy: each step adds the span of a grid of clips that raises most the share of moments that
    some span so far overlaps by more than ``iou``, among spans that overlap none chosen by more
    than ``max_iou``, which would not survive suppression together.

    Args:
        moments: (M, 2) **training** moments as fractions of their video.
    """
    starts, ends = np.triu_indices(grid)
    cells = np.stack([starts, ends + 1], axis=-1) / grid
    passed = np.stack([passes(overlap(cell, moments), iou, strict=True) for cell in cells])
    open_moments = np.ones(len(moments), np.bool_)
    allowed = np.ones(len(cells), np.bool_)
    chosen: list[int] = []
    while len(chosen) < size and allowed.any():  # order is the point: a step sees what is covered
        gain = (passed & open_moments).sum(axis=1)
        best = int(np.where(allowed, gain, -1).argmax())
        chosen.append(best)
        open_moments &= ~passed[best]
        allowed &= ~passes(overlap(cells, cells[best]), max_iou, strict=True)
        allowed[best] = False
    return cells[chosen]


def chance_ranks(paragraphs: int, videos: int) -> Ranks:
    """The ranks of a model that gives every video the same score: with expected ties, chance."""
    return Ranks(
        better=np.zeros(paragraphs, np.int64),
        equal=np.full(paragraphs, videos - 1, np.int64),
        listed=np.ones(paragraphs, np.bool_),
        ahead=np.zeros(paragraphs, np.int64),
    )


# The grid of spans that a model chooses from: its best cell bounds the model, a random one is
# chance.


@dataclass(frozen=True)
class GridFit:
    """How the C cells of a model's grid overlap the moments, whatever the model predicts."""

    cells: int
    best: NDArray[np.float64]  # (M,) overlap of the best cell
    mean: NDArray[np.float64]  # (M,) overlap of a random cell
    counts: dict[tuple[float, bool], NDArray[np.int64]]  # (threshold, strict) -> (M,) cells passing
    weights: dict[float, NDArray[np.float64]]  # threshold -> (M, 2) discounted hit: mean and best

    def chance(
        self, threshold: float, n: int, *, strict: bool, videos: int = 1
    ) -> NDArray[np.float64]:
        """(M,) probability that one of n different random cells passes, with the cells of this many
        videos to draw from, of which one is right. No suppression between the draws."""
        total = self.cells * videos
        return 1.0 - miss_probability(
            np.asarray(total), self.counts[threshold, strict], min(n, total)
        )


def grid_fit(
    truth: Truth,
    cells: NDArray[np.float64],
    thresholds: Sequence[float],
    *,
    any_window: bool = False,
    chunk: int = 2048,
) -> GridFit:
    """Compare every cell (C, 2), fractions of a video, with every moment.

    Args:
        any_window: with the nearest of a sentence's moments, instead of its first.
        thresholds: the overlaps at which a cell may have to pass.
        chunk: sentences at once; the result does not depend on it.
    """
    M = len(truth.sentences)
    moments = truth.windows if any_window else truth.fractions[:, None]
    best, mean = np.zeros(M), np.zeros(M)
    counts = {(m, strict): np.zeros(M, np.int64) for m in thresholds for strict in (True, False)}
    weights = {m: np.zeros((M, 2)) for m in thresholds}
    for low in range(0, M, chunk):
        rows = slice(low, low + chunk)
        overlaps = overlap(cells, moments[rows, :1])  # (m, C)
        for window in range(1, moments.shape[1]):
            nearer = overlap(cells, moments[rows, window : window + 1])
            np.maximum(overlaps, nearer, out=overlaps)
        best[rows], mean[rows] = overlaps.max(axis=1), overlaps.mean(axis=1)
        kept = (1.0 - np.abs(cells - moments[rows, :1])).clip(min=0).prod(axis=-1)
        for m in thresholds:
            for strict in (True, False):
                counts[m, strict][rows] = passes(overlaps, m, strict=strict).sum(axis=1)
            discounted = passes(overlaps, m, strict=True) * kept
            weights[m][rows] = np.stack([discounted.mean(axis=1), discounted.max(axis=1)], axis=-1)
    return GridFit(len(cells), best, mean, counts, weights)


# The rows of a table.


def baseline_rows(
    protocol: Protocol,
    truth: Truth,
    ranks: Ranks | None,
    fit: GridFit | None,
    fixed_spans: NDArray[np.float64] | None,
    options: ScoringOptions,
    prior: NDArray[np.float64] | None = None,
) -> dict[str, Row]:
    """Scores of chance and of spans that need no model: rule -> metric -> per cent.

    The baselines of a joint protocol take the run's own retrieval and one span without a model in
    each video; their chance takes neither.

    Args:
        ranks: the run's own; None: it does not retrieve, and joint protocols have no baseline.
        fit: of the model's grid; None: no chance of grounding is computed.
        fixed_spans: (10, 2) from ``fixed_list``; None: that row is left out.
        prior: (M, 1, 2), what the run's decoding makes of no evidence; likewise.
    """
    P, V, M = len(truth.paragraph_ids), len(truth.video_ids), len(truth.sentences)
    if protocol.ranked == "videos":
        if options.ties == "file":  # chance has no file: its equal scores stand in random order
            options = replace(options, ties="expected")
        by_chance = chance_ranks(P, V)
        return {CHANCE: count_videos(protocol, truth, by_chance, options).scores()}
    baselines = {
        WHOLE_VIDEO: whole_video(truth),
        EQUAL_PARTS: equal_parts(truth),
        WIDE_EQUAL_PARTS: equal_parts(truth, width=1.5),
    }
    if fixed_spans is not None and protocol.ranked != "pairs":
        baselines[TEN_FIXED_SPANS] = np.broadcast_to(fixed_spans, (M, *fixed_spans.shape))
    if prior is not None and protocol.ranked == "moments":
        baselines[PRIOR] = prior
    rows: dict[str, Row] = {}
    for rule, spans in baselines.items():
        if protocol.ranked == "moments":
            guess = Predictions(spans=spans, scores=np.zeros(spans.shape[:2]))
            counted = count(protocol.name, truth, guess, **vars(options))
            assert counted is not None
            rows[rule] = counted.scores()
        elif ranks is not None:
            values = guided(protocol, truth, ranks, spans, options)
            rows[rule] = Counted(values, truth.sentence_paragraph).scores()
    if fit is not None and not protocol.average_precision:
        rows[CHANCE] = _chance(protocol, fit, V, options)
    return rows


def _chance(protocol: Protocol, fit: GridFit, videos: int, options: ScoringOptions) -> Row:
    """Random cells of the model's grid, in the right video or anywhere, without suppression."""
    row: Row = {}
    strict = bool(protocol.strict)
    if protocol.discounted:
        return {f"dR@1,IoU={m:g}": _mean(fit.weights[m][:, 0]) for m in options.iou}
    for m in options.iou:
        if protocol.ranked == "moments":
            for n in options.grounding_n:
                row[f"R@{n},IoU={m:g}"] = _mean(fit.chance(m, n, strict=strict))
            continue
        for k in options.retrieval_k:
            if protocol.ranked == "pairs":
                drawn = min(k, protocol.after)
                chance = fit.chance(m, drawn, strict=strict, videos=videos)
            else:
                chance = fit.chance(m, protocol.moments_per_video or 1, strict=strict)
                chance = chance * min(k / videos, 1.0)
            row[f"R@{k},IoU={m:g}"] = _mean(chance)
    if protocol.ranked == "moments":
        row["mIoU"] = _mean(fit.mean)
    return row


def ceiling(
    protocol: Protocol,
    truth: Truth,
    predictions: Predictions,
    ranks: Ranks | None,
    fit: GridFit | None,
    options: ScoringOptions,
) -> Row:
    """The best that the grid, the retrieval, or both allow: metric -> per cent.

    Of a joint number: the sentences whose video is retrieved and whose best cell passes. Under
    pairs, retrieved means that the right video is among the first K of the ranking, or that one of
    the first K pairs lies in it: mixing in moments may bring a video forward.
    """
    strict = bool(protocol.strict)
    if protocol.ranked == "videos":
        return {}
    if protocol.ranked == "moments":
        if fit is None or protocol.average_precision:
            return {}
        if protocol.discounted:
            kept = {m: _mean(fit.weights[m][:, 1]) for m in options.iou}
            return {f"dR@{n},IoU={m:g}": kept[m] for n in options.grounding_n for m in options.iou}
        passed = {m: _mean(passes(fit.best, m, strict=strict)) for m in options.iou}
        row = {f"R@{n},IoU={m:g}": passed[m] for n in options.grounding_n for m in options.iou}
        return {**row, "mIoU": _mean(fit.best)}
    listed: dict[int, NDArray[np.float64]] = {}
    if protocol.ranked == "pairs":
        anywhere = vars(replace(options, iou=(0.0,)))  # an overlap of 0 or more: the right video
        counted = count(protocol.name, truth, predictions, ranks=ranks, **anywhere)
        assert counted is not None
        listed = {k: counted.values[f"R@{k},IoU=0"] for k in options.retrieval_k}
    retrieved = listed
    if ranks is not None:
        owner = truth.sentence_paragraph
        ranked = {k: ranks.within(k, options.ties)[owner] for k in options.retrieval_k}
        retrieved = {k: np.maximum(ranked[k], listed.get(k, 0.0)) for k in options.retrieval_k}
    return {
        f"R@{k},IoU={m:g}": _mean(
            share * (1.0 if fit is None else passes(fit.best, m, strict=strict))
        )
        for k, share in retrieved.items()
        for m in options.iou
    }


def _mean(values: NDArray) -> float:
    return 100.0 * float(np.mean(values))


def best_floor(summary: Mapping[str, Any], protocol: str, metric: str) -> tuple[float | None, str]:
    """The best score without a model of a summary, in per cent (a rank as it is), and the rule that
    has it; None and "" where no rule has been scored."""
    rows = summary.get("floors", {}).get(protocol, {})
    scores = [(row[metric], rule) for rule, row in rows.items() if row.get(metric) is not None]
    choose = min if lower_is_better(metric) else max
    return choose(scores, key=lambda score: score[0], default=(None, ""))
