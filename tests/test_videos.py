"""Video files to frames: the clock, turned and odd pictures, and files that are none."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("av")

from lib.base.errors import InputError
from lib.videos.child import HEAD
from lib.videos.decode import Video, _Clock
from lib.videos.errors import BrokenVideo
from lib.videos.optional import optional
from lib.videos.picture import Picture, bilinear
from lib.videos.reader import _CHILD, FrameStream, probe
from tests.video_files import BROKEN, HEIGHT, WIDTH, number_of, write_video

PLAIN = Picture(f"{WIDTH}x{HEIGHT}", f"centre {WIDTH}x{HEIGHT}", "bilinear")
# Frames that fall on ticks, between them, and none for a while.
UNEVEN = [Fraction(x, 1000) for x in (0, 40, 100, 250, 251, 500, 980, 1000, 1750, 2600, 2990)]


def shown(path: Path, rate: Fraction | None, **options: int) -> tuple[list[int], Video]:
    with Video(path) as video:
        return [number_of(pixels) for pixels in video.sampled(rate, PLAIN, **options)], video


def clock(times: list[Fraction], rate: Fraction) -> list[int]:
    """The rule: at tick i, the last frame that is not later, up to the last frame."""
    ticks = range(int(times[-1] * rate) + 1)
    return [max(n for n, time in enumerate(times) if time <= i / rate) for i in ticks]


@pytest.mark.parametrize("rate", [Fraction(1), Fraction(4), Fraction(10), Fraction(30000, 1001)])
def test_uneven_frames_are_sampled_by_their_times(tmp_path, rate):
    numbers, video = shown(write_video(tmp_path / "a.mp4", UNEVEN), rate)
    assert numbers == clock(UNEVEN, rate)
    assert video.decoded is not None
    assert video.decoded.duration == pytest.approx(2.99 + 0.15)  # and the median step
    assert video.decoded.frames == len(UNEVEN)


def test_at_the_container_s_rate_each_frame_comes_once(tmp_path):
    numbers, _ = shown(write_video(tmp_path / "a.mp4", UNEVEN), None)
    assert numbers == list(range(len(UNEVEN)))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("start", [0, 100])
def test_a_clock_starts_at_the_first_frame_wherever_the_container_s_does(tmp_path, suffix, start):
    times = [start + Fraction(n, 8) for n in range(20)]
    numbers, video = shown(write_video(tmp_path / f"a.{suffix}", times), Fraction(4))
    assert numbers == list(range(0, 20, 2)) and video.decoded is not None
    assert video.decoded.start == pytest.approx(start, abs=1.5)
    assert (video.decoded.duration, video.decoded.ends_early) == (2.5, "")


def test_the_first_ticks_can_be_left_out(tmp_path):
    path = write_video(tmp_path / "a.mp4", UNEVEN)
    for rate in (Fraction(10), None):
        all_numbers, whole = shown(path, rate)
        numbers, video = shown(path, rate, first=7)
        assert numbers == all_numbers[7:] and video.decoded == whole.decoded


def test_sound_that_goes_on_is_no_early_end(tmp_path):
    for suffix in ("mp4", "mkv", "ts"):
        path = write_video(tmp_path / f"a.{suffix}", count=8, sound=6)
        _, video = shown(path, Fraction(1))
        assert video.decoded is not None and video.decoded.ends_early == ""


def test_one_frame_is_one_row(tmp_path):
    numbers, video = shown(write_video(tmp_path / "a.mp4", count=1), Fraction(1))
    assert numbers == [0] and video.decoded is not None and video.decoded.duration > 0


def test_frames_without_a_time_or_out_of_order_are_left_out():
    times = _Clock()
    frames = [
        SimpleNamespace(pts=pts, time_base=Fraction(1, 10), rotation=0, is_corrupt=False)
        for pts in (None, -6, -4, -5, None, 2)
    ]
    assert [times.takes(frame) for frame in frames] == [False, True, True, False, False, True]
    assert (times.start, times.elapsed, times.without_pts) == (Fraction(-3, 5), Fraction(4, 5), 2)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_video_is_turned(tmp_path, rotation):
    picture = Picture("short 24", "centre 24x24", "bilinear")
    plain = write_video(tmp_path / "a.mp4", count=4)
    turned = write_video(tmp_path / "b.mp4", count=4, rotation=rotation)
    with Video(plain) as one, Video(turned) as other:
        pairs = zip(one.sampled(None, picture), other.sampled(None, picture), strict=True)
        for left, right in pairs:
            np.testing.assert_array_equal(np.rot90(left, k=rotation // 90), right)
    assert other.decoded is not None and other.decoded.rotation == rotation


def test_pixels_that_are_not_square(tmp_path):
    path = write_video(tmp_path / "a.mp4", count=1, aspect=Fraction(2))
    middle = Picture("short 24", "centre 24x24", "bilinear")
    with Video(path) as video:
        (pixels,) = video.sampled(None, middle)
    full = np.stack(list(_whole(path)))[0]
    np.testing.assert_array_equal(pixels, bilinear(full, 64, 24)[:, 20:44])


def test_the_aspect_that_a_resize_leaves_behind_counts_for_nothing(tmp_path):
    picture = Picture("short 40", "centre 32x32", "bilinear")
    made = []
    for name, aspect in (("a.mp4", None), ("b.mp4", Fraction(406, 405))):
        with Video(write_video(tmp_path / name, count=1, aspect=aspect)) as video:
            made += list(video.sampled(None, picture))
    np.testing.assert_array_equal(made[0], made[1])


def _whole(path: Path):
    with Video(path) as video:
        yield from video.sampled(None, PLAIN)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (171, 128), (341, 256), (398, 224)])
def test_bilinear_is_what_torchvision_computes(size):
    pixels = np.random.default_rng(0).integers(0, 256, (270, 480, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    wanted = functional.interpolate(tensor, size=size[::-1], mode="bilinear").round()
    made = torch.from_numpy(bilinear(pixels, *size)).permute(2, 0, 1)[None].float()
    assert (made - wanted).abs().max() <= 1
    assert (made != wanted).float().mean() < 1e-3  # sums that end near a half


@pytest.mark.parametrize("interpolation", ["bilinear", "pillow bicubic"])
def test_each_interpolation_keeps_the_picture(tmp_path, interpolation):
    path = write_video(tmp_path / "a.mp4", count=9)
    with Video(path) as video:
        picture = Picture("96x72", "80x60+8+6", interpolation)
        shapes = {pixels.shape for pixels in video.sampled(None, picture)}
    assert shapes == {(60, 80, 3)}
    with Video(path) as video:
        picture = Picture("96x72", "96x72+0+0", interpolation)
        assert [number_of(x) for x in video.sampled(None, picture)] == list(range(9))


@pytest.mark.parametrize(
    "words",
    [
        ("256", "centre 224x224", "bilinear"),
        ("short 256", "224", "bilinear"),
        ("short 256", "centre 224x224", "nearest"),
        ("short 200", "centre 224x224", "bilinear"),
        ("171x128", "112x112+60+8", "bilinear"),
        ("171x128", "0x112+0+8", "bilinear"),
    ],
)
def test_pictures_that_cannot_be_made_are_refused(words):
    with pytest.raises(InputError):
        Picture(*words)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence(tmp_path, name):
    write, said = BROKEN[name]
    path = tmp_path / name
    write(path)
    reason = ""
    try:
        with Video(path) as video:
            assert sum(1 for _ in video.sampled(Fraction(8), PLAIN)) > 8
        assert video.decoded is not None
        reason = video.decoded.ends_early
        assert bool(video.decoded.frames_corrupt) == (name == "flipped.mp4")
    except BrokenVideo as error:
        reason = str(error)
        assert reason.startswith(f"{path}: ") and reason.endswith(".")
    assert said in reason and "\n" not in reason


def test_a_file_is_probed_in_a_process_of_its_own(tmp_path):
    info = probe(write_video(tmp_path / "a.mkv"))
    assert (info.container, info.codec) == ("matroska,webm", "h264")
    assert (info.width, info.height, info.duration) == (WIDTH, HEIGHT, 3.0)
    with pytest.raises(BrokenVideo, match=r"text.mp4: is no video file"):
        (tmp_path / "text.mp4").write_text("no video")
        probe(tmp_path / "text.mp4")


def test_names_are_never_read_as_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", count=3).rename("concat:a b.mp4|c'%d.mp4")
    with FrameStream(Path("concat:a b.mp4|c'%d.mp4"), None, PLAIN) as stream:
        assert [number_of(pixels) for pixels in stream.frames()] == [0, 1, 2]


def test_frames_of_another_process_are_those_of_this_one(tmp_path):
    path = write_video(tmp_path / "a.mp4", UNEVEN)
    with FrameStream(path, Fraction(10), PLAIN, first=3) as stream, Video(path) as video:
        here = list(video.sampled(Fraction(10), PLAIN, first=3))
        np.testing.assert_array_equal(np.stack(list(stream.frames())), np.stack(here))
    assert stream.decoded == video.decoded and stream.info == video.info


def test_a_decoder_that_dies_is_a_broken_video(tmp_path):
    with FrameStream(write_video(tmp_path / "a.mp4", count=250), None, PLAIN) as stream:
        frames = stream.frames()
        next(frames)
        stream._process.kill()
        with pytest.raises(BrokenVideo, match=r"ended the decoder's process \(status -9\)"):
            list(frames)


def test_a_decoder_that_cannot_start_is_no_fault_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.videos.reader._CHILD", "import no_such_module")
    with pytest.raises(RuntimeError, match="No module named 'no_such_module'"):
        probe(write_video(tmp_path / "a.mp4", count=3))


def test_a_decoder_has_bounded_memory(tmp_path):
    """With 16 MiB more than it starts with, no picture of 67 million pixels can be made."""
    path = write_video(tmp_path / "a.mp4", count=3)
    request = {"path": str(path), "decode": True, "rate": "", "first": 0}
    request |= {"resize": "8000x8000", "crop": "centre 8x8", "interpolation": "bilinear"}
    bounded = _CHILD.replace(
        "main()", "import lib.videos.child as c; c._MOST_MEMORY = 2**24; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", bounded],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    messages = io.BytesIO(ended.stdout)
    kinds = {}
    while head := messages.read(HEAD.size):
        kind, size = HEAD.unpack(head)
        kinds[kind] = messages.read(size).decode()
    assert b"I" in kinds and b"F" not in kinds and b"X" not in kinds, kinds


def test_without_pyav_the_command_that_helps_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="reading videos needs av: pip install av"):
        optional("av", "av", "reading videos")
