"""Feed every reader of files damaged and invented ones; an ``InputError`` is all they may raise.

    python -m tests.stress.fuzz --count 100000 --seed 1
    python -m tests.stress.fuzz --only checkpoint --count 5000

Six formats: experiments (YAML), annotations (JSON, CSV, text), features (HDF5), word vectors
(pickle, text), checkpoints, predictions (JSON lines, TVR's JSON, npz). A case is a function of
format, seed and number, so a finding can be made again:

    python -m tests.stress.fuzz --only yaml --seed 1 --case 4711 --keep case.yaml

Cases run in forked processes with little memory and an alarm, so that a hang, a crash of a library
or a bomb is a finding and not the end. Exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from lib.base.errors import InputError
from lib.config.config import dump_config, load_config
from lib.datasets.annotations import read_paragraphs
from lib.datasets.features import FeatureFile
from lib.datasets.fingerprint import fingerprint
from lib.datasets.word_vectors import read_word_vectors
from lib.evaluation import summarise
from lib.evaluation.files import read_any, read_truth, read_tvr
from lib.training import checkpoint, nonfinite
from tests.layouts import LAYOUTS

REPOSITORY = Path(__file__).resolve().parents[2]
FOUND = REPOSITORY / "tests" / "data" / "fuzz"  # what was found once, kept
SECONDS = 5  # of one case, of computing
MEMORY = 2 * 2**30  # that a case may take beyond what the process has
LINES, LONGEST = 60, 10_000  # of a message that a person is to read, and letters of its lines
BATCH = 500  # cases of a process


@dataclass(frozen=True)
class Format:
    """A kind of file: how cases of it are made, and what reads it."""

    name: str
    make: Callable[[random.Random], bytes]
    read: Callable[[Path], Any]
    suffix: str


def check(read: Callable[[Path], Any], path: Path) -> str:
    """Read a file; "" if it was read or refused in a sentence, else what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except InputError as fault:
        text = str(fault)
        lines = text.splitlines()
        if not lines or len(lines) > LINES or max(map(len, lines)) > LONGEST:
            return f"a message of {len(lines)} lines, {len(text):,} letters"
    except BaseException as fault:  # SystemExit and MemoryError are findings too
        place = traceback.extract_tb(fault.__traceback__)
        ours = [
            frame for frame in place if "/lib/" in frame.filename and "/site-" not in frame.filename
        ]
        frame = (ours or place)[-1]
        name = Path(frame.filename).name
        return f"{type(fault).__name__} in {name}:{frame.lineno} {frame.name} ({str(fault)[:100]})"
    if (path.parent / "executed").exists():
        (path.parent / "executed").rmdir()
        return "code in the file was run"
    return ""


# Damage of any file


_NUMBERS = ["0", "-1", "1e999", "NaN", "-Infinity", "1" * 400, "1e-320", "0x10", "9" * 19, "1.5"]
_PIECES = [
    *_NUMBERS,
    *("null", "true", "[]", "{}", '""', "[[[[", "}}", ":", ",", "- ", "\n", "\t", "\0", "\\"),
    *("&a", "*a", "!!python/object/apply:os.system [id]", "<<", "? ", "|", ">", "%YAML 9.9", "---"),
    *("\ufeff", "\u202e", "é", "\ud7ff", "\U0001f600", "\x85", "\u2028", "v_a#2", "x.avi(3)", "##"),
]


