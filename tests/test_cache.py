"""Packed features: the same bits as the feature file, whatever happens while they are made."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pickle
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from lib.base.errors import InputError
from lib.datasets import cache
from lib.datasets.cache import DirectRows, PackedRows, Rows, SharedRows, find_packed, make_rows
from lib.datasets.features import FeatureFile
from tests.disk import room_for
from tests.runs import run, write_experiment
from tests.test_dense import load_small, load_tiny, write_corpus

VIDEOS = [f"v_{number:02d}" for number in range(12)]
T, C = 16, 6


def write_features(path: Path, *, seed: int = 0, videos: list[str] = VIDEOS, dim: int = C) -> Path:
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for video in videos:
            file[f"{video}/c3d_features"] = draw.standard_normal((int(draw.integers(5, 40)), dim))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features.hdf5")


def direct_rows(source: Path, **options: Any) -> DirectRows:
    return DirectRows(FeatureFile(source), VIDEOS[0], **({"num_frames": T} | options))


def pack(source: Path, folder: Path | None = None, **options: Any) -> PackedRows:
    """As a run gets them: what is there, or else made now."""
    folders = [folder or source.parent / "cache"]
    direct = direct_rows(source, **options)
    found = find_packed(direct, VIDEOS, folders)
    if found is None:
        found = make_rows(direct, VIDEOS, mode="disk", folders=folders)
    assert isinstance(found, PackedRows)
    return found


def same(one: Rows, other: Rows, videos: list[str] = VIDEOS) -> bool:
    return all(equal_bits(one[video], other[video]) for video in videos)


def equal_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# The same bits in every mode


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_mode_changes_no_bit(source: Path, dtype: str, normalize: bool) -> None:
    direct = direct_rows(source, dtype=dtype, normalize=normalize)
    folders = [source.parent / "cache"]
    made: list[Rows] = [
        make_rows(direct, VIDEOS, mode=mode, folders=folders)  # type: ignore[arg-type]
        for mode in ("disk", "memory", "direct", "auto")
    ]
    again = find_packed(direct, VIDEOS, folders)
    assert again is not None
    for rows in [*made, again, pickle.loads(pickle.dumps(again))]:
        assert rows.dim == C and same(direct, rows)
        assert rows[VIDEOS[3]].shape == (T, C) and rows[VIDEOS[3]].dtype == torch.float32
    rows = made[0][VIDEOS[3]]
    rows.zero_()  # an item is the reader's own
    assert same(direct, made[0])


def test_float16_is_off_by_at_most_half_a_step(source: Path) -> None:
    exact, rounded = direct_rows(source), pack(source, dtype="float16")
    for video in VIDEOS:
        error = (exact[video] - rounded[video]).abs()
        assert error.max() > 0 and (error <= exact[video].abs() / 2048 + 2**-25).all()
    assert rounded.path.stat().st_size < 0.7 * pack(source).path.stat().st_size


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    source = write_features(tmp_path / "features.hdf5")
    with h5py.File(source, "a") as file:
        file[f"{VIDEOS[5]}/c3d_features"][2, 2] = 1e6
    for mode in ("disk", "memory"):
        direct = direct_rows(source, dtype="float16", normalize=False)
        with pytest.raises(InputError, match=rf"{VIDEOS[5]} holds 1e\+06, expected at most 65,504"):
            make_rows(direct, VIDEOS, mode=mode, folders=[tmp_path])
    pack(source, dtype="float16")  # rows of length 1 fit


def test_auto_keeps_a_small_corpus_in_memory_and_takes_a_file_that_is_there(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"mode": "auto", "folders": [source.parent / "cache"]}
    direct = direct_rows(source)
    assert isinstance(small := make_rows(direct, VIDEOS, **options), SharedRows)
    assert "in shared memory" in str(small)
    monkeypatch.setattr(cache, "_shared_room", lambda: 100.0)
    assert isinstance(make_rows(direct, VIDEOS, **options), PackedRows)
    private = make_rows(direct, VIDEOS, **(options | {"mode": "memory"}))
    assert "in memory" in str(private) and same(direct, private)
    monkeypatch.undo()
    monkeypatch.setattr(cache, "_IN_MEMORY", 100)
    assert isinstance(make_rows(direct, VIDEOS, **options), PackedRows)


def test_a_run_says_where_its_features_are(data_dir: Path) -> None:
    first, second = (load_tiny(data_dir, "train", cache="disk", num_frames=24) for _ in range(2))
    line = first.lines()[-1]
    assert line.startswith("features: 22 videos x 24 x 12 float32 (0.0 MB) in ")
    assert line.endswith(".rows (packed now)") and str(first.folder / "cache") in line
    assert second.lines()[-1] == line.removesuffix(" (packed now)")
    test = load_tiny(data_dir, "test", cache="disk", num_frames=24)  # the file grows by its videos
    assert test.lines()[-1].startswith("features: 30 videos")
    by_itself = load_tiny(data_dir, "train", num_frames=24)  # auto; the same file has its videos
    assert str(by_itself.rows) == str(test.rows).removesuffix(" (packed now)")


# What the file is of


@pytest.mark.parametrize(
    "options", [{"num_frames": T + 1}, {"normalize": False}, {"dtype": "float16"}]
)
def test_another_setting_is_another_file(source: Path, options: dict[str, Any]) -> None:
    first, second = pack(source), pack(source, **options)
    assert first.path != second.path and first.path.exists()
    assert same(second, direct_rows(source, **options))


def replace_content(source: Path) -> None:
    """All numbers, but neither size nor time."""
    stat = source.stat()
    with h5py.File(source, "a") as file:
        for video in VIDEOS:
            file[f"{video}/c3d_features"][...] *= -1
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source.stat().st_size == stat.st_size


def edit_one_number(source: Path) -> None:
    with h5py.File(source, "a") as file:
        file[f"{VIDEOS[7]}/c3d_features"][1, 1] += 1


@pytest.mark.parametrize("change", [replace_content, edit_one_number])
def test_another_source_is_another_file_and_the_old_one_goes(
    source: Path, change: Callable[[Path], None]
) -> None:
    first, other_setting = pack(source), pack(source, normalize=False)
    before = {video: first[video] for video in VIDEOS}
    time.sleep(0.02)
    change(source)
    second = pack(source)
    assert second.path != first.path and same(second, direct_rows(source))
    assert not first.path.exists() and other_setting.path.exists()
    assert all(equal_bits(first[video], rows) for video, rows in before.items())  # still open


def test_a_copy_of_the_source_elsewhere_uses_the_same_file(source: Path, tmp_path: Path) -> None:
    first = pack(source)
    copied = tmp_path / "elsewhere" / "features.hdf5"
    copied.parent.mkdir()
    shutil.copy2(source, copied)
    again = find_packed(direct_rows(copied), VIDEOS, [first.path.parent])
    assert again is not None and again.path == first.path


def test_a_source_that_changes_while_it_is_packed_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DirectRows.read

    def read(self: DirectRows, video: str) -> np.ndarray:
        if video == VIDEOS[-1]:
            os.utime(source, (0, 0))
        return real(self, video)

    monkeypatch.setattr(DirectRows, "read", read)
    with pytest.raises(InputError, match="changed while its rows were packed"):
        pack(source)
    assert files(source.parent) == ["features.hdf5"]


def test_a_run_that_needs_more_videos_adds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = {
        "train": [(f"t{number}", ["x y"]) for number in range(6)],
        "test": [(f"v{number}", ["x"]) for number in range(4)],
    }
    write_corpus(tmp_path / "charades", splits)
    options: dict[str, Any] = {"cache": "disk", "val_fraction": 0.0}
    few = load_small(tmp_path, "train", limit_train=2, limit_test=1, **options)
    assert few.lines()[-1].startswith("features: 2 videos")  # and none of the test
    every = load_small(tmp_path, "train", **options)
    assert every.lines()[-1].startswith("features: 6 videos")
    read = []
    monkeypatch.setattr(
        DirectRows,
        "read",
        lambda self, video, real=DirectRows.read: (read.append(video), real(self, video))[1],
    )
    every = load_small(tmp_path, "test", **options)
    assert every.lines()[-1].startswith("features: 10 videos")
    assert sorted(read) == ["v0", "v1", "v2", "v3"]  # the others' rows are copied
    monkeypatch.undo()
    for split in ("train", "test"):  # packed once, enough for both
        assert "packed now" not in load_small(tmp_path, split, **options).lines()[-1]
    direct = load_small(tmp_path, "train", "test", cache="direct", val_fraction=0.0)
    assert all(equal_bits(every.rows[v], direct.rows[v]) for v in [*direct["train"].corpus, "v3"])
    assert len(files(tmp_path / "charades" / "cache")) == 1


def test_a_file_that_lacks_videos_keeps_those_it_has(source: Path) -> None:
    direct, folders = direct_rows(source), [source.parent / "cache"]
    for videos in (VIDEOS[:5], VIDEOS[4:8]):
        make_rows(direct, videos, mode="disk", folders=folders)
    rows = find_packed(direct, VIDEOS[:8], folders)
    assert rows is not None and set(rows) == set(VIDEOS[:8]) and same(rows, direct, VIDEOS[:8])


# What is wrong in the features is found before training


@pytest.mark.parametrize("mode", ["disk", "memory", "auto"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: f["b"].__setitem__((3, 2), np.nan), r"b holds NaN or infinity in row 3 of 20"),
        (lambda f: f.__delitem__("b"), r"lacks 1 of the 3 train videos, e\.g\. b\."),
        (
            lambda f: (f.__delitem__("b"), f.create_dataset("b", data=np.ones((4, 2)))),
            r"b is 2 wide, a is 5; expected one width",
        ),
    ],
    ids=["NaN", "missing", "width"],
)
def test_bad_features_are_found_while_they_are_packed(
    tmp_path: Path, harm: Callable[[h5py.File], Any], message: str, mode: str
) -> None:
    train = [("a", ["x"]), ("b", ["y"]), ("c", ["x y"])]
    write_corpus(tmp_path / "charades", {"train": train, "test": [("d", ["x"])]})
    features = tmp_path / "charades" / "vgg_rgb_features.hdf5"
    options: dict[str, Any] = {"cache": mode, "val_fraction": 0.0}
    with h5py.File(features, "a") as file:
        harm(file)
    with pytest.raises(InputError, match=message):
        load_small(tmp_path, "train", **options)
    assert not list(tmp_path.rglob("*.rows*"))
    # It is no other split's business, until that split is asked for.
    load_small(tmp_path, "test", **options)
    with pytest.raises(InputError, match=message):
        load_small(tmp_path, "train", **options)


def test_a_required_width_is_required_of_a_packed_file_too(tmp_path: Path) -> None:
    write_corpus(tmp_path / "charades", {"train": [("a", ["x"])], "test": [("b", ["x"])]})
    load_small(tmp_path, "test", cache="disk", feature_dim=5)
    with pytest.raises(InputError, match="is 5 wide; expected 4"):
        load_small(tmp_path, "test", cache="disk", feature_dim=4)


# Processes that die, and processes that build at once


class Child:
    """A function in a process of its own; it ends with status 0 if the function returns."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.number = os.fork()
        if self.number == 0:
            try:
                work()
                os._exit(0)
            except BaseException as fault:
                print(f"child: {fault!r}", flush=True)
                os._exit(1)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])


