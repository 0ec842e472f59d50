"""The property suite over every model there is, and over one from outside: see ``--model``."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch

import lib.models.layers.text as text_module
from lib.base.errors import InputError
from lib.base.external import absolute
from lib.config.external import find_model
from lib.models import MODELS
from lib.models.interface import missing_parts
from tests.properties import PROPERTIES, loss_of, make_batch, nothing_is_drawn_by
from tests.tiny_text import tiny_pretrained
from tests.variants import VARIANTS, small


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``variant``: how a model is built, of all models or of the one that ``--model`` names."""
    if "variant" not in metafunc.fixturenames:
        return
    variants, reference = VARIANTS, metafunc.config.getoption("--model")
    if reference:
        try:
            kind = find_model(absolute(reference, Path()))
        except InputError as fault:
            raise pytest.UsageError(str(fault)) from None
        variants = {kind.__name__: partial(small, kind)}
    metafunc.parametrize("variant", variants.values(), ids=variants.keys())


@pytest.fixture(autouse=True)
def a_tiny_pretrained_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_is_drawn_by(monkeypatch)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name: str, variant) -> None:
    PROPERTIES[name](variant)


def test_a_model_is_complete(variant) -> None:
    assert missing_parts(type(variant())) == []


def test_a_weakly_supervised_model_never_reads_the_moments(variant) -> None:
    torch.manual_seed(0)
    model, batch = variant(), make_batch()
    if model.supervision != "weak":
        pytest.skip("learns from timestamps")
    hidden = dataclasses.replace(batch, moments=torch.full_like(batch.moments, torch.nan))
    totals = []
    for each in (batch, hidden):
        torch.manual_seed(3)
        totals.append(loss_of(model, each)["total"])
    assert torch.isfinite(totals[1]) and torch.equal(*totals)


def test_neither_side_reads_the_other(variant) -> None:
    model, batch = variant().eval(), make_batch()
    blind = dataclasses.replace(batch, video=torch.full_like(batch.video, torch.nan))
    for key, value in model.encode_paragraphs(batch).items():
        assert torch.equal(value, model.encode_paragraphs(blind)[key])


def test_every_model_is_in_the_property_suite() -> None:
    assert {name.split(",")[0] for name in VARIANTS} == set(MODELS)
