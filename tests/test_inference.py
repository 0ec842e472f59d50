"""A trained run answers as its test does, also from a copy without its data, and in new words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from lib.base.errors import InputError
from lib.base.recipe import RECIPE, Recipe
from lib.base.runtime import Runtime
from lib.config.config import load_config
from lib.datasets import build_loader
from lib.datasets.features import normalize_rows
from lib.datasets.standardization import Standardization
from lib.decoding import decode
from lib.evaluation.retrieval import MOST_SCALE, similarity_scale
from lib.inference import TrainedRun, VideoIndex, load, open_index
from lib.inference.sentences import MOST_SENTENCES, sentences_of, split_sentences
from lib.inference.sources import FeatureSource, read_durations
from lib.training import checkpoint
from lib.training.build import open_corpus, open_decoding, open_model
from lib.training.prediction import best_moments, evidence_of, read_split, similarities
from tests.runs import REPOSITORY, run, write_experiment

NEW_WORD = "snowmobile"
RECIPE_TEXT = Recipe(
    backbone="tiny",
    weights="tiny.pt",
    weights_sha256="0" * 64,
    rate="2/1",
    frames=1,
    stride=1,
    resize="short 32",
    crop="centre 32x32",
    interpolation="pillow bicubic",
    channels="rgb",
    scale="1/255",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    tap="pool",
    width=12,
).json()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the linear alignment on a world of twelve videos, whose vector file knows a word
    that no sentence has."""
    folder = tmp_path_factory.mktemp("answering")
    path = write_experiment(folder, EPOCHS=2)
    text = yaml.safe_load(path.read_text())
    text["BASE"] = str(REPOSITORY / "experiments/synthetic/base.yaml")
    text["MODEL"] = {"NAME": "linear_align", "PARAMS": {"hidden_size": 16, "position_bias": 1.0}}
    text["LOSS"] = {"WEIGHTS": {"sentence": 1, "within": 1}}
    text["DATASET"]["STANDARDIZE"] = True
    path.write_text(yaml.safe_dump(text))
    corpus = open_corpus(load_config(path), ("train", "val"))  # makes the world
    vectors = corpus.vector_file
    width = corpus.vocabulary.vectors.dim
    # The pickle of the world, as text, with one word more.
    words = list(corpus.vocabulary.vectors.index)
    rows = corpus.vocabulary.vectors.lookup(words)
    lines = [f"{w} {' '.join(map(str, row.tolist()))}" for w, row in zip(words, rows, strict=True)]
    lines.append(f"{NEW_WORD} {' '.join(['-0.5'] * width)}")
    vectors.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    text["DATASET"]["WORD_VECTORS"] = str(vectors.with_suffix(".txt"))
    path.write_text(yaml.safe_dump(text))
    ended = run("dense_train", "--cfg", path, output=folder / "train.txt")
    assert ended.status == 0, ended.output
    return folder


@pytest.fixture(scope="session")
def trained(home: Path) -> TrainedRun:
    return load(home / "save/tiny", device="cpu")


@pytest.fixture
def features(home: Path, tmp_path: Path) -> Path:
    """A copy of the world's feature file."""
    (found,) = (home / "data").rglob("features.hdf5")
    return Path(shutil.copy(found, tmp_path / "features.hdf5"))


def of_the_test(home: Path) -> tuple[Any, Any, Any]:
    """The test split as the test reads it: corpus, similarities, best spans."""
    config = load_config(home / "tiny.yaml")
    state = checkpoint.load(home / "save/tiny/best.pt")
    kept = Standardization.of_checkpoint(state, wanted=True)
    corpus = open_corpus(config, ("test",), show_moments=True, standardization=kept)
    runtime = Runtime(torch.device("cpu"))
    model = open_model(config, corpus, runtime, open_decoding(config)).eval()
    checkpoint.load_into(model, state)
    split = corpus["test"]
    read = read_split(
        model,
        build_loader(split.texts, batch_size=1),
        build_loader(split.videos, batch_size=len(split.videos)),
        runtime,
        num_videos=len(split.videos),
    )
    return split, similarities(model, read, runtime), (model, read)


def raw_rows(features: Path, video: str) -> np.ndarray:
    with h5py.File(features) as file:
        node = file[video]
        return (node["c3d_features"] if isinstance(node, h5py.Group) else node)[()]


