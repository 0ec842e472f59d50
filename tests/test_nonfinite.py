"""Where a step stops being finite: the term, the first module, and nothing on a sound step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from lib.base.batch import Batch
from lib.base.errors import InputError
from lib.base.runtime import Runtime
from lib.losses import Criterion
from lib.training import nonfinite
from lib.training.engine import train_one_epoch
from lib.training.optimization import Optimization
from lib.training.progress import Progress
from tests.properties import make_batch, terms_of
from tests.variants import VARIANTS

CPU = Runtime(torch.device("cpu"))


class Small(nn.Module):
    """Two layers; what happens between and after them is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 4), nn.Linear(4, 2)
        self.between = lambda x: x

    def encode(self, batch: Batch, terms: object = None) -> dict[str, torch.Tensor]:
        return {"out": self.second(self.between(self.first(batch.video)))}

    def compare(self, parts: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        return parts["out"]


def optimization_of(model: nn.Module, **terms) -> Optimization:
    terms = terms or {"mean": lambda out, batch: out.mean()}
    return Optimization(model, Criterion(terms, dict.fromkeys(terms, 1.0)))


def locate(model: nn.Module, batch: Batch, **terms) -> nonfinite.Origin:
    return nonfinite.locate(model, optimization_of(model, **terms), batch, seed=0, epoch=0, step=0)


def test_a_sound_step_has_no_origin(batch):
    assert not locate(Small(), batch)
    assert locate(Small(), batch).lines() == []


@pytest.mark.parametrize("name", [name for name in VARIANTS if "pretrained" not in name])
def test_no_sound_model_is_accused(name):
    """A module that gives infinity on purpose would be named first, whatever the fault."""
    model = VARIANTS[name]()
    origin = locate(model, make_batch(), **terms_of(model))
    assert not origin, origin.lines()


def test_names_the_first_module_and_the_term(batch):
    model = Small()
    model.between = lambda x: x / 0
    origin = locate(model, batch, mean=lambda o, b: o.mean(), zero=lambda o, b: o.sum() * 0 + 1)
    assert origin.module.startswith("second (Linear), output is ")
    assert origin.module.endswith(", and so is its input")
    assert origin.terms == ["mean", "zero"]
    assert origin.weights == origin.inputs == []


def test_names_weights_and_the_video_that_were_not_finite_before(batch):
    model = Small()
    with torch.no_grad():
        model.second.bias[0] = torch.inf
    video = batch.video.clone()
    video[2, 0, 0] = torch.nan
    origin = locate(model, dataclasses.replace(batch, video=video))
    assert origin.weights == ["second.bias"]
    assert origin.inputs == [f"video of {batch.video_ids[2]}"]
    assert origin.module.startswith("first (Linear), output is 4 times NaN")


def test_names_the_term_and_the_module_of_a_gradient_alone(batch):
    """The square root of zero is finite, its slope is not."""
    origin = locate(
        Small(),
        batch,
        sound=lambda out, batch: out.mean(),
        root=lambda out, batch: (out * 0).sum().sqrt(),
    )
    assert origin.terms == ["root (its gradient)"]
    assert "second (Linear), the gradient of its output is" in origin.module


def test_the_step_is_not_taken_and_carries_what_it_needs(batch, tmp_path):
    model = Small()
    optimization = optimization_of(model, root=lambda out, batch: (out * 0).sum().sqrt())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    progress = Progress(epoch=2)
    with pytest.raises(nonfinite.NotFinite, match="root 0, grad_norm nan") as caught:
        train_one_epoch(model, [batch], optimization, CPU, progress, seed=0, max_grad_norm=10)
    assert progress.step == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert caught.value.batch.video_ids == batch.video_ids
    for video in batch.video_ids:
        assert video in str(caught.value)


def test_a_batch_comes_back_from_its_file(batch):
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    sizes = {
        "video_dim": batch.video.shape[2],
        "word_dim": batch.words.shape[3],
        "vocab_size": int(batch.word_ids.max()) + 1,
        "num_frames": batch.video.shape[1],
        "num_clips": 4,
        "max_sentences": 9,
    }
    state = {"batch": fields, "config": "", "progress": {}, "stage": 0, "model": {}}
    state["experiment"] = {"dims": sizes}
    again = nonfinite.batch_of(state)
    for name, value in fields.items():
        same = torch.equal if isinstance(value, torch.Tensor) and name != "moments" else None
        assert same(value, getattr(again, name)) if same else True
    with pytest.raises(InputError, match="holds no step to replay"):
        nonfinite.batch_of({"batch": fields})
    with pytest.raises(InputError, match="batch has video, expected"):
        nonfinite.batch_of({**state, "batch": {"video": batch.video}})
    for name, value in (
        ("video", batch.video[:, :3]),
        ("words", batch.words[0]),
        ("word_ids", batch.word_ids.float()),
        ("word_ids", batch.word_ids - 10),
        ("flat_index", batch.flat_index.flip(0)),
        ("word_counts", batch.word_counts * 0),
        ("video_ids", [1] * len(batch)),
    ):
        with pytest.raises(InputError, match=f"batch.{name}"):
            nonfinite.batch_of({**state, "batch": {**fields, name: value}})
