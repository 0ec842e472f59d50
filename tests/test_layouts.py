"""The annotation layouts of the field: each is read to what its authors say, or refused for the
right reason."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base import stand_ins
from lib.base.errors import InputError
from lib.datasets.annotations import (
    Cleaning,
    Paragraph,
    Record,
    SplitMissing,
    durations,
    read_paragraphs,
    read_records,
    recognise,
)
from lib.datasets.annotations.descriptions import separate
from lib.datasets.catalog import CorpusFacts
from lib.datasets.splits import with_moments
from lib.tools.doctor import examine_annotations
from tests.layouts import LAYOUTS, WORLD, Layout, lines, numpy_file
from tests.stress.fuzz import Evil


def written(folder: Path, name: str, data: Any) -> Path:
    path = folder / name
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    path.write_bytes(data)
    return path


def placed(folder: Path, layout: Layout) -> Path:
    for name, text in layout.beside:
        written(folder, name, text)
    return written(folder, layout.file, layout.data)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_of_one_world_gives_the_same_paragraphs(
    tmp_path: Path, layout: Layout
) -> None:
    paragraphs, _ = read_paragraphs(
        placed(tmp_path, layout), split=layout.split, untimed=not layout.timed
    )
    assert [p.video_id for p in paragraphs] == [video for video, *_ in WORLD]
    for paragraph, (video, seconds, sentences) in zip(paragraphs, WORLD, strict=True):
        assert paragraph.duration == seconds
        assert paragraph.sentences == tuple(text for text, _ in sentences)
        expected = [moment if layout.timed else (np.nan, np.nan) for _, moment in sentences]
        np.testing.assert_array_equal(paragraph.moments, expected)
        assert paragraph.sentence_ids == layout.ids[video]
        assert len(paragraph.windows) == (len(sentences) if layout.name == "didemo" else 0)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_sentence_can_be_a_paragraph_under_its_own_id(tmp_path: Path, layout: Layout) -> None:
    paragraphs, cleaning = read_paragraphs(
        placed(tmp_path, layout), split=layout.split, untimed=True, paragraphs="row"
    )
    ids = [name for video, *_ in WORLD for name in layout.ids[video]]
    assert [p.paragraph_id for p in paragraphs] == ids
    assert [p.sentence_ids for p in paragraphs] == [(name,) for name in ids]
    assert (cleaning.paragraphs, cleaning.videos) == (3, 2)


# Several moments of a sentence


def queries(*rows: dict[str, Any]) -> bytes:
    base = {"vid": "x_0.0_150.0", "duration": 150, "query": "A man runs."}
    return lines([{"qid": number, **base, **row} for number, row in enumerate(rows)])


def test_all_windows_of_a_query_are_kept_and_the_first_is_its_moment(tmp_path: Path) -> None:
    data = queries(
        {"relevant_windows": [[20, 30], [2, 4], [140, 160], [150, 152]]},
        {"relevant_windows": [[5, 6]]},
        {"relevant_windows": None},
    )
    ((paragraph,), cleaning) = read_paragraphs(written(tmp_path, "a.jsonl", data), untimed=True)
    assert paragraph.video_id == "x_0.0_150.0"  # .0 is no extension
    np.testing.assert_array_equal(paragraph.moments, [[20, 30], [5, 6], [np.nan, np.nan]])
    first, second, third = paragraph.windows
    np.testing.assert_array_equal(first, [[20, 30], [2, 4], [140, 150]])
    np.testing.assert_array_equal(second, [[5, 6]])
    assert third.shape == (0, 2)
    assert cleaning.counts == {
        "moments clipped to the video": 1,
        "sentences of several moments, empty ones of which left out": 1,
        "sentences without timestamps": 1,
    }


def test_windows_follow_their_sentences_when_these_are_sorted_or_left_out(tmp_path: Path) -> None:
    data = queries(
        {"relevant_windows": [[20, 30], [2, 4]]},
        {"relevant_windows": [[160, 170], [150, 151]], "query": "Outside."},
        {"relevant_windows": [[160, 170], [1, 2]], "query": "He stops."},
    )
    ((paragraph,), cleaning) = read_paragraphs(written(tmp_path, "a.jsonl", data), order="time")
    assert paragraph.sentence_ids == ("2", "0")
    np.testing.assert_array_equal(paragraph.moments, [[1, 2], [20, 30]])
    np.testing.assert_array_equal(paragraph.windows[0], [[1, 2]])
    assert cleaning.counts["sentences with an empty moment dropped"] == 1


def test_windows_stay_with_the_sentences_that_have_moments() -> None:
    moments = np.array([[0, 1], [np.nan, np.nan], [2, 3]])
    windows = tuple(np.full((n, 2), n, dtype=np.float64) for n in (2, 0, 1))
    whole = Paragraph("v", "v", 9.0, ("a", "b", "c"), moments, ("0", "1", "2"), windows)
    ((kept),) = with_moments([whole])
    assert kept.sentence_ids == ("0", "2")
    assert [len(one) for one in kept.windows] == [2, 1]


def didemo(*times: Any, **more: Any) -> list[dict[str, Any]]:
    base = {"video": "a.mov", "num_segments": 5, "description": "A man runs.", **more}
    return [{**base, "times": value, "annotation_id": i} for i, value in enumerate(times)]


def test_the_moment_of_several_annotators_is_the_most_frequent(tmp_path: Path) -> None:
    data = didemo([[4, 4], [1, 2], [1, 2], [0, 0]], [[3, 3], [0, 0], [0, 0], [3, 3]])
    ((paragraph,), cleaning) = read_paragraphs(written(tmp_path, "a.json", data))
    assert paragraph.duration == 25
    np.testing.assert_array_equal(paragraph.moments, [[5, 15], [15, 20]])  # of two the first
    np.testing.assert_array_equal(paragraph.windows[0], [[20, 25], [5, 15], [5, 15], [0, 5]])
    assert any("segments of 5 s, the last included" in line for line in cleaning.lines())
    for wrong in ([[5, 5]], [[2, 1]], [[0.5, 1]], [[-1, 0]]):
        with pytest.raises(InputError, match="expected segments from 0 to 4"):
            read_paragraphs(written(tmp_path, "a.json", didemo(wrong)))


# Several splits in one file


def test_the_split_asked_for_is_read_under_the_name_that_the_file_gives_it(tmp_path: Path) -> None:
    entry = {"duration": 9, "annotations": [{"segment": [1, 2], "sentence": "A man runs."}]}
    data = {
        "database": {
            "a": {**entry, "subset": "training"},
            "b": {**entry, "subset": "validation"},
            "c": {**entry, "subset": "test_ood"},
        }
    }
    path = written(tmp_path, "a.json", data)
    for asked, video in (("train", "a"), ("valid", "b"), ("val", "b"), ("test_ood", "c")):
        assert [r.video_id for r in read_records(path, split=asked)] == [video]
    held = r"holds the splits training \(1 videos\), validation \(1 videos\), test_ood \(1 videos\)"
    with pytest.raises(SplitMissing, match=f"{held}; expected 'test'"):
        read_records(path, split="test")
    with pytest.raises(SplitMissing, match=f"{held}; expected one of them to be asked for"):
        read_records(path)
    del data["database"]["c"]["subset"]
    with pytest.raises(InputError, match="c has the split None; others have 'training'"):
        read_records(written(tmp_path, "a.json", data), split="train")


def test_a_file_of_one_split_is_read_whatever_is_asked_for(tmp_path: Path) -> None:
    path = placed(tmp_path, LAYOUTS[0])
    assert len(read_records(path, split="test")) == len(read_records(path)) == 2


# Durations that the file does not give


CAPTIONS = "v_a#enc#0 A man runs.\nv_b#enc#0 He # stops.\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "video_id,length\nv_a,20\nv_b,10.5\n"),
        ("x.csv", "a,20.0,300\nb,10.5,200"),  # COOT's: no head, no end of line, ids without v_
        ("x_duration.csv", 'id;note;duration\nv_a;"two\nlines";20\nv_b;;10.5\n'),
        ("tvr_video2dur_idx.json", '{"train": {"v_a": [20, 0]}, "val": {"v_b": [10.5, 1]}}'),
        ("charades.json", '{"v_a": {"duration": 20}, "v_b": {"duration": 10.5, "subset": "x"}}'),
        ("durations.json", '{"v_a": 20, "v_b": 10.5}'),
        ("MSRVTT_data.json", json.dumps({"sentences": [], "videos": [
            {"video_id": "v_a", "start time": 5, "end time": 25},
            {"video_id": "v_b", "start time": 0.5, "end time": 11},
        ]})),
    ],
)  # fmt: skip
def test_durations_are_found_beside_the_annotations(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path, "a.caption.txt", CAPTIONS)
    written(tmp_path, name, text)
    (first, second), cleaning = read_paragraphs(path, untimed=True)
    assert (first.duration, second.duration) == (20, 10.5)
    assert second.sentences == ("He # stops.",)
    assert f"  durations are from {name}" in cleaning.lines()


def test_without_durations_the_message_says_what_each_file_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, "a.caption.txt", CAPTIONS)
    with pytest.raises(InputError, match=r"v_a lacks duration, .* its 2 videos; put a CSV file"):
        read_records(path)
    written(tmp_path, "b.csv", "id,duration\nv_a,3\n")
    written(tmp_path, "c.csv", "id,duration\nv_a,-3\nv_b,3\n")
    written(tmp_path, "d.csv", "id,words\nv_a,x\n")
    written(tmp_path, "notes.json", '{"v_a": 20, "v_b": 10}')  # could be anything: not opened
    os.mkfifo(tmp_path / "e.csv")
    (tmp_path / "f.csv").mkdir()
    with pytest.raises(InputError) as caught:
        read_records(path)
    for said in (
        "b.csv has no row for v_b",
        "c.csv has no positive number for v_a",
        "d.csv has the columns id, words, without id and duration",
        "e.csv is not readable",
        "f.csv is not readable",
    ):
        assert said in str(caught.value)
    assert "notes.json" not in str(caught.value)


def test_of_several_files_of_durations_the_one_read_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a.caption.txt", CAPTIONS)
    for name, seconds in (("b.csv", 20), ("c.csv", 20), ("d.csv", 21)):
        written(tmp_path, name, f"v_a,{seconds}\nv_b,10\n")
    _, cleaning = read_paragraphs(path, untimed=True)
    assert cleaning.remarks == [
        "durations are from b.csv, not from c.csv, d.csv (other durations: d.csv)"
    ]


def test_training_opens_no_file_of_the_test_for_durations(tmp_path: Path) -> None:
    path = written(tmp_path, "gt.caption.txt", CAPTIONS)
    written(tmp_path, "x_test.csv", "v_a,20\nv_b,10\n")
    for split in ("train", ""):
        with pytest.raises(InputError, match="x_test.csv is the test's"):
            read_records(path, split=split)
    assert [r.duration for r in read_records(path, split="testing")] == [20, 10]


# Pickles


def entry(**more: Any) -> dict[str, Any]:
    return {
        "video": "v",
        "duration": 9.0,
        "timestamps": [[0, 1]],
        "sentences": ["A man runs."],
        **more,
    }


def test_no_code_of_a_numpy_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "a.npy", numpy_file([entry(duration=Evil())]))
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.mkdir; .* no code is run"):
        read_records(path)
    assert not (tmp_path / "executed").exists()


def with_pickle(data: bytes) -> bytes:
    """A NumPy file's head before another pickle."""
    whole = numpy_file([entry()])
    return whole[: 10 + struct.unpack("<H", whole[8:10])[0]] + data


