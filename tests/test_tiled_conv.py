"""Convolutions in tiles against convolutions over the square."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from lib.models.layers import tiled_conv
from lib.models.layers.batch_norm import batch_norm
from lib.models.layers.dynamic_conv import DynamicConvStack
from lib.models.layers.proposal_map import (
    MaskedConvStack,
    ProposalGrid,
    as_rows,
    as_square,
    cells_read,
)
from lib.models.layers.recompute import recompute_stacks
from lib.models.layers.tiled_conv import Rows, Scratch, TiledConv, filtering, tiles_over

D = 6


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small stacks are in tiles too, and several blocks of maps are needed."""
    monkeypatch.setattr(tiled_conv, "ORDINARY", 1e12)
    monkeypatch.setattr(tiled_conv, "TILES", 12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
@pytest.mark.parametrize("more", [1, 3, 7, 15])
def test_a_filtering_is_a_correlation(kernel_size: int, more: int) -> None:
    k, F = kernel_size, kernel_size + more
    by = filtering(F, k)
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n * n, 2, generator=g, dtype=torch.float64) for n in (F, k))
    points = [
        transform.forward(table, x.new_empty(by.points, 2), x.new_empty(n * F, 2))
        for transform, table, n in ((by.inputs, x, F), (by.taps, w, k))
    ]
    T = F - k + 1
    table, between = x.new_empty(T * T, 2), x.new_empty(T * F, 2)
    found = by.output.transposed(points[0] * points[1], table, between)
    expected = nn.functional.conv2d(x.mT.view(1, 2, F, F), w.mT.view(2, 1, k, k), groups=2).flatten(
        2
    )[0]
    torch.testing.assert_close(found.mT, expected, rtol=0, atol=1e-12)
    assert by.points == 1.5 * F**2 - 2


@pytest.mark.parametrize("size", [1, 4, 7])
def test_every_wanted_cell_is_in_one_tile(size: int) -> None:
    wanted = ProposalGrid(32).mask
    corners = tiles_over(wanted, size)
    covered = torch.zeros(32 + size, 32 + size, dtype=torch.long)
    for top, left in corners.tolist():
        covered[top : top + size, left : left + size] += 1
        assert wanted[top : top + size, left : left + size].any()
    assert (covered[:32, :32][wanted] == 1).all()
    assert len(tiles_over(torch.zeros(4, 4, dtype=torch.bool), size)) == 0


@pytest.mark.parametrize("own_kernels", [False, True])
@pytest.mark.parametrize(("kernel_size", "padding"), [(3, 1), (3, 4), (5, 0), (1, 0)])
@pytest.mark.usefixtures("tiled")
def test_some_cells_of_a_convolution_and_their_gradients(
    own_kernels: bool, kernel_size: int, padding: int
) -> None:
    """Inputs that have no row are zero, rows that no cell has stay zero."""
    g = torch.Generator().manual_seed(0)
    M, S = 3, 9
    R = S + 2 * padding - kernel_size + 1
    given, wanted = (torch.rand(n, n, generator=g) < share for n, share in ((S, 0.6), (R, 0.3)))
    conv = TiledConv.plan(
        Rows.only(given), Rows.square(wanted), kernel_size=kernel_size, padding=padding,
        hidden_size=D, own_kernels=own_kernels,
    )  # fmt: skip
    assert conv is not None
    rows = torch.randn(M, int(given.sum()), D, generator=g, dtype=torch.float64)
    shape = (M if own_kernels else 1, D + 1, D, kernel_size, kernel_size)
    kernels = torch.randn(shape, generator=g, dtype=torch.float64)
    rows.requires_grad_()
    kernels.requires_grad_()
    square = torch.zeros(M, S * S, D, dtype=torch.float64)
    square = square.index_copy(1, given.flatten().nonzero().squeeze(1), rows)
    square = square.mT.unflatten(2, (S, S))
    each = kernels.expand(M, *shape[1:])
    out = torch.cat(
        [nn.functional.conv2d(square[m : m + 1], each[m], padding=padding) for m in range(M)]
    )
    expected = (out * wanted).flatten(2).mT
    found = conv(rows, kernels, Scratch())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    towards = torch.randn(found.shape, generator=g, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, (rows, kernels), towards),
        torch.autograd.grad(expected, (rows, kernels), towards),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def masked(num_clips: int, density: str = "sparse", **options: Any) -> MaskedConvStack:
    return MaskedConvStack(D, ProposalGrid(num_clips, density), **options)


def dynamic(num_clips: int, density: str = "sparse", **options: Any) -> DynamicConvStack:
    stack = DynamicConvStack(D, ProposalGrid(num_clips, density), **options)
    for layer in stack.dynamic:
        layer.dropout.p = 0.0
    return stack