def test_it_answers_as_its_test_does(home, trained, features):
    split, expected, (model, read) = of_the_test(home)
    encoded = trained.encode_videos([raw_rows(features, video) for video in split.corpus])
    for row, paragraph in enumerate(split.paragraphs):
        query = trained.read(paragraph.sentences)
        assert np.array_equal(trained.similarity(query, encoded), expected[row])
        own = split.corpus.index(paragraph.video_id)
        moments = trained.ground(
            raw_rows(features, paragraph.video_id), paragraph.sentences, duration=10.0
        )
        videos = {name: value[own : own + 1] for name, value in read.videos.items()}
        evidence = evidence_of(model, read.paragraphs[row], videos, trained.decoding)
        spans, scores = best_moments(
            decode(evidence, trained.decoding, trained.calibration), moments=1, nms_iou=0.5
        )
        assert [(m.start, m.end) for m in moments] == [
            tuple(s) for s in (spans[:, 0] * 10).tolist()
        ]
        assert [m.score for m in moments] == scores[:, 0].tolist()


def test_a_copy_without_its_data_answers_the_same(home, trained, tmp_path, monkeypatch):
    shutil.copytree(home / "save/tiny", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    copy = load("copy", device="cpu")
    assert copy.fingerprint == trained.fingerprint
    sentences = ("Somebody opens a door.", f"A {NEW_WORD} waits.")
    ours, theirs = trained.read(sentences), copy.read(sentences)
    assert all(torch.equal(ours.encoded[name], theirs.encoded[name]) for name in ours.encoded)
    assert NEW_WORD not in theirs.unknown_words


def test_a_word_outside_the_corpus_changes_the_answer(trained):
    plain = trained.read("The man runs.")
    more = trained.read(f"The man runs {NEW_WORD}.")
    assert NEW_WORD not in more.unknown_words
    assert not torch.equal(plain.encoded["sentences"], more.encoded["sentences"])


def test_words_without_a_vector_are_said(home, trained, tmp_path):
    assert trained.read(f"Qwxyzz the {NEW_WORD}!").unknown_words == ("qwxyzz",)
    shutil.copytree(home / "save/tiny", tmp_path / "copy")
    (tmp_path / "copy/word_vectors.pt").unlink()
    assert load(tmp_path / "copy", device="cpu").read(NEW_WORD).unknown_words == (NEW_WORD,)


def test_packed_words_cost_no_second_copy(home):
    (packed,) = (home / "save/.cache").glob("words-*.pt")
    assert packed.samefile(home / "save/tiny/word_vectors.pt")


def test_an_export_reads_back_to_the_same_bits(home, trained, features, tmp_path):
    pytest.importorskip("safetensors")
    ended = run(
        "export", home / "save/tiny", "--out", tmp_path / "out", output=tmp_path / "export.txt"
    )
    assert ended.status == 0, ended.output
    read = load(tmp_path / "out", device="cpu")
    assert read.fingerprint == trained.fingerprint
    for name, value in trained.state["model"].items():
        assert torch.equal(value, read.state["model"][name]), name
    query, again = (each.read(f"He sits. {NEW_WORD} there.") for each in (trained, read))
    assert all(torch.equal(query.encoded[name], again.encoded[name]) for name in query.encoded)
    assert torch.equal(trained.standardization.mean, read.standardization.mean)
    with pytest.raises(InputError, match="not empty"):
        trained.export(tmp_path / "out")


def test_a_damaged_export_is_one_sentence(trained, tmp_path):
    pytest.importorskip("safetensors")
    trained.export(tmp_path / "out")
    (tmp_path / "out/weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"weights\.safetensors cannot be read"):
        load(tmp_path / "out")


def test_what_cannot_answer_is_refused(home, tmp_path):
    with pytest.raises(InputError, match=r"holds no vocabulary.*last\.pt"):
        load(home / "save/tiny/last.pt", device="cpu")
    with pytest.raises(InputError, match="holds no trained run"):
        load(tmp_path)
    state = checkpoint.load(home / "save/tiny/best.pt")
    state["inference"]["config"]["DATASET"]["WORD_FEATURES"] = "roberta.hdf5"
    with pytest.raises(InputError, match="cannot read new ones"):
        TrainedRun(state, tmp_path, device="cpu")


# Features.


def source(trained: TrainedRun, features: Path, **options: Any) -> FeatureSource:
    return FeatureSource(features, trained.state["features"], **options)


def test_features_of_another_width_or_kind_are_refused(trained, features, tmp_path):
    with h5py.File(tmp_path / "wide.hdf5", "w") as file:
        file["a"] = np.ones((3, 13), dtype=np.float32)
    with pytest.raises(InputError, match="13 wide; expected 12"):
        source(trained, tmp_path / "wide.hdf5")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        for name in "abcdef":
            file[name] = np.random.default_rng(0).normal(50, 1, (30, 12)).astype(np.float32)
    with pytest.raises(InputError, match="values of another kind"):
        source(trained, tmp_path / "other.hdf5")
    source(trained, tmp_path / "other.hdf5", same_recipe=True)


def test_features_of_another_recipe_are_refused(trained, features):
    with h5py.File(features, "r+") as file:
        file.attrs[RECIPE] = RECIPE_TEXT
    with pytest.raises(InputError, match="--same-recipe"):
        source(trained, features)
    like = {**trained.state["features"], "recipe": RECIPE_TEXT}
    FeatureSource(features, like)
    other = json.loads(RECIPE_TEXT) | {"frames": 16}
    with h5py.File(features, "r+") as file:
        file.attrs[RECIPE] = json.dumps(other)
    with pytest.raises(InputError, match="frames per window 1 there, 16 here"):
        FeatureSource(features, like, same_recipe=True)


def test_the_length_of_a_video_must_be_known(trained, features, tmp_path):
    first = next(iter(source(trained, features, seconds_per_row=0.5)))
    assert first.times.duration == 0.5 * len(first.rows)
    with pytest.raises(InputError, match="--seconds-per-row"):
        next(iter(source(trained, features)))
    path = tmp_path / "durations.json"
    path.write_text(json.dumps({first.id: {"duration": 7.5}}))
    known = source(trained, features, durations=read_durations(path))
    assert known.read(first.id).times.duration == 7.5
    with pytest.raises(InputError, match="lack"):
        known.read(known.video_ids[1])
    path.write_text('{"a": -1}')
    with pytest.raises(InputError, match="more than 0"):
        read_durations(path)


def test_rows_of_joined_sources_have_length_one_source_by_source(trained, monkeypatch):
    rows = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    monkeypatch.setitem(trained.state["features"], "parts", [5, 7])
    each = [normalize_rows(rows[:, :5]), normalize_rows(rows[:, 5:])]
    expected = trained.prepared(np.concatenate(each, axis=1) * 3)
    torch.testing.assert_close(trained.prepared(rows), expected)


def test_a_folder_of_arrays_is_indexed_as_its_feature_file(trained, features, tmp_path):
    (tmp_path / "folder").mkdir()
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    with h5py.File(features) as file:
        for video in file:
            np.save(tmp_path / "folder" / f"{video}.npy", file[video]["c3d_features"][()])
    found = {}
    for name in ("folder", "features.hdf5"):
        made = trained.index(tmp_path / name, tmp_path / f"{name}.i", seconds_per_row=0.5)
        found[name] = (len(made), made.updated.added)
    assert found["folder"] == found["features.hdf5"] != (0, 0)
    with pytest.raises(InputError, match="tiny cannot read videos"):
        trained.index(tmp_path / "train")
    with pytest.raises(InputError, match="rows are 24 wide; expected 12"):
        trained.index([features, tmp_path / "folder"], tmp_path / "joined", seconds_per_row=0.5)


# The index.


@pytest.fixture(scope="session")
def index(home: Path, trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    (found,) = (home / "data").rglob("features.hdf5")
    videos = FeatureSource(found, trained.state["features"], seconds_per_row=0.5)
    return VideoIndex.build(tmp_path_factory.mktemp("index") / "videos", trained, videos)


def test_the_index_ranks_and_grounds_as_the_run_does(home, trained, index, features):
    videos = list(index.video_ids())
    assert len(videos) == len(index)
    encoded = trained.encode_videos([raw_rows(features, video) for video in videos])
    split, _, _ = of_the_test(home)
    for paragraph in split.paragraphs[:4]:
        answer = index.search(paragraph.sentences, top=5)
        query = trained.read(paragraph.sentences)
        exact = dict(zip(videos, trained.similarity(query, encoded).tolist(), strict=True))
        ranked = sorted(exact.values(), reverse=True)[:5]
        assert [hit.score for hit in answer] == pytest.approx(ranked, abs=2e-3)
        for hit in answer:
            assert hit.score == pytest.approx(exact[hit.video], abs=2e-3)
            duration = 0.5 * len(raw_rows(features, hit.video))
            assert hit.duration == duration
            alone = trained.ground(
                raw_rows(features, hit.video), paragraph.sentences, duration=duration
            )
            assert [m.score for m in hit.moments] == pytest.approx(
                [m.score for m in alone], abs=2e-2
            )
        (short, *_) = [hit for hit in answer if hit.duration < trained.durations["most"]]
        maps = index.score_maps(short.video, paragraph.sentences)
        for one, moment in zip(maps, short.moments, strict=True):
            best = tuple(one.spans[one.scores.argmax()])
            assert best == pytest.approx((moment.start, moment.end))


def test_a_shortlist_of_everything_loses_nothing(index):
    queries = [["A man runs."], ["A dog eats.", "It sleeps."]]
    found = index.check(queries, shortlist=len(index))
    assert (found["recall"], found["first"], found["compared"]) == (1.0, 1.0, len(index))
    assert index.check(queries, shortlist=1)["compared"] == 1


def test_faiss_can_make_the_shortlist(index, monkeypatch):
    pytest.importorskip("faiss")
    paragraph = ["A man runs.", "He sits."]
    plain = index.search(paragraph, top=5)
    monkeypatch.setattr(index, "faiss", "Flat")
    assert [hit.video for hit in index.search(paragraph, top=5)] == [hit.video for hit in plain]
    built = index._neighbours
    index.search(paragraph, top=5)
    assert index._neighbours is built  # once for each state of the index
    monkeypatch.setattr(index, "faiss", "nonsense")
    monkeypatch.setattr(index, "_neighbours", None)
    with pytest.raises(InputError, match="faiss cannot build"):
        index.search(paragraph)


def test_videos_are_added_and_removed(trained, features, tmp_path):
    videos = source(trained, features, seconds_per_row=0.5)
    first, second, *rest = videos.video_ids
    made = VideoIndex.build(tmp_path / "index", trained, [videos.read(first)])
    made.add(videos.read(video) for video in rest)
    assert first in made and second not in made and len(made) == len(rest) + 1
    made.add([videos.read(second)])
    with pytest.raises(InputError, match="already"):
        made.add([videos.read(second)])
    assert made.remove([second, "nobody"]) == 1
    assert second not in {hit.video for hit in made.search("A man runs.", top=100)}
    with pytest.raises(InputError, match="no video"):
        made.source(second)


def test_an_index_of_another_run_is_refused(home, trained, index):
    state = dict(trained.state)
    state["model"] = {name: value + 1 for name, value in state["model"].items()}
    other = TrainedRun(state, trained.path, device="cpu")
    with pytest.raises(InputError, match="made by another run"):
        VideoIndex(index.folder, other)


def test_a_model_that_ranks_nothing_says_so(home, trained, index, monkeypatch):
    monkeypatch.setattr(type(trained.model), "retrieves", classmethod(lambda cls: False))
    with pytest.raises(InputError, match="ranks no videos"):
        index.search("A man runs.")


# Sentences.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He runs. She sits!", ["He runs.", "She sits!"]),
        ("Dr. Smith opens the door. Why?", ["Dr. Smith opens the door.", "Why?"]),
        ('He says "hi!" Then he goes', ['He says "hi!"', "Then he goes"]),
        ("Add 3.5 cups... Stir.", ["Add 3.5 cups...", "Stir."]),
        ("1. Cut it. 2. Eat it.", ["1. Cut it.", "2. Eat it."]),
        ("one line\nanother line", ["one line", "another line"]),
        ("  \n ... !! ", []),
    ],
)
def test_a_paragraph_is_split(text, expected):
    assert list(split_sentences(text)) == expected


@pytest.mark.parametrize(
    ("paragraph", "message"),
    [
        ("", "no words"),
        ("?!", "no words"),
        (["He runs.", "..."], "sentence 2 .* has no words"),
        (["He runs."] * (MOST_SENTENCES + 1), "65 sentences"),
        ("word " * 10_000, "50,000 characters"),
    ],
)
def test_what_is_no_paragraph_is_refused(paragraph, message):
    with pytest.raises(InputError, match=message):
        sentences_of(paragraph)


# Commands.


def durations_of(home: Path, folder: Path) -> Path:
    """Seconds by video of the world's annotations, as one file."""
    found: dict[str, Any] = {}
    for path in (home / "data").rglob("*_data.json"):
        found |= json.loads(path.read_text())
    out = folder / "durations.json"
    out.write_text(json.dumps(found))
    return out


def test_index_and_search_from_the_command_line(home, features, tmp_path):
    output, out = tmp_path / "out.txt", tmp_path / "videos.index"
    durations = durations_of(home, tmp_path)
    with h5py.File(features) as file:
        names = sorted(file)
    flags = (features, "--run", home / "save/tiny", "--out", out, "--gpus", "cpu")
    ended = run("index", *flags, output=output)
    assert ended.status == 2 and "--seconds-per-row" in ended.output
    ended = run("index", *flags, "--durations", durations, output=output)
    assert ended.status == 0, ended.output
    assert f"{len(names)} videos ({len(names)} added" in ended.output
    text = "A man opens a door. Then he sits down."
    ended = run("search", out, text, "--top", 2, "--gpus", "cpu", output=output)
    assert ended.status == 0, ended.output
    assert "2. " in ended.output and "3. " not in ended.output
    ended = run("search", out, text, "--json", "--gpus", "cpu", output=output)
    found = json.loads(ended.output)
    assert [m["sentence"] for m in found["hits"][0]["moments"]] == found["sentences"]

    # A changed video is replaced, one that is gone is pruned.
    with h5py.File(features, "r+") as file:
        node = file[names[1]]
        node = node["c3d_features"] if isinstance(node, h5py.Group) else node
        node[...] = node[...][::-1]
        del file[names[2]]
    ended = run("index", *flags, "--durations", durations, "--prune", output=output)
    assert "(0 added, 1 replaced, 1 removed now)" in ended.output, ended.output
    flags = ("--out", out, "--gpus", "cpu")
    ended = run("index", *flags, "--remove", names[3], output=output)
    assert ended.status == 0 and f"{len(names) - 2} videos" in ended.output
    ended = run("index", *flags, "--remove", names[3], output=output)
    assert ended.status == 2 and "nothing was removed" in ended.output
    paragraphs = tmp_path / "paragraphs.txt"
    paragraphs.write_text("A man runs. He sits.\n\nA dog eats.\n")
    ended = run("index", *flags, "--compact", "--check", paragraphs, output=output)
    assert ended.status == 0 and "100.0 % of the ten best" in ended.output, ended.output


def test_a_moved_run_is_asked_for(home, index, tmp_path):
    shutil.copytree(index.folder, tmp_path / "moved.index")
    shutil.copytree(home / "save/tiny", tmp_path / "run")
    state = home / "save/tiny"
    state.rename(home / "save/elsewhere")
    try:
        with pytest.raises(InputError, match="name it by --run"):
            open_index(tmp_path / "moved.index", device="cpu")
        found = open_index(tmp_path / "moved.index", run=tmp_path / "run", device="cpu")
        assert len(found.search("A man runs.", top=3)) == 3
    finally:
        (home / "save/elsewhere").rename(state)


def test_videos_need_a_run_that_knows_how_its_features_were_made(trained, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="do not say how they were made"):
        trained.index(tmp_path)
    with pytest.raises(InputError, match="do not say how they were made"):
        trained.ground(tmp_path / "a.mp4", "A man runs.")


def test_features_of_another_recipe_are_neither_tested_nor_trained_on(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "data")
    (found,) = (tmp_path / "data").rglob("features.hdf5")

    def make_by(text: str) -> None:
        with h5py.File(found, "r+") as file:
            file.attrs[RECIPE] = text

    make_by(RECIPE_TEXT)
    flags: tuple[object, ...] = ("--cfg", home / "tiny.yaml", "--dataDir", tmp_path / "data")
    flags = (*flags, "--modelDir", tmp_path / "save", "--set", "DATASET.CACHE=direct")
    output = tmp_path / "out.txt"
    ended = run("dense_train", *flags, output=output)
    assert ended.status == 0, ended.output
    kept = load(tmp_path / "save/tiny", device="cpu").recipe
    assert kept is not None and kept.json() == RECIPE_TEXT
    ended = run("best_test", *flags, output=output)
    assert ended.status == 0, ended.output
    make_by(json.dumps(json.loads(RECIPE_TEXT) | {"resize": "short 64"}))
    for command, more in (("best_test", ()), ("dense_train", ("--resume",))):
        ended = run(command, *flags, *more, output=output)
        assert ended.status == 2, ended.output
        assert "resize short 32 there, short 64 here" in ended.output


# How much a similarity is worth.


def test_the_scale_of_similarities_is_the_likeliest():
    draw = np.random.default_rng(0)
    target = np.arange(40)
    similarity = draw.normal(0, 1, (40, 40))
    similarity[target, target] += 1.0
    found = similarity_scale(similarity, target, 1.0)

    def loss(scale: float) -> float:
        rows = scale * similarity
        return float(np.mean(np.log(np.exp(rows).sum(axis=1)) - rows[target, target]))

    grid = np.linspace(0, 5, 501)
    assert found == pytest.approx(grid[np.argmin([loss(x) for x in grid])], abs=0.02)
    assert similarity_scale(similarity, target, 4.0) == pytest.approx(found / 4)
    assert similarity_scale(-similarity, target, 1.0) == pytest.approx(0, abs=1e-6)
    assert 500 < similarity_scale(np.eye(3), np.arange(3), 1.0) <= MOST_SCALE  # never wrong


def test_a_run_carries_that_scale(trained):
    assert 0 <= trained.similarity_scale <= MOST_SCALE
