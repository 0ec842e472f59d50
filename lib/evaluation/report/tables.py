"""The tables of a report: one run with its baselines, or several models compared."""

from __future__ import annotations

from html import escape

from ..comparison import Comparison, Result
from ..files.run import RunFiles
from ..headline import headline_numbers
from ..protocols import PROTOCOLS
from ..table import heading, rows_of
from .markup import Cell, details, paragraph, table
from .words import headline_words, metric_title, protocol_title

HOW = (
    "Differences are from the first column, in points, with 95 % intervals over paragraphs (and "
    "over the seeds, where a column has several), all on the same draws. Where an interval holds 0 "
    "the data cannot tell. Each number is judged by itself: of twenty, one will look different by "
    "chance."
)
MARK = "*"
MARKED = f"{MARK} does not beat its floor: the best of the rules without a model does as well."
HEAD = ["", "score", "floor", "verdict", "difference", "95 % interval"]


def score_tables(run: RunFiles) -> str:
    """Every protocol of a run, to unfold."""
    parts = []
    for name in run.summary["protocols"]:
        head, *rows = rows_of(run.summary, name)
        marked: list[list[Cell]] = [
            [_metric(name, metric), (score, "score"), *rest] for metric, score, *rest in rows
        ]
        inside = table(head, marked, caption=heading(run.summary, name)) + _definition(name)
        parts.append(_unfold(name, inside))
    return "".join(parts)


def _unfold(name: str, inside: str) -> str:
    return details(f"{protocol_title(name)} ({name})", inside, kind="case")


def _metric(name: str, metric: str) -> str:
    words = metric_title(name, metric)
    return metric if words == metric else f"{metric}: {words}"


def _definition(name: str) -> str:
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        return ""
    _, rest = protocol.describe().split("\n", 1)
    text = f"{protocol.definition}\n{rest[rest.index('  K counts') :]}"
    return "".join(paragraph(line.strip(), "soft") for line in text.splitlines() if line)


def changes_table(comparison: Comparison) -> str:
    """What was changed between the columns."""
    if not comparison.changes:
        return paragraph("No option, code version or data differs between the runs.")
    head = ["", *(column.label for column in comparison.columns)]
    rows: list[list[Cell]] = [[key, *each] for key, each in comparison.changes.items()]
    return table(
        head, rows, caption="Options, code and data that differ", kind="words"
    ) + paragraph("Options of folders, machine and bookkeeping are left out.", "soft")


def headline_tables(comparison: Comparison) -> str:
    """The first numbers that a reader wants, of every column."""
    parts = []
    for number in headline_numbers(comparison.columns[0].runs[0].summary):
        results = comparison.results.get(number.protocol, {}).get(number.metric)
        if results is None:
            continue
        rows = [
            [column.label, *result_cells(result)]
            for column, result in zip(comparison.columns, results, strict=True)
        ]
        title, meaning = headline_words(number)
        caption = f"{title} ({number.protocol} {number.metric}), %"
        parts.append(
            f"<h3>{escape(title)}</h3>{paragraph(meaning, 'soft')}"
            + table(HEAD, rows, caption=caption)
        )
    return "".join(parts) + paragraph(MARKED, "soft") + paragraph(HOW, "soft")


def comparison_tables(comparison: Comparison) -> str:
    """Every number of every column, protocol by protocol, to unfold."""
    parts = []
    for name, metrics in comparison.results.items():
        rows: list[list[Cell]] = []
        for metric, results in metrics.items():
            for column, result in zip(comparison.columns, results, strict=True):
                rows.append([f"{metric}, {column.label}", *result_cells(result)])
        caption = heading(comparison.columns[0].runs[0].summary, name)
        parts.append(_unfold(name, table(HEAD, rows, caption=caption) + _definition(name)))
    return "".join(parts)


def result_cells(result: Result | None) -> list[Cell]:
    """The cells of one score after its column's name: as in ``HEAD``."""
    if result is None:
        return ["not counted", "", "", "", ""]
    score = f"{result.score:.2f}"
    if result.deviation is not None:
        score += f" ± {result.deviation:.2f}"
    cells: list[Cell] = [
        (f"{score} {MARK}", "score below") if result.below else (score, "score"),
        number(result.floor),
    ]
    if result.difference is None or result.interval is None:
        return [*cells, "", "", ""]
    low, high = result.interval
    return [
        *cells,
        (result.verdict, result.verdict.split(",")[0].replace(" ", "-")),
        f"{result.difference:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
    ]


def number(value: float | None, digits: int = 2) -> str:
    """A number as a table shows it; empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