STACKS: dict[str, Callable[[], nn.Module]] = {
    "same": lambda: masked(20, kernel_size=5, num_layers=3),
    "same, dense, count": lambda: masked(9, "dense", kernel_size=3, num_layers=2, norm="count"),
    "first": lambda: masked(32, kernel_size=9, num_layers=3, padding="first", norm="count"),
    "first, batch norm": lambda: masked(
        24, kernel_size=3, num_layers=3, padding="first", norm="count", batch_norm=True
    ),
    "dynamic": lambda: dynamic(18, kernel_size=5, num_layers=4, dynamic_layers=2, base_kernels=3),
}


def passed(stack: nn.Module, precision: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Output, gradients, and what the pass left in the state, of five maps."""
    stack = copy.deepcopy(stack).to(precision)
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, len(stack.grid), D, generator=g, dtype=torch.float64)]
    if isinstance(stack, DynamicConvStack):
        inputs.append(torch.randn(5, D, generator=g, dtype=torch.float64))
    inputs = [x.to(precision).requires_grad_() for x in inputs]
    out = stack(*inputs)
    towards = torch.randn(out.shape, generator=g, dtype=torch.float64)
    (out * towards).sum().backward()
    found = {"output": out.detach()}
    found |= {f"input {n}": x.grad for n, x in enumerate(inputs) if x.grad is not None}
    found |= {name: p.grad for name, p in stack.named_parameters() if p.grad is not None}
    return found | {f"new {name}": x for name, x in stack.named_buffers() if "running" in name}


def over_the_square(stack: nn.Module) -> nn.Module:
    stack = copy.deepcopy(stack)
    stack.tiled = None  # type: ignore[assignment]
    return stack


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=1e-2)  # biases before a batch norm have no gradient
        error = ((found[name] - value).abs().max() / scale).item()
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.usefixtures("tiled")
def test_a_stack_in_tiles_is_the_stack_over_the_square(name: str) -> None:
    torch.manual_seed(0)
    stack = STACKS[name]()
    assert stack.tiled
    assert_near(passed(stack), passed(over_the_square(stack)), 1e-10)


@pytest.mark.parametrize("name", ["same", "same, dense, count", "first"])
@pytest.mark.usefixtures("tiled")
def test_a_stack_in_tiles_is_exact_in_float32(name: str) -> None:
    torch.manual_seed(0)
    stack = STACKS[name]()
    exact = passed(over_the_square(stack))
    assert_near({k: v.double() for k, v in passed(stack, torch.float32).items()}, exact, 1e-5)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.usefixtures("tiled")
def test_a_stack_in_tiles_can_be_computed_again(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("lib.models.layers.recompute.SENTENCES", 2)
    torch.manual_seed(0)
    stack = STACKS[name]()
    expected = passed(stack)
    recompute_stacks(stack)
    assert_near(passed(stack), expected, 1e-10)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.usefixtures("tiled")
def test_in_bfloat16_the_square_is_convolved(name: str) -> None:
    torch.manual_seed(0)
    stack = STACKS[name]().eval()
    features = torch.randn(2, len(stack.grid), D)
    inputs = (features, torch.randn(2, D)) if name == "dynamic" else (features,)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(stack(*inputs), over_the_square(stack)(*inputs))


@pytest.mark.usefixtures("tiled")
def test_a_stack_in_tiles_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of shapes cannot be compiled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.compiler.reset()
    torch.manual_seed(0)
    stack = STACKS["same"]()
    features = torch.randn(3, len(stack.grid), D)
    compiled = torch.compile(stack._convolved, dynamic=True, backend="aot_eager")
    found, expected = [], stack(features)
    for function in (compiled, stack._convolved):
        stack.zero_grad()
        out = function(features, None)
        assert torch.equal(out, expected)
        out.square().sum().backward()
        found.append([p.grad for p in stack.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["same", "first", "dynamic"])
@pytest.mark.usefixtures("tiled")
def test_a_map_in_tiles_stands_alone(name: str) -> None:
    """It is what it is alone, and another's infinite number does not reach it."""
    torch.manual_seed(0)
    stack = STACKS[name]().eval()
    features, sentences = torch.randn(5, len(stack.grid), D), torch.randn(5, D)
    more = (sentences,) if name == "dynamic" else ()
    alone = stack(features[2:3], *(x[2:3] for x in more))
    features[[0, 1, 3]] = torch.inf
    with torch.no_grad():
        together = stack(features, *more)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-5, atol=1e-6)
    assert not together[0].isfinite().all()