def test_damaged_and_foreign_numpy_files_are_refused(tmp_path: Path) -> None:
    whole = numpy_file([entry()])
    shared_list: list[Any] = ["A man runs."] * 1000
    endless: list[Any] = []
    endless.append(endless)
    cases = {
        "is not a readable NumPy file": whole[:9],
        "holds no readable pickle": whole[:-20],
        "holds no readable pickle .MemoryError": with_pickle(b"\x80\x02}r\xff\xff\xff\xff."),
        "repeats its own parts without end": numpy_file(
            [entry(sentences=shared_list, timestamps=shared_list)] * 1000
        ),
        r"v sentence 1: moment is \[\[\[": numpy_file([entry(timestamps=[endless])]),
        r"asks for numpy.dtype\('f8'\)": numpy_file([entry(duration=np.zeros(3))]),
        "asks for new attributes of": with_pickle(
            pickle.dumps(np.zeros(1, dtype=object), 2).split(b"q\x03")[0] + b"}b."
        ),
        "paragraph 1 is 'v'; expected an object": numpy_file(["v"]),
    }
    for message, data in cases.items():
        with pytest.raises(InputError, match=message):
            read_records(written(tmp_path, "a.npy", data))
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"an array of numbers of shape \(3, 4\)"):
        read_records(tmp_path / "b.npy")


