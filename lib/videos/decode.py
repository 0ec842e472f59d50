"""A video file -> frames at the times of a clock, by PyAV. Knows neither Torch nor networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .errors import BrokenVideo
from .optional import optional
from .picture import Picture

# PyAV's names of the containers that are read. What FFmpeg reads beyond them are pictures, texts,
# lists of other files and streams without a clock.
CONTAINERS = frozenset(
    {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg"}
)
_MOST_PIXELS = 2**26  # twice those of an 8K picture
_STARTS = {b"ftyp": "an mp4", b"moov": "an mp4", b"\x1aE\xdf\xa3": "a Matroska or WebM"}


@dataclass(frozen=True)
class VideoInfo:
    """What the head of a file says; only decoding shows whether it is true.

    Attributes:
        container: PyAV's name of the format, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: of the picture.
        width, height: as stored; a rotation or pixels that are not square come on top.
        duration: seconds of the picture, 0 where the head does not say.
        fps: frames per second, on average; 0 likewise.
    """

    container: str
    codec: str
    width: int
    height: int
    duration: float
    fps: float


@dataclass(frozen=True)
class Decoded:
    """What decoding to the end found.

    Attributes:
        start: the container's time of the first frame, in seconds.
        duration: seconds from the first frame to the end of the last.
        fps: frames per second, on average.
        frames: that were decoded and have a time.
        frames_without_pts: that have none, and were left out.
        frames_corrupt: that the decoder made up in part.
        rotation: degrees counter-clockwise that the frames were turned.
        ends_early: why the file is not whole, with the seconds that are there; empty if it is.
    """

    start: float
    duration: float
    fps: float
    frames: int
    frames_without_pts: int
    frames_corrupt: int
    rotation: int
    ends_early: str


class Video:
    """An open video file.

    Attributes:
        info: what its head says.
        decoded: what was found, once ``sampled`` has come to the end.

    Raises:
        BrokenVideo: it cannot be opened, is no video, or larger than a video is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decoded: Decoded | None = None
        self._av = optional("av", "av", "reading videos")
        self._container = self._open()
        try:
            self._stream = self._picture_stream()
            self.info = self._info()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def sampled(
        self, rate: Fraction | None, picture: Picture, *, first: int = 0
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The frames that a clock shows, prepared.

        The clock starts at the first frame and ticks ``rate`` times a second up to the last one; at
        a tick it shows the last frame that is not later. Times are compared as exact fractions. A
        frame without a time, or earlier than the one before it, is left out.

        Args:
            rate: ticks per second; None = a tick at each frame.
            first: the tick to begin with; the frames of those before are decoded but not prepared.

        Raises:
            BrokenVideo: there is no frame. A file that ends early is no error here: ``decoded``
                says so.
        """
        self.decoded = None
        clock = _Clock()
        tick = 0
        shown: Any = None  # the last frame, and what was made of it
        made: UInt8[np.ndarray, "H W 3"] | None = None
        reason = ""
        try:
            for frame in self._container.decode(self._stream):
                if not clock.takes(frame):
                    continue
                if rate is None:
                    if tick >= first:
                        yield picture.pixels(frame, self._aspect)
                    tick += 1
                    continue
                while shown is not None and tick < clock.elapsed * rate:
                    if tick >= first:
                        made = picture.pixels(shown, self._aspect) if made is None else made
                        yield made
                    tick += 1
                shown, made = frame, None
            while shown is not None and rate is not None and tick <= clock.elapsed * rate:
                if tick >= first:
                    made = picture.pixels(shown, self._aspect) if made is None else made
                    yield made
                tick += 1
        except self._faults as fault:
            reason = _said(fault)
        self.decoded = self._found(clock, reason)

    @property
    def _faults(self) -> tuple[type[BaseException], ...]:
        return (self._av.error.FFmpegError, OSError, ValueError)

    @property
    def _aspect(self) -> float:
        """How much wider a pixel is shown than high. Ratios such as 406/405, which a resize to
        whole pixels leaves behind, count as 1: few extractors heed them, and rows depend on it."""
        aspect = float(self._stream.sample_aspect_ratio or 1)
        return aspect if 0.1 < aspect < 10 and abs(aspect - 1) > 0.01 else 1.0

    def _open(self) -> Any:
        path = self.path
        if path.is_symlink() and not path.exists():
            raise BrokenVideo(f"{path}: is a link that leads nowhere.")
        if not path.exists():
            raise BrokenVideo(f"{path}: there is no such file.")
        if not path.is_file():
            raise BrokenVideo(f"{path}: is not a file; expected a video file.")
        try:
            with path.open("rb") as file:
                head = file.read(64)
        except OSError as fault:
            raise BrokenVideo(f"{path}: cannot be read ({fault.strerror}).") from None
        if not head:
            raise BrokenVideo(f"{path}: is empty (0 bytes).")
        try:
            # A plain local file, whatever its name looks like, and nothing that it refers to.
            return self._av.open(f"file:{path}", options={"protocol_whitelist": "file"})
        except self._faults as fault:
            known = _STARTS.get(head[4:8]) or _STARTS.get(head[:4])
            what = (
                f"begins as {known} file does, but cannot be opened; is it complete?"
                if known
                else f"is no video file, or a damaged one: it begins with {_shown(head)}"
            )
            raise BrokenVideo(f"{path}: {what} ({_said(fault)}).") from None

    def _picture_stream(self) -> Any:
        name = self._container.format.name
        if name not in CONTAINERS:
            raise BrokenVideo(f"{self.path}: is of the format {name}, and not a video file.")
        covers = self._av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & covers]
        if not streams:
            sound = "sound" if self._container.streams.audio else "neither picture nor sound"
            raise BrokenVideo(f"{self.path}: holds {sound}; expected a picture.")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise BrokenVideo(f"{self.path}: its picture is in a code that cannot be decoded.")
        if context.width * context.height > _MOST_PIXELS:
            raise BrokenVideo(
                f"{self.path}: its pictures are {context.width:,} x {context.height:,} pixels; "
                f"expected at most {_MOST_PIXELS:,} pixels."
            )
        context.thread_count = 1  # files are decoded side by side instead
        return stream

    def _info(self) -> VideoInfo:
        context = self._stream.codec_context
        return VideoInfo(
            container=self._container.format.name,
            codec=context.name,
            width=context.width,
            height=context.height,
            duration=self._header_seconds(),
            fps=float(self._stream.average_rate or 0),
        )

    def _header_seconds(self) -> float:
        """How long the picture is by the file's head; 0 if it does not say."""
        stream, container = self._stream, self._container
        start = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
        if stream.duration:
            return float(stream.duration * stream.time_base)
        ends = _clock_seconds(stream.metadata.get("DURATION", ""))  # Matroska: from zero
        if ends:
            return max(0.0, ends - max(start, 0.0))
        if container.duration and len(container.streams) == 1:  # sound may go on for longer
            return float(container.duration / self._av.time_base)
        return 0.0

    def _found(self, clock: _Clock, reason: str) -> Decoded:
        if not clock.frames:
            why = (
                f"none of its {clock.without_pts} pictures has a time stamp"
                if clock.without_pts
                else "holds no picture that can be decoded"
            )
            raise BrokenVideo(f"{self.path}: {why}{f' ({reason})' if reason else ''}.")
        duration = float(clock.elapsed + clock.last_step(self._stream.average_rate))
        promised = self.info.duration
        if promised - duration > max(1.0, 0.02 * promised):
            said = f"the picture ends at {duration:.1f} of {promised:.1f} s"
            reason = f"{said} ({reason})" if reason else said
        elif reason:
            reason = f"the picture cannot be decoded beyond {duration:.1f} s ({reason})"
        return Decoded(
            start=float(clock.start),
            duration=duration,
            fps=clock.frames / duration,
            frames=clock.frames,
            frames_without_pts=clock.without_pts,
            frames_corrupt=clock.corrupt,
            rotation=clock.rotation,
            ends_early=reason,
        )


class _Clock:
    """The times of a file's frames so far."""

    def __init__(self) -> None:
        self.frames = self.without_pts = self.corrupt = self.rotation = 0
        self.start = self.elapsed = Fraction(0)  # elapsed: from the first frame to the last
        self._steps: Counter[Fraction] = Counter()

    def takes(self, frame: Any) -> bool:
        """Count a frame; whether it can be used."""
        if frame.pts is None or frame.time_base is None:
            self.without_pts += 1
            return False
        now = frame.pts * Fraction(frame.time_base)
        if not self.frames:
            self.start = now
            self.rotation = round(frame.rotation / 90) % 4 * 90
        elif now - self.start < self.elapsed:
            return False
        else:
            self._steps[now - self.start - self.elapsed] += 1
            self.elapsed = now - self.start
        self.frames += 1
        self.corrupt += bool(frame.is_corrupt)
        return True

    def last_step(self, average_rate: Fraction | None) -> Fraction:
        """How long the last frame is shown: the median step, or by the rate for a single frame."""
        seen = 0
        for step, count in sorted(self._steps.items()):
            seen += count
            if step and 2 * seen >= self._steps.total():
                return step
        return 1 / Fraction(average_rate) if average_rate else Fraction(1, 25)


def _clock_seconds(text: str) -> float:
    """``00:00:14.558000000`` as seconds; 0 for anything else."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _said(fault: BaseException) -> str:
    return getattr(fault, "strerror", None) or str(fault) or type(fault).__name__


def _shown(head: bytes) -> str:
    text = head[:24].decode("latin-1")
    return repr(text) if " ".join(text.split()).isprintable() else "bytes " + head[:8].hex(" ")
