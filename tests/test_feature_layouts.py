"""Every layout of features gives the same rows, or a sentence that says what is there."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.datasets import load_corpus
from lib.datasets.annotations import Record
from lib.datasets.cache import DirectRows
from lib.datasets.features import (
    FeatureFile,
    JoinedFeatures,
    holds_features,
    normalize_rows,
    open_features,
)
from lib.datasets.features import store as features_store
from lib.datasets.fingerprint import fingerprint
from lib.datasets.videos import NO_FEATURES
from lib.tools.bigfile import convert_bigfile
from lib.tools.feature_checks import examine_features
from tests.runs import run
from tests.test_dense import write_corpus

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
ROWS = {"v_a": 7, "v_b": 5, "v_c": 11}


def numbers(width: int = 4, extra: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(width)
    return {
        video: draw.standard_normal((n + extra, width)).astype("f4") for video, n in ROWS.items()
    }


def write_bigfile(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Rows shuffled, as those of the release are."""
    folder.mkdir()
    names = [f"{video}_{row}" for video, rows in arrays.items() for row in range(len(rows))]
    order = np.random.default_rng(1).permutation(len(names))
    together = np.concatenate(list(arrays.values()))
    together[order].astype("<f4").tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text(f"{len(names)} {together.shape[1]}")
    (folder / "id.txt").write_text(" ".join(names[i] for i in order))
    frames = {v: [f"{v}_{row}" for row in range(len(rows))] for v, rows in arrays.items()}
    (folder / "video2frames.txt").write_text(str(frames))


def write_files(folder: Path, arrays: dict[str, np.ndarray], write: Callable[..., Any]) -> None:
    folder.mkdir()
    for video, rows in arrays.items():
        write(folder / video, rows)


def write_concatenated(path: Path, arrays: dict[str, np.ndarray], places: str) -> None:
    lengths = [len(rows) for rows in arrays.values()]
    ends = np.cumsum(lengths)
    values = {"lengths": lengths, "offsets": [0, *ends], "starts": [0, *ends[:-1]]}[places]
    with h5py.File(path, "w") as file:
        file["features"] = np.concatenate(list(arrays.values()))
        file["ids"] = np.array(list(arrays), dtype="S")
        file[places] = np.array(values)


def save_tensor(path: Path, rows: np.ndarray) -> None:
    torch.save(torch.from_numpy(rows), path.with_suffix(".pt"))


def save_members(path: Path, rows: np.ndarray) -> None:
    np.savez_compressed(path, features=rows, times=np.arange(len(rows)))