def test_a_pickle_may_take_so_much_memory_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every system refuses what twelve bytes ask for."""
    asked = []
    monkeypatch.setattr(
        stand_ins, "bounded_memory", lambda more: asked.append(more) or contextlib.nullcontext()
    )
    data = numpy_file([entry()])
    read_records(written(tmp_path, "a.npy", data))
    assert asked == [2**30 + 20 * len(data)]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numpy_files_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    array = np.array([entry(), entry(sentences=["naïve"])], dtype=object)
    path = written(tmp_path, "a.npy", with_pickle(pickle.dumps(array, protocol)))
    first, second = read_paragraphs(path)[0]
    assert (first.paragraph_id, second.paragraph_id) == ("v", "v#2")
    assert first.sentence_ids + second.sentence_ids == ("v#0", "v#1")
    assert second.sentences == ("naïve",)


# What is none of them


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lines([{"qid": 1, "vid": "v", "query": "x", "pred_relevant_windows": []}] * 2),
         "line 1 has pred_relevant_windows: these are predictions"),
        ({"version": "1.0", "results": {"v": []}}, "has results: these are predictions"),
        ({"video2idx": {"v": 0}, "VCMR": []}, "has video2idx: these are predictions"),
        ({"database": {"v": {"duration": 9, "annotations": [{"label": "x", "segment": [0, 1]}]}}},
         r"v sentence 1 has labels \(label\) and no sentences"),
        ({"v": {"subset": "training", "duration": 9.0, "actions": [[1, 0.0, 2.0]]}},
         r"v has labels \(actions\) and no sentences"),
        ({"train": {"v": [9.0, 0]}}, "train holds 1 pairs of numbers .durations and indices"),
        (["v_a", "v_b"], r"is a list of 2 ids \(e.g. 'v_a'\) without sentences"),
        ({"v": "a man runs he stops"}, "v is a text .* without times or ends of sentences"),
        ({"Run": {"v.mp4": {"clip": True, "v_duration": 9, "bounds": [0, 1], "steps": []}}},
         "no video has steps: HiREST withholds those of its test"),
        ({"negative video_0": {"v": {}}}, "negative video_0 names v and says nothing of them"),
        (lines([{"desc": "x", "desc_id": 1}] * 2),
         "line 1 lacks a video .vid, .*; its keys are desc, desc_id"),
        ({"v": {"duration": 9}}, "v lacks a sentence .*; its keys are duration"),
        ({"videos": [{"video_id": "v"}], "sentences": [{"video_id": "w"}]},
         "caption 1 is .*; expected one of a video in the file"),
        ({"videos": [{}], "sentences": []}, "video 1 is {}; expected one with a video_id"),
        ({"videos": [{"video_uid": "v"}]}, "lacks a list clips, as Ego4D's"),
        ({"v": {"fps": 1e-320, "num_frames": 1, "timestamps": [[0, 1]], "sentences": ["x"]}},
         "v: num_frames / fps is inf s"),
        ({"a": {"subset": "x", "sentences": [], "timestamps": []}, "b": {"sentences": []}},
         "b has the split None; others have 'x'"),
        ({"p": {"v": {"steps": [1], "v_duration": 9}}}, "v sentence 1 is 1; expected an object"),
        ({"p": {"v": {"steps": []}}, "q": 3}, "q is 3; expected an object of videos"),
        ({"p": {"v": {"steps": []}}, "q": {"w": 3}}, "w is 3; expected an object with steps"),
        (b"video_id,sentence\nv,x,y\n", "line 2 has 3 columns; expected 2"),
        (b"video_id,sentence,duration\nv,x,long\n", "line 2: duration is nan"),
        (b'video_id,sentence\nv,"' + b"x" * 140_000, "is not a readable CSV file"),
        (b"v#0 A man runs. [0, 1] 9\nv#1 He stops.\n", "line 2 is 'v#1 He stops.'; expected"),
        (b"v#0 A man runs.\nv#1 He stops. [0, 1] 9\n", "line 1 is 'v#0 A man runs.'; expected"),
        (b"v#0 A man runs.\nv He stops.\n", "line 2 is 'v He stops.'; expected 'sentence-id"),
        (b"id,subject,length\nv,1,9\n", "is neither JSON nor JSON Lines"),
        (b"video_id\nv\n", "is neither JSON nor JSON Lines"),
        (b"video_id,split\nv,train\n", "the first line lacks a sentence"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"PK\x03\x04rest", "is a zip archive; unpack it"),
        (b"\x1f\x8brest", "is compressed"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (pickle.dumps([entry()]), "is a pickle"),
    ],
)  # fmt: skip
def test_what_is_no_annotations_is_called_by_its_name(
    tmp_path: Path, data: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_records(written(tmp_path, "a.json", data))
    assert "\n" not in str(caught.value)


ROW = {"qid": 1, "vid": "v", "duration": 9, "query": "A man runs.", "relevant_windows": [[0, 1]]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lines([ROW]) + b'{"qid": 2,\n' + lines([ROW | {"qid": 3}]), "line 2 is not JSON"),
        (b'{"qid": 2,\n' + lines([ROW]), "line 1 is not JSON"),
        (lines([ROW]) + b"x\n", "line 2 is not JSON .*: 'x'"),
        (lines([ROW, ROW | {"qid": 3}])[:-9], "line 2, the last, is cut off .*complete"),
        (lines([ROW]) + b'{"a": 1, "a": 2}\n', "line 2: the key 'a' occurs twice"),
        (lines([ROW]) + b"[1]\n", r"line 2 is \[1\]; expected an object"),
        (lines([ROW]) + b"[" * 99_999 + b"\n", "line 2 is nested too deeply"),
        (lines([ROW, ROW]), r"v \(line 2\) has the id '1' of v \(line 1\)"),
        (lines([ROW, ROW | {"qid": 2, "duration": 8}]), r"\(line 2\) has the duration 8, a line"),
        (lines([ROW, ROW | {"qid": None}]), r"line 2\): qid is None; expected a name"),
        (lines([ROW, ROW | {"vid": 1.5}]), "line 2: vid is 1.5; expected a name"),
        (lines([ROW, ROW | {"query": ["x"]}]), r"sentence is \['x'\]; expected text"),
        (lines([ROW, ROW | {"qid": 2, "relevant_windows": [[1]]}]), r"moment is \[1\]"),
    ],
)
def test_a_fault_in_json_lines_is_reported_with_its_line(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_records(written(tmp_path, "a.jsonl", data))
    assert len(str(caught.value)) < 500


def test_json_lines_may_be_one_line_or_hold_other_separators(tmp_path: Path) -> None:
    assert len(read_records(written(tmp_path, "a.jsonl", lines([ROW])))) == 1
    text = json.dumps(ROW | {"query": "A man\u2028runs\x85on."}, ensure_ascii=False)
    other = json.dumps(ROW | {"qid": 2})
    path = written(tmp_path, "b.jsonl", f"\ufeff{text}\r\n\r\n{other}".encode())
    ((paragraph,), _) = read_paragraphs(path)
    assert paragraph.sentences == ("A man runs on.", "A man runs.")


def test_files_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "a.caption.txt", CAPTIONS)
    written(tmp_path, "b.csv", "v_a,20\nv_b,10\n")
    assert len(read_records(path)) == 2
    monkeypatch.setattr(durations, "_MOST_BYTES", 9)
    with pytest.raises(InputError, match="b.csv is too large"):
        read_records(path)
    monkeypatch.setattr(recognise, "_MOST_BYTES", 9)
    with pytest.raises(InputError, match="has more than 9 bytes"):
        read_records(path)


def test_videos_without_annotations_are_counted_in_a_file_of_all_videos(tmp_path: Path) -> None:
    (layout,) = (layout for layout in LAYOUTS if layout.name == "youcook2")
    data = json.loads(layout.data)
    data["database"]["v_c"] = {"duration": 9, "subset": "training"}
    _, cleaning = read_paragraphs(written(tmp_path, "a.json", data), split="train")
    assert cleaning.counts == {"videos without sentences": 1}


def test_keys_that_are_not_read_are_said_once(tmp_path: Path) -> None:
    rows = [ROW | {"qid": i, "saliency_scores": [[1]], "relevant_clip_ids": [0]} for i in range(9)]
    path = written(tmp_path, "train.jsonl", lines(rows))
    said = "keys that are not read: relevant_clip_ids, saliency_scores"
    assert read_paragraphs(path)[1].remarks == [said]
    names = {split: (f"{split}.jsonl",) for split in ("train", "val", "test")}
    findings, _ = examine_annotations(CorpusFacts("x", "", "", "", names), tmp_path)
    assert ("note", "train.jsonl", said) in {(f.level, f.source, f.description) for f in findings}


def test_a_time_outside_by_arithmetic_is_moved_and_not_counted(tmp_path: Path) -> None:
    times = [[0, 9 + 9e-7], [-9e-7, 1], [0, 9 + 2e-6]]
    data = {"v": {"duration": 9.0, "timestamps": times, "sentences": ["a man", "runs", "on"]}}
    ((paragraph,), cleaning) = read_paragraphs(written(tmp_path, "a.json", data))
    np.testing.assert_array_equal(paragraph.moments, [[0, 9], [0, 1], [0, 9]])
    assert cleaning.counts == {"moments clipped to the video": 1}


# ActivityNet-CD


def described(*starts: float, space: str = " ") -> dict[str, Any]:
    """A paragraph in ActivityNet Captions' spelling."""
    sentences = [f"{space if i else ''}A man runs {i}." for i in range(len(starts))]
    return {
        "duration": 100.0,
        "timestamps": [[start, start + 30] for start in starts],
        "sentences": sentences,
    }


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        "duration": 100.0,
        "timestamps": first["timestamps"] + second["timestamps"],
        "sentences": first["sentences"] + second["sentences"],
    }


