"""How a model is optimised: the default is plain Adam, and every rule does what it says."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lib.models.layers.text as text_module
from lib.base.batch import Batch
from lib.base.errors import InputError
from lib.base.runtime import Runtime
from lib.losses import Criterion
from lib.models.interface import Plan, Stage
from lib.models.mmn import MMN
from lib.training.engine import train_one_epoch
from lib.training.optimization import (
    BertAdam,
    MomentumSGD,
    Optimization,
    inverse_root,
    warmup_linear,
)
from lib.training.progress import Progress
from tests.properties import DIMS, make_batch
from tests.tiny_text import tiny_pretrained

CPU = Runtime.start("cpu")


class TwoSides(nn.Module):
    """Two branches; the second reads the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.right = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> dict[str, Tensor]:
        left = self.left(batch.video[:, 0])
        return {"left": left, "right": self.right(left)}

    encode = forward

    def compare(self, parts: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return parts


TERMS = {
    "left": lambda out, batch: (out["left"] - 1).square().mean(),
    "right": lambda out, batch: (out["right"] + 1).square().mean(),
}
ALTERNATING = Plan(
    lambda epoch: (
        Stage(factors={"right": 0}, frozen=("right.",)),
        Stage(factors={"left": 0, "right": 2.0}, frozen=("left.",)),
    ),
    rates={"right.": 0.5},
)


def batches(count: int, start: int = 0) -> list[Batch]:
    """Five videos of one row, drawn by the batch's number."""
    rows = [
        torch.randn(5, 1, 3, generator=torch.Generator().manual_seed(number))
        for number in range(start, start + count)
    ]
    return [dataclasses.replace(make_batch((1,) * 5), video=each) for each in rows]


def train(
    model: nn.Module, optimization: Optimization, items: list[Batch], progress: Progress
) -> None:
    train_one_epoch(model, items, optimization, CPU, progress, seed=0, max_grad_norm=0.0)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_without_a_plan_it_is_adam_bit_for_bit() -> None:
    model = TwoSides()
    plain = copy.deepcopy(model)
    optimization = Optimization(model, Criterion(TERMS, {"left": 1, "right": 3}), lr=1e-2)
    train(model, optimization, batches(4), Progress())
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2, fused=True)
    for batch in batches(4):
        adam.zero_grad()
        out = plain(batch)
        (TERMS["left"](out, batch) + 3 * TERMS["right"](out, batch)).backward()
        adam.step()
    assert same(weights(model), weights(plain))


def test_the_rate_decays_by_epochs_or_at_milestones() -> None:
    model, criterion = TwoSides(), Criterion(TERMS, {"left": 1})
    every = Optimization(model, criterion, lr=1.0, decay=0.5, decay_every=3)
    at = Optimization(model, criterion, lr=1.0, decay=0.1, milestones=[2, 5])
    seen = []
    for epoch in range(7):
        every.set_epoch(epoch)
        at.set_epoch(epoch)
        seen.append((every.lr, round(at.lr, 6)))
    assert [a for a, _ in seen] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert [b for _, b in seen] == [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]


def test_groups_have_their_rates() -> None:
    optimization = Optimization(TwoSides(), Criterion(TERMS, {"left": 1}), ALTERNATING, lr=0.1)
    assert [
        (group["lr"], len(group["params"])) for group in optimization.optimizer.param_groups
    ] == [
        (0.1, 4),
        (0.05, 4),
    ]


@pytest.mark.parametrize("kind", ["adam", "adamw", "bert_adam", "sgd"])
def test_alternating_equals_two_optimisers_that_both_hold_everything(kind: str) -> None:
    """One optimiser is enough: it keeps its state by parameter and skips what has no gradient."""
    model = TwoSides()
    slow = copy.deepcopy(model)
    options = {"weight_decay": 0.01}
    if kind == "bert_adam":
        options |= {"warmup": 0.2, "total_steps": 10}
    optimization = Optimization(
        model, Criterion(TERMS, {"left": 1, "right": 1}), ALTERNATING,
        optimizer=kind, lr=0.1, **options,
    )  # fmt: skip
    train(model, optimization, batches(5), Progress())

    def make(lr: float) -> torch.optim.Optimizer:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": MomentumSGD}
        cls: Callable = kinds.get(kind, BertAdam)
        if cls is not BertAdam:
            return cls(slow.parameters(), lr=lr, **options)
        biases = [p for p in slow.parameters() if p.dim() == 1]
        rest = [p for p in slow.parameters() if p.dim() > 1]
        return BertAdam(
            [{"params": rest}, {"params": biases, "weight_decay": 0.0}], lr=lr, **options
        )

    first, second = make(0.1), make(0.05)
    for batch in batches(5):
        first.zero_grad()
        slow.left.requires_grad_(True)
        slow.right.requires_grad_(False)
        TERMS["left"](slow(batch), batch).backward()
        first.step()
        second.zero_grad()
        slow.left.requires_grad_(False)
        slow.right.requires_grad_(True)
        (2 * TERMS["right"](slow(batch), batch)).backward()
        second.step()
    for a, b in zip(model.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-7)
    assert all(p.requires_grad for p in model.parameters())


