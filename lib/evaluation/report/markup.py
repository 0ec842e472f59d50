"""Pieces of HTML. Text is escaped here, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

Cell = str | tuple[str, str]  # text, or text with a CSS class


def page(title: str, sections: Iterable[tuple[str, str]], *, lead: str) -> str:
    """A complete page that loads nothing: sections of (heading, HTML), with links to them.

    The policy in its head makes a browser refuse any request to a network and any script.
    """
    parts = [(f"section-{i}", heading, body) for i, (heading, body) in enumerate(sections) if body]
    links = "".join(f'<li><a href="#{key}">{escape(h)}</a></li>' for key, h, _ in parts)
    bodies = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}" tabindex="-1">{escape(h)}</h2>{b}'
        "</section>"
        for key, h, b in parts
    )
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style>'
        '</head><body><a class="skip" href="#main">Skip to the numbers</a>'
        f"<header><h1>{escape(title)}</h1>{lead}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f'<main id="main" tabindex="-1">{bodies}</main></body></html>\n'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str) -> str:
    """A table whose first column names its rows, in a frame that scrolls by keyboard too."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(_row(row) for row in rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Cell]) -> str:
    first, *rest = row
    cells = [f'<th scope="row"{_kind(first)}>{escape(_text(first))}</th>']
    cells += [f"<td{_kind(cell)}>{escape(_text(cell))}</td>" for cell in rest]
    return f"<tr>{''.join(cells)}</tr>"


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _kind(cell: Cell) -> str:
    return "" if isinstance(cell, str) else f' class="{cell[1]}"'


def details(summary: str, body: str, *, kind: str = "", is_open: bool = False) -> str:
    """Something to unfold; the browser makes it work by keyboard."""
    flags = (f' class="{kind}"' if kind else "") + (" open" if is_open else "")
    return f"<details{flags}><summary>{escape(summary)}</summary>{body}</details>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</p>"
