"""What may make a step faster or smaller, and leaves what it computes alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lib.base.runtime import Runtime
from lib.losses.similarity import draw_one
from lib.models.layers import recompute
from lib.models.layers.transformer import ClassToken, transformer_encoder
from lib.training.batch_gradient import BatchGradient
from lib.training.engine import train_one_epoch
from lib.training.optimization import Optimization
from lib.training.progress import Progress
from tests.properties import make_batch, pad_more
from tests.test_distributed import (
    CPU,
    Found,
    assert_same,
    gradients,
    learner,
    pretrained_text_is_small,
)
from tests.variants import VARIANTS

__all__ = ["pretrained_text_is_small"]  # a fixture, for this file too
# The release asks which words it knows; a pretrained encoder is somebody else's code.
WITHOUT_WAITING = [n for n in VARIANTS if n != "dmr_release" and "pretrained" not in n]
MAPS = [name for name in VARIANTS if name.startswith(("dmr_jrg", "tan2d", "cdn", "mmn"))]


def one_step(variant: str, *, train: bool = False, seed: int = 0, **options: Any) -> Found:
    model, criterion = learner(variant, dropout=False)
    if train:  # dropout and batch norm as in training
        torch.manual_seed(0)
        model = VARIANTS[variant]().train()
    whole = BatchGradient(model, CPU, **options)
    torch.manual_seed(seed)
    values = whole.backward(criterion, whole.prepare(make_batch((2, 4, 1, 3))), 0, 0, 0, 0)
    found = gradients(model) | {name: b for name, b in model.named_buffers() if "norm" in name}
    return {name: value.detach() for name, value in values.items()}, found


@pytest.mark.parametrize("variant", MAPS)
def test_a_map_that_is_computed_again_is_the_map(variant, monkeypatch):
    """In blocks of sentences, with the same dropout, and batch statistics that count once."""
    monkeypatch.setattr(recompute, "SENTENCES", 3)
    plain = one_step(variant, train=True)
    assert_same(one_step(variant, train=True, recompute_map=True), plain)


def kept_bytes(variant: str, **options: Any) -> int:
    """What a forward pass keeps for the backward pass."""
    model, criterion = learner(variant, dropout=False)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    whole = BatchGradient(model, CPU, **options)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        whole.losses(criterion, make_batch((2, 4, 1, 3)))
    return sum(kept.values())


def test_a_map_that_is_computed_again_keeps_less():
    assert kept_bytes("tan2d", recompute_map=True) < 0.7 * kept_bytes("tan2d")


@pytest.mark.parametrize(
    ("variant", "compiler"),
    [("tan2d, same padding", "aot_eager"), ("dmr_jrg, mean retrieval, no TAN", "eager")],
)
def test_a_compiled_model_is_the_model(variant, compiler):
    """Its graphs are run as they are: translating them into code would take a minute. Checks of
    shapes cannot be compiled."""
    torch.compiler.reset()
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert_same(one_step(variant, compiler=compiler), one_step(variant))
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def curve(variant: str, precision: str, steps: int = 12) -> Tensor:
    model, criterion = learner(variant, dropout=False)
    whole = BatchGradient(model, Runtime(torch.device("cpu"), precision))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    work, losses = whole.prepare(make_batch((2, 4, 1, 3))), []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses.append(whole.backward(criterion, work, 0, 0, step, 0)["total"].detach())
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
        optimizer.step()
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [
        ("tan2d", 0.002),
        ("cdn", 0.002),
        ("mmn", 0.003),
        ("clip_align", 0.003),
        ("dciml", 0.01),
        ("jsg", 0.05),  # another focus may win
        ("ms_sl", 0.05),  # another key clip may win
        ("scn", 0.01),
        ("cnm", 0.01),
        ("cpl", 0.02),
        ("pps", 0.02),
        ("prvg", 0.03),
        ("xml", 0.01),
        ("reloclnet", 0.01),
        ("dmr_release", 0.01),
        ("mcn", 0.01),
        ("cal", 0.01),
        ("dmr_jrg, mean retrieval, no TAN", 0.003),
        ("dmr_jrg_evidence, aligned", 0.03),  # other candidates may win where the map is flat
    ],
)
def test_bfloat16_learns_as_float32_does(variant, tolerance):
    exact, rounded = curve(variant, "float32"), curve(variant, "bfloat16")
    assert not torch.equal(exact, rounded)  # it was in bfloat16
    assert (rounded / exact - 1).abs().max() < tolerance, (rounded / exact - 1).abs().max()
    assert rounded[-1] < rounded[0]


def test_what_is_delicate_stays_in_float32():
    """The losses see float32, and what a model says of a span has not three digits only."""
    model, criterion = learner("dmr_jrg_evidence, aligned")
    whole = BatchGradient(model, Runtime(torch.device("cpu"), "bfloat16"))
    batch = make_batch((2, 4, 1, 3))
    parts = whole._encoded(batch, criterion.active)
    assert all(not x.is_floating_point() or x.dtype == torch.float32 for x in parts.values())
    for name in ("temporal_forward", "temporal_reverse", "nll"):
        assert not torch.equal(parts[name], parts[name].bfloat16().float()), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_fused_adam_is_adam(optimizer):
    found = []
    for fused in (True, False):
        model, criterion = learner("clip_align")
        optimization = Optimization(
            model, criterion, optimizer=optimizer, lr=1e-2, weight_decay=0.1, fused=fused
        )
        assert optimization.optimizer.param_groups[0]["fused"] is fused
        batches = [make_batch((2, 4)), make_batch((1, 3, 2))]
        train_one_epoch(model, batches, optimization, CPU, Progress(), seed=0, max_grad_norm=1)
        found.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert torch.allclose(*found, rtol=1e-5, atol=1e-6) and not torch.equal(*found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_never_waits_for_the_device():
    """From a batch in main memory to its gradient; the numbers are read once, behind that."""
    runtime, batch = Runtime.start(), make_batch((2, 4, 1, 3)).pin_memory()
    for variant in WITHOUT_WAITING:
        model, criterion = learner(variant, dropout=False)
        whole = BatchGradient(model.to(runtime.device), runtime)
        for mode in ("default", "error"):  # libraries are made ready by the first step
            torch.cuda.set_sync_debug_mode(mode)
            try:
                whole.backward(criterion, whole.prepare(batch), 0, 0, 0, 0)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def linear_operations(work: Callable[[], Any]) -> int:
    """Those of linear maps, forwards and backwards; in attention, pairs of places are multiplied
    by other functions."""
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for name, n in counts.items() if str(name) in ("aten.mm", "aten.addmm"))


@pytest.mark.parametrize("variant", ["dmr_jrg", "dmr_jrg_linear", "dmr_jrg_evidence, aligned"])
def test_padding_costs_no_linear_map(variant):
    found = []
    for batch in (make_batch((2, 4, 1, 3)), pad_more(make_batch((2, 4, 1, 3)), 3, 5)):
        model, criterion = learner(variant)
        whole = BatchGradient(model, CPU)
        work = whole.prepare(batch)
        found.append(linear_operations(partial(whole.backward, criterion, work, 0, 0, 0, 0)))
    assert found[0] == found[1]


def test_a_last_layer_computes_the_token_alone():
    """All nine items give a key and a value; it alone has a query, and passes the output map and
    the feed-forward part, which is as wide as it."""
    D, encoder = 8, transformer_encoder(8, num_layers=1, heads=2, feedforward=8, dropout=0.0)
    token, items = ClassToken(8, D), torch.randn(5, 8, D)
    found = linear_operations(lambda: token(encoder, items))
    assert found == 2 * 5 * (9 * 2 + 4) * D**2


def test_one_is_drawn_as_by_multinomial():
    chances = (torch.arange(30).view(5, 6) % 4).float()
    for seed in range(20):
        wanted = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(draw_one(chances, torch.Generator().manual_seed(seed)), wanted)
