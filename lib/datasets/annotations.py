"""Annotation files -> paragraphs, with every repair counted.

Four layouts are recognised by content: a JSON list of rows ``[video, duration, [start, end],
sentence]`` (CPL), a JSON object ``{video: {duration | fps + num_frames, timestamps, sentences}}``
(2D-TAN; frames for TACoS), Charades-STA's text file with its CSV of durations, and lines of
``sentence-id sentence [start, end] duration`` (DCIML's captions). In the first two, ``null`` is a
moment that is not known, and an object may have no timestamps at all.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..base.errors import InputError
from ..base.files import open_input
from .vocabulary import has_words, tokenise

# A batch is padded to its longest paragraph and its longest sentence. (TACoS has paragraphs of 230
# sentences, ActivityNet Captions sentences of 82 words and 450 letters.)
MOST_SENTENCES, MOST_WORDS, MOST_LETTERS = 1_000, 500, 20_000
_EXAMPLES = 3  # of each repair, kept for the log
_CAPTION = re.compile(r"(\S+)\s+(.*?)\s*\[\s*([\d.]+)\s*,\s*([\d.]+)\s*\]\s*([\d.]+)\s*")


class SplitMissing(InputError):
    """The split asked for is not among those that a file holds."""


@dataclass(frozen=True, eq=False)
class Paragraph:
    """A video's description: its sentences and where each happens."""

    paragraph_id: str  # unique in its file: the video, or video#2, #3, … when it has several
    video_id: str
    duration: float  # seconds
    sentences: tuple[str, ...]
    # [start, end) in seconds, 0 <= start < end <= duration; NaN where there is no such moment
    moments: Float[np.ndarray, "S 2"]
    sentence_ids: tuple[str, ...] = ()  # the file's own, or its paragraph#0, #1, … in file order
    # All moments of each sentence, in file order: several of a query, or one of each annotator; (0,
    # 2) where it has none. Empty where no sentence has more than its moment.
    windows: tuple[Float[np.ndarray, "_ 2"], ...] = ()


@dataclass
class Cleaning:
    """What reading a file changed, counted; ``lines`` is for the log."""

    path: Path
    sentences_read: int = 0
    sentences: int = 0
    paragraphs: int = 0
    videos: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, example: str) -> None:
        """Count one repair and keep its place if it is among the first."""
        self.counts[what] += 1
        if self.counts[what] <= _EXAMPLES:
            self.examples.setdefault(what, []).append(example)

    def lines(self) -> list[str]:
        """The report, one line for the file and one for each kind of repair."""
        head = (
            f"{self.path}: {self.paragraphs:,} paragraphs of {self.videos:,} videos, "
            f"{self.sentences:,} of {self.sentences_read:,} sentences kept"
        )
        return [head] + [
            f"  {what}: {count:,} (e.g. {'; '.join(self.examples[what])})"
            for what, count in sorted(self.counts.items())
        ]


@dataclass
class Record:
    """Sentences of one video as they stand in the file, in seconds."""

    paragraph_id: str
    video_id: str
    duration: float
    moments: list[tuple[float, float]]  # NaN where the file gives none
    sentences: list[str]
    sentence_ids: list[str] = field(default_factory=list)  # empty: the file gives them none


def read_paragraphs(
    path: Path,
    *,
    order: str = "file",
    cut_descriptions: bool = False,
    min_sentences: int = 1,
    bad_moments: str = "drop",
    empty_sentences: str = "refuse",
    untimed: bool = False,
    split: str = "",
    videos: Collection[str] | None = None,
) -> tuple[list[Paragraph], Cleaning]:
    """Read one split.

    Moments are clipped to [0, duration]; a sentence whose moment is then empty is dropped, kept
    without it, or refused. What happens next, in this order: descriptions laid end to end are cut
    where a sentence starts before its predecessor, paragraphs that are too short are dropped,
    sentences are sorted.

    Args:
        order: "file", or "time": stable sort by (start, end) inside a paragraph, unless one of its
            sentences has none.
        cut_descriptions: TACoS's recovery of paragraphs, see above.
        min_sentences: paragraphs with fewer are dropped.
        bad_moments: "drop", "keep" or "refuse" sentences with start >= end after clipping.
        empty_sentences: "refuse" or "drop" sentences without a word.
        untimed: keep sentences whose moment the file does not give, which are refused else.
        split: which one, where the file holds several.
        videos: read these only, named as videos or as paragraphs; None = all.

    Raises:
        SplitMissing: the file holds several splits, and not this one.
        InputError: the file is missing, malformed, of another layout, or holds no paragraph, or a
            sentence or paragraph that is longer than any description.
    """
    cleaning = Cleaning(path)
    paragraphs: list[Paragraph] = []
    used: Counter[str] = Counter()
    for record in records_of(path, split, videos):
        kept = _clean(record, path, cleaning, bad_moments, empty_sentences, untimed)
        for part in _cut(kept) if cut_descriptions else [kept]:
            if not part.sentences:
                cleaning.note("paragraphs left without a sentence", part.video_id)
                continue
            if len(part.sentences) < min_sentences:
                what = f"paragraphs under {min_sentences} sentences dropped"
                cleaning.note(what, f"{part.video_id}: {part.sentences[0]!r}")
                continue
            used[part.paragraph_id] += 1
            number = used[part.paragraph_id]
            name = part.paragraph_id if number == 1 else f"{part.paragraph_id}#{number}"
            paragraphs.append(_paragraph(part, name, order, cleaning))
    if not paragraphs:
        raise InputError(f"{path}: no paragraph is left of {cleaning.sentences_read} sentences.")
    cleaning.paragraphs = len(paragraphs)
    cleaning.sentences = sum(len(paragraph.sentences) for paragraph in paragraphs)
    cleaning.videos = len({paragraph.video_id for paragraph in paragraphs})
    return paragraphs, cleaning


