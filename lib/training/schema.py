"""What the state in a checkpoint or an export must be, checked as a whole before it is used.

A file may lack parts, since there are several kinds (the last and the best of a run, a step that
was not finite, imported weights) and releases; ``require`` names the parts that a reader needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..base.batch import DataDims
from ..base.errors import InputError
from ..base.recipe import Recipe
from ..base.schema import (
    Check,
    Wrong,
    fail,
    flag,
    listed,
    mapping,
    number,
    one_of,
    optional,
    record,
    row,
    text,
    whole,
)
from ..config.options import SCHEMA, Option, Refused, Section, fit_option
from ..datasets.vocabulary import FIRST_WORD, TAGGERS, TOKENISERS

# Mappings that have numbers for keys, as ``read_archive`` wants them.
NUMBERED = frozenset({("optimizer", "state")})


def tensor(axes: int) -> Check:
    """A tensor of finite floats with so many axes, not empty."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, Tensor) or value.dim() != axes or not value.numel():
            fail(name, value, f"a tensor of {axes} axes")
        if not value.is_floating_point():
            raise Wrong(f"{name} holds {str(value.dtype).removeprefix('torch.')}, expected floats")
        if not bool(torch.isfinite(value).all()):
            raise Wrong(f"{name} holds numbers that are not finite")

    return check


def _weights(value: Any, name: str) -> None:
    mapping()(value, name)
    for key, weight in value.items():
        if not isinstance(weight, Tensor):
            fail(f"{name}.{key}", weight, "a tensor")


def _finite_weights(value: Any, name: str) -> None:
    _weights(value, name)
    bad = [
        key
        for key, weight in value.items()
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all())
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise Wrong(f"weights are not finite ({', '.join(bad[:3])}{more})")


def _state_of_weight(value: Any, name: str) -> None:
    """What an optimiser keeps of one weight: averages, and the number of its steps."""
    mapping()(value, name)
    for key, each in value.items():
        if not isinstance(each, Tensor):
            number(0)(each, f"{name}.{key}")


def _recipe(value: Any, name: str) -> None:
    text(value, name)
    try:
        Recipe.from_json(value, name)
    except InputError as fault:
        raise Wrong(str(fault).rstrip(".")) from None


def _features(value: Any, name: str) -> None:
    record(
        {
            "recipe": optional(_recipe),
            "entries": whole(),
            "keys": text,
            "sample": listed(text),
            "rows": whole(),
            "dtype": text,
            "width": whole(1),
            "parts": listed(whole(1)),
            "mean": tensor(1),
            "std": tensor(1),
            "standardization": record(
                {
                    "mean": tensor(1),
                    "deviation": tensor(1),
                    "rows": whole(),
                    "normalize": flag,
                },
                needed=("mean", "deviation", "rows", "normalize"),
            ),
        }
    )(value, name)
    if value.get("parts") and sum(value["parts"]) != value.get("width"):
        raise Wrong(f"{name}.parts add up to {sum(value['parts'])}, expected the width")
    kept = value.get("standardization", {})
    sized = {"mean": value, "std": value, "standardization.mean": kept}
    sized["standardization.deviation"] = kept
    for key, of in sized.items():
        vector = of.get(key.rpartition(".")[2])
        if vector is not None and "width" in value and len(vector) != value["width"]:
            raise Wrong(f"{name}.{key} has {len(vector)} numbers, expected {value['width']}")


def _options(section: Section, *, capitals: bool) -> Check:
    """Options of an experiment as they are resolved: those that are there fit, and are known."""

    def check(value: Any, name: str) -> None:
        mapping()(value, name)
        for key, each in value.items():
            option = section.get(key if capitals else key.upper())
            if option is None and capitals:  # of a release that had it; nothing reads it
                continue
            if option is None:
                raise Wrong(f"{name} has the unknown option {key[:40]!r}")
            if option.hint is dict:
                mapping()(each, f"{name}.{key}")
                continue
            try:
                fit_option(list(each) if isinstance(each, tuple) else each, option)
            except Refused as fault:
                raise Wrong(f"{name}.{key} {fault}") from None

    return check


def _config(value: Any, name: str) -> None:
    mapping()(value, name)
    for key, each in value.items():
        section = SCHEMA.get(key, {})
        if isinstance(section, Option):
            _options({key: section}, capitals=True)({key: each}, name)
        else:
            _options(section, capitals=True)(each, f"{name}.{key}")
    record(
        {
            "DATASET": record({}, needed=("NAME",)),
            "MODEL": record({"PARAMS": mapping()}, needed=("NAME", "PARAMS")),
        },
        needed=("DATASET", "MODEL"),
    )(value, name)


