"""A paragraph as its sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..base.errors import InputError
from ..datasets.vocabulary import has_words

MOST_SENTENCES, MOST_CHARACTERS = 64, 20_000  # of a paragraph that is asked for

# What a full stop ends without ending a sentence: abbreviations and initials.
_NO_END = re.compile(r"(mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|inc|e\.g|i\.e|approx|fig|[a-z])\.")
_END = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+|\n+|(?<=[。！？])")


def split_sentences(paragraph: str) -> tuple[str, ...]:
    """Cut after ``.``, ``!`` and ``?`` before white space, and at line ends; not after common
    abbreviations, an initial or a number with a full stop at the start of a line."""
    pieces, begin = [], 0
    for end in _END.finditer(paragraph):
        piece = paragraph[begin : end.start()].strip()
        last = piece.rsplit(maxsplit=1)[-1] if piece else ""
        bare = last.lower().lstrip("(\"'“‘")
        numbered = bare == piece and re.fullmatch(r"\d+\.", bare)
        if "\n" not in end.group() and (numbered or _NO_END.fullmatch(bare)):
            continue
        pieces.append(paragraph[begin : end.end()].strip())
        begin = end.end()
    pieces.append(paragraph[begin:].strip())
    return tuple(piece for piece in pieces if has_words(piece))


def sentences_of(paragraph: str | Sequence[str]) -> tuple[str, ...]:
    """The sentences of a text, or those given.

    Raises:
        InputError: there is no word, a sentence given has none, or there is more than is read.
    """
    if isinstance(paragraph, str):
        if len(paragraph) > MOST_CHARACTERS:
            raise InputError(
                f"the paragraph has {len(paragraph):,} characters; expected at most "
                f"{MOST_CHARACTERS:,}"
            )
        sentences = split_sentences(paragraph)
    else:
        sentences = tuple(paragraph)
        total = sum(map(len, sentences))
        if total > MOST_CHARACTERS:
            raise InputError(
                f"the sentences have {total:,} characters; expected at most {MOST_CHARACTERS:,}"
            )
        for number, sentence in enumerate(sentences, start=1):
            if not has_words(sentence):
                raise InputError(f"sentence {number} ({sentence[:40]!r}) has no words")
    if not sentences:
        raise InputError("the paragraph has no words; expected at least one sentence")
    if len(sentences) > MOST_SENTENCES:
        raise InputError(
            f"the paragraph has {len(sentences)} sentences; expected at most {MOST_SENTENCES}"
        )
    return sentences
