"""Feature files and resampling."""

from __future__ import annotations

import multiprocessing
import pickle
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
        ("two", "has no features of the video two"),
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
    assert copy._file is None and copy.read("plain")[0, 0] == 2
