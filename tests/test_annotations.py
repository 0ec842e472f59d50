"""Reading annotations: every repair counted, every fault reported in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.datasets import catalog
from lib.datasets.annotations import Cleaning, Paragraph, read_paragraphs

GOOD: dict[str, Any] = {
    "v_a": {
        "duration": 20.0,
        "timestamps": [[0, 5.5], [4, 25]],
        "sentences": ["A man runs.", " He stops. "],
    },
    "v_b": {"duration": 8, "timestamps": [[1, 2]], "sentences": ["A dog sleeps."]},
}


def read(folder: Path, data: Any, **rules: Any) -> tuple[list[Paragraph], Cleaning]:
    path = folder / "train.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_paragraphs(path, **rules)


def changed(**changes: Any) -> dict[str, Any]:
    return {"v_a": {**GOOD["v_a"], **changes}}


def test_an_object_of_videos_is_read_and_ends_are_clipped(tmp_path: Path) -> None:
    (first, second), cleaning = read(tmp_path, GOOD)
    assert (first.paragraph_id, first.video_id, first.duration) == ("v_a", "v_a", 20.0)
    assert first.sentences == ("A man runs.", "He stops.")
    np.testing.assert_array_equal(first.moments, [[0, 5.5], [4, 20]])
    assert first.moments.dtype == np.float64
    assert second.sentences == ("A dog sleeps.",)
    assert cleaning.counts == {"moments clipped to the video": 1}
    report = "\n".join(cleaning.lines())
    assert "2 paragraphs of 2 videos, 3 of 3 sentences kept" in report
    assert "v_a sentence 2 [4, 25] of 20 s" in report


def test_rows_and_objects_of_the_same_content_give_the_same_paragraphs(tmp_path: Path) -> None:
    rows = [
        [video, entry["duration"], moment, sentence]
        for video, entry in GOOD.items()
        for moment, sentence in zip(entry["timestamps"], entry["sentences"], strict=True)
    ]
    from_rows, from_object = read(tmp_path, rows)[0], read(tmp_path, GOOD)[0]
    for a, b in zip(from_rows, from_object, strict=True):
        assert (a.paragraph_id, a.duration, a.sentences) == (
            b.paragraph_id,
            b.duration,
            b.sentences,
        )
        np.testing.assert_array_equal(a.moments, b.moments)


def test_consecutive_rows_make_a_paragraph_and_a_returning_video_another(tmp_path: Path) -> None:
    rows = [["a", 9, [0, 1], "One."], ["b", 9, [0, 1], "Two."], ["a", 9, [2, 3], "Three."]]
    paragraphs, cleaning = read(tmp_path, rows)
    assert [p.paragraph_id for p in paragraphs] == ["a", "b", "a#2"]
    assert [p.video_id for p in paragraphs] == ["a", "b", "a"]
    assert cleaning.videos == 2


def test_numbered_keys_are_paragraphs_of_one_video(tmp_path: Path) -> None:
    data = dict.fromkeys(("s30-d40.avi(1)", "s30-d40.avi(2)", "v_c", "v_c#2"), GOOD["v_b"])
    paragraphs, _ = read(tmp_path, data)
    assert [p.video_id for p in paragraphs] == ["s30-d40.avi", "s30-d40.avi", "v_c", "v_c"]
    assert [p.paragraph_id for p in paragraphs] == list(data)


def test_frames_become_seconds_and_the_end_is_clipped(tmp_path: Path) -> None:
    data = {
        "x.avi": {
            "fps": 25.0,
            "num_frames": 1000,
            "timestamps": [[50, 1100]],
            "sentences": ["A person cooks."],
        }
    }
    (paragraph,), _ = read(tmp_path, data)
    assert paragraph.duration == 40
    np.testing.assert_array_equal(paragraph.moments, [[2, 40]])


def test_an_empty_moment_is_dropped_and_counted_or_refused(tmp_path: Path) -> None:
    data = changed(timestamps=[[5, 5], [21, 30]]) | {"v_b": GOOD["v_b"]}
    paragraphs, cleaning = read(tmp_path, data)
    assert [p.video_id for p in paragraphs] == ["v_b"]
    assert cleaning.counts["sentences with an empty moment dropped"] == 2
    assert cleaning.counts["paragraphs left without a sentence"] == 1
    with pytest.raises(InputError, match=r"v_a sentence 1 has the moment \[5, 5\].*BAD_MOMENTS"):
        read(tmp_path, data, bad_moments="refuse")


@pytest.mark.parametrize("sentence", ["", "   ", "?!...", "--"])
def test_a_sentence_without_a_word_is_refused_or_dropped(tmp_path: Path, sentence: str) -> None:
    data = changed(sentences=["A man runs.", sentence])
    with pytest.raises(InputError, match=r"train.json: v_a sentence 2 is .*no word"):
        read(tmp_path, data)
    (paragraph,), cleaning = read(tmp_path, data, empty_sentences="drop")
    assert paragraph.sentences == ("A man runs.",)
    assert cleaning.counts["sentences without a word dropped"] == 1


def test_order_of_time_is_a_stable_sort_by_start_then_end(tmp_path: Path) -> None:
    data = {
        "v": {
            "duration": 10,
            "timestamps": [[5, 6], [1, 9], [1, 3], [5, 6]],
            "sentences": ["first", "second", "third", "fourth"],
        }
    }
    (in_file,), _ = read(tmp_path, data)
    (in_time,), cleaning = read(tmp_path, data, order="time")
    assert in_file.sentences == ("first", "second", "third", "fourth")
    assert in_time.sentences == ("third", "second", "first", "fourth")
    np.testing.assert_array_equal(in_time.moments, [[1, 3], [1, 9], [5, 6], [5, 6]])
    assert cleaning.counts["paragraphs sorted by time"] == 1


def test_descriptions_end_to_end_are_cut_and_short_ones_dropped(tmp_path: Path) -> None:
    starts = [0, 3, 3, 1, 2, 0, 4, 6]
    data = {
        "v": {
            "duration": 10,
            "timestamps": [[start, start + 1] for start in starts],
            "sentences": [f"sentence {i}" for i in range(8)],
        }
    }
    paragraphs, cleaning = read(tmp_path, data, cut_descriptions=True, min_sentences=3)
    assert [p.paragraph_id for p in paragraphs] == ["v", "v#2"]
    assert [p.moments[:, 0].tolist() for p in paragraphs] == [[0, 3, 3], [0, 4, 6]]
    assert cleaning.counts["paragraphs under 3 sentences dropped"] == 1
    assert (cleaning.sentences_read, cleaning.sentences) == (8, 6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"v": {"duration": 1', "not valid JSON"),
        ("", "neither JSON nor JSON Lines"),
        ("hello", "neither JSON nor JSON Lines"),
        ("[]", "no paragraph is left of 0"),
        ("{}", "no paragraph is left of 0"),
        ('{"v": 1, "v": 2}', "'v' occurs twice"),
        ({"v": 3}, "v is 3; expected an object"),
        (changed(duration="20"), "v_a: duration is '20'; expected a finite number"),
        (changed(duration=True), "duration is True"),
        (changed(duration=-4), "duration is -4; expected more than 0"),
        (changed(duration=0), "duration is 0"),
        (changed(duration=float("nan")), "duration is nan"),
        (changed(timestamps=[[0, 1]]), "v_a has 1 timestamps and 2 sentences"),
        (changed(timestamps=[[0, 1], [2]]), r"v_a sentence 2: moment is \[2\]"),
        (changed(timestamps=[[0, float("inf")], [2, 3]]), "sentence 1: end is inf"),
        (changed(timestamps=[["0", 1], [2, 3]]), "start is '0'"),
        (changed(timestamps={}), "timestamps and sentences must be lists"),
        (changed(sentences=["A man.", None]), "v_a sentence 2: sentence is None; expected text"),
        ({"v": {"timestamps": [], "sentences": []}}, "v lacks duration"),
        ({"v": {"fps": 25, "timestamps": [], "sentences": []}}, "v lacks num_frames"),
        ({"v": {"fps": 0, "num_frames": 9, "timestamps": [], "sentences": []}}, "fps is 0"),
        ([["v", 9, [0, 1]]], r"row 1 is \['v', 9, \[0, 1\]\]; expected \[video"),
        ([["v", 9, [0, 1], "A."], ["v", 8, [0, 1], "B."]], "has the duration 8, the row before 9"),
    ],
)
def test_a_fault_is_reported_in_a_sentence_with_its_place(
    tmp_path: Path, data: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, data)
    assert str(caught.value).startswith(str(tmp_path / "train.json"))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00[]")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_paragraphs(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_paragraphs(tmp_path / "absent.json")


def write_charades(
    folder: Path, text: str, lengths: str = "id,length\nAAAAA,10\nBBBBB,5.5\n"
) -> Path:
    (folder / "Charades_v1_train.csv").write_text(lengths)
    path = folder / "charades_sta_train.txt"
    path.write_text(text)
    return path


def test_charades_lines_are_grouped_by_video_and_take_durations_from_the_csv(
    tmp_path: Path,
) -> None:
    path = write_charades(
        tmp_path,
        "AAAAA 6.0 12.5##person runs.\nBBBBB 0 2##person sits.\n\nAAAAA 1 2##person sneezes.\n",
    )
    first, second = read_paragraphs(path, order="time")[0]
    assert first.sentences == ("person sneezes.", "person runs.")
    np.testing.assert_array_equal(first.moments, [[1, 2], [6, 10]])
    assert (second.video_id, second.duration) == ("BBBBB", 5.5)


@pytest.mark.parametrize(
    ("text", "lengths", "message"),
    [
        ("CCCCC 0 1##x y", "id,length\nAAAAA,10\n", r"train.csv has no row for CCCCC\)"),
        ("AAAAA 0 1##x\nAAAAA 0##y", "id,length\nAAAAA,10\n", "line 2 is 'AAAAA 0##y'"),
        ("AAAAA 0 one##x", "id,length\nAAAAA,10\n", "line 1 is"),
        ("AAAAA 0 1##x", "id,letters\nAAAAA,10\n", "columns id, letters, without id and duration"),
        ("AAAAA 0 1##x", "id,length\nAAAAA,long\n", "train.csv has no positive number for AAAAA"),
    ],
)
def test_a_fault_in_charades_files_is_reported(
    tmp_path: Path, text: str, lengths: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_paragraphs(write_charades(tmp_path, text, lengths))


def test_charades_without_its_csv_names_it(tmp_path: Path) -> None:
    path = write_charades(tmp_path, "AAAAA 0 1##x")
    (tmp_path / "Charades_v1_train.csv").unlink()
    with pytest.raises(
        InputError, match=r"no file beside it has the durations of its 1 videos; put a CSV file"
    ):
        read_paragraphs(path)


def test_a_missing_split_names_every_accepted_file(tmp_path: Path) -> None:
    corpus = catalog.facts("charades")
    with pytest.raises(InputError) as caught:
        catalog.require_annotations(corpus, tmp_path, "test")
    for name in ("test_data.json", "test.json", "charades_test.json", "charades_sta_test.txt"):
        assert name in str(caught.value)
    with pytest.raises(InputError, match="the folder does not exist"):
        catalog.require_annotations(corpus, tmp_path / "nowhere", "test")


REAL = [  # corpus, split, paragraphs, sentences kept, ends clipped
    ("activitynet", "train", 10_009, 37_417, 29),
    ("activitynet", "val", 4_917, 17_505, 5),
    ("activitynet", "test", 4_885, 17_031, 1),
    ("charades", "train", 5_336, 12_404, None),
    ("charades", "test", 1_334, 3_720, 562),
    ("tacos", "train", 1_220, None, 43),
    ("tacos", "val", 480, None, 0),
    ("tacos", "test", 432, None, 5),
]


@pytest.mark.parametrize(("name", "split", "paragraphs", "sentences", "clipped"), REAL)
def test_the_published_files_give_the_known_counts(
    shared: Path, name: str, split: str, paragraphs: int, sentences: int | None, clipped: int | None
) -> None:
    corpus = catalog.facts(name)
    path = catalog.require_annotations(corpus, shared / "annotations" / name, split)
    read_, cleaning = read_paragraphs(
        path,
        order=corpus.order,
        cut_descriptions=corpus.cut_descriptions,
        min_sentences=corpus.min_sentences.get(split, 1),
    )
    assert len(read_) == cleaning.paragraphs == paragraphs
    assert sentences is None or cleaning.sentences == sentences
    assert clipped is None or cleaning.counts["moments clipped to the video"] == clipped
    assert len({p.paragraph_id for p in read_}) == paragraphs
    for paragraph in read_:
        start, end = paragraph.moments.T
        assert (start >= 0).all() and (start < end).all() and (end <= paragraph.duration).all()
        if name != "activitynet":
            assert (np.diff(start) >= 0).all()
    if name == "tacos":
        assert max(len(p.sentences) for p in read_) <= 15


@pytest.mark.parametrize(
    ("path", "paragraphs", "sentences"),
    [
        ("activitynet/val_data.json", 4_917, 17_505),
        ("activitynet/test_data.json", 4_885, 17_031),
        ("charades/train.json", 4_842, 10_602),
        ("charades/test.json", 1_225, 3_158),
    ],
)
def test_files_of_rows_give_the_known_counts(
    shared: Path, path: str, paragraphs: int, sentences: int
) -> None:
    _, cleaning = read_paragraphs(shared / "cpl_layout" / path)
    assert (cleaning.paragraphs, cleaning.videos) == (paragraphs, paragraphs)
    assert cleaning.sentences == sentences
