"""A searchable index of a few video files, for the page: what it finds is plain to compute."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lib.base.errors import InputError
from lib.inference.answers import Answer, Hit, Moment, ScoreMap, Searchable, Source
from lib.serving import listen
from lib.serving.server import make_server

CLIPS = 16


def source_of(path: Path, duration: float, *, start: float = 0.0, container: str = "mov") -> Source:
    found = path.stat()
    return Source(str(path), start, duration, container, found.st_size, found.st_mtime_ns)


def write_video(path: Path, seconds: int = 12, *, start: int = 0, codec: str = "libx264") -> Path:
    """A film of ten frames a second that grows lighter, whose clock begins at ``start``."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = 20
        for number in range(10 * seconds):
            shade = np.full((96, 128, 3), 40 + 180 * number // (10 * seconds), np.uint8)
            frame = av.VideoFrame.from_ndarray(shade, format="rgb24")
            frame.pts = number + 10 * start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class SmallIndex:
    """Every video fits every paragraph, in the order given.

    Sentence i of S is found in the i-th of S equal parts of a video, without the part's last
    quarter. A word with a digit in it is not known.
    """

    def __init__(self, videos: Mapping[str, Source]) -> None:
        self.videos = dict(videos)
        self.searched: list[str] = []

    @property
    def about(self) -> Mapping[str, Any]:
        return {"run": "save/small", "model": "dmr_jrg", "epoch": 12, "features": "clip ViT-B-32"}

    def __len__(self) -> int:
        return len(self.videos)

    def search(self, paragraph: str | Sequence[str], *, top: int = 10) -> Answer:
        self.searched.append(str(paragraph))
        sentences = self._split(paragraph)
        hits = [
            Hit(video, 0.9 - 0.05 * rank, source.duration, self._moments(sentences, source))
            for rank, (video, source) in enumerate(self.videos.items())
        ]
        unknown = tuple(word for word in str(paragraph).split() if re.search(r"\d", word))
        return Answer(tuple(hits[:top]), tuple(sentences), unknown, 0.01)

    def score_maps(self, video: str, paragraph: str | Sequence[str]) -> tuple[ScoreMap, ...]:
        source = self.source(video)
        first, last = np.triu_indices(CLIPS)
        spans = np.stack([first, last + 1], axis=1) * source.duration / CLIPS
        return tuple(
            ScoreMap(
                moment.sentence,
                spans,
                np.exp(-((spans - (moment.start, moment.end)) ** 2).sum(1) / source.duration),
            )
            for moment in self._moments(self._split(paragraph), source)
        )

    def source(self, video: str) -> Source:
        if video not in self.videos:
            raise InputError(f"{video}: no such video in the index")
        return self.videos[video]

    def _split(self, paragraph: str | Sequence[str]) -> list[str]:
        if not isinstance(paragraph, str):
            return list(paragraph)
        found = [part.strip() for part in re.split(r"(?<=[.!?])\s+", paragraph) if part.strip()]
        if not found:
            raise InputError("the paragraph holds no words")
        return found

    def _moments(self, sentences: Sequence[str], source: Source) -> tuple[Moment, ...]:
        part = source.duration / len(sentences)
        return tuple(
            Moment(sentence, part * number, part * (number + 0.75), 0.5 - 0.01 * number)
            for number, sentence in enumerate(sentences)
        )


def touch_back(path: Path) -> None:
    """Make a file look as if it was written a minute earlier."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - 60 * 10**9))


@contextmanager
def running(index: Searchable, *, around: Callable[[Any], Any] = lambda app: app) -> Iterator[int]:
    """A server of an index in a thread, its application in another if given; its port."""
    with listen("127.0.0.1", "0") as bound:
        server = make_server(index, bound)
        server.config.app = around(server.config.app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
