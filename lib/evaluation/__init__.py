"""Predictions in, numbers out: every protocol by name, and the floor beside it. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.evaluation import floors as floor
from lib.evaluation.bootstrap import Counted, compare, interval, resampled
from lib.evaluation.diagnostics import retrieval_diagnostics, span_diagnostics, warnings
from lib.evaluation.grounding import grounding_values
from lib.evaluation.joint import choose_alpha, pair_values, video_values
from lib.evaluation.protocols import PROTOCOLS, Protocol
from lib.evaluation.records import (
    CandidateMoments,
    Pairs,
    Predictions,
    Ranking,
    Truth,
    check,
    on_grid,
)
from lib.evaluation.retrieval import Ranks, rank_videos, retrieval_values
from lib.evaluation.spans import passes
from lib.evaluation.table import console_table, markdown_table

__all__ = [
    "PROTOCOLS",
    "CandidateMoments",
    "Counted",
    "Pairs",
    "Predictions",
    "Protocol",
    "Ranking",
    "Truth",
    "choose_alpha",
    "compare",
    "console_table",
    "count",
    "markdown_table",
    "on_grid",
    "summarise",
]


def count(
    name: str,
    truth: Truth,
    predictions: Predictions,
    *,
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    grounding_n: Sequence[int] = (1, 5),
    retrieval_k: Sequence[int] = (1, 5, 10, 100),
    alpha: float = 20.0,
    ties: str = "expected",
    ranks: Ranks | None = None,
) -> Counted | None:
    """Score predictions under one protocol; None when the model does not do what it asks.

    Args:
        name: a key of ``PROTOCOLS``.
        alpha: weight of the video's score where a protocol mixes it in (XML: 20).
        ties: "expected", "optimistic" or "pessimistic"; see ``Ranks``.
        ranks: the ranks, where they are known already.

    Raises:
        InputError: predictions that do not fit the truth, or an unknown protocol.
    """
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}, expected one of {', '.join(PROTOCOLS)}")
    if ranks is None:
        check(truth, predictions)
        if predictions.similarity is not None:
            ranks = rank_videos(predictions.similarity, truth.paragraph_video)
    protocol = PROTOCOLS[name]
    owner, strict = truth.sentence_paragraph, bool(protocol.strict)
    if protocol.ranked == "videos" and ranks is not None:
        return _count_videos(protocol, truth, ranks, retrieval_k, ties)
    if protocol.ranked == "moments" and predictions.spans is not None:
        values = grounding_values(
            predictions.spans,
            truth.fractions,
            n=grounding_n,
            iou=iou,
            strict=strict,
            discounted=protocol.discounted,
        )
        return Counted(values, owner, {}, _without_any(predictions.spans))
    retrieved_and_grounded = ranks is not None and predictions.spans is not None
    if protocol.ranked == "videos, then moments" and retrieved_and_grounded:
        assert ranks is not None and predictions.spans is not None
        values = video_values(
            truth,
            ranks,
            predictions.spans,
            k=retrieval_k,
            iou=iou,
            n=protocol.moments_per_video or 1,
            strict=strict,
            ties=ties,
        )
        return Counted(values, owner, {}, _without_any(predictions.spans))
    if protocol.ranked == "pairs" and predictions.candidates is not None:
        if protocol.annotators > 1 and truth.annotations is None:
            return None
        values = pair_values(
            truth,
            predictions.candidates,
            k=retrieval_k,
            iou=iou,
            strict=strict,
            alpha=alpha if protocol.mixed else None,
            moments_per_video=protocol.moments_per_video,
            before=protocol.before,
            nms_iou=protocol.nms_iou,
            after=protocol.after,
            annotators=protocol.annotators,
            ties=ties,
        )
        missing = int((predictions.candidates.videos < 0).all(axis=1).sum())
        return Counted(values, owner, {}, missing)
    return None


def summarise(
    truth: Truth,
    predictions: Predictions,
    *,
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    grounding_n: Sequence[int] = (1, 5),
    retrieval_k: Sequence[int] = (1, 5, 10, 100),
    protocols: Sequence[str] | None = None,
    alpha: float = 20.0,
    fixed_spans: NDArray[np.float64] | None = None,
    ties: str = "expected",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every number that the predictions allow, with what it stands beside.

    Args:
        protocols: which; None: all that the predictions allow.
        alpha: weight of the video's score in a pair's (``choose_alpha`` on validation data).
        fixed_spans: (10, 2) from ``floors.fixed_list`` on training moments, for its floor row.
        resamples: bootstrap draws of paragraphs for the 95 % intervals; 0: none.

    Returns:
        Plain JSON values, rounded nowhere: ``protocols`` {name: {metric: per cent}}, ``floors``
        {name: {rule: {metric: per cent}}}, ``ceilings`` {name: {metric: per cent}}, ``intervals``
        {name: {metric: [low, high]}}, ``queries`` {name: {counted, missing, unit, …}}, ``corpus``,
        ``diagnostics``, ``warnings`` and ``settings``.

    Raises:
        InputError: predictions that do not fit the truth; a score that is no finite number.
    """
    check(truth, predictions)
    ranks = None
    if predictions.similarity is not None:
        ranks = rank_videos(predictions.similarity, truth.paragraph_video)
    rules: dict[str, Any] = {
        "iou": iou,
        "grounding_n": grounding_n,
        "retrieval_k": retrieval_k,
        "ties": ties,
    }
    P = len(truth.paragraph_ids)
    out: dict[str, Any] = {
        "protocols": {},
        "floors": {},
        "ceilings": {},
        "intervals": {},
        "queries": {},
        "corpus": {
            "videos": len(truth.video_ids),
            "paragraphs": P,
            "sentences": len(truth.sentences),
        },
    }
    for name in protocols if protocols is not None else PROTOCOLS:
        counted = count(name, truth, predictions, alpha=alpha, ranks=ranks, **rules)
        if counted is None:
            continue
        protocol = PROTOCOLS[name]
        out["protocols"][name] = counted.scores()
        out["floors"][name] = _floors(protocol, truth, predictions, ranks, fixed_spans, rules)
        out["ceilings"][name] = _ceilings(protocol, truth, predictions, ranks, alpha, rules)
        out["queries"][name] = {
            "counted": len(counted.paragraph),
            "missing": counted.missing,
            "unit": protocol.unit,
            "comparison": protocol.sign,
            "moment_budget": {str(k): protocol.moment_budget(k) for k in retrieval_k}
            if "videos" in protocol.ranked or protocol.ranked == "pairs"
            else {str(n): n for n in grounding_n},
        }
        if resamples:
            draws = resampled(counted, P, resamples=resamples, seed=seed)
            out["intervals"][name] = {key: list(interval(draw)) for key, draw in draws.items()}
    spans = {} if predictions.spans is None else span_diagnostics(truth, predictions.spans)
    retrieval: dict[str, object] = {}
    if predictions.similarity is not None:
        retrieval = retrieval_diagnostics(predictions.similarity)
    out["diagnostics"] = {**spans, **retrieval}
    mean_iou = out["protocols"].get("svmr_2dtan", {}).get("mIoU")
    best = [row["mIoU"] for row in out["floors"].get("svmr_2dtan", {}).values() if "mIoU" in row]
    out["warnings"] = warnings(
        spans, retrieval, paragraphs=P, mean_iou=mean_iou, floor=max(best, default=None)
    )
    out["settings"] = {"ties": ties, "alpha": alpha, "resamples": resamples, "seed": seed}
    return out


