"""Convolutions of a map at chosen cells only, tile by tile, in few multiplications.

The cells of a map lie in a triangle, and of a sparse map only some are proposals. A tile is a block
of T x T outputs; there are tiles only where an output is wanted. Within a tile the convolution is a
minimal filtering: its F x F inputs, F = T + k - 1, and the k x k taps are brought to a number of
points, multiplied point by point, and brought back. A tile takes 1.5 F² - 2 products of D x D
matrices, where the sum over taps takes T²k²: 214 instead of 1,600 for T = 8 and k = 5.

The points are the frequencies of the discrete Fourier transform, at which nothing is lost to
rounding; a complex product is three real ones. All is exact but for the order of sums.

Source: Winograd 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR
2016, with interpolation at roots of unity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .uncompiled import uncompiled

# Measured on a CPU, in multiply-adds of the matrix products at the points: what a multiply-add of
# the transforms takes, and what a number of the transformed kernels takes; memory decides both.
# With k = 5 and D = 256, over F from 8 to 26, for 16 to 128 clips, and for kernels that maps share
# and of their own, a pass and its gradient took 40 % more or less than these say, and the F of
# least work was the fastest.
TRANSFORM, KERNEL = 3.0, 64.0
FIXED = 4e6  # of a layer, for its many small calls
# What a multiply-add of an ordinary convolution takes: 0.7 where matrix products are as fast as
# they can be, less where the convolutions of a CPU are better tuned than its products.
ORDINARY = 0.5
SHARED = 8  # maps of a step, at least, that share a kernel
WEIGHT_BYTES = 2**29  # the most that transformed kernels may take, in float32
TILES = 192  # at once: more are not multiplied faster, and take more memory
LONGEST = 32  # F


@dataclass(frozen=True)
class Transform:
    """From a table of L x L places to the points, in two steps.

    Along the second axis a Fourier transform of length F gives two real frequencies, 0 and F / 2,
    and f = F / 2 - 1 complex ones. Along the first axis, it gives of a real one two real and f
    complex frequencies, of a complex one F complex ones. A real frequency is one point, a complex
    one three: P = 2 + 3f of each real one, Q = 3F of each complex one.

    Attributes:
        real, cosines, sines: along the second axis, to the two real frequencies, and to the real
            and the imaginary parts of the others.
        of_real: along the first axis, from a real frequency to its points.
        of_others: along the first axis, from the real and the imaginary part of a complex frequency
            to its points.
    """

    real: Float[Tensor, "2 L"]
    cosines: Float[Tensor, "f L"]
    sines: Float[Tensor, "f L"]
    of_real: Float[Tensor, "P L"]
    of_others: Float[Tensor, "Q 2*L"]

    @property
    def places(self) -> int:
        return self.real.shape[1]

    @property
    def points(self) -> int:
        return 2 * len(self.of_real) + len(self.cosines) * len(self.of_others)

    @property
    def work(self) -> int:
        """Multiply-adds for a number of each entry."""
        frequencies = 2 + 2 * len(self.cosines)
        return self.places * (
            frequencies * self.places + self.points + len(self.cosines) * len(self.of_others)
        )

    def to(self, dtype: torch.dtype, device: torch.device) -> Transform:
        return Transform(*(getattr(self, x.name).to(device, dtype) for x in fields(self)))

    def forward(self, table: Tensor, points: Tensor, between: Tensor) -> Tensor:
        """``table`` (L·L, n), ``points`` (points, n), which is filled and returned, and
        ``between`` (L·F, n)."""
        square = table.view(self.places, self.places, -1)
        real, cosines, sines, others = self._parts(between)
        for matrix, part in ((self.real, real), (self.cosines, cosines), (self.sines, sines)):
            torch.matmul(matrix, square, out=part)
        of_real, of_others = self._split(points)
        torch.mm(self.of_real, real.flatten(1), out=of_real)
        torch.mm(self.of_others, others, out=of_others)
        return points

    def transposed(self, points: Tensor, table: Tensor, between: Tensor) -> Tensor:
        """The transpose of ``forward``: fills and returns ``table``."""
        real, cosines, sines, others = self._parts(between)
        of_real, of_others = self._split(points)
        torch.mm(self.of_real.mT, of_real, out=real.flatten(1))
        torch.mm(self.of_others.mT, of_others, out=others)
        square = table.view(self.places, self.places, -1)
        torch.matmul(self.real.mT, real, out=square)
        for matrix, part in ((self.cosines, cosines), (self.sines, sines)):
            torch.baddbmm(square, matrix.mT.expand(self.places, -1, -1), part, out=square)
        return table

    def _parts(self, between: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        L, f, n = self.places, len(self.cosines), between.shape[1]
        real, others = between[: 2 * L], between[2 * L : 2 * L * (1 + f)]
        cosines, sines = others.view(2, L, f, n)
        return real.view(L, 2, n), cosines, sines, others.view(2 * L, f * n)

    def _split(self, points: Tensor) -> tuple[Tensor, Tensor]:
        P, Q, f, n = len(self.of_real), len(self.of_others), len(self.cosines), points.shape[1]
        return points[: 2 * P].view(P, 2 * n), points[2 * P :].view(Q, f * n)


@dataclass(frozen=True)
class Filtering:
    """Minimal filtering of F x F inputs with k x k taps: y = output' ((inputs x) * (taps w)), where
    y[s, t] is the sum over i and j of x[s + i, t + j] w[i, j]."""

    inputs: Transform
    taps: Transform
    output: Transform

    @property
    def points(self) -> int:
        return self.inputs.points

    def to(self, dtype: torch.dtype, device: torch.device) -> Filtering:
        moved = (x.to(dtype, device) for x in (self.inputs, self.taps, self.output))
        return Filtering(*moved)


@lru_cache(maxsize=64)
def filtering(length: int, kernel_size: int) -> Filtering:
    """By the Fourier transform of ``length`` F, which is even, in float64; F - k + 1 outputs.

    A complex number a - ib times u + iv has the real part u(a + b) + b(v - u) and the imaginary
    part a(v + u) - u(a + b).
    """
    F = length
    scale = torch.tensor([1.0, 1.0, *[2.0] * (F // 2 - 1)], dtype=torch.float64) / F
    return Filtering(
        _transform(F, F, lambda a, b: (a + b, b, a), torch.ones_like(scale)),
        _transform(F, kernel_size, lambda u, v: (u, v - u, v + u), torch.ones_like(scale)),
        _transform(F, F - kernel_size + 1, lambda a, b: (a + b, a, -b), scale),
    )


def _transform(
    F: int,
    places: int,
    three: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    scale: Float[Tensor, " n"],
) -> Transform:
    """``three``: of the cosine and the sine of a frequency, what is multiplied; ``scale``: of the
    frequencies 0, F / 2, 1, 2, …, by which both axes are multiplied."""
    half = F // 2
    angle = 2 * math.pi / F * torch.arange(F)[:, None].double() * torch.arange(places)
    c, s = angle.cos(), angle.sin()
    real, cosines = scale[:2, None] * c[[0, half]], scale[2:, None] * c[1:half]
    sines = scale[2:, None] * s[1:half]
    return Transform(
        real,
        cosines,
        sines,
        of_real=torch.cat([real, *three(cosines, sines)]),
        of_others=scale[0] * torch.cat(three(torch.cat([c, -s], dim=1), torch.cat([s, c], dim=1))),
    )


def tiles_over(wanted: Bool[Tensor, "S S"], size: int) -> Int[Tensor, "t 2"]:
    """The first rows and columns of tiles that hold each wanted cell once.

    Bands of ``size`` rows, and in each band tiles from the first column that is not yet covered.
    """
    corners, rows = [], wanted.any(dim=1).tolist()
    top = 0
    while top < len(rows):
        if not rows[top]:
            top += 1
            continue
        columns = wanted[top : top + size].any(dim=0).tolist()
        left = 0
        while left < len(columns):
            if columns[left]:
                corners.append((top, left))
                left += size
            else:
                left += 1
        top += size
    return torch.tensor(corners, dtype=torch.long).reshape(-1, 2)


@dataclass(frozen=True)
class Rows:
    """Where the cells of a square are in a (M, A, D) tensor of features.

    Attributes:
        of: the row of each cell; -1: the cell is zero, or is not computed.
        count: A.
    """

    of: Int[Tensor, "S S"]
    count: int

    @classmethod
    def only(cls, cells: Bool[Tensor, "S S"]) -> Rows:
        """A row for each of some cells, in their order."""
        rank = cells.flatten().cumsum(dim=0).view_as(cells) - 1
        return cls(torch.where(cells, rank, -1), int(cells.sum()))

    @classmethod
    def square(cls, cells: Bool[Tensor, "S S"]) -> Rows:
        """A row for each cell of the square, of which only some are not zero."""
        place = torch.arange(cells.numel()).view_as(cells)
        return cls(torch.where(cells, place, -1), cells.numel())


class Exchange:
    """Between rows and tables of tiles, which have one entry per place in a tile.

    Args:
        row_of: the row of each place of each tile; -1: none, which is zero.
        num_rows: A.
    """

    def __init__(self, row_of: Int[Tensor, "places t"], num_rows: int) -> None:
        self.row_of, self.num_rows = row_of, num_rows
        held = row_of >= 0
        order = row_of[held].argsort(stable=True)
        self.place, self.tile = (x[order] for x in held.nonzero().unbind(dim=1))
        self.count = torch.bincount(row_of[held], minlength=num_rows)
        self._known: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def to_tiles(self, rows: Float[Tensor, "m A D"]) -> Float[Tensor, "entries D"]:
        """Entries are ordered by place, map and tile."""
        return self._summed("tiles", rows)

    def from_tiles(self, table: Float[Tensor, "entries D"], maps: int) -> Float[Tensor, "m A D"]:
        """Each row's sum over the places that hold it, the transpose of ``to_tiles``."""
        return self._summed("rows", table, maps).unflatten(0, (maps, self.num_rows))

    def _summed(self, to: str, source: Tensor, maps: int | None = None) -> Float[Tensor, "n D"]:
        maps = len(source) if maps is None else maps
        if (to, maps) not in self._known:
            makers = {"tiles": self._of_tiles, "rows": self._of_rows}
            self._known[to, maps] = makers[to](maps)
        indices, offsets = (x.to(source.device) for x in self._known[to, maps])
        flat = source.reshape(-1, source.shape[-1])
        return torch.embedding_bag(flat, indices, offsets, False, 0, False, None, True)[0]

    def _of_tiles(self, maps: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        held = self.row_of[:, None].expand(-1, maps, -1)
        first = torch.arange(maps)[:, None] * self.num_rows
        return (held + first)[held >= 0], _ends((held >= 0).flatten().long())

    def _of_rows(self, maps: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
        entry = (self.place * maps + torch.arange(maps)[:, None]) * self.row_of.shape[1] + self.tile
        return entry.flatten(), _ends(self.count.repeat(maps))


def _ends(counts: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])


class Scratch:
    """Memory for the intermediate results of a stack's layers, by name, which is used again: fresh
    memory takes a CPU longer than the sums that fill it."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Of the type of ``like``; what was in it is lost."""
        size, held = math.prod(shape), self.held.get(name)
        if held is None or held.numel() < size or held.dtype != like.dtype:
            held = None
            self.held.pop(name, None)
            held = self.held[name] = like.new_empty(size)
        return held[:size].view(shape)


@dataclass(frozen=True)
class TiledConv:
    """A convolution of stride 1 from some cells of a square to some of another, without bias.

    Attributes:
        inputs, outputs: between rows and the tiles.
        length, kernel_size: F and k; a tile has T = F - k + 1 outputs per axis.
        cost: of a map, in multiply-adds per pair of channels.
    """

    inputs: Exchange
    outputs: Exchange
    length: int
    kernel_size: int
    cost: float
    known: dict[Any, Filtering] = field(default_factory=dict, compare=False)

    @classmethod
    def plan(
        cls,
        given: Rows,
        wanted: Rows,
        *,
        kernel_size: int,
        padding: int,
        hidden_size: int,
        own_kernels: bool = False,
    ) -> TiledConv | None:
        """With tiles of the size at which the work is least; None where no size fits in memory.

        Args:
            given: of the inputs, a square of S x S cells.
            wanted: of the outputs, a square of S + 2 ``padding`` - k + 1 cells a side. Rows of
                cells that are not computed are zero.
            own_kernels: every map has a kernel of its own.
        """
        k, D, best = kernel_size, hidden_size, None
        for length in range(k + 1, LONGEST + 1, 2):
            found = filtering(length, k)
            if 4 * found.points * D**2 > WEIGHT_BYTES:
                break
            corners = tiles_over(wanted.of >= 0, length - k + 1)
            transforms = TRANSFORM * (found.inputs.work + found.output.work)
            kernels = KERNEL * found.points / (1 if own_kernels else SHARED)
            cost = len(corners) * (found.points + transforms / D) + kernels + FIXED / D**2
            if best is None or cost < best[0]:
                best = cost, length, corners
        if best is None:
            return None
        cost, length, corners = best
        return cls(
            _exchange(given, corners - padding, length),
            _exchange(wanted, corners, length - k + 1),
            length,
            k,
            cost,
        )

    def __call__(
        self,
        rows: Float[Tensor, "M A_in D_in"],
        kernels: Float[Tensor, "G D_out D_in k k"],
        scratch: Scratch,
    ) -> Float[Tensor, "M A_out D_out"]:
        """``kernels``: one for all maps, or one for each."""
        return _convolved(rows, kernels, self, scratch)

    def filtering(self, like: Tensor) -> Filtering:
        key = like.dtype, like.device
        if key not in self.known:
            self.known[key] = filtering(self.length, self.kernel_size).to(*key)
        return self.known[key]

    def blocks(self, num_maps: int, num_kernels: int) -> Iterator[tuple[int, slice]]:
        """For each kernel, the maps that are convolved with it together."""
        if num_kernels > 1:
            yield from ((m, slice(m, m + 1)) for m in range(num_maps))
            return
        size = max(1, TILES // max(1, self.inputs.row_of.shape[1]))
        yield from ((0, slice(m, m + size)) for m in range(0, num_maps, size))


@dataclass(frozen=True)
class TiledStack:
    """Convolutions that follow each other."""

    convs: Sequence[TiledConv]

    @staticmethod
    def suits(features: Tensor) -> bool:
        """Other devices have not been measured, and in bfloat16 a CPU convolves a square several
        times faster."""
        device = features.device.type
        full = features.dtype in (torch.float32, torch.float64)
        return device == "cpu" and full and not torch.is_autocast_enabled(device)

    def layers(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """For one pass: of each, the function of rows and kernels. They share the memory of what is
        in between, which is free again when the pass and its gradient are done."""
        scratch = Scratch()
        return [partial(conv, scratch=scratch) for conv in self.convs]


def plan_stack(
    layers: Sequence[tuple[Rows, Rows]],
    *,
    kernel_size: int,
    paddings: Sequence[int],
    hidden_size: int,
    own_kernels: int = 0,
) -> TiledStack | None:
    """The layers of a stack; None where convolutions over the square are less work.

    Args:
        layers: of each, what is given and what is wanted; see ``TiledConv.plan``.
        own_kernels: in so many layers, the first, every map has a kernel of its own.
    """
    plans, cost, ordinary = [], 0.0, 0.0
    for layer, ((given, wanted), padding) in enumerate(zip(layers, paddings, strict=True)):
        plan = TiledConv.plan(
            given,
            wanted,
            kernel_size=kernel_size,
            padding=padding,
            hidden_size=hidden_size,
            own_kernels=layer < own_kernels,
        )
        if plan is None:
            return None
        plans.append(plan)
        cost += plan.cost
        ordinary += ORDINARY * wanted.of.numel() * kernel_size**2
    return TiledStack(plans) if cost < ordinary else None


def _exchange(rows: Rows, corners: Int[Tensor, "t 2"], size: int) -> Exchange:
    """Places are those of a tile of ``size`` x ``size`` cells, by row."""
    S = len(rows.of)
    y, x = (corner + torch.arange(size)[:, None] for corner in corners.unbind(dim=1))  # (size, t)
    inside = ((y >= 0) & (y < S))[:, None] & ((x >= 0) & (x < S))[None]
    held = rows.of[y.clamp(0, S - 1)[:, None], x.clamp(0, S - 1)[None]]
    return Exchange(torch.where(inside, held, -1).flatten(0, 1), rows.count)


class _TiledConv(torch.autograd.Function):
    """Keeps rows and kernels; the points are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, kernels: Tensor, conv: TiledConv, scratch: Scratch
    ) -> Tensor:
        ctx.save_for_backward(rows, kernels)
        ctx.conv, ctx.scratch = conv, scratch
        return _Pass(rows, kernels, conv, scratch).forward()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, kernels = ctx.saved_tensors
        work = _Pass(rows, kernels, ctx.conv, ctx.scratch)
        return (*work.backward(grad, *ctx.needs_input_grad[:2]), None, None)


class _Pass:
    """The sums of a ``TiledConv``.

    Tables are (F·F, m·t, D) of inputs, (T·T, m·t, D) of outputs and (k·k, D_out, D_in) of kernels,
    each with as many points instead of places after its transform; m·t is the tiles of m maps.
    """

    def __init__(
        self,
        rows: Float[Tensor, "M A_in D_in"],
        kernels: Float[Tensor, "G D_out D_in k k"],
        conv: TiledConv,
        scratch: Scratch,
    ) -> None:
        self.rows, self.kernels, self.conv, self.scratch = rows, kernels, conv, scratch
        self.by = conv.filtering(kernels)
        self.blocks = list(conv.blocks(len(rows), len(kernels)))

    def forward(self) -> Float[Tensor, "M A_out D_out"]:
        outputs, D_out = self.conv.outputs, self.kernels.shape[1]
        out = self.rows.new_empty(len(self.rows), outputs.num_rows, D_out)
        before = None
        for group, maps in self.blocks:
            if group != before:
                kernel, before = self._kernel(group), group
            inputs = self._inputs(maps)
            products = self._scratch("products", self.by.points, inputs.shape[1], D_out)
            torch.bmm(inputs, kernel.mT, out=products)
            table = self._places("sums", self.by.output, products)
            out[maps] = outputs.from_tiles(table.view(-1, D_out), len(self.rows[maps]))
        return out

    def backward(
        self, grad: Float[Tensor, "M A_out D_out"], of_rows: bool, of_kernels: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        grad_rows = torch.empty_like(self.rows) if of_rows else None
        make = self.kernels.new_empty if self.blocks else self.kernels.new_zeros
        grad_kernels = make(self.kernels.shape) if of_kernels else None
        _, D_out, D_in, *_ = self.kernels.shape
        total = self._scratch("total", self.by.points, D_out, D_in) if of_kernels else None
        before = None
        for position, (group, maps) in enumerate(self.blocks):
            table = self.conv.outputs.to_tiles(grad[maps])
            products = self._points("products", self.by.output, table, D_out)
            if total is not None and grad_kernels is not None:
                inputs = self._inputs(maps)
                if group != before:
                    torch.bmm(products.mT, inputs, out=total)
                else:
                    torch.baddbmm(total, products.mT, inputs, out=total)
                if position + 1 == len(self.blocks) or self.blocks[position + 1][0] != group:
                    taps = self._places("taps", self.by.taps, total)
                    grad_kernels[group].view(D_out * D_in, -1).copy_(taps.mT)
            if grad_rows is not None:
                if group != before:
                    kernel = self._kernel(group)
                inputs = self._scratch("inputs", self.by.points, products.shape[1], D_in)
                torch.bmm(products, kernel, out=inputs)
                table = self._places("sums", self.by.inputs, inputs).view(-1, D_in)
                grad_rows[maps] = self.conv.inputs.from_tiles(table, len(self.rows[maps]))
            before = group
        return grad_rows, grad_kernels

    def _scratch(self, name: str, *shape: int) -> Tensor:
        return self.scratch(name, self.kernels, *shape)

    def _inputs(self, maps: slice) -> Float[Tensor, "points n D_in"]:
        table = self.conv.inputs.to_tiles(self.rows[maps])
        return self._points("inputs", self.by.inputs, table, self.rows.shape[-1])

    def _kernel(self, group: int) -> Float[Tensor, "points D_out D_in"]:
        _, D_out, D_in, *_ = self.kernels.shape
        taps = self.kernels[group].reshape(D_out * D_in, -1).mT.contiguous()
        return self._points("kernel", self.by.taps, taps, D_in)

    def _points(
        self, name: str, transform: Transform, table: Tensor, width: int
    ) -> Float[Tensor, "points _ _"]:
        L = transform.places
        size = table.numel() // L**2
        between = self._scratch("between", L * self.conv.length, size)
        points = self._scratch(name, transform.points, size)
        return transform.forward(table.view(L * L, size), points, between).unflatten(1, (-1, width))

    def _places(
        self, name: str, transform: Transform, points: Float[Tensor, "points _ _"]
    ) -> Float[Tensor, "places _"]:
        L, size = transform.places, points[0].numel()
        between = self._scratch("between", L * self.conv.length, size)
        table = self._scratch(name, L * L, size)
        return transform.transposed(points.flatten(1), table, between)


_convolved = uncompiled(_TiledConv.apply)
