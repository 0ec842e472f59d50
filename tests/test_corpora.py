"""Corpora that an experiment describes in YAML, and what is said of a corpus: of the files read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from lib.base.batch import Batch, collate
from lib.base.errors import InputError
from lib.config.config import OF_CORPUS, dump_config, load_config
from lib.config.options import SCHEMA
from lib.datasets import LoadedCorpus, load_corpus
from lib.datasets.catalog import CORPORA, SPLITS, facts
from lib.datasets.options import CorpusOptions
from lib.datasets.synthetic import write_word_vectors
from lib.evaluation import PROTOCOLS
from lib.evaluation.files.run import read_run
from lib.models import MODELS
from lib.tools.doctor import examine_annotations
from lib.training import checkpoint
from lib.training.scorer import truth_of
from tests.properties import make_sample, nothing_is_drawn_by, terms_of
from tests.runs import REPOSITORY, Ended, run
from tests.variants import small

Split = dict[str, dict[str, Any]]  # an object of videos, as 2D-TAN's files are
WORDS = [
    "a",
    "man",
    "woman",
    "dog",
    "opens",
    "closes",
    "the",
    "red",
    "blue",
    "door",
    "box",
    "window",
    "slowly",
    "again",
    "then",
]


def described(seed: int, videos: list[str], *, timed: bool = True) -> Split:
    """Three sentences of five words about each video of 30 seconds."""
    draw = np.random.default_rng(seed)
    split: Split = {}
    for number, video in enumerate(videos):
        texts = [" ".join(draw.choice(WORDS, 5)) + f" {video.split('#')[0]}" for _ in range(3)]
        split[video] = {"duration": 30.0, "sentences": texts}
        if timed:
            split[video]["timestamps"] = [[0.0, 8.0], [9.0 + number % 3, 18.0], [17.0, 30.0]]
    return split


class Own:
    """Somebody's folder: a corpus of their own, an experiment on it, and its runs."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "data" / "mine"
        self.folder.mkdir(parents=True)

    def write(self, name: str, content: Any) -> Path:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text, "utf-8")
        return self.folder / name

    def write_features(self, *splits: Split) -> None:
        """Four numbers in each of 30 rows, and word vectors."""
        draw = np.random.default_rng(0)
        with h5py.File(self.folder / "features.hdf5", "w") as file:
            for video in dict.fromkeys(key.split("#")[0] for split in splits for key in split):
                file[video] = draw.standard_normal((30, 4)).astype(np.float32)
        texts = [
            text for split in splits for entry in split.values() for text in entry["sentences"]
        ]
        write_word_vectors(self.folder / "glove.pkl", texts, dim=6, seed=0)

    def experiment(self, dataset: dict[str, Any], **sections: Any) -> Path:
        own = {"NAME": "mine", "FEATURES": "features.hdf5", "NUM_FRAMES": 16, "NUM_CLIPS": 8}
        text = {
            "DATA_DIR": str(self.root / "data"),
            "MODEL_DIR": str(self.root / "save"),
            "GPUS": "cpu",
            "WORKERS": 0,
            "DATASET": own | dataset,
            "MODEL": {"NAME": "clip_align", "PARAMS": {"hidden_size": 8}},
            "LOSS": {"WEIGHTS": {"paragraph": 1}},
            "TRAIN": {"EPOCHS": 1, "BATCH_SIZE": 4},
            "TEST": {"RESAMPLES": 0, "CANDIDATES": 0},
        }
        path = self.root / "mine.yaml"
        path.write_text(yaml.safe_dump(text | sections), "utf-8")
        return path

    def call(self, name: str, *flags: object) -> Ended:
        cfg = self.root / "mine.yaml"
        return run(name, "--cfg", cfg, *flags, output=self.root / f"{name}.txt")

    def done(self, name: str, *flags: object) -> str:
        ended = self.call(name, *flags)
        assert ended.status == 0, ended.output
        return ended.output

    def results(self, name: str = "results") -> dict[str, Any]:
        found = json.loads((self.root / "save" / "mine" / f"{name}.json").read_text("utf-8"))
        return dict(found)

    def load(self, wanted: tuple[str, ...], **options: Any) -> LoadedCorpus:
        options = {"features": "features.hdf5", "num_frames": 16, "num_clips": 8} | options
        return load_corpus(
            CorpusOptions(**options),
            name="mine",
            data_dir=self.root / "data",
            splits=wanted,
            weak=True,
        )


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# What ships, and what an experiment may say.


