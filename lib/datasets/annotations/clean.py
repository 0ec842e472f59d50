"""Repairs of what was read, by one rule for all layouts, every one of them counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ...base.clipping import clip_moment
from ...base.errors import InputError
from ..vocabulary import has_words, tokenise
from .descriptions import cut_at_starts
from .recognise import read_source
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
    Moment,
    Paragraph,
    Record,
)
from .source import UNKNOWN, Source


def read_paragraphs(
    path: Path,
    *,
    split: str = "",
    videos: Collection[str] | None = None,
    paragraphs: str = "video",
    order: str = "file",
    cut_descriptions: bool = False,
    min_sentences: int = 1,
    bad_moments: str = "drop",
    empty_sentences: str = "refuse",
    untimed: bool = False,
) -> tuple[list[Paragraph], Cleaning]:
    """Read one split.

    Moments are clipped to [0, duration]; a sentence whose moment is then empty is dropped, kept
    without it, or refused. Of several moments of a sentence the empty ones are left out. What
    happens next, in this order: descriptions laid end to end are cut apart, paragraphs that are too
    short are dropped, sentences are sorted. Two annotators' descriptions under one key
    (ActivityNet-CD) are cut apart wherever a file has them, see ``descriptions.separate``.

    Args:
        split: which, where one file holds several ("train" finds "training" too); "" = its only
            one.
        videos: read these only, named as videos or as paragraphs; None = all.
        paragraphs: "video": the sentences of a video are a paragraph, also where each has a row of
            its own and the rows are shuffled; "row": each sentence is one, under its own id.
        order: "file", or "time": stable sort by (start, end) inside a paragraph, unless one of its
            sentences has none.
        cut_descriptions: TACoS's recovery of paragraphs: cut wherever a sentence starts before its
            predecessor.
        min_sentences: paragraphs with fewer are dropped.
        bad_moments: "drop", "keep" or "refuse" sentences with start >= end after clipping.
        empty_sentences: "refuse" or "drop" sentences without a word.
        untimed: keep sentences whose moment the file does not give, which are refused else.

    Raises:
        SplitMissing: the file holds several splits, and not this one.
        InputError: the file is missing, malformed, of another layout, or holds no paragraph, or a
            sentence or paragraph that is longer than any description.
    """
    cleaning = Cleaning(path)
    found: list[Paragraph] = []
    used: Counter[str] = Counter()
    records = _named(read_source(Source(path, split, cleaning, videos)))
    if paragraphs == "row":
        records = [_alone(record, i) for record in records for i in range(len(record.sentences))]
    for record in records:
        kept = _clean(record, path, cleaning, bad_moments, empty_sentences, untimed)
        for part in cut_at_starts(kept) if cut_descriptions else [kept]:
            if not part.sentences:
                cleaning.note("paragraphs left without a sentence", part.video_id)
                continue
            if len(part.sentences) < min_sentences:
                cleaning.note(
                    TOO_SHORT.format(min_sentences), f"{part.video_id}: {part.sentences[0]!r}"
                )
                continue
            used[part.paragraph_id] += 1
            number = used[part.paragraph_id]
            name = part.paragraph_id if number == 1 else f"{part.paragraph_id}#{number}"
            found.append(_paragraph(part, name, order, cleaning))
    if not found:
        raise InputError(f"{path}: no paragraph is left of {cleaning.sentences_read} sentences.")
    cleaning.paragraphs = len(found)
    cleaning.sentences = sum(len(paragraph.sentences) for paragraph in found)
    cleaning.videos = len({paragraph.video_id for paragraph in found})
    return found, cleaning


def _named(records: Sequence[Record]) -> list[Record]:
    """Give the sentences that have none an id: their paragraph's, and a number that goes on where
    a paragraph comes in several parts."""
    seen: Counter[str] = Counter()
    for record in records:
        if not record.sentence_ids:
            first = seen[record.paragraph_id]
            numbers = range(first, first + len(record.sentences))
            record.sentence_ids = [f"{record.paragraph_id}#{number}" for number in numbers]
        seen[record.paragraph_id] += len(record.sentences)
    return list(records)


def _alone(record: Record, index: int) -> Record:
    """A sentence as a paragraph of its own."""
    part = record.part([index])
    part.paragraph_id = part.sentence_ids[0]
    return part


def _clean(
    record: Record,
    path: Path,
    cleaning: Cleaning,
    bad_moments: str,
    empty_sentences: str,
    untimed: bool,
) -> Record:
    """Clip and drop; the numbering in messages is the file's, from 1."""
    for text in (record.paragraph_id, record.video_id, *record.sentence_ids):
        _require_text(text, path, "the name")
    if len(record.sentences) > MOST_SENTENCES:
        raise InputError(
            f"{path}: {record.video_id} has {len(record.sentences):,} sentences; expected at most "
            f"{MOST_SENTENCES:,} of a paragraph (DATASET.PARAGRAPHS: row makes each sentence one)."
        )
    kept = record.part([])
    windows = record.windows or [[]] * len(record.sentences)
    rows = zip(record.moments, record.sentences, record.sentence_ids, windows, strict=True)
    for number, (moment, sentence, name, several) in enumerate(rows, start=1):
        cleaning.sentences_read += 1
        place = f"{record.video_id} sentence {number}"
        _require_bounded(sentence, path, place)
        if not has_words(sentence):
            if empty_sentences == "refuse":
                raise InputError(
                    f"{path}: {place} is {sentence!r}, which holds no word "
                    f"(EMPTY_SENTENCES: drop leaves such sentences out)."
                )
            cleaning.note(WORDLESS, place)
            continue
        if math.isnan(moment[0]):
            if not untimed:
                raise InputError(
                    f"{path}: {place} has no timestamps; expected [start, end] in seconds "
                    "(only TRAIN.SUPERVISION: weak does without)."
                )
            cleaning.note("sentences without timestamps", place)
            clipped, parts = UNKNOWN, []
        else:
            parts = [_clipped(one, record.duration, place, cleaning) for one in several or [moment]]
            clipped = _clipped(moment, record.duration) if several else parts[0]
            filled = [part for part in parts if part[0] < part[1]]
            if several and len(filled) < len(parts):
                found = f"{place} ({len(parts) - len(filled)} of {len(parts)})"
                cleaning.note("sentences of several moments, empty ones of which left out", found)
            if clipped[0] >= clipped[1] and filled:
                clipped = filled[0]
            parts = filled
        if clipped[0] >= clipped[1]:
            found = f"[{moment[0]:g}, {moment[1]:g}] in a video of {record.duration:g} s"
            if bad_moments == "refuse":
                raise InputError(
                    f"{path}: {place} has the moment {found}, which is empty "
                    f"(BAD_MOMENTS: drop leaves such sentences out)."
                )
            kept_so = "sentences with an empty moment kept without it"
            what = kept_so if bad_moments == "keep" else EMPTY_DROPPED
            cleaning.note(what, f"{place} {found}")
            if bad_moments != "keep":
                continue
        kept.moments.append(clipped)
        kept.sentences.append(" ".join(sentence.split()))
        kept.sentence_ids.append(name)
        kept.windows.append(parts)
    return kept


