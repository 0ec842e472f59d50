"""Checkpoints, exports and word vectors of the right format and the wrong content: a sentence."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.base.archive import plain
from lib.base.errors import InputError
from lib.base.schema import Wrong
from lib.datasets import packed_words
from lib.datasets.packed_words import PackedWords
from lib.datasets.word_vectors import ranked_words, read_word_vectors
from lib.inference import load
from lib.training import checkpoint, schema
from tests.runs import Ended, run
from tests.stress import home as homes
from tests.stress.commands import aliased


def put(state: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The state with another value at a dotted place; a function is given the one that is there."""
    changed = copy.deepcopy(state)
    *path, last = place.split(".")
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = value(inner.get(last)) if callable(value) else value
    return changed


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    content["state"] = change(content["state"])
    torch.save(content, path)


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


FIRST = "video.weight"  # a weight of the model
LAST = {
    "no epoch": (lambda s: put(s, "progress", {"step": 0}), "progress lacks 'epoch'"),
    "no progress": (lambda s: without(s, "progress"), "there is no progress"),
    "no optimizer": (lambda s: without(s, "optimizer"), "there is no optimizer"),
    "an epoch that is text": (lambda s: put(s, "epoch", "1"), "epoch is '1'"),
    "an epoch below 0": (lambda s: put(s, "progress.epoch", -3), "progress.epoch is -3"),
    "an endless epoch": (lambda s: put(s, "progress.epoch", 10**400), "a number of 1329 bits"),
    "two epochs": (lambda s: put(s, "epoch", 1), "epoch is 1, and progress.epoch is 2"),
    "kept that is none": (lambda s: put(s, "progress.kept", [1]), "progress.kept"),
    "sums that are none": (lambda s: put(s, "progress.sums", {"x": None}), "progress.sums.x"),
    "an optimizer that is a list": (lambda s: put(s, "optimizer", []), "optimizer is a list of 0"),
    "a state by text": (
        lambda s: put(s, "optimizer.state", {"0": {}}),
        "optimizer.state has the key '0'",
    ),
    "an optimizer of other weights": (
        lambda s: put(s, "optimizer.param_groups", lambda g: [{**g[0], "params": [0]}]),
        "the checkpoint's optimizer has 1 weights",
    ),
    "averages of other shapes": (
        lambda s: put(
            s, "optimizer.state", lambda g: {**g, 0: {**g[0], "exp_avg": torch.zeros(3)}}
        ),
        "keeps exp_avg of weight 0 in the shape (3,)",
    ),
    "averages that are missing": (
        lambda s: put(s, "optimizer.state", lambda g: {**g, 0: {"step": torch.tensor(1.0)}}),
        "optimizer keeps step of weight 0",
    ),
    "numbers for keys": (lambda s: {**s, 5: 1}, "has the key 5"),
    "weights that are missing": (lambda s: put(s, "model", {}), "do not fit the model; missing"),
    "weights that are numbers": (lambda s: put(s, "model", {"x": 1}), "model.x is 1"),
    "sparse weights": (
        lambda s: {**s, "model": {k: v.to_sparse() for k, v in s["model"].items()}},
        "a tensor of another kind (sparse_coo)",
    ),
    "weights without values": (
        lambda s: {**s, "model": {k: torch.empty_like(v, device="meta") for k, v in
                                  s["model"].items()}},
        "a tensor of another kind (without values)",
    ),
    "quantised weights": (
        lambda s: {**s, "model": {
            k: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8) for k, v in
            s["model"].items()}},
        "a tensor of another kind (qint8)",
    ),
    "infinite weights": (
        lambda s: {**s, "model": {k: v * float("inf") for k, v in s["model"].items()}},
        "weights are not finite",
    ),
    "a tensor larger than the file": (
        lambda s: put(s, "features.mean", torch.zeros(1).expand(2**40)),
        "and the file has fewer for it",
    ),
    "features that are text": (lambda s: put(s, "features", "x"), "features is 'x'"),
    "features without a recipe": (lambda s: put(s, "features.recipe", "{}"), "features.recipe"),
    "a mean of another width": (
        lambda s: put(s, "features.mean", torch.zeros(3)),
        "features.mean has 3 numbers, expected 12",
    ),
    "a decoding of no release": (
        lambda s: put(s, "decoding", {"method": "guess"}),
        "decoding.method is 'guess'",
    ),
    "a tree of 2^26 values": (lambda s: {**s, "more": aliased(26)}, "more than 500,000 values"),
    "a tree that holds itself": (lambda s: {**s, "more": endless()}, "nested more than 40 deep"),
}  # fmt: skip
BEST = {
    "no epoch": (lambda s: without(s, "epoch"), "there is no epoch"),
    "no features": (lambda s: without(s, "features"), "there is no features"),
    "an epoch of -1": (lambda s: put(s, "epoch", -1), "epoch is -1"),
    "infinite weights": (
        lambda s: put(s, "model", lambda m: {k: v / 0 for k, v in m.items()}),
        "weights are not finite",
    ),
    "a score that is not there": (lambda s: put(s, "select_by", "vr/x"), "the score select_by"),
    "a calibration of text": (lambda s: put(s, "calibration", {"trust": "all"}), "trust is 'all'"),
    "a negative scale": (
        lambda s: put(s, "inference.similarity_scale", -1.0),
        "inference.similarity_scale is -1.0",
    ),
    "no vocabulary": (lambda s: put(s, "inference", {}), "inference lacks 'config'"),
    "fewer vectors than words": (
        lambda s: put(s, "inference.vocabulary.vectors.matrix", lambda m: m[:-2]),
        "rows, expected",
    ),
    "vectors that are not finite": (
        lambda s: put(s, "inference.vocabulary.vectors.matrix", lambda m: m / 0),
        "vectors.matrix holds numbers that are not finite",
    ),
    "a word twice": (
        lambda s: put(s, "inference.vocabulary.keys", lambda k: [k[0]] * len(k)),
        "keys names a word twice",
    ),
    "a tagger of no release": (
        lambda s: put(s, "inference.vocabulary.tagger", "x"),
        "inference.vocabulary.tagger is 'x'",
    ),
    "options of another kind": (
        lambda s: put(s, "inference.config.DATASET.NUM_FRAMES", "many"),
        "config.DATASET.NUM_FRAMES is 'many'",
    ),
    "a huge model": (
        lambda s: put(s, "inference.config.MODEL.PARAMS.hidden_size", 10**8),
        "of which no model can be made",
    ),
    "a model of nothing": (
        lambda s: put(s, "inference.config.MODEL.PARAMS.hidden_size", -1),
        "of which no model can be made",
    ),
    "an option of no model": (
        lambda s: put(s, "inference.config.MODEL.PARAMS.colour", 1),
        "of which no model can be made",
    ),
    "sizes that do not fit": (
        lambda s: put(s, "experiment.dims.vocab_size", 7),
        "experiment.dims.vocab_size is 7",
    ),
    "durations of nothing": (
        lambda s: put(s, "inference.durations.most", float("nan")),
        "inference.durations.most is nan",
    ),
}