def test_what_ships_names_files_of_the_three_usual_splits() -> None:
    assert set(CORPORA) == {"activitynet", "charades", "tacos", "synthetic"}
    for name in CORPORA:
        corpus = facts(name)
        assert corpus.splits == SPLITS and corpus.title and corpus.features and corpus.folder
        assert not corpus.stated and not corpus.inside and not corpus.lists
    assert facts("charades").order == "time" and facts("activitynet").order == "file"
    assert facts("tacos").cut_descriptions and facts("tacos").min_sentences["test"] == 2


def test_options_change_what_ships() -> None:
    changed = CorpusOptions(
        annotations={"train": "a.json", "test_ood": ["b.json", "c.json"]},
        cut_descriptions=False,
        min_sentences={"test_ood": 4},
        order="file",
        dir="elsewhere",
        notes=["ours"],
    )
    corpus = facts("tacos", changed)
    assert corpus.annotations == {"train": ("a.json",), "test_ood": ("b.json", "c.json")}
    assert corpus.stated and not corpus.cut_descriptions and corpus.folder == "elsewhere"
    assert corpus.min_sentences == {"train": 3, "val": 3, "test": 2, "test_ood": 4}
    assert corpus.title == "TACoS" and corpus.notes == ("ours",)
    assert facts("charades", CorpusOptions(order="file")).order == "file"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither shipped nor described": (
        {"NAME": "activity_net"},
        "NAME is 'activity_net', and no corpus of this name ships (activitynet, charades, "
        "synthetic, tacos do); did you mean activitynet? one's own is described by ANNOTATIONS and "
        "FEATURES",
    ),
    "a Python file": ({"NAME": "corpus.py:CORPUS"}, "no corpus of this name ships"),
    "a name with a slash": (
        {"NAME": "a/b", "ANNOTATIONS": "all.json"},
        "NAME is 'a/b', expected letters, digits and _ . + -",
    ),
    "no features": (
        {"ANNOTATIONS": {"train": "a.json"}, "FEATURES": ""},
        "FEATURES is missing; expected the features of mine's videos",
    ),
    "no training": (
        {"ANNOTATIONS": {"test": "a.json"}},
        "ANNOTATIONS has test; expected train, and val, test or others",
    ),
    "another word for val": (
        {"ANNOTATIONS": {"train": "a.json", "validation": "b.json"}},
        "ANNOTATIONS.validation: this split is called val here",
    ),
    "a split that is no word": (
        {"ANNOTATIONS": {"train": "a.json", "../test": "b.json"}},
        "ANNOTATIONS: '../test' cannot be the name of a split",
    ),
    "a split that an option's own method is called": (
        {"ANNOTATIONS": {"train": "a.json", "items": "b.json"}},
        "ANNOTATIONS: 'items' cannot be the name of a split",
    ),
    "a split that corrupted videos' results are called": (
        {"ANNOTATIONS": {"train": "a.json", "time_shuffled_8": "b.json"}},
        "ANNOTATIONS: 'time_shuffled_8' cannot be the name of a split",
    ),
    "a split that results on other data are called": (
        {"ANNOTATIONS": {"train": "a.json", "on_mine": "b.json"}},
        "ANNOTATIONS: 'on_mine' cannot be the name of a split",
    ),
    "no file": (
        {"ANNOTATIONS": {"train": "a.json", "val": []}},
        "ANNOTATIONS.val names no file",
    ),
    "lists of several files": (
        {"ANNOTATIONS": {"train": "a.json"}, "SPLITS": {"train": "ids.txt"}},
        "SPLITS lists the videos of splits that lie in one file",
    ),
    "lists without training": (
        {"ANNOTATIONS": "all.json", "SPLITS": {"val": "ids.txt"}},
        "SPLITS has val; expected train",
    ),
}


