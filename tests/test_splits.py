"""What training takes from which file: nothing from the test, and no timestamp without supervision.

The experiment is weakly supervised; its last.pt must come out bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.commands import dense_train
from lib.config.config import load_config
from lib.datasets import LoadedCorpus, load_corpus
from lib.evaluation import PROTOCOLS
from lib.evaluation.files.run import read_run
from lib.evaluation.report import report
from lib.training import checkpoint
from lib.training.build import open_corpus
from tests.runs import Ended, run, timeless, write_experiment
from tests.stress.kill_harness import differences

Annotations = dict[str, dict[str, Any]]


class World:
    """The tiny experiment in a folder of its own, whose annotations can be changed."""

    def __init__(self, folder: Path, source: World | None = None) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        if source is not None:
            shutil.copytree(source.folder / "data", folder / "data")
        self.experiment = write_experiment(folder, EPOCHS=1)
        self.saved = folder / "save" / "tiny"

    def path(self, split: str) -> Path:
        (found,) = (self.folder / "data").rglob(f"{split}_data.json")
        return found

    def read(self, split: str) -> Annotations:
        content: Annotations = json.loads(self.path(split).read_text("utf-8"))
        return content

    def change(self, split: str, change: Callable[[Annotations], object]) -> None:
        content = self.read(split)
        change(content)
        self.path(split).write_text(json.dumps(content), "utf-8")

    def call(self, name: str, *flags: object, **options: Any) -> Ended:
        flags = ("--cfg", self.experiment, *flags)
        return run(name, *flags, output=self.folder / f"{name}.txt", **options)

    def train(self, *flags: object, **options: Any) -> dict[str, Any]:
        ended = self.call("dense_train", *flags, **options)
        assert ended.status == 0, ended.output
        return timeless(checkpoint.load(self.saved / "last.pt"))

    def results(self) -> dict[str, Any]:
        ended = self.call("best_test")
        assert ended.status == 0, ended.output
        found: dict[str, Any] = json.loads((self.saved / "results.json").read_text("utf-8"))
        return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any]]:
    """The experiment as it is, trained."""
    world = World(tmp_path_factory.mktemp("splits") / "plain")
    return world, world.train()


def longest(world: World, split: str) -> int:
    return max(len(entry["sentences"]) for entry in world.read(split).values())


def lengthen(test: Annotations) -> None:
    """Forty sentences in the first paragraph, with words that training does not have."""
    first = next(iter(test.values()))
    first["sentences"] = [f"unheard{n} things are said" for n in range(40)]
    first["timestamps"] = [[0.0, first["duration"] / 2]] * 40


def without_timestamps(split: Annotations) -> None:
    for entry in split.values():
        del entry["timestamps"]


def test_the_test_changes_no_weight_and_is_tested_whatever_its_length(plain, tmp_path) -> None:
    untouched, expected = plain
    world = World(tmp_path / "long", untouched)
    world.change("test", lengthen)
    assert not list(differences(expected, world.train()))
    assert longest(world, "test") == 40 > longest(world, "train")
    sizes = checkpoint.load(world.saved / "best.pt")["experiment"]["dims"]
    assert sizes["max_sentences"] == longest(world, "train")
    known = checkpoint.load(world.saved / "best.pt")["inference"]["vocabulary"]["vectors"]["words"]
    assert not [word for word in known if word.startswith("unheard")]
    results = world.results()
    assert results["corpus"]["sentences"] > 40
    truth = read_run(world.saved).truth
    assert "unheard39 things are said" in truth.sentences


def test_a_broken_test_file_stops_the_test_and_not_the_training(plain, tmp_path) -> None:
    untouched, expected = plain
    world = World(tmp_path / "broken", untouched)
    world.path("test").write_text("{", "utf-8")
    assert not list(differences(expected, world.train()))
    annotations = checkpoint.load(world.saved / "last.pt")["provenance"]["annotations"]
    assert set(annotations) == {"train", "val"}
    ended = world.call("best_test")
    assert ended.status == 2 and "test_data.json: is not valid JSON" in ended.output


@pytest.mark.parametrize("moment", [[5.0, 3.0], [1e6, 2e6], None])
def test_an_empty_moment_changes_no_weakly_supervised_run(plain, tmp_path, moment) -> None:
    untouched, expected = plain
    world = World(tmp_path / "empty", untouched)

    def change(train: Annotations) -> None:
        for entry in list(train.values())[:3]:
            entry["timestamps"][0] = moment

    world.change("train", change)
    assert not list(differences(expected, world.train()))


def test_data_without_timestamps_train_and_are_tested_for_retrieval(plain, tmp_path) -> None:
    untouched, expected = plain
    world = World(tmp_path / "untimed", untouched)
    for split in ("train", "val", "test"):
        world.change(split, without_timestamps)
    found = world.train()
    assert not list(differences(expected, found))
    results = world.results()
    assert {"vr", "vr_sentences"} <= set(results["protocols"])
    assert all(PROTOCOLS[name].ranked == "videos" for name in results["protocols"])
    assert (
        "test has no timestamps to score against: retrieval is scored, and no moment"
        in results["notes"]
    )
    files = read_run(world.saved)
    assert not files.truth.timed and files.predictions.spans is not None
    assert "truth not known" in report(files)
    ended = world.call("dense_train", "--overwrite", "--set", "TRAIN.SUPERVISION=full")
    assert ended.status == 2 and "has no timestamps; expected [start, end]" in ended.output


def test_a_split_that_is_scored_has_all_timestamps_or_none(plain, tmp_path) -> None:
    world = World(tmp_path / "some", plain[0])
    world.change("val", lambda val: next(iter(val.values())).pop("timestamps"))
    ended = world.call("dense_train")
    assert ended.status == 2 and "lacks timestamps, which others have" in ended.output
    assert not world.saved.exists()


EARLIER = {"experiment": {"dims": {"max_sentences": 11}}}  # of no "empty_moments"


def as_before() -> None:
    """A sabotage: train as releases did that sized positions by all splits, and left sentences with
    an empty moment out."""
    original = dense_train.open_corpus
    dense_train.open_corpus = lambda *args, **options: original(
        *args, **options | {"trained": EARLIER}
    )


def test_a_run_of_an_earlier_release_goes_on_and_is_tested_as_it_was_trained(
    plain, tmp_path
) -> None:
    def change(train: Annotations) -> None:
        first = next(iter(train.values()))
        first["sentences"][0], first["timestamps"][0] = "zyzzyva", [5.0, 3.0]

    world, longer = World(tmp_path / "old", plain[0]), ("--set", "TRAIN.EPOCHS=2")
    world.change("train", change)
    expected = world.train(*longer, sabotage=as_before)
    before = world.results()
    for name in ("best.pt", "last.pt"):
        state = checkpoint.load(world.saved / name)
        del state["empty_moments"]
        checkpoint.save(world.saved / name, state)
    after = world.results()
    for key in ("protocols", "floors", "ceilings", "diagnostics", "calibration"):
        assert after[key] == before[key], key
    sizes = checkpoint.load(world.saved / "best.pt")["experiment"]["dims"]
    assert sizes["max_sentences"] == 11 > longest(world, "train")

    world.train("--overwrite", sabotage=as_before)
    assert not list(differences(expected, world.train("--resume", *longer)))


def test_the_sentences_of_an_earlier_release_are_those_with_a_moment(plain, tmp_path) -> None:
    world = World(tmp_path / "world", plain[0])

    def change(train: Annotations) -> None:
        first = next(iter(train.values()))
        first["sentences"][0] = "zyzzyva"
        first["timestamps"][0] = [5.0, 3.0]

    world.change("train", change)
    config = load_config(world.experiment)
    new = open_corpus(config, ("train",))
    again = open_corpus(config, ("train",), trained={"empty_moments": "kept"})
    old = open_corpus(config, ("train",), trained={})
    assert "zyzzyva" in new.vocabulary.words and new.vocabulary.words == again.vocabulary.words
    assert "zyzzyva" not in old.vocabulary.words
    scored = open_corpus(config, ("train",), show_moments=True)
    assert scored.vocabulary.words == new.vocabulary.words
    sentences = [s for p in scored["train"].paragraphs for s in p.sentences]
    assert "zyzzyva" not in sentences
    assert all(np.isfinite(p.moments).all() for p in scored["train"].paragraphs)


def test_validation_that_is_held_out_is_scored_without_empty_moments(plain, tmp_path) -> None:
    world = World(tmp_path / "world", plain[0])
    world.path("val").unlink()
    (folder,) = {world.path("train").parent}
    options: dict[str, Any] = {"num_frames": 32, "num_clips": 8, "val_fraction": 0.3}
    options |= {"data_dir": folder.parent, "dir": folder.name, "splits": ("train", "val")}

    def load() -> LoadedCorpus:
        return load_corpus(name="synthetic", weak=True, **options)

    before = load()
    held = set(before["val"].corpus)

    def change(train: Annotations) -> None:
        for video, entry in train.items():
            if video in held:
                entry["timestamps"][0] = [5.0, 3.0]

    world.change("train", change)
    after = load()
    assert set(after["val"].corpus) <= held
    assert after["train"].paragraphs[0].sentences == before["train"].paragraphs[0].sentences
    assert all(np.isfinite(p.moments).all() for p in after["val"].paragraphs)


def test_full_supervision_does_not_do_without_timestamps(plain, tmp_path) -> None:
    world = World(tmp_path / "world", plain[0])
    world.change("train", without_timestamps)
    (folder,) = {world.path("train").parent}
    with pytest.raises(InputError, match="has no timestamps"):
        load_corpus(
            name="synthetic",
            data_dir=folder.parent,
            dir=folder.name,
            splits=("train",),
            num_frames=32,
            num_clips=8,
        )
