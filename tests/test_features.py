"""Feature files and resampling."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lib.base.errors import InputError
from lib.datasets.features import FeatureFile, normalize_rows, resample


def resample_slowly(rows: np.ndarray, num_frames: int) -> np.ndarray:
    """The published loop, one row at a time."""
    n = len(rows)
    edges = [min(round(k * n / num_frames), n - 1) for k in range(num_frames + 1)]
    out = []
    for start, end in zip(edges, edges[1:], strict=False):
        out.append(rows[start:end].mean(axis=0) if start < end else rows[start])
    return np.stack(out)


@pytest.mark.parametrize("num_frames", [16, 32, 256])
def test_resampling_equals_the_loop(num_frames: int) -> None:
    rows = np.random.default_rng(0).standard_normal((600, 3)).astype(np.float32)
    for n in range(1, 601):
        got = resample(rows[:n], num_frames)
        assert got.shape == (num_frames, 3) and got.dtype == np.float32
        np.testing.assert_allclose(got, resample_slowly(rows[:n], num_frames), atol=2e-6)


def test_resampling_by_hand() -> None:
    """n = 6, T = 4: edges 0, 1.5 -> 2, 3, 4.5 -> 4, 6 -> 5; the last row is never used."""
    rows = np.arange(6, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(resample(rows, 4)[:, 0], [0.5, 2, 3, 4])
    np.testing.assert_array_equal(resample(rows[:1], 4)[:, 0], [0, 0, 0, 0])
    np.testing.assert_array_equal(resample(rows[:2], 4)[:, 0], [0, 0, 1, 1])


def test_rows_are_normalised_and_zeros_stay() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(normalize_rows(rows), [[0.6, 0.8], [0, 0]])


@pytest.fixture
def file(tmp_path: Path) -> FeatureFile:
    rows = np.arange(12, dtype=np.float64).reshape(4, 3)
    with h5py.File(tmp_path / "f.hdf5", "w") as out:
        out["v_group/c3d_features"] = rows
        out["single/other"] = rows + 1
        out["plain"] = rows + 2
        out["talk.avi"] = rows + 3
        out["two/a"] = rows
        out["two/b"] = rows
        out["flat"] = np.zeros(4)
        out["empty"] = np.zeros((0, 3))
        out["wide"] = np.zeros((2, 5))
        out["text"] = np.array([[b"a", b"b"]])
        out["huge"] = np.full((2, 3), 1e300)
        out["nan"] = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, 0)
    return FeatureFile(tmp_path / "f.hdf5", expected_dim=3)


@pytest.mark.parametrize(
    ("video", "first"),
    [
        ("v_group", 0),  # a group with c3d_features
        ("group", 0),  # without its v_
        ("single", 1),  # a group with one dataset
        ("plain", 2),
        ("plain.avi", 2),
        ("v_plain", 2),
        ("talk", 3),
        ("talk.avi", 3),
    ],
)
def test_a_video_is_found_under_its_usual_names(
    file: FeatureFile, video: str, first: float
) -> None:
    rows = file.read(video)
    assert rows.dtype == np.float32 and rows.shape == (4, 3) and rows[0, 0] == first


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("absent", "has no features of the video absent"),
        (
            "two",
            r"two holds a \(4, 3\), b \(4, 3\); expected .* DATASET.FEATURE_MEMBER",
        ),
        ("flat", r"flat has the shape \(4,\)"),
        ("empty", "empty has no rows"),
        ("wide", "wide is 5 wide; expected 3"),
        ("text", "the type"),
        ("nan", "nan holds NaN or infinity in row 2 of 4"),
        ("huge", "huge holds NaN or infinity in row 0"),
    ],
)
def test_unusable_features_are_refused_by_name(file: FeatureFile, video: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        file.read(video)
    assert "f.hdf5" in str(caught.value)


def test_missing_videos_are_listed(file: FeatureFile) -> None:
    assert file.missing(["plain", "x", "talk", "y"]) == ["x", "y"]


def test_a_missing_a_foreign_and_a_truncated_file_are_refused(
    tmp_path: Path, file: FeatureFile
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        FeatureFile(tmp_path / "none.hdf5").read("a")
    (tmp_path / "bad.hdf5").write_text("not this")
    with pytest.raises(InputError, match="is not an HDF5 file or is incomplete"):
        FeatureFile(tmp_path / "bad.hdf5").read("a")
    (tmp_path / "cut.hdf5").write_bytes(file.path.read_bytes()[:3000])
    with pytest.raises(InputError, match="is not an HDF5 file or is incomplete"):
        FeatureFile(tmp_path / "cut.hdf5").read("plain")


def _read_in_child(file: FeatureFile, results: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    results.put(float(file.read("plain").sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_file_can_be_handed_to_another_process(file: FeatureFile, method: str) -> None:
    here = float(file.read("plain").sum())
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(file, results))
    child.start()
    child.join(60)
    assert child.exitcode == 0 and results.get() == here
    assert float(file.read("plain").sum()) == here  # the parent's handle is unharmed


def test_a_pickle_holds_no_handle(file: FeatureFile) -> None:
    file.read("plain")
    copy = pickle.loads(pickle.dumps(file))
    assert copy.store._file is None and copy.read("plain")[0, 0] == 2


# Zeros that HDF5 makes up, and files that a feature file leads to


def _put(path: Path, name: str, write: Callable[[h5py.File], object]) -> FeatureFile:
    with h5py.File(path / name, "w") as file:
        write(file)
    return FeatureFile(path / name)


def _virtual(file: h5py.File, source: str, rows: int = 4) -> None:
    layout = h5py.VirtualLayout((rows, 3), "f4")
    layout[:4] = h5py.VirtualSource(source, "v", (4, 3))
    file.create_virtual_dataset("v", layout)


def _external(file: h5py.File, path: str, size: int) -> None:
    file.create_dataset("v", (4, 3), "u1", external=[(path, 0, size)])


def _chunked(file: h5py.File) -> None:
    file.create_dataset("v", (4, 3), "f4", chunks=(2, 3))[:2] = 1


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: _virtual(f, "other.hdf5"), "v is put together from virtual sources, another"),
        (lambda f: _virtual(f, "gone.hdf5"), "v is put together from virtual sources, another"),
        (lambda f: _external(f, "/etc/passwd", 12), "keeps its rows in /etc/passwd, another file"),
        (lambda f: f.__setitem__("v", h5py.ExternalLink("other.hdf5", "v")), "v is a link into"),
        (lambda f: f.__setitem__("v", h5py.ExternalLink("pipe", "v")), "v is a link into pipe"),
        (
            lambda f: f.update(x=h5py.ExternalLink("pipe", "/"), v=h5py.SoftLink("x/v")),
            "x/v is a link into pipe",
        ),
        (lambda f: f.__setitem__("v/only", h5py.ExternalLink("pipe", "v")), "only is a link into"),
        (lambda f: f.update(v=h5py.SoftLink("w"), w=h5py.SoftLink("v")), "is a chain of links"),
        (lambda f: f.create_dataset("v", (4, 3), "f4"), "rows of /v were never written"),
        (_chunked, "rows of /v were never written, or not all"),
    ],
)
def test_nothing_is_made_up_and_no_other_file_is_read_unasked(
    tmp_path: Path, write: Callable[[h5py.File], object], message: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    _put(tmp_path, "other.hdf5", lambda f: f.update(v=np.ones((4, 3), "f4")))
    file = _put(tmp_path, "f.hdf5", write)
    signal.alarm(20)  # a pipe that is opened is waited for
    try:
        with pytest.raises(InputError, match=message):
            file.read("v")
    finally:
        signal.alarm(0)


def test_other_files_are_read_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    _put(tmp_path, "other.hdf5", lambda f: f.update(v=rows))
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(range(12)))
    for write in (
        lambda f: _virtual(f, "other.hdf5"),
        lambda f: _external(f, str(raw), 12),
        lambda f: f.__setitem__("v", h5py.ExternalLink("other.hdf5", "v")),
    ):
        path = _put(tmp_path, "f.hdf5", write).path
        np.testing.assert_array_equal(FeatureFile(path, linked=True).read("v"), rows)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: _virtual(f, "gone.hdf5"), "gone.hdf5, which is no file"),
        (lambda f: _virtual(f, "pipe"), "pipe, which is no file"),
        (lambda f: _virtual(f, "short.hdf5"), "v reaches past the end of a source"),
        (lambda f: _virtual(f, "empty.hdf5"), "that holds no rows"),
        (lambda f: _virtual(f, "other.hdf5", rows=6), "has sources for a part of its rows only"),
        (lambda f: _virtual(f, "unwritten.hdf5"), "were never written"),
        (lambda f: _external(f, "/dev/zero", 12), "/dev/zero, which is no file"),
        (lambda f: _external(f, "raw", 12), "expected the whole path"),
        (lambda f: f.__setitem__("v", h5py.ExternalLink("pipe", "v")), "pipe, which is no file"),
    ],
)
def test_what_is_not_in_the_other_file_is_no_zero(
    tmp_path: Path, write: Callable[[h5py.File], object], message: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, rows in (("other", 4), ("short", 2)):
        _put(tmp_path, f"{name}.hdf5", lambda f, n=rows: f.update(v=np.ones((n, 3), "f4")))
    _put(tmp_path, "empty.hdf5", lambda f: None)
    _put(tmp_path, "unwritten.hdf5", lambda f: f.create_dataset("v", (4, 3), "f4"))
    path = _put(tmp_path, "f.hdf5", write).path
    with pytest.raises(InputError, match=message):
        FeatureFile(path, linked=True).read("v")


def test_an_external_file_that_is_too_short_is_no_zero(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"123")
    path = _put(tmp_path, "f.hdf5", lambda f: _external(f, str(tmp_path / "raw"), 12)).path
    with pytest.raises(InputError, match="v reaches past the end of"):
        FeatureFile(path, linked=True).read("v")


def test_links_inside_the_file_are_followed(tmp_path: Path) -> None:
    rows = np.ones((4, 3), np.float32)
    file = _put(tmp_path, "f.hdf5", lambda f: f.update({"a/b": rows, "v": h5py.SoftLink("/a/b")}))
    np.testing.assert_array_equal(file.read("v"), rows)


def test_large_rows_have_length_one_and_all_others_keep_their_bits() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    plain = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    mixed = rows * np.array([1, 1e30, 1, 2e19, 1], np.float32)[:, None]
    found = normalize_rows(mixed)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[[0, 2, 4]], plain[[0, 2, 4]])
    np.testing.assert_allclose(found, plain, rtol=1e-6)
