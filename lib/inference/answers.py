"""What a search returns, and what can be searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Moment:
    """Where a sentence happens, in seconds from the first frame of its video."""

    sentence: str
    start: float
    end: float
    score: float  # of the span by the model's decoding; higher is better, comparable in one video


@dataclass(frozen=True)
class Hit:
    """A video found, with the moment of each sentence in it, in the order of the sentences."""

    video: str  # its id in the index
    score: float  # how well the paragraph fits it; higher is better, comparable in one answer
    duration: float  # seconds
    moments: tuple[Moment, ...]


@dataclass(frozen=True)
class Answer(Sequence[Hit]):
    """The videos found for a paragraph, best first.

    Attributes:
        sentences: as the paragraph was split.
        unknown_words: words of the paragraph that have no vector; the search did without them.
        seconds: what it took.
    """

    hits: tuple[Hit, ...]
    sentences: tuple[str, ...]
    unknown_words: tuple[str, ...] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]


@dataclass(frozen=True)
class Source:
    """The file of an indexed video.

    Attributes:
        path: as it was when indexed; empty where only features were given.
        start: the time that the container gives the first frame, in seconds. A player's clock
            shows a moment at ``start`` plus the moment's time.
        duration: seconds.
        container: PyAV's name of the format, such as ``mov,mp4,m4a,3gp,3g2,mj2``; empty if unknown.
        size, modified_ns: of the file when indexed, by which a replaced file is noticed.
    """

    path: str
    start: float
    duration: float
    container: str = ""
    size: int = 0
    modified_ns: int = 0


@dataclass(frozen=True)
class ScoreMap:
    """The score of every span that a sentence could have in a video."""

    sentence: str
    spans: Float[np.ndarray, "P 2"] = field(repr=False)  # seconds
    scores: Float[np.ndarray, " P"] = field(repr=False)


class Searchable(Protocol):
    """What the page and the commands ask of an index."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What answers: the run, its model and epoch, the features, the number of videos."""
        ...

    def __len__(self) -> int:
        """Number of videos."""
        ...

    def search(self, paragraph: str | Sequence[str], *, top: int = 10) -> Answer:
        """The best videos for a paragraph, with a moment for each sentence.

        Raises:
            InputError: no words, or more sentences than the model can read.
        """
        ...

    def score_maps(self, video: str, paragraph: str | Sequence[str]) -> tuple[ScoreMap, ...]:
        """The score map of each sentence in one video.

        Raises:
            InputError: there is no such video, or as ``search``.
        """
        ...

    def source(self, video: str) -> Source:
        """The file of a video.

        Raises:
            InputError: there is no such video.
        """
        ...
