"""Weights of other people's checkpoints in the parameters of our models: all of them, or none.

A layout says which of our models the weights are for, what that model has to be built with so that
it computes what theirs did, and which of their keys is which of ours. Keys are matched whole (the
original loaders match suffixes, and leave unmatched weights at their initial values).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import InputError


@dataclass(frozen=True)
class Layout:
    """How somebody's checkpoint is laid out.

    ``names`` gives, for a model of ours, their prefix for each prefix of ours. ``needs`` are
    keywords that the model must have been built with. ``left`` are prefixes of theirs that have no
    part in inference and are left behind. ``tokens``: what was a word to whoever trained it, and
    ``tokens_of``: on corpora where their loader made an exception. ``prepare`` computes, from their
    weights, what no renaming gives. ``vocabulary``: their prefix of the layer that has a row for
    each word. ``data``: further options of DATASET that they were trained with.
    """

    model: str
    source: str
    names: Callable[[nn.Module], Mapping[str, str]]
    needs: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    tokens: str = "words"
    tokens_of: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]] = (
        lambda weights, model: weights
    )
    vocabulary: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def dataset_options(self, corpus: str) -> dict[str, Any]:
        """The options of DATASET by which a corpus is read as whoever trained the weights did."""
        return {"TOKENS": self.tokens_of.get(corpus, self.tokens), **self.data}


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


_DECODER_PARTS = {"self_attn.": "self_attn.", "linear1.": "fc1.", "linear2.": "fc2."}
_WITH_MEMORY = {
    "multihead_attn.": "encoder_attn.",
    "norm1.": "self_attn_layer_norm.",
    "norm2.": "encoder_attn_layer_norm.",
    "norm3.": "final_layer_norm.",
}
_WITHOUT_MEMORY = {"norm1.": "self_attn_layer_norm.", "norm2.": "final_layer_norm."}


def _decoder(ours: str, theirs: str, model: nn.Module) -> dict[str, str]:
    """fairseq's names of the parts of a decoder's layers."""
    layers = model.get_submodule(ours).get_submodule("layers")
    assert isinstance(layers, nn.ModuleList)
    return {
        f"{ours}.layers.{i}.{part}": f"{theirs}.decoder_layers.{i}.{name}"
        for i, layer in enumerate(layers)
        for part, name in (
            _DECODER_PARTS | (_WITH_MEMORY if hasattr(layer, "multihead_attn") else _WITHOUT_MEMORY)
        ).items()
    }


_READ = {
    "decoders.frame.": "frame_fc.",
    "decoders.word.": "word_fc.",
    "decoders.first_word": "start_vec",
    "decoders.mask_word": "mask_vec",
}


def _one_transformer(model: nn.Module) -> dict[str, str]:
    return {
        **_READ,
        **_decoder("decoders.frame_decoder", "trans.decoder1", model),
        **_decoder("decoders.word_decoder", "trans.decoder2", model),
    }


def _cpl(model: nn.Module) -> dict[str, str]:
    own = {"last_frame": "pred_vec", "window.": "fc_gauss.", "vocabulary.": "fc_comp."}
    return _one_transformer(model) | own


def _cnm(model: nn.Module) -> dict[str, str]:
    return _one_transformer(model) | {"window.": "fc_mask_gen.", "vocabulary.": "fc_rec."}


def _pps(model: nn.Module) -> dict[str, str]:
    generator, reconstructor = "trans_mask_generator.gauss", "trans_reconstructor"
    return {
        **_READ,
        **_decoder("decoders.frame_generator", f"{generator}.decoder1", model),
        **_decoder("decoders.word_generator", f"{generator}.decoder2", model),
        **_decoder("decoders.frame_decoder", f"{reconstructor}.decoder1", model),
        **_decoder("decoders.word_decoder", f"{reconstructor}.decoder2", model),
        "decoders.class_word": "pred_vec_q",
        "last_frame": "pred_vec_v",
        "window.": "fc_mask.gauss.",
        "negative.": "fc_mask.l_gauss.gauss.",
        "importance.0.": "attn_func.feat2att.",
        "importance.2.": "attn_func.to_alpha.",
        "vocabulary.": "fc_comp.",
    }


def _prvg(model: nn.Module) -> dict[str, str]:
    whole = "parallel_regression"
    return {
        "frame.": "visual_linear.",
        "sentence.lstm.": "lstm.",
        "encode_text.": f"{whole}.text_cre.",
        "encode_frames.": f"{whole}.visual_cre.",
        "read.": f"{whole}.lmd.layers.0.",
        "read_norm.": f"{whole}.lmd.norm.",
        "box.0.": "bbox_embed.layers.0.",
        "box.2.": "bbox_embed.layers.1.",
        "box.4.": "bbox_embed.layers.2.",
    }


def _class_word(weights: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Of PPS: theirs is one number a row of the batch, for all entries of the word vector. The
    first is what a sentence scored alone has."""
    if "pred_vec_q" not in weights:
        return weights
    width = model.get_parameter("decoders.class_word").shape[0]
    return {**weights, "pred_vec_q": weights["pred_vec_q"][:1].expand(width)}


