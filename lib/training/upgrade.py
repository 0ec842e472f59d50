"""Converts checkpoints of earlier releases to the names of this one.

Until November 2026 the alignment, the reading of evidence and the decoding of moments were keywords
of ``dmr_jrg``, and the trust in the evidence was a weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DECODING = {
    "decoder", "siblings", "competition", "own", "balance", "map_weight", "prior", "order",
}  # fmt: skip
RENAMED = {
    "hidden_share": "mask_ratio",
    "tied_words": "tied_embeddings",
    "in_order": "position_bias",
    "place_features": "sentence_position",
    "told_teaches": "reconstruction_evidence_in_training",
}
WEIGHTS = (
    (re.compile(r"(^|\.)hidden_word$"), r"\1mask_word"),
    (re.compile(r"(^|\.)place_cell\."), r"\1position_cell."),
)


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint with this release's names; current names stay as they are."""
    state = dict(state)
    experiment = state.get("experiment")
    if isinstance(experiment, Mapping) and isinstance(experiment.get("MODEL"), Mapping):
        state["experiment"] = {**experiment, "MODEL": _model(experiment["MODEL"])}
    weights = state.get("model")
    if isinstance(weights, Mapping):
        names = {name: _weight(name) for name in weights if isinstance(name, str)}
        if "trust" in weights:
            state.setdefault("calibration", {"trust": float(weights["trust"])})
        kept = {names.get(name, name): value for name, value in weights.items() if name != "trust"}
        state["model"] = kept
    return state


def _weight(name: str) -> str:
    for pattern, new in WEIGHTS:
        name = pattern.sub(new, name)
    return name


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    params = model.get("PARAMS")
    if not isinstance(params, Mapping):
        return dict(model)
    name, old = model.get("NAME"), dict(params)
    if name not in ("dmr_jrg", "clip_align", "jsg", "scn", "dciml", "tan2d"):
        return dict(model)
    if name == "dmr_jrg" and "isolate" in old:
        evidence_weight = float(old.pop("told", 0.0))
        ours = evidence_weight > 0 or any(map(old.get, ("alignment", "words", "tied_words")))
        ours |= old.get("hidden_share", 1 / 3) != 1 / 3
        old["reconstruction_evidence"] = evidence_weight > 0
        old["rank_by"] = "retrieval"
        if old.get("retrieval") == "alignment":
            old["rank_by"], old["retrieval"] = "alignment", "class_token"
        if ours:
            name = "dmr_jrg_evidence"
        else:
            for word in ("words", "tied_words", "hidden_share", "told_teaches", "alignment",
                         "attention", "in_order", "place_features", "reconstruction_evidence",
                         "rank_by"):  # fmt: skip
                old.pop(word, None)
    old.pop("isolate", None)
    new = {RENAMED.get(key, key): value for key, value in old.items() if key not in DECODING}
    return {"NAME": name, "PARAMS": new}
