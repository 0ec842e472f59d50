"""The tables of a paper, trained anew: what stands in them, and the page of what came out."""

from __future__ import annotations

from .page import page
from .tables import Claim, CorpusOfTable, Row, Table, read_corpora, read_table, table_names

__all__ = [
    "Claim",
    "CorpusOfTable",
    "Row",
    "Table",
    "page",
    "read_corpora",
    "read_table",
    "table_names",
]