_NEVER_READ = (
    *("trans_mask_generator.l_gauss.", "attn_func.fc."),
    *(
        f"{stack}.decoder_layers.{layer}.encoder_attn"  # of decoders that have no memory
        for stack in ("trans_mask_generator.gauss.decoder2", "trans_reconstructor.decoder1")
        for layer in range(12)
    ),
)
_TRAINING_ONLY = (
    *("reg_token1.", "vl_pos_embed1.", "conv1x1.", "pred_layer2.", "pred_layer3.", "nlblock."),
    *("mask_vec", "logit_scale", "bmn_layer.sample_mask"),  # the last is computed here
)
_AS_2D_TAN = {"bidirectional": False, "padding": "first", "conv_norm": "count", "density": "sparse"}
_RAW = {"NUM_FRAMES": 200, "NORMALIZE": False}
LAYOUTS: dict[str, Layout] = {
    "2d-tan": Layout(
        "tan2d",
        "microsoft/2D-TAN",
        _two_tan,
        needs={**_AS_2D_TAN, "mask_fused": True},
        tokens="spaces",
        tokens_of={"charades": "spaces_no_stop"},
    ),
    "2d-tan-chenjoya": Layout(
        "tan2d",
        "ChenJoya/2dtan",
        _chenjoya,
        needs={**_AS_2D_TAN, "mask_fused": False, "proposal_map": "pool"},
        tokens="spaces",
    ),
    "cnm": Layout(
        "cnm",
        "minghangz/cnm",
        _cnm,
        needs={"tied_embeddings": False},
        vocabulary="fc_rec.",
        data=_RAW,
    ),
    "cpl": Layout(
        "cpl",
        "minghangz/cpl",
        _cpl,
        needs={"tied_embeddings": False},
        vocabulary="fc_comp.",
        data=_RAW,
    ),
    "pps": Layout(
        "pps",
        "sunoh-kim/pps",
        _pps,
        needs={"tied_embeddings": False},
        left=_NEVER_READ,
        prepare=_class_word,
        vocabulary="fc_comp.",
        data=_RAW,
    ),
    "dmr-jrg": Layout(
        "dmr_release",
        "X7J92/DMR-JRG",
        _dmr_release,
        left=_TRAINING_ONLY,
        tokens="words_and_marks",
    ),
    "prvg": Layout(
        "prvg",
        "MCG-NJU/PRVG",
        _prvg,
        left=(
            "query_embed.",
            *(f"parallel_regression.lmd.layers.0.{part}." for part in ("self_attn", "norm1")),
        ),
        tokens="spaces",
    ),
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

    It may be bare or under ``model``, ``state_dict`` or ``model_parameters``, and its keys may
    begin with ``module.``, as DataParallel and DistributedDataParallel write them.

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
    for key in ("model", "state_dict", "model_parameters"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dict; expected tensors by name")
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"{path}: {_few(others)} are no tensors; expected a state dict")
    prefixed = all(str(key).startswith("module.") for key in content)
    return {str(key)[7 * prefixed :]: value for key, value in content.items()}


def convert(
    layout: Layout,
    weights: Mapping[str, Tensor],
    model: nn.Module,
    *,
    rows: Sequence[int | None] | None = None,
) -> dict[str, Tensor]:
    """A state dict for ``model``.

    Kernels of size 1 become the matrices of our linear layers.

    Args:
        rows: which of their vocabulary's rows each of our word ids is (``vocabulary_rows``); None:
            theirs as they are.

    Raises:
        InputError: names, as the layout has them, what is missing, superfluous or of another shape.
    """
    weights = layout.prepare(weights, model)
    if rows is not None:
        weights = {**weights, **_of_words(layout.vocabulary, weights, rows)}
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


NO_WORD = -30.0  # logit of an id that their vocabulary does not have: e⁻³⁰ of a word


def vocabulary_rows(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """For each of our word ids, their vocabulary's row: of CNM, CPL and PPS, whose row 0 is padding
    and the end of a sentence, and whose words follow in their order. None: it has none.

    Args:
        ours: the words that have an id, in the order of ids.
        theirs: the same of them (``ranked_words``).
    """
    place = {word: row for row, word in enumerate(theirs, start=1)}
    return [0, None, *map(place.get, ours)]  # the second is ours for an unknown word


def _of_words(
    prefix: str, weights: Mapping[str, Tensor], rows: Sequence[int | None]
) -> dict[str, Tensor]:
    if f"{prefix}weight" not in weights or f"{prefix}bias" not in weights:
        return {}  # which will be said
    known = torch.tensor([row is not None for row in rows])
    index = torch.tensor([row or 0 for row in rows])
    weight, bias = weights[f"{prefix}weight"][index], weights[f"{prefix}bias"][index]
    return {
        f"{prefix}weight": torch.where(known[:, None], weight, 0.0),
        f"{prefix}bias": torch.where(known, bias, NO_WORD),
    }


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
