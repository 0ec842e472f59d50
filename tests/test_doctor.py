"""The doctor finds what was planted, and on real annotations what is known about them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lib.datasets.annotations import Record, read_records
from lib.datasets.catalog import SPLITS, facts, find_annotations
from lib.datasets.features import FeatureFile
from lib.datasets.fingerprint import difference, fingerprint
from lib.tools.doctor import Finding, examine_annotations, examine_word_vectors, table, worst
from lib.tools.feature_checks import examine_features
from lib.tools.statistics import repeats, timestamps
from lib.tools.statistics import shared as shared_between
from tests.runs import TINY_WORLD, run, write_experiment

# Source: spec/data.md 7.5 and 7.7.
TIMES = {
    "activitynet": {
        "train": (4, 29, 0, 0, 0, 4, 4, 10005, 37395, 37417, 245, 0),
        "val": (0, 5, 0, 0, 0, 0, 0, 4917, 17505, 17505, 131, 0),
        "test": (0, 1, 0, 0, 0, 0, 0, 4885, 17031, 17031, 171, 0),
    },
    "charades": {
        "train": (4, 1805, 734, 3, 0, 4, 3, 5335, 12403, 12404, 1800, 2331),
        "test": (0, 562, 228, 0, 0, 0, 0, 1334, 3720, 3720, 563, 657),
    },
    "tacos": {
        "train": (0, 43, 0, 0, 0, 0, 0, 75, 9790, 9790, 75, 75),
        "val": (0, 0, 0, 0, 0, 0, 0, 27, 4436, 4436, 27, 27),
        "test": (0, 5, 0, 0, 0, 0, 0, 25, 4001, 4001, 25, 25),
    },
}
CREDITS, DOOR, KNIFE = (
    "the credits of the clip are shown.",
    "person closes the door.",
    "the person gets out a knife.",
)
TEXTS = {
    "activitynet": {
        "train": (37040, 381, 528, 5, 0, (CREDITS, 47)),
        "val": (17338, 167, 233, 3, 0, (CREDITS, 29)),
        "test": (16842, 189, 297, 0, 1, (CREDITS, 18)),
    },
    "charades": {
        "train": (7857, 4551, 5703, 0, 310, (DOOR, 118)),
        "test": (2859, 861, 1210, 0, 23, (DOOR, 38)),
    },
    "tacos": {
        "train": (6937, 2853, 3711, 74, 0, (KNIFE, 113)),
        "val": (3371, 1065, 1486, 27, 0, (KNIFE, 41)),
        "test": (2868, 1133, 1545, 25, 0, ("he took out cutting board", 43)),
    },
}
PAIRS = {
    "activitynet": {
        ("train", "val"): (0, 293),
        ("train", "test"): (0, 218),
        ("val", "test"): (4885, 147),
    },
    "charades": {("train", "test"): (0, 1572)},
    "tacos": {
        ("train", "val"): (0, 1033),
        ("train", "test"): (0, 1142),
        ("val", "test"): (0, 961),
    },
}


@pytest.mark.parametrize("name", TIMES)
def test_real_annotations_have_the_known_oddities(shared: Path, name: str) -> None:
    folder, records = shared / "annotations" / name, {}
    for split in SPLITS:
        path = find_annotations(facts(name), folder, split)
        if path is not None:
            records[split] = list(read_records(path))
    found = {split: counted(timestamps(group)) for split, group in records.items()}
    assert found == TIMES[name]
    found = {}
    for split, group in records.items():
        r = repeats(group)
        found[split] = (
            *(r.distinct, r.surplus, r.repeated),
            *(r.paragraphs_with_repeat, r.surplus_paragraphs, r.most_repeated),
        )
    assert found == TEXTS[name]
    for pair, expected in PAIRS[name].items():
        common = shared_between(*(records[split] for split in pair))
        assert (common.videos, common.sentences) == expected


def counted(t) -> tuple[int, ...]:
    return (
        *(t.start_past_end, t.end_past_duration, t.end_past_duration_by_a_second),
        *(t.start_past_duration, t.start_below_zero, t.empty_after_clipping),
        t.paragraphs_with_start_past_end,
        t.paragraphs - t.paragraphs_with_start_past_end,
        t.sentences - t.sentences_of_those,
        t.sentences - t.start_past_end,
        *(t.unsorted_paragraphs, t.paragraphs_with_equal_moments),
    )


def test_the_report_on_activitynet_names_the_bad_moments_and_the_shared_videos(
    shared: Path, tmp_path: Path
) -> None:
    ended = run(
        "doctor",
        *("--cfg", "experiments/dense_activitynet/acnet.yaml"),
        *("--dataDir", shared / "annotations", "--annotations-only"),
        output=tmp_path / "output.txt",
    )
    assert ended.status == 1
    text = " ".join(ended.output.replace("|", " ").split())
    assert "4,885 of the 4,885 test videos are in val" in text
    for video in ("v_N7ppHQNikv8", "v_4rKTw99bM8g", "v_0bosp4-pyTM", "v_rhOtqArO-3Y"):
        assert video in text
    assert ended.output.endswith("0 problems, 4 warnings, 15 notes\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound synthetic folder, never changed."""
    folder = tmp_path_factory.mktemp("doctor")
    experiment = write_experiment(folder)
    ended = run("doctor", "--cfg", experiment, "--fingerprint", output=folder / "output.txt")
    assert ended.status == 0, ended.output
    assert "0 problems, 0 warnings" in ended.output
    return next((folder / "data" / "synthetic").iterdir())


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(world, tmp_path / "synthetic"))


