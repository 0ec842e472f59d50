"""Every experiment loads and builds; the ablations are the rows they say they are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from easydict import EasyDict
from torch import nn

import lib.models.layers.text as text_module
from lib.base.batch import DataDims
from lib.commands.sweep import read_rows
from lib.config.config import SCHEMA, dump_config, load_config
from lib.config.external import find_model
from lib.models import build_model
from lib.models.interface import Model
from lib.tools.reproduction import read_table
from lib.training.build import open_decoding
from tests.tiny_text import tiny_pretrained

REPOSITORY = Path(__file__).resolve().parents[1]
EXPERIMENTS = REPOSITORY / "experiments"
# Those in tables/ are of reproduce.py (tests/test_reproduce.py).
FILES = sorted(p for p in EXPERIMENTS.rglob("*.yaml") if p.parent.name != "tables")
MOST_FILES = 3  # of a chain, the experiment itself among them


def own(path: Path) -> dict[str, Any]:
    """What a file states itself."""
    return yaml.safe_load(path.read_text("utf-8"))


def named(paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in paths]


# Beside experiments there are files of rows for sweep.py, and ways to decode for --decode.
SWEEPS = named(path for path in FILES if "ROWS" in own(path))
DECODINGS = named(path for path in FILES if set(own(path)) == {"DECODE"})
NAMES = [name for name in named(FILES) if name not in {*SWEEPS, *DECODINGS}]


def load(name: str, *overrides: str, **more: Any) -> EasyDict:
    return load_config(EXPERIMENTS / f"{name}.yaml", overrides, **more)


def parents(path: Path) -> list[Path]:
    """Its parents, the nearest first."""
    base = own(path).get("BASE")
    if not base:
        return []
    parent = (path.parent / base).resolve()
    return [parent, *parents(parent)]


def test_there_are_experiments_rows_and_decodings():
    rows = ["ablations", "grounding_parts", "linear_ablations", "retrieval_parts"]
    assert rows == SWEEPS
    assert DECODINGS and all(name.startswith("bench/decoding/") for name in DECODINGS)


@pytest.mark.parametrize("path", FILES, ids=named(FILES))
def test_a_file_has_few_parents_and_says_something_itself(path):
    chain = [path, *parents(path)]
    assert len(chain) <= MOST_FILES, [each.name for each in chain]
    assert set(own(path)) - {"BASE"}, "holds only BASE"


@pytest.mark.parametrize("path", FILES, ids=named(FILES))
def test_opens_with_a_line_saying_what_it_is(path):
    """Rows may take two."""
    lines = path.read_text("utf-8").split("\n")
    about = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    assert 1 <= len(about) <= (2 if "ROWS" in own(path) else 1)
    assert about[-1].endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_states_only_what_differs(name):
    path = EXPERIMENTS / f"{name}.yaml"
    stated = own(path)
    if "BASE" not in stated:
        return
    base = load_config(path.parent / stated.pop("BASE"))
    same_model = load(name).MODEL.NAME == base.MODEL.NAME
    for section, keys in stated.items():
        if not isinstance(keys, dict):
            assert base[section] != keys, f"{section} is as in its BASE"
            continue
        for key, value in keys.items():
            if isinstance(value, dict):
                repeated = [k for k, v in value.items() if base[section].get(key, {}).get(k) == v]
                assert not (same_model and repeated), f"{section}.{key}.{repeated} as in its BASE"
            else:
                assert base[section][key] != value, f"{section}.{key} is as in its BASE"


OURS = ("linear_align", "dmr_jrg_linear", "dmr_jrg_evidence")
UNCALIBRATED = {
    "real/linear_align_separation",  # shows what the posterior is worth
    *(f"bench/fixed/{path.stem}" for path in (EXPERIMENTS / "bench/fixed").glob("*.yaml")),
}  # the last are steps from the paper's reading on, as they were measured


@pytest.mark.parametrize("name", NAMES)
def test_ours_measure_trust_by_localisation(name):
    """Trust measured by retrieval stays high where evidence says nothing of time."""
    config = load(name)
    if config.MODEL.NAME in OURS and name not in UNCALIBRATED:
        assert config.DECODE.CALIBRATION in ("order", "contiguity")


def built(config: EasyDict) -> Model:
    data = config.DATASET
    dims = DataDims(
        video_dim=data.FEATURE_DIM or 64,
        word_dim=300,
        vocab_size=data.VOCAB_SIZE + 2,
        num_frames=data.NUM_FRAMES,
        num_clips=data.NUM_CLIPS,
        max_sentences=10,
        word_vectors=torch.zeros(data.VOCAB_SIZE + 2, 300),
        word_idf=torch.zeros(data.VOCAB_SIZE + 2),
    )
    kind = find_model(config.MODEL.NAME)
    return build_model(kind, dims, open_decoding(config), **config.MODEL.PARAMS)


def without_initial_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 million weights that nobody reads."""
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_", "orthogonal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())


@pytest.mark.parametrize("name", NAMES)
def test_builds_its_model(name, monkeypatch):
    without_initial_values(monkeypatch)
    built(load(name))


