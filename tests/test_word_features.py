"""DCIML's own layout on small files: captions with ids, features of their tokens, I3D rows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lib.base.errors import InputError
from lib.datasets import build_loader, load_corpus
from lib.datasets.annotations import read_paragraphs
from lib.datasets.word_features import WordFeatures
from lib.losses import Criterion
from lib.models.dciml import DCIML
from lib.tools.bigfile import convert_bigfile

SCRIPTS = Path(__file__).resolve().parents[1] / "moment_localization"
CAPTIONS = """\
v_a#enc#0 A man, smiling, runs. [0.0, 5.5] 20.0
v_b#enc#0 A dog sleeps. [1, 2] 8
v_a#enc#1 He stops. [4.25, 25] 20.0
"""
COUNTS = {"v_a#enc#0": 4, "v_b#enc#0": 3, "v_a#enc#1": 2}  # of our words


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """``data/activitynet`` as the release has it, its features still in their own format."""
    root = tmp_path / "activitynet"
    (root / "TextData").mkdir(parents=True)
    for split in ("train", "val", "test"):
        path = root / "TextData" / f"activitynet{split}.caption.txt"
        path.write_text(CAPTIONS, "utf-8")
    g = np.random.default_rng(0)
    with h5py.File(root / "TextData" / "roberta.hdf5", "w") as file:
        for name, count in COUNTS.items():
            file[name] = g.normal(size=(count + 3, 6)).astype(np.float32)
    folder = root / "FeatureData" / "i3d"
    folder.mkdir(parents=True)
    g.normal(size=(7, 5)).astype("<f4").tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text("7 5")
    (folder / "id.txt").write_text(" ".join(f"f{i}" for i in range(7)))
    (folder / "video2frames.txt").write_text("{'v_a': ['f2', 'f0', 'f1'], 'v_b': ['f6', 'f3']}")
    words = ["a", "man", "smiling", "runs", "dog", "sleeps", "he", "stops"]
    table = {word: row for row, word in enumerate(words)}
    vectors = {"counter": Counter(words), "w2id": table, "id2vec": g.normal(size=(8, 3))}
    (root / "glove.pkl").write_bytes(pickle.dumps(vectors))
    return root


def load(root: Path, **more):
    return load_corpus(
        name="activitynet", data_dir=root.parent, splits=("train", "val"), features="i3d.hdf5",
        num_frames=8, num_clips=4, word_features="TextData/roberta.hdf5", cache="direct", **more,
    )  # fmt: skip


def test_captions_are_paragraphs_by_video_and_keep_their_ids(layout: Path) -> None:
    path = layout / "TextData" / "activitynettrain.caption.txt"
    (first, second), cleaning = read_paragraphs(path)
    assert (first.video_id, first.duration) == ("v_a", 20.0)
    assert first.sentences == ("A man, smiling, runs.", "He stops.")
    assert first.sentence_ids == ("v_a#enc#0", "v_a#enc#1")
    np.testing.assert_array_equal(first.moments, [[0, 5.5], [4.25, 20]])
    assert second.sentence_ids == ("v_b#enc#0",)
    assert cleaning.counts == {"moments clipped to the video": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v_a#enc#2 He goes on.", "line 4 is 'v_a#enc#2 He goes on.'"),
        ("v_a#enc#2 He goes. [1, 2.3.4] 20.0", "line 4 is"),
        ("v_a#enc#2 He goes. [1, 2] 21.0", "has the duration 21, a line before 20"),
    ],
)
def test_a_caption_that_does_not_fit_is_reported(layout: Path, line: str, message: str) -> None:
    path = layout / "TextData" / "activitynettrain.caption.txt"
    path.write_text(CAPTIONS + line, "utf-8")
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        read_paragraphs(path)


def test_ids_follow_their_sentences_when_others_are_dropped_or_sorted(layout: Path) -> None:
    path = layout / "rows.json"
    path.write_text(
        '[["v", 9, [5, 6], "Second."], ["v", 9, [8, 3], "Bad."], ["v", 9, [0, 1], "First."]]'
    )
    ((paragraph,), _) = read_paragraphs(path, order="time")
    assert paragraph.sentences == ("First.", "Second.")
    assert paragraph.sentence_ids == ("v#2", "v#0")


def test_every_word_has_its_row(layout: Path) -> None:
    features = WordFeatures(layout / "TextData" / "roberta.hdf5")
    with h5py.File(layout / "TextData" / "roberta.hdf5") as file:
        rows = {name: torch.from_numpy(file[name][()]) for name in COUNTS}
    found = features.read(["v_b#enc#0", "v_a#enc#1"], torch.tensor([3, 7]))
    assert torch.equal(found[:3], rows["v_b#enc#0"][1:4])
    assert torch.equal(found[3:7], rows["v_a#enc#1"][1:])  # two words and two rows more
    assert torch.equal(found[7:], rows["v_a#enc#1"][-1].expand(3, -1))


def test_the_layout_is_a_yaml_away(layout: Path) -> None:
    """From the release's files to a loss, and what the batch holds is the files'."""
    script = [sys.executable, SCRIPTS / "import_features.py", layout / "FeatureData" / "i3d"]
    done = subprocess.run([*script, layout / "i3d.hdf5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 videos, 5 rows" in done.stdout
    matrix = np.fromfile(layout / "FeatureData" / "i3d" / "feature.bin", "<f4").reshape(7, 5)
    with h5py.File(layout / "i3d.hdf5") as file:
        np.testing.assert_array_equal(file["v_a"][()], matrix[[2, 0, 1]])

    corpus = load(layout)
    assert (corpus.dims.video_dim, corpus.dims.word_dim) == (5, 6)
    batch = next(iter(build_loader(corpus["train"], batch_size=2)))
    assert batch.word_counts.tolist() == [4, 2, 3]
    with h5py.File(layout / "TextData" / "roberta.hdf5") as file:
        expected = torch.from_numpy(file["v_a#enc#1"][1:3])
    assert torch.equal(batch.words[0, 1, :2], expected)

    torch.manual_seed(0)
    model = DCIML(
        corpus.dims, retrieval_size=8, grounding_size=8, heads=2, decoder_layers=1, proposals=2,
        sampled_frames=4,
    )  # fmt: skip
    terms = DCIML.losses()
    criterion = Criterion(terms, dict.fromkeys(terms, 1.0))
    total = criterion(model(batch, terms=criterion.active), batch)["total"]
    total.backward()
    assert torch.isfinite(total)


def test_what_the_feature_file_lacks_is_reported_before_training(layout: Path) -> None:
    convert_bigfile(layout / "FeatureData" / "i3d", layout / "i3d.hdf5")
    with h5py.File(layout / "TextData" / "roberta.hdf5", "a") as file:
        del file["v_b#enc#0"]
    with pytest.raises(InputError, match=r"roberta.hdf5: lacks .* e.g. v_b#enc#0"):
        load(layout)
    with h5py.File(layout / "TextData" / "roberta.hdf5", "a") as file:
        file["v_b#enc#0"] = np.zeros((1, 6), np.float32)
    with pytest.raises(InputError, match="v_b#enc#0 has 1 row; expected that of the start token"):
        load(layout)["train"].text(1)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("shape.txt", "7", "number of rows and their width"),
        ("shape.txt", "8 5", "expected them to agree"),
        ("id.txt", "f0 f1", "expected them to agree"),
        ("video2frames.txt", "__import__('os')", "expected a dictionary"),
        ("video2frames.txt", "{'v_a': ['f9']}", "v_a has the row 'f9', which id.txt lacks"),
        ("video2frames.txt", "{'v_a': []}", "v_a has no list of rows"),
    ],
)
def test_a_damaged_feature_folder_is_reported(
    layout: Path, file: str, text: str, message: str
) -> None:
    folder = layout / "FeatureData" / "i3d"
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        convert_bigfile(folder, layout / "i3d.hdf5")
    assert not (layout / "i3d.hdf5").exists()
