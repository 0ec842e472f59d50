"""Which spans are proposals, and one feature for each.

A map has a cell (i, j) for every start clip i and end clip j >= i, both included: the span
[i, j + 1) / N of the video. Only valid cells are computed: features are (…, P, D), in the order of
``ProposalGrid.cells``; the square exists only inside the convolutions that need neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...base.moments import cell_spans
from .batch_norm import batch_norm
from .recompute import Recomputable, recomputed
from .tiled_conv import Rows, TiledStack, plan_stack

DENSITIES = ("sparse", "dense")


def valid_cells(num_clips: int, density: str = "sparse") -> Bool[Tensor, "N N"]:
    """Which cells of the map are proposals.

    ``dense``: every j >= i. ``sparse``: every span of up to 16 clips; of the longer ones, those
    whose start and length are multiples of s = 2^(ceil(log2(L / 8)) - 1).

    Source: 2D-TAN; 136, 428, 1,104 and 2,548 cells for 16, 32, 64 and 128 clips.
    """
    if density not in DENSITIES:
        raise ValueError(f"density must be one of {DENSITIES}, found {density!r}")
    start = torch.arange(num_clips)[:, None]
    length = torch.arange(num_clips)[None, :] - start + 1
    if density == "dense":
        return length >= 1
    doublings = torch.log2(length.clamp(min=16) / 8).ceil().long() - 1
    stride = torch.where(length > 16, 2**doublings, 1)
    return (length >= 1) & (start % stride == 0) & (length % stride == 0)


class ProposalGrid(nn.Module):
    """The constants of a map: its valid cells, their spans, and their frames.

    All are buffers outside the state dict: they follow the module's device and are built anew.
    """

    mask: Bool[Tensor, "N N"]
    spans: Float[Tensor, "P 2"]  # fractions of the video
    cells: Int[Tensor, " P"]  # index of each valid cell in the flattened (N·N) square
    lower: Int[Tensor, " P"]
    upper: Int[Tensor, " P"]

    def __init__(self, num_clips: int, density: str = "sparse") -> None:
        super().__init__()
        self.num_clips = num_clips
        mask = valid_cells(num_clips, density)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("spans", cell_spans(num_clips, mask), persistent=False)
        self.register_buffer("cells", mask.flatten().nonzero().squeeze(1), persistent=False)
        start, end = mask.nonzero().unbind(dim=1)
        # A span's maximum is that of two windows of 2^level clips, one from each of its ends.
        level = ((end - start + 1).double().log2() + 1e-9).floor().long()
        self.levels = int(level.max()) + 1
        self.register_buffer("lower", level * num_clips + start, persistent=False)
        self.register_buffer("upper", level * num_clips + end + 1 - 2**level, persistent=False)

    def __len__(self) -> int:
        return len(self.cells)

    def max_pool(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B P D"]:
        """Element-wise maximum of the clips i..j, for every valid cell.

        log2(N) doublings and two look-ups, whatever the length of the span.
        """
        windows = [clips]
        for level in range(1, self.levels):
            last, half = windows[-1], 2 ** (level - 1)
            # The tail windows would run past the end; they are never looked up.
            windows.append(
                torch.cat([torch.maximum(last[:, :-half], last[:, half:]), last[:, -half:]], dim=1)
            )
        table = torch.cat(windows, dim=1)
        return torch.maximum(table.index_select(1, self.lower), table.index_select(1, self.upper))

    def square(
        self, features: Float[Tensor, "M P D"], outside: Float[Tensor, "M D"] | None = None
    ) -> Float[Tensor, "M D N N"]:
        """The features on the full square, channels last in memory; ``outside`` (default: zero)
        fills the cells that are no proposals."""
        M, _, D = features.shape
        N = self.num_clips
        if outside is None:
            full_map = features.new_zeros(M, N * N, D)
        else:
            full_map = outside[:, None].repeat(1, N * N, 1)
        return (
            full_map.index_copy_(1, self.cells, features).unflatten(1, (N, N)).permute(0, 3, 1, 2)
        )

    def valid(self, square: Float[Tensor, "M D N N"]) -> Float[Tensor, "M P D"]:
        """The features of the valid cells: the inverse of ``square``."""
        return square.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self.cells)

    def frames(self, num_frames: int, count: int) -> Int[Tensor, "P F"]:
        """``count`` of the T resampled rows, evenly inside each cell's span."""
        return frames_inside(self.spans, num_frames, count)


