"""Several descriptions of a video that lie end to end under one key: where they are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .records import Cleaning, Record

_SHARE = 0.05  # of the paragraphs with such a place, from which a file is taken for joined
_RUN = 0.5  # of the video that the first description has covered where the second starts with it


def cut_at_starts(record: Record) -> Iterator[Record]:
    """One record per description: a new one begins where a start goes back (TACoS)."""
    starts = [start for start, _ in record.moments]
    yield from _cut(record, [i for i in range(1, len(starts)) if starts[i] < starts[i - 1]])


def separate(records: Sequence[Record], cleaning: Cleaning) -> list[Record]:
    """Cut the paragraphs of a file that joins two annotators' of one video, as ActivityNet-CD joins
    those of ActivityNet Captions' two validation files.

    In these files every sentence but the first of a description begins with a space. A description
    therefore begins at a later sentence without one whose moment starts before its predecessor's.
    ActivityNet Captions' own files have such a place in at most 0.15 % of their paragraphs, by
    chance, and ActivityNet-CD's in 15 % and more. A file is cut if 5 % and at least two have one;
    in such a file also where both sentences start at once, the former begins with a space, and the
    first description has run through half of the video. The two validation files joined are then
    cut rightly in 4,844 of 4,885 paragraphs. Files without these spaces stay as they are.
    """
    later = [text for record in records for text in record.sentences[1:]]
    if 2 * sum(text[:1].isspace() for text in later) < len(later):
        return list(records)
    clear = sum(any(_goes_back(record, i) for i in _unspaced(record)) for record in records)
    if clear < max(2, _SHARE * len(records)):
        return list(records)
    found: list[Record] = []
    for record in records:
        cuts = [i for i in _unspaced(record) if _goes_back(record, i) or _starts_anew(record, i)]
        found += _cut(record, cuts)
        if cuts:
            cleaning.note("paragraphs cut in two where another description begins", record.video_id)
    return found


def _unspaced(record: Record) -> Iterator[int]:
    """The sentences after the first that begin without a space."""
    return (i for i, text in enumerate(record.sentences) if i and text and not text[:1].isspace())


def _goes_back(record: Record, index: int) -> bool:
    return record.moments[index][0] < record.moments[index - 1][0]


def _starts_anew(record: Record, index: int) -> bool:
    moments, before = record.moments, record.sentences[index - 1]
    run = max(end for _, end in moments[:index])
    together = moments[index][0] == moments[index - 1][0]
    return before[:1].isspace() and together and run >= _RUN * record.duration


def _cut(record: Record, cuts: Sequence[int]) -> Iterator[Record]:
    bounds = [0, *cuts, len(record.sentences)]
    for begin, end in zip(bounds, bounds[1:], strict=False):
        yield record.part(range(begin, end))
