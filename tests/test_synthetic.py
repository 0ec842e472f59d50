"""The synthetic world and simulated features: planted as they say, and written whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.commands import make_synthetic
from lib.datasets import load_corpus, synthetic
from lib.datasets.annotations import Paragraph, read_paragraphs
from lib.datasets.features import FeatureFile
from lib.datasets.synthetic import (
    FeatureOptions,
    WorldOptions,
    ensure_world,
    simulate_features,
    write_world,
)
from lib.datasets.vocabulary import WordVectors, read_word_vectors, tokenise
from tests.conftest import TINY

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough to count things in; narrow, so that it is quick."""
    options = WorldOptions(train=300, val=60, test=100, feature_dim=16, rows_per_second=0.2)
    return ensure_world(tmp_path_factory.mktemp("worlds"), options)


def read_split(folder: Path, split: str) -> list[Paragraph]:
    return read_paragraphs(folder / f"{split}_data.json", bad_moments="refuse")[0]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def test_equal_parts_in_order_are_a_poor_answer(world: Path) -> None:
    """The floor that needs no model must leave room: R@1, IoU 0.5 of at most 35."""
    parts, whole = [], []
    for split in SPLITS:
        for p in read_split(world, split):
            S = len(p.sentences)
            for i, moment in enumerate(p.moments / p.duration):
                parts.append(overlap((i / S, (i + 1) / S), moment) > 0.5)
                whole.append(overlap((0, 1), moment) > 0.5)
    assert 0.1 < np.mean(parts) < 0.35
    assert np.mean(whole) < 0.15


def test_the_world_is_made_as_its_knobs_say(tmp_path: Path) -> None:
    options = WorldOptions(
        train=5, val=3, test=2, min_sentences=3, max_sentences=4, overlap=0.0, disorder=0.0,
        rows_per_second=2.0, feature_dim=7, word_dim=9,
    )  # fmt: skip
    write_world(tmp_path / "w", options)
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        paragraphs = read_split(tmp_path / "w", split)
        assert len(paragraphs) == count
        for p in paragraphs:
            assert 3 <= len(p.sentences) <= 4 and 30 <= p.duration <= 150
            starts, ends = p.moments.T
            assert (starts[1:] >= ends[:-1]).all()  # neither overlap nor disorder
            rows = FeatureFile(tmp_path / "w" / "features.hdf5").read(p.video_id)
            assert rows.shape == (round(2 * p.duration), 7)
    assert read_word_vectors(tmp_path / "w" / "glove.pkl").dim == 9


def test_disorder_and_overlap_do_what_they_say(tmp_path: Path) -> None:
    shape = {"train": 60, "val": 1, "test": 1, "feature_dim": 4, "rows_per_second": 0.2}
    for name, overlap_, disorder in (("overlap", 1.0, 0.0), ("disorder", 0.0, 1.0)):
        options = WorldOptions(**shape, overlap=overlap_, disorder=disorder)  # type: ignore[arg-type]
        write_world(tmp_path / name, options)
    for p in read_split(tmp_path / "overlap", "train"):
        starts, ends = p.moments.T
        assert (np.diff(starts) > 0).all()
    overlaps = [
        (p.moments[1:, 0] < p.moments[:-1, 1]).mean()
        for p in read_split(tmp_path / "overlap", "train")
    ]
    assert np.mean(overlaps) > 0.5  # the event before may be one that no sentence describes
    for p in read_split(tmp_path / "disorder", "train"):
        starts = p.moments[:, 0]
        # Every swap done: the first sentence wanders to the end.
        assert starts[-1] == starts.min() and (np.diff(starts[:-1]) > 0).all()


