"""A comparison as text for a console, and in Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from ..comparison import Comparison
from ..headline import headline_numbers
from ..table import heading
from .markup import Cell
from .tables import HEAD, HOW, MARKED, NUMBERS, result_cells
from .words import headline_words, protocol_title

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_WIDTH = 48  # of all values of a line in the console's table of changes


def console_comparison(comparison: Comparison) -> str:
    """What was changed, and the headline numbers of every column."""
    from terminaltables import AsciiTable

    blocks = [
        f"{name}\n{_of(AsciiTable, head, rows)}" for name, head, rows in _headlines(comparison)
    ]
    head, rows = _changes(comparison)
    width = max(_WIDTH // len(comparison.columns), 8)
    shorter = [[key, *(_short(text, width) for text in each)] for key, *each in rows]
    head = ["\n".join(textwrap.wrap(name, width)) for name in head]
    changed = _of(AsciiTable, head, shorter, right=False) if rows else _UNCHANGED
    return "\n\n".join([f"What was changed\n{changed}", *blocks, MARKED])


def markdown_comparison(comparison: Comparison) -> str:
    """Everything: changes, headline, and the tables of all protocols."""
    head, rows = _changes(comparison)
    names = " · ".join(column.label for column in comparison.columns)
    blocks = [f"# {_escaped(names)}", "## What was changed"]
    blocks.append(_markdown(head, rows) if rows else _UNCHANGED)
    blocks.append("## The first numbers")
    for title, head, cells in _headlines(comparison):
        blocks += [f"### {title}", _markdown(head, cells)]
    blocks += [MARKED.replace("*", "\\*"), HOW, "## Every number"]
    for name, metrics in comparison.results.items():
        about = heading(comparison.columns[0].runs[0].summary, name)
        cells = [
            [f"{metric}, {column.label}", *map(_text, result_cells(result))]
            for metric, results in metrics.items()
            for column, result in zip(comparison.columns, results, strict=True)
        ]
        blocks += [f"### {protocol_title(name)}", about, _markdown(HEAD, cells)]
    return "\n\n".join(blocks) + "\n"


_UNCHANGED = "No option, code version or data differs between the runs."
Table = tuple[str, list[str], list[list[str]]]


def _headlines(comparison: Comparison) -> Iterable[Table]:
    for line in headline_numbers(comparison.columns[0].runs[0].summary):
        results = comparison.results.get(line.protocol, {}).get(line.metric)
        if results is not None:
            rows = [
                [column.label, *map(_text, result_cells(result))]
                for column, result in zip(comparison.columns, results, strict=True)
            ]
            yield f"{headline_words(line)[0]} ({line.protocol} {line.metric}), %", HEAD, rows


def _changes(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    head = ["", *(column.label for column in comparison.columns)]
    return head, [[key, *each] for key, each in comparison.changes.items()]


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _of(kind: type, head: Sequence[str], rows: list[list[str]], *, right: bool = True) -> str:
    clean = [
        [re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "?", cell) for cell in row]
        for row in [head, *rows]
    ]
    grid = kind(clean)
    if right:
        grid.justify_columns = {at: "right" for at, name in enumerate(head) if name in NUMBERS}
    return str(grid.table)


def _markdown(head: Sequence[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [[*map(_escaped, head)], rule, *([*map(_escaped, row)] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