def write_groups(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for video, rows in arrays.items():
            file[f"{video}/rows"] = rows
            file[f"{video}/n_frames"] = len(rows)


WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], None]] = {
    "npy": lambda path, arrays: write_files(path, arrays, np.save),
    "npz": lambda path, arrays: write_files(path, arrays, save_members),
    "npz of BSN": lambda path, arrays: write_files(
        path, arrays, lambda p, rows: np.savez(p, frame_scores=rows[:, None, :, None, None])
    ),
    "npy of five axes": lambda path, arrays: write_files(
        path, arrays, lambda p, rows: np.save(p, rows[None, :, None, None])
    ),
    "npy turned": lambda path, arrays: write_files(path, arrays, lambda p, r: np.save(p, r.T)),
    "npy in Fortran order": lambda path, arrays: write_files(
        path, arrays, lambda p, rows: np.save(p, np.asfortranarray(rows))
    ),
    "npy of float64": lambda path, arrays: write_files(
        path, arrays, lambda p, rows: np.save(p, rows.astype("f8"))
    ),
    "pt": lambda path, arrays: write_files(path, arrays, save_tensor),
    "one pt": lambda path, arrays: torch.save(
        {video: torch.from_numpy(rows) for video, rows in arrays.items()}, path
    ),
    "one pt of an old release": lambda path, arrays: torch.save(
        {video: torch.from_numpy(rows) for video, rows in arrays.items()},
        path,
        _use_new_zipfile_serialization=False,
    ),
    "groups": write_groups,
    "lengths": lambda path, arrays: write_concatenated(path, arrays, "lengths"),
    "offsets": lambda path, arrays: write_concatenated(path, arrays, "offsets"),
    "starts": lambda path, arrays: write_concatenated(path, arrays, "starts"),
    "bigfile": write_bigfile,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_layout_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    arrays = numbers()
    WRITERS[kind](tmp_path / "features", arrays)
    features = FeatureFile(tmp_path / "features", expected_dim=4)
    assert features.keys() == sorted(ROWS) and features.missing([*ROWS, "x"]) == ["x"]
    copy = pickle.loads(pickle.dumps(features))
    for video, rows in arrays.items():
        stored = features.stored(video)
        assert stored is not None and stored.shape == rows.shape
        for each in (features, copy):
            read = each.read(video)
            assert read.dtype == np.float32 and read.flags.c_contiguous
            np.testing.assert_array_equal(read, rows)
    assert fingerprint(features)["width"] == 4
    assert b"HDF" not in pickle.dumps(features) and len(pickle.dumps(features)) < 5000


@pytest.mark.parametrize("kind", WRITERS)
def test_a_change_of_any_layout_is_another_cache(tmp_path: Path, kind: str) -> None:
    path, keys = tmp_path / "features", []
    for width in (4, 5):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        WRITERS[kind](path, numbers(width))
        for each in (path, *(path.iterdir() if path.is_dir() else ())):
            os.utime(each, (1, 1))
        keys += [DirectRows(FeatureFile(path), "v_a", num_frames=4).key for _ in range(2)]
    assert keys[0] == keys[1] != keys[2] == keys[3]


# Names


@pytest.mark.parametrize(
    ("stored", "asked", "way"),
    [
        ("v_abcdefghijk", "abcdefghijk", "v_"),
        ("abcdefghijk", "v_abcdefghijk", "v_"),
        ("v_abcdefghijk", "v_abcdefghijk.mp4", "extension"),
        ("12345@N00_1.mov", "12345@N00_1.avi", "extension"),
        ("12345@N00_1", "12345@N00_1.", "extension"),
        ("s30-d52.avi", "s30-d52", "extension"),
        ("abcdefghijk", "v_abcdefghijk_12", "first 11"),
        ("x_60.0_210.0", "x_60.0_210.0", ""),
    ],
)
def test_a_video_is_found_under_the_names_of_its_releases(
    tmp_path: Path, stored: str, asked: str, way: str
) -> None:
    write_files(tmp_path / "f", {"other": np.zeros((2, 3))}, np.save)
    np.save(tmp_path / "f" / f"{stored}.npy", np.ones((2, 3)))
    features = FeatureFile(tmp_path / "f")
    assert features.read(asked).sum() == 6
    (line,) = features.find([asked]).lines("f") or [""]
    assert way in line and bool(way) == bool(line)


def test_a_number_at_the_end_of_an_id_is_no_extension(tmp_path: Path) -> None:
    write_files(tmp_path / "f", {"x_60.0_210": np.zeros((2, 3))}, np.save)
    assert FeatureFile(tmp_path / "f").missing(["x_60.0_210.0"]) == ["x_60.0_210.0"]


def test_two_videos_are_not_read_from_one_place(tmp_path: Path) -> None:
    write_files(tmp_path / "f", {"abcdefghijk": np.zeros((2, 3))}, np.save)
    ids = ["abcdefghijk_0.0_10.0", "abcdefghijk_10.0_20.0"]
    with pytest.raises(InputError, match="would both be read from abcdefghijk; expected"):
        FeatureFile(tmp_path / "f").missing(ids)


def test_a_name_that_two_files_have_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "f", {"a.mp4": np.zeros((2, 3)), "a.avi": np.ones((2, 3))}, np.save)
    with pytest.raises(InputError, match=r"a may be a.(avi|mp4) or a.(avi|mp4)"):
        FeatureFile(tmp_path / "f").read("a")


# Several sources


def test_sources_are_joined_by_width_and_cut_to_the_shortest(tmp_path: Path) -> None:
    a, b = numbers(4), numbers(6, extra=1)
    WRITERS["npz"](tmp_path / "a", a)
    WRITERS["groups"](tmp_path / "b", b)
    joined = open_features([tmp_path / "a", tmp_path / "b"], expected_dim=10)
    for video in ROWS:
        expected = np.concatenate([a[video], b[video][:-1]], axis=1)
        np.testing.assert_array_equal(joined.read(video), expected)
    assert joined.parts == (4, 6) == pickle.loads(pickle.dumps(joined)).parts
    assert fingerprint(joined)["parts"] == [4, 6]
    rows = DirectRows(joined, "v_a", num_frames=7, normalize=True).read("v_a")
    one, two = normalize_rows(a["v_a"]), normalize_rows(b["v_a"][:-1])
    np.testing.assert_allclose(rows[:6, :4], one[:6], rtol=1e-5)
    np.testing.assert_allclose(rows[:6, 4:], two[:6], rtol=1e-5)