def test_held_out_paragraphs_combine_known_words_as_training_never_does(world: Path) -> None:
    grammar = synthetic._Grammar.draw(WorldOptions(feature_dim=16))
    actions = {word for theme in grammar.themes for word in theme.actions}
    objects = {word for theme in grammar.themes for word in theme.objects}

    def facts(split: str) -> tuple[set[tuple[str, ...]], set[str]]:
        texts = [tokenise(s) for p in read_split(world, split) for s in p.sentences]
        kinds = (set(grammar.actors), actions, objects)
        combined = {tuple(next(w for w in words if w in kind) for kind in kinds) for words in texts}
        return combined, {word for words in texts for word in words}

    train, train_words = facts("train")
    for split in ("val", "test"):
        combined, words = facts(split)
        assert not combined & train
        assert words <= train_words
    assert 150 < len(train_words) < 400


def test_words_of_one_class_have_similar_vectors(world: Path) -> None:
    vectors = read_word_vectors(world / "glove.pkl")
    words = ["dog", "cat", "horse", "guitar", "violin", "drum"]
    table = vectors.lookup(words).numpy()
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosine = table @ table.T
    assert min(cosine[0, 1], cosine[1, 2], cosine[3, 4]) > 0.2 > abs(cosine[:3, 3:]).max() - 0.15


@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_a_moment_shows_its_own_sentence_and_only_with_signal(
    tmp_path: Path, signal: float
) -> None:
    options = WorldOptions(train=1, val=1, test=40, signal=signal, distractors=0.0, overlap=0.0)
    write_world(tmp_path / "w", options)
    grammar = synthetic._Grammar.draw(options)
    file = FeatureFile(tmp_path / "w" / "features.hdf5")
    inside, outside = [], []
    for p in read_split(tmp_path / "w", "test"):
        rows = file.read(p.video_id)
        rows = rows - rows.mean(axis=0)
        times = (np.arange(len(rows)) + 0.5) * p.duration / len(rows)
        for sentence, (start, end) in zip(p.sentences, p.moments, strict=True):
            seen = [grammar.appearance[w] for w in tokenise(sentence) if w in grammar.appearance]
            match = rows @ (np.sum(seen, axis=0) / np.linalg.norm(np.sum(seen, axis=0)))
            here = (times >= start) & (times < end)
            inside.append(match[here].mean())
            outside.append(match[~here].mean())
    margins = np.array(inside) - np.array(outside)
    if signal:
        assert (margins > 0).mean() > 0.95 and margins.mean() > 0.4
    else:
        assert abs(margins.mean()) < 0.05