def _clean(
    record: Record,
    path: Path,
    cleaning: Cleaning,
    bad_moments: str,
    empty_sentences: str,
    untimed: bool,
) -> Record:
    """Clip and drop; the numbering in messages is the file's, from 1."""
    kept = Record(record.paragraph_id, record.video_id, record.duration, [], [])
    for text in (record.paragraph_id, *record.sentence_ids):
        _require_text(text, path, "the name")
    if len(record.sentences) > MOST_SENTENCES:
        raise InputError(
            f"{path}: {record.video_id} has {len(record.sentences):,} sentences; expected at most "
            f"{MOST_SENTENCES:,} of a paragraph."
        )
    count = len(record.sentences)
    names = record.sentence_ids or [f"{record.paragraph_id}#{i}" for i in range(count)]
    rows = zip(record.moments, record.sentences, names, strict=True)
    for number, ((start, end), sentence, name) in enumerate(rows, start=1):
        cleaning.sentences_read += 1
        place = f"{record.video_id} sentence {number}"
        _require_bounded(sentence, path, place)
        if not has_words(sentence):
            if empty_sentences == "refuse":
                raise InputError(
                    f"{path}: {place} is {sentence!r}, which holds no word "
                    f"(EMPTY_SENTENCES: drop leaves such sentences out)."
                )
            cleaning.note("sentences without a word dropped", place)
            continue
        if math.isnan(start):
            if not untimed:
                raise InputError(
                    f"{path}: {place} has no timestamps; expected [start, end] in seconds "
                    "(only TRAIN.SUPERVISION: weak does without)."
                )
            cleaning.note("sentences without timestamps", place)
            clipped = (start, end)
        else:
            clipped = (min(max(start, 0.0), record.duration), min(max(end, 0.0), record.duration))
        if clipped[0] >= clipped[1]:
            found = f"[{start:g}, {end:g}] in a video of {record.duration:g} s"
            if bad_moments == "refuse":
                raise InputError(
                    f"{path}: {place} has the moment {found}, which is empty "
                    f"(BAD_MOMENTS: drop leaves such sentences out)."
                )
            what = "kept without it" if bad_moments == "keep" else "dropped"
            cleaning.note(f"sentences with an empty moment {what}", f"{place} {found}")
            if bad_moments != "keep":
                continue
        elif clipped != (start, end) and not math.isnan(start):
            found = f"{place} [{start:g}, {end:g}] of {record.duration:g} s"
            cleaning.note("moments clipped to the video", found)
        kept.moments.append(clipped)
        kept.sentences.append(" ".join(sentence.split()))
        kept.sentence_ids.append(name)
    return kept


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


def _cut(record: Record) -> Iterator[Record]:
    """One record per description: a new one begins where a start goes back."""
    starts = [start for start, _ in record.moments]
    cuts = [0] + [i for i in range(1, len(starts)) if starts[i] < starts[i - 1]] + [len(starts)]
    for begin, end in zip(cuts, cuts[1:], strict=False):
        yield Record(
            record.paragraph_id,
            record.video_id,
            record.duration,
            record.moments[begin:end],
            record.sentences[begin:end],
            record.sentence_ids[begin:end],
        )


