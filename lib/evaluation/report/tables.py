"""The tables of a report: one run beside its floors, or several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.base.errors import InputError
from lib.evaluation import compare_predictions
from lib.evaluation.files.run import RunFiles
from lib.evaluation.protocols import PROTOCOLS
from lib.evaluation.report.markup import Cell, details, paragraph, table
from lib.evaluation.table import heading, rows_of


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
    """(title, head, rows) per protocol: each run beside its best floor, and its difference from the
    first run with interval and verdict.

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
            **_asked(first.summary),
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
        for metric, found in known.items():
            row: list[Cell] = [metric, (f"{found['first']:.2f}", "score")]
            row.append(number(best_floor(first.summary, name, metric)[0]))
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
    if not np.array_equal(run.truth.moments, first.truth.moments):
        raise InputError(f"{run.name} and {first.name} were not scored against the same moments")


def _difference(run: RunFiles, name: str, metric: str, found: dict[str, Any] | None) -> list[Cell]:
    if found is None:
        return [""] * 5
    low, high = found["interval"]
    return [
        (f"{found['second']:.2f}", "score"),
        number(best_floor(run.summary, name, metric)[0]),
        f"{found['difference']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        (found["verdict"], found["verdict"].split()[0]),
    ]


def _asked(summary: dict[str, Any]) -> dict[str, Any]:
    """The columns that a run's tables have, read off their names, and how it was scored."""
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
    asked: dict[str, Any] = {key: settings[key] for key in ("ties", "alpha") if key in settings}
    if pairs:
        asked["iou"] = sorted({float(threshold) for _, threshold in pairs})
    if single:
        asked["retrieval_k"] = sorted(single)
    if moments:
        asked["grounding_n"] = sorted(moments)
    return asked


def best_floor(summary: dict[str, Any], name: str, metric: str) -> tuple[float | None, str]:
    """The highest floor of a score, and its rule."""
    rows = summary.get("floors", {}).get(name, {})
    found = [(row[metric], rule) for rule, row in rows.items() if metric in row]
    return max(found, default=(None, ""))


def number(value: float | None, digits: int = 2) -> str:
    """A number as a table shows it; empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
