"""Pieces of HTML. Text is escaped here, once."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

Cell = str | tuple[str, str]  # text, or text with a CSS class


def page(title: str, sections: Iterable[tuple[str, str]], *, lead: str, media: bool = False) -> str:
    """A complete page that loads nothing: sections of (heading, HTML), with links to them.

    The policy in its head makes a browser refuse any request to a network, and any script but the
    page's own, which it knows by its digest.

    Args:
        media: the page plays files of videos that lie beside it.
    """
    parts = [(f"section-{i}", heading, body) for i, (heading, body) in enumerate(sections) if body]
    links = "".join(f'<li><a href="#{key}">{escape(h)}</a></li>' for key, h, _ in parts)
    bodies = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}" tabindex="-1">{escape(h)}</h2>{b}'
        "</section>"
        for key, h, b in parts
    )
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    script = Path(__file__).with_name("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"img-src data:; script-src 'sha256-{digest}'"
    )
    policy += "; media-src 'self' file:" if media else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style>'
        '</head><body><a class="skip" href="#main">Skip to the numbers</a>'
        f"<header><h1>{escape(title)}</h1>{lead}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f'<main id="main" tabindex="-1">{bodies}</main><script>{script}</script></body></html>\n'
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str, kind: str = ""
) -> str:
    """A table whose first column names its rows, in a frame that scrolls by keyboard too."""
    attribute = f' class="{kind}"' if kind else ""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(_row(row) for row in rows)
    label = escape(caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"<table{attribute}><caption>{label}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Cell]) -> str:
    first, *rest = row
    cells = [f'<th scope="row"{_kind(first)}>{_breakable(_text(first))}</th>']
    cells += [f"<td{_kind(cell)}>{escape(_text(cell))}</td>" for cell in rest]
    return f"<tr>{''.join(cells)}</tr>"


def _breakable(text: str) -> str:
    """Text with places at which a narrow column may break a long name."""
    return re.sub(r"([._/-])(?=\w)", r"\1<wbr>", escape(text))


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _kind(cell: Cell) -> str:
    return "" if isinstance(cell, str) else f' class="{cell[1]}"'


def details(
    summary: str,
    body: str,
    *,
    kind: str = "",
    is_open: bool = False,
    heading: str = "",
    data: Mapping[str, str] | None = None,
) -> str:
    """Something to unfold; the browser makes it work by keyboard.

    Args:
        heading: HTML, in the place of ``summary``, which is text.
        data: attributes for the page's script.
    """
    flags = f' class="{kind}"' if kind else ""
    flags += "".join(f' data-{name}="{escape(value)}"' for name, value in (data or {}).items())
    flags += " open" if is_open else ""
    return f"<details{flags}><summary>{heading or escape(summary)}</summary>{body}</details>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"