@contextlib.contextmanager
def slow_reading(seconds: float) -> Iterator[None]:
    real = DirectRows.read

    def read(self: DirectRows, video: str) -> np.ndarray:
        time.sleep(seconds)
        return real(self, video)

    DirectRows.read = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        DirectRows.read = real  # type: ignore[method-assign]


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_build_at_once_end_with_one_file(
    source: Path, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if not locks:
        without = SimpleNamespace(**vars(fcntl) | {"flock": no_locks})
        monkeypatch.setattr(cache.locks, "fcntl", without)
    direct, said = direct_rows(source), source.parent / "said"

    def work() -> None:
        with slow_reading(0.01):
            rows = pack(source)
        assert same(rows, direct)
        with said.open("a") as file:
            file.write(f"{rows}\n")

    children = [Child(work) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    lines = said.read_text().splitlines()
    assert len(lines) == 3 and "packed now" in "".join(lines)
    assert not locks or sum("packed now" in line for line in lines) == 1
    assert len(files(source.parent / "cache")) == 1 and same(pack(source), direct)


def test_a_builder_that_gives_up_lets_the_next_one_build(source: Path) -> None:
    direct = direct_rows(source)

    def fail() -> None:
        def read(self: DirectRows, video: str) -> np.ndarray:
            time.sleep(0.3)
            raise RuntimeError("gave up")

        DirectRows.read = read  # type: ignore[method-assign]
        with contextlib.suppress(RuntimeError):
            pack(source)

    child = Child(fail)
    while not files(source.parent / "cache"):
        time.sleep(0.005)
    assert same(pack(source), direct)
    assert child.wait() == 0 and len(files(source.parent / "cache")) == 1


def test_killed_at_random_moments(source: Path) -> None:
    direct, folder, draw = direct_rows(source), source.parent / "cache", random.Random(0)
    left = 0
    for _ in range(12):
        with slow_reading(0.002):
            child = Child(lambda: pack(source))
        time.sleep(draw.uniform(0, 0.05))
        os.kill(child.number, signal.SIGKILL)
        child.wait()
        left += any(name.endswith(".part") for name in files(folder))
        rows = pack(source)
        assert same(rows, direct) and files(folder) == [rows.path.name]
        rows.path.unlink()
    assert left  # some were killed in the middle


@pytest.mark.parametrize(
    ("module", "name", "built"),
    [(os, "fsync", False), (os, "replace", False), (cache, "_sync", True), (cache, "_clear", True)],
    ids=["before its bytes are safe", "before its name", "after", "before clearing"],
)
def test_killed_at_the_decisive_moments(source: Path, module: Any, name: str, built: bool) -> None:
    def work() -> None:
        setattr(module, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        pack(source)

    assert Child(work).wait() == -signal.SIGKILL
    assert (
        find_packed(direct_rows(source), VIDEOS, [source.parent / "cache"]) is not None
    ) == built
    rows = pack(source)
    assert same(rows, direct_rows(source)) and files(source.parent / "cache") == [rows.path.name]


def test_what_a_dead_builder_of_another_source_left_is_cleared(source: Path) -> None:
    folder = source.parent / "cache"
    folder.mkdir()
    (folder / ".features-16-float32-0123456789ab.rows.part").write_bytes(b"half")
    rows = pack(source)
    assert files(folder) == [rows.path.name]


# Damage


def test_a_damaged_file_is_never_read(source: Path) -> None:
    direct, draw = direct_rows(source), random.Random(0)
    sound = pack(source).path.read_bytes()
    rows_end = 4 * len(VIDEOS) * T * C
    places = [0, rows_end - 1, rows_end, len(sound) - 1, len(sound) - 30]
    places += [draw.randrange(len(sound)) for _ in range(40)]
    for place in places:
        harmed = bytearray(sound)
        harmed[place] ^= 1 << draw.randrange(8)
        path = pack(source).path
        path.write_bytes(harmed)
        rows = pack(source)
        assert ("packed now; the file there" in str(rows)) == (place >= rows_end)
        if place < rows_end:
            with pytest.raises(InputError, match=r"are not those that were written") as fault:
                same(rows, direct)
            assert f"{path}: the rows of v_{place // (4 * T * C):02d} are" in str(fault.value)
            assert not path.exists()
        assert same(pack(source), direct)


def test_a_file_that_was_cut_short_or_is_foreign_is_made_again(source: Path) -> None:
    direct = direct_rows(source)
    sound, other = (pack(source, normalize=n).path.read_bytes() for n in (True, False))
    cut = [b"", b"x", sound[:-1], sound[:-60], sound[:100]]
    for content in (*cut, sound + b"\0", sound[4:], b"\0\0\0\0" + sound, other):
        pack(source).path.write_bytes(content)
        rows = pack(source)
        assert "packed now; the file there is" in str(rows) and same(rows, direct)


def test_a_worker_that_finds_no_file_any_more_is_reported(source: Path) -> None:
    rows = pack(source)
    travelling = pickle.dumps(rows)
    rows.path.unlink()
    with pytest.raises(InputError, match="was there at the start and is gone now"):
        pickle.loads(travelling)


# Disks and folders


@pytest.mark.parametrize("size", [0, 1000, 4 * len(VIDEOS) * T * C + 10])
def test_a_full_disk_leaves_nothing_behind(source: Path, size: int) -> None:
    with room_for(size), pytest.raises(InputError) as fault:
        pack(source)
    folder = source.parent / "cache"
    text = str(fault.value)
    assert text.startswith(f"{folder}") and str(source) in text and "CACHE" in text
    assert "\n" not in text and files(source.parent) == ["features.hdf5"]
    assert same(pack(source), direct_rows(source))


def test_too_little_room_is_reported_before_the_work(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(DirectRows, "read", lambda *_: pytest.fail("the work has begun"))
    direct = direct_rows(source)
    with pytest.raises(InputError, match=r"no room .* \(0\.0 MB are needed\)"):
        make_rows(direct, VIDEOS, mode="disk", folders=[source.parent / "cache"])


def test_a_full_disk_ends_training_with_one_line(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, EPOCHS=1)
    flags = ("--cfg", experiment, "--set", "DATASET.CACHE=disk")
    ended = run("dense_train", *flags, output=tmp_path / "output.txt")
    assert ended.status == 0, ended.output
    (packed,) = tmp_path.rglob("*.rows")
    assert f" in {packed} (packed now)" in ended.output
    packed.unlink()

    def starve() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (packed_size // 2, resource.RLIM_INFINITY))

    packed_size = 4 * 24 * 32 * 12
    ended = run("dense_train", *flags, "--resume", output=tmp_path / "output.txt", sabotage=starve)
    assert ended.status == 2 and len(ended.output.splitlines()) == 1, ended.output
    assert ended.output.startswith(f"error: {packed.parent}: no room for the packed features of ")
    assert not files(packed.parent)


def test_where_the_usual_folder_cannot_be_written_the_next_one_is_taken(source: Path) -> None:
    first, second = source.parent / "cache", source.parent / "second"
    first.write_text("not a folder")
    direct = direct_rows(source)
    rows = make_rows(direct, VIDEOS, mode="disk", folders=[first, second])
    assert f"in {second}/" in str(rows) and f"{first} cannot be written (" in str(rows)
    assert same(rows, direct)
    again = find_packed(direct, VIDEOS, [first, second])
    assert again is not None and str(first) not in str(again)
    with pytest.raises(InputError, match=r"cache cannot be written \(.*choose one by CACHE_DIR"):
        make_rows(direct, VIDEOS, mode="disk", folders=[first])
