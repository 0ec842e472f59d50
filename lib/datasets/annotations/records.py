"""What is read from annotation files, before and after cleaning, and how much of it at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ...base.terminal import count, shown_path

# A batch is padded to its longest paragraph and its longest sentence. (TACoS has paragraphs of 230
# sentences, ActivityNet Captions sentences of 82 words and 450 letters.)
MOST_SENTENCES, MOST_WORDS, MOST_LETTERS = 1_000, 500, 20_000
# What reading a file may change, as it is counted and logged; others look these up.
EMPTY_DROPPED = "sentences with an empty moment dropped"
WORDLESS = "sentences without a word dropped"
CLIPPED = "moments clipped to the video"
SORTED = "paragraphs sorted by time"
TOO_SHORT = "paragraphs under {} sentences dropped"
_EXAMPLES = 3  # of each repair, kept for the log


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
    remarks: list[str] = field(default_factory=list)  # how the file was read, each said once

    def note(self, what: str, example: str) -> None:
        """Count one repair and keep its place if it is among the first."""
        self.counts[what] += 1
        if self.counts[what] <= _EXAMPLES:
            self.examples.setdefault(what, []).append(example)

    def remark(self, text: str) -> None:
        """Say how the file was read, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def lines(self) -> list[str]:
        """The report: one line for the file, for each remark and for each kind of repair."""
        head = (
            f"{shown_path(self.path)}: {count(self.paragraphs, 'paragraph')} of "
            f"{count(self.videos, 'video')}, {self.sentences:,} of "
            f"{count(self.sentences_read, 'sentence')} kept"
        )
        return [
            head,
            *(f"  {remark}" for remark in self.remarks),
            *(
                f"  {what}: {number:,} (e.g. {'; '.join(self.examples[what])})"
                for what, number in sorted(self.counts.items())
            ),
        ]


Moment = tuple[float, float]


@dataclass
class Record:
    """Sentences of one video as they stand in the file, in seconds."""

    paragraph_id: str
    video_id: str
    duration: float
    moments: list[Moment]  # NaN where the file gives none
    sentences: list[str]
    sentence_ids: list[str] = field(default_factory=list)  # empty: the file gives them none
    # All moments of each sentence, those of it alone left out; empty: no sentence has several
    windows: list[list[Moment]] = field(default_factory=list)

    def part(self, indices: Iterable[int]) -> Record:
        """The same paragraph with these of its sentences, in this order."""
        indices = list(indices)
        return Record(
            self.paragraph_id,
            self.video_id,
            self.duration,
            [self.moments[i] for i in indices],
            [self.sentences[i] for i in indices],
            [self.sentence_ids[i] for i in indices] if self.sentence_ids else [],
            [self.windows[i] for i in indices] if self.windows else [],
        )