def _clipped(
    moment: Moment, duration: float, place: str = "", cleaning: Cleaning | None = None
) -> Moment:
    """A moment within its video, counted where it was outside by more than arithmetic explains and
    something of it is left."""
    start, end, moved = clip_moment(*moment, duration)
    if cleaning is not None and start < end and moved:
        found = f"{place} [{moment[0]:g}, {moment[1]:g}] of {duration:g} s"
        cleaning.note(CLIPPED, found)
    return start, end


def _require_bounded(sentence: str, path: Path, place: str) -> None:
    _require_text(sentence, path, f"{place}:")
    if len(sentence) <= MOST_WORDS:  # and so no more words
        return
    if len(sentence) > MOST_LETTERS:
        found, most = f"{len(sentence):,} letters", f"{MOST_LETTERS:,}"
    else:
        words = max(len(tokenise(sentence)), len(sentence.split()))
        if words <= MOST_WORDS:
            return
        found, most = f"{words:,} words", f"{MOST_WORDS:,}"
    raise InputError(f"{path}: {place} has {found}; expected at most {most} of a sentence.")


def _require_text(text: str, path: Path, what: str) -> None:
    """JSON can spell half a character, which no file of results could hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path}: {what} {text[:40]!r} has half a character (\\u{ord(text[error.start]):04x}, "
            "a lone surrogate); expected text."
        ) from None


def _paragraph(record: Record, name: str, order: str, cleaning: Cleaning) -> Paragraph:
    places = range(len(record.sentences))
    if order == "time":
        known = not any(math.isnan(start) for start, _ in record.moments)
        places_sorted = sorted(places, key=record.moments.__getitem__) if known else list(places)
        if places_sorted != list(places):
            cleaning.note(SORTED, name)
        chosen: Sequence[int] = places_sorted
    else:
        chosen = places
    moments = np.array([record.moments[i] for i in chosen], dtype=np.float64)
    moments[~(moments[:, 0] < moments[:, 1])] = np.nan
    return Paragraph(
        paragraph_id=name,
        video_id=record.video_id,
        duration=record.duration,
        sentences=tuple(record.sentences[i] for i in chosen),
        moments=moments,
        sentence_ids=tuple(record.sentence_ids[i] for i in chosen),
        windows=_windows([record.windows[i] for i in chosen]),
    )


def _windows(windows: Sequence[Sequence[Moment]]) -> tuple[Float[np.ndarray, "_ 2"], ...]:
    """Arrays of them; none where no sentence has several."""
    if all(len(one) < 2 for one in windows):
        return ()
    return tuple(np.array(one, dtype=np.float64).reshape(-1, 2) for one in windows)
