"""Annotation files -> paragraphs, with every repair counted.

The layout of a file is recognised by its content (``recognise``), and each family of layouts has a
module: ``queries`` (JSON Lines and lists of objects), ``videos`` (an object of videos), ``rows``
(CPL), ``text`` (Charades-STA, MS-SL, DCIML, CSV), ``chunks`` (NumPy files of PRVG and DepNet),
``hirest`` and ``ego4d``. What they give is repaired by one rule, in ``clean``.
"""

from .clean import read_paragraphs
from .recognise import read_records
from .records import (
    CLIPPED,
    EMPTY_DROPPED,
    MOST_LETTERS,
    MOST_SENTENCES,
    MOST_WORDS,
    SORTED,
    TOO_SHORT,
    WORDLESS,
    Cleaning,
    Paragraph,
    Record,
)
from .splits import SplitMissing

__all__ = [
    "CLIPPED",
    "EMPTY_DROPPED",
    "SORTED",
    "TOO_SHORT",
    "WORDLESS",
    "MOST_LETTERS",
    "MOST_SENTENCES",
    "MOST_WORDS",
    "Cleaning",
    "Paragraph",
    "Record",
    "SplitMissing",
    "read_paragraphs",
    "read_records",
]
