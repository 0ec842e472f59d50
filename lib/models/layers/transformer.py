"""Summaries of a sequence, attention blocks, and a decoder whose attention can be weighed."""

from __future__ import annotations

import contextlib
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def transformer_encoder(
    hidden_size: int, *, num_layers: int, heads: int, feedforward: int, dropout: float
) -> nn.TransformerEncoder:
    """The encoder of the retrieval branch: post-norm, learned positions are added outside."""
    layer = nn.TransformerEncoderLayer(
        hidden_size, heads, feedforward, dropout, batch_first=True, norm_first=False
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


class ClassToken(nn.Module):
    """A learned token in front of a sequence with learned positions.

    Args:
        length: positions; items beyond the last share its position.
        hidden_size: D.
    """

    def __init__(self, length: int, hidden_size: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.positions = nn.Parameter(torch.randn(length + 1, hidden_size) * 0.02)

    def forward(
        self,
        encoder: nn.TransformerEncoder,
        items: Float[Tensor, "B L D"],
        mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """The state of the token after ``encoder`` has read it with the real items."""
        B, L = items.shape[:2]
        tokens = torch.cat([self.token.expand(B, 1, -1).to(items.dtype), items], dim=1)
        index = torch.arange(L + 1, device=items.device).clamp(max=len(self.positions) - 1)
        padding = None
        if mask is not None:
            padding = ~torch.cat([mask.new_ones(B, 1), mask], dim=1)
        states = encoder(tokens + self.positions[index], src_key_padding_mask=padding)
        return states[:, 0]


def encode_positioned(
    encoder: nn.TransformerEncoder,
    x: Float[Tensor, "B L D"],
    positions: Float[Tensor, "L D"],
    mask: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L D"]:
    """``encoder`` with positions added to queries and keys of every layer, not to values (DETR)."""
    padding = None if mask is None else ~mask
    for layer in encoder.layers:
        positioned = x + positions
        attended, _ = layer.self_attn(
            positioned, positioned, x, key_padding_mask=padding, need_weights=False
        )
        x = layer.norm1(x + layer.dropout1(attended))
        x = layer.norm2(x + layer._ff_block(x))
    return x


class AttentivePool(nn.Module):
    """The items' mean, weighed by the soft-max of a linear score over the real ones."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def forward(
        self, items: Float[Tensor, "M L D"], mask: Bool[Tensor, "M L"] | None = None
    ) -> Float[Tensor, "M D"]:
        scores = self.score(items).squeeze(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.einsum("ml,mld->md", scores.softmax(dim=1), items)


class AttentionBlock(nn.Module):
    """Self-attention, added to its input and normalised; no feed-forward part.

    Args:
        copies: blocks with weights of their own that read the same input; their mean comes out.

    Source: the encoder of TVR, in JSG and GMMFormer, and in DCIML (without Gaussian windows).
    """

    def __init__(self, hidden_size: int, *, heads: int, dropout: float, copies: int = 1) -> None:
        super().__init__()
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(hidden_size, heads, dropout, batch_first=True)
            for _ in range(copies)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(copies))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "M L D"], mask: Bool[Tensor, "M L"] | None = None
    ) -> Float[Tensor, "M L D"]:
        padding = None if mask is None else ~mask
        out = torch.zeros_like(x)
        for attention, norm in zip(self.attention, self.norm, strict=True):
            attended, _ = attention(x, x, x, key_padding_mask=padding, need_weights=False)
            out = out + norm(x + self.dropout(attended))
        return out / len(self.attention)


class WeighedDecoder(nn.Module):
    """Causal decoder layers, post-norm, with optional memory and optional weights on what is read.

    Weights multiply the attention's probabilities, which are brought back to sum 1; that is adding
    their logarithm before the soft-max. Attention itself drops nothing.

    Args:
        memory: False for one that never reads a memory and has no attention for it.

    Source: CPL's decoders, as DCIML uses them.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        num_layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        memory: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        kind = nn.TransformerDecoderLayer if memory else nn.TransformerEncoderLayer
        self.layers = nn.ModuleList(
            kind(hidden_size, heads, feedforward, dropout, batch_first=True)
            for _ in range(num_layers)
        )
        for attention in self.modules():
            if isinstance(attention, nn.MultiheadAttention):
                attention.dropout = 0.0

    def forward(
        self,
        x: Float[Tensor, "M L D"],
        mask: Bool[Tensor, "M L"] | None = None,
        weights: Float[Tensor, "M L"] | None = None,
        memory: Float[Tensor, "M K D"] | None = None,
        memory_mask: Bool[Tensor, "M K"] | None = None,
        memory_weights: Float[Tensor, "M K"] | None = None,
    ) -> Float[Tensor, "M L D"]:
        """A position attends to those up to itself, and to all of ``memory`` if that is given."""
        L = x.shape[1]
        future = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
        bias = self._bias(x, mask, weights).masked_fill(future, -torch.inf)
        across = None if memory is None else self._bias(memory, memory_mask, memory_weights)
        with _differentiable_bias(bias, across):
            return self._layers(x, bias, memory, across)

    def _layers(
        self,
        x: Float[Tensor, "M L D"],
        bias: Float[Tensor, "M L L"],
        memory: Float[Tensor, "M K D"] | None,
        across: Float[Tensor, "M 1 K"] | None,
    ) -> Float[Tensor, "M L D"]:
        L = x.shape[1]
        for layer in self.layers:
            assert isinstance(layer, nn.TransformerDecoderLayer | nn.TransformerEncoderLayer)
            own = self._heads(bias, L)
            attended = layer.self_attn(x, x, x, attn_mask=own, need_weights=False)[0]
            x = layer.norm1(x + layer.dropout1(attended))
            last = layer.norm2
            if isinstance(layer, nn.TransformerDecoderLayer):
                last = layer.norm3
            if memory is not None and across is not None:
                assert isinstance(layer, nn.TransformerDecoderLayer), "built without a memory"
                bias_across = self._heads(across, L)
                attended = layer.multihead_attn(
                    x, memory, memory, attn_mask=bias_across, need_weights=False
                )[0]
                x = layer.norm2(x + layer.dropout2(attended))
            x = last(x + layer._ff_block(x))
        return x

    @staticmethod
    def _bias(
        read: Float[Tensor, "M K D"],
        mask: Bool[Tensor, "M K"] | None,
        weights: Float[Tensor, "M K"] | None,
    ) -> Float[Tensor, "M 1 K"]:
        """The term added to the attention scores of each position that is attended to."""
        bias = read.new_zeros(read.shape[:2]) if weights is None else (weights + 1e-10).log()
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
        return bias[:, None]

    def _heads(self, bias: Float[Tensor, "M _ K"], length: int) -> Float[Tensor, "MH L K"]:
        """One mask for every head, as the attention wants it."""
        full = bias.expand(-1, length, -1)
        return full.repeat_interleave(self.heads, dim=0)


def _differentiable_bias(*biases: Tensor | None) -> contextlib.AbstractContextManager[None]:
    """Where a gradient is to reach the bias, without the memory-efficient kernels of GPUs, whose
    backward pass fails for lengths that are no multiple of their tiles."""
    if any(bias is not None and bias.requires_grad for bias in biases):
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    return contextlib.nullcontext()


class FiLM(nn.Module):
    """Scale and shift of features, both computed from a condition by a small network.

    Source: Perez et al. 2018, as DCIML's branches modulate each other.
    """

    def __init__(self, condition: int, hidden_size: int, inner: int = 512) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Sequential(nn.Linear(condition, inner), nn.ReLU(), nn.Linear(inner, hidden_size))
            for _ in range(2)
        )

    def forward(
        self, features: Float[Tensor, "M ... D"], condition: Float[Tensor, "M E"]
    ) -> Float[Tensor, "M ... D"]:
        shape = (len(condition), *(1 for _ in features.shape[1:-1]), -1)
        scale, shift = self.scale(condition), self.shift(condition)
        return scale.reshape(shape) * features + shift.reshape(shape)


def sinusoids(length: int, hidden_size: int) -> Float[Tensor, "L D"]:
    """Positions as sines, then cosines, of falling frequency; the first row is zero (fairseq)."""
    half = hidden_size // 2
    frequency = (torch.arange(half) * (-math.log(10_000) / (half - 1))).exp()
    angle = torch.arange(length)[:, None] * frequency
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    table[0] = 0
    return table


def interleaved_sinusoids(length: int, hidden_size: int) -> Float[Tensor, "L D"]:
    """Positions as sine and cosine of each falling frequency in turn; the first row is 0, 1, 0, 1 …

    Source: Vaswani et al. 2017.
    """
    even = torch.arange(0, hidden_size, 2)
    angle = torch.arange(length)[:, None] / 10_000 ** (even / hidden_size)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def small_normal(module: nn.Module) -> None:
    """BERT's initialisation of linear maps and tables."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def xavier_attention(module: nn.Module) -> None:
    """fairseq's initialisation of attention: Xavier's uniform on both matrices, biases 0. (PyTorch
    has that for the one of queries, keys and values; its output begins as a linear layer does.)"""
    if isinstance(module, nn.MultiheadAttention):
        nn.init.xavier_uniform_(module.in_proj_weight)
        nn.init.xavier_uniform_(module.out_proj.weight)