def test_terms_and_totals_of_the_stages_add_up() -> None:
    model, progress = TwoSides(), Progress()
    optimization = Optimization(model, Criterion(TERMS, {"left": 1, "right": 1}), ALTERNATING)
    (batch,) = batches(1)
    left = TERMS["left"](model(batch), batch).item()
    train(model, optimization, [batch], progress)
    assert progress.sums["left"] == pytest.approx(left)
    assert progress.sums["total"] == pytest.approx(left + 2 * progress.sums["right"], rel=1e-5)


def test_a_stage_without_a_term_is_left_out() -> None:
    optimization = Optimization(TwoSides(), Criterion(TERMS, {"left": 1}), ALTERNATING)
    assert len(optimization.steps) == 1 and optimization.steps[0].criterion.active == {"left"}


@pytest.mark.parametrize("kind", ["adam", "bert_adam", "sgd"])
def test_a_run_goes_on_bit_for_bit_from_its_state(kind: str) -> None:
    def start(model: nn.Module) -> Optimization:
        criterion = Criterion(TERMS, {"left": 1, "right": 1})
        return Optimization(
            model, criterion, ALTERNATING, optimizer=kind, lr=0.1, total_steps=8, warmup=0.25
        )

    whole, half = TwoSides(), TwoSides()
    train(whole, start(whole), batches(6), Progress())
    before = start(half)
    train(half, before, batches(3), Progress())
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": before.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = TwoSides()
    again.load_state_dict(state["model"])
    after = start(again)
    after.load_state_dict(state["optimizer"])
    train(again, after, batches(3, start=3), Progress())
    assert same(weights(whole), weights(again))


def test_options_are_the_runs_own_and_not_the_checkpoints() -> None:
    """Only the length of a run may change when it goes on, and the schedule depends on it."""
    model, criterion = TwoSides(), Criterion(TERMS, {"left": 1})
    short = Optimization(model, criterion, optimizer="bert_adam", total_steps=10, lr=1.0)
    train(model, short, batches(1), Progress())
    long = Optimization(model, criterion, optimizer="bert_adam", total_steps=40, lr=1.0)
    long.load_state_dict(short.state_dict())
    assert long.optimizer.param_groups[0]["total_steps"] == 40
    assert all(state["step"] == 1 for state in long.optimizer.state.values())


def test_what_no_term_reaches_is_named_and_what_is_frozen_is_not() -> None:
    model = TwoSides()
    optimization = Optimization(model, Criterion(TERMS, {"left": 1}))
    train(model, optimization, batches(1), Progress())
    assert optimization.unreached() == [n for n, _ in model.named_parameters() if n[0] == "r"]
    frozen = Plan(lambda epoch: (Stage(frozen=("right.",)),))
    optimization = Optimization(model, Criterion(TERMS, {"left": 1}), frozen)
    train(model, optimization, batches(1), Progress())
    assert optimization.unreached() == []


# BertAdam.


def test_the_schedule_has_the_published_values() -> None:
    """Of 10,000 steps with 1 % warm-up; the first has rate 0."""
    found = [warmup_linear(step / 10_000, 0.01) for step in (0, 50, 99, 100, 5000, 9999)]
    assert [round(value, 6) for value in found] == [0, 0.5, 0.99, 1.0, 0.505051, 0.000101]
    assert warmup_linear(1.2, 0.01) == 0


