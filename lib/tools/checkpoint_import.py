"""Weights of other people's checkpoints in the parameters of our models: all of them, or none.

A layout says which of our models the weights are for, what that model has to be built with so that
it computes what theirs did, and which of their keys is which of ours. Keys are matched whole (the
original loaders match suffixes, and leave unmatched weights at their initial values).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.errors import InputError


@dataclass(frozen=True)
class Layout:
    """How somebody's checkpoint is laid out.

    ``names`` gives, for a model of ours, their prefix for each prefix of ours. ``needs`` are
    keywords that the model must have been built with. ``left`` are prefixes of theirs that have no
    part in inference and are left behind. ``tokens``: what was a word to whoever trained it.
    """

    model: str
    source: str
    names: Callable[[nn.Module], Mapping[str, str]]
    needs: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    tokens: str = "words"


def _links(model: nn.Module) -> int:
    """How many convolutions the proposal map has; none if it pools."""
    return sum(1 for name, _ in model.named_parameters() if name.startswith("proposals.links")) // 2


def _grouped(link: int) -> str:
    """2D-TAN numbers them group by group: 16, then 8 at a time."""
    return f"0.{link}" if link < 16 else f"{(link - 8) // 8}.{(link - 16) % 8}"


def _two_tan(model: nn.Module) -> dict[str, str]:
    links = {
        f"proposals.links.{i}.": f"prop_layer.layers.{_grouped(i)}." for i in range(_links(model))
    }
    return {
        **links,
        "clips.project.": "frame_layer.vis_conv.",
        "sentence.lstm.": "fusion_layer.textual_encoder.",
        "sentence.project.": "fusion_layer.tex_linear.",
        "cell.": "fusion_layer.vis_conv.",
        "context.convs.": "map_layer.convs.",
        "score.": "pred_layer.",
    }


def _chenjoya(model: nn.Module) -> dict[str, str]:
    return {
        "clips.project.": "featpool.conv.",
        "sentence.lstm.": "integrator.lstm.",
        "sentence.project.": "integrator.fc.",
        "cell.": "integrator.conv.",
        "context.convs.": "predictor.convs.",
        "score.": "predictor.pred.",
    }


def _mmn(model: nn.Module) -> dict[str, str]:
    return {
        "proposals.links.": "feat2d.convs.",
        "clips.project.": "featpool.conv.",
        "sentence.pretrained.encoder.": "text_encoder.bert.",
        "norm.": "text_encoder.layernorm.",
        "sentence_overlap.": "text_encoder.fc_out1.",
        "sentence_matching.": "text_encoder.fc_out2.",
        "context.norms.": "proposal_conv.bn.",
        "context.convs.": "proposal_conv.convs.",
        "cell_overlap.": "proposal_conv.conv1x1_iou.",
        "cell_matching.": "proposal_conv.conv1x1_contrastive.",
    }


def _dmr_release(model: nn.Module) -> dict[str, str]:
    return {
        "clips.project.": "frame_layer.vis_conv.",
        "proposals.base.0.": "bmn_layer.x_1d_b.0.",
        "proposals.base.2.": "bmn_layer.x_1d_b.2.",
        "proposals.base.4.": "bmn_layer.x_1d_p.0.",
        "proposals.gather.": "bmn_layer.x_3d_p.0.",
        "sentence.lstm.": "fusion_layer.textual_encoder.",
        "sentence.project.": "fusion_layer.tex_linear.",
        "cell.": "fusion_layer.vis_conv.",
        "context.": "map_layer.convs.0.",
        "score.": "pred_layer1.",
        "encoder.layers.": "vl_transformer1.encoder.layers.",
        "text_token": "reg_token2.weight",
        "text_places": "vl_pos_embed2.weight",
        "video_token": "reg_token3.weight",
        "video_places": "vl_pos_embed3.weight",
    }


_TRAINING_ONLY = (
    *("reg_token1.", "vl_pos_embed1.", "conv1x1.", "pred_layer2.", "pred_layer3.", "nlblock."),
    *("mask_vec", "logit_scale", "bmn_layer.sample_mask"),  # the last is computed here
)
_AS_2D_TAN = {"bidirectional": False, "padding": "first", "conv_norm": "count", "density": "sparse"}
LAYOUTS: dict[str, Layout] = {
    "2d-tan": Layout(
        "tan2d",
        "microsoft/2D-TAN",
        _two_tan,
        needs={**_AS_2D_TAN, "mask_fused": True},
        tokens="spaces",
    ),
    "2d-tan-chenjoya": Layout(
        "tan2d",
        "ChenJoya/2dtan",
        _chenjoya,
        needs={**_AS_2D_TAN, "mask_fused": False, "proposal_map": "pool"},
        tokens="spaces",
    ),
    "dmr-jrg": Layout("dmr_release", "X7J92/DMR-JRG", _dmr_release, left=_TRAINING_ONLY),
    "mmn": Layout("mmn", "MCG-NJU/MMN", _mmn, needs={"density": "sparse"}),
}


def check_experiment(layout: Layout, model: str, params: Mapping[str, Any]) -> None:
    """Refuse an experiment in which the weights would compute something else.

    Raises:
        InputError: another model, or keywords of it; with what to set.
    """
    if model != layout.model:
        raise InputError(
            f"MODEL.NAME is {model}; weights of {layout.source} are for {layout.model}"
        )
    wrong = [
        f"--set MODEL.PARAMS.{key}={str(value).lower()}"
        for key, value in layout.needs.items()
        if params[key] != value
    ]
    if layout.model == "mmn" and params["text_encoder"] == "lstm":
        wrong.append("--set MODEL.PARAMS.text_encoder=FOLDER (of DistilBERT)")
    if wrong:
        raise InputError(f"weights of {layout.source} need {' '.join(wrong)}")


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``, of any age; nothing in it is run.

    It may be bare or under ``model`` or ``state_dict``, and its keys may begin with ``module.``, as
    DataParallel and DistributedDataParallel write them.

    Raises:
        InputError: no such file, or not one that holds tensors by name alone.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds Python objects, which may run code when read, or is no checkpoint; "
            "expected tensors, numbers and texts only"
        ) from None
    except Exception as fault:  # whatever a damaged file makes Torch raise
        reason = (str(fault) or type(fault).__name__).split("\n")[0][:120]
        raise InputError(f"{path} cannot be read ({reason})") from None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dict; expected tensors by name")
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"{path}: {_few(others)} are no tensors; expected a state dict")
    prefixed = all(str(key).startswith("module.") for key in content)
    return {str(key)[7 * prefixed :]: value for key, value in content.items()}


def convert(layout: Layout, weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict for ``model``.

    Kernels of size 1 become the matrices of our linear layers.

    Raises:
        InputError: names, as the layout has them, what is missing, superfluous or of another shape.
    """
    ours = model.state_dict()
    prefixes = layout.names(model)
    theirs = {key: _renamed(key, prefixes) for key in ours}
    known = set(theirs.values())
    shaped = {
        key: _as(weights[theirs[key]], value)
        for key, value in ours.items()
        if theirs[key] in weights
    }
    faults = {
        "missing": [name for name in theirs.values() if name not in weights],
        "unexpected": [k for k in weights if k not in known and not k.startswith(layout.left)],
        "of another shape": [
            f"{theirs[key]} ({_shape(weights[theirs[key]])}, expected {_shape(ours[key])})"
            for key, value in shaped.items()
            if value is None
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{what}: {_few(keys)}" for what, keys in faults.items() if keys)
        raise InputError(
            f"the weights are not those of {layout.source} at this model's sizes; {listed}"
        )
    return {key: value for key, value in shaped.items() if value is not None}


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    for ours, theirs in prefixes.items():
        if key.startswith(ours):
            return theirs + key[len(ours) :]
    return key


def _as(value: Tensor, target: Tensor) -> Tensor | None:
    """In the target's shape, if all that is to be taken away are kernel axes of size 1."""
    while value.dim() > target.dim() and value.shape[-1] == 1:
        value = value.squeeze(-1)
    return value.to(target.dtype) if value.shape == target.shape else None


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "number"


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