def joined_file(count: int, whole: int, space: str = " ") -> dict[str, Any]:
    two = joined(described(0, 70, 65, space=space), described(0, 40, space=space))
    alone = {f"v_{i}": described(0, 50, 20, space=space) for i in range(whole)}
    return {f"v_j{i}": two for i in range(count)} | alone


def test_two_descriptions_under_one_key_are_cut_apart(tmp_path: Path) -> None:
    paragraphs, cleaning = read_paragraphs(written(tmp_path, "a.json", joined_file(5, 20)))
    assert len(paragraphs) == 30
    assert [p.paragraph_id for p in paragraphs[:2]] == ["v_j0", "v_j0#2"]
    assert [len(p.sentences) for p in paragraphs[:2]] == [3, 2]
    assert paragraphs[1].sentence_ids == ("v_j0#3", "v_j0#4")
    assert "  5 of 25 paragraphs hold two annotators' descriptions" in "\n".join(cleaning.lines())


@pytest.mark.parametrize(
    ("count", "whole", "space"),
    [(1, 3, " "), (2, 100, " "), (5, 20, "")],
    ids=["one alone", "two of a hundred", "no spaces"],
)
def test_files_of_one_description_each_stay_as_they_are(
    tmp_path: Path, count: int, whole: int, space: str
) -> None:
    path = written(tmp_path, "a.json", joined_file(count, whole, space))
    paragraphs, cleaning = read_paragraphs(path)
    assert len(paragraphs) == count + whole and not cleaning.remarks