def damage(data: bytes, draw: random.Random) -> bytes:
    """One to four small changes of a file."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(found) + 1)
        length = min(draw.choice([1, 2, 4, 16, 200]), len(found) - place)
        kind = draw.randrange(7)
        if kind == 0 and found:
            found[place % len(found)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[place : place + length]
        elif kind == 2:
            found[place:place] = draw.choice(_PIECES).encode("utf-8", "surrogatepass")
        elif kind == 3:
            found[place:place] = found[place : place + length] * draw.randint(1, 3)
        elif kind == 4:
            found[place : place + length] = draw.randbytes(length)
        elif kind == 5:
            found[place : place + length] = bytes([draw.choice([0, 0xFF, 0x7F, 0x80])]) * length
        elif draw.random() < 0.3:
            del found[place:]
    return bytes(found)


def strange(draw: random.Random, depth: int = 0) -> Any:
    """A value that JSON or YAML can hold and a reader may not expect."""
    kind = draw.randrange(14 if depth < 3 else 10)
    plain = [None, True, 0, -1, 2**70, -(10**400), 1e308, 1e-310, "", draw.choice(_PIECES)]
    if kind < 10:
        return plain[kind]
    if kind == 10:
        return [strange(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 11:
        return {str(strange(draw, 3)): strange(draw, depth + 1) for _ in range(draw.randrange(3))}
    return draw.choice([float("nan"), float("inf"), [[]], [0.5, 0.25], "word " * 300])


def rearrange(tree: Any, draw: random.Random) -> Any:
    """The same tree with one place of it changed."""
    if isinstance(tree, dict) and tree and draw.random() < 0.9:
        key = draw.choice(list(tree))
        if draw.random() < 0.1:
            return {k: v for k, v in tree.items() if k != key}
        if draw.random() < 0.1:
            return {**{k: v for k, v in tree.items() if k != key}, str(strange(draw)): tree[key]}
        return {**tree, key: rearrange(tree[key], draw)}
    if isinstance(tree, list) and tree and draw.random() < 0.9:
        place = draw.randrange(len(tree))
        if draw.random() < 0.2:
            return tree[:place] + tree[place + 1 :] * draw.choice([0, 1, 2])
        return [*tree[:place], rearrange(tree[place], draw), *tree[place + 1 :]]
    if isinstance(tree, int | float) and abs(tree) < 1e9 and draw.random() < 0.5:
        return draw.choice([-tree, tree * 1e9, tree + 0.5, str(tree), 0, tree * 0.5, [tree]])
    return strange(draw)


def deep(draw: random.Random) -> bytes:
    """Brackets inside brackets."""
    count = draw.choice([30, 1_000, 100_000])
    opening, closing = draw.choice([("[", "]"), ('{"a":', "}"), ("[{", "}]"), ("- ", "")])
    return (opening * count + draw.choice(["", closing * count])).encode()


def _json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


# Experiments


def make_yaml(draw: random.Random) -> bytes:
    texts = _experiments()
    text = draw.choice(texts)
    kind = draw.random()
    if kind < 0.5:
        return damage(text, draw)
    if kind < 0.9:
        tree = yaml.safe_load(text)
        for _ in range(draw.randint(1, 3)):
            tree = rearrange(tree, draw)
        with contextlib.suppress(Exception):  # what YAML cannot hold
            return yaml.safe_dump(tree, allow_unicode=draw.random() < 0.5).encode("utf-8")
        return damage(text, draw)
    if kind < 0.93:
        return deep(draw)
    levels = draw.choice([3, 12, 40])  # each ten times the one before
    lines = ["a0: &a0 [x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)
    ]
    return "\n".join([*lines, f"MODEL: {{NAME: *a{levels - 1}}}"]).encode()


def _experiments() -> list[bytes]:
    if not _EXPERIMENTS:
        for path in sorted((REPOSITORY / "experiments").rglob("*.yaml"))[:40]:
            text = path.read_text("utf-8")
            _EXPERIMENTS.append(text.replace("BASE: ", f"BASE: {path.parent}/").encode())
        whole = load_config(REPOSITORY / "experiments/synthetic/dmr_jrg.yaml")
        _EXPERIMENTS.append(dump_config(whole).encode())
    return _EXPERIMENTS


_EXPERIMENTS: list[bytes] = []


def read_yaml(path: Path) -> None:
    dump_config(load_config(path))


# Annotations


def make_annotations(draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return _of_a_layout(draw)
    sentences = ["A man slices an apple.", "He eats it!", "person closes the door.", "naïve café"]
    count = draw.randint(1, 4)
    spans = [[round(draw.uniform(0, 5), 2), round(draw.uniform(5, 12), 2)] for _ in range(count)]
    texts = [draw.choice(sentences) for _ in range(count)]
    if draw.random() < 0.3:
        lines = [
            f"V{i % 2} {s} {e}##{t}" for i, ((s, e), t) in enumerate(zip(spans, texts, strict=True))
        ]
        return damage("\n".join(lines).encode(), draw)
    tree: Any = [["v_a", 10.0, span, text] for span, text in zip(spans, texts, strict=True)]
    if draw.random() < 0.5:
        size = draw.choice([{"duration": 10.0}, {"fps": 25, "num_frames": 250}])
        tree = {f"v_{i}": {**size, "timestamps": spans, "sentences": texts} for i in range(2)}
    kind = draw.random()
    if kind < 0.03:
        return deep(draw)
    if kind < 0.7:
        for _ in range(draw.randint(1, 3)):
            tree = rearrange(tree, draw)
        return _json(tree)
    return damage(_json(tree), draw)


def _of_a_layout(draw: random.Random) -> bytes:
    """A file of one of the field's layouts, damaged, or with its JSON rearranged."""
    data = draw.choice(LAYOUTS).data
    kind = draw.random()
    if kind < 0.5:
        return damage(data, draw)
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except ValueError:
        return damage(data, draw)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(rows))
        rows[place] = rearrange(rows[place], draw)
    return b"\n".join(map(_json, rows))


