"""A summary as text: a table for the console, the same in Markdown. Two decimals, here only."""

from __future__ import annotations

import textwrap
from typing import Any

from ..base.terminal import columns, count, is_terminal, wrapped
from .baselines import best_floor
from .protocols import PROTOCOLS

Row = list[str]


def rows_of(summary: dict[str, Any], name: str, *, narrow: bool = False) -> list[Row]:
    """One protocol as rows of text, the head first: metric, score, interval, baselines, ceiling.

    Args:
        narrow: one column with the best baseline of each metric in the place of all.
    """
    scores = summary["protocols"][name]
    intervals = summary.get("intervals", {}).get(name, {})
    ceiling = summary.get("ceilings", {}).get(name, {})
    cells: dict[str, list[str]] = {"score": [_number(scores[m]) for m in scores]}
    as_misses = summary.get("queries", {}).get(name, {}).get("as_misses", {})
    if as_misses:
        cells["left out as misses"] = [_number(as_misses.get(m)) for m in scores]
    if intervals:
        cells["95 % interval"] = [_range(intervals.get(m)) for m in scores]
    baselines = summary.get("floors", {}).get(name, {})
    if narrow and len(baselines) > 1:
        cells["best floor"] = [_number(best_floor(summary, name, m)[0]) for m in scores]
    else:
        for rule, baseline in baselines.items():
            cells[rule] = [_number(baseline.get(m)) for m in scores]
    if ceiling:
        cells["ceiling"] = [_number(ceiling.get(m)) for m in scores]
    return [
        ["", *cells],
        *(list(row) for row in zip(scores, *cells.values(), strict=True)),
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
    """All protocols of ``summarise``, one table each, then the warnings. In a terminal that is too
    narrow for all baselines, a table has the best of them."""
    from terminaltables import AsciiTable

    def table(rows: list[Row]) -> Any:
        head, *others = rows
        made = AsciiTable([["\n".join(textwrap.wrap(cell, 13)) for cell in head], *others])
        made.justify_columns = dict.fromkeys(range(1, len(head)), "right")
        return made

    blocks = []
    for name in summary["protocols"]:
        made = table(rows_of(summary, name))
        if is_terminal() and made.table_width > columns():
            made = table(rows_of(summary, name, narrow=True))
        blocks.append(f"{wrapped(heading(summary, name))}\n{made.table}")
    warnings = [wrapped(f"warning: {text}") for text in summary.get("warnings", [])]
    return "\n\n".join(blocks + warnings)


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
