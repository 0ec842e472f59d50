"""Small video files, good and damaged, written by PyAV; and a backbone that is quick.

Every picture shows its number as eight bars, black or white, so that a test can tell which one it
was given, whatever the compression.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import nn

from lib.base.recipe import Recipe
from lib.videos.backbones import Backbone, Options

WIDTH, HEIGHT = 64, 48
MS = Fraction(1, 1000)
TINY = f"{__file__}:build"  # the reference by which the command line knows the backbone below


def bars(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """The picture of a number below 256, with something that moves in its lower third."""
    bits = [number >> bit & 1 for bit in range(8)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 20, width // 8)
    picture = np.repeat(np.tile(row, (height, 1))[:, :, None], 3, axis=2)
    picture[2 * height // 3 :, :, number % 3] = (np.arange(width) * 3 + 11 * number) % 200
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number that a picture shows, at whatever size."""
    height, width = picture.shape[:2]
    row = picture[height // 4].mean(axis=1)
    places = (np.arange(8) + 0.5) * width / 8
    return sum(int(row[int(place)] > 120) << bit for bit, place in enumerate(places))


def write_video(
    path: Path,
    times: Sequence[Fraction] | None = None,
    *,
    count: int = 24,
    fps: int = 8,
    codec: str = "libx264",
    rotation: int = 0,
    aspect: Fraction | None = None,
    sound: float = 0,
    faststart: bool = False,
    first: int = 0,
) -> Path:
    """A video of ``count`` pictures at a rate, or of one picture at each of the given times.

    A key frame comes every eight pictures. ``sound`` adds seconds of silence.
    """
    times = times or [Fraction(number, fps) for number in range(count)]
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = MS
        stream.codec_context.gop_size = 8
        stream.codec_context.max_b_frames = 0
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "10", "x264-params": "scenecut=0"}
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        heard = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(bars(first + number), format="rgb24")
            frame.pts, frame.time_base = round(time / MS), MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard is not None:
            write_silence(container, heard, sound)
    return path


def write_silence(container: Any, stream: Any, seconds: float) -> None:
    for start in range(0, int(8000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def copy_from(source: Path, target: Path, seconds: Fraction) -> Path:
    """What follows a key frame's time, its packets unchanged."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None and packet.pts * packet.time_base >= seconds:
                packet.stream = stream
                new.mux(packet)
    return target


def half(path: Path, source: Path, share: float = 0.5) -> Path:
    """The first bytes of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def _only_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        write_silence(container, container.add_stream("aac", rate=8000, layout="mono"), 2)


def _picture(path: Path) -> None:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(1), format="rgb24")))
        container.mux(stream.encode())


def _huge(path: Path) -> None:
    """One picture whose head says 16,000 x 16,000."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=1)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(1), format="bgr24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 12
    data[place : place + 8] = (16_000).to_bytes(4, "little") * 2
    path.write_bytes(data)


def _flipped(path: Path) -> None:
    data = bytearray(write_video(path, count=200, faststart=True).read_bytes())
    places = np.random.default_rng(0).integers(len(data) // 2, len(data) - 1, 3000)
    for place in places:
        data[place] ^= 0xFF
    path.write_bytes(data)


def _half_of(**settings: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        source = write_video(path.with_name(f"whole{path.suffix}"), count=80, **settings)
        half(path, source)
        source.unlink()

    return write


# Files that are no whole videos: the name of each, how it is made, and what is said of it.
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty.mp4": (lambda path: path.touch(), "is empty (0 bytes)"),
    "text.mp4": (lambda path: path.write_text("no video\n" * 99), "begins with 'no video"),
    "noise.mp4": (lambda path: path.write_bytes(bytes(4096)), "is no video file"),
    "sound.mp4": (_only_sound, "holds sound; expected a picture"),
    "picture.mp4": (_picture, "is of the format png_pipe, and not a video file"),
    "huge.mp4": (_huge, "its pictures are 16,000 x 16,000 pixels; expected at most"),
    "half_end.mp4": (_half_of(), "begins as an mp4 file does, but cannot be opened"),
    "half_front.mp4": (_half_of(faststart=True), "of 10.0 s (Invalid data"),
    "half.mkv": (_half_of(), "the picture ends at"),
    "flipped.mp4": (_flipped, "Invalid data"),
    "dangling.mp4": (lambda path: path.symlink_to("nowhere.mp4"), "a link that leads nowhere"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "is not a file"),
}


class TinyNet(nn.Module):
    """A convolution, an average and a linear layer, of seeded weights."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, (min(frames, 4), 8, 8), (2, 8, 8))
        self.out = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(x).relu().mean((2, 3, 4)))


def build(name: str, options: Options) -> Backbone:
    """A backbone as one from outside is written: 8 frames a window, a row every half second."""
    chosen = options.over(name, weights=None, rate="8/1", frames=8, stride=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TinyNet(chosen.frames)
    recipe = Recipe(
        backbone=name,
        weights="seed 0",
        weights_sha256="0" * 64,
        rate=chosen.rate,
        frames=chosen.frames,
        stride=chosen.stride,
        resize="short 40",
        crop="centre 32x32",
        interpolation="bilinear",
        channels="rgb",
        scale="1/255",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        tap="out",
        width=6,
    )
    return Backbone(recipe, network)