def _paragraph(record: Record, name: str, order: str, cleaning: Cleaning) -> Paragraph:
    places = range(len(record.sentences))
    if order == "time":
        known = not any(math.isnan(start) for start, _ in record.moments)
        places_sorted = sorted(places, key=record.moments.__getitem__) if known else list(places)
        if places_sorted != list(places):
            cleaning.note("paragraphs sorted by time", name)
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
    )


def records_of(path: Path, split: str, videos: Collection[str] | None) -> Iterator[Record]:
    """The records of a split, of the listed videos or paragraphs only; None = of all.

    Raises:
        InputError: see ``read_records``; or the file describes none of these videos.
    """
    found, first = False, ""
    for record in read_records(path, split=split):
        first = first or record.video_id
        if videos is None or record.video_id in videos or record.paragraph_id in videos:
            found = True
            yield record
    if videos is not None and not found:
        raise InputError(
            f"{path}: describes none of the {len(videos):,} videos that DATASET.SPLITS lists for "
            f"{split}, e.g. {next(iter(videos), '')[:60]!r}; its first is {first[:60]!r}."
        )


def read_records(path: Path, *, split: str = "") -> Iterable[Record]:
    """Records of a file in whichever layout it has, as they stand there.

    Args:
        split: which one, where the file holds several; of the layouts here, none does.

    Raises:
        InputError: the file is missing, malformed, or of another layout.
    """
    try:
        with open_input(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}).") from None
    first = text.lstrip()[:1]
    if first and first in "[{":
        data = _parse_json(text, path)
        return _from_rows(data, path) if isinstance(data, list) else _from_dict(data, path)
    if "##" in text[:10_000]:
        return _from_charades(text, path)
    if _CAPTION.fullmatch(text.lstrip().partition("\n")[0]):
        return _from_captions(text, path)
    raise InputError(
        f"{path}: is neither a JSON list of rows, nor a JSON object of videos, nor lines of "
        f"'video start end##sentence' or 'sentence-id sentence [start, end] duration'."
    )


def _parse_json(text: str, path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # json would keep the last one and say nothing
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise InputError(f"{path}: the key {key!r} occurs twice.")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: is not valid JSON (line {error.lineno}: {error.msg}); is it complete?"
        ) from None
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        raise InputError(
            f"{path}: is JSON nested too deeply or with numbers too long for annotations."
        ) from None


def _from_rows(rows: list[Any], path: Path) -> Iterator[Record]:
    """CPL: consecutive rows of one video are a paragraph."""
    record: Record | None = None
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, list) and len(row) == 4 and isinstance(row[0], str)):
            raise InputError(
                f"{path}: row {number} is {_short(row)}; "
                f"expected [video, duration, [start, end], sentence]."
            )
        place = f"{row[0]} (row {number})"
        duration = _duration(row[1], path, place)
        moment = _moment(row[2], path, place)
        sentence = _sentence(row[3], path, place)
        if record is None or record.paragraph_id != row[0]:
            if record is not None:
                yield record
            record = Record(row[0], _video_of(row[0]), duration, [], [])
        elif record.duration != duration:
            raise InputError(
                f"{path}: {place} has the duration {duration:g}, the row before {record.duration:g}"
            )
        record.moments.append(moment)
        record.sentences.append(sentence)
    if record is not None:
        yield record


def _from_dict(data: dict[str, Any], path: Path) -> Iterator[Record]:
    """2D-TAN: an object of videos, in seconds or (with fps and num_frames) in frames."""
    for video, entry in data.items():
        if not isinstance(entry, dict):
            raise InputError(
                f"{path}: {video} is {_short(entry)}; "
                f"expected an object with timestamps and sentences."
            )
        needed = ["sentences"]
        if "duration" not in entry:
            needed += ["fps", "num_frames"] if {"fps", "num_frames"} & set(entry) else ["duration"]
        missing = [key for key in needed if key not in entry]
        if missing:
            raise InputError(f"{path}: {video} lacks {' and '.join(missing)}.")
        timestamps, sentences = entry.get("timestamps"), entry["sentences"]
        if timestamps is None and isinstance(sentences, list):
            timestamps = [None] * len(sentences)
        if not (isinstance(timestamps, list) and isinstance(sentences, list)):
            raise InputError(f"{path}: {video}: timestamps and sentences must be lists.")
        if len(timestamps) != len(sentences):
            raise InputError(
                f"{path}: {video} has {len(timestamps)} timestamps and {len(sentences)} sentences."
            )
        places = [f"{video} sentence {number}" for number in range(1, len(sentences) + 1)]
        moments = [
            _moment(moment, path, place) for moment, place in zip(timestamps, places, strict=True)
        ]
        if "duration" in entry:
            duration = _duration(entry["duration"], path, video)
        else:
            fps = _positive(entry["fps"], path, video, "fps")
            duration = _positive(entry["num_frames"], path, video, "num_frames") / fps
            moments = [(start / fps, end / fps) for start, end in moments]
        texts = [
            _sentence(sentence, path, place)
            for sentence, place in zip(sentences, places, strict=True)
        ]
        yield Record(video, _video_of(video), duration, moments, texts)


