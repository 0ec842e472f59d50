"""A model and a loss term from files outside the repository, and broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lib.training import checkpoint
from tests.runs import REPOSITORY, Ended, run

MODEL = '''
"""Sentences and clips in one space: the mean of words against each clip."""

from __future__ import annotations

import torch
from torch import nn

from lib.base.batch import Layout
from lib.decoding import Evidence
from lib.losses.similarity import info_nce
from lib.models.interface import Model
from lib.models.layers.proposal_map import ProposalGrid


class MyModel(Model):
    """Cosines.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D.
        scale: of the contrastive term.
    """

    grounds_from = frozenset({"clips"})

    def __init__(self, dims, *, hidden_size: int = 256, scale: float = 10.0) -> None:
        super().__init__()
        self.num_clips, self.scale = dims.num_clips, scale
        self.word = nn.Linear(dims.word_dim, hidden_size)
        self.frame = nn.Linear(dims.video_dim, hidden_size)
        self.grid = ProposalGrid(dims.num_clips, "dense")

    def clips(self, video):
        pooled = video.unflatten(1, (self.num_clips, -1)).mean(dim=2)
        return nn.functional.normalize(self.frame(pooled), dim=-1)

    def sentences(self, batch):
        mask = batch.flat(batch.word_mask)[..., None]
        words = torch.where(mask, batch.flat(batch.words), 0.0).sum(dim=1) / mask.sum(dim=1)
        return nn.functional.normalize(self.word(words), dim=-1)

    def encode(self, batch, terms=None):
        return {"sentences": self.sentences(batch), "clips": self.clips(batch.video)}

    def compare(self, parts, batch):
        return self._similarity(parts["sentences"], batch, parts["clips"])

    def _similarity(self, sentences, layout, clips):
        cosines = torch.einsum("md,bnd->mbn", sentences, clips)
        return layout.mean(cosines.logsumexp(dim=-1))

    def encode_videos(self, video):
        return {"clips": self.clips(video)}

    def encode_paragraphs(self, batch):
        return {"sentences": batch.padded(self.sentences(batch)), "mask": batch.sentence_mask}

    def similarity(self, paragraphs, videos):
        layout = Layout.of(paragraphs["mask"])
        return self._similarity(layout.flat(paragraphs["sentences"]), layout, videos["clips"])

    def ground_pairs(self, paragraphs, videos, read=None):
        layout = Layout.of(paragraphs["mask"])
        cosines = torch.einsum("bsd,bnd->bsn", paragraphs["sentences"], videos["clips"])
        clips = {"cosine": layout.flat(cosines)}
        return Evidence(layout, self.grid.spans, self.grid.num_clips, clips=clips)

    @staticmethod
    def losses(*, sharpness: float = 10.0):
        """One term.

        Args:
            sharpness: inverse temperature.
        """

        def match(out, batch):
            return info_nce(out, torch.tensor(sharpness), batch.same_video)

        return {"match": match}
'''
MORE_TERMS = '''
def small(out, batch):
    """The mean square of what compare returned."""
    return out.float().square().mean()


NUMBER = 3
'''


class Folder:
    """Somebody's own folder: files, an experiment, data and runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("my_model.py", MODEL)
        self.write("my_terms.py", MORE_TERMS)

    def write(self, name: str, text: str) -> Path:
        (self.root / name).write_text(textwrap.dedent(text), "utf-8")
        return self.root / name

    def experiment(self, name: str = "my_model.py:MyModel", **sections: Any) -> Path:
        text = {
            "DATA_DIR": str(self.root / "data"),
            "MODEL_DIR": str(self.root / "save"),
            "GPUS": "cpu",
            "WORKERS": 0,
            "DATASET": {
                "NAME": "synthetic",
                "NUM_FRAMES": 16,
                "NUM_CLIPS": 8,
                "SYNTHETIC": {"train": 8, "val": 4, "test": 4, "feature_dim": 8, "word_dim": 6},
            },
            "MODEL": {"NAME": name, "PARAMS": {"hidden_size": 8}},
            "LOSS": {"WEIGHTS": {"match": 1}, "PARAMS": {"sharpness": 5.0}},
            "TRAIN": {"EPOCHS": 2, "BATCH_SIZE": 4, "LR": 1e-2},
            "TEST": {"RESAMPLES": 0},
        }
        return self.write("mine.yaml", yaml.safe_dump(text | sections))

    def call(self, script: str, *flags: object) -> Ended:
        cfg = self.root / "mine.yaml"
        return run(script, "--cfg", cfg, *flags, output=self.root / "output.txt")

    def results(self, name: str = "results") -> dict[str, Any]:
        return json.loads((self.root / "save" / "mine" / f"{name}.json").read_text("utf-8"))

    def refused(self) -> str:
        """The one sentence that both commands say, with exit status 2, before anything is made."""
        ended = self.call("dense_train")
        assert ended.status == 2, ended.output
        (line,) = ended.output.splitlines()
        assert line.startswith("error: ")
        assert not (self.root / "save").exists()
        return line.removeprefix("error: ")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_model_trains_and_is_tested(folder: Folder) -> None:
    folder.experiment()
    for script in ("dense_train", "best_test"):
        ended = folder.call(script)
        assert ended.status == 0, ended.output
    results = folder.results()
    assert {"vr", "svmr_2dtan"} <= results["protocols"].keys()
    state = checkpoint.load(folder.root / "save" / "mine" / "best.pt")
    assert state["experiment"]["MODEL"]["NAME"] == f"{folder.root}/my_model.py:MyModel"
    assert state["model"]["word.weight"].shape == (8, 6)


