"""Word vectors as they are published give the same numbers, and a bad line is one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.datasets import load_corpus
from lib.datasets.packed_words import PackedWords, pack_words
from lib.datasets.word_features import WordFeatures
from lib.datasets.word_vectors import read_word_vectors, text
from tests.runs import run
from tests.test_dense import write_corpus

WORDS = ["The", "the", ",", "1", "naïve", "cat"]
PLAIN = {"the", ",", "1", "naïve", "cat"}


def table(width: int = 5) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {word: draw.normal(size=width).round(4).astype(np.float32) for word in WORDS}


def as_text(vectors: dict[str, np.ndarray], end: str = "\n") -> str:
    lines = (f"{word} {' '.join(map(str, vector))}" for word, vector in vectors.items())
    return "".join(f"{line}{end}" for line in lines)


def as_binary(vectors: dict[str, np.ndarray], end: bytes = b"\n") -> bytes:
    width = len(next(iter(vectors.values())))
    rows = (w.encode() + b" " + v.astype("<f4").tobytes() + end for w, v in vectors.items())
    return f"{len(vectors)} {width}\n".encode() + b"".join(rows)


def write_zip(path: Path, members: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def save_torch(path: Path, vectors: dict[str, np.ndarray], **options: bool) -> None:
    words = list(vectors)
    matrix = torch.from_numpy(np.stack(list(vectors.values())))
    index = {word: row for row, word in enumerate(words)}
    torch.save((words, index, matrix, matrix.shape[1]), path, **options)


def save_numpy(path: Path, vectors: dict[str, np.ndarray]) -> None:
    np.save(path.with_suffix(".npy"), np.stack(list(vectors.values())))
    path.with_suffix(".npy").rename(path)
    path.with_name(f"{path.stem}.vocab").write_text("\n".join(vectors), "utf-8")


WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], object]] = {
    "glove": lambda path, v: path.write_text(as_text(v), "utf-8"),
    "vec": lambda path, v: path.write_text(f"{len(v)} 5\n" + as_text(v, " \n"), "utf-8"),
    "lines of Windows": lambda path, v: path.write_bytes(as_text(v, "\r\n").encode()),
    "gz": lambda path, v: path.write_bytes(gzip.compress(as_text(v).encode())),
    "xz": lambda path, v: path.write_bytes(lzma.compress(as_text(v).encode())),
    "bz2": lambda path, v: path.write_bytes(bz2.compress(as_text(v).encode())),
    "zip": lambda path, v: write_zip(path, {"a.txt": as_text(v), "__MACOSX/._a.txt": "x"}),
    "binary": lambda path, v: path.write_bytes(as_binary(v)),
    "binary without line breaks": lambda path, v: path.write_bytes(as_binary(v, b"")),
    "torchtext": save_torch,
    "torchtext of an old release": lambda path, v: save_torch(
        path, v, _use_new_zipfile_serialization=False
    ),
    "npy": save_numpy,
    "npz": lambda path, v: np.savez(
        path.open("wb"), vectors=np.stack(list(v.values())), words=np.array(list(v))
    ),
    "pickle": lambda path, v: path.write_bytes(pickle.dumps(v)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_form_gives_the_same_vectors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("vectors.npz" if kind == "npz" else "vectors")
    vectors = table()
    WRITERS[kind](path, vectors)
    found = read_word_vectors(path)
    assert set(found.index) == PLAIN and found.notes == () and found.size == len(PLAIN)
    for word in PLAIN:  # the lower-case spelling of "The"
        np.testing.assert_allclose(found.lookup([word])[0], vectors[word], rtol=1e-6)
    mean = np.mean([vectors[word] for word in PLAIN], axis=0)
    np.testing.assert_allclose(found.lookup(["dog"])[0], mean, atol=1e-6)
    some = read_word_vectors(path, width=5, words={"cat", "dog"})
    assert list(some.index) == ["cat"] and some.size == len(PLAIN)
    assert torch.equal(some.lookup(["cat", "dog"]), found.lookup(["cat", "dog"]))
    assert len(read_word_vectors(path, most=2).index) == 2
    with pytest.raises(InputError, match="vectors are 5 wide; expected 7|holds .* 7 is asked for"):
        read_word_vectors(path, width=7)
    packed = PackedWords(pack_words(path, tmp_path / "packed"))
    assert packed.lookup(["naïve", "dog"])[0] == ["naïve"]


def test_words_may_hold_spaces_and_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "glove.840B.txt"
    vectors = {
        ". . .": [1, 2, 3],
        "at name@domain.com": [4, 5, 6],
        "1": [7, 8, 9],
        "2 a": [0, 0, 1],
    }
    path.write_text(as_text({w: np.array(v, np.float32) for w, v in vectors.items()}))
    found = read_word_vectors(path)
    assert {word: found.lookup([word])[0].tolist() for word in found.index} == vectors


def test_a_first_word_that_is_a_number_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("7 1 2\nthe 3 4\n")
    assert read_word_vectors(tmp_path / "a.txt").lookup(["7"]).tolist() == [[1, 2]]


def test_a_bad_line_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    lines = [f"w{i} {i} 2 3" for i in range(400)]
    lines[4], lines[9], lines[14], lines[19] = "w4 0.1 4 2 3", "w9 x1 2 3", "w14 1", "w19 1 nan 3"
    path.write_text("\n".join(lines))
    found = read_word_vectors(path)
    assert found.size == 396 and found.lookup(["w399"]).tolist() == [[399, 2, 3]]
    (note,) = found.notes
    assert "glove.txt: 4 lines left out (line 5 ('w4 0.1 4 2 3') has 4 numbers at its end" in note
    assert "line 10 ('w9 x1 2 3') has 2 numbers" in note and "line 15 " in note
    path.write_text("\n".join([*lines, *("bad" for _ in range(12))]))
    with pytest.raises(InputError, match="16 of 412 lines are wrong .line 5 "):
        read_word_vectors(path)
    path.write_text("the 1 2 3\n" + "no vectors at all\n" * 10**5)
    with pytest.raises(InputError, match="101 of 102 lines are wrong"):  # and no more were read
        read_word_vectors(path)


def test_a_file_that_was_cut_is_read_and_said_to_be(tmp_path: Path) -> None:
    vectors = table()
    (tmp_path / "cut.vec").write_text("99 5\n" + as_text(vectors))
    (tmp_path / "cut.bin").write_bytes(as_binary(vectors)[:-3])
    for name, reason in (("cut.vec", "99 words, and has 6"), ("cut.bin", "6 words, and has 5")):
        (note,) = read_word_vectors(tmp_path / name).notes
        assert reason in note


def test_a_binary_file_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    data = as_binary({**table(), "odd": np.ones(5, np.float32), "bad": np.full(5, np.nan)})
    (tmp_path / "w.bin").write_bytes(data.replace(b"odd ", b"\xff\xfed "))
    found = read_word_vectors(tmp_path / "w.bin")
    assert "1 word left out (word 8 ('bad') is not finite)" in found.notes[0]
    assert "1 words are not UTF-8" in found.notes[1] and "bad" not in found
    assert found.lookup(["\ufffd\ufffdd"]).tolist() == [[1] * 5]


def test_the_member_of_a_zip_is_that_of_the_width(tmp_path: Path) -> None:
    path = tmp_path / "glove.zip"
    write_zip(path, {"g.5d.txt": as_text(table(5)), "g.3d.txt": as_text(table(3)), "a.md": "a b"})
    assert read_word_vectors(path, width=3).dim == 3
    with pytest.raises(InputError, match=r"g.5d.txt \(5 numbers\), g.3d.txt .* DATASET.WORD_DIM"):
        read_word_vectors(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (struct.pack("<ii", 793712314, 12) + bytes(64), "model of fastText .* expected the .vec"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<html><body>", "a web page"),
        (b"", "is empty"),
        (gzip.compress(as_text(table()).encode())[:-12], "cannot be unpacked; is it complete"),
        (gzip.compress(as_binary(table())), "binary file, packed; expected it unpacked"),
        (b"PK\x03\x04 and nothing else", "cannot be unpacked"),
        (b"\x80\x02cgensim.models.keyedvectors\nKeyedVectors\n.", "save_word2vec_format"),
        (b"the \xff\xff\xff", "is not a file of word vectors"),
    ],
)
def test_what_is_not_read_is_told_by_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_word_vectors(tmp_path / "vectors")
    assert "\n" not in str(caught.value)


def test_a_packed_text_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_ROOM", 1000)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"the 0 0 0\n" * 10**5))
    with pytest.raises(InputError, match="unpacks to more than 100 times its size"):
        read_word_vectors(tmp_path / "a.gz")


def test_a_torch_file_of_objects_and_a_matrix_without_words_are_refused(tmp_path: Path) -> None:
    torch.save((["a"], {"a": 0}, np.zeros((1, 3)), 3), tmp_path / "coot.pt")
    with pytest.raises(InputError, match="Python objects"):
        read_word_vectors(tmp_path / "coot.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "dict.pt")
    with pytest.raises(InputError, match="holds a dict; expected torchtext's"):
        read_word_vectors(tmp_path / "dict.pt")
    np.save(tmp_path / "alone.npy", np.zeros((2, 3)))
    with pytest.raises(InputError, match="matrix of 2 vectors without their words; .* alone.txt"):
        read_word_vectors(tmp_path / "alone.npy")
    (tmp_path / "alone.txt").write_text("a\nb\nc")
    with pytest.raises(InputError, match="has 2 vectors, and .*alone.txt names 3 words"):
        read_word_vectors(tmp_path / "alone.npy")


# The samples at hand


@pytest.fixture
def samples(shared: Path) -> Path:
    return shared / "layouts" / "made_word_vectors"


@pytest.mark.parametrize(
    "name",
    [
        *("glove.5d.txt", "glove.6B.5d.txt.pt", "glove.6B.zip"),
        *("wiki.vec", "w2v_newline.bin", "w2v_no_newline.bin", "one_bad_line.txt"),
    ],
)
def test_samples_read_to_what_they_hold(samples: Path, name: str) -> None:
    expected = json.loads((samples / "expected.json").read_text("utf-8"))
    found = read_word_vectors(samples / name, width=5)
    if name in ("wiki.vec", "w2v_newline.bin", "w2v_no_newline.bin"):
        expected = {word: vector for word, vector in expected.items() if " " not in word}
    if name == "one_bad_line.txt":
        del expected["of"], expected["cat"]
        (note,) = found.notes
        assert "2 lines left out (line 2 ('of 0.1 " in note and "line 8 ('cat x0" in note
    else:
        assert found.notes == ()
    assert set(found.index) == set(expected)
    for word, vector in expected.items():
        np.testing.assert_allclose(found.lookup([word])[0], vector, atol=1e-6)


def test_samples_that_are_refused(samples: Path) -> None:
    with pytest.raises(InputError, match="is a model of fastText"):
        read_word_vectors(samples / "fasttext.bin")
    with pytest.raises(
        InputError, match=r"5d.txt \(5 numbers\), glove.6B.3d.txt \(3 numbers\); ex"
    ):
        read_word_vectors(samples / "glove.6B.zip")


# Sentences that bring features of their own


def test_no_word_vectors_are_needed_where_sentences_bring_features(tmp_path: Path) -> None:
    group = [("a", ["x y", "x"]), ("b", ["y", "z z"])]
    write_corpus(tmp_path / "charades", {"train": group, "val": [("c", ["x"])], "test": []})
    folder = tmp_path / "charades"
    (folder / "glove.pkl").unlink()
    (folder / "test.json").unlink()
    (folder / "text").mkdir()
    for name in ("a#0", "a#1", "b#0", "b#1", "c#0"):
        rows = np.full((4, 6), float(ord(name[0])), np.float16)
        np.savez(folder / "text" / f"qid{name}.npz", last_hidden_state=rows, pooler_output=rows[0])
    with pytest.raises(InputError, match="glove.pkl do not exist"):
        load_corpus(
            name="charades", data_dir=tmp_path, splits=("train",), num_frames=8, num_clips=4
        )
    corpus = load_corpus(
        name="charades", data_dir=tmp_path, splits=("train", "val"), num_frames=8, num_clips=4,
        word_features="text",
    )  # fmt: skip
    assert corpus.vector_file is None and corpus.dims.word_dim == 6
    assert not any("word vectors" in line for line in corpus.lines())
    assert corpus["train"].text(1).words.tolist() == [[98.0] * 6] * 3

    experiment = {
        "DATA_DIR": str(tmp_path),
        "MODEL_DIR": str(tmp_path / "save"),
        "GPUS": "cpu",
        "WORKERS": 0,
        "DATASET": {"NAME": "charades", "NUM_FRAMES": 8, "NUM_CLIPS": 4, "WORD_FEATURES": "text"},
        "MODEL": {
            "NAME": "tan2d",
            "PARAMS": {"kernel_size": 3, "conv_layers": 1, "hidden_size": 8},
        },
        "LOSS": {"WEIGHTS": {"overlap": 1}},
        "TRAIN": {
            "SUPERVISION": "full",
            "EPOCHS": 1,
            "BATCH_SIZE": 2,
            "SELECT_BY": "svmr_2dtan/R@1,IoU=0.5",
        },
        "TEST": {"RESAMPLES": 0},
    }
    path = tmp_path / "exp.yaml"
    path.write_text(json.dumps(experiment))  # which is YAML too
    for command, flags in (("dense_train", ()), ("best_test", ("--split", "val"))):
        ended = run(command, "--cfg", path, *flags, output=tmp_path / "output.txt")
        assert ended.status == 0, ended.output
    assert not (tmp_path / "save" / "exp" / "word_vectors.pt").exists()


def test_sentences_are_found_by_the_id_of_their_query(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "text.h5", "w") as file:  # as TVR's release
        file["90200"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    features = WordFeatures(tmp_path / "text.h5")
    features.require(["90200"])
    assert features.read(["90200"], torch.tensor([2])).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(InputError, match="lacks 1 of the 1 sentences, e.g. 9020"):
        features.require(["9020"])
