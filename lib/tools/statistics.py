"""Counts of faults and repetitions in annotations as read from their file, without repairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..base.clipping import ROUNDING, clip_moment
from ..datasets.annotations import Record


@dataclass
class Timestamps:
    """Counts of a split's moments and paragraphs by what is wrong with their times."""

    sentences: int = 0
    paragraphs: int = 0
    untimed: int = 0  # sentences whose moment the file does not give
    start_past_end: int = 0  # start >= end
    end_past_duration: int = 0
    end_past_duration_by_a_second: int = 0
    start_past_duration: int = 0
    start_below_zero: int = 0
    empty_after_clipping: int = 0  # to [0, duration]
    paragraphs_with_start_past_end: int = 0
    sentences_of_those: int = 0
    unsorted_paragraphs: int = 0  # by start
    paragraphs_with_equal_moments: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)  # the first four of a kind

    def note(self, kind: str, example: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        examples = self.examples.setdefault(kind, [])
        if len(examples) < 4:
            examples.append(example)


def timestamps(records: Sequence[Record]) -> Timestamps:
    """Count over a split."""
    counts = Timestamps(paragraphs=len(records))
    for record in records:
        counts.sentences += len(record.sentences)
        moments = [moment for moment in record.moments if not math.isnan(moment[0])]
        counts.untimed += len(record.moments) - len(moments)
        for start, end in moments:
            low, high, _ = clip_moment(start, end, record.duration)
            example = f"{record.video_id} [{start:g}, {end:g}] of {record.duration:g} s"
            faults = {
                "start_past_end": start >= end,
                "end_past_duration": end > record.duration + ROUNDING,
                "end_past_duration_by_a_second": end > record.duration + 1,
                "start_past_duration": start >= record.duration,
                "start_below_zero": start < -ROUNDING,
                "empty_after_clipping": low >= high,
            }
            for kind, wrong in faults.items():
                if wrong:
                    counts.note(kind, example)
        starts = [start for start, _ in moments]
        if any(start >= end for start, end in moments):
            counts.note("paragraphs_with_start_past_end", record.paragraph_id)
            counts.sentences_of_those += len(record.sentences)
        if starts != sorted(starts):
            counts.note("unsorted_paragraphs", record.paragraph_id)
        if len(set(moments)) < len(moments):
            counts.note("paragraphs_with_equal_moments", record.paragraph_id)
    return counts


@dataclass(frozen=True)
class Repeats:
    """How often the texts of a split recur; letters' case and spaces do not count."""

    sentences: int
    distinct: int
    repeated: int  # sentences whose text occurs more than once
    paragraphs_with_repeat: int
    surplus_paragraphs: int  # paragraphs equal to an earlier one
    most_repeated: tuple[str, int]

    @property
    def surplus(self) -> int:
        """Copies beyond the first of each text."""
        return self.sentences - self.distinct


def repeats(records: Sequence[Record]) -> Repeats:
    """Count over a split."""
    paragraphs = [tuple(map(plain, record.sentences)) for record in records]
    counts = Counter(text for paragraph in paragraphs for text in paragraph)
    return Repeats(
        sentences=counts.total(),
        distinct=len(counts),
        repeated=sum(count for count in counts.values() if count > 1),
        paragraphs_with_repeat=sum(len(set(p)) < len(p) for p in paragraphs),
        surplus_paragraphs=len(paragraphs) - len(set(paragraphs)),
        most_repeated=max(counts.items(), key=lambda item: item[1], default=("", 0)),
    )


@dataclass(frozen=True)
class Shared:
    """What two splits have in common."""

    videos: int
    of_videos: int  # in the second
    sentences: int  # of the second whose text is in the first
    of_sentences: int


def shared(first: Sequence[Record], second: Sequence[Record]) -> Shared:
    """Count over a pair of splits."""
    videos = {record.video_id for record in second}
    known = {plain(sentence) for record in first for sentence in record.sentences}
    seen = [plain(sentence) in known for record in second for sentence in record.sentences]
    return Shared(
        videos=len(videos & {record.video_id for record in first}),
        of_videos=len(videos),
        sentences=sum(seen),
        of_sentences=len(seen),
    )


def plain(sentence: str) -> str:
    """Lower case, single spaces."""
    return " ".join(sentence.lower().split())
