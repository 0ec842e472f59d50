"""Predictions in, numbers out: every protocol by name, with its baselines. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import InputError
from .baselines import GridFit, baseline_rows, ceiling, fixed_list, grid_fit
from .bootstrap import Counted, interval, judge, mean_resampled, mean_scores, resampled
from .diagnostics import (
    retrieval_diagnostics,
    shortlist_diagnostics,
    span_diagnostics,
    warnings,
)
from .headline import headline_lines, headline_numbers
from .joint import choose_alpha
from .protocols import PROTOCOLS, Protocol
from .records import (
    CandidateMoments,
    Pairs,
    Predictions,
    Ranking,
    Truth,
    check,
    merge_videos,
    on_grid,
    per_sentence,
)
from .retrieval import top_videos
from .scoring import ScoringOptions, count, ranks_of
from .table import console_table, markdown_table

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
    "compare_predictions",
    "console_table",
    "count",
    "fixed_list",
    "headline_lines",
    "headline_numbers",
    "markdown_table",
    "merge_videos",
    "on_grid",
    "per_sentence",
    "summarise",
    "top_videos",
]


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
    left_out: int = 0,
    overlaps: str = "exact",
) -> dict[str, Any]:
    """Every number that the predictions allow, with its baselines, ceiling and interval.

    Args:
        protocols: which ones to count; None: all that the predictions allow.
        alpha: weight of the video's score in a pair's (``choose_alpha`` on validation data).
        fixed_spans: (10, 2) from ``fixed_list`` on training moments, for that baseline.
        ties: "expected", "optimistic", "pessimistic" or "file"; see ``retrieval.Ranks``.
        resamples: bootstrap draws of paragraphs for the 95 % intervals; 0: none.
        left_out: sentences of the split that are not in ``truth``; published protocols count them
            as misses of grounding.
        overlaps: "exact" or "float64"; see ``ScoringOptions``.

    Returns:
        Plain JSON values, rounded nowhere: ``protocols`` {name: {metric: per cent}}, ``floors``
        {name: {rule: {metric: per cent}}}, ``ceilings`` {name: {metric: per cent}}, ``intervals``
        {name: {metric: [low, high]}}, ``queries`` {name: {counted, missing, unit, comparison,
        k_counts, moment_budget, alpha, several, windows, left_out, as_misses}}, ``corpus``,
        ``diagnostics``, ``warnings``, ``settings``. ``several``: sentences with more than one true
        moment, of which ``windows`` says whether the first or any counts. ``left_out``: sentences
        that the protocol does not count, and ``as_misses`` its scores if it did.

    Raises:
        InputError: predictions that do not fit the truth, a score that is no finite number, or a
            protocol that is named in ``protocols`` and cannot be counted.
    """
    check(truth, predictions)
    options = ScoringOptions(iou, grounding_n, retrieval_k, ties, alpha, overlaps)
    ranks = ranks_of(truth, predictions)
    cells = predictions.proposal_spans
    fits: dict[str, GridFit | None] = {"first": None, "any": None}
    if cells is not None and truth.timed:
        fits["first"] = fits["any"] = grid_fit(truth, cells, iou)
        if truth.several:
            fits["any"] = grid_fit(truth, cells, iou, any_window=True)
    out: dict[str, Any] = {
        key: {} for key in ("protocols", "floors", "ceilings", "intervals", "queries")
    }
    notes, missing = list(predictions.notes), 0
    for name in PROTOCOLS if protocols is None else protocols:
        try:
            counted = count(name, truth, predictions, ranks=ranks, **vars(options))
        except InputError as refusal:
            if protocols is not None:
                raise
            notes.append(str(refusal))
            continue
        if counted is None:
            if protocols is not None:
                lacking = "predictions do" if truth.timed else "truth does"
                raise InputError(f"{name}: the {lacking} not hold what this protocol counts")
            continue
        protocol = PROTOCOLS[name]
        fit = fits["any" if protocol.meets_any else "first"]
        out["protocols"][name] = counted.scores()
        out["floors"][name] = baseline_rows(
            protocol, truth, ranks, fit, fixed_spans, options, predictions.prior
        )
        out["ceilings"][name] = ceiling(protocol, truth, predictions, ranks, fit, options)
        out["queries"][name] = _about(protocol, counted, options)
        if protocol.ranked != "videos":
            about = _about_moments(protocol, truth, out["protocols"][name], counted, left_out)
            out["queries"][name] |= about
            missing = max(missing, counted.missing)
        if protocol.mixed and isinstance(predictions.candidates, CandidateMoments):
            out["queries"][name]["alpha"] = alpha
        if resamples:
            P = len(truth.paragraph_ids)
            draws = resampled(counted, P, resamples=resamples, seed=seed)
            out["intervals"][name] = {metric: interval(draw) for metric, draw in draws.items()}
    out["corpus"] = {
        "videos": len(truth.video_ids),
        "paragraphs": len(truth.paragraph_ids),
        "sentences": len(truth.sentences),
    }
    if truth.clipped:
        out["corpus"]["clipped"] = truth.clipped
    several = [name for name, about in out["queries"].items() if about.get("windows") == "first"]
    if several and "svmr_any" not in out["protocols"]:
        notes.append(
            f"{truth.several:,} of {len(truth.sentences):,} sentences have several true moments, "
            f"of which the first is counted by {', '.join(several)} (by svmr_any: any of them)"
        )
    if missing:
        notes.append(
            f"{missing:,} of {len(truth.sentences):,} sentences have no prediction and count as "
            "misses: is the file complete?"
        )
    spans = {} if predictions.spans is None else span_diagnostics(truth, predictions.spans)
    retrieval = {}
    if predictions.similarity is not None:
        retrieval = retrieval_diagnostics(predictions.similarity)
        if predictions.first_stage is not None and isinstance(predictions.similarity, np.ndarray):
            retrieval |= shortlist_diagnostics(predictions.similarity, predictions.first_stage)
    out["diagnostics"] = {**spans, **retrieval}
    baselines = [row.get("mIoU", 0.0) for row in out["floors"].get("svmr_2dtan", {}).values()]
    out["warnings"] = notes + warnings(
        spans,
        retrieval,
        paragraphs=len(truth.paragraph_ids),
        sentences=len(truth.sentences),
        mean_iou=out["protocols"].get("svmr_2dtan", {}).get("mIoU"),
        baseline=max(baselines, default=None),
    )
    out["settings"] = {"ties": ties, "alpha": alpha, "resamples": resamples, "seed": seed}
    out["settings"]["overlaps"] = overlaps
    return out


def compare_predictions(
    truth: Truth,
    models: Sequence[Sequence[Predictions]],
    *,
    protocols: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, dict[str, list[dict[str, Any] | None]]]:
    """Models on the same queries, each compared with the first.

    Args:
        models: of each, the predictions of its runs, which differ in their seed alone.
        options: the fields of ``scoring.ScoringOptions``.

    Returns:
        protocol -> metric -> for each model ``score`` and ``deviation`` (``bootstrap.mean_scores``)
        and, but for the first, ``difference``, ``interval`` and ``verdict`` (``bootstrap.judge``);
        None where a model cannot be counted. Protocols that count the first alone, or do not count
        it, are left out.
    """
    P = len(truth.paragraph_ids)
    out: dict[str, dict[str, list[dict[str, Any] | None]]] = {}
    for name in PROTOCOLS if protocols is None else protocols:
        counted = []
        for runs in models:
            try:
                each = [count(name, truth, run, **options) for run in runs]
            except InputError:
                if protocols is not None:
                    raise
                each = [None]
            counted.append([one for one in each if one is not None] if all(each) else [])
        if not counted[0] or not any(counted[1:]):
            continue
        scores = [mean_scores(each) if each else {} for each in counted]
        draws = [
            mean_resampled(each, P, resamples=resamples, seed=seed) if each else {}
            for each in counted
        ]
        out[name] = {}
        for metric in (metric for metric in draws[0] if metric in scores[0]):
            old, deviation = scores[0][metric]
            rows: list[dict[str, Any] | None] = [{"score": old, "deviation": deviation}]
            for own, drawn in zip(scores[1:], draws[1:], strict=True):
                if metric not in drawn:
                    rows.append(None)
                    continue
                new, deviation = own[metric]
                verdict = judge(metric, draws[0][metric], drawn[metric], old=old, new=new)
                rows.append({"score": new, "deviation": deviation, **verdict})
            out[name][metric] = rows
    return out


def _about_moments(
    protocol: Protocol,
    truth: Truth,
    scores: dict[str, float],
    counted: Counted,
    left_out: int,
) -> dict[str, Any]:
    """What a reader must know of the truth that a protocol of moments counted against."""
    about: dict[str, Any] = {}
    if truth.several:
        about |= {"several": truth.several, "windows": "any" if protocol.meets_any else "first"}
    if left_out:
        share = len(counted.paragraph) / (len(counted.paragraph) + left_out)
        as_misses = {metric: share * score for metric, score in scores.items()}
        about |= {"left_out": left_out, "as_misses": as_misses}
    return about


def _about(protocol: Protocol, counted: Counted, options: ScoringOptions) -> dict[str, Any]:
    numbers = options.grounding_n if protocol.ranked == "moments" else options.retrieval_k
    return {
        "counted": len(counted.paragraph),
        "missing": counted.missing,
        "unit": protocol.unit,
        "comparison": protocol.sign,
        "k_counts": protocol.k_counts,
        "moment_budget": {str(number): protocol.moment_budget(number) for number in numbers},
    }