def test_the_two_validation_files_joined_come_apart_again(shared: Path) -> None:
    folder = shared / "annotations" / "activitynet"
    first, second = (
        {record.video_id: record for record in read_records(folder / f"{name}.json")}
        for name in ("val", "test")
    )
    both = [
        Record(
            video,
            video,
            one.duration,
            one.moments + second[video].moments,
            one.sentences + second[video].sentences,
        )
        for video, one in first.items()
        if video in second
    ]
    cleaning = Cleaning(folder)
    parts: dict[str, list[list[str]]] = {record.video_id: [] for record in both}
    for record in separate(both, cleaning):
        parts[record.video_id].append(record.sentences)
    right = sum(found == [first[v].sentences, second[v].sentences] for v, found in parts.items())
    assert (len(both), right) == (4_885, 4_844)
    for own in (first, second):
        assert separate(list(own.values()), cleaning) == list(own.values())


def test_the_samples_of_activitynet_cd_are_cut_where_the_first_annotator_ends(
    shared: Path,
) -> None:
    folder = shared / "annotations" / "activitynet"
    own = [json.loads((folder / f"{n}.json").read_text()) for n in ("train", "val", "test")]
    for name in ("anet_val", "anet_test_iid", "anet_test_ood"):
        paragraphs, _ = read_paragraphs(shared / "layouts" / "activitynet_cd" / f"{name}.json")
        parts: dict[str, list[int]] = {}
        for paragraph in paragraphs:
            parts.setdefault(paragraph.video_id, []).append(len(paragraph.sentences))
        # One second description of the 29 begins with a space.
        for video in parts.keys() - {"v_lAsPxkZD6Xc"}:
            right = [len(file[video]["sentences"]) for file in own if video in file]
            assert parts[video] == right, video