def _count_videos(
    protocol: Protocol, truth: Truth, ranks: Ranks, k: Sequence[int], ties: str
) -> Counted:
    values = retrieval_values(ranks, k, ties=ties)
    rank = ranks.rank(ties)
    paragraph = np.arange(len(truth.paragraph_ids))
    missing = int((~ranks.listed).sum())
    if protocol.unit == "sentence":
        paragraph = truth.sentence_paragraph
        values = {name: value[paragraph] for name, value in values.items()}
        rank = rank[paragraph]
        missing = int((~ranks.listed)[paragraph].sum())
    recalls = [100.0 * float(v.mean()) for name, v in values.items() if name.startswith("R@")]
    return Counted(
        values, paragraph, {"MedR": float(np.median(rank)), "SumR": sum(recalls)}, missing
    )


def _floors(
    protocol: Protocol,
    truth: Truth,
    predictions: Predictions,
    ranks: Ranks | None,
    fixed_spans: NDArray[np.float64] | None,
    rules: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """What stands beside a protocol's numbers: rule -> metric -> per cent."""
    rows: dict[str, dict[str, float]] = {}
    k, iou, strict = rules["retrieval_k"], rules["iou"], bool(protocol.strict)
    V, M = len(truth.video_ids), len(truth.sentences)
    lucky = floor.chance_ranks(len(truth.paragraph_ids), V)
    if protocol.ranked == "videos":
        rows[floor.CHANCE] = _count_videos(protocol, truth, lucky, k, "expected").scores()
        return rows
    lists = {
        floor.WHOLE: floor.whole_video(truth),
        floor.PARTS: floor.equal_parts(truth),
        floor.WIDE_PARTS: floor.equal_parts(truth, width=1.5),
    }
    if fixed_spans is not None:
        lists[floor.TEN] = np.broadcast_to(fixed_spans, (M, *fixed_spans.shape))
    for rule, spans in lists.items():
        guess = Predictions(spans=spans, scores=np.zeros(spans.shape[:2]))
        if protocol.ranked == "moments":
            counted = count(protocol.name, truth, guess, ranks=lucky, **rules)
            assert counted is not None
            rows[rule] = counted.scores()
        elif ranks is not None:  # the model's own retrieval, no model for the moment
            n = 1 if protocol.ranked == "pairs" else protocol.moments_per_video or 1
            values = video_values(
                truth, ranks, spans, k=k, iou=iou, n=n, strict=strict, ties=rules["ties"]
            )
            rows[rule] = Counted(values, truth.sentence_paragraph, {}).scores()
    if predictions.proposal_spans is not None:
        rows[floor.CHANCE] = _chance(protocol, truth, predictions.proposal_spans, rules)
    return rows


def _chance(
    protocol: Protocol, truth: Truth, cells: NDArray[np.float64], rules: dict[str, Any]
) -> dict[str, float]:
    """Random cells in the right video, or in random videos, in per cent; without suppression."""
    C, V = len(cells), len(truth.video_ids)
    row: dict[str, float] = {}
    if protocol.discounted:
        return row
    counts, _ = floor.cells_that_pass(truth, cells, rules["iou"], strict=bool(protocol.strict))
    lucky = floor.chance_ranks(1, V)
    for number in rules["grounding_n"] if protocol.ranked == "moments" else rules["retrieval_k"]:
        for t, threshold in enumerate(rules["iou"]):
            if protocol.ranked == "pairs":
                chance = floor.chance_of_cells(counts[t], C, min(number, protocol.after), videos=V)
            elif protocol.ranked == "moments":
                chance = floor.chance_of_cells(counts[t], C, number)
            else:
                chance = floor.chance_of_cells(counts[t], C, protocol.moments_per_video or 1)
                chance = chance * lucky.within(number)[0]
            row[f"R@{number},IoU={threshold:g}"] = 100.0 * float(chance.mean())
    return row


def _ceilings(
    protocol: Protocol,
    truth: Truth,
    predictions: Predictions,
    ranks: Ranks | None,
    alpha: float,
    rules: dict[str, Any],
) -> dict[str, float]:
    """The best that the grid, the retrieval, or both allow: metric -> per cent."""
    cells = predictions.proposal_spans
    best = None
    if cells is not None and protocol.ranked != "videos":
        _, best = floor.cells_that_pass(truth, cells, (), strict=bool(protocol.strict))
    if protocol.ranked == "moments":
        if best is None or protocol.discounted:
            return {}
        row = {
            f"R@{n},IoU={m:g}": 100.0 * float(passes(best, m, strict=bool(protocol.strict)).mean())
            for n in rules["grounding_n"]
            for m in rules["iou"]
        }
        return {**row, "mIoU": 100.0 * float(best.mean())}
    if protocol.ranked == "videos":
        return {}
    if protocol.ranked == "pairs":  # a moment of the right video, wherever it lies: IoU >= 0
        counted = count(
            protocol.name, truth, predictions, alpha=alpha, ranks=ranks, **{**rules, "iou": (0,)}
        )
        assert counted is not None
        found = {k: counted.values[f"R@{k},IoU=0"] for k in rules["retrieval_k"]}
    else:
        assert ranks is not None
        own = truth.sentence_paragraph
        found = {k: ranks.within(k, rules["ties"])[own] for k in rules["retrieval_k"]}
    row = {}
    for k, retrieved in found.items():
        for m in rules["iou"]:
            fits = 1.0 if best is None else passes(best, m, strict=bool(protocol.strict))
            row[f"R@{k},IoU={m:g}"] = 100.0 * float((retrieved * fits).mean())
    return row


def _without_any(spans: NDArray[np.float64]) -> int:
    return int(np.isnan(spans[..., 0]).all(axis=1).sum())
