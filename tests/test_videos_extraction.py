"""Videos to a feature file: values, broken files, second calls, kills."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("av")

from lib.base.errors import InputError
from lib.base.external import load_object
from lib.base.recipe import MADE_BY, recipe_of, times_of
from lib.base.runtime import Runtime
from lib.datasets.features import FeatureFile
from lib.videos import parts as parts_module
from lib.videos.backbones import Backbone, Options, load_backbone, open_backbone
from lib.videos.batches import Batch, Job, decoded_batches, windows
from lib.videos.decode import Video
from lib.videos.extract import Extracted, extract, find_videos
from lib.videos.picture import Picture
from tests.runs import Process, run
from tests.video_files import BROKEN, TINY, bars, copy_from, half, write_video

CPU = Runtime(torch.device("cpu"))


def extracted(paths: Path | list[Path], out: Path, **options: Any) -> Extracted:
    backbone = options.pop("backbone", None) or load_backbone(TINY)
    paths = paths if isinstance(paths, list) else [paths]
    settings: dict[str, Any] = {"runtime": CPU, "batch": 4, "decoders": 2, "dtype": "float32"}
    return extract(paths, backbone, out, **settings | {"log": lambda line: None} | options)


def rows_of(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {video: node[()] for video, node in file.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three videos of 3, 5 and 0.5 seconds at eight frames a second."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", count=24)
    (videos / "deeper").mkdir()
    write_video(videos / "deeper" / "b.mkv", count=40, first=50)
    write_video(videos / "short.MP4", count=4)
    (videos / "notes.txt").write_text("no video")
    (videos / ".hidden.mp4").write_text("no video")
    return videos


def by_hand(path: Path, backbone: Backbone) -> np.ndarray:
    """Rows window by window, in one batch shape."""
    recipe = backbone.recipe
    with Video(path) as video:
        frames = list(video.sampled(recipe.frames_per_second, Picture.of(recipe)))
    starts = range(0, len(frames) - recipe.frames + 1, recipe.stride)
    rows = []
    for start in starts:
        window = np.stack(frames[start : start + recipe.frames])
        batch = np.concatenate([window[None], np.zeros((3, *window.shape), np.uint8)])
        rows.append(backbone(torch.from_numpy(batch))[0].numpy())
    return np.stack(rows)


def test_rows_attributes_and_the_reader(folder, tmp_path):
    out = tmp_path / "rows.hdf5"
    done = extracted(folder, out)
    assert sorted(done.videos) == ["a", "b", "short"] and not done.skipped
    backbone = load_backbone(TINY)
    rows = rows_of(out)
    for video in ("a", "b"):
        np.testing.assert_allclose(
            rows[video], by_hand(done.videos[video], backbone), rtol=0, atol=1e-6
        )
    assert {video: len(x) for video, x in rows.items()} == {"a": 5, "b": 9, "short": 1}
    assert (done.rows, done.frames) == (15, 120)
    with h5py.File(out) as file:
        recipe = recipe_of(file.attrs)
        assert recipe == backbone.recipe and open_backbone(recipe).recipe == recipe
        assert json.loads(file.attrs[MADE_BY])["batch"] == 4
        about = dict(file["b"].attrs)
        times = times_of(file["b"].attrs)
    assert times is not None
    assert (times.duration, times.row_step, times.row_span) == (5.0, 0.5, 1.0)
    assert (about["source"], about["frames"], about["fps"]) == ("b.mkv", 40, 8.0)
    assert (about["container"], about["ends_early"]) == ("matroska,webm", "")
    reader = FeatureFile(out, expected_dim=6)
    np.testing.assert_array_equal(reader.read("b"), rows["b"])
    assert not (tmp_path / "rows.hdf5.parts").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "videos"] == ["rows.hdf5"]


def test_activitynet_s_layout_and_half_precision(folder, tmp_path):
    extracted(folder, tmp_path / "plain.hdf5")
    extracted(folder, tmp_path / "groups.hdf5", layout="activitynet", dtype="float16")
    with h5py.File(tmp_path / "groups.hdf5") as file:
        assert file["a/c3d_features"].dtype == np.float16 and times_of(file["a/c3d_features"].attrs)
    plain, groups = FeatureFile(tmp_path / "plain.hdf5"), FeatureFile(tmp_path / "groups.hdf5")
    for video in ("a", "b", "short"):
        np.testing.assert_allclose(plain.read(video), groups.read(video), rtol=2e-3, atol=1e-5)


def test_the_same_videos_give_the_same_bytes(folder, tmp_path):
    extracted(folder, tmp_path / "one.hdf5", decoders=1)
    extracted(folder, tmp_path / "two.hdf5", decoders=3)
    assert (tmp_path / "one.hdf5").read_bytes() == (tmp_path / "two.hdf5").read_bytes()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_rows_of_a_cut_are_those_of_the_whole(tmp_path, suffix):
    whole = write_video(tmp_path / f"whole.{suffix}", count=56)
    cut = copy_from(whole, tmp_path / f"cut.{suffix}", Fraction(16, 8))
    extracted([whole, cut], tmp_path / "rows.hdf5")
    rows = rows_of(tmp_path / "rows.hdf5")
    assert len(rows["cut"]) == 9
    np.testing.assert_array_equal(rows["cut"], rows["whole"][16 // 4 :])


def test_at_the_container_s_rate_the_rows_have_steps_of_their_own(tmp_path):
    write_video(tmp_path / "slow.mp4", count=24, fps=8)
    write_video(tmp_path / "fast.mp4", count=24, fps=20)
    backbone = load_backbone(TINY, Options(rate="container"))
    extracted(tmp_path, tmp_path / "rows.hdf5", backbone=backbone)
    with h5py.File(tmp_path / "rows.hdf5") as file:
        steps = {v: times_of(node.attrs) for v, node in file.items()}
        assert {v: len(node) for v, node in file.items()} == {"slow": 5, "fast": 5}
    assert steps["slow"] and steps["fast"]
    assert (steps["slow"].row_step, steps["fast"].row_step) == pytest.approx((4 / 8, 4 / 20))


@pytest.mark.parametrize(
    ("length", "stride", "count", "starts"),
    [(4, 2, 9, [0, 2, 4]), (4, 4, 9, [0, 4]), (2, 5, 12, [0, 5, 10]), (1, 1, 3, [0, 1, 2])],
)
def test_windows_begin_a_stride_apart(length, stride, count, starts):
    frames = [np.full((1, 1, 3), n, np.uint8) for n in range(count)]
    found = [[int(x[0, 0, 0]) for x in w] for w in windows(frames, length=length, stride=stride)]
    assert found == [list(range(s, s + length)) for s in starts]


def test_a_video_shorter_than_a_window_repeats_its_last_frame():
    frames = [bars(n) for n in range(3)]
    (window,) = windows(frames, length=5, stride=2)
    assert [x is frames[n] for x, n in zip(window, (0, 1, 2, 2, 2), strict=True)] == [True] * 5
    assert not list(windows(frames, length=5, stride=2, pad=False))


def test_batches_are_always_full_and_in_the_order_of_their_video(folder):
    recipe = load_backbone(TINY).recipe
    jobs = [Job(video, path) for video, path in find_videos([folder]).items()]
    counts: dict[str, list[int]] = {job.id: [] for job in jobs}
    ended = []
    for item in decoded_batches(jobs, recipe, size=4, decoders=2):
        if isinstance(item, Batch):
            counts[item.job.id].append(item.count)
            assert item.windows.shape == (4, 8, 32, 32, 3) and item.job.id not in ended
            assert item.windows[: item.count].any() and not item.windows[item.count :].any()
        else:
            ended.append(item.job.id)
    assert counts == {"a": [4, 1], "b": [4, 4, 1], "short": [1]} and sorted(ended) == list(counts)


def test_broken_videos_are_skipped_named_and_not_tried_again(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, (write, _) in BROKEN.items():
        write(videos / name)
    (videos / "half.mkv").rename(videos / "cut.mkv")  # or its id is that of no other
    write_video(videos / "good.mp4")
    lines: list[str] = []
    out = tmp_path / "rows.hdf5"
    done = extracted(videos, out, log=lines.append)
    assert list(done.videos) == ["good"] and len(done.skipped) == len(BROKEN) == len(lines)
    for name, (_, said) in BROKEN.items():
        path = videos / name.replace("half.mkv", "cut.mkv")
        assert said in done.skipped[path] and str(path) in done.skipped[path]
    again = extracted(videos, out, log=lines.append)
    assert again.rows == 0 and len(again.skipped) == len(BROKEN)
    assert all("failed before; --retry tries it again" in x for x in again.skipped.values())
    kept = extracted(videos, out, ends_early="keep")
    assert sorted(kept.videos) == ["cut", "flipped", "good", "half_front"]
    with h5py.File(out) as file:
        assert file["cut"].attrs["ends_early"].startswith("the picture ends at 5.0 of 10.0 s")
    # Without that choice they are not taken from the file either.
    assert list(extracted(videos, out).videos) == ["good"] and list(rows_of(out)) == ["good"]


def test_a_repaired_video_is_tried_again_and_a_changed_one_is_new(folder, tmp_path):
    out = tmp_path / "rows.hdf5"
    (folder / "c.mp4").write_text("no video")
    assert len(extracted(folder, out).skipped) == 1
    write_video(folder / "c.mp4", count=16)
    done = extracted(folder, out)
    assert done.rows == 3 and not done.skipped and not (tmp_path / "rows.hdf5.parts").exists()
    before = rows_of(out)["a"]
    write_video(folder / "a.mp4", count=24, first=100)
    assert extracted(folder, out).rows == 5
    assert not np.array_equal(rows_of(out)["a"], before)
    # What the file has of other videos stays.
    done = extracted([write_video(tmp_path / "d.mp4")], out)
    assert list(done.videos) == ["d"] and sorted(rows_of(out)) == ["a", "b", "c", "d", "short"]


def test_retry_tries_again(tmp_path, monkeypatch):
    videos = [write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mp4")]
    out = tmp_path / "rows.hdf5"
    with monkeypatch.context() as patch:
        patch.setattr("lib.videos.reader._CHILD", "import os; os.kill(os.getpid(), 9)")
        with pytest.raises(
            InputError, match=r"none of 2 video\(s\) can be used; the first: .*a.mp4"
        ):
            extracted(videos, out)
    with pytest.raises(InputError, match="failed before; --retry tries it again"):
        extracted(videos, out)
    assert sorted(extracted(videos, out, retry=True).videos) == ["a", "b"]


def test_rows_of_two_kinds_never_meet_in_a_file(folder, tmp_path):
    out = tmp_path / "rows.hdf5"
    extracted(folder, out)
    with pytest.raises(
        InputError, match=r"another way \(sampled frames from window to window 4 th"
    ):
        extracted(folder, out, backbone=load_backbone(TINY, Options(stride=8)))
    with pytest.raises(InputError, match=r"another way \(batch 4 there, 5 here; dtype float32 th"):
        extracted(folder, out, batch=5, dtype="float16")
    (tmp_path / "other.hdf5").write_bytes(b"text")
    with pytest.raises(InputError, match="is not an HDF5 file or is incomplete"):
        extracted(folder, tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "public.hdf5", "w") as file:
        file["a"] = np.ones((3, 6))
    with pytest.raises(InputError, match="exists and says no recipe"):
        extracted(folder, tmp_path / "public.hdf5")
    # Nor do the parts of an extraction that was interrupted.
    broken = folder / "c.mp4"
    broken.write_text("no video")
    extracted(folder, tmp_path / "new.hdf5")
    (tmp_path / "new.hdf5").unlink()
    with pytest.raises(InputError, match=r"new.hdf5.parts: holds rows that were made in another"):
        extracted(folder, tmp_path / "new.hdf5", batch=5)


def test_two_videos_of_one_id_and_nothing_to_do(folder, tmp_path):
    write_video(folder / "deeper" / "a.mkv")
    with pytest.raises(InputError, match=r"a\.mp4 and .*a\.mkv would both be the video a; rename"):
        find_videos([folder])
    assert list(find_videos([folder / "a.mp4", folder / "a.mp4"])) == ["a"]
    with pytest.raises(InputError, match=r"absent\.mp4: there is no such file or folder"):
        find_videos([tmp_path / "absent.mp4"])
    os.rename(os.fsencode(folder / "short.MP4"), os.fsencode(folder) + b"/\xff.mp4")
    with pytest.raises(InputError, match="its name is not valid UTF-8; rename it"):
        find_videos([folder / os.fsdecode(b"\xff.mp4")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no video; looked for .*\.mkv"):
        find_videos([tmp_path / "empty"])


def test_ids_of_any_length(tmp_path):
    names = ["é" * 120, "x" * 251, "settings", "a b%20c"]
    for name in names:
        write_video(tmp_path / "videos.mp4", count=8).rename(tmp_path / f"{name}.mp4")
    extracted(tmp_path, tmp_path / "rows.hdf5")
    assert sorted(rows_of(tmp_path / "rows.hdf5")) == sorted(names)


def test_one_process_at_a_time(folder, tmp_path):
    with (
        parts_module.open_parts(tmp_path / "rows.hdf5"),
        pytest.raises(InputError, match="another process is extracting to it"),
    ):
        extracted(folder, tmp_path / "rows.hdf5")


class Faulty(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 6), self.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e6, "reach 1,000,000, which float16 cannot hold"), (float("nan"), "gives NaN or infinity")],
)
def test_rows_that_cannot_be_stored_end_the_extraction(folder, tmp_path, value, said):
    backbone = Backbone(load_backbone(TINY).recipe, Faulty(value))
    with pytest.raises(InputError, match=said):
        extracted(folder, tmp_path / "rows.hdf5", backbone=backbone, dtype="float16")
    assert not (tmp_path / "rows.hdf5").exists()


def test_rows_of_another_width_than_the_recipe_s_are_refused(folder, tmp_path):
    backbone = Backbone(load_backbone(TINY).recipe, torch.nn.Flatten())
    with pytest.raises(InputError, match=r"gives rows of the shape .* its recipe says 6 wide"):
        extracted(folder, tmp_path / "rows.hdf5", backbone=backbone)


class Stops(torch.nn.Module):
    """A network that fails after some batches."""

    def __init__(self, network: torch.nn.Module, after: int) -> None:
        super().__init__()
        self.network, self.left = network, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        rows: torch.Tensor = self.network(x)
        return rows


def test_a_long_video_goes_on_where_it_was(tmp_path):
    path = write_video(tmp_path / "long.mp4", count=240)
    extracted([path], tmp_path / "whole.hdf5", batch=2)
    backbone = load_backbone(TINY)
    network = backbone.network
    out = tmp_path / "rows.hdf5"
    backbone.network = Stops(network, after=12)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt) as _held:  # and the frames of its traceback with it
        extracted([path], out, backbone=backbone, batch=2, save_every=0)
    assert threading.active_count() == before  # the decoders have ended too
    backbone.network = network
    done = extracted([path], out, backbone=backbone, batch=2)
    assert 0 < done.rows <= 59 - 2 * 8
    assert out.read_bytes() == (tmp_path / "whole.hdf5").read_bytes()


def test_a_full_disk_leaves_the_old_file(folder, tmp_path, monkeypatch):
    out = tmp_path / "rows.hdf5"
    extracted(folder, out)
    before = out.read_bytes()
    write_video(folder / "c.mp4")

    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target == out:
            raise OSError(28, "No space left on device", str(out))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="cannot be written .No space left on device"):
        extracted(folder, out)
    assert out.read_bytes() == before and not list(tmp_path.glob(".*.new"))
    monkeypatch.undo()
    assert extracted(folder, out).rows == 0 and "c" in rows_of(out)  # its part was there


def command(folder: Path, out: Path, *more: object) -> list[object]:
    return [folder, "--backbone", TINY, "--out", out, "--gpus", "cpu", "--save-every", 0, *more]


def test_the_command_says_what_it_did_and_how_it_ended(folder, tmp_path):
    output = tmp_path / "output.txt"
    ended = run("extract_features", *command(folder, tmp_path / "rows.hdf5"), output=output)
    assert ended.status == 0 and "3 videos; now 15 rows of 120 frames" in ended.output
    half(folder / "half.mp4", folder / "a.mp4")
    ended = run("extract_features", *command(folder, tmp_path / "rows.hdf5"), output=output)
    assert ended.status == 3 and "half.mp4: begins as an mp4 file does" in ended.output
    assert "skipped: 1 video(s), named above" in ended.output
    alone = command(folder / "half.mp4", tmp_path / "none.hdf5")
    ended = run("extract_features", *alone, output=output)
    assert ended.status == 2 and "error: none of 1 video(s) can be used" in ended.output
    assert "Traceback" not in ended.output and not (tmp_path / "none.hdf5").exists()


def kill_and_finish(
    folder: Path, out: Path, draw: random.Random, kills: int, seconds: float
) -> int:
    """Kill an extraction so many times at random moments, and let it end; how many were killed."""
    killed = 0
    for _ in range(kills):
        process = Process("extract_features", *command(folder, out), output=out.with_suffix(".txt"))
        ended = process.poll(draw.uniform(0, seconds))
        if ended is None:
            process.kill()
            ended = process.wait()
            killed += ended.status == -9
        assert ended.status in (0, -9), ended.output
        if out.exists():
            rows_of(out)  # whole whenever it is there
    ended = Process(
        "extract_features", *command(folder, out), output=out.with_suffix(".txt")
    ).wait()
    assert ended.status == 0, ended.output
    return killed


def test_a_killed_extraction_loses_nothing(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, count in enumerate((200, 120, 160)):
        write_video(folder / f"{number}.mp4", count=count, first=number)
    undisturbed = tmp_path / "undisturbed.hdf5"
    kill_and_finish(folder, undisturbed, random.Random(0), 0, 0)
    killed = 0
    for number, longest in enumerate((1.0, 0.5, 0.25)):  # how fast it is depends on the machine
        out = tmp_path / f"killed{number}.hdf5"
        killed += kill_and_finish(folder, out, random.Random(number), 3, longest)
        assert out.read_bytes() == undisturbed.read_bytes()
        assert not out.with_name(f"{out.name}.parts").exists()
    assert killed


def test_without_pyav_the_command_that_helps_is_named(folder, tmp_path, monkeypatch):
    load_object(TINY)  # which needs it too, and stays loaded
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="reading videos needs av: pip install av"):
        extracted(folder, tmp_path / "rows.hdf5")
    assert not (tmp_path / "rows.hdf5.parts").exists()
