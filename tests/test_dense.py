"""Datasets, loaders, and everything that is decided when a corpus is loaded."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lib.base.batch import Batch
from lib.base.errors import InputError
from lib.datasets import EpochBatches, LoadedCorpus, build_loader, epoch_order, load_corpus
from lib.datasets.cache import DirectRows
from lib.datasets.dense import DenseParagraphs, VideoFrames
from lib.datasets.features import FeatureFile
from tests.conftest import TINY


def load_tiny(data_dir: Path, *splits: str, **options: Any) -> LoadedCorpus:
    options = {"num_frames": 32, "num_clips": 8, "synthetic": TINY} | options
    return load_corpus(name="synthetic", data_dir=data_dir, splits=splits, **options)


def write_corpus(
    folder: Path, splits: dict[str, list[tuple[str, list[str]]]], *, skip: tuple[str, ...] = ()
) -> None:
    """A corpus by hand: split -> (video, sentences); features of all videos but the skipped."""
    folder.mkdir(parents=True)
    words: set[str] = set()
    with h5py.File(folder / "vgg_rgb_features.hdf5", "w") as file:
        for split, entries in splits.items():
            rows = [
                [video, 10.0, [float(i), i + 1.0], sentence]
                for video, sentences in entries
                for i, sentence in enumerate(sentences)
            ]
            (folder / f"{split}.json").write_text(json.dumps(rows))
            for video, sentences in entries:
                words.update(word for sentence in sentences for word in sentence.split())
                if video not in skip and video not in file:
                    file[video] = np.random.default_rng(len(video)).random((20, 5))
    vectors = {word: np.full(3, i, dtype=np.float32) for i, word in enumerate(sorted(words))}
    (folder / "glove.pkl").write_bytes(pickle.dumps(vectors))


def load_small(data_dir: Path, *splits: str, **options: Any) -> LoadedCorpus:
    options = {"num_frames": 8, "num_clips": 4} | options
    return load_corpus(name="charades", data_dir=data_dir, splits=splits, **options)


def equal(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) if isinstance(x, torch.Tensor) else x == y
        for x, y in ((getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Batch))
    )


def test_a_sample_is_its_paragraph_and_its_video(tiny: LoadedCorpus) -> None:
    split = tiny["test"]
    for index, paragraph in enumerate(split.paragraphs):
        sample = split[index]
        assert sample.video.shape == (32, 12) and sample.video.isfinite().all()
        assert len(sample.word_counts) == len(paragraph.sentences)
        np.testing.assert_allclose(sample.moments.numpy(), paragraph.moments, rtol=1e-6)
        assert (sample.duration, sample.video_id) == (paragraph.duration, paragraph.video_id)
        assert split.corpus[sample.video_index] == paragraph.video_id
        assert torch.equal(sample.video, split.videos[sample.video_index])
        ids = sample.word_ids.split(sample.word_counts.tolist())
        for sentence, own in zip(paragraph.sentences, ids, strict=True):
            assert torch.equal(own, tiny.vocabulary.encode([sentence]).ids)


def test_hidden_moments_are_nan_and_nothing_else_changes(
    data_dir: Path, tiny: LoadedCorpus
) -> None:
    hidden = load_tiny(data_dir, "train", "val")
    for index in range(len(hidden["train"])):
        ours, theirs = hidden["train"][index], tiny["train"][index]
        assert ours.moments.isnan().all() and theirs.moments.isfinite().all()
        assert ours.moments.shape == theirs.moments.shape
        assert torch.equal(ours.video, theirs.video)
    assert hidden["val"][0].moments.isfinite().all()


def test_without_normalising_rows_keep_their_length(data_dir: Path, tiny: LoadedCorpus) -> None:
    raw = load_tiny(data_dir, "val", normalize=False)["val"].videos
    assert raw[0].norm(dim=1).mean() > 1.1 > tiny["val"].videos[0].norm(dim=1).max()


@pytest.mark.parametrize("cache", ["disk", "memory", "direct"])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_worker_processes_change_nothing(data_dir: Path, start_method: str, cache: str) -> None:
    corpus = load_tiny(data_dir, "test", cache=cache)
    split = corpus["test"]
    corpus.features.read(split.corpus[0])  # an open handle must not travel
    loader = build_loader(split, batch_size=3, workers=1, start_method=start_method)
    here = list(build_loader(split, batch_size=3))
    there = list(loader)
    assert len(here) == len(there) == 3
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))


def test_the_loader_of_videos_gives_the_corpus_in_order(tiny: LoadedCorpus) -> None:
    split = tiny["test"]
    videos = torch.cat(list(build_loader(split.videos, batch_size=3)))
    assert torch.equal(videos, torch.stack([split.videos[i] for i in range(len(split.corpus))]))


def test_a_fault_found_by_a_worker_is_still_one_sentence(tmp_path: Path) -> None:
    write_corpus(tmp_path / "charades", {"train": [("a", ["x y"]), ("b", ["z y"])], "test": []})
    with h5py.File(tmp_path / "charades" / "vgg_rgb_features.hdf5", "a") as file:
        file["b"][3, 2] = np.nan
    (tmp_path / "charades" / "test.json").unlink()
    split = load_small(tmp_path, "train", cache="direct", val_fraction=0.0)["train"]
    for workers in (0, 1):
        with pytest.raises(InputError) as caught:
            list(build_loader(split, batch_size=1, workers=workers))
        message = str(caught.value)
        assert message.endswith("b holds NaN or infinity in row 3 of 20.") and "\n" not in message


def test_videos_of_another_width_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["a"], file["b"] = np.ones((4, 3)), np.ones((4, 2))
    videos = VideoFrames(
        ["a", "b"], DirectRows(FeatureFile(tmp_path / "f.hdf5"), "a", num_frames=4)
    )
    with pytest.raises(InputError, match="b is 2 wide, a is 3; expected one width"):
        videos[1]


def test_paragraphs_of_one_video_share_its_place_in_the_corpus(tmp_path: Path) -> None:
    entries = [("a", ["x y"]), ("b", ["z"]), ("a", ["y z"])]
    write_corpus(tmp_path / "charades", {"train": entries, "test": entries})
    split = load_small(tmp_path, "test")["test"]
    assert split.corpus == ("a", "b")
    assert [split[i].video_index for i in range(3)] == [0, 1, 0]
    batch = next(iter(build_loader(split, batch_size=3)))
    assert batch.same_video.tolist() == [[True, False, True], [False, True, False]] + [
        [True, False, True]
    ]


def test_the_cap_on_sentences_is_for_training_only(data_dir: Path, tiny: LoadedCorpus) -> None:
    capped = load_tiny(data_dir, "train", "test", max_sentences=2)
    assert max(len(capped["train"][i].word_counts) for i in range(len(capped["train"]))) == 2
    assert max(len(capped["test"][i].word_counts) for i in range(len(capped["test"]))) > 2
    assert capped.dims == dataclasses.replace(tiny.dims, max_sentences=2)
    assert any("cut to their first 2 sentences" in note for note in capped.notes)


# The order of training


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    orders = {(s, e): tuple(epoch_order(50, s, e)) for s in range(3) for e in range(3)}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len(set(orders.values())) == 9
    np.random.seed(1)
    torch.manual_seed(1)
    assert tuple(epoch_order(50, 2, 1)) == orders[2, 1]


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (33, 16), (17, 16), (3, 8), (16, 16)])
def test_batches_of_an_epoch_cover_it_evenly(n: int, batch_size: int) -> None:
    batches = EpochBatches(n, batch_size, seed=0)
    found = list(batches)
    sizes = [len(batch) for batch in found]
    assert sorted(i for batch in found for i in batch) == list(range(n))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert len(found) == len(batches) == batches.total


def test_an_epoch_can_be_resumed_at_any_batch() -> None:
    batches = EpochBatches(23, 4, seed=5)
    batches.set_epoch(3)
    whole = list(batches)
    batches.set_epoch(3, first_batch=2)
    assert len(batches) == len(whole) - 2 and list(batches) == whole[2:]
    batches.set_epoch(4)
    assert list(batches) != whole


def test_a_loader_follows_its_sampler(tiny: LoadedCorpus) -> None:
    batches = EpochBatches(len(tiny["train"]), 6, seed=1)
    loader = build_loader(tiny["train"], batch_size=6, sampler=batches, workers=1)
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        ids = [batch.paragraph_ids for batch in loader]
        expected = [tuple(tiny["train"].paragraphs[i].paragraph_id for i in b) for b in batches]
        assert ids == expected


# What loading decides


def test_sizes_are_the_same_whatever_splits_are_loaded(data_dir: Path, tiny: LoadedCorpus) -> None:
    for splits in (("train", "val"), ("test",)):
        part = load_tiny(data_dir, *splits)
        assert part.dims == tiny.dims and part.vocabulary.words == tiny.vocabulary.words
    assert tiny.dims.max_sentences == max(len(p.sentences) for p in tiny["train"].paragraphs)
    assert (tiny.dims.video_dim, tiny.dims.word_dim) == (12, 8)
    assert (tiny.dims.num_frames, tiny.dims.num_clips) == (32, 8)


def test_the_vocabulary_is_of_training_words_but_every_word_has_its_vector(tmp_path: Path) -> None:
    splits = {
        "train": [("a", ["common rare", "common"])],
        "val": [("b", ["common valword"])],
        "test": [("c", ["testword"])],
    }
    write_corpus(tmp_path / "charades", splits)
    corpus = load_small(tmp_path, "test")
    assert corpus.vocabulary.words == ("common", "rare")
    text = corpus.vocabulary.encode(["testword common", "neverseen"])
    assert text.ids.tolist() == [1, 2, 1] and text.counts.tolist() == [2, 1]
    vectors = corpus.vocabulary.vectors.matrix[text.rows]
    assert vectors.tolist() == [[2, 2, 2], [0, 0, 0], [1.5, 1.5, 1.5]]  # common rare test val
    assert any("100.00 % of the words have one" in note for note in corpus.notes)
    trained = load_small(tmp_path, "train", "val")
    assert trained.vocabulary.words == corpus.vocabulary.words
    assert set(trained.vocabulary.vectors.index) == {"common", "rare", "valword"}
    row = trained.vocabulary.encode(["neverseen"]).rows
    assert trained.vocabulary.vectors.matrix[row].tolist() == [[1.5, 1.5, 1.5]]


def test_validation_videos_are_held_out_whole_where_there_is_no_file(tmp_path: Path) -> None:
    train = [(f"v{i % 20}", [f"w{i} z"]) for i in range(40)]  # two paragraphs of each video
    write_corpus(tmp_path / "charades", {"train": train, "test": [("t", ["z"])]})
    corpus = load_small(tmp_path, "train", "val", "test", val_fraction=0.2)
    train_videos, val_videos = set(corpus["train"].corpus), set(corpus["val"].corpus)
    assert len(val_videos) == 4 and not train_videos & val_videos
    assert len(train_videos | val_videos) == 20
    assert len(corpus["train"]) + len(corpus["val"]) == 40
    assert any("4 of 20 training videos held out" in note for note in corpus.notes)
    held = {word for p in corpus["val"].paragraphs for s in p.sentences for word in s.split()}
    assert not (held - {"z"}) & set(corpus.vocabulary.words)
    again = load_small(tmp_path, "val", val_fraction=0.2)
    other = load_small(tmp_path, "val", val_fraction=0.2, seed=1)
    assert again["val"].corpus == corpus["val"].corpus != other["val"].corpus
    only_test = load_small(tmp_path, "test", val_fraction=0.2)
    assert only_test.vocabulary.words == corpus.vocabulary.words
    with pytest.raises(InputError, match=r"VAL_FRACTION 0 of 20 training videos holds out 0"):
        load_small(tmp_path, "val", val_fraction=0.0)


def test_limits_keep_a_seeded_and_nested_part(data_dir: Path, tiny: LoadedCorpus) -> None:
    def kept(limit: int, seed: int = 0) -> list[str]:
        part = load_tiny(data_dir, "test", limit_test=limit, seed=seed)
        return [p.paragraph_id for p in part["test"].paragraphs]

    everything = [p.paragraph_id for p in tiny["test"].paragraphs]
    assert kept(0) == kept(99) == everything
    assert len(kept(5)) == 5 and set(kept(3)) < set(kept(5)) < set(everything)
    assert kept(5) == sorted(kept(5), key=everything.index)
    assert any(kept(3, seed) != kept(3) for seed in range(1, 5))


def test_missing_features_are_counted_and_five_are_named(tmp_path: Path) -> None:
    test = [(f"v{i}", ["x y"]) for i in range(9)]
    gone = tuple(f"v{i}" for i in range(1, 8))
    write_corpus(tmp_path / "charades", {"train": [("t", ["x"])], "test": test}, skip=gone)
    with pytest.raises(
        InputError,
        match=r"lacks 7 of the 9 test videos, e.g. v1, v2, v3, v4, v5; DATASET.MISSING",
    ):
        load_small(tmp_path, "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clips": 3}, "NUM_CLIPS 3 does not divide NUM_FRAMES 8"),
        ({"features": "other.hdf5"}, "other.hdf5: the feature file does not exist"),
        ({"feature_dim": 4}, "is 5 wide; expected 4"),
        ({"word_vectors": "other.pkl"}, "other.pkl do not exist; looked for .*charades"),
        ({"dir": "elsewhere"}, "no train annotations of Charades-STA in .*elsewhere"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_reported_before_anything_starts(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_corpus(tmp_path / "charades", {"train": [("t", ["x"])], "test": [("v", ["x"])]})
    with pytest.raises(InputError, match=message):
        load_small(tmp_path, "test", **options)


def test_splits_that_share_videos_are_noted(tmp_path: Path) -> None:
    splits = {"train": [("a", ["x"])], "val": [("b", ["x"])], "test": [("b", ["y"])]}
    write_corpus(tmp_path / "charades", splits)
    lines = load_small(tmp_path, "test").lines()
    assert (
        "val and test share 1 video, so that a model selected on val was selected on videos of test"
        in lines
    )


def test_training_needs_the_time_order_it_was_given(tmp_path: Path) -> None:
    write_corpus(tmp_path / "charades", {"train": [("a", ["x"])], "test": [("b", ["p", "q"])]})
    rows = [["b", 10.0, [5.0, 6.0], "later"], ["b", 10.0, [1.0, 2.0], "sooner"]]
    (tmp_path / "charades" / "test.json").write_text(json.dumps(rows))
    by_time, by_file = load_small(tmp_path, "test"), load_small(tmp_path, "test", order="file")
    assert by_time.order == "time" and by_file.order == "file"
    assert by_time["test"].paragraphs[0].sentences == ("sooner", "later")
    assert by_file["test"].paragraphs[0].sentences == ("later", "sooner")


def test_a_dataset_survives_pickling(tiny: LoadedCorpus) -> None:
    split = tiny["val"]
    direct = DirectRows(tiny.features, split.corpus[0], num_frames=32)
    unshared = DenseParagraphs(split.paragraphs, direct, split.vocabulary)
    copy = pickle.loads(pickle.dumps(unshared))
    assert torch.equal(copy[0].video, split[0].video)
    assert torch.equal(copy[0].words, split[0].words)


def test_shares_of_a_batch_make_it_up_and_none_is_empty():
    whole = list(EpochBatches(23, 5, seed=0))
    shares = [list(EpochBatches(23, 5, seed=0, share=(i, 3))) for i in range(3)]
    assert [[*a, *b, *c] for a, b, c in zip(*shares, strict=True)] == whole
    sizes = {len(batch) for share in shares for batch in share}
    assert sizes <= {1, 2}
    with pytest.raises(InputError, match="23 paragraphs make batches of 4 for 5 processes"):
        EpochBatches(23, 5, seed=0, share=(0, 5))


def test_words_between_spaces_are_unknown_with_their_punctuation(tmp_path: Path) -> None:
    folder = tmp_path / "charades"
    write_corpus(folder, {"train": [("a", ["a dog", "the dog."])]})
    vectors = {word: np.ones(3, np.float32) for word in ("a", "the", "dog")}
    (folder / "glove.pkl").write_bytes(pickle.dumps(vectors))
    plain, spaced = (
        load_small(tmp_path, "train", val_fraction=0.0, tokens=tokens)["train"][0]
        for tokens in ("words", "spaces")
    )
    assert torch.equal(plain.words[1], plain.words[3])
    assert torch.equal(spaced.words[1], plain.words[1]) and not spaced.words[3].any()