def _vocabulary(value: Any, name: str) -> None:
    record(
        {
            "words": listed(text),
            "keys": listed(text),
            "holding": listed(whole()),
            "sentences": whole(),
            "tagger": one_of(*TAGGERS),
            "tokens": one_of(*TOKENISERS),
            "stems": flag,
            "vectors": record(
                {"words": listed(text), "matrix": tensor(2)}, needed=("words", "matrix")
            ),
        },
        needed=(
            *("words", "keys", "holding", "sentences"),
            *("tagger", "tokens", "stems", "vectors"),
        ),
    )(value, name)
    unknown = value.keys() - {
        *("words", "keys", "holding", "sentences", "tagger", "tokens", "stems", "vectors")
    }
    if unknown:
        raise Wrong(f"{name} has the unknown part {min(unknown)[:40]!r}")
    for key in ("keys", "holding"):
        if len(value[key]) != len(value["words"]):
            raise Wrong(
                f"{name}.{key} has {len(value[key]):,} entries, expected one for each of "
                f"{len(value['words']):,} words"
            )
    for key, words in (("keys", value["keys"]), ("vectors.words", value["vectors"]["words"])):
        if len(set(words)) != len(words):
            raise Wrong(f"{name}.{key} names a word twice")
    if max(value["holding"], default=0) > value["sentences"]:
        raise Wrong(f"{name}.holding counts more sentences than there are")
    rows, words = len(value["vectors"]["matrix"]), len(value["vectors"]["words"])
    if rows != words + 1:
        raise Wrong(f"{name}.vectors.matrix has {rows:,} rows, expected {words + 1:,}")


_DIMS = tuple(field.name for field in dataclasses.fields(DataDims) if field.compare)
_SCORES = mapping(mapping(optional(number(finite=False))))
_STATE: dict[str, Check] = {
    "model": _weights,
    "experiment": record(
        {
            "MODEL": record({"NAME": text, "PARAMS": mapping()}, needed=("NAME", "PARAMS")),
            "dims": mapping(whole(1, 2**31)),
        }
    ),
    "optimizer": record(
        {
            "state": mapping(_state_of_weight, keys=int),
            "param_groups": listed(record({"params": listed(whole())})),
        },
        needed=("state", "param_groups"),
    ),
    "progress": record(
        {
            "epoch": whole(),
            "step": whole(),
            "sums": mapping(number()),
            "best_score": optional(number(finite=False)),
            "best_epoch": optional(whole()),
            "kept": listed(row(number(finite=False), whole())),
            "finer": mapping(number(finite=False)),
        },
        needed=("epoch", "step"),
    ),
    "epoch": whole(-1),
    "stage": whole(0, 100),
    "features": _features,
    "decoding": _options(SCHEMA["DECODE"], capitals=False),  # type: ignore[arg-type]
    "calibration": record(
        {
            "trust": number(0, 1),
            "contiguity": number(),
            "backward": number(),
            "starts": listed(number(0)),
        }
    ),
    "empty_moments": one_of("dropped", "kept"),
    "select_by": text,
    "validation": record({"protocols": _SCORES}, needed=("protocols",)),
    "provenance": record(
        {
            "command": text,
            "started": text,
            "seed": whole(),
            "device": text,
            "processes": whole(1),
            "precision": text,
            "versions": mapping(),
            "annotations": mapping(),
            "hours": number(0),
        },
        needed=(
            *("command", "started", "seed", "device"),
            *("processes", "precision", "versions", "annotations"),
        ),
    ),
    "inference": record(
        {
            "config": _config,
            "order": text,
            "vocabulary": _vocabulary,
            "word_vectors": record({"file": text, "bytes": whole(), "sha256": text}),
            "durations": record(
                dict.fromkeys(("videos", "median", "most", "longest"), number(1e-6, 1e9)),
                needed=("most",),
            ),
            "similarity_scale": number(0, 1e6),
        },
        needed=("config", "vocabulary", "durations", "similarity_scale"),
    ),
    "imported": record({"file": text, "layout": text}),
    "config": text,
    "batch": mapping(),
}
# The axes and the kind of a batch's fields, in the letters of ``lib.base.batch``.
_BATCH = {
    "video": ("BTC", "f"),
    "words": ("BSWE", "f"),
    "word_ids": ("BSW", "i"),
    "word_weights": ("BSW", "f"),
    "word_mask": ("BSW", "b"),
    "sentence_mask": ("BS", "b"),
    "moments": ("BS2", "f"),
    "duration": ("B", "f"),
    "video_index": ("B", "i"),
    "flat_index": ("M", "i"),
    "word_counts": ("M", "i"),
    "video_ids": ("B", "s"),
    "paragraph_ids": ("B", "s"),
    "sentences": ("M", "s"),
}
_KINDS = {"f": "floats", "i": "whole numbers of 64 bits", "b": "true and false"}
_MOST_WORD_NUMBERS = 2**31  # of the vectors of a vocabulary


def check_state(state: Any, *, finite: bool = True) -> None:
    """Refuse a state of which any part that is there is not what a run writes.

    Args:
        finite: whether the weights must be; those of a step that was not finite need not.

    Raises:
        Wrong: names the part, what it is and what was expected.
    """
    checks = dict(_STATE)
    if finite:
        checks["model"] = _finite_weights
    record(checks)(state, "")
    if state.get("epoch", 0) < 0 and "imported" not in state:
        fail("epoch", state["epoch"], "a whole number of at least 0")
    _check_progress(state)
    if "inference" in state:
        _check_inference(state)
    if "select_by" in state and "validation" in state:
        protocol, _, metric = state["select_by"].partition("/")
        if metric not in state["validation"]["protocols"].get(protocol, {}):
            raise Wrong(f"validation lacks the score select_by names ({state['select_by'][:60]})")