def _from_charades(text: str, path: Path) -> Iterator[Record]:
    """Charades-STA: lines of ``video start end##sentence``, durations in Charades_v1_*.csv.

    A video's lines need not be neighbours; its paragraph stands where its first line does.
    """
    durations_path, durations = _charades_durations(path)
    records: dict[str, Record] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        head, separator, sentence = line.partition("##")
        fields = head.split()
        try:
            video, start, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            separator = ""
        if not separator or len(fields) != 3:
            raise InputError(
                f"{path}: line {number} is {_short(line)}; expected 'video start end##sentence'."
            )
        if video not in durations:
            raise InputError(f"{durations_path}: has no row for {video} ({path} line {number}).")
        record = records.setdefault(video, Record(video, video, durations[video], [], []))
        record.moments.append(_moment([start, end], path, f"{video} (line {number})"))
        record.sentences.append(sentence)
    yield from records.values()


def _from_captions(text: str, path: Path) -> Iterator[Record]:
    """DCIML: lines of ``video#… sentence [start, end] duration``; a video is what stands before
    the first ``#``, and its paragraph stands where its first line does."""
    records: dict[str, Record] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = _CAPTION.fullmatch(line)
        try:
            name, sentence, *numbers = found.groups() if found else ()
            start, end, seconds = map(float, numbers)
        except ValueError:
            raise InputError(
                f"{path}: line {number} is {_short(line)}; "
                f"expected 'sentence-id sentence [start, end] duration'."
            ) from None
        video = name.partition("#")[0]
        place = f"{name} (line {number})"
        duration = _duration(seconds, path, place)
        record = records.setdefault(video, Record(video, video, duration, [], []))
        if record.duration != duration:
            raise InputError(
                f"{path}: {place} has the duration {duration:g}, a line before {record.duration:g}"
            )
        record.moments.append(_moment([start, end], path, place))
        record.sentences.append(sentence)
        record.sentence_ids.append(name)
    yield from records.values()


def _charades_durations(path: Path) -> tuple[Path, dict[str, float]]:
    split = path.stem.rsplit("_", 1)[-1]
    csv_path = path.with_name(f"Charades_v1_{split}.csv")
    if not csv_path.is_file():
        raise InputError(f"{csv_path}: is missing; it holds the durations for {path.name}.")
    durations: dict[str, float] = {}
    try:
        with open_input(csv_path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"id", "length"} <= set(rows.fieldnames or ()):
                raise InputError(
                    f"{csv_path}: the columns are {_short(rows.fieldnames)}, without id, length."
                )
            for row in rows:
                try:
                    length = float(row["length"])
                except (TypeError, ValueError):
                    length = math.nan
                durations[row["id"]] = _duration(length, csv_path, str(row["id"])[:60])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{csv_path}: is not a readable CSV file ({error}).") from None
    return csv_path, durations


def _video_of(key: str) -> str:
    """``s30-d40.avi(2)`` and ``v_x#2`` are paragraphs of ``s30-d40.avi`` and ``v_x``."""
    return re.sub(r"(\(\d+\)|#\d+)$", "", key) or key


def _number(value: Any, path: Path, place: str, what: str) -> float:
    # Compared and not converted: an int may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InputError(f"{path}: {place}: {what} is {_short(value)}; expected a finite number.")
    return float(value)


def _positive(value: Any, path: Path, place: str, what: str) -> float:
    number = _number(value, path, place, what)
    if number <= 0:
        raise InputError(f"{path}: {place}: {what} is {number:g}; expected more than 0.")
    return number


def _duration(value: Any, path: Path, place: str) -> float:
    return _positive(value, path, place, "duration")


def _moment(value: Any, path: Path, place: str) -> tuple[float, float]:
    if value is None:
        return math.nan, math.nan
    if not (isinstance(value, list) and len(value) == 2):
        raise InputError(f"{path}: {place}: moment is {_short(value)}; expected [start, end].")
    return _number(value[0], path, place, "start"), _number(value[1], path, place, "end")


def _sentence(value: Any, path: Path, place: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}: {place}: sentence is {_short(value)}; expected text.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
