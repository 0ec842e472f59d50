"""The tables of a report: one run with its baselines, or several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...base.errors import InputError
from .. import compare_predictions
from ..files.run import RunFiles
from ..protocols import PROTOCOLS
from ..table import heading, rows_of
from .markup import Cell, details, paragraph, table


def score_tables(run: RunFiles) -> str:
    """Every protocol of a run to unfold, the first unfolded."""
    parts = []
    for i, name in enumerate(run.summary["protocols"]):
        head, *rows = rows_of(run.summary, name)
        marked: list[list[Cell]] = [[m, (score, "score"), *rest] for m, score, *rest in rows]
        definition = "".join(
            paragraph(line.strip(), "soft") for line in _definition(name).splitlines() if line
        )
        inside = table(head, marked, caption=heading(run.summary, name)) + details(
            f"What {name} counts", definition
        )
        parts.append(details(heading(run.summary, name), inside, kind="case", is_open=i == 0))
    return "".join(parts)


def _definition(name: str) -> str:
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        return ""
    _, rest = protocol.describe().split("\n", 1)
    return f"{protocol.definition}\n{rest[rest.index('  K counts') :]}"


def comparison(runs: Sequence[RunFiles], *, resamples: int) -> str:
    """The differences of several runs, to unfold like the tables of one."""
    parts = [
        paragraph(
            f"Differences are from {runs[0].name}, with 95 % intervals over paragraphs, both runs "
            "on the same draws. Where an interval holds 0 the data cannot tell. Each number is "
            "judged by itself: of twenty, one will look different by chance.",
            "soft",
        )
    ]
    for caption, head, rows in difference_tables(runs, resamples=resamples):
        inside = table(head, rows, caption=caption)
        parts.append(details(caption, inside, kind="case", is_open=len(parts) == 1))
    return "".join(parts)


def difference_tables(
    runs: Sequence[RunFiles], *, resamples: int
) -> list[tuple[str, list[str], list[list[Cell]]]]:
    """(title, head, rows) per protocol: each run with its best baseline, and its difference from
    the first run with interval and verdict.

    Raises:
        InputError: runs over different queries.
    """
    first, *others = runs
    for run in others:
        _check_same_queries(first, run)
    compared = [
        compare_predictions(
            first.truth,
            first.predictions,
            run.predictions,
            resamples=resamples,
            **_scoring_options(first.summary),
        )
        for run in others
    ]
    tables = []
    for name in dict.fromkeys(name for each in compared for name in each):
        head = ["", first.name, "its floor"]
        for run in others:
            head += [run.name, "its floor", "difference", "95 % interval", "verdict"]
        known = next(each[name] for each in compared if name in each)
        rows: list[list[Cell]] = []
        for metric, result in known.items():
            row: list[Cell] = [metric, (f"{result['first']:.2f}", "score")]
            row.append(number(best_baseline(first.summary, name, metric)[0]))
            for run, each in zip(others, compared, strict=True):
                row += _difference(run, name, metric, each.get(name, {}).get(metric))
            rows.append(row)
        tables.append((heading(first.summary, name), head, rows))
    return tables


def _check_same_queries(first: RunFiles, run: RunFiles) -> None:
    for name, what in (("video_ids", "videos"), ("paragraph_ids", "paragraphs"), ("names", "ids")):
        if getattr(run.truth, name) != getattr(first.truth, name):
            raise InputError(
                f"{run.name} and {first.name} were not tested on the same queries: "
                f"their {what} differ"
            )
    if not np.array_equal(run.truth.moments, first.truth.moments, equal_nan=True):
        raise InputError(f"{run.name} and {first.name} were not scored against the same moments")


def _difference(run: RunFiles, name: str, metric: str, result: dict[str, Any] | None) -> list[Cell]:
    if result is None:
        return [""] * 5
    low, high = result["interval"]
    baseline = best_baseline(run.summary, name, metric)[0]
    verdict = verdict_against(result["verdict"], result["second"], baseline, metric)
    return [
        (f"{result['second']:.2f}", "score"),
        number(baseline),
        f"{result['difference']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        (verdict, verdict.split()[0]),
    ]


def verdict_against(verdict: str, score: float, baseline: float | None, metric: str) -> str:
    """The verdict of a comparison; what needs a model and does not beat one that has none is not
    called better than anything."""
    if verdict != "better" or baseline is None:
        return verdict
    above = score < baseline if metric.endswith("MedR") else score > baseline
    return verdict if above else "higher, and not above its floor"


def _scoring_options(summary: dict[str, Any]) -> dict[str, Any]:
    """The ``ScoringOptions`` that a run was scored with, read off its summary's metric names."""
    metrics = {metric for row in summary["protocols"].values() for metric in row}
    pairs = [metric.split(",IoU=") for metric in metrics if ",IoU=" in metric]
    single = {
        int(metric[2:])
        for name in ("vr", "vr_sentences")
        for metric in summary["protocols"].get(name, {})
        if metric.startswith("R@")
    }
    moments = {
        int(metric.split(",")[0][2:])
        for name in ("svmr_2dtan", "svmr")
        for metric in summary["protocols"].get(name, {})
        if ",IoU=" in metric
    }
    settings = summary.get("settings", {})
    options: dict[str, Any] = {key: settings[key] for key in ("ties", "alpha") if key in settings}
    if pairs:
        options["iou"] = sorted({float(threshold) for _, threshold in pairs})
    if single:
        options["retrieval_k"] = sorted(single)
    if moments:
        options["grounding_n"] = sorted(moments)
    return options


def best_baseline(summary: dict[str, Any], name: str, metric: str) -> tuple[float | None, str]:
    """The highest baseline ("floor") of a score, in per cent, and its rule."""
    rows = summary.get("floors", {}).get(name, {})
    values = [(row[metric], rule) for rule, row in rows.items() if metric in row]
    return max(values, default=(None, ""))


def number(value: float | None, digits: int = 2) -> str:
    """A number as a table shows it; empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