def read_annotations(path: Path) -> None:
    """As a JSON or text file, and as the CSV of durations beside a sound text."""
    for rules in (
        {},
        {"order": "time", "cut_descriptions": True, "empty_sentences": "drop"},
        {"split": "train", "paragraphs": "row", "untimed": True, "bad_moments": "keep"},
    ):
        with contextlib.suppress(InputError):
            read_paragraphs(path, **rules)
    text = path.with_name("charades_sta_test.txt")
    text.write_text("V0 0.0 5.0##A man eats.\n", "utf-8")
    table = path.with_name("Charades_v1_test.csv")
    head = b"id,subject,length\n" if path.stat().st_size % 2 else b""
    table.write_bytes(head + path.read_bytes().replace(b"##", b","))
    with contextlib.suppress(InputError):
        read_paragraphs(text)
    table.write_bytes(b"id,length\nV0,10.0\nV1,20.0\n")
    text.write_bytes(path.read_bytes())
    read_paragraphs(text)


# Features


def make_features(draw: random.Random) -> bytes:
    if not _FEATURES:
        _FEATURES.extend(_feature_files())
    data = bytearray(draw.choice(_FEATURES))
    if draw.random() < 0.6:  # headers, not the numbers at the end
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(min(len(data), 4096))
            data[place] = draw.choice([0, 1, 0xFF, 0x80, draw.randrange(256)])
        return bytes(data)
    return damage(bytes(data), draw)


def _feature_files() -> Iterator[bytes]:
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    strange_rows = np.array(["a", "b"], dtype=h5py.string_dtype())
    for options in ({}, {"chunks": (2, 4), "compression": "gzip", "fletcher32": True}):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.create_dataset("v_a/c3d_features", data=rows, **options)
            file.create_dataset("v_b", data=rows.astype(np.float64), **options)
            file["v_c"] = h5py.SoftLink("/v_c")
            file["v_d"] = strange_rows
            file["v_e"] = h5py.ExternalLink("/dev/zero", "/x")
            file.create_group("v_f")
            file["v_g"] = np.float32(3)
            file.create_dataset("v_h", shape=(2**40, 4), chunks=(16, 4), dtype="f4")
            file.create_dataset("v_i", data=np.full((3, 4), np.nan))
            file["v_j"] = h5py.Empty("f4")
        yield buffer.getvalue()


_FEATURES: list[bytes] = []


def read_features(path: Path) -> None:
    features = FeatureFile(path)
    for name in "abcdefghij":
        with contextlib.suppress(InputError):
            features.read(f"v_{name}")
    features.missing(["v_a", "v_b", "", "/", ".", "v_a/c3d_features", "v_\0"])
    fingerprint(features)