# The samples


SAMPLES: list[tuple[str, str, int, int, int, int, tuple[float, float], float]] = [
    # file, split, videos, paragraphs, sentences, windows, the first moment, its video's duration
    ("activitynet_cd/anet_val.json", "", 25, 36, 129, 129, (0, 14.82), 197.58),
    ("activitynet_cd/anet_test_iid.json", "", 25, 38, 138, 138, (0, 15.93), 199.14),
    ("activitynet_cd/anet_test_ood.json", "", 25, 29, 144, 144, (0, 3.16), 126.6),
    ("activitynet_cg/train.json", "", 20, 20, 67, 67, (0.83, 19.86), 82.73),
    ("activitynet_cg/test_trivial.json", "", 20, 20, 37, 37, (0, 7.49), 36.55),
    ("activitynet_cg/novel_composition.json", "", 20, 22, 46, 46, (4.14, 33.36), 55.15),
    ("activitynet_cg/novel_word.json", "", 20, 22, 33, 33, (107.89, 145.65), 215.78),
    ("charades_cd/charades_train.json", "", 25, 25, 51, 51, (17.7, 23.4), 23.5625),
    ("charades_cd/charades_val.json", "", 25, 25, 54, 54, (24.3, 30.4), 31.125),
    ("charades_cd/charades_test_iid.json", "", 25, 25, 68, 68, (28, 35.4375), 35.4375),
    ("charades_cd/charades_test_ood.json", "", 25, 25, 60, 60, (39.3, 45), 47.625),
    ("charades_cg/train.json", "", 30, 30, 64, 64, (22.7, 33.12), 33.12),
    ("charades_cg/test_trivial.json", "", 30, 30, 57, 57, (7.3, 17.3), 29.42),
    ("charades_cg/novel_composition.json", "", 30, 30, 41, 41, (0, 6.9), 33.67),
    ("charades_cg/novel_word.json", "", 30, 30, 38, 38, (7.3, 28.1), 51.67),
    ("charades_official/charades_sta_train.txt", "", 19, 19, 40, 40, (0, 6.9), 33.67),
    ("coot_captioning/youcook2_captioning_val.json", "", 25, 25, 212, 212, (47, 60), 206.86),
    ("coot_captioning/activitynet_captioning_val_1.json", "", 20, 20, 74, 74, (0.28, 55.15), 55.15),
    ("cpl_rows/charades_test.json", "", 25, 25, 60, 60, (24.3, 30.4), 30.96),
    ("cpl_rows/activitynet_test_data.json", "", 19, 19, 60, 60, (0, 31.2), 159.99),
    ("densevid/val_1.json", "", 20, 20, 70, 70, (0.28, 55.15), 55.15),
    ("densevid/val_2.json", "", 20, 20, 73, 73, (0, 4.14), 55.15),
    ("depnet/val.json", "", 20, 20, 70, 70, (0.28, 55.15), 55.15),
    ("didemo/val_data.json", "", 58, 58, 60, 249, (5, 10), 30),
    ("didemo/test_data.json", "", 57, 57, 60, 246, (20, 25), 30),
    ("hirest/all_data_train.json", "", 46, 46, 353, 353, (35, 48), 103),  # 1 of 354 is empty
    ("hirest/all_data_val.json", "", 52, 52, 409, 409, (50, 58), 207.08),  # 3 of 412 are empty
    ("hirest/formatted_moment_evaluation_gt.json", "test", 20, 20, 149, 149, (91, 96), 367.8),
    ("lighthouse_activitynet/activitynet_val_release.jsonl", "", 11, 11, 40, 40, (0.28, 55.15),
     55.15),
    ("lighthouse_castella/castella_test_release.jsonl", "", 16, 16, 40, 106, (27, 28), 299),
    ("lighthouse_charades/charades_train_release.jsonl", "", 19, 19, 40, 40, (0, 6.9), 33.67),
    ("lighthouse_charades/charades_test_release.jsonl", "", 14, 14, 40, 40, (24.3, 30.4), 30.96),
    ("lighthouse_tacos/tacos_train_release.jsonl", "", 1, 1, 40, 40, (7.61905, 12.17687), 423.0612),
    ("lighthouse_tacos/tacos_val_release.jsonl", "", 1, 1, 40, 40, (6.83673, 16.56463), 401.36054),
    ("lighthouse_tacos/tacos_test_release.jsonl", "", 1, 1, 40, 40, (4.79592, 12.04082), 249.86395),
    ("lighthouse_tvsum/tvsum_val_release.jsonl", "", 3, 3, 3, 0, (np.nan, np.nan), 74),
    ("mmn_charades/charades_train.json", "", 25, 25, 60, 60, (0, 6.9), 33.67),
    ("mmn_charades/charades_test.json", "", 25, 25, 68, 68, (24.3, 30.4), 30.96),
    ("moment_detr_predictions/truth_of_these_lines.jsonl", "", 30, 30, 30, 43, (82, 150), 150),
    ("prvg_npy/activitynet_test.npy", "", 37, 40, 144, 144, (0, 22.35), 124.18),
    ("prvg_npy/tacos_test.npy", "", 2, 40, 242, 242, (7.27891, 11.05442), 166.4966),
    ("qvhighlights/highlight_train_release.jsonl", "", 40, 40, 40, 81, (72, 82), 150),
    ("qvhighlights/highlight_val_release.jsonl", "", 40, 40, 40, 59, (82, 150), 150),
    ("qvhighlights/highlight_test_with_gt.jsonl", "", 40, 40, 40, 90, (70, 110), 150),
    ("qvhighlights/highlight_test_release.jsonl", "", 40, 40, 40, 0, (np.nan, np.nan), 150),
    ("tfvtg_phrases/val.json", "", 15, 15, 54, 54, (0.28, 55.15), 55.15),
    ("tvr/tvr_val_release.jsonl", "", 60, 60, 60, 60, (16.48, 33.87), 61.46),
    ("vslnet/activitynet_val_1.json", "", 15, 15, 54, 54, (0.28, 55.15), 55.15),
    ("vslnet/activitynet_val_2.json", "", 15, 15, 57, 57, (0, 4.14), 55.15),
    ("vslnet/charades_sta_train.txt", "", 19, 19, 40, 40, (0, 6.9), 33.67),
    ("vslnet/charades_sta_test.txt", "", 14, 14, 40, 40, (24.3, 30.4), 30.96),
    ("vslnet/tacos_test.json", "", 2, 2, 120, 120, (4.79592, 12.0408), 249.864),
    ("youcook2_official/youcookii_annotations_trainval.json", "train", 34, 34, 252, 252, (90, 102),
     241.62),
    ("youcook2_official/youcookii_annotations_trainval.json", "val", 6, 6, 48, 48, (47, 60),
     206.86),
]  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: "-".join(s[:2]).rstrip("-"))
def test_a_sample_is_read_to_what_its_authors_say(shared: Path, sample: Any) -> None:
    name, split, videos, count, sentences, windows, moment, duration = sample
    paragraphs, cleaning = read_paragraphs(shared / "layouts" / name, split=split, untimed=True)
    assert (cleaning.videos, cleaning.paragraphs, cleaning.sentences) == (videos, count, sentences)
    found = sum(
        sum(map(len, p.windows)) if p.windows else np.isfinite(p.moments[:, 0]).sum()
        for p in paragraphs
    )
    assert found == windows
    np.testing.assert_allclose(paragraphs[0].moments[0], moment, rtol=1e-5)
    assert paragraphs[0].duration == pytest.approx(duration, rel=1e-5)