@pytest.mark.parametrize("name", NAMES)
def test_resolves_to_a_file_that_reads_back(name, tmp_path):
    config = load(name)
    (tmp_path / "config.yaml").write_text(dump_config(config), "utf-8")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("name", "clips", "batch", "width"),
    [
        ("dense_activitynet/acnet", 32, 16, 500),
        ("dense_charades/charades", 16, 16, 4096),
        ("dense_tacos/tacos", 16, 6, 4096),
    ],
)
def test_the_three_corpora_have_the_papers_settings(name, clips, batch, width):
    config = load(name)
    assert_holds(
        config.DATASET,
        NUM_FRAMES=256,
        NUM_CLIPS=clips,
        FEATURE_DIM=width,
    )
    assert_holds(
        config.TRAIN,
        SUPERVISION="weak",
        BATCH_SIZE=batch,
        EPOCHS=100,
        LR=1e-4,
        LR_DECAY=0.8,
        LR_DECAY_EVERY=20,
        MAX_GRAD_NORM=10,
    )
    params, weights = config.MODEL.PARAMS, config.LOSS.WEIGHTS
    assert (params.num_candidates, list(params.candidate_weights)) == (3, [0.4, 0.3, 0.3])
    assert params.learn_scale
    assert config.LOSS.PARAMS.margin == 0.2
    assert (weights.retrieval_nce, weights.global_nce) == (0.04, 0.04)
    papers = {"retrieval_triplet", "reconstruction", "rank", "global_triplet", "distillation"}
    assert {term for term, weight in weights.items() if weight == 1} >= papers | {"temporal"}


@pytest.mark.parametrize(("around", "layers"), [("dense_activitynet/acnet", 4), ("bench/base", 1)])
def test_table_iv_climbs_from_the_base_to_the_whole_method(around, layers):
    rows = [
        load(around, *(f"{key}={json.dumps(value)}" for key, value in row.options.items()))
        for row in read_table("table4").rows.values()
    ]
    parts = [
        (p.retrieval, p.conv_layers, p.temporal, p.grounded_retrieval)
        for p in (row.MODEL.PARAMS for row in rows)
    ]
    assert parts == [
        ("mean", 0, "none", False),
        ("class_token", 0, "none", False),
        ("class_token", layers, "none", False),
        ("class_token", layers, "forward", False),
        ("class_token", layers, "reverse", False),
        ("class_token", layers, "both", False),
        ("class_token", layers, "both", True),
        ("class_token", layers, "both", True),
    ]
    for row in rows:
        params, weights = row.MODEL.PARAMS, row.LOSS.WEIGHTS
        assert bool(weights["temporal"]) == bool(weights["temporal_rank"])
        assert bool(weights["temporal"]) == (params.temporal != "none")
        assert bool(weights["global_nce"]) == bool(weights["global_triplet"])
        assert bool(weights["global_nce"]) == params.grounded_retrieval
    assert [bool(row.LOSS.WEIGHTS.distillation) for row in rows] == [False] * 7 + [True]


def changed(around: str, row: dict[str, Any], **more: Any) -> set[str]:
    """The options in which an experiment with a row's changes differs from the one without."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in row.items()]
    there, here = load(around, **more), load(around, *overrides, **more)
    return {
        f"{section}.{key}"
        for section in ("MODEL.PARAMS", "LOSS.WEIGHTS", "LOSS.PARAMS", "DECODE")
        for key, value in _at(here, section).items()
        if value != _at(there, section)[key]
    }


@pytest.mark.parametrize("around", ["dense_activitynet/acnet", "bench/aligned"])
def test_a_variation_varies_one_thing(around):
    varied = {
        "q": {"MODEL.PARAMS.num_candidates", "MODEL.PARAMS.candidate_weights"},
        "w_": {"MODEL.PARAMS.candidate_weights", "MODEL.PARAMS.learn_candidate_weights"},
        "lambda_": {"MODEL.PARAMS.initial_scale", "MODEL.PARAMS.learn_scale"},
        "margin_": {"LOSS.PARAMS.margin"},
        "beta1_": {"LOSS.WEIGHTS.retrieval_nce"},
    }
    rows = {
        name: row.options
        for table in ("figure7", "table5", "figure8")
        for name, row in read_table(table).rows.items()
    }
    for name, row in rows.items():
        if row:  # not the paper's own choice
            (allowed,) = (keys for start, keys in varied.items() if name.startswith(start))
            assert set() < changed(around, row) <= allowed, name


def test_an_ablation_changes_what_it_says_and_its_model_can_be_built(monkeypatch):
    without_initial_values(monkeypatch)
    around = "bench/aligned"
    for name, row in read_rows(EXPERIMENTS / "ablations.yaml").items():
        assert changed(around, row) == set(row), name
        config = load(around, *(f"{key}={json.dumps(value)}" for key, value in row.items()))
        model = built(config)
        wanted = {term for term, weight in config.LOSS.WEIGHTS.items() if weight}
        assert not wanted & model.unavailable_terms, name


@pytest.mark.parametrize("name", DECODINGS)
def test_a_decoding_decodes_an_experiment_otherwise_and_changes_nothing_else(name):
    around = "bench/aligned"
    plain, decoded = load(around), load(around, decode=EXPERIMENTS / f"{name}.yaml")
    defaults = {key: option.default for key, option in SCHEMA["DECODE"].items()}
    stated = own(EXPERIMENTS / f"{name}.yaml")["DECODE"]
    assert decoded.pop("DECODE") == {**defaults, **stated}
    plain.pop("DECODE")
    assert decoded == plain


def assert_holds(section, **expected):
    assert {key: section[key] for key in expected} == expected


def _at(config, dotted):
    for part in dotted.split("."):
        config = config[part]
    return config