def test_sources_of_other_rates_are_refused_by_both_counts(tmp_path: Path) -> None:
    a, b = numbers(4), numbers(6)
    b["v_c"] = np.repeat(b["v_c"], 2, axis=0)
    WRITERS["npy"](tmp_path / "a", a)
    WRITERS["npy"](tmp_path / "b", b)
    joined = open_features([tmp_path / "a", tmp_path / "b"])
    joined.read("v_a")
    with pytest.raises(InputError, match="v_c has 11 rows in .*a and 22 in .*b; expected the same"):
        joined.read("v_c")
    (tmp_path / "b" / "v_b.npy").unlink()
    assert joined.__class__ is JoinedFeatures
    assert open_features(joined.paths).missing(ROWS) == ["v_b"]


# What is refused, by what it is


def refused(path: Path, video: str = "v_a", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        FeatureFile(path, **options).read(video)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = np.array([Evil()], dtype=object)
    for name, write in {
        "npy": lambda folder: np.save(folder / "v_a.npy", evil, allow_pickle=True),
        "npz": lambda folder: np.savez(folder / "v_a.npz", features=evil),
        "pt": lambda folder: torch.save({"features": Evil()}, folder / "v_a.pt"),
        "old": lambda folder: torch.save(
            Evil(), folder / "v_a.pt", _use_new_zipfile_serialization=False
        ),
    }.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        assert "Python objects" in refused(tmp_path / name)
    torch.save({"v_a": Evil()}, tmp_path / "all.pt")
    assert "Python objects" in refused(tmp_path / "all.pt")


def test_an_archive_that_claims_to_lie_on_several_disks_is_refused(tmp_path):
    """At which zipfile does not even look whether it is one."""
    torch.save({"v_a": torch.zeros(7, 4)}, tmp_path / "all.pt")
    content = (tmp_path / "all.pt").read_bytes()
    disks = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    (tmp_path / "all.pt").write_bytes(content[:-22] + disks + content[-22:])
    assert "multiple disks" in refused(tmp_path / "all.pt")
    (tmp_path / "all.pkl").write_bytes(pickle.dumps({"v_a": Evil()}))
    assert "is a pickle, which could run code" in refused(tmp_path / "all.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "a web page that was saved under its name"),
        (b"", "is empty"),
        (b"\x93NUMPY\x01\x00\x10", "is the file complete"),
        (b"nothing of the kind", "no array of NumPy"),
    ],
)
def test_a_file_that_is_none_is_told_by_what_it_is(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "v_a.npy").write_bytes(content)
    assert said in refused(tmp_path / "f")
    if "complete" not in said and "NumPy" not in said:
        (tmp_path / "f.hdf5").write_bytes(content)
        assert said in refused(tmp_path / "f.hdf5")


def test_sizes_that_no_video_has_and_cut_files_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "f", numbers(), np.save)
    path = tmp_path / "f" / "v_a.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    assert "it ends 8 bytes too early" in refused(tmp_path / "f")
    path.write_bytes(whole.replace(b"(7, 4), }" + b" " * 12, b"(77777777777, 4), }" + b" " * 2))
    assert "expected at most 268,435,456 numbers" in refused(tmp_path / "f")
    os.remove(path)
    os.mkfifo(path)
    assert "no features of the video v_a" in refused(tmp_path / "f")  # and is not waited for


def test_a_packed_archive_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_store, "MOST_VALUES", 1000)
    (tmp_path / "f").mkdir()
    np.savez_compressed(tmp_path / "f" / "v_a.npz", features=np.zeros((10**6, 4), np.float32))
    assert "expected at most 1,000 numbers" in refused(tmp_path / "f")