def test_its_path_counts_from_the_experiment_s_folder_or_is_whole(folder: Folder) -> None:
    for name in (f"{folder.root}/my_model.py:MyModel", "./my_model.py:MyModel"):
        folder.experiment(name)
        assert folder.call("dense_train", "--overwrite").status == 0


def test_a_model_of_a_package_is_found_as_python_does(folder: Folder) -> None:
    """Below the working folder, which is on the path."""
    folder.experiment("lib.models.clip_align:ClipAlign", LOSS={"WEIGHTS": {"paragraph": 1}})
    ended = folder.call("dense_train")
    assert ended.status == 0, ended.output


def test_a_loss_term_counts(folder: Folder) -> None:
    folder.experiment()
    assert folder.call("dense_train").status == 0
    log = (folder.root / "save/mine/log.jsonl").read_text("utf-8").splitlines()
    alone = [json.loads(line)["train"] for line in log]
    terms = {"match": 1, "my_terms.py:small": 0.5}
    folder.experiment(LOSS={"WEIGHTS": terms, "PARAMS": {"sharpness": 5.0}})
    ended = folder.call("dense_train", "--overwrite")
    assert ended.status == 0, ended.output
    log = (folder.root / "save/mine/log.jsonl").read_text("utf-8").splitlines()
    both = [json.loads(line)["train"] for line in log]
    name = f"{folder.root}/my_terms.py:small"
    assert both[0][name] > 0 and name not in alone[0]
    total = both[1]["match"] + 0.5 * both[1][name]
    assert both[1]["total"] == pytest.approx(total, rel=1e-4)
    ended = folder.call("best_test")
    assert ended.status == 0, ended.output


def test_a_loss_term_serves_a_model_of_the_repository_too(folder: Folder) -> None:
    """Which then computes all that it can."""
    terms = {"match": 1, "my_terms.py:small": 1}
    folder.write("my_terms.py", "def small(out, batch):\n    return out.similarity.mean()\n")
    terms = {"within": 1, f"{folder.root}/my_terms.py:small": 1}
    folder.experiment("clip_align", LOSS={"WEIGHTS": terms})
    ended = folder.call("dense_train")
    assert ended.status == 0, ended.output


BROKEN = {
    "a missing file": ("nowhere.py:MyModel", "", "cannot be imported (FileNotFoundError: no file "),
    "a missing name": ("my_model.py:Mine", "", "my_model.py has no Mine; it has "),
    "a missing module": (
        "no_such_package.models:MyModel",
        "",
        "no_such_package.models:MyModel cannot be imported (ModuleNotFoundError: No module named",
    ),
    "a fault of its own": (
        "broken.py:MyModel",
        "raise RuntimeError('not today')\n",
        "cannot be imported (RuntimeError: not today)",
    ),
    "no class": (
        "broken.py:MyModel",
        "MyModel = 3\n",
        "is no model: it does not derive from lib.models.interface.Model",
    ),
    "another base class": (
        "broken.py:MyModel",
        MODEL.replace("class MyModel(Model)", "class MyModel(nn.Module)"),
        "is no model: it does not derive from lib.models.interface.Model",
    ),
    "no losses": (
        "broken.py:MyModel",
        MODEL.split("    @staticmethod")[0],
        "is no model: it defines no losses",
    ),
    "losses that are no static method": (
        "broken.py:MyModel",
        MODEL.replace("    @staticmethod\n    def losses(*,", "    def losses(self, *,"),
        "is no model: its losses is not a static method",
    ),
    "a missing method": (
        "broken.py:MyModel",
        MODEL.replace("def encode_videos", "def encode_video"),
        "is no model: it defines no encode_videos",
    ),
    "neither of the two tasks": (
        "broken.py:MyModel",
        MODEL.replace("def similarity", "def similar").replace("def ground_pairs", "def ground"),
        "is no model: it defines neither similarity nor ground_pairs",
    ),
    "a wrong attribute": (
        "broken.py:MyModel",
        MODEL.replace('frozenset({"clips"})', 'frozenset({"frames"})'),
        "is no model: its grounds_from is {'frames'}, expected scores or clips",
    ),
    "a wrong supervision": (
        "broken.py:MyModel",
        MODEL.replace("    grounds_from", '    supervision = "strong"\n    grounds_from'),
        "is no model: its supervision is 'strong', expected 'weak' or 'full'",
    ),
    "two faults": (
        "broken.py:MyModel",
        MODEL.replace("def compare", "def compared").replace("def encode(", "def encoded("),
        "is no model: it defines no encode, and it defines no compare",
    ),
}


