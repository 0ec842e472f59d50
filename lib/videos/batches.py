"""Many video files -> batches of windows, decoded side by side."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..base.recipe import Recipe
from .decode import Decoded, VideoInfo
from .errors import BrokenVideo
from .picture import Picture
from .reader import FrameStream

Pixels = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Job:
    """A video to be decoded.

    Attributes:
        id: of the video.
        first: the window to begin with; those before it are there already.
    """

    id: str
    path: Path
    first: int = 0


@dataclass(frozen=True)
class Batch:
    """Some windows of a video; in a video's last batch the rest of the places is black."""

    job: Job
    info: VideoInfo
    windows: UInt8[np.ndarray, "B T H W 3"]
    count: int  # places that are taken


@dataclass(frozen=True)
class Finished:
    """The last window of a video has been handed out."""

    job: Job
    info: VideoInfo
    decoded: Decoded


@dataclass(frozen=True)
class Failed:
    """A video cannot be used."""

    job: Job
    error: BrokenVideo


def windows(
    frames: Iterable[Pixels], *, length: int, stride: int, pad: bool = True
) -> Iterator[list[Pixels]]:
    """Windows of consecutive frames. An incomplete last one is dropped, but for a video that is
    shorter than a window: its last frame is repeated then.

    Args:
        pad: whether to do so.
    """
    held: list[Pixels] = []
    passed_over = 0
    any_yet = not pad
    for frame in frames:
        if passed_over:
            passed_over -= 1
            continue
        held.append(frame)
        if len(held) == length:
            yield list(held)
            any_yet = True
            passed_over = max(0, stride - length)
            del held[:stride]
    if held and not any_yet:
        yield held + held[-1:] * (length - len(held))


def decoded_batches(
    jobs: Sequence[Job], recipe: Recipe, *, size: int, decoders: int
) -> Generator[Batch | Finished | Failed, None, None]:
    """The batches of all videos, in the order in which they are ready; those of one video are in
    its order, and always of the same windows.

    As many files as there are decoders are read at a time, each by a process; each holds at most
    two batches, so that a slow network makes the decoders wait.

    Raises:
        InputError: PyAV is not installed.
    """
    decoding = _Decoding(jobs, recipe, size, decoders)
    try:
        yield from decoding
    finally:
        decoding.stop()


class _Decoding:
    def __init__(self, jobs: Sequence[Job], recipe: Recipe, size: int, decoders: int) -> None:
        self._jobs = iter(jobs)
        self._left = len(jobs)
        self._recipe = recipe
        self._size = size
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=decoders)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(decoders, len(jobs)))
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[Batch | Finished | Failed]:
        while self._left:
            item = self._ready.get()
            if isinstance(item, BaseException):
                raise item
            self._left -= not isinstance(item, Batch)
            yield item

    def stop(self) -> None:
        """End all processes and threads."""
        self._stopped.set()
        for thread in self._threads:
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    self._ready.get_nowait()
                thread.join(0.05)

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                job = next(self._jobs, None)
            if job is None:
                return
            try:
                for item in self._decode(job):
                    self._ready.put(item)
                    if self._stopped.is_set():
                        return
            except BrokenVideo as error:
                self._ready.put(Failed(job, error))
            except BaseException as fault:
                self._ready.put(fault)
                return

    def _decode(self, job: Job) -> Iterator[Batch | Finished]:
        recipe, size = self._recipe, self._size
        picture = Picture.of(recipe)
        first = job.first * recipe.stride
        with FrameStream(job.path, recipe.frames_per_second, picture, first=first) as stream:
            shape = (size, recipe.frames, *picture.shape, 3)
            all_windows = windows(
                stream.frames(), length=recipe.frames, stride=recipe.stride, pad=not job.first
            )
            while taken := list(itertools.islice(all_windows, size)):
                # Of a fixed shape, on which the bits of a row depend.
                array = np.zeros(shape, dtype=np.uint8)
                for place, window in enumerate(taken):
                    for number, frame in enumerate(window):
                        array[place, number] = frame
                yield Batch(job, stream.info, array, len(taken))
            assert stream.decoded is not None
            yield Finished(job, stream.info, stream.decoded)