def test_folders_of_something_else_say_what_is_in_them(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    assert "is a folder of no files; expected one .npy" in refused(folder)
    (folder / "a.txt").write_text("1 2")
    assert "is a folder of 1 .txt files" in refused(folder)
    np.save(folder / "a.npy", np.zeros((2, 3)))
    np.savez(folder / "a.npz", np.zeros((2, 3)))
    assert "1 .npy, 1 .npz, 1 .txt" in refused(folder)
    assert "does not exist; DATASET.FEATURES may name f" in refused(tmp_path / "g")
    assert "does not exist, nor its folder" in refused(tmp_path / "x" / "g")
    (folder / "a.npz").unlink()
    np.save(folder / "b.npy", np.zeros((2, 3)))
    assert holds_features(folder)
    (folder / "a.mp4").touch()
    assert not holds_features(folder) and FeatureFile(folder).keys() == ["a", "b"]
    assert "is the array of one video" in refused(folder / "a.npy")
    for suffix in (".pt", ".pth"):
        torch.save(torch.zeros(2, 3), tmp_path / f"a{suffix}")
    assert "holds a.pt" in refused(tmp_path) and "expected one of them" in refused(tmp_path)


def test_which_of_several_arrays_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "f.hdf5"
    with h5py.File(path, "w") as file:
        file["v_a/one"], file["v_a/two"] = np.zeros((2, 3)), np.ones((2, 5))
    assert "v_a holds one (2, 3), two (2, 5); expected one of shape" in refused(path)
    assert "has no member three; it holds one (2, 3), two" in refused(path, member="three")
    assert FeatureFile(path, member="two").read("v_a").shape == (2, 5)
    path = tmp_path / "g.hdf5"
    with h5py.File(path, "w") as file:
        for name, width in (("one", 3), ("two", 5), ("features", 7)):
            file[f"v_a/{name}"] = np.ones((2, width))
    assert FeatureFile(path).read("v_a").shape == (2, 7)  # as files of TVSum have them
    keys = [DirectRows(FeatureFile(path, member=m), "v_a", num_frames=2).key for m in ("", "two")]
    assert keys[0] != keys[1]


def test_clips_follow_each_other_by_number_and_none_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for start in range(1, 120, 12):
        np.save(folder / f"s1.avi_{start}_{start + 64}.npy", np.full(3, start, np.float32))
        np.save(folder / f"s1.avi_{start}_{start + 128}.npy", np.zeros(3, np.float32))
    features = FeatureFile(folder)
    assert features.read("s1.avi")[:, 0].tolist() == list(range(1, 120, 12))
    (folder / "s1.avi_25_89.npy").unlink()
    assert "s1 has no clip from frame 25 on" in refused(folder, "s1").replace("s1.avi", "s1")


def test_lists_that_do_not_fit_the_rows_are_refused(tmp_path: Path) -> None:
    write_concatenated(tmp_path / "f", numbers(), "offsets")
    with h5py.File(tmp_path / "f", "a") as file:
        file["offsets"][3] = 99
    assert "ids names 3 videos, features has 23 rows, and offsets holds 4" in refused(
        tmp_path / "f"
    )


def test_a_bigfile_is_converted_to_the_rows_that_are_read(tmp_path: Path) -> None:
    write_bigfile(tmp_path / "big", numbers())
    assert convert_bigfile(tmp_path / "big", tmp_path / "f.hdf5") == (3, 23)
    for video in ROWS:
        rows = (FeatureFile(tmp_path / name).read(video) for name in ("big", "f.hdf5"))
        np.testing.assert_array_equal(*rows)


# The samples at hand


@pytest.fixture
def samples(shared: Path) -> Path:
    return shared / "layouts" / "made_features"


@pytest.mark.parametrize(
    "name",
    [
        *("flat.hdf5", "group.hdf5", "offsets.hdf5", "all.pt", "pt", "bigfile"),
        *("npy_5d", "npy_f16", "npy_transposed", "npz_arr_0", "npz_features_a"),
        "npz_frame_scores",
    ],
)
def test_samples_read_to_what_they_hold(samples: Path, name: str) -> None:
    features, expected = FeatureFile(samples / name), np.load(samples / "expected.npz")
    videos = [key[2:] for key in expected if key.startswith("a/")]
    assert features.missing(videos) == []
    for video in videos:
        tolerance = {"rtol": 1e-3, "atol": 1e-3} if name == "npy_f16" else {"rtol": 0}
        np.testing.assert_allclose(features.read(video), expected[f"a/{video}"], **tolerance)


def test_samples_that_need_more_than_a_path(samples: Path) -> None:
    expected = np.load(samples / "expected.npz")
    videos = [key[2:] for key in expected if key.startswith("a/")]
    for member in "ab":
        features = FeatureFile(samples / "members.hdf5", member=member)
        for video in videos:
            np.testing.assert_array_equal(features.read(video), expected[f"{member}/{video}"])
    assert "v_aaaaaaaaaaa holds a (7, 8), b (8, 6)" in refused(
        samples / "members.hdf5", "v_aaaaaaaaaaa"
    )
    joined = open_features([samples / "npz_features_a", samples / "npz_features_b"])
    for video in videos:
        a, b = expected[f"a/{video}"], expected[f"b/{video}"]
        np.testing.assert_array_equal(joined.read(video), np.concatenate([a, b[: len(a)]], axis=1))
    np.testing.assert_array_equal(
        FeatureFile(samples / "tacos_clips").read("s30-d52.avi"),
        np.load(samples / "tacos_clips.expected.npy"),
    )
    assert "a pointer of Git LFS" in refused(samples / "not_arrays", "v_aaaaaaaaaaa")
    assert "a web page" in refused(samples / "not_arrays", "v_bbbbbbbbbbb")


# The cases at hand, with their own command lines


def doctor(case: str, tmp_path: Path, *options: object) -> str:
    here = CASES / case
    if not here.is_dir():
        pytest.skip(f"needs the case {here}")
    ended = run(
        "doctor",
        *("--cfg", here / "exp.yaml", "--dataDir", here / "data", "--modelDir", tmp_path),
        *("--workers", 0, *options),
        output=tmp_path / "output.txt",
    )
    assert ended.status < 2, ended.output
    return " ".join(ended.output.replace("|", " ").split())


@pytest.mark.parametrize("case", ["npy_folder", "h5_group_of_several_members"])
def test_the_doctor_reads_the_case(case: str, tmp_path: Path) -> None:
    assert "12 videos read, " in doctor(case, tmp_path)


def test_the_doctor_lists_all_videos_without_features(tmp_path: Path) -> None:
    listed = tmp_path / "missing.txt"
    output = doctor("videos_without_features", tmp_path, "--missing", listed)
    assert listed.read_text() == "train\tv_clip00003\ntest\tv_clip00011\n"
    assert "problem feats.hdf5 1 of the 8 train videos are missing" in output
    output = doctor("videos_without_features", tmp_path, "--set", "DATASET.MISSING_VIDEOS=drop")
    assert "0 problems" in output and "warning feats.hdf5 1 of the 8 train videos" in output


def test_a_run_goes_on_without_the_videos_that_lack_features(tmp_path: Path) -> None:
    here = CASES / "videos_without_features"
    if not here.is_dir():
        pytest.skip(f"needs the case {here}")
    flags = ("--cfg", here / "exp.yaml", "--dataDir", here / "data", "--modelDir", tmp_path)
    flags = (*flags, "--workers", 0, "--gpus", "cpu", "--set", "DATASET.CACHE=memory")
    output = tmp_path / "output.txt"
    ended = run("dense_train", *flags, output=output)
    assert ended.status == 2
    assert "lacks 1 of the 8 train videos, e.g. v_clip00003; DATASET.MISSING_VIDEOS" in ended.output
    dropping = (*flags, "--verbose", "--set", "DATASET.MISSING_VIDEOS=drop")
    for command, split, sentences in (("dense_train", "train", 3), ("best_test", "test", 3)):
        ended = run(command, *dropping, output=output)
        assert ended.status == 0, ended.output
        assert (
            f"{split}.json: " in ended.output and f"  {NO_FEATURES}: {sentences} " in ended.output
        )


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    rows = numbers()["v_a"]
    for number in range(300):
        np.save(folder / f"v_{number:03}.npy", rows)
    looks, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (looks.append(path), real(path))[1])
    features = FeatureFile(folder)
    ids = [f"{number:03}.mp4" for number in range(300)]
    records = {"train": [Record(i, i, 3.5, [(0, 1)], ["x"]) for i in ids]}
    assert features.missing(ids) == []
    examine_features(features, records)
    fingerprint(features)
    direct = DirectRows(features, ids[0], num_frames=4)
    pickle.loads(pickle.dumps(direct)).read(ids[7])
    assert direct.key and looks == [folder]