@pytest.mark.parametrize(("dataset", "why"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_description_is_one_sentence_before_anything_is_read(
    own: Own, dataset: dict[str, Any], why: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_config(own.experiment(dataset))
    (line,) = str(caught.value).splitlines()
    assert why in line and ": DATASET." in line


def test_a_description_survives_being_written_and_read_again(own: Own) -> None:
    notes = ["Made by hand: quotes ' and colons.", "Second."]
    files = {"train": ["a.json", "b.json"], "test_ood": "/somewhere/c.json"}
    config = load_config(own.experiment({"ANNOTATIONS": files, "NOTES": notes, "TITLE": "Mine"}))
    (own.root / "again.yaml").write_text(dump_config(config), "utf-8")
    assert load_config(own.root / "again.yaml") == config
    assert files == config.DATASET.ANNOTATIONS and notes == config.DATASET.NOTES


def test_another_corpus_of_a_child_takes_nothing_from_its_parent_s(own: Own) -> None:
    parent = {"ANNOTATIONS": "all.json", "TITLE": "Mine", "NOTES": ["of mine"], "DIR": "there"}
    own.experiment(parent | {"FEATURE_DIM": 4, "ORDER": "time", "MIN_SENTENCES": {"train": 2}})
    child = own.root / "child.yaml"
    child.write_text("BASE: mine.yaml\nDATASET: {NAME: charades}\n", "utf-8")
    data = load_config(child).DATASET
    section = SCHEMA["DATASET"]
    assert isinstance(section, dict)
    for key in OF_CORPUS:
        assert data[key] == section[key].default, key
    assert data.NUM_FRAMES == 16  # how it is read is not the corpus's


def test_the_real_bench_has_no_path_of_this_machine() -> None:
    """A run's config.yaml must serve where the repository has moved to."""
    config = load_config(REPOSITORY / "experiments" / "real" / "linear_align.yaml")
    assert str(REPOSITORY) not in dump_config(config)


# Which files are read, and for what.


def test_a_corpus_of_free_splits_is_trained_and_each_test_is_scored_by_its_name(own: Own) -> None:
    train, ood, iid = (described(n, names(p, 8)) for n, p in enumerate(("t", "o", "i")))
    own.write_features(train, ood, iid)
    own.write("train.json", train)
    own.write("iid.json", iid)
    own.write("ood.json", "{")  # a test that cannot be read stops no training
    files = {"train": "train.json", "test_iid": "iid.json", "test_ood": "ood.json"}
    own.experiment({"ANNOTATIONS": files, "TITLE": "My videos", "NOTES": ["made up by a test"]})
    said = own.done("dense_train")
    assert "val: 1 of 8 training videos held out" in said
    state = checkpoint.load(own.root / "save" / "mine" / "best.pt")
    assert set(state["provenance"]["annotations"]) == {"train"}

    ended = own.call("best_test")
    assert ended.status == 2
    assert "--split 'test': My videos has train, test_iid, test_ood" in ended.output
    ended = own.call("best_test", "--split", "test_ood")
    assert ended.status == 2 and "ood.json: is not valid JSON" in ended.output
    own.write("ood.json", ood)
    for split, group in (("test_iid", iid), ("test_ood", ood)):
        own.done("best_test", "--split", split)
        results = own.results(f"results_{split}")
        assert results["split"] == split and "made up by a test" in results["notes"]
        assert results["corpus"] == {"videos": 8, "paragraphs": 8, "sentences": 24}
        assert "vr" in results["protocols"] and "svmr_2dtan" in results["protocols"]
        lines = (own.root / "save" / "mine" / f"predictions_{split}.jsonl").read_text("utf-8")
        assert all(video in lines for video in group)
    assert not (own.root / "save" / "mine" / "results.json").exists()
    assert own.call("dense_train", "--overwrite").status == 0
    assert not list((own.root / "save" / "mine").glob("*test_*"))


def test_one_file_with_lists_of_videos_is_split_by_them(own: Own) -> None:
    every = described(0, [*names("t", 8), *names("v", 3), *names("x", 4), "unlisted"])
    every["t0#2"] = every["t0"] | {"sentences": [f"again {s}" for s in every["t0"]["sentences"]]}
    every["x0"]["sentences"][0] = "unheard of"
    own.write_features(every)
    own.write("all.json", every)
    own.write("train.txt", "\ufeff" + "\n".join([*names("t", 8), "nowhere", ""]))
    own.write("val.json", names("v", 3))
    own.write("test.txt", "\r\n".join(names("x", 4)))
    lists = {"train": "train.txt", "val": "val.json", "test": "test.txt"}
    corpus = own.load(("train", "val", "test"), annotations="all.json", splits=lists)
    assert corpus["train"].corpus == tuple(names("t", 8)) and len(corpus["train"]) == 9
    assert corpus["val"].corpus == tuple(names("v", 3))
    assert corpus["test"].corpus == tuple(names("x", 4))
    assert "train: paragraphs of 8 of the 9 listed videos" in corpus.notes
    assert "unheard" not in corpus.vocabulary.words

    own.write("test.txt", "elsewhere\n")
    assert len(own.load(("train", "val"), annotations="all.json", splits=lists)["train"]) == 9
    options: dict[str, Any] = {"annotations": "all.json", "splits": lists}
    for text, why in {
        "elsewhere\n": "describes none of the 1 videos that DATASET.SPLITS lists for test",
        '{"a": 1}': "is no list of videos; expected a JSON list of ids",
        "[1, 2]": "is no list of videos",
        "[": "is not valid JSON; expected a list of ids",
        "\n\n": "is no list of videos",
    }.items():
        own.write("test.txt", text)
        with pytest.raises(InputError, match=why):
            own.load(("test",), **options)
    (own.folder / "test.txt").unlink()
    with pytest.raises(InputError, match=r"DATASET\.SPLITS\.test says"):
        own.load(("test",), **options)


def test_a_file_that_an_experiment_names_must_be_there(own: Own) -> None:
    """Where a corpus ships, a missing validation file is held out; a misspelled one must not be."""
    train = described(0, names("t", 8))
    own.write_features(train)
    own.write("train.json", train)
    files = {"train": "train.json", "val": "vall.json"}
    with pytest.raises(InputError, match=r"no val annotations of mine in .*; expected vall\.json"):
        own.load(("train", "val"), annotations=files)
    found, _ = examine_annotations(
        facts("mine", CorpusOptions(annotations=files, features="features.hdf5")), own.folder
    )
    assert [f.source for f in found if f.level == "problem"] == ["val"]
    with pytest.raises(InputError, match="mine has no split test_ood; it has train"):
        own.load(("test_ood",), annotations={"train": "train.json"})


def test_absolute_files_are_read_where_they_are(own: Own) -> None:
    train = described(0, names("t", 8))
    own.write_features(train)
    path = own.root / "train.json"
    path.write_text(json.dumps(train), "utf-8")
    found = own.load(("train",), annotations={"train": str(path)})
    assert found.annotations == {"train": path}


def test_doctor_and_plan_work_on_it(own: Own) -> None:
    train, test = described(0, names("t", 8)), described(1, names("x", 4))
    test |= {"t1": train["t1"]}
    own.write_features(train, test)
    own.write("train.json", train)
    own.write("novel.json", test)
    own.experiment({"ANNOTATIONS": {"train": "train.json", "novel": "novel.json"}})
    ended = own.call("doctor")
    assert ended.status == 1 and "of the 5 novel videos are in train" in _flat(ended.output)
    assert "the corpus has no such split" in _flat(ended.output)
    assert "epoch:" in own.done("plan", "--steps", 1)


def _flat(table: str) -> str:
    """The text of a table's cells, wherever lines were broken."""
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    columns = zip(*(row for row in rows if len(row) == 4), strict=True)
    return " ".join(" ".join(cell.strip() for cell in column) for column in columns)


def test_one_file_that_says_where_its_videos_belong(own: Own) -> None:
    every = described(0, [*names("t", 8), *names("v", 4)])
    database = {
        video: {
            "duration": entry["duration"],
            "subset": "training" if video in names("t", 8) else "validation",
            "annotations": [
                {"segment": moment, "id": number, "sentence": text}
                for number, (moment, text) in enumerate(
                    zip(entry["timestamps"], entry["sentences"], strict=True)
                )
            ],
        }
        for video, entry in every.items()
    }
    own.write_features(every)
    own.write("all.json", {"database": database})
    corpus = own.load(("train", "val"), annotations="all.json")
    assert corpus["train"].corpus == tuple(names("t", 8))
    assert corpus["val"].corpus == tuple(names("v", 4))
    with pytest.raises(InputError, match=r"training \(8 videos\), validation \(4 videos\)"):
        own.load(("test",), annotations="all.json")

    own.write("train.txt", "\n".join([*names("t", 6), "v0"]))  # a list chooses otherwise
    own.write("test_own.txt", "t7\nv1")
    lists = {"train": "train.txt", "test_own": "test_own.txt"}
    corpus = own.load(("train", "test_own"), annotations="all.json", splits=lists)
    assert set(corpus["test_own"].corpus) == {"t7", "v1"} and "v0" in corpus["train"].corpus

    for entry in database.values():
        entry["subset"] = "training"
    own.write("all.json", {"database": database})
    corpus = own.load(("train", "val"), annotations="all.json")
    assert "val: 1 of 12 training videos held out (no validation file)" in corpus.notes


@pytest.mark.parametrize("files", ["all.json", {"train": "all.json", "val": "all.json"}])
def test_a_file_that_says_of_no_video_where_it_belongs_is_refused(own: Own, files: Any) -> None:
    every = described(0, names("t", 8))
    own.write_features(every)
    own.write("all.json", every)
    with pytest.raises(InputError, match="says of no video whether it belongs to train or to val"):
        own.load(("train", "val"), annotations=files)


# From files as they are published to a table, by the YAML that the documentation shows.


def write_examples(data: Path) -> None:
    """Few videos in the layouts and under the names of experiments/own."""
    draw = np.random.default_rng(0)
    folder = data / "qvhighlights"
    (folder / "clip_features").mkdir(parents=True)
    texts: list[str] = []
    with h5py.File(folder / "features.hdf5", "w") as file:
        for split, count in (("train", 24), ("val", 12)):
            lines = []
            for number in range(count):
                video = f"{split[:2]}{number // 2 * 2:09d}_60.0_210.0"  # of two queries each
                texts.append(" ".join(draw.choice(WORDS, 5)))
                windows = [[10 * (number % 7), 10 * (number % 7) + 20], [120, 150]]
                line = {"qid": len(texts), "query": texts[-1], "duration": 150, "vid": video}
                lines.append(line | {"relevant_windows": windows[: 1 + number % 2]})
                rows = draw.standard_normal((75, 6)).astype(np.float32)
                if number % 2 == 0:
                    file[video] = rows
                    np.savez(folder / "clip_features" / f"{video}.npz", features=rows)
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            (folder / f"highlight_{split}_release.jsonl").write_text(text, "utf-8")

    folder = data / "youcook2"
    folder.mkdir()
    database = {}
    with h5py.File(folder / "features.hdf5", "w") as file:
        for number in range(24):
            video = f"cook{number:07d}"
            steps = [" ".join(draw.choice(WORDS, 6)) for _ in range(3 + number % 3)]
            texts += steps
            database[video] = {
                "duration": 241.62,
                "subset": "validation" if number < 8 else "training",
                "recipe_type": "113",
                "annotations": [
                    {"segment": [40 * k, 40 * k + 30], "id": k, "sentence": step}
                    for k, step in enumerate(steps)
                ],
            }
            file[video] = draw.standard_normal((120, 6)).astype(np.float32)
    path = folder / "youcookii_annotations_trainval.json"
    path.write_text(json.dumps({"database": database}), "utf-8")
    vectors = {word: draw.standard_normal(300) for word in WORDS}
    rows = [" ".join([word, *(f"{x:.3f}" for x in vector)]) for word, vector in vectors.items()]
    (data / "glove.6B.300d.txt").write_text("\n".join(rows) + "\n", "utf-8")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    write_examples(root / "data")
    return root


EXAMPLES = [
    ("qvhighlights", "test", ("DATASET.FEATURES=features.hdf5",)),
    ("qvhighlights", "test", ()),  # a folder of .npz
    ("youcook2", "val", ()),
]


@pytest.mark.parametrize(("name", "split", "changed"), EXAMPLES)
def test_published_layouts_are_eight_lines_of_yaml_from_a_table(
    examples: Path, name: str, split: str, changed: tuple[str, ...]
) -> None:
    if name == "qvhighlights" and not changed:
        pytest.importorskip("lib.datasets.videos", reason="needs folders of .npz as FEATURES")
    cfg = REPOSITORY / "experiments" / "own" / f"{name}.yaml"
    lines = [line for line in cfg.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) <= 8
    own = ["--dataDir", examples / "data", "--modelDir", examples / "save", "--gpus", "cpu"]
    sets = [flag for each in (*changed, "TRAIN.EPOCHS=1") for flag in ("--set", each)]
    flags = ["--cfg", cfg, *own, *sets, "--tag", f"{len(changed)}"]
    for command, more in (("dense_train", []), ("best_test", ["--split", split])):
        ended = run(command, *flags, *more, output=examples / f"{command}.txt")
        assert ended.status == 0, ended.output
    stem = "results" if split == "test" else f"results_{split}"
    folder = examples / "save" / "own" / f"{name}-{len(changed)}"
    results = json.loads((folder / f"{stem}.json").read_text("utf-8"))
    assert {"vr", "svmr_2dtan"} <= set(results["protocols"])
    counts = {"qvhighlights": (6, 12, 12), "youcook2": (8, 8, 31)}[name]
    assert tuple(results["corpus"].values()) == counts


# What is said.


@pytest.mark.parametrize("name", ["activitynet", "charades", "tacos"])
def test_nothing_is_said_of_a_corpus_because_of_its_name(name: str) -> None:
    assert facts(name).notes == ()


def say(own: Own, splits: tuple[str, ...] = ("test",), **options: Any) -> tuple[str, ...]:
    files = {split: f"{split}.json" for split in ("train", "val", "test")}
    return own.load(splits, **{"annotations": files} | options).notes


def test_shared_videos_are_said_when_both_splits_are_read(own: Own) -> None:
    train, val = described(0, names("t", 8)), described(1, names("v", 4))
    test = described(2, [*names("v", 3), "t0"])
    own.write_features(train, val, test)
    for name, split in (("train", train), ("val", val), ("test", test)):
        own.write(f"{name}.json", split)
    notes = say(own)
    assert "train and test share 1 video, so that test scores what was trained on" in notes
    selected = "so that a model selected on val was selected on videos of test"
    assert f"val and test share 3 videos, {selected}" in notes
    assert not any("share" in note for note in say(own, ("train", "val")))


def test_repeated_sentences_are_counted_in_the_files_read(own: Own) -> None:
    train, val, test = (described(n, names(p, 4)) for n, p in enumerate("tvx"))
    test["x0"]["sentences"][0] = test["x1"]["sentences"][2] = "a man opens the door"
    test["x2"]["sentences"][0] = test["x2"]["sentences"][1] = "within one video"
    own.write_features(train, val, test)
    for name, split in (("train", train), ("val", val), ("test", test)):
        own.write(f"{name}.json", split)
    assert "test: 2 of 12 sentences (16.7 %) stand verbatim in other videos" in say(own)
    test["x0"]["sentences"][0] = "a man opens a door"
    own.write("test.json", test)
    assert not any("verbatim" in note for note in say(own))


def test_few_videos_order_and_several_paragraphs_are_said(own: Own) -> None:
    train, val = described(0, names("t", 8)), described(1, names("v", 4))
    test = described(2, [*names("x", 20), "x0#2", "x1#2", "x1#3"])
    test["x0"]["timestamps"].reverse()
    own.write_features(train, val, test)
    for name, split in (("train", train), ("val", val), ("test", test)):
        own.write(f"{name}.json", split)
    notes = say(own, order="time")
    assert "test: a search among 20 videos, where R@10 is 50 % by chance" in notes
    assert "test: 2 of 20 videos have several paragraphs" in notes
    assert "test: 1 of 23 paragraphs stood in another order in the file than by time" in notes
    many = described(3, names("x", 101))
    own.write_features(train, val, many)
    own.write("test.json", many)
    assert not any("chance" in note or "several" in note for note in say(own))


@pytest.mark.parametrize("name", ["activitynet", "charades"])
def test_other_splits_under_a_known_name_get_no_untrue_notes(own: Own, name: str) -> None:
    """As ActivityNet-CD's, whose val and tests share no video, and Charades-CG's."""
    train, val, test = (described(n, names(p, 4)) for n, p in enumerate("tvx"))
    own.write_features(train, val, test)
    for split, group in (("train", train), ("val", val), ("test", test)):
        own.write(f"{split}_data.json", group)
    (own.folder / "features.hdf5").rename(own.folder / facts(name).features)
    options = {"num_frames": 16, "num_clips": 8, "dir": "mine", "weak": True}
    data = own.root / "data"
    corpus = load_corpus(name=name, data_dir=data, splits=("test",), **options)
    said = " ".join(corpus.notes)
    assert "share" not in said and "annotate the same" not in said and "verbatim" not in said


def test_changed_splits_of_charades_are_described_by_their_own_files(
    shared: Path, own: Own
) -> None:
    """A sample of Charades-CG: three tests under names of their own, NAME charades."""
    folder = shared / "layouts" / "charades_cg"
    if not folder.is_dir():
        pytest.skip(f"needs a sample of Charades-CG at {folder}")
    splits = {s: str(folder / f"{s}.json") for s in ("train", "novel_word", "test_trivial")}
    videos = {split: json.loads(Path(path).read_text("utf-8")) for split, path in splits.items()}
    own.write_features(*videos.values())
    options = CorpusOptions(
        annotations=splits, dir="mine", features="features.hdf5", num_frames=16, num_clips=8
    )
    for split in ("novel_word", "test_trivial"):
        corpus = load_corpus(
            options, name="charades", data_dir=own.root / "data", splits=(split,), weak=True
        )
        assert corpus[split].corpus == tuple(videos[split])
        shares = set(videos["train"]) & set(videos[split])
        assert any("share" in note for note in corpus.notes) == bool(shares)
        texts = [(s, v) for v, entry in videos[split].items() for s in entry["sentences"]]
        elsewhere = [s for s, v in texts if any(s == t and v != w for t, w in texts)]
        said = f"{split}: {len(elsewhere):,} of {len(texts):,} sentences"
        assert any(note.startswith(said) for note in corpus.notes) == bool(elsewhere)


def test_published_files_are_described_as_they_are(shared: Path) -> None:
    """The notes that named corpora had were true of the published files, and still are said."""
    from lib.datasets.annotations import read_paragraphs
    from lib.datasets.statements import repeated_sentences, shared_videos

    folder = shared / "annotations" / "activitynet"
    read = {split: read_paragraphs(folder / f"{split}.json")[0] for split in ("val", "test")}
    (said,) = shared_videos(read)
    assert said.startswith("val and test share 4,885 videos")
    paragraphs, _ = read_paragraphs(shared / "annotations" / "charades" / "charades_sta_test.txt")
    assert repeated_sentences(paragraphs).startswith("1,")


# Without timestamps.


def test_a_corpus_without_timestamps_is_trained_on_and_grounded(own: Own) -> None:
    splits = [described(n, names(p, 6), timed=False) for n, p in enumerate("tvx")]
    own.write_features(*splits)
    for name, split in zip(("train", "val", "test"), splits, strict=True):
        own.write(f"{name}.json", split)
    own.experiment({"ANNOTATIONS": {s: f"{s}.json" for s in ("train", "val", "test")}})
    own.done("dense_train")
    own.done("best_test")
    results = own.results()
    assert {"vr", "vr_sentences"} <= set(results["protocols"])
    assert all(PROTOCOLS[name].ranked == "videos" for name in results["protocols"])
    assert (
        "test has no timestamps to score against: retrieval is scored, and no moment"
        in (results["notes"])
    )
    files = read_run(own.root / "save" / "mine")
    spans = files.predictions.spans
    assert spans is not None and len(spans) == 18 and (spans[..., 0] < spans[..., 1]).all()
    ended = own.call("dense_train", "--overwrite", "--set", "TRAIN.SUPERVISION=full")
    assert ended.status == 2 and "has no timestamps; expected [start, end]" in ended.output


def test_a_model_that_only_grounds_has_no_score_to_be_chosen_by_without_timestamps(
    own: Own,
) -> None:
    splits = [described(n, names(p, 6), timed=False) for n, p in enumerate("tv")]
    own.write_features(*splits)
    for name, split in zip(("train", "val"), splits, strict=True):
        own.write(f"{name}.json", split)
    own.experiment(
        {"ANNOTATIONS": {"train": "train.json", "val": "val.json"}},
        MODEL={"NAME": "cnm", "PARAMS": {"hidden_size": 8, "heads": 2}},
        LOSS={"WEIGHTS": {"reconstruction": 1}},
    )
    ended = own.call("dense_train")
    assert ended.status == 2 and "no score can choose a checkpoint" in ended.output
    assert not (own.root / "save").exists()


def test_a_floor_that_needs_training_moments_is_left_out_with_a_reason(own: Own) -> None:
    train, *others = (described(n, names(p, 6), timed=n > 0) for n, p in enumerate("tvx"))
    own.write_features(train, *others)
    for name, split in zip(("train", "val", "test"), (train, *others), strict=True):
        own.write(f"{name}.json", split)
    own.experiment({"ANNOTATIONS": {s: f"{s}.json" for s in ("train", "val", "test")}})
    own.done("dense_train")
    own.done("best_test")
    results = own.results()
    floors = results["floors"]["svmr_2dtan"]
    assert "whole video" in floors and "ten fixed spans" not in floors
    assert any("ten fixed spans is left out" in note for note in results["notes"])


# Several paragraphs of a video.


def test_several_paragraphs_of_a_video_search_it_once(own: Own) -> None:
    train = described(0, [*names("t", 8), "t0#2"])
    test = described(1, [*names("x", 5), "x0#2", "x3#2"])
    own.write_features(train, test)
    own.write("train.json", train)
    own.write("test.json", test)
    own.experiment({"ANNOTATIONS": {"train": "train.json", "test": "test.json"}})
    own.done("dense_train")
    own.done("best_test")
    results = own.results()
    assert results["corpus"] == {"videos": 5, "paragraphs": 7, "sentences": 21}
    assert results["floors"]["vr"]["chance"]["R@1"] == pytest.approx(100 / 5)
    truth = read_run(own.root / "save" / "mine").truth
    assert truth.video_ids == tuple(names("x", 5))
    assert truth.paragraph_video.tolist() == [0, 1, 2, 3, 4, 0, 3]


def test_durations_that_differ_between_a_video_s_paragraphs_hold_all_its_moments(own: Own) -> None:
    train, test = described(0, names("t", 8)), described(1, ["x0", "x0#2", "x0#3", "x1"])
    test["x0#2"] |= {"duration": 32.0, "timestamps": [[0.0, 8.0], [9.0, 18.0], [17.0, 31.5]]}
    own.write_features(train, test)
    own.write("train.json", train)
    own.write("test.json", test)
    split = own.load(("test",), annotations={"train": "train.json", "test": "test.json"})["test"]
    truth = truth_of(split)
    assert truth.durations.tolist() == [32.0, 30.0]
    assert truth.fractions.max() <= 1


# The terms that tell a paragraph's, or a sentence's, video from others.
CONTRASTS = {
    "clip_align": ("paragraph", "sentence"),
    "dciml": ("clip_nce", "frame_nce", "triplet", "hard_triplet"),
    "dmr_jrg": ("retrieval_triplet", "retrieval_nce", "global_triplet", "global_nce"),
    "dmr_jrg_evidence": ("retrieval_triplet", "retrieval_nce", "global_nce", "sentence_nce"),
    "dmr_jrg_linear": ("retrieval_triplet", "retrieval_nce", "sentence"),
    "dmr_release": ("retrieval_nce",),
    "jsg": (
        *("glance_nce", "glance_triplet", "glance_hard_triplet", "gaze_nce", "gaze_triplet"),
        *("gaze_hard_triplet", "attention_nce", "attention_triplet", "attention_hard_triplet"),
    ),
    "linear_align": ("sentence",),
    "ms_sl": (
        *("clip_nce", "clip_triplet", "clip_hard_triplet", "frame_nce", "frame_triplet"),
        "frame_hard_triplet",
    ),
    "reloclnet": ("triplet", "hard_triplet", "video_contrast"),
    "xml": ("triplet", "hard_triplet"),
}
MORE_KEYWORDS: dict[str, dict[str, Any]] = {
    "dmr_jrg_evidence": {"words": True, "alignment": True},
    "jsg": {
        **{"kernel": 2, "num_centers": 4, "num_widths": 3, "gaze_widths": 2},
        "video_level": True,
    },
}


def two_paragraphs(*, apart: bool) -> Batch:
    """Two paragraphs of one video, or of two that look the same."""
    first, second = make_sample(0, 3), make_sample(1, 2)
    second.video.copy_(first.video)
    second = type(second)(**{**vars(second), "video_index": int(apart), "duration": first.duration})
    return collate([first, second])


@pytest.mark.parametrize("name", CONTRASTS)
def test_paragraphs_of_one_video_are_no_negatives_of_each_other(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    nothing_is_drawn_by(monkeypatch)
    torch.manual_seed(0)
    model = small(MODELS[name], **MORE_KEYWORDS.get(name, {}))
    terms = terms_of(model)
    kept = {term: terms[term] for term in CONTRASTS[name] if term in terms}
    assert set(kept) == set(CONTRASTS[name])

    def cost(batch: Batch, term: Callable[..., torch.Tensor]) -> float:
        torch.manual_seed(1)
        return term(model(batch, terms=frozenset(kept)), batch).item()

    for term, function in kept.items():
        one, two = (cost(two_paragraphs(apart=apart), function) for apart in (False, True))
        alone = cost(collate([make_sample(0, 3)]), function)
        assert one == pytest.approx(alone, abs=1e-5) and two > alone + 1e-3, term
