"""The floors and the ceiling of a protocol: rule -> metric -> per cent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lib.evaluation import floors
from lib.evaluation.bootstrap import Counted
from lib.evaluation.floors import GridFit
from lib.evaluation.protocols import Protocol
from lib.evaluation.records import Predictions, Truth
from lib.evaluation.retrieval import Ranks
from lib.evaluation.scoring import Asked, count, count_videos, guided
from lib.evaluation.spans import passes

Row = dict[str, float]


def floor_rows(
    protocol: Protocol,
    truth: Truth,
    ranks: Ranks | None,
    fit: GridFit | None,
    fixed_spans: NDArray[np.float64] | None,
    asked: Asked,
) -> dict[str, Row]:
    """Chance, and what needs no model for the moment.

    The joint protocols' floors take the run's own retrieval and no model for the moment, one moment
    a video; their chance takes neither.
    """
    P, V, M = len(truth.paragraph_ids), len(truth.video_ids), len(truth.sentences)
    if protocol.ranked == "videos":
        lucky = floors.chance_ranks(P, V)
        return {floors.CHANCE: count_videos(protocol, truth, lucky, asked).scores()}
    lists = {
        floors.WHOLE: floors.whole_video(truth),
        floors.PARTS: floors.equal_parts(truth),
        floors.WIDE_PARTS: floors.equal_parts(truth, width=1.5),
    }
    if fixed_spans is not None and protocol.ranked != "pairs":
        lists[floors.TEN] = np.broadcast_to(fixed_spans, (M, *fixed_spans.shape))
    rows: dict[str, Row] = {}
    for rule, spans in lists.items():
        if protocol.ranked == "moments":
            guess = Predictions(spans=spans, scores=np.zeros(spans.shape[:2]))
            counted = count(protocol.name, truth, guess, **vars(asked))
            assert counted is not None
            rows[rule] = counted.scores()
        elif ranks is not None:
            values = guided(protocol, truth, ranks, spans, asked)
            rows[rule] = Counted(values, truth.sentence_paragraph).scores()
    if fit is not None:
        rows[floors.CHANCE] = _chance(protocol, fit, V, asked)
    return rows


def _chance(protocol: Protocol, fit: GridFit, videos: int, asked: Asked) -> Row:
    """Random cells of the model's grid, in the right video or anywhere, without suppression."""
    row: Row = {}
    strict = bool(protocol.strict)
    if protocol.discounted:
        return {f"dR@1,IoU={m:g}": _mean(fit.weights[m][:, 0]) for m in asked.iou}
    for m in asked.iou:
        if protocol.ranked == "moments":
            for n in asked.grounding_n:
                row[f"R@{n},IoU={m:g}"] = _mean(fit.chance(m, n, strict=strict))
            continue
        for k in asked.retrieval_k:
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
    asked: Asked,
) -> Row:
    """The best that the grid, the retrieval, or both allow.

    Of a joint number: the sentences whose video is retrieved and whose best cell passes. Under
    pairs, retrieved means that the right video is among the first K of the ranking, or that one of
    the first K pairs lies in it: mixing in moments may bring a video forward.
    """
    strict = bool(protocol.strict)
    if protocol.ranked == "videos":
        return {}
    if protocol.ranked == "moments":
        if fit is None:
            return {}
        if protocol.discounted:
            kept = {m: _mean(fit.weights[m][:, 1]) for m in asked.iou}
            return {f"dR@{n},IoU={m:g}": kept[m] for n in asked.grounding_n for m in asked.iou}
        passed = {m: _mean(passes(fit.best, m, strict=strict)) for m in asked.iou}
        row = {f"R@{n},IoU={m:g}": passed[m] for n in asked.grounding_n for m in asked.iou}
        return {**row, "mIoU": _mean(fit.best)}
    listed: dict[int, NDArray[np.float64]] = {}
    if protocol.ranked == "pairs":
        anywhere = vars(replace(asked, iou=(0.0,)))  # an overlap of 0 or more: the video is right
        counted = count(protocol.name, truth, predictions, ranks=ranks, **anywhere)
        assert counted is not None
        listed = {k: counted.values[f"R@{k},IoU=0"] for k in asked.retrieval_k}
    own = truth.sentence_paragraph
    found = listed
    if ranks is not None:
        ranked = {k: ranks.within(k, asked.ties)[own] for k in asked.retrieval_k}
        found = {k: np.maximum(ranked[k], listed.get(k, 0.0)) for k in asked.retrieval_k}
    return {
        f"R@{k},IoU={m:g}": _mean(
            retrieved * (1.0 if fit is None else passes(fit.best, m, strict=strict))
        )
        for k, retrieved in found.items()
        for m in asked.iou
    }


def _mean(values: NDArray) -> float:
    return 100.0 * float(np.mean(values))