def test_rows_are_held_against_the_rate_that_is_stated(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    draw = np.random.default_rng(0)
    records = []
    for number, rows in enumerate((100, 103, 200, 150)):
        np.save(folder / f"v{number}.npy", draw.random((rows, 3)))
        seconds = 200.0 if number < 3 else 300.0  # the third has twice the rows
        records.append(Record(f"v{number}", f"v{number}", seconds, [(0, 1)], ["x"]))

    def finding(**options: float) -> tuple[str, str]:
        findings = examine_features(FeatureFile(folder), {"train": records}, **options)
        return next((f.level, f.description) for f in findings if "s per row" in f.description)

    level, description = finding()
    assert level == "warning" and "1 videos are off by more than 5 % of it (v2 1)" in description
    level, description = finding(seconds_per_row=2.0)
    assert (
        level == "warning" and "1 videos are off by more than 5 % of what is stated" in description
    )
    level, description = finding(seconds_per_row=1.0)
    assert "3 videos are off" in description
    np.save(folder / "v2.npy", draw.random((101, 3)))
    assert finding()[0] == finding(seconds_per_row=2.0)[0] == "note"


# Videos without features


def corpus_without(tmp_path: Path, *gone: str) -> dict[str, Any]:
    train = [("a", ["x y", "x"]), ("b", ["y", "z z"]), ("c", ["x z"])]
    splits = {"train": train, "val": [("e", ["x"])], "test": [("d", ["y", "x"]), ("f", ["z"])]}
    write_corpus(tmp_path / "charades", splits, skip=gone)
    return {"name": "charades", "data_dir": tmp_path, "num_frames": 8, "num_clips": 4}


def test_paragraphs_of_missing_videos_are_left_out_and_counted(tmp_path: Path) -> None:
    options = corpus_without(tmp_path, "b", "d")
    with pytest.raises(InputError, match=r"lacks 1 of the 3 train videos, e.g. b; DATASET.MISSING"):
        load_corpus(splits=("train",), **options)
    corpus = load_corpus(splits=("train", "test"), missing_videos="drop", **options)
    assert corpus["train"].corpus == ("a", "c") and corpus["test"].corpus == ("f",)
    train, test = corpus.cleaning["train"], corpus.cleaning["test"]
    assert (train.counts[NO_FEATURES], test.counts[NO_FEATURES]) == (2, 2)
    assert (train.paragraphs, train.sentences, train.videos) == (2, 3, 2)
    assert (test.sentences_read, test.sentences, test.paragraphs) == (3, 1, 1)
    assert any(f"{NO_FEATURES}: 2 (e.g. b#0; b#1)" in line for line in corpus.lines())
    assert "z" in corpus.vocabulary.words  # of c; what only b says is no training word


def test_training_and_test_have_one_vocabulary(tmp_path: Path) -> None:
    options = {**corpus_without(tmp_path, "b"), "missing_videos": "drop"}
    words = {load_corpus(splits=(s,), **options).vocabulary.words for s in ("train", "test")}
    assert len(words) == 1


def test_a_corpus_of_other_names_is_told_by_both(tmp_path: Path) -> None:
    options = corpus_without(tmp_path, "d", "f")
    for rule in ("refuse", "drop"):
        with pytest.raises(InputError, match=r"lacks 2 of the 2 test videos, .* such as a, b, c"):
            load_corpus(splits=("test",), missing_videos=rule, **options)


def test_a_corpus_of_joined_folders(tmp_path: Path) -> None:
    options = corpus_without(tmp_path)
    folder = tmp_path / "charades"
    with h5py.File(folder / "vgg_rgb_features.hdf5") as file:
        rows = {video: file[video][()] for video in file}
    write_files(folder / "clip", rows, lambda p, r: np.savez(p, features=r))
    write_files(folder / "slow", rows, lambda p, r: np.savez(p, features=r[:, :2]))
    for cache in ("direct", "disk", "memory"):
        corpus = load_corpus(
            splits=("train",), features=["clip", "slow"], feature_dim=7, cache=cache, **options
        )
        assert corpus.dims.video_dim == 7
        rows_of = corpus["train"].videos[0]
        assert torch.allclose(rows_of.square().sum(dim=1)[1:].max(), torch.tensor(2.0), atol=0.3)
    assert "rows joined by width, 5 + 2" in corpus.lines()
    assert [p.name for p in (folder / "cache").iterdir()][0].startswith("clip-joined-8-float32-")


def test_the_experiment_says_one_path_or_several(tmp_path: Path) -> None:
    from lib.config.config import load_config

    path = tmp_path / "exp.yaml"
    text = "BASE: {base}\nDATASET: {{FEATURES: {features}}}\n"
    base = Path(__file__).resolve().parents[1] / "experiments/synthetic/dmr_jrg.yaml"
    for features, expected in (("a.hdf5", "a.hdf5"), ("[clip, slow]", ["clip", "slow"])):
        path.write_text(text.format(base=base, features=features))
        assert expected == load_config(path).DATASET.FEATURES
    path.write_text(text.format(base=base, features="{a: 1}"))
    with pytest.raises(InputError, match="FEATURES is a mapping, expected text or list of text"):
        load_config(path)