def endless() -> list[Any]:
    tree: list[Any] = []
    tree.append(tree)
    return tree


def refused(ended: Ended, wanted: str) -> None:
    assert ended.status == 2 and "Traceback" not in ended.output, ended.output
    line = next(line for line in ended.output.splitlines() if line.startswith("error: "))
    assert wanted in line, line


@pytest.mark.parametrize("name", LAST)
def test_a_crafted_last_checkpoint_stops_a_resumed_run_in_a_sentence(name, own_home):
    change, wanted = LAST[name]
    path = own_home / "save/tiny/last.pt"
    (own_home / "save/tiny/best.pt").unlink()  # the sentence would offer it
    rewrite(path, change)
    began = time.monotonic()
    ended = run(
        "dense_train", *homes.COMMANDS["train"].arguments(own_home), output=own_home / "out"
    )
    refused(ended, wanted)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", BEST)
def test_a_crafted_best_checkpoint_answers_nothing(name, made_home, tmp_path):
    """As it is, and as an export."""
    change, wanted = BEST[name]
    path = tmp_path / "best.pt"
    shutil.copy(made_home / "save/tiny/best.pt", path)
    rewrite(path, change)
    with pytest.raises(InputError) as caught:
        load(path, device="cpu")
    assert wanted in str(caught.value) and str(path) in str(caught.value)