def _check_progress(state: Mapping[str, Any]) -> None:
    """The epoch stands twice, in files that say how far the run is."""
    if "progress" in state and state.get("epoch", state["progress"]["epoch"]) != (
        there := state["progress"]["epoch"]
    ):
        raise Wrong(f"epoch is {state['epoch']}, and progress.epoch is {there}")


def _check_inference(state: Mapping[str, Any]) -> None:
    """The sizes of the vocabulary, the data and the options agree."""
    require(state, "model", "experiment", "epoch", "features", "decoding")
    dims = state["experiment"].get("dims", {})
    missing = [name for name in _DIMS if name not in dims]
    if missing or len(dims) != len(_DIMS):
        raise Wrong(f"experiment.dims has {', '.join(dims)[:100]}, expected {', '.join(_DIMS)}")
    carried = state["inference"]
    here, there = carried["config"]["MODEL"], state["experiment"].get("MODEL")
    if there is not None and there["NAME"] != here["NAME"]:
        raise Wrong(f"inference.config.MODEL.NAME is not {there['NAME'][:40]}, as in experiment")
    vocabulary = carried["vocabulary"]
    if carried["config"]["DATASET"].get("WORD_FEATURES"):
        return  # sentences are read as other features, and their words have no vectors here
    expected = {
        "vocab_size": len(vocabulary["words"]) + FIRST_WORD,
        "word_dim": vocabulary["vectors"]["matrix"].shape[1],
    }
    if "width" in state["features"]:
        expected["video_dim"] = state["features"]["width"]
    for key, size in expected.items():
        if dims[key] != size:
            raise Wrong(
                f"experiment.dims.{key} is {dims[key]}, and the vocabulary or the features "
                f"have {size}"
            )


def check_step(state: Mapping[str, Any]) -> None:
    """Refuse a file of a step whose batch is none, or not of the sizes of its data. Numbers that
    are not finite may be in it.

    Raises:
        Wrong: as ``check_state``.
    """
    require(state, "model", "experiment", "progress", "stage", "config", "batch")
    dims, batch = state["experiment"].get("dims", {}), state["batch"]
    if set(dims) != set(_DIMS):
        raise Wrong(f"experiment.dims has {', '.join(dims)[:100]}, expected {', '.join(_DIMS)}")
    if dims["vocab_size"] * dims["word_dim"] > _MOST_WORD_NUMBERS:
        raise Wrong("experiment.dims is of a vocabulary that no memory holds")
    if set(batch) != set(_BATCH):
        raise Wrong(f"batch has {', '.join(sorted(batch))[:100]}, expected {', '.join(_BATCH)}")
    sizes = {"2": 2, "C": dims["video_dim"], "E": dims["word_dim"], "T": dims["num_frames"]}
    for name, (axes, kind) in _BATCH.items():
        value = batch[name]
        if kind == "s":
            listed(text)(value, f"batch.{name}")
            shape: tuple[int, ...] = (len(value),)
            if name == "sentences" and not value:  # of samples without their text
                continue
        elif not isinstance(value, Tensor) or _kind_of(value) != kind:
            fail(f"batch.{name}", value, f"a tensor of {_KINDS[kind]}")
        else:
            shape = tuple(value.shape)
        wanted = tuple(
            sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=False)
        )
        if len(shape) != len(axes) or shape != wanted:
            raise Wrong(f"batch.{name} has the shape {shape}, expected axes {' '.join(axes)}")
    mask, ids = batch["sentence_mask"], batch["word_ids"]
    full = bool(mask.any(dim=1).all()) and len(mask) > 0
    if not full or not torch.equal(mask.flatten().nonzero().squeeze(1), batch["flat_index"]):
        raise Wrong("batch.flat_index is not where batch.sentence_mask has sentences")
    counts = batch["word_mask"].sum(dim=2).flatten()[batch["flat_index"]]
    if not torch.equal(counts, batch["word_counts"]) or not bool((counts > 0).all()):
        raise Wrong("batch.word_counts is not what batch.word_mask counts")
    if not bool(((ids >= 0) & (ids < dims["vocab_size"])).all()):
        raise Wrong("batch.word_ids has words that the vocabulary lacks")


def _kind_of(value: Tensor) -> str:
    if value.is_floating_point():
        return "f"
    return {torch.int64: "i", torch.bool: "b"}.get(value.dtype, "")


def require(state: Mapping[str, Any], *parts: str) -> None:
    """Raises ``Wrong`` unless the parts are there."""
    missing = [part for part in parts if part not in state]
    if missing:
        raise Wrong(f"there is no {' and no '.join(missing)}")
