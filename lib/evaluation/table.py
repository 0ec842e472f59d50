"""A summary as text: a table for the console, the same in Markdown. Two decimals, here only."""

from __future__ import annotations

import textwrap
from typing import Any

from ..base.terminal import count
from .protocols import PROTOCOLS

Row = list[str]


def rows_of(summary: dict[str, Any], name: str) -> list[Row]:
    """One protocol as rows of text, the head first: metric, score, interval, baselines, ceiling."""
    scores = summary["protocols"][name]
    intervals = summary.get("intervals", {}).get(name, {})
    ceiling = summary.get("ceilings", {}).get(name, {})
    columns: dict[str, list[str]] = {"score": [_number(scores[m]) for m in scores]}
    as_misses = summary.get("queries", {}).get(name, {}).get("as_misses", {})
    if as_misses:
        columns["left out as misses"] = [_number(as_misses.get(m)) for m in scores]
    if intervals:
        columns["95 % interval"] = [_range(intervals.get(m)) for m in scores]
    for rule, baseline in summary.get("floors", {}).get(name, {}).items():
        columns[rule] = [_number(baseline.get(m)) for m in scores]
    if ceiling:
        columns["ceiling"] = [_number(ceiling.get(m)) for m in scores]
    return [
        ["", *columns],
        *([m, *cells] for m, *cells in zip(scores, *columns.values(), strict=True)),
    ]


def heading(summary: dict[str, Any], name: str) -> str:
    """What the numbers below it count, in one line."""
    protocol, corpus = PROTOCOLS[name], summary["corpus"]
    query = summary.get("queries", {}).get(name, {})
    parts = [count(corpus["videos"], "video")]
    if "counted" in query:
        parts.append(count(query["counted"], protocol.unit))
    if query.get("missing"):
        parts.append(f"{query['missing']} missing, counted as misses")
    if query.get("left_out"):
        parts.append(f"{query['left_out']} left out, not counted")
    parts.append(f"K counts {protocol.k_counts}")
    if protocol.ranked == "videos, then moments":
        parts.append(f"{count(protocol.moments_per_video or 1, 'moment')} shown in each")
    if protocol.strict is not None:
        parts.append(protocol.sign)
    if protocol.ranked == "moments" and summary.get("settings", {}).get("overlaps") == "float64":
        parts.append("overlaps in float64")
    if query.get("several"):
        parts.append(f"{query['windows']} of several true moments ({query['several']} sentences)")
    if "alpha" in query:
        parts.append(f"alpha = {query['alpha']:g}")
    return f"{name}: " + ", ".join(parts)


def console_table(summary: dict[str, Any]) -> str:
    """All protocols of ``summarise``, one table each, then the warnings."""
    from terminaltables import AsciiTable

    blocks = []
    for name in summary["protocols"]:
        head, *rows = rows_of(summary, name)
        table = AsciiTable([["\n".join(textwrap.wrap(cell, 13)) for cell in head], *rows])
        table.justify_columns = dict.fromkeys(range(1, len(head)), "right")
        blocks.append(f"{heading(summary, name)}\n{table.table}")
    return "\n\n".join(blocks + [f"warning: {text}" for text in summary.get("warnings", [])])


def markdown_table(summary: dict[str, Any]) -> str:
    """The same in Markdown, with each protocol's definition."""
    blocks = []
    for name in summary["protocols"]:
        head, *rows = rows_of(summary, name)
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
        text = f"### {heading(summary, name)}\n\n{PROTOCOLS[name].definition}\n\n"
        blocks.append(text + "\n".join(lines))
    notes = [f"> **Warning:** {text}" for text in summary.get("warnings", [])]
    return "\n\n".join(blocks + notes) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _range(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