def test_a_crafted_export_answers_nothing(own_home):
    """The sizes of the vocabulary, and what only JSON can say."""
    pytest.importorskip("safetensors")
    path = own_home / "export/run.json"
    text = path.read_text("utf-8")
    for change, wanted in (
        (lambda s: put(s, "experiment.dims.word_dim", 5), "experiment.dims.word_dim is 5"),
        (lambda s: put(s, "epoch", -2), "epoch is -2"),
        (lambda s: put(s, "features.recipe", 3), "features.recipe is 3"),
        (lambda s: put(s, "inference.vocabulary.holding", [10**30]), "holding[0] is a number of"),
        (lambda s: "x", 'no "state" in it'),
        (lambda s: put(s, "epoch", {"tensor": "none"}), "lacks the tensor"),
    ):
        content = json.loads(text)
        content["state"] = change(content["state"])
        path.write_text(json.dumps(content), "utf-8")
        with pytest.raises(InputError) as caught:
            load(own_home / "export", device="cpu")
        assert wanted in str(caught.value)
    path.write_text('{"format": "dmr-jrg run", "version": 1, "state": ' + "[" * 100_000)
    with pytest.raises(InputError, match="cannot be read"):
        load(own_home / "export", device="cpu")


def test_the_step_to_replay_is_checked_as_a_whole(own_home):
    path = own_home / "save/stopped.step"
    line = homes.COMMANDS["replay"].arguments(own_home)
    whole = path.read_bytes()
    for change, wanted in (
        (lambda s: without(s, "stage"), "there is no stage"),
        (lambda s: put(s, "stage", 7), "stage 7 is none of the model's"),
        (lambda s: put(s, "config", "MODEL: 3"), "its config"),
        (lambda s: put(s, "batch.words", lambda w: w[:, :, :1]), "batch."),
        (lambda s: put(s, "experiment.dims", {}), "experiment.dims has"),
        (lambda s: put(s, "experiment.dims.vocab_size", 2**31), "no memory holds"),
    ):
        path.write_bytes(whole)
        rewrite(path, change)
        ended = run(
            "replay", *homes.COMMANDS["replay"].arguments(own_home), output=own_home / "out"
        )
        refused(ended, wanted)
    path.write_bytes(whole)  # whose weights are not finite, which is why it was kept
    ended = run("replay", *line, output=own_home / "out")
    assert ended.status == 3, ended.output


def test_what_training_writes_is_what_the_schema_takes(made_home):
    for name in ("last.pt", "best.pt"):
        schema.check_state(checkpoint.load(made_home / "save/tiny" / name))


def test_a_checkpoint_that_could_not_be_loaded_is_not_kept(made_home, tmp_path):
    state = checkpoint.load(made_home / "save/tiny/best.pt")
    checkpoint.save(tmp_path / "best.pt", state)
    with pytest.raises(Wrong):
        checkpoint.save(tmp_path / "best.pt", {**state, "epoch": -5})
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == state["epoch"]


def test_containers_lose_what_a_pickle_gave_them():
    class Attributed(dict):
        pass

    tree = Attributed(a=[1])
    tree.b = 2
    assert type(plain({"x": tree})["x"]) is dict


