"""A comparison as text for a console, and in Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from ..comparison import Comparison
from ..headline import headline_numbers
from ..table import heading
from .markup import Cell
from .tables import HEAD, HOW, MARKED, result_cells
from .words import headline_words, protocol_title

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KEY, _NAME = 30, 16  # columns of 80 for the name of an option, and for that of a run
_LONGEST = 200  # characters of an option


def console_comparison(comparison: Comparison) -> str:
    """What was changed, and the headline numbers of every column, in lines of at most 80
    characters (more only where there are more than four columns)."""
    head, rows = _changes(comparison)
    room = max((80 - _KEY) // len(comparison.columns) - 2, 8)
    changed = _grid(head, rows, [_KEY, *[room] * len(comparison.columns)]) if rows else _UNCHANGED
    blocks = [f"What was changed\n{changed}"]
    for title, _, cells in _headlines(comparison):
        short = [
            [name, score, floor, f"{difference} ({interval})" if difference else "", verdict]
            for name, score, floor, verdict, difference, interval in cells
        ]
        head = ["", "score", "floor", "difference (95 % interval)", "verdict"]
        blocks.append(f"{title}\n{_grid(head, short, [_NAME, 14, 7, 26, 11])}")
    return "\n\n".join([*blocks, MARKED])


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


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """A table without borders, whose cells are wrapped."""
    from terminaltables import AsciiTable

    grid = AsciiTable(
        [
            [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
            for row in (head, *rows)
        ]
    )
    grid.outer_border = grid.inner_column_border = False
    grid.padding_left, grid.padding_right = 0, 2
    return "\n".join(line.rstrip() for line in grid.table.splitlines())


def _wrapped(cell: str, width: int) -> str:
    text = _CONTROL.sub("?", cell[:_LONGEST])
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=True))


def _markdown(head: Sequence[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [[*map(_escaped, head)], rule, *([*map(_escaped, row)] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