class Evil:
    """Makes a folder when it is unpickled by an ordinary unpickler."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def make_array(draw: random.Random) -> bytes:
    """A file of NumPy or Torch with one video's rows, or all videos'."""
    rows: Any = np.random.default_rng(0).standard_normal((7, 4)).astype(draw.choice(["f2", "f4"]))
    rows = draw.choice([rows, rows, rows[None, :, None], rows.T, rows[0], np.array([Evil()])])
    number = rows if rows.dtype != object else np.zeros((2, 4), np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(number))
    content: Any = {"v_a": tensor, "v_b": draw.choice([tensor, {"x": tensor}, None, Evil(), "x"])}
    buffer = io.BytesIO()
    old = draw.random() < 0.5
    kind = draw.randrange(5)
    if kind == 0:
        np.save(buffer, rows, allow_pickle=True)
    elif kind == 1:
        np.savez(buffer, features=rows, other=np.arange(3))
    elif kind == 2:
        np.savez_compressed(buffer, rows)
    else:
        value = tensor if kind == 3 else content
        torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    found = buffer.getvalue()
    return found if draw.random() < 0.2 else damage(found, draw)


def read_array(path: Path) -> None:
    start = path.read_bytes()[:6]
    folder = path.with_name("folder")
    folder.mkdir(exist_ok=True)
    for suffix in [".npy"] if start == b"\x93NUMPY" else [".npz", ".pt"]:
        for other in folder.iterdir():
            other.unlink()
        (folder / f"v_a{suffix}").write_bytes(path.read_bytes())
        with contextlib.suppress(InputError):
            FeatureFile(folder).read("v_a")
    features = FeatureFile(path)
    for name in "ab":
        with contextlib.suppress(InputError):
            features.read(f"v_{name}")
    fingerprint(features)


# Word vectors


def make_published(draw: random.Random) -> bytes:
    """Word vectors as they are published."""
    words = ["the", "Man", "man", ". . .", "7", "naïve", "door"]
    values = np.random.default_rng(0).standard_normal((len(words), 3)).astype("<f4")
    pairs = list(zip(words, values, strict=True))
    text = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in pairs).encode()
    head = f"{draw.choice([len(words), 9, 10**9])} {draw.choice([3, 3, 4, 300])}\n".encode()
    binary = b"".join(word.encode() + b" " + row.tobytes() for word, row in pairs)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", damage(text, draw))
    saved = io.BytesIO()
    torch.save((words, {}, torch.from_numpy(values.copy()), 3), saved)
    found = draw.choice(
        [text, head + text, head + binary, packed.getvalue(), saved.getvalue(), gzip.compress(text)]
    )
    return found if draw.random() < 0.2 else damage(found, draw)


def make_vectors(draw: random.Random) -> bytes:
    words = ["the", "Man", "man", "<PAD>", "", "naïve", "door"]
    width = draw.choice([1, 3])
    vectors: list[Any] = [[round(draw.uniform(-1, 1), 3) for _ in range(width)] for _ in words]
    if draw.random() < 0.25:
        text = "\n".join(
            f"{w} {' '.join(map(str, v))}" for w, v in zip(words, vectors, strict=True)
        )
        return damage(text.encode(), draw)
    if draw.random() < 0.5:
        vectors = [np.array(v, dtype=draw.choice(["f4", "f8", "i8"])) for v in vectors]
    odd = [None, "x", [], [[1.0]], {}, np.zeros((2, 2)), np.float32(1), 10**400, Evil(), b"x", {1}]
    if draw.random() < 0.3:
        vectors[draw.randrange(len(words))] = draw.choice(odd)
    if draw.random() < 0.5:
        table: Any = draw.choice([vectors, dict(enumerate(vectors)), tuple(vectors)])
        with contextlib.suppress(ValueError):
            table = np.array(vectors) if draw.random() < 0.3 else table
        ids: Any = {word: i for i, word in enumerate(words)}
        if draw.random() < 0.2:
            ids[draw.choice(words)] = draw.choice([-1, 99, "x", None, 2**70, (1,)])
        data: Any = {"w2id": ids, "id2vec": table}
        if draw.random() < 0.2:
            data[draw.choice(["w2id", "id2vec"])] = draw.choice(odd)
    else:
        data = dict(zip(words, vectors, strict=True))
        if draw.random() < 0.2:
            data[draw.choice([1, None, b"w", (1, 2), 0.5])] = vectors[0]
    if draw.random() < 0.05:
        data = draw.choice(odd)
    found = pickle.dumps(data, protocol=draw.randrange(6))
    return found if draw.random() < 0.3 else damage(found, draw)


def read_vectors(path: Path) -> None:
    read_word_vectors(path).lookup(["the", "nothing"])


# Checkpoints


def make_checkpoint(draw: random.Random) -> bytes:
    state: dict[str, Any] = {
        "model": {"weight": torch.zeros(3, 2), "bias": torch.ones(3)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "progress": {"epoch": 1, "step": 2, "sums": {"total": 0.5}},
        "experiment": {"MODEL": {"NAME": "tan2d", "PARAMS": {"hidden_size": 8}}, "dims": {"x": 1}},
        "epoch": 1,
        "stage": 0,
        "config": "MODEL: {}",
        "batch": {"video": torch.zeros(1)},
    }
    whole: Any = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION, "state": state}
    if draw.random() < 0.4:
        whole = rearrange(whole, draw)
    if draw.random() < 0.05:
        state["extra"] = draw.choice(
            [Evil(), {1, 2}, np.zeros(2), lambda: 1 if False else Evil()][:3]
        )
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    kind = draw.random()
    if kind < 0.3:
        return damage(buffer.getvalue(), draw)
    return _rezipped(buffer.getvalue(), draw) if kind < 0.8 else buffer.getvalue()


def _rezipped(data: bytes, draw: random.Random) -> bytes:
    """One member damaged, and every check sum right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as copy:
        names = archive.namelist()
        weights = [20 if name.endswith((".pkl", ".npy")) else 1 for name in names]
        chosen = draw.choices(names, weights)[0]
        for name in names:
            content = archive.read(name)
            if name == chosen:
                content = b"" if draw.random() < 0.05 else damage(content, draw)
                name = (
                    name if draw.random() < 0.95 else draw.choice(["../x", "a" * 300, name + "/"])
                )
            if name != chosen or draw.random() < 0.97:
                copy.writestr(name, content)
    return out.getvalue()


