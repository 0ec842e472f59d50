"""Convolutions over the map whose kernels depend on the sentence and the map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .batch_norm import batch_norm
from .proposal_map import ProposalGrid, as_rows, as_square, neighbour_weights
from .recompute import Recomputable, recomputed
from .tiled_conv import Rows, TiledStack, plan_stack


class DynamicConv(nn.Module):
    """A convolution with a kernel of its own for each item: a mixture of a few base kernels.

    The mixture is a soft-max over base kernels, decided by the sentence and by the mean of the map.

    Args:
        hidden_size: D, in and out.
        kernel_size: odd; the map keeps its size.
        base_kernels: K.
        dropout: on the mixture, which is not brought back to sum 1.

    Source: CDN's cross-modal dynamic convolution. All items are convolved at once, as groups.
    """

    def __init__(
        self, hidden_size: int, *, kernel_size: int, base_kernels: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        D = hidden_size
        self.weight = nn.Parameter(torch.empty(base_kernels, D, D, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(base_kernels, D))
        bound = (D * kernel_size**2) ** -0.5  # of every ordinary convolution of this size
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        self.of_sentence = nn.Linear(D, D)
        self.of_map = nn.Linear(D, D)
        self.mix = nn.Linear(D, base_kernels)
        self.dropout = nn.Dropout(dropout)

    def mixture(
        self, square: Float[Tensor, "M D N N"], sentence: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M K"]:
        """Shares of the base kernels; the mean is over the whole square."""
        state = self.of_sentence(sentence) + self.of_map(square.mean(dim=(2, 3)))
        return self.dropout(self.mix(state.tanh()).softmax(dim=-1))

    def mixed(
        self, square: Float[Tensor, "M D N N"], sentence: Float[Tensor, "M D"]
    ) -> tuple[Float[Tensor, "M D D k k"], Float[Tensor, "M D"]]:
        """The kernel and the bias of each item."""
        mixture = self.mixture(square, sentence)
        return torch.einsum("mk,koihw->moihw", mixture, self.weight), mixture @ self.bias

    def forward(
        self, square: Float[Tensor, "M D N N"], sentence: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M D N N"]:
        M, D = square.shape[:2]
        kernels, bias = (x.flatten(0, 1) for x in self.mixed(square, sentence))
        together = square.flatten(0, 1)[None]  # (1, M·D, N, N)
        out = nn.functional.conv2d(together, kernels, bias, padding="same", groups=M)
        return out.unflatten(1, (M, D))[0]


class DynamicConvStack(Recomputable):
    """Residual convolutions over the map, the first of them dynamic, with batch norm before each.

    Every layer divides by the number of valid cells under its kernel, and a cell that saw one is
    valid for the next layer. Batch statistics are those of the whole square. Convolutions are in
    tiles where ``MaskedConvStack``'s are.

    Args:
        hidden_size: D.
        grid: the map.
        kernel_size, num_layers: of the convolutions.
        dynamic_layers: the first so many are dynamic, of ``base_kernels`` kernels each.

    Source: CDN. Its release does not say which layers are dynamic; four of the eight fits what it
    leaves unused (COND_NUM: 4).
    """

    def __init__(
        self,
        hidden_size: int,
        grid: ProposalGrid,
        *,
        kernel_size: int,
        num_layers: int,
        dynamic_layers: int,
        base_kernels: int,
    ) -> None:
        super().__init__()
        if not 0 <= dynamic_layers <= num_layers:
            raise ValueError(f"{dynamic_layers} dynamic layers of {num_layers}")
        self.grid = grid
        self.dynamic = nn.ModuleList(
            DynamicConv(hidden_size, kernel_size=kernel_size, base_kernels=base_kernels)
            for _ in range(dynamic_layers)
        )
        self.static = nn.ModuleList(
            nn.Conv2d(hidden_size, hidden_size, kernel_size, padding="same")
            for _ in range(num_layers - dynamic_layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(hidden_size) for _ in range(num_layers + 1))
        paddings = [kernel_size // 2] * num_layers
        weights = neighbour_weights(grid.mask, kernel_size, paddings, grow=True)
        for layer, weight in enumerate(weights):
            self.register_buffer(f"weight_{layer}", weight, persistent=False)
        # The norm before a convolution leaves no cell of the square zero.
        given = Rows.square(torch.ones_like(grid.mask))
        self.tiled = plan_stack(
            [(given, Rows.square(weight[0, 0] > 0)) for weight in weights],
            kernel_size=kernel_size,
            paddings=paddings,
            hidden_size=hidden_size,
            own_kernels=dynamic_layers,
        )

    def forward(
        self, features: Float[Tensor, "M P D"], sentence: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M P D"]:
        if self.recompute and torch.is_grad_enabled():
            return recomputed(self, self._convolved, features, sentence)
        return self._convolved(features, sentence)

    def _convolved(
        self, features: Float[Tensor, "M P D"], sentence: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M P D"]:
        if self.tiled and self.tiled.suits(features):
            return self._tiled(features, sentence, self.tiled)
        x = self.grid.square(features)
        for layer, norm in enumerate(self.norms[:-1]):  # type: ignore[arg-type]
            x = norm(x)
            if layer < len(self.dynamic):
                y = self.dynamic[layer](x, sentence)
            else:
                y = self.static[layer - len(self.dynamic)](x)
            weight = getattr(self, f"weight_{layer}")  # not negative, see MaskedConvStack
            x = (y + x).mul_(weight.to(x.dtype)).relu_()
        return self.grid.valid(self.norms[-1](x))

    def _tiled(
        self, features: Float[Tensor, "M P D"], sentence: Float[Tensor, "M D"], tiled: TiledStack
    ) -> Float[Tensor, "M P D"]:
        x = as_rows(self.grid.square(features))
        for layer, convolve in enumerate(tiled.layers()):
            x = batch_norm(self.norms[layer], x)
            if layer < len(self.dynamic):
                conv = self.dynamic[layer]
                assert isinstance(conv, DynamicConv)
                kernels, bias = conv.mixed(as_square(x), sentence)
            else:
                static = self.static[layer - len(self.dynamic)]
                assert isinstance(static, nn.Conv2d) and static.bias is not None
                kernels, bias = static.weight[None], static.bias[None]
            weight = getattr(self, f"weight_{layer}").flatten()[:, None]
            x = convolve(x, kernels).add_(bias[:, None]).add_(x).mul_(weight).relu_()
        return batch_norm(self.norms[-1], x).index_select(1, self.grid.cells)
