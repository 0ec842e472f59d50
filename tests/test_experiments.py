"""Every experiment loads and builds; the ablations are the rows they say they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import lib.models.layers.text as text_module
from lib.base.batch import DataDims
from lib.config.config import dump_config, load_config
from lib.datasets.catalog import CORPORA
from lib.models import build_model
from tests.tiny_text import tiny_pretrained

REPOSITORY = Path(__file__).resolve().parents[1]
EXPERIMENTS = REPOSITORY / "experiments"
FILES = sorted(EXPERIMENTS.rglob("*.yaml"))
NAMES = [path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in FILES]


def load(name: str):
    return load_config(EXPERIMENTS / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_opens_with_a_line_saying_what_it_is_and_states_only_what_differs(name):
    text = (EXPERIMENTS / f"{name}.yaml").read_text("utf-8")
    first, second = text.split("\n")[:2]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert not second.startswith("#")
    own = yaml.safe_load(text)
    if "BASE" not in own:
        return
    base = load_config((EXPERIMENTS / f"{name}.yaml").parent / own.pop("BASE"))
    same_model = own.get("MODEL", {}).get("NAME", base.MODEL.NAME) == base.MODEL.NAME
    for section, keys in own.items():
        if not isinstance(keys, dict):
            assert base[section] != keys, f"{section} is as in its BASE"
            continue
        for key, value in keys.items():
            if isinstance(value, dict):
                repeated = [k for k, v in value.items() if base[section].get(key, {}).get(k) == v]
                assert not (same_model and repeated), f"{section}.{key}.{repeated} as in its BASE"
            else:
                assert base[section][key] != value, f"{section}.{key} is as in its BASE"


@pytest.mark.parametrize("name", NAMES)
def test_builds_its_model(name, monkeypatch):
    config = load(name)
    data = config.DATASET
    dims = DataDims(
        video_dim=data.FEATURE_DIM or 64,
        word_dim=300,
        vocab_size=data.VOCAB_SIZE + 2,
        num_frames=data.NUM_FRAMES,
        num_clips=data.NUM_CLIPS,
        max_sentences=10,
        word_vectors=torch.zeros(data.VOCAB_SIZE + 2, 300),
    )
    for draw in ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_", "orthogonal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)  # 80 million weights
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())
    build_model(config.MODEL.NAME, dims, **config.MODEL.PARAMS)


@pytest.mark.parametrize("name", NAMES)
def test_resolves_to_a_file_that_reads_back(name, tmp_path):
    config = load(name)
    (tmp_path / "config.yaml").write_text(dump_config(config), "utf-8")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("name", "clips", "batch"),
    [
        ("dense_activitynet/acnet", 32, 16),
        ("dense_charades/charades", 16, 16),
        ("dense_tacos/tacos", 16, 6),
    ],
)
def test_the_three_corpora_have_the_papers_settings(name, clips, batch):
    config = load(name)
    assert_holds(
        config.DATASET,
        NUM_FRAMES=256,
        NUM_CLIPS=clips,
        FEATURE_DIM=CORPORA[config.DATASET.NAME].feature_dim,
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


@pytest.mark.parametrize(
    ("folder", "whole", "layers"),
    [
        ("dense_activitynet/ablations", "dense_activitynet/acnet", 4),
        ("bench/table4", "bench/base", 1),
    ],
)
def test_table_iv_climbs_from_the_base_to_the_whole_method(folder, whole, layers):
    rows = [
        load(f"{folder}/{name}")
        for name in (
            *("base_scn", "vpcmr", "vtc_ld", "btse_forward"),
            *("btse_reverse", "btse_both", "vtfa_no_grrm", "full"),
        )
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
    assert rows[-1] == load(whole)


def test_a_variation_varies_one_thing():
    varied = {
        "q": {"num_candidates", "candidate_weights"},
        "w_": {"candidate_weights", "learn_candidate_weights"},
        "lambda_": {"initial_scale", "learn_scale"},
        "margin_": {"margin"},
        "beta1_": {"retrieval_nce"},
    }
    for name in NAMES:
        file = Path(name).name
        if "/variations/" not in name or file.startswith("lean"):
            continue
        around = "dense_activitynet/acnet"
        if name.startswith("bench/"):
            lean = file.startswith(("lambda_", "margin_", "beta1_"))
            around = "bench/variations/lean" if lean else "bench/plus"
        whole = load(around)
        config = load(name)
        differing = {
            key
            for section in ("MODEL.PARAMS", "LOSS.WEIGHTS", "LOSS.PARAMS")
            for key, value in _at(config, section).items()
            if value != _at(whole, section)[key]
        }
        (allowed,) = (keys for start, keys in varied.items() if file.startswith(start))
        assert differing <= allowed, name


def assert_holds(section, **expected):
    assert {key: section[key] for key in expected} == expected


def _at(config, dotted):
    for part in dotted.split("."):
        config = config[part]
    return config
