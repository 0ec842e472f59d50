"""Checkpoints of the release before decoding was a section load as this one's.

``data/old_checkpoints.json`` has, for each synthetic experiment of commit acda87c, the model
section and the names of the weights that its checkpoints held, made small. The weights here are
this release's under those names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.config.config import load_config
from lib.config.options import keywords
from lib.models import MODELS, build_model
from lib.models.interface import Model, ground
from lib.training import checkpoint
from lib.training.upgrade import upgraded
from tests.properties import DIMS, make_batch

REPOSITORY = Path(__file__).resolve().parents[1]
OLD: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "old_checkpoints.json").read_text("utf-8")
)


def model_of(experiment: dict[str, Any]) -> Model:
    """As this release builds it."""
    torch.manual_seed(0)
    section = experiment["MODEL"]
    return build_model(MODELS[section["NAME"]], DIMS, **section["PARAMS"]).eval()


def old_state(name: str) -> tuple[dict[str, Any], Model]:
    """A checkpoint in the old layout, and the model whose weights it holds."""
    experiment = {"MODEL": OLD[name]["MODEL"], "dims": DIMS.sizes()}
    model = model_of(upgraded({"experiment": experiment})["experiment"])
    weights = {
        key.replace("mask_word", "hidden_word").replace("position_cell.", "place_cell."): value
        for key, value in model.state_dict().items()
    }
    if "trust" in OLD[name]["weights"]:
        weights["trust"] = torch.tensor(0.25)
    return {"model": weights, "experiment": experiment, "epoch": 3}, model


@pytest.mark.parametrize("name", OLD)
def test_an_old_checkpoint_says_the_same(name: str, tmp_path: Path) -> None:
    state, model = old_state(name)
    assert sorted(state["model"]) == OLD[name]["weights"]
    checkpoint.save(tmp_path / "best.pt", state)
    loaded = checkpoint.load(tmp_path / "best.pt")
    again = model_of(loaded["experiment"])
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    checkpoint.load_into(again, loaded)
    with torch.no_grad():
        assert torch.equal(ground(again, make_batch()).scores, ground(model, make_batch()).scores)
    expected = {"trust": 0.25} if "trust" in OLD[name]["weights"] else None
    assert loaded.get("calibration") == expected
    assert loaded["epoch"] == 3


@pytest.mark.parametrize("name", OLD)
def test_an_old_checkpoint_is_of_the_experiment_that_has_its_name_today(name: str) -> None:
    """All but the sizes, which are small here."""
    section = upgraded({"experiment": {"MODEL": OLD[name]["MODEL"]}})["experiment"]["MODEL"]
    today = load_config(REPOSITORY / "experiments" / "synthetic" / f"{name}.yaml").MODEL
    assert section["NAME"] == today.NAME
    known = keywords(MODELS[section["NAME"]])
    assert set(section["PARAMS"]) <= set(known)
    changed = {
        key
        for key, value in section["PARAMS"].items()
        if json.loads(json.dumps(today.PARAMS[key])) != value
    }
    sizes = {"hidden_size", "heads", "feedforward", "encoder_layers", "reconstructor_layers"}
    sizes |= {"lstm_layers", "kernel_size", "conv_layers", "candidate_frames"}
    assert changed <= sizes


def test_the_paper_s_and_the_aligned_model_are_known_by_their_keywords() -> None:
    sections = {
        name: upgraded({"experiment": {"MODEL": OLD[name]["MODEL"]}})["experiment"]["MODEL"]
        for name in ("dmr_jrg", "dmr_jrg_paper")
    }
    aligned, paper = sections["dmr_jrg"], sections["dmr_jrg_paper"]
    assert OLD["dmr_jrg"]["MODEL"]["NAME"] == OLD["dmr_jrg_paper"]["MODEL"]["NAME"] == "dmr_jrg"
    assert paper["NAME"] == "dmr_jrg" and set(paper["PARAMS"]) == set(keywords(MODELS["dmr_jrg"]))
    assert aligned["NAME"] == "dmr_jrg_evidence"
    params = aligned["PARAMS"]
    assert (params["rank_by"], params["retrieval"]) == ("alignment", "class_token")
    assert (params["position_bias"], params["sentence_position"]) == (2.0, True)
    assert params["reconstruction_evidence"] is False


def test_each_old_keyword_has_its_new_name() -> None:
    old = {**OLD["dmr_jrg"]["MODEL"]["PARAMS"]}
    old |= {"told": 2.0, "told_teaches": True, "hidden_share": 1.0, "tied_words": True}
    section = upgraded({"experiment": {"MODEL": {"NAME": "dmr_jrg", "PARAMS": old}}})
    params = section["experiment"]["MODEL"]["PARAMS"]
    assert set(params) == set(keywords(MODELS["dmr_jrg_evidence"]))
    for name in ("reconstruction_evidence", "reconstruction_evidence_in_training"):
        assert params[name] is True
    assert (params["mask_ratio"], params["tied_embeddings"]) == (1.0, True)


def test_a_checkpoint_from_before_a_keyword_loads_too() -> None:
    """Keywords came one after the other; what a checkpoint does not know has its default."""
    old = {**OLD["dmr_jrg"]["MODEL"]["PARAMS"]}
    for name in ("tied_words", "hidden_share", "told", "told_teaches"):
        del old[name]
    section = upgraded({"experiment": {"MODEL": {"NAME": "dmr_jrg", "PARAMS": old}}})
    section = section["experiment"]["MODEL"]
    assert section["NAME"] == "dmr_jrg_evidence" and section["PARAMS"]["alignment"] is True
    assert build_model(MODELS["dmr_jrg_evidence"], DIMS, **section["PARAMS"])


@pytest.mark.parametrize("name", OLD)
def test_what_is_new_is_left_as_it_is(name: str) -> None:
    state, _ = old_state(name)
    once = upgraded(state)
    twice = upgraded(once)
    assert twice["experiment"] == once["experiment"] and twice.keys() == once.keys()
    assert all(twice["model"][key] is value for key, value in once["model"].items())