@pytest.mark.usefixtures("tiled")
def test_of_no_map_nothing_is_learned() -> None:
    torch.manual_seed(0)
    stack = STACKS["first"]()
    out = stack(torch.randn(0, len(stack.grid), D))
    assert out.shape == (0, len(stack.grid), D)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in stack.parameters())


@pytest.mark.usefixtures("tiled")
def test_a_stack_learns_after_it_was_read_without_gradients() -> None:
    torch.manual_seed(0)
    stack = STACKS["dynamic"]()
    expected = passed(stack)
    with torch.inference_mode():
        stack.eval()(torch.randn(5, len(stack.grid), D), torch.randn(5, D))
    assert_near(passed(stack.train()), expected, 1e-10)


@pytest.mark.usefixtures("tiled")
def test_what_fills_the_empty_cells_is_convolved_over_the_square() -> None:
    torch.manual_seed(0)
    stack = STACKS["first"]()
    features, outside = torch.randn(2, len(stack.grid), D), torch.randn(2, D)
    assert torch.equal(stack(features, outside), over_the_square(stack)(features, outside))


def test_only_what_the_proposals_depend_on_is_read() -> None:
    """Counted by gradients: of 64 clips, 9 x 9 cells and 4 layers 11,824 outputs of 23,424."""
    grid = ProposalGrid(64)
    kept = [torch.ones(size, size, dtype=torch.bool) for size in (88, 80, 72, 64)]
    read = cells_read(grid.mask, kept, 9, [16, 0, 0, 0])
    out = nn.functional.conv2d(
        x := torch.zeros(1, 1, 72, 72, requires_grad=True), torch.ones(1, 1, 9, 9)
    )
    out[0, 0][grid.mask].sum().backward()
    assert x.grad is not None and torch.equal(read[2], x.grad[0, 0] > 0)
    assert torch.equal(read[3], grid.mask)
    stack = MaskedConvStack(4, grid, kernel_size=9, num_layers=4, padding="first", norm="count")
    assert [rows.count for rows in stack.rows] == [3168, 4384, 3168, 1104]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("num_clips", "kernel_size", "num_layers"), [(64, 9, 4), (16, 5, 8), (128, 5, 8)]
)
def test_the_published_maps_are_in_tiles(
    num_clips: int, kernel_size: int, num_layers: int, batch_norm: bool
) -> None:
    """Decided by counts alone; a model of a few numbers per cell is left over the square."""
    shape = {"kernel_size": kernel_size, "num_layers": num_layers}
    options = {"padding": "first", "norm": "count", "batch_norm": batch_norm}
    stack = MaskedConvStack(64, ProposalGrid(num_clips), **shape, **options)
    assert stack.tiled and len(stack.tiled.convs) == num_layers
    assert MaskedConvStack(8, ProposalGrid(16), **shape, **options).tiled is None


def test_transformed_kernels_have_a_bound_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Rows.only(ProposalGrid(64).mask)
    options: dict[str, Any] = {"kernel_size": 5, "padding": 2, "hidden_size": 512}
    for size in (2**28, 2**29):
        monkeypatch.setattr(tiled_conv, "WEIGHT_BYTES", size)
        conv = TiledConv.plan(wanted, wanted, **options)
        assert conv is not None
        assert size / 4 < 4 * filtering(conv.length, 5).points * 512**2 <= size
    monkeypatch.setattr(tiled_conv, "WEIGHT_BYTES", 2**20)
    assert TiledConv.plan(wanted, wanted, **options) is None


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_of_rows_is_torch_s(training: bool) -> None:
    torch.manual_seed(0)
    ours = nn.BatchNorm2d(D).double().train(training)
    with torch.no_grad():
        for x in (*ours.parameters(), ours.running_mean, ours.running_var):
            x.uniform_(0.5, 2)
    theirs, found = copy.deepcopy(ours), []
    rows = torch.randn(3, 16, D, dtype=torch.float64) + 5
    towards = torch.randn(3, 16, D, dtype=torch.float64)
    for norm, function in (
        (ours, lambda x: batch_norm(ours, x)),
        (theirs, lambda x: as_rows(theirs(as_square(x)))),
    ):
        x = rows.clone().requires_grad_()
        out = function(x)
        out.backward(towards)
        found.append([out, x.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_batch_norm_of_rows_keeps_its_digits() -> None:
    """A mean of 100 deviations, as the sums of a stack have, over 40,000 cells."""
    torch.manual_seed(0)
    rows = torch.randn(1, 200**2, D) + 100
    norm = nn.BatchNorm2d(D)
    exact = batch_norm(copy.deepcopy(norm).double(), rows.double())
    assert (batch_norm(norm, rows) - exact).abs().max() < 2e-5
