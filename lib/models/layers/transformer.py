"""Encoders of sequences and their summaries, attention blocks, and a decoder whose attention can be
weighed."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...base import draws
from ...base.batch import Layout


def transformer_encoder(
    hidden_size: int, *, num_layers: int, heads: int, feedforward: int, dropout: float
) -> nn.TransformerEncoder:
    """The encoder of the retrieval branch: post-norm, learned positions are added outside."""
    layer = nn.TransformerEncoderLayer(
        hidden_size, heads, feedforward, dropout, batch_first=True, norm_first=False
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


@dataclass(frozen=True)
class Places:
    """Where the items of sequences stand, one item after the other: (R, …) instead of (L, W, …).

    Linear maps, norms and feed-forward layers read the items alone; the padded sequences exist only
    inside attention.
    """

    sequence: Int[Tensor, " R"]
    place: Int[Tensor, " R"]
    shape: tuple[int, int]  # L, the sequences, and W, the places of each
    full: bool = False  # every place has an item, in order

    @staticmethod
    def all_of(L: int, W: int, device: torch.device) -> Places:
        every = torch.arange(L * W, device=device)
        return Places(every // W, every % W, (L, W), full=True)

    @property
    def index(self) -> Int[Tensor, " R"]:
        """Of each item in the flattened (L·W) axis."""
        return self.sequence * self.shape[1] + self.place

    def padded(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "L W D"]:
        """Zeros where there is no item."""
        if self.full:
            return x.unflatten(0, self.shape)
        empty = x.new_zeros(self.shape[0] * self.shape[1], x.shape[1])
        return empty.index_copy(0, self.index, x).unflatten(0, self.shape)

    def flat(self, x: Float[Tensor, "L W D"]) -> Float[Tensor, "R D"]:
        x = x.flatten(0, 1)
        return x if self.full else x.index_select(0, self.index)

    def padding(self) -> Bool[Tensor, "L W"] | None:
        """Where there is no item; None where there is one everywhere."""
        if self.full:
            return None
        everywhere = self.index.new_ones(self.shape[0] * self.shape[1], dtype=torch.bool)
        return everywhere.index_fill(0, self.index, False).unflatten(0, self.shape)

    def repeated(self, times: int) -> Places:
        """Each sequence ``times`` in succession; the items of all first copies come first."""
        copy = torch.arange(times, device=self.sequence.device)[:, None]
        return Places(
            (self.sequence * times + copy).flatten(),
            self.place.repeat(times),
            (self.shape[0] * times, self.shape[1]),
        )

    def drawing(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the rows of tensors are the items."""
        return draws.rows_of(self.sequence, self.place, self.shape[0])


def projected(
    attention: nn.MultiheadAttention, x: Float[Tensor, "*R D"], what: Literal["q", "kv", "qkv"]
) -> tuple[Float[Tensor, "*R D"], ...]:
    """Queries, keys and values of items, as far as asked for, by the linear map of an attention."""
    D = attention.embed_dim
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if what != "qkv":
        weight, bias = (each.split([D, 2 * D])[what == "kv"] for each in (weight, bias))
    return nn.functional.linear(x, weight, bias).chunk(len(what), dim=-1)


def attend(
    attention: nn.MultiheadAttention,
    q: Float[Tensor, "L Q D"],
    k: Float[Tensor, "L K D"],
    v: Float[Tensor, "L K D"],
    padding: Bool[Tensor, "L K"] | None = None,
) -> Float[Tensor, "L Q D"]:
    """What an attention reads by queries, keys and values that its linear map gave, before its
    output map."""
    masks = [] if padding is None else [padding[:, None, None]]
    chance = attention.dropout if attention.training else 0.0
    return draws.attended(q, k, v, *masks, heads=attention.num_heads, chance=chance)[0]


def self_attended(
    attention: nn.MultiheadAttention,
    x: Float[Tensor, "R D"],
    places: Places,
    padding: Bool[Tensor, "L W"] | None,
    asking: Float[Tensor, "R1 D"] | None = None,
    asked: Places | None = None,
) -> Float[Tensor, "R1 D"]:
    """What the items ``asking`` read of all items of their sequences: all of them, or some, whose
    places among those that ask are ``asked``."""
    if asking is None or asked is None:
        asked = places
        q, k, v = projected(attention, x, "qkv")
    else:
        (q,), (k, v) = projected(attention, asking, "q"), projected(attention, x, "kv")
    read = attend(attention, asked.padded(q), places.padded(k), places.padded(v), padding)
    return attention.out_proj(asked.flat(read))


def feed_forward(
    layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer, x: Float[Tensor, "*R D"]
) -> Float[Tensor, "*R D"]:
    """The feed-forward part of a layer of Torch with ReLU, and its dropout."""
    drop = layer.dropout3 if isinstance(layer, nn.TransformerDecoderLayer) else layer.dropout2
    chance = layer.dropout.p if layer.training else 0.0
    return drop(layer.linear2(draws.dropout_of_relu(layer.linear1(x), chance)))


def encode(
    encoder: nn.TransformerEncoder,
    x: Float[Tensor, "R D"],
    places: Places,
    first: Int[Tensor, " L"] | None = None,
) -> Float[Tensor, "R1 D"]:
    """The states of items after an encoder, post-norm and with ReLU, has read their sequences.

    Args:
        first: an item of each sequence, of which alone a state is wanted: the last layer computes
            no other.
    """
    padding, last = places.padding(), len(encoder.layers) - 1
    asking = asked = None
    for depth, layer in enumerate(encoder.layers):
        assert isinstance(layer, nn.TransformerEncoderLayer)
        if depth == last and first is not None:
            asking = x.index_select(0, first)
            asked = Places.all_of(len(first), 1, x.device)
        read = self_attended(layer.self_attn, x, places, padding, asking, asked)
        with (asked or places).drawing():
            x = layer.norm1((x if asking is None else asking) + layer.dropout1(read))
            x = layer.norm2(x + feed_forward(layer, x))
    return x


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
        items: Float[Tensor, "*B M D"],
        layout: Layout | None = None,
    ) -> Float[Tensor, "B D"]:
        """The state of the token after ``encoder`` has read it with the items: (B, L, D), or the
        (M, D) of the sentences of a layout."""
        if layout is None:
            B, L = items.shape[:2]
            tokens = self.token.expand(B, 1, -1).to(items.dtype)
            x = torch.cat([tokens, items], dim=1).flatten(0, 1)
            places = Places.all_of(B, L + 1, items.device)
            first = torch.arange(B, device=items.device) * (L + 1)
        else:
            B, S = layout.sentence_mask.shape
            first = torch.arange(B, device=items.device)
            x = torch.cat([self.token.expand(B, -1).to(items.dtype), items])
            places = Places(
                torch.cat([first, layout.owner]),
                torch.cat([torch.zeros_like(first), layout.sentence_position + 1]),
                (B, S + 1),
            )
        positions = self.positions[places.place.clamp(max=len(self.positions) - 1)]
        return encode(encoder, x + positions, places, first)


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
        x = layer.norm2(x + feed_forward(layer, x))
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
            x = last(x + feed_forward(layer, x))
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
