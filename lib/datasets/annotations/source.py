"""The file that is read: its messages, and the checks of every value in it."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base.errors import InputError
from .keys import NAMES, alternatives, key_of
from .records import Cleaning, Moment, Record

UNKNOWN: Moment = (math.nan, math.nan)
ANNOTATORS = ("times", "ts")  # under these keys several moments are those of several annotators
_SHOWN = 8  # keys named in a message


@dataclass
class Source:
    """An annotation file while it is read.

    Args:
        split: which, where the file holds several; "" = its only one.
        cleaning: where remarks go.
        videos: which alone are asked for, named as videos or as paragraphs; None = all.
    """

    path: Path
    split: str
    cleaning: Cleaning
    videos: Collection[str] | None = None
    ignored: Counter[str] = field(default_factory=Counter)  # keys that are not read

    def fault(self, text: str) -> InputError:
        """The error that begins with the file's name."""
        return InputError(f"{self.path}: {text}")

    def ignore(self, entry: Mapping[Any, Any], used: Iterable[str | None]) -> None:
        """Remember the keys of an entry that were not read."""
        self.ignored.update(key for key in entry.keys() - {*used} if isinstance(key, str))

    def say_ignored(self) -> None:
        if self.ignored:
            self.cleaning.remark(f"keys that are not read: {listed(sorted(self.ignored))}")

    def number(self, value: Any, place: str, what: str) -> float:
        # Compared and not converted: an int may be too large for a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self.fault(f"{place}: {what} is {short(value)}; expected a finite number.")
        return float(value)

    def positive(self, value: Any, place: str, what: str) -> float:
        number = self.number(value, place, what)
        if number <= 0:
            raise self.fault(f"{place}: {what} is {number:g}; expected more than 0.")
        return number

    def moment(self, value: Any, place: str) -> Moment:
        if value is None:
            return UNKNOWN
        if not (isinstance(value, list | tuple) and len(value) == 2):
            raise self.fault(f"{place}: moment is {short(value)}; expected [start, end].")
        return self.number(value[0], place, "start"), self.number(value[1], place, "end")

    def moments(self, value: Any, place: str) -> list[Moment]:
        """All moments of a sentence: of ``[start, end]`` or a list of those."""
        if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
            return [self.moment(one, place) for one in value]
        return [self.moment(value, place)]

    def sentence(self, value: Any, place: str) -> str:
        if not isinstance(value, str):
            raise self.fault(f"{place}: sentence is {short(value)}; expected text.")
        return value

    def name(self, value: Any, place: str, what: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.fault(f"{place}: {what} is {short(value)}; expected a name.")
        try:
            return str(value)
        except ValueError:  # an int of thousands of digits
            raise self.fault(f"{place}: {what} is a number too long; expected a name.") from None

    def duration(self, entry: Mapping[str, Any], place: str) -> tuple[float, float, list[str]]:
        """The duration of an entry in seconds, NaN where it gives none; how many seconds the
        numbers under ``timestamps`` count, and the keys that say so."""
        if (key := key_of(entry, "duration")) is not None:
            return self.positive(entry[key], place, "duration"), 1.0, [key, "fps", "num_frames"]
        frames = ["fps", "num_frames"]
        there = [key for key in frames if key in entry]
        if not there:
            return math.nan, 1.0, []
        if len(there) == 1:
            missing = next(key for key in frames if key not in entry)
            raise self.fault(f"{place} lacks {missing}, which goes with {there[0]}.")
        fps = self.positive(entry["fps"], place, "fps")
        seconds = self.positive(entry["num_frames"], place, "num_frames") / fps
        if not 0 < seconds < math.inf or not 1 / fps < math.inf:
            raise self.fault(f"{place}: num_frames / fps is {seconds:g} s; expected a duration.")
        return seconds, 1 / fps, frames


@dataclass
class Groups:
    """Sentences that come one by one, gathered by video; a paragraph stands where its first
    sentence does, and its sentences are in file order, whether or not they are neighbours."""

    source: Source
    records: dict[str, Record] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)  # of the sentences' ids

    def add(
        self,
        video: str,
        duration: float,
        windows: list[Moment],
        sentence: str,
        *,
        place: str,
        moment: Moment | None = None,
        name: str | None = None,
    ) -> None:
        """One sentence.

        Args:
            windows: all its moments; empty: the file gives none.
            place: for messages, and of a row before it that has the same id.
            moment: the one that counts where one has to; None = the first.
            name: the sentence's id; None: the video's and a number, from 0.
        """
        record = self.records.get(video)
        if record is None:
            record = self.records[video] = Record(video, video, duration, [], [])
        elif record.duration != duration and not (
            math.isnan(duration) and math.isnan(record.duration)
        ):
            raise self.source.fault(
                f"{place} has the duration {duration:g}, a line before {record.duration:g} "
                f"(of {short(video)})."
            )
        name = f"{video}#{len(record.sentences)}" if name is None else name
        if name in self.places:
            raise self.source.fault(f"{place} has the id {short(name)} of {self.places[name]}.")
        self.places[name] = place
        record.moments.append(moment or (windows[0] if windows else UNKNOWN))
        record.windows.append(windows if len(windows) > 1 else [])
        record.sentences.append(sentence)
        record.sentence_ids.append(name)


def most_frequent(windows: list[Moment]) -> Moment:
    """The moment that most annotators gave; of equally frequent ones the first."""
    counts = Counter(windows)
    return max(counts, key=counts.__getitem__)


def lacks(source: Source, entry: Mapping[Any, Any], place: str, what: str) -> InputError:
    """The error for an entry without one of the things that have several names."""
    names = f" ({alternatives(what)})" if len(NAMES[what]) > 1 else ""
    found = listed([key for key in entry if isinstance(key, str)]) or "none"
    return source.fault(f"{place} lacks a {what}{names}; its keys are {found}.")


def listed(names: list[str]) -> str:
    """Some names, for a message."""
    shown = ", ".join(name[:40] for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 80, 80


def short(value: Any) -> str:
    """A value for a message, in at most 60 letters; of a container only the beginning is visited,
    which in a pickle may hold itself."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # an int of thousands of digits
        return "a number too long to print"
    return text if len(text) <= 60 else text[:57] + "..."


def keep_asked(records: list[Record], source: Source) -> list[Record]:
    """The records of the videos that are asked for.

    Raises:
        InputError: there is none of them.
    """
    wanted = source.videos
    if wanted is None:
        return records
    found = [r for r in records if r.video_id in wanted or r.paragraph_id in wanted]
    if not found:
        first = short(records[0].video_id) if records else "none"
        raise source.fault(
            f"describes none of the {len(wanted):,} videos that DATASET.SPLITS lists for "
            f"{source.split}, e.g. {short(next(iter(wanted), ''))}; its first is {first}."
        )
    return found