@pytest.mark.parametrize(("name", "text", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_gets_one_sentence_at_the_start(
    folder: Folder, name: str, text: str, why: str
) -> None:
    folder.write("broken.py", text)
    folder.experiment(name)
    line = folder.refused()
    assert line.startswith(f"{folder.root}/mine.yaml:") and why in line


WRONG_ANSWERS = {
    "similarities turned round": (
        ("return layout.mean(cosines.logsumexp(dim=-1))", "return cosines.logsumexp(dim=-1)"),
        "similarity returns (",
    ),
    "evidence of no sentence": (
        ('{"cosine": layout.flat(cosines)}', '{"cosine": layout.flat(cosines)[1:]}'),
        "ground_pairs returns evidence 'cosine' of shape ",
    ),
    "no evidence": (
        ("self.grid.num_clips, clips=clips)", "self.grid.num_clips)"),
        "grounds_from names clips, which ground_pairs does not return",
    ),
    "scores in the place of evidence": (
        ("return Evidence(layout, self.grid.spans, self.grid.num_clips, clips=clips)",
         "return clips['cosine']"),
        "ground_pairs returns Tensor, expected Evidence",
    ),
    "no mask": (
        (', "mask": batch.sentence_mask}', "}"),
        "encode_paragraphs returns no 'mask' (B, S)",
    ),
    "something that raises": (
        ('return {"clips": self.clips(video)}\n\n    def encode_paragraphs',
         'return {"clips": self.clips(video[..., :3])}\n\n    def encode_paragraphs'),
        "cannot answer for 3 paragraphs (",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_model_that_answers_wrongly_gets_one_sentence_at_the_start(
    folder: Folder, change: tuple[str, str], why: str
) -> None:
    assert change[0] in MODEL
    folder.write("broken.py", MODEL.replace(*change))
    folder.experiment("broken.py:MyModel")
    ended = folder.call("dense_train")
    assert ended.status == 2
    faults = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert len(faults) == 1 and why in faults[0]
    assert not (folder.root / "save").exists()


@pytest.mark.parametrize(
    ("term", "why"),
    [
        ("my_terms.py:NUMBER", "NUMBER is no function of (output, batch)"),
        ("my_terms.py:large", "my_terms.py has no large; it has small, NUMBER"),
        ("nowhere.py:small", "cannot be imported (FileNotFoundError: no file "),
    ],
)
def test_a_broken_loss_term_gets_one_sentence(folder: Folder, term: str, why: str) -> None:
    folder.experiment(LOSS={"WEIGHTS": {"match": 1, term: 1}})
    assert why in folder.refused()


def suite(path: Path, name: str = "MyModel") -> subprocess.CompletedProcess[str]:
    """The property suite over a model, as its author runs it."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--model", f"{path}:{name}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_model_passes_the_property_suite_by_one_command(folder: Folder) -> None:
    ended = suite(folder.root / "my_model.py")
    assert ended.returncode == 0, ended.stdout
    assert "9 passed" in ended.stdout, ended.stdout


def test_the_property_suite_finds_a_fault_and_refuses_what_is_no_model(folder: Folder) -> None:
    mean_over_padding = MODEL.replace(
        "torch.where(mask, batch.flat(batch.words), 0.0)", "batch.flat(batch.words)"
    )
    ended = suite(folder.write("leaky.py", mean_over_padding))
    assert ended.returncode == 1
    assert "FAILED" in ended.stdout and "test_property[MyModel-padding_free]" in ended.stdout
    ended = suite(folder.write("broken.py", MODEL.split("    @staticmethod")[0]))
    assert ended.returncode not in (0, 1)
    assert "is no model: it defines no losses" in ended.stdout + ended.stderr


def test_a_model_with_a_wrong_shape_is_found_by_the_property_suite(folder: Folder) -> None:
    text = MODEL.replace('{"cosine": layout.flat(cosines)}', '{"cosine": cosines}')
    ended = suite(folder.write("shapes.py", text))
    assert ended.returncode == 1 and "test_property[MyModel-padding_free]" in ended.stdout


def test_what_a_model_returns_is_what_the_file_says(folder: Folder) -> None:
    """Two experiments with two models of one name in two files do not meet."""
    folder.write(
        "other.py",
        MODEL.replace("self.word = nn.Linear", "self.text = nn.Linear").replace(
            "self.word(", "self.text("
        ),
    )
    folder.experiment("other.py:MyModel")
    assert folder.call("dense_train").status == 0
    state = checkpoint.load(folder.root / "save" / "mine" / "best.pt")
    assert "text.weight" in state["model"] and torch.isfinite(state["model"]["text.weight"]).all()
    folder.experiment()
    ended = folder.call("best_test")
    assert ended.status == 2 and "MODEL.NAME" in ended.output