def examined(folder: Path, **options) -> list[Finding]:
    """Everything but notes."""
    corpus = facts("synthetic")
    found, records = examine_annotations(corpus, folder)
    found += examine_features(FeatureFile(folder / corpus.features, **options), records)
    found += examine_word_vectors(folder / "glove.pkl", records)
    return [finding for finding in found if finding.level != "note"]


def test_a_sound_folder_has_nothing_but_notes(folder: Path) -> None:
    assert examined(folder) == []


def test_planted_faults_of_features_are_all_found(folder: Path) -> None:
    with h5py.File(folder / "features.hdf5", "r+") as file:
        names = sorted(file)
        rows = {name: file[name]["c3d_features"][()] for name in names}

        def replace(number: int, value: np.ndarray | None, **options: object) -> None:
            del file[names[number]]
            file.create_dataset(f"{names[number]}/c3d_features", data=value, **options)

        del file[names[0]]
        replace(1, np.full_like(rows[names[1]], np.nan))
        replace(2, np.concatenate([rows[names[2]][:-1], np.zeros((1, 12), np.float32)]))
        replace(3, np.repeat(rows[names[3]][:1], len(rows[names[3]]), axis=0))
        replace(4, rows[names[5]])
        replace(6, rows[names[6]][:, :7])
        replace(7, rows[names[7]][: len(rows[names[7]]) // 2])
        replace(8, rows[names[8]][:0])
        replace(9, rows[names[9]].sum(axis=1))
        chunk = (len(rows[names[10]]), 12)
        replace(10, rows[names[10]], chunks=chunk, fletcher32=True, compression="gzip")
        outside = [(str(folder / "raw"), 0, rows[names[11]].nbytes)]
        replace(11, None, shape=rows[names[11]].shape, dtype="f4", external=outside)
        replace(12, rows[names[12]][:, :0])
        where = file[names[10]]["c3d_features"].id.get_chunk_info(0).byte_offset
        file["stranger"] = np.zeros((3, 12))
    with (folder / "features.hdf5").open("r+b") as raw:
        raw.seek(where + 20)
        raw.write(bytes(20))
    reported = "\n".join(f"{f.level}: {f.description}" for f in examined(folder))
    for expected in (
        f"problem: 1 of the 6 test videos are missing (e.g. {names[0]})",
        f"problem: 1 videos hold NaN or infinity (e.g. {names[1]})",
        f"warning: 1 rows in 1 videos hold one number throughout (e.g. {names[2]})",
        f"warning: 1 videos repeat one row (e.g. {names[3]})",
        f"warning: 1 videos have another one's features (e.g. {names[4]}, {names[5]})",
        "problem: widths ",
        f"problem: 1 videos have no rows (e.g. {names[8]})",
        f"problem: 1 videos are not numbers of shape (rows, width) (e.g. {names[9]})",
        f"problem: 1 videos cannot be read: their part of the file is damaged (e.g. {names[10]})",
        f"problem: 1 videos cannot be read: /{names[11]}/c3d_features keeps its rows in {folder}",
        f"problem: 1 videos have no numbers in their rows (e.g. {names[12]})",
    ):
        assert expected in reported, reported
    assert names[7] in reported.split("rows per second")[1]
    assert "stranger" not in reported  # a note


def test_a_file_that_is_none_and_another_width_are_reported(folder: Path) -> None:
    reported = [finding.description for finding in examined(folder, expected_dim=13)]
    assert reported == [f"widths 12 ({sum(TINY_WORLD[s] for s in SPLITS)} videos), expected 13"]
    path = folder / "features.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    assert any("not an HDF5 file or is incomplete" in f.description for f in examined(folder))
    path.unlink()
    assert any("does not exist" in f.description for f in examined(folder))


def test_faults_of_annotations_are_found_and_none_hides_another(folder: Path) -> None:
    train = json.loads((folder / "train_data.json").read_text("utf-8"))
    (first, a), (_, b), (third, c), *_ = train.items()
    a["timestamps"][0] = [3.0, 2.0]
    b["timestamps"][0] = [0.0, b["duration"] + 5]
    c["sentences"][0] = "?!"
    (folder / "train_data.json").write_text(json.dumps(train), "utf-8")
    (folder / "val_data.json").write_text('{"v_x": {"duration": 5}}', "utf-8")
    test = {first: {**a, "duration": a["duration"] + 50}, "v_test00000": b}
    (folder / "test_data.json").write_text(json.dumps(test), "utf-8")
    reported = {(f.level, f.source, f.description.split(" (")[0]) for f in examined(folder)}
    size = f"of {sum(len(entry['sentences']) for entry in train.values())} sentences"
    missing = {
        ("problem", "val_data.json", "v_x lacks a sentence"),
        ("problem", "train_data.json", f"{third} sentence 1 is '?!', which holds no word"),
        ("warning", "train_data.json", f"1 moments that do not end after their start, {size}"),
        (
            "warning",
            "train_data.json",
            f"1 moments that end after the video by more than 1 s, {size}",
        ),
        ("warning", "train_data.json", "1 sentences hold no word"),
        ("problem", "train, test", "1 of the 2 test videos are in train"),
        ("problem", "durations", "1 videos have two durations, up to 50 s apart"),
    } - reported
    assert not missing, reported


def test_word_vectors_of_another_corpus_are_a_warning(folder: Path) -> None:
    words = {f"word{i}": np.zeros(8, np.float32) for i in range(5)}
    (folder / "glove.pkl").write_bytes(pickle.dumps(words))
    found = examined(folder)
    assert len(found) == 3 and all("0.00 % of the" in finding.description for finding in found)


def test_words_are_counted_as_the_experiment_reads_them(folder: Path) -> None:
    """A ``dog.`` at the end of a sentence is one word for 2D-TAN's release, and has no vector."""
    records = {"train": list(read_records(find_annotations(facts("synthetic"), folder, "train")))}
    _, plain = examine_word_vectors(folder / "glove.pkl", records)
    _, spaced = examine_word_vectors(folder / "glove.pkl", records, tokens="spaces")
    assert plain.level == "note" and spaced.level == "warning"
    assert "." in spaced.description.split("e.g.")[-1]


def test_a_crash_while_reading_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    def sabotage() -> None:
        FeatureFile.values = lambda self, node: os._exit(139)  # type: ignore[method-assign]

    experiment = write_experiment(tmp_path)
    ended = run("doctor", "--cfg", experiment, output=tmp_path / "out", sabotage=sabotage)
    assert ended.status == 1
    assert "reading it ends the process" in ended.output
    assert "words have a vector" in " ".join(ended.output.split())


def test_the_worst_comes_first_and_decides(folder: Path) -> None:
    found = [Finding("note", "a", "x"), Finding("problem", "b", "y " * 100, "z")]
    assert worst(found) == "problem" and worst(found[:1]) == "note" and worst([]) == "note"
    lines = table(found, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].split("|")[1].strip() == "problem"


def test_repeats_by_hand() -> None:
    group = [
        Record("a", "a", 9.0, [(0, 1)] * 3, ["A cat.", "a  CAT.", "a dog."]),
        Record("b", "b", 9.0, [(0, 1)], ["a dog."]),
        Record("c", "c", 9.0, [(0, 1)], ["A dog."]),
    ]
    r = repeats(group)
    assert (r.sentences, r.distinct, r.surplus, r.repeated) == (5, 2, 3, 5)
    assert (r.paragraphs_with_repeat, r.surplus_paragraphs) == (1, 1)
    assert r.most_repeated == ("a dog.", 3)


class TestTheFingerprint:
    def test_is_the_same_for_a_copy_and_not_for_other_numbers(self, folder: Path) -> None:
        path = folder / "features.hdf5"
        there = fingerprint(FeatureFile(path))
        assert difference(there, fingerprint(FeatureFile(path))) == ""
        with h5py.File(path, "r+") as file:
            for name in file:
                file[name]["c3d_features"][:, 5] *= 1.5
        reported = difference(there, fingerprint(FeatureFile(path)))
        assert reported.startswith("values of another kind (dimension 5: mean ")

    def test_other_videos_of_the_same_kind_are_said_to_be_no_more_than_that(self, folder):
        path = folder / "features.hdf5"
        there = fingerprint(FeatureFile(path))
        with h5py.File(path, "r+") as file:
            del file[sorted(file)[0]]
        count = sum(TINY_WORLD[split] for split in SPLITS)
        reported = difference(there, fingerprint(FeatureFile(path)))
        assert reported == f"other videos ({count} there, {count - 1} here)"

    def test_width_and_type_are_compared(self, folder: Path) -> None:
        path = folder / "features.hdf5"
        there = fingerprint(FeatureFile(path))
        with h5py.File(path, "r+") as file:
            for name in list(file):
                rows = file[name]["c3d_features"][()]
                del file[name]
                file[name] = rows[:, :6].astype(np.float64)
        reported = difference(there, fingerprint(FeatureFile(path)))
        assert "width 12 there, 6 here; dtype float32 there, float64 here" in reported
