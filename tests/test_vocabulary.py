"""Words, their vectors from every accepted file, and masking weights."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.datasets import catalog
from lib.datasets.annotations import read_paragraphs
from lib.datasets.vocabulary import (
    UNKNOWN,
    Vocabulary,
    split_at_spaces,
    tokenise,
)
from lib.datasets.word_vectors import WordVectors, ranked_words, read_word_vectors


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("A man slices the red apple.", "a man slices the red apple"),
        (" He's slicing; he doesn't stop! ", "he 's slicing he does n't stop"),
        ("They can't, won't, cannot.", "they ca n't wo n't can not"),
        (
            "We’re sure they’ve gone, I'd say I'll go.",
            "we 're sure they 've gone i 'd say i 'll go",
        ),
        ("The boys' ball", "the boys ball"),
        ("'quoted' words", "quoted words"),
        ("opens the door.the dog", "opens the door the dog"),
        ("He/she walks-in at 3.5 km, 1,000 times", "he she walks-in at 3.5 km 1,000 times"),
        ("the 2nd 3D film", "the 2nd 3d film"),
        ("o'clock at a café", "o'clock at a café"),
        ("?! ... -- '", ""),
        ("", ""),
    ],
)
def test_words_are_split_as_the_vectors_have_them(sentence: str, words: str) -> None:
    assert tokenise(sentence) == words.split()


def test_words_between_spaces_keep_their_punctuation() -> None:
    """As the release of 2D-TAN reads them: `dog.` is no word of the vectors."""
    vectors = WordVectors(["dog", "the"], torch.eye(2, 3))
    sentences = ["The  dog runs", "a dog."]
    plain, spaced = (
        Vocabulary(sentences, vectors, tokens=tokens).encode(sentences)
        for tokens in ("words", "spaces")
    )
    assert plain.counts.tolist() == spaced.counts.tolist() == [3, 2]
    assert plain.ids[1] == plain.ids[4] and plain.rows[1] == plain.rows[4]
    assert spaced.ids[1] != spaced.ids[4] and spaced.rows[1] != spaced.rows[4]
    assert split_at_spaces("The  dog ran. ") == ["the", "dog", "ran."]


def sentences_of(shared: Path, name: str) -> list[str]:
    corpus = catalog.facts(name)
    folder = shared / "annotations" / name
    paths = [catalog.find_annotations(corpus, folder, split) for split in catalog.SPLITS]
    return [s for path in paths if path for p in read_paragraphs(path)[0] for s in p.sentences]


@pytest.mark.parametrize("name", ["activitynet", "charades", "tacos"])
def test_real_annotations_are_covered_by_glove(shared: Path, tmp_path: Path, name: str) -> None:
    """The subset at hand was made without clitics, digits and one-letter words, which GloVe has."""
    link = tmp_path / "glove.txt"
    link.symlink_to(shared / "word_vectors" / "glove.6B.100d.subset.txt")
    vectors = read_word_vectors(link)
    counts = Counter(word for sentence in sentences_of(shared, name) for word in tokenise(sentence))
    clitics = {"'s", "n't", "'re", "'ve", "'ll", "'d", "'m"}
    missing = {
        word: count
        for word, count in counts.items()
        if word not in vectors and word not in clitics and len(word) > 1 and not word.isdigit()
    }
    assert sum(missing.values()) / counts.total() < 0.005


def test_a_real_glove_pickle_is_read(shared: Path) -> None:
    vectors = read_word_vectors(shared / "cpl_layout" / "charades" / "glove.pkl")
    assert len(vectors.index) == 1145 and vectors.dim == 300
    assert "<pad>" not in vectors
    counts = Counter(word for s in sentences_of(shared, "charades") for word in tokenise(s))
    known = sum(count for word, count in counts.items() if word in vectors)
    assert known / counts.total() > 0.995


TABLE = np.array([[0, 0], [1, 2], [3, 4], [5, 9]], dtype=np.float32)
IDS = {"<PAD>": 0, "man": 1, "dog": 2, "runs": 3}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize(
    "data",
    [
        {"counter": Counter("aab"), "w2id": IDS, "id2vec": list(TABLE)},
        {"counter": Counter(), "w2id": IDS, "id2vec": TABLE},
        {"counter": Counter(), "w2id": IDS, "id2vec": dict(enumerate(TABLE))},
        {"man": TABLE[1], "dog": TABLE[2].astype(np.float64), "runs": [5.0, np.float32(9)]},
    ],
    ids=["list", "array", "dict", "plain"],
)
def test_every_form_of_pickle_is_read_under_every_numpy(
    tmp_path: Path, data: Any, core: str, protocol: int
) -> None:
    raw = pickle.dumps(data, protocol=protocol)
    if protocol < 4:  # names are plain text, so a file of the older numpy can be imitated
        raw = raw.replace(b"numpy._core.", core.encode() + b".")
    (tmp_path / "glove.pkl").write_bytes(raw)
    vectors = read_word_vectors(tmp_path / "glove.pkl")
    assert set(vectors.index) == {"man", "dog", "runs"}
    assert vectors.lookup(["dog", "runs"]).tolist() == [[3, 4], [5, 9]]
    assert vectors.lookup(["cat"]).tolist() == [[3, 5]]  # the mean


class Attack:
    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (eval, ("open('owned', 'w')",), "builtins.eval"),
        (getattr, ("text", "upper"), "builtins.getattr"),
        (np.load, ("x",), "numpy.load"),
        (__import__("os").system, ("touch owned",), "system"),
        (Path, ("x",), "pathlib"),
    ],
)
def test_a_pickle_that_could_run_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any, args: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glove.pkl").write_bytes(pickle.dumps({"a": Attack(function, *args)}))
    with pytest.raises(InputError, match=f"asks for .*{name}"):
        read_word_vectors(tmp_path / "glove.pkl")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "holds a list; expected a dict"),
        ({}, "holds a dict; expected a dict with"),
        ({"a": [1.0], "b": [1.0, 2.0]}, "'b' -> list of shape"),
        ({"a": "text"}, "'a' -> str"),
        ({3: [1.0]}, "3 -> list"),
        ({"a": [1.0, float("nan")]}, "the vector of 'a' is not finite"),
        ({"w2id": {"a": 7}, "id2vec": [[1.0]]}, "ids that id2vec .of 1. does not have"),
        ({"w2id": ["a"], "id2vec": [[1.0]]}, "w2id must be a dict"),
        ({"w2id": {"<PAD>": 0}, "id2vec": [[1.0]]}, "holds no word"),
    ],
)
def test_a_pickle_of_another_form_is_refused(tmp_path: Path, data: Any, message: str) -> None:
    (tmp_path / "glove.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(InputError, match=message):
        read_word_vectors(tmp_path / "glove.pkl")


def test_a_damaged_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "glove.pkl").write_bytes(pickle.dumps({"a": TABLE[1]})[:-20])
    with pytest.raises(InputError, match="is not a readable pickle"):
        read_word_vectors(tmp_path / "glove.pkl")
    with pytest.raises(InputError, match="do not exist"):
        read_word_vectors(tmp_path / "absent.pkl")


@pytest.mark.parametrize("header", ["", "3 3\n"])
def test_text_vectors_are_read_with_and_without_a_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(header + "Man 1 2 3\ndog 3 4 5\nman 5 6 7\n")
    vectors = read_word_vectors(path)
    assert vectors.lookup(["man", "dog"]).tolist() == [[5, 6, 7], [3, 4, 5]]  # lower case wins
    assert [p.name for p in tmp_path.iterdir()] == ["glove.txt"]  # small: no copy left behind


def test_a_large_text_file_leaves_a_copy_that_a_newer_file_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.datasets.word_vectors.text.COPY_FROM", 1)
    path = tmp_path / "glove.txt"
    path.write_text("man 1 2 3\ndog 3 4 5\n")
    first = read_word_vectors(path)
    (copy,) = tmp_path.glob(".glove.txt.cache/*/glove.txt.pt")
    assert torch.equal(read_word_vectors(path).matrix, first.matrix)
    copy.write_bytes(b"damaged")
    assert torch.equal(read_word_vectors(path).matrix, first.matrix)
    path.write_text("man 7 8 9\ndog 3 4 5\ncat 1 1 1\n")
    assert read_word_vectors(path).lookup(["man"]).tolist() == [[7, 8, 9]]


@pytest.mark.parametrize(
    "content",
    [b"", b"3 2\n\x00\x01\xff\xfe", b"just words here\n", b"man 1 2 3\ndog 3\n", b"\x00\x01\x02"],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"vectors.bin: is (empty|not)"):
        read_word_vectors(path)


def test_text_vectors_of_uneven_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("man 1 2 3\ndog 3 4 5\nrat 1 2 3 4\ncat 1 2\n")
    with pytest.raises(InputError, match=r"2 of 4 lines are wrong .line 3 .* has 4 numbers"):
        read_word_vectors(path)


SENTENCES = ["The dog runs.", "The man and the cat run.", "A man sleeps."]


def make_vectors() -> WordVectors:
    return WordVectors(["the", "dog", "man"], torch.tensor([[1.0, 0], [0, 1], [2, 2]]))


def test_ids_go_by_frequency_and_then_by_alphabet() -> None:
    vocabulary = Vocabulary(SENTENCES, make_vectors(), size=4)
    assert vocabulary.words == ("the", "man", "a", "and")
    assert len(vocabulary) == 6
    assert Vocabulary(reversed(SENTENCES), make_vectors(), size=4).words == vocabulary.words


def test_a_sentence_becomes_ids_vectors_and_weights() -> None:
    vocabulary = Vocabulary(SENTENCES, make_vectors(), size=2)
    text = vocabulary.encode(["The dog and the man."])
    ids, vectors, weights = text.ids, vocabulary.vectors.matrix[text.rows], text.weights
    assert ids.tolist() == [2, UNKNOWN, UNKNOWN, 2, 3] and ids.dtype == torch.int64
    # A word outside the vocabulary keeps its vector; one without a vector gets the mean.
    assert vectors.tolist() == [[1, 0], [0, 1], [1, 1], [1, 0], [2, 2]]
    assert weights.tolist() == [1, 2, 1, 1, 2]
    assert vectors.dtype == weights.dtype == torch.float32


def test_restricting_keeps_the_vectors_and_the_unknown_one() -> None:
    vectors = make_vectors()
    small = vectors.restrict(["dog", "cat"])
    assert list(small.index) == ["dog"]
    for word in ("dog", "cat"):
        assert torch.equal(small.lookup([word]), vectors.lookup([word]))


def test_content_words_weigh_twice() -> None:
    vocabulary = Vocabulary(SENTENCES, make_vectors())
    words = "he then quickly slices two red apples with her knife but it is n't there"
    weights = vocabulary.encode([words]).weights.tolist()
    heavy = {word for word, w in zip(tokenise(words), weights, strict=True) if w == 2}
    assert heavy == {"then", "quickly", "slices", "red", "apples", "knife", "is", "n't"}


def test_the_nltk_tagger_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(InputError, match="pip install nltk"):
        Vocabulary(SENTENCES, make_vectors(), tagger="nltk")


class FakeNLTK:
    tags = {"dog": "NN", "runs": "VBZ", "fast": "RB", "red": "JJ"}

    @classmethod
    def pos_tag(cls, words: list[str]) -> list[tuple[str, str]]:
        return [(word, cls.tags.get(word, "DT")) for word in words]


def test_the_nltk_tagger_weighs_by_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", FakeNLTK)
    vocabulary = Vocabulary(SENTENCES, make_vectors(), tagger="nltk")
    assert vocabulary.encode(["the red dog runs fast"]).weights.tolist() == [1, 2, 2, 2, 2]

    def no_data(words: list[str]) -> None:
        raise LookupError("Resource averaged_perceptron_tagger_eng not found.")

    monkeypatch.setattr(FakeNLTK, "pos_tag", no_data)
    with pytest.raises(InputError, match="nltk.downloader"):
        Vocabulary(SENTENCES, make_vectors(), tagger="nltk")


def test_a_vocabulary_survives_pickling() -> None:
    vocabulary = pickle.loads(pickle.dumps(Vocabulary(SENTENCES, make_vectors())))
    assert vocabulary.encode(["the man"]).ids.tolist() == [2, 3]


def test_words_are_ranked_as_their_pickle_names_them(tmp_path: Path) -> None:
    path = tmp_path / "glove.pkl"
    counter = Counter({"b": 2, "rare": 1, "a": 2, ".": 5})
    path.write_bytes(pickle.dumps({"counter": counter, "w2id": {}, "id2vec": []}))
    assert ranked_words(path, 3) == (".", "b", "a")
    with pytest.raises(InputError, match="counts 4 words; expected 5 at least"):
        ranked_words(path, 5)
    path.write_bytes(pickle.dumps({"counter": {"a": 1}}))
    with pytest.raises(InputError, match="no counter of words"):
        ranked_words(path, 1)
    with pytest.raises(InputError, match="does not exist"):
        ranked_words(tmp_path / "none.pkl", 1)