def test_the_same_knobs_give_the_same_world_and_others_another(tmp_path: Path) -> None:
    small = {"train": 4, "val": 2, "test": 2, "feature_dim": 5}
    paths = [
        ensure_world(tmp_path / str(i), WorldOptions(**small, seed=seed))  # type: ignore[arg-type]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert paths[0].name == paths[1].name != paths[2].name
    for name in ("train_data.json", "glove.pkl"):
        assert (paths[0] / name).read_bytes() == (paths[1] / name).read_bytes()
        assert (paths[0] / name).read_bytes() != (paths[2] / name).read_bytes()
    files = [FeatureFile(path / "features.hdf5") for path in paths]
    np.testing.assert_array_equal(files[0].read("v_test00001"), files[1].read("v_test00001"))


def test_more_videos_leave_the_others_as_they_are(tmp_path: Path) -> None:
    few = ensure_world(tmp_path, WorldOptions(train=3, val=1, test=1, feature_dim=5))
    many = ensure_world(tmp_path, WorldOptions(train=6, val=1, test=1, feature_dim=5))
    for a, b in zip(read_split(few, "train"), read_split(many, "train"), strict=False):
        assert a.sentences == b.sentences
        rows = [FeatureFile(f / "features.hdf5").read(a.video_id) for f in (few, many)]
        np.testing.assert_array_equal(*rows)


def test_an_existing_world_is_used_and_an_interrupted_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = WorldOptions(train=3, val=1, test=1, feature_dim=5)

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_word_vectors", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure_world(tmp_path, options)
    assert list(tmp_path.iterdir()) == []
    folder = ensure_world(tmp_path, options)
    monkeypatch.setattr(synthetic, "write_world", interrupt)
    assert ensure_world(tmp_path, options) == folder


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="is not empty; nothing is overwritten"):
        write_world(tmp_path, WorldOptions(train=1, val=1, test=1))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"train": 0}, "synthetic train is 0; expected int, at least 1"),
        ({"signal": -1.0}, "synthetic signal is -1.0; expected float, at least 0"),
        ({"signal": float("nan")}, "synthetic signal is nan"),
        ({"overlap": 1.5}, "expected float, from 0 to 1"),
        ({"min_sentences": 5, "max_sentences": 4}, "min_sentences 5 is more than max_sentences 4"),
        ({"signl": 1}, "has no knob 'signl'; did you mean signal?"),
    ],
)
def test_a_knob_out_of_range_is_refused(
    tmp_path: Path, knobs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        load_corpus(name="synthetic", data_dir=tmp_path, splits=["test"], synthetic=knobs)


def test_a_knob_of_another_type_is_refused() -> None:
    with pytest.raises(Exception, match="train"):  # whoever sees it first: we or executed types
        WorldOptions(train=2.5)  # type: ignore[arg-type]


def test_a_world_made_by_hand_is_used_and_a_contrary_knob_refused(tmp_path: Path) -> None:
    arguments = ["--train", "4", "--val", "2", "--test", "2", "--feature-dim", "5", "--seed", "3"]
    make_synthetic.main(["world", "--out", str(tmp_path / "mine"), *arguments])

    def load(**knobs: Any) -> Any:
        return load_corpus(
            name="synthetic", data_dir=tmp_path, dir="mine", splits=["test"], synthetic=knobs
        )

    assert load().folder == load(seed=3).folder == tmp_path / "mine"
    with pytest.raises(InputError, match="was made with seed 3, not 4"):
        load(seed=4)


# Simulated features for given annotations


def make_paragraphs() -> list[Paragraph]:
    def paragraph(name: str, video: str, *described: tuple[str, float, float]) -> Paragraph:
        moments = np.array([[start, end] for _, start, end in described], dtype=np.float64)
        return Paragraph(name, video, 100.0, tuple(text for text, *_ in described), moments)

    return [
        paragraph("a", "a", ("A man slices an apple.", 0, 30), ("He eats the pear.", 60, 90)),
        paragraph("b", "b", ("The dog runs.", 10, 50), ("A cat sleeps on the sofa.", 50, 55)),
        paragraph("a#2", "a", ("Someone cuts fruit.", 0, 30)),
    ]


QUIET = FeatureOptions(dim=200, signal=3.0, background=0.0, distractors=0.0)


def test_a_simulated_moment_shows_its_sentence_and_nothing_else(tmp_path: Path) -> None:
    paragraphs = make_paragraphs()
    simulate_features(paragraphs, tmp_path / "f.hdf5", QUIET)
    rows = FeatureFile(tmp_path / "f.hdf5").read("b")
    assert rows.shape == (200, 200)
    lengths = np.linalg.norm(rows, axis=1)
    assert lengths[20:110].min() > 2 > 1.5 > lengths[:20].max()
    assert lengths[112:].max() < 1.5
    dog, cat = rows[20:100].mean(axis=0), rows[100:110].mean(axis=0)
    assert abs(dog @ cat) / np.linalg.norm(dog) / np.linalg.norm(cat) < 0.25


def test_a_video_looks_the_same_whatever_is_written_beside_it(tmp_path: Path) -> None:
    paragraphs = make_paragraphs()
    options = FeatureOptions(dim=16)
    simulate_features(paragraphs, tmp_path / "x.hdf5", options)
    simulate_features(paragraphs, tmp_path / "y.hdf5", options, only=["b"])
    simulate_features(paragraphs, tmp_path / "z.hdf5", FeatureOptions(dim=16, seed=1))
    x, y, z = (FeatureFile(tmp_path / f"{name}.hdf5") for name in "xyz")
    np.testing.assert_array_equal(x.read("b"), y.read("b"))
    assert y.missing(["a", "b"]) == ["a"]
    assert not np.allclose(x.read("b"), z.read("b"))


def test_similar_words_look_similar_when_vectors_say_so(tmp_path: Path) -> None:
    words = sorted({w for p in make_paragraphs() for s in p.sentences for w in tokenise(s)})
    random = np.random.default_rng(0)
    table = random.standard_normal((len(words), 40)).astype(np.float32)
    table[words.index("cat")] = table[words.index("dog")]
    vectors = WordVectors(words, torch.from_numpy(table))
    look = synthetic._sentence_look(
        [s for p in make_paragraphs() for s in p.sentences], FeatureOptions(dim=300), vectors
    )
    cosine = look("the dog") @ look("a cat"), look("the dog") @ look("the sofa")
    assert cosine[0] == pytest.approx(1) and abs(cosine[1]) < 0.5
    assert np.linalg.norm(look("the of and")) == 0  # no content word, no signal


def test_noise_has_the_variance_and_the_correlation_it_was_given(tmp_path: Path) -> None:
    (paragraph, *_) = make_paragraphs()
    silent = FeatureOptions(dim=50, signal=0.0, background=0.0, distractors=0.0, correlation=0.6)
    simulate_features([paragraph], tmp_path / "f.hdf5", silent)
    rows = FeatureFile(tmp_path / "f.hdf5").read("a")
    assert np.mean(rows**2) * 50 == pytest.approx(1, abs=0.1)
    assert np.mean(rows[1:] * rows[:-1]) / np.mean(rows**2) == pytest.approx(0.6, abs=0.05)


def test_the_script_turns_annotations_into_a_loadable_corpus(tmp_path: Path) -> None:
    source = tmp_path / "annotations"
    source.mkdir()
    entry = {
        "duration": 40.0,
        "timestamps": [[0, 10], [12, 30]],
        "sentences": ["A man jumps.", "The dog barks."],
    }
    for split, first in (("train", 0), ("val", 10), ("test", 10)):  # val and test share videos
        data = {f"v_{i}": entry for i in range(first, first + 6)}
        (source / f"{split}.json").write_text(json.dumps(data))
    out = tmp_path / "data" / "activitynet"
    arguments = ["features", "--corpus", "activitynet", "--annotations", str(source)]
    arguments += ["--out", str(out), "--train", "4", "--dim", "10", "--word-dim", "6"]
    make_synthetic.main(arguments)
    corpus = load_corpus(name="activitynet", data_dir=tmp_path / "data", splits=SPLITS)
    assert [len(corpus[split]) for split in SPLITS] == [4, 6, 6]
    assert (corpus.dims.video_dim, corpus.dims.word_dim) == (10, 6)
    with h5py.File(out / "sub_activitynet_v1-3.c3d.hdf5") as file:
        assert len(file) == 10 and file["v_10/c3d_features"].shape == (80, 10)
    assert json.loads((out / "manifest.json").read_text())["options"]["dim"] == 10


def test_a_script_that_fails_leaves_nothing(tmp_path: Path) -> None:
    arguments = ["features", "--corpus", "tacos", "--annotations", str(tmp_path / "no")]
    with pytest.raises(InputError, match="no train annotations of TACoS"):
        make_synthetic.main([*arguments, "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_every_flag_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("world", "features"):
        with pytest.raises(SystemExit):
            make_synthetic.main([command, "--help"])
        text = capsys.readouterr().out
        assert "--signal" in text and "--seed" in text and "--out" in text


def test_the_tiny_corpus_of_the_tests_is_within_range() -> None:
    WorldOptions(**TINY)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["charades", "tacos"])
def test_other_corpora_can_be_simulated_too(shared: Path, tmp_path: Path, name: str) -> None:
    arguments = ["features", "--corpus", name, "--annotations", str(shared / "annotations" / name)]
    arguments += ["--out", str(tmp_path / name), "--train", "12", "--val", "2", "--test", "3"]
    arguments += ["--dim", "4", "--rows-per-second", "0.1"]
    make_synthetic.main(arguments)
    corpus = load_corpus(name=name, data_dir=tmp_path, splits=("train", "test"))
    assert len(corpus["test"]) == 3
    if name == "tacos":
        assert all(p.video_id.endswith(".avi") for p in corpus["test"].paragraphs)