def read_checkpoint(path: Path) -> None:
    state = checkpoint.load(path)
    with contextlib.suppress(InputError):
        checkpoint.load_into(torch.nn.Linear(2, 3), state)
    with contextlib.suppress(InputError):
        nonfinite.batch_of(state)
    config = load_config(REPOSITORY / "experiments/synthetic/tan2d.yaml")
    from tests.test_checkpoint import DIMS

    checkpoint.check_matches(state, config, DIMS)


# Predictions


def make_predictions(draw: random.Random) -> bytes:
    folder = REPOSITORY / "tests" / "data" / "predictions"
    kind = draw.randrange(4)
    if kind == 0:
        tree = rearrange(json.loads((folder / "tvr_submission.json").read_text("utf-8")), draw)
        return _json(tree) if draw.random() < 0.7 else damage(_json(tree), draw)
    if kind == 1:
        return _rezipped(_arrays(draw), draw) if draw.random() < 0.7 else _arrays(draw)
    name = draw.choice(["predictions.jsonl", "truth.jsonl"])
    lines = (folder / name).read_text("utf-8").splitlines()
    if draw.random() < 0.6:
        place = draw.randrange(len(lines))
        changed = rearrange(json.loads(lines[place]), draw)
        lines[place] = json.dumps(changed, ensure_ascii=draw.random() < 0.5)
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    return damage("\n".join(lines).encode(), draw)


def _arrays(draw: random.Random) -> bytes:
    truth = read_truth(REPOSITORY / "tests/data/predictions/truth.jsonl")
    V, P, M = len(truth.video_ids), len(truth.paragraph_ids), len(truth.sentences)
    arrays: dict[str, Any] = {
        "video_ids": np.array(truth.video_ids),
        "paragraph_ids": np.array(truth.paragraph_ids),
        "sentence_ids": np.array(truth.names),
        "similarity": np.zeros((P, V)),
        "spans": np.tile([0.25, 0.5], (M, 2, 1)),
        "scores": np.zeros((M, 2)),
    }
    if draw.random() < 0.4:
        arrays |= {
            "pairs.videos": np.zeros((M, 2), np.int32),
            "pairs.spans": np.tile([0.25, 0.5], (M, 2, 1)),
            "pairs.scores": np.zeros((M, 2)),
            "pairs.made_for": np.array(["jrg_joint"]),
        }
    odd = [np.zeros(()), np.zeros((0, 0)), np.array("x"), np.full((M, 2), np.nan), np.arange(3)]
    odd += [np.full((P, V), np.inf), np.zeros((P, V), complex), np.ones((M, 2, 2), bool)]
    for _ in range(draw.randrange(3)):
        name = draw.choice([*arrays, "candidates.videos", "ranking.scores", "answered", "extra"])
        if draw.random() < 0.2:
            arrays.pop(name, None)
        else:
            arrays[name] = draw.choice(odd)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_predictions_file(path: Path) -> None:
    """As predictions of any kind, and as a truth; what can be read is scored."""
    truth = read_truth(REPOSITORY / "tests/data/predictions/truth.jsonl")
    with contextlib.suppress(InputError):
        own = read_truth(path)
        summarise(own, read_any(path.with_name("absent"), own), resamples=0)
    with contextlib.suppress(InputError):
        read_tvr(path, truth)
    used, predictions = read_any(path, truth)
    summarise(used, predictions, resamples=0)