REFUSED = [
    ("coot_captioning/youcook2_captioning_val_para.json", "is a text"),
    ("densevid/sample_submission.json", "these are predictions"),
    ("hirest/all_data_test.json", "no video has steps: HiREST withholds"),
    ("made_tvr_predictions/rising.json", "these are predictions"),
    ("moment_detr_predictions/sample_val_preds.jsonl", "these are predictions"),
    ("msrvtt_csv/MSRVTT_JSFUSION_test.csv", "video9770 lacks duration, .* of its 20 videos"),
    ("tvr/tvr_test_public_release.jsonl", "line 1 lacks a video"),
    ("tvr/tvr_video2dur_idx.json", "durations and indices"),
    ("vslnet/charades.json", r"has labels \(actions\) and no sentences"),
]


@pytest.mark.parametrize(("name", "message"), REFUSED, ids=lambda v: v.split("/")[-1])
def test_a_sample_without_sentences_or_durations_is_refused_for_that(
    shared: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_records(shared / "layouts" / name)


def test_every_sample_of_annotations_is_read_or_refused_here(shared: Path) -> None:
    tables = {"Charades_v1_train.csv", "youcook2_captioning_video_feat_duration.csv"}
    listed = {name for name, *_ in [*SAMPLES, *REFUSED]}
    left = {
        f"{path.parent.name}/{path.name}"
        for path in (shared / "layouts").glob("*/*.*")
        if path.name not in tables and not path.parent.name.startswith("made_")
    } - listed
    assert left == {
        "moment_detr_predictions/inference_hl_val_test_code_preds.jsonl",
        "prvg_npy/activitynet_test.expected.json",
        "prvg_npy/tacos_test.expected.json",
    }


@pytest.mark.parametrize("name", ["activitynet", "tacos"])
def test_prvgs_chunks_are_those_expected(shared: Path, name: str) -> None:
    files = [shared / "layouts" / "prvg_npy" / f"{name}_test.{e}" for e in ("npy", "expected.json")]
    found, expected = (read_records(path) for path in files)
    assert found == expected


def test_retrieval_files_are_read_with_durations_beside_them(shared: Path, tmp_path: Path) -> None:
    text = (shared / "layouts" / "msrvtt_csv" / "MSRVTT_JSFUSION_test.csv").read_text()
    videos = [line.split(";")[2] for line in text.splitlines()[1:]]
    written(tmp_path, "durations.json", {video: 10 + i for i, video in enumerate(videos)})
    path = written(tmp_path, "MSRVTT_JSFUSION_test.csv", text)
    paragraphs, cleaning = read_paragraphs(path, split="test", untimed=True)
    assert (cleaning.videos, cleaning.sentences) == (20, 20)
    first = paragraphs[0]
    assert (first.video_id, first.sentence_ids, first.duration) == ("video9770", ("ret0",), 10)
    assert first.sentences == ("a person is connecting something to system",)
    assert np.isnan(first.moments).all()


@pytest.mark.parametrize("name", ["charades", "tacos"])
def test_json_lines_are_what_the_object_of_the_same_videos_is(shared: Path, name: str) -> None:
    folder = shared.parent / "cases" / "jsonl_annotations" / name
    found, expected = (
        read_paragraphs(folder / f"{f}.json")[0] for f in ("test", "expected_object")
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.video_id, ours.sentences) == (theirs.video_id, theirs.sentences)
        assert ours.duration == theirs.duration
        np.testing.assert_array_equal(ours.moments, theirs.moments)


def test_charades_cd_leaves_out_what_lies_outside(shared: Path) -> None:
    path = shared.parent / "cases" / "charades_cd_video_duration" / "charades" / "test.json"
    paragraphs, cleaning = read_paragraphs(path, order="time")
    assert len(paragraphs) <= 62
    assert (cleaning.sentences, cleaning.sentences_read) == (156, 159)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hostile_s_surrogate/test_data.json", r"\(\\ud800, a lone surrogate\)"),
        ("hostile_id_surrogate_train/train_data.json", r"\(\\ud800, a lone surrogate\)"),
        ("hostile_a_spaces_redos/train_data.json", "is neither JSON nor JSON Lines"),
    ],
)
def test_hostile_annotations_are_refused_at_once(shared: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_paragraphs(shared.parent / "cases" / name)


@pytest.mark.timeout(20)
def test_many_spaces_take_no_time_in_any_text(tmp_path: Path) -> None:
    spaces = " " * 300_000
    for text in (
        f"v#0{spaces}x [1,{spaces}2] 3",
        f"v#0 x [1, 2]{spaces}3{spaces}x",
        f"v{spaces}##",
    ):
        with pytest.raises(InputError):
            read_records(written(tmp_path, "a.txt", text))