def frames_inside(spans: Float[Tensor, "P 2"], num_frames: int, count: int) -> Int[Tensor, "P F"]:
    """``count`` of a video's ``num_frames`` rows, evenly inside each span (fractions of it)."""
    start, end = (spans * num_frames).double().unbind(dim=1)
    steps = (torch.arange(count, device=start.device) + 0.5) / count
    rows = (start[:, None] + steps * (end - start)[:, None]).floor().long()
    return rows.clamp(max=num_frames - 1)


class MaxPoolMap(nn.Module):
    """Clips to cells by their maximum; no parameters. Source: 2D-TAN, the "pool" variant."""

    def __init__(self, hidden_size: int, grid: ProposalGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B P D"]:
        return self.grid.max_pool(clips)


class ConvMap(nn.Module):
    """Clips to cells by a chain of convolutions without activations.

    Each link makes the spans of one length from those of the length before: kernel 2, and kernel 3
    with stride 2 where the sparse map doubles its stride.

    Args:
        hidden_size: D.
        grid: sparse.
        project: begin with a convolution of kernel 1 for the diagonal (2D-TAN, CDN); without it the
            diagonal holds the clips themselves (MMN).

    Source: 2D-TAN, the "conv" variant: 16, 32 and 40 layers for 16, 64 and 128 clips.
    """

    order: Int[Tensor, " P"]

    def __init__(self, hidden_size: int, grid: ProposalGrid, *, project: bool = True) -> None:
        super().__init__()
        D, N = hidden_size, grid.num_clips
        self.links = nn.ModuleList([nn.Conv1d(D, D, 1)] if project else [])
        cells = [start * N + start for start in range(N)]  # in the order of the links
        count, stride, offset, left = N, 1, 0, 15
        while True:
            widen = left == 0
            kernel, step = (3, 2) if widen else (2, 1)
            if count < kernel:
                break
            left = 7 if widen else left - 1
            offset += 2 * stride if widen else stride
            stride *= step
            count = (count - kernel) // step + 1
            self.links.append(nn.Conv1d(D, D, kernel, stride=step))
            cells += [p * stride * N + p * stride + offset for p in range(count)]
        if sorted(cells) != grid.cells.tolist():
            raise ValueError("a map of convolutions needs density 'sparse'")
        order = torch.tensor(cells).argsort()
        self.register_buffer("order", order, persistent=False)

    def forward(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B P D"]:
        last = clips.mT
        lengths = [last] if self.links[0].kernel_size != (1,) else []
        for link in self.links:
            last = link(last)
            lengths.append(last)
        return torch.cat(lengths, dim=2).index_select(2, self.order).mT


class BoundaryMap(nn.Module):
    """A proposal's feature from evenly spaced points in it and around it (boundary matching).

    Args:
        hidden_size: D; half of it inside.
        grid: the map. Only its valid cells are sampled.
        points: per proposal, over its span widened by half of (its length + 1 clip) on each side.

    Source: BMN (Lin et al. 2019) as the released DMR-JRG has it.
    """

    weights: Float[Tensor, "N R P"]

    def __init__(self, hidden_size: int, grid: ProposalGrid, *, points: int = 16) -> None:
        super().__init__()
        D, inner = hidden_size, hidden_size // 2
        self.base = nn.Sequential(
            nn.Conv1d(D, inner, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Conv1d(inner, inner, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Conv1d(inner, inner, 15, padding=7),
            nn.ReLU(),
        )
        self.gather = nn.Conv1d(inner, D, points)
        weights = boundary_weights(grid.spans * grid.num_clips, grid.num_clips, points)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B P D"]:
        points = torch.einsum("bcn,nrp->bpcr", self.base(clips.mT), self.weights)
        return self.gather(points.flatten(0, 1)).relu().squeeze(-1).unflatten(0, points.shape[:2])


def boundary_weights(
    spans: Float[Tensor, "P 2"], num_clips: int, points: int
) -> Float[Tensor, "N R P"]:
    """The weight of each clip for each point, by linear interpolation; spans are in clips.

    A point less than one clip before the first is the first; points further out are zero.
    """
    start, end = spans.double().unbind(dim=1)
    margin = (end - start + 1) / 2
    steps = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    point = start - margin + steps * (end - start + 2 * margin)  # (R, P)
    point = torch.where((point > -1) & (point < 0), 0.0, point)
    clip = torch.arange(num_clips)[:, None, None]
    return (1 - (point - clip).abs()).clamp(min=0).float()


PROPOSAL_MAPS: dict[str, Callable[..., nn.Module]] = {"pool": MaxPoolMap, "conv": ConvMap}


def neighbour_weights(
    mask: Bool[Tensor, "N N"], kernel_size: int, paddings: Sequence[int], *, grow: bool
) -> list[Float[Tensor, "1 1 _ _"]]:
    """For each layer of a masked stack, 1 / (valid cells under the kernel), 0 where there are none.

    ``grow``: a cell that saw a valid one is valid for the next layer, as in 2D-TAN. Otherwise the
    valid cells stay what they are.
    """
    valid = mask[None, None].double()
    ones = torch.ones(1, 1, kernel_size, kernel_size, dtype=torch.float64)
    weights = []
    for width in paddings:
        count = nn.functional.conv2d(valid, ones, padding=width).round()
        kept = count > 0 if grow else valid > 0
        weights.append(torch.where(kept, 1 / count.clamp(min=1), 0.0).float())
        valid = kept.double()
    return weights


def cells_read(
    last: Bool[Tensor, "N N"],
    kept: Sequence[Bool[Tensor, "_ _"]],
    kernel_size: int,
    paddings: Sequence[int],
) -> list[Bool[Tensor, "_ _"]]:
    """The cells of each layer's output, of those ``kept``, that the ``last`` layer's depend on."""
    read = [last]
    ones = torch.ones(1, 1, kernel_size, kernel_size, dtype=torch.float64)
    for cells, width in zip(reversed(kept[:-1]), reversed(paddings[1:]), strict=True):
        margin = [kernel_size - 1 - width] * 4
        seen = nn.functional.conv2d(nn.functional.pad(read[0][None, None].double(), margin), ones)
        read.insert(0, (seen[0, 0] > 0.5) & cells)
    return read


class MaskedConvStack(Recomputable):
    """Convolutions over the map that see valid cells only (2D-TAN's temporal adjacent network).

    Each layer is convolution, ReLU, and a division by how many valid cells lay under the kernel.
    Where it is less work, which depends on the grid and the sizes alone, a CPU computes only the
    cells that the proposals depend on, in tiles: see ``tiled_conv``.

    Args:
        hidden_size: D.
        grid: the map.
        kernel_size: odd.
        num_layers: 0 leaves the features as they are.
        padding: ``same`` keeps the map's size and its valid cells. ``first`` puts all padding into
            the first layer, as 2D-TAN does: the valid region then grows from layer to layer.
        norm: ``count`` divides by the number of valid cells (2D-TAN). ``relative`` divides by their
            share of the kernel, and starts from He's initialisation: with ``count`` four layers of
            81 cells shrink the signal until the map is flat to 1e-9 and its arg-max arbitrary.
        batch_norm: between convolution and ReLU (MMN). Its statistics are those of the whole
            square, cells that are empty by construction included.
    """

    def __init__(
        self,
        hidden_size: int,
        grid: ProposalGrid,
        *,
        kernel_size: int,
        num_layers: int,
        padding: str = "same",
        norm: str = "relative",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {kernel_size}")
        if padding not in ("same", "first"):
            raise ValueError(f"padding must be 'same' or 'first', found {padding!r}")
        if norm not in ("count", "relative"):
            raise ValueError(f"norm must be 'count' or 'relative', found {norm!r}")
        self.grid = grid
        half = kernel_size // 2
        paddings = [half] * num_layers
        if padding == "first":
            paddings = [half * num_layers if layer == 0 else 0 for layer in range(num_layers)]
        self.convs = nn.ModuleList(
            nn.Conv2d(hidden_size, hidden_size, kernel_size, padding=width) for width in paddings
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(hidden_size) if batch_norm else nn.Identity() for _ in paddings
        )
        if norm == "relative":
            for conv in self.convs:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        # A cell that sees itself alone needs no square and no weight: one valid cell is under it.
        self.alone = num_layers == 0 or (kernel_size == 1 and not batch_norm)
        scale = kernel_size**2 if norm == "relative" else 1
        weights = neighbour_weights(grid.mask, kernel_size, paddings, grow=padding == "first")
        for layer, weight in enumerate(weights):
            self.register_buffer(f"weight_{layer}", weight * scale, persistent=False)
        self.batch_norm, self.tiled = batch_norm, None
        if self.alone:
            return
        kept = [weight[0, 0] > 0 for weight in weights]
        if batch_norm:  # it sees the whole square, where a cell that saw none is the bias
            self.rows = [Rows.square(cells) for cells in kept]
        else:
            read = cells_read(grid.mask, kept, kernel_size, paddings)
            self.rows = [Rows.only(cells) for cells in read]
        self.tiled = plan_stack(
            list(pairwise([Rows.only(grid.mask), *self.rows])),
            kernel_size=kernel_size,
            paddings=paddings,
            hidden_size=hidden_size,
        )

    def forward(
        self, features: Float[Tensor, "M P D"], outside: Float[Tensor, "M D"] | None = None
    ) -> Float[Tensor, "M P D"]:
        """``outside`` fills the cells that are no proposals; default: zero."""
        if self.alone:
            for conv in self.convs:
                assert isinstance(conv, nn.Conv2d)
                features = nn.functional.linear(features, conv.weight.flatten(1), conv.bias).relu_()
            return features
        if self.recompute and torch.is_grad_enabled():
            return recomputed(self, self._convolved, features, outside)
        return self._convolved(features, outside)

    def _convolved(
        self, features: Float[Tensor, "M P D"], outside: Float[Tensor, "M D"] | None
    ) -> Float[Tensor, "M P D"]:
        if self.tiled and self.tiled.suits(features) and outside is None:
            return self._tiled(features, self.tiled)
        x = self.grid.square(features, outside)
        for layer, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            # No weight is negative, so multiplying before the ReLU gives the same. Both work in
            # place, since no gradient needs the values that they overwrite.
            weight = getattr(self, f"weight_{layer}")
            x = norm(conv(x)).mul_(weight.to(x.dtype)).relu_()
        return self.grid.valid(x)

    def _tiled(self, features: Float[Tensor, "M P D"], tiled: TiledStack) -> Float[Tensor, "M P D"]:
        x = features
        for layer, (convolve, conv, norm, rows) in enumerate(
            zip(tiled.layers(), self.convs, self.norms, self.rows, strict=True)
        ):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            x = convolve(x, conv.weight[None])
            x = x.add_(conv.bias)
            if self.batch_norm:
                x = batch_norm(norm, x)
            weight = getattr(self, f"weight_{layer}").flatten()
            if not self.batch_norm:
                weight = weight[rows.of.flatten() >= 0]
            x = x.mul_(weight[:, None]).relu_()
        return x.index_select(1, self.grid.cells) if self.batch_norm else x


def as_square(rows: Float[Tensor, "M A D"]) -> Float[Tensor, "M D S S"]:
    """A view of rows for every cell of a square, channels last in memory."""
    size = math.isqrt(rows.shape[1])
    return rows.unflatten(1, (size, size)).permute(0, 3, 1, 2)


def as_rows(square: Float[Tensor, "M D S S"]) -> Float[Tensor, "M A D"]:
    """The inverse of ``as_square``."""
    return square.permute(0, 2, 3, 1).flatten(1, 2)