def test_bert_adam_by_hand() -> None:
    """Gradient (3, 4) is shortened to (.6, .8); mean .1 g, square .001 g², no correction of bias;
    each entry moves by rate · (.1 g / (sqrt(.001) g + eps) + decay · p)."""
    p = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    optimizer = BertAdam([p], lr=0.1, weight_decay=0.5, warmup=0.0, total_steps=10)
    p.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    expected = [
        1 - 0.1 * (0.06 / (math.sqrt(0.001) * 0.6 + 1e-6) + 0.5 * 1),
        2 - 0.1 * (0.08 / (math.sqrt(0.001) * 0.8 + 1e-6) + 0.5 * 2),
    ]
    assert p[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_bert_adam_counts_steps_tensor_by_tensor() -> None:
    early, late = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = BertAdam([early, late], lr=1.0, warmup=0.5, total_steps=4)
    for step in range(3):
        early.grad = torch.ones(2, 2)
        late.grad = torch.ones(2, 2) if step == 2 else None
        optimizer.step()
    assert [optimizer.state[p]["step"] for p in (early, late)] == [3, 1]
    assert torch.equal(late.detach(), torch.ones(2, 2))  # its first step has rate 0


def test_bert_adam_spares_biases_and_normalisations() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    criterion = Criterion({"a": lambda o, b: o.sum()}, {"a": 1})
    optimization = Optimization(model, criterion, optimizer="bert_adam", weight_decay=0.01)
    decays = {
        tuple(p.shape): group["weight_decay"]
        for group in optimization.optimizer.param_groups
        for p in group["params"]
    }
    assert decays == {(2, 2): 0.01, (2,): 0.0}


# Gradient descent with momentum.


def test_a_step_taken_is_not_scaled_again_when_the_rate_falls() -> None:
    """Gradients 2 and 1, rates 0.1 and 0.01, momentum 0.5: v = 0.2 and then 0.1 + 0.01."""
    ours, torchs = (nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    optimizer = MomentumSGD([ours], lr=0.1, momentum=0.5)
    other = torch.optim.SGD([torchs], lr=0.1, momentum=0.5)
    found = []
    for gradient, lr in ((2.0, 0.1), (1.0, 0.01)):
        for each in (optimizer, other):
            each.param_groups[0]["lr"] = lr
        ours.grad = torchs.grad = torch.tensor([gradient])
        optimizer.step()
        other.step()
        found.append((ours.item(), torchs.item()))
    assert found[0] == pytest.approx((0.8, 0.8))
    assert found[1] == pytest.approx((0.8 - 0.11, 0.8 - 0.02))


def test_at_one_rate_it_is_torch_s() -> None:
    model = TwoSides()
    plain = copy.deepcopy(model)
    optimization = Optimization(
        model, Criterion(TERMS, {"left": 1, "right": 1}),
        optimizer="sgd", lr=0.05, momentum=0.8, weight_decay=0.1,
    )  # fmt: skip
    train(model, optimization, batches(6), Progress())
    sgd = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.8, weight_decay=0.1)
    for batch in batches(6):
        sgd.zero_grad()
        out = plain(batch)
        (TERMS["left"](out, batch) + TERMS["right"](out, batch)).backward()
        sgd.step()
    for a, b in zip(weights(model), weights(plain), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


def test_a_state_of_another_optimiser_is_refused() -> None:
    model, criterion = TwoSides(), Criterion(TERMS, {"left": 1})
    adam, sgd = (Optimization(model, criterion, optimizer=kind) for kind in ("adam", "sgd"))
    train(model, adam, batches(1), Progress())
    with pytest.raises(
        InputError, match="keeps step, exp_avg, exp_avg_sq of weight 0; expected ve"
    ):
        sgd.load_state_dict(adam.state_dict())
    train(model, sgd, batches(1), Progress())
    with pytest.raises(
        InputError, match="keeps velocity of weight 0; expected exp_avg, exp_avg_sq"
    ):
        adam.load_state_dict(sgd.state_dict())


# MMN.


def test_mmn_s_text_encoder_waits_and_then_learns_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "read_pretrained", lambda folder: tiny_pretrained())
    torch.manual_seed(0)
    model = MMN(
        DIMS, hidden_size=8, joint_size=4, kernel_size=3, conv_layers=1, text_encoder="folder"
    )
    terms = MMN.losses()
    optimization = Optimization(
        model, Criterion(terms, {"overlap": 1, "proposal_to_sentence": 0.1}),
        MMN.plan(frozen_epochs=1, matching_epochs=1), optimizer="adamw", lr=1e-2,
        betas=(0.9, 0.99), weight_decay=1e-5,
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    progress = Progress()
    moved = []
    for epoch in range(2):
        progress.epoch = epoch
        train(model, optimization, [make_batch()], progress)
        moved.append(
            {n.startswith("sentence.pretrained.") for n, p in model.named_parameters()
             if not torch.equal(p, before[n])}
        )  # fmt: skip
    assert moved == [{False}, {False, True}]
    rates = {group["rate"]: group["lr"] for group in optimization.optimizer.param_groups}
    assert rates == {1.0: 1e-2, 0.1: pytest.approx(1e-3)}
    (step,) = optimization.steps
    assert step.criterion.weights == {"overlap": 1, "proposal_to_sentence": pytest.approx(0.001)}


# DCIML.


def test_an_alternating_model_goes_on_bit_for_bit_inside_an_epoch() -> None:
    """With dropout, hidden words and drawn negatives: all follow from seed, epoch, step, stage."""
    from lib.models.dciml import DCIML

    sizes = {"retrieval_size": 16, "grounding_size": 8, "heads": 2, "decoder_layers": 1}
    sizes |= {"proposals": 3, "sampled_frames": 8}
    items = [make_batch((2, 3)), make_batch((3, 1, 2)), make_batch((1, 4))]

    def start() -> tuple[DCIML, Optimization]:
        torch.manual_seed(0)
        model = DCIML(DIMS, **sizes)
        terms = DCIML.losses()
        criterion = Criterion(terms, dict.fromkeys(terms, 1.0))
        plan = DCIML.plan(mutual_after=0, hard_after=1)
        return model, Optimization(
            model, criterion, plan, optimizer="bert_adam", lr=1e-2, total_steps=3
        )

    whole, optimization = start()
    train(whole, optimization, items, Progress())
    first, before = start()
    progress = Progress()
    train(first, before, items[:1], progress)
    again, after = start()
    again.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    train(again, after, items[1:], progress)
    assert same(weights(whole), weights(again))


# SCN.


def test_a_model_that_explores_goes_on_bit_for_bit() -> None:
    """How much it explores follows from the epoch, what it draws from seed, epoch and step."""
    from lib.models.scn import SCN

    items = [make_batch((2, 3)), make_batch((3, 1, 2))]

    def start() -> tuple[SCN, Optimization]:
        torch.manual_seed(0)
        model = SCN(DIMS, hidden_size=8, heads=2, layers=1, candidate_frames=4)
        criterion = Criterion(SCN.losses(), {"reconstruction": 1.0, "rank": 1.0})
        return model, Optimization(model, criterion, SCN.plan(exploration=0.9), lr=1e-2)

    whole, optimization = start()
    train(whole, optimization, items, Progress())
    train(whole, optimization, items, Progress(epoch=5))
    first, before = start()
    train(first, before, items, Progress())
    again, after = start()
    again.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    progress = Progress(epoch=5)
    train(again, after, items[:1], progress)
    train(again, after, items[1:], progress)
    assert same(weights(whole), weights(again))
    assert whole.exploration == again.exploration < 0.9


def test_the_rate_falls_with_the_root_of_the_steps() -> None:
    """CPL's, as released."""
    wanted = {0: 1e-7, 1: 1.09975e-6, 200: 2.0005e-4, 399: 3.99e-4, 400: 4e-4, 1600: 2e-4}
    for step, lr in (wanted | {10_000: 8e-5}).items():
        assert inverse_root(step, 4e-4, 400) == pytest.approx(lr, rel=1e-3)
    model = nn.Linear(2, 1)
    criterion = Criterion({"a": lambda out, batch: out.sum()}, {"a": 1.0})
    optimization = Optimization(
        model, criterion, Plan(rates={"bias": 0.5}), lr=1.0, warmup_steps=4, steps_per_epoch=3
    )
    found = []
    for epoch in range(3):
        optimization.set_epoch(epoch)
        for step in range(3):
            optimization.set_step(step)
            found.append(optimization.lr)
            rates = sorted(group["lr"] for group in optimization.optimizer.param_groups)
            assert rates == pytest.approx([optimization.lr / 2, optimization.lr])
    expected = [inverse_root(number, 1.0, 4) for number in range(9)]
    assert found == expected and max(found) == found[4] == 1.0


def test_an_optimiser_does_not_import_a_compiler() -> None:
    """Which takes over a second at every start, and is Torch's habit."""
    code = """
        import sys, torch
        from lib.losses import Criterion
        from lib.training.optimization import Optimization

        for optimizer in ("adam", "adamw", "sgd", "bert_adam"):
            model = torch.nn.Linear(3, 2)
            whole = Optimization(model, Criterion({"x": None}, {"x": 1.0}), optimizer=optimizer)
            with whole.learning(whole.steps[0]):
                model(torch.ones(4, 3)).sum().backward()
            before = model.weight.detach().clone()
            whole.optimizer.step()
            assert not torch.equal(before, model.weight)
            whole.load_state_dict(whole.state_dict())
        assert "torch._dynamo" not in sys.modules
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