class TestPackedWords:
    @pytest.fixture
    def path(self, made_home, tmp_path):
        return Path(
            shutil.copy(made_home / "save/tiny/word_vectors.pt", tmp_path / "word_vectors.pt")
        )

    @pytest.mark.parametrize(
        ("change", "wanted"),
        [
            (lambda c: {**c, "version": 7}, "of another release"),
            (lambda c: without(c, "version"), "of another release"),
            (lambda c: without(c, "source"), "source is None"),
            (lambda c: without(c, "matrix"), "no matrix of floats"),
            (lambda c: {**c, "matrix": c["matrix"].to_sparse()}, "of another kind"),
            (lambda c: {**c, "matrix": torch.zeros(1).expand(9, 2**30)}, "has fewer for it"),
            (lambda c: {**c, "matrix": c["matrix"][0]}, "no matrix of floats"),
            (lambda c: {**c, "words": "x"}, "no text"),
        ],
    )
    def test_that_are_crafted_are_refused(self, path, change, wanted):
        torch.save(change(torch.load(path, weights_only=True)), path)
        with pytest.raises(InputError, match=wanted):
            PackedWords(path)

    @pytest.mark.parametrize(
        ("change", "wanted"),
        [
            (lambda c: {**c, "words": c["words"][:-9]}, "is damaged"),
            (lambda c: {**c, "words": c["words"] | 0x80}, "is damaged"),
            (lambda c: {**c, "matrix": c["matrix"] / 0}, "a vector is not finite"),
            (lambda c: {**c, "matrix": c["matrix"][:, :3].clone()}, "put its file there"),
            (
                lambda c: {**c, "source": {**c["source"], "sha256": "0" * 64}},
                "put its file there",
            ),
        ],
    )
    def test_that_are_not_the_run_s_answer_nothing(self, own_home, change, wanted):
        path = own_home / "save/tiny/word_vectors.pt"
        content = change(torch.load(path, weights_only=True))
        path.unlink()  # a link to the one that all runs share
        torch.save(content, path)
        with pytest.raises(InputError, match=wanted):
            load(own_home / "save/tiny", device="cpu").read("Somebody opens the qwxyz door.")

    def test_of_the_run_answer(self, own_home):
        assert load(own_home / "save/tiny", device="cpu").read("A qwxyz.").unknown_words == ()
        assert packed_words.FILE == "word_vectors.pt"


class TestPickles:
    """glove.pkl may make things, and give a state to none but arrays."""

    def built(self, target: bytes, state: bytes) -> bytes:
        return b"\x80\x04" + target + state + b"b" + b"."

    @pytest.mark.parametrize(
        "target",
        [
            b"ccollections\nCounter\n",  # the class
            b"ccollections\nCounter\n)R",  # one of them
            b"cnumpy\nndarray\n",
            b"cnumpy\ndtype\n",
            b"c_codecs\nencode\n",
        ],
    )
    @pytest.mark.parametrize(
        "state",
        [
            b"}\x8c\x0bmost_commonK\x01s",  # a dictionary of attributes
            b"N}\x8c\x0bmost_commonK\x01s\x86",  # and as slots, which are set on classes too
        ],
    )
    def test_attributes_are_set_on_nothing(self, tmp_path, target, state):
        path = tmp_path / "glove.pkl"
        path.write_bytes(self.built(target, state))
        before = Counter.most_common
        with pytest.raises(InputError, match="the pickle asks for new attributes of"):
            read_word_vectors(path)
        assert Counter.most_common is before

    def test_arrays_types_and_counters_are_read(self, tmp_path):
        path = tmp_path / "glove.pkl"
        for protocol in range(6):
            table = {"the": np.arange(3, dtype=">f4"), "dog": np.ones(3, dtype=np.float64)}
            path.write_bytes(pickle.dumps(table, protocol=protocol))
            assert read_word_vectors(path).lookup(["the"]).tolist() == [[0, 1, 2]]
            data = {"counter": Counter({"a": 3, "b": 5}), "w2id": {"a": 0}, "id2vec": [[1.0]]}
            path.write_bytes(pickle.dumps(data, protocol=protocol))
            assert ranked_words(path, 2) == ("b", "a")