FORMATS = {
    f.name: f
    for f in (
        Format("yaml", make_yaml, read_yaml, ".yaml"),
        Format("annotations", make_annotations, read_annotations, ".json"),
        Format("features", make_features, read_features, ".hdf5"),
        Format("array", make_array, read_array, ".bin"),
        Format("vectors", make_vectors, read_vectors, ".pkl"),
        Format("published", make_published, read_vectors, ".bin"),
        Format("checkpoint", make_checkpoint, read_checkpoint, ".pt"),
        Format("predictions", make_predictions, read_predictions_file, ".jsonl"),
    )
}


def case(kind: Format, seed: int, number: int) -> bytes:
    """The file of one case."""
    return kind.make(random.Random(f"{kind.name} {seed} {number}"))


def fuzz(kind: Format, seed: int, numbers: Iterable[int]) -> list[tuple[int, str]]:
    """The cases of those numbers that went wrong, and how."""
    left, found = list(numbers), []
    with mmap.mmap(-1, 8) as current:  # the number under way, seen by parent and child
        while left:
            batch, left = left[:BATCH], left[BATCH:]
            reported, status = _in_a_child(kind, seed, batch, current)
            found += reported
            if status:
                number = int.from_bytes(current[:8], "little")
                why = (
                    "hangs"
                    if -status in (signal.SIGALRM, signal.SIGPROF)
                    else f"ends the process ({status})"
                )
                found.append((number, why))
                left = batch[batch.index(number) + 1 :] + left
    return found


def _in_a_child(
    kind: Format, seed: int, numbers: list[int], current: mmap.mmap
) -> tuple[list[tuple[int, str]], int]:
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reading)
            _limit_memory()
            faulthandler.disable()  # a crash is reported once, by its number
            for number in (signal.SIGALRM, signal.SIGPROF):  # a test runner may have its own
                signal.signal(number, signal.SIG_DFL)
            with (
                tempfile.TemporaryDirectory(dir=_scratch()) as folder,
                os.fdopen(writing, "w") as pipe,
            ):
                os.chdir(folder)
                path = Path(folder) / f"case{kind.suffix}"
                for number in numbers:
                    current[:8] = number.to_bytes(8, "little")
                    path.write_bytes(case(kind, seed, number))
                    signal.setitimer(signal.ITIMER_PROF, SECONDS)
                    signal.alarm(30 * SECONDS)  # one that waits without computing
                    wrong = check(kind.read, path)
                    signal.alarm(0)
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    if wrong:
                        pipe.write(json.dumps([number, wrong]) + "\n")
                        pipe.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.readlines()
    _, status = os.waitpid(process, 0)
    return [tuple(json.loads(line)) for line in lines], os.waitstatus_to_exitcode(status)


def _scratch() -> str | None:
    """In memory, where there is such a place: each case is a file."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _limit_memory() -> None:
    with contextlib.suppress(OSError):  # a system without /proc
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=6_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FORMATS, help="one format")
    parser.add_argument("--case", type=int, help="this one only, in this process")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the --case there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [FORMATS[args.only]] if args.only else list(FORMATS.values())
    if args.case is not None:
        folder = Path(tempfile.mkdtemp())
        path = args.keep or folder / f"case{kinds[0].suffix}"
        path.write_bytes(case(kinds[0], args.seed, args.case))
        print(path, check(kinds[0].read, path) or "nothing wrong")
        shutil.rmtree(folder)
        return
    wrong = 0
    for kind in kinds:
        began = time.monotonic()
        count = args.count // len(kinds)
        found = fuzz(kind, args.seed, range(count))
        wrong += len(found)
        seconds = time.monotonic() - began
        print(f"{kind.name}: {count:,} cases in {seconds:.0f} s, {len(found)} wrong", flush=True)
        for text, times in Counter(text.split(" (")[0] for _, text in found).most_common(12):
            number, example = next((n, t) for n, t in found if t.startswith(text))
            print(f"  {times} times, first case {number}: {example}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
