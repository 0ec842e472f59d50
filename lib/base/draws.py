"""Random numbers of a training step that belong to a paragraph and not to the batch it is in.

What a step draws for a paragraph (which words are masked, what dropout drops) is hashed from a
number that is drawn once for every such call, from the paragraph's id and the place of the
sentence, and from the place within the row. So it is the same however a batch is shared among
processes, cut into parts, or padded.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .batch import Batch

T = TypeVar("T")
_LOWEST, _COUNT = -(2**31), 2**32  # of 32-bit numbers
_AXES = (0x9E3779B9 - _COUNT, 0x85EBCA6B - _COUNT, 0x27D4EB2F)  # odd; one for each axis of a row


@dataclass(frozen=True)
class _Owners:
    """A number for each paragraph of a batch, and one for each sentence; a paragraph's first
    sentence has the number of the paragraph."""

    paragraphs: Int[Tensor, " B"]
    sentences: Int[Tensor, " M"]


_owners: _Owners | None = None
_rows: Int[Tensor, " R"] | None = None


@contextlib.contextmanager
def drawn_for(batch: Batch) -> Iterator[None]:
    """A context in which what is drawn belongs to the paragraphs of a batch. Outside of it, draws
    are Torch's own."""
    global _owners
    names = [name.encode("utf-8", "surrogatepass") for name in batch.paragraph_ids]
    digests = [hashlib.blake2b(name, digest_size=4).digest() for name in names]
    numbers = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    device = batch.flat_index.device
    paragraphs = torch.tensor(numbers, dtype=torch.int32).to(device, non_blocking=True)
    sentences = paragraphs[batch.owner] + _mixed(batch.sentence_position.to(torch.int32))
    before, _owners = _owners, _Owners(paragraphs, sentences)
    try:
        yield
    finally:
        _owners = before


def rows_of(
    row: Int[Tensor, " R"], place: Int[Tensor, " R"], count: int
) -> contextlib.AbstractContextManager[None]:
    """A context in which row r of every tensor is at a place (a word, …) of the row ``row[r]`` of
    tensors with ``count`` rows. Elsewhere rows are the paragraphs, or the sentences, each once or
    an equal number of times in succession."""
    numbers = _numbers_of(count)
    if numbers is None:
        return contextlib.nullcontext()
    return _given(_placed(numbers[row], place.to(torch.int32)))


@contextlib.contextmanager
def _given(numbers: Int[Tensor, " R"]) -> Iterator[None]:
    global _rows
    before, _rows = _rows, numbers
    try:
        yield
    finally:
        _rows = before


class Blocks:
    """For a stack of layers that reads its rows a block at a time, each perhaps a second time in
    the backward pass: what they draw is what all rows in one piece would."""

    def __init__(self, rows: int) -> None:
        self.numbers = _numbers_of(rows)
        self.began = torch.get_rng_state()

    def of(self, chosen: slice, function: Callable[..., T]) -> Callable[..., T]:
        """A function that is to be called next, with these rows."""
        if self.numbers is None:
            return function
        torch.set_rng_state(self.began)
        numbers = self.numbers[chosen]

        def drawing(*given: Any) -> T:
            with _given(numbers):
                return function(*given)

        return drawing


def uniform(like: Tensor) -> Float[Tensor, ...]:
    """Numbers in (0, 1) of the shape of a tensor whose first axis is one of rows."""
    bits = _bits(like.shape, like.device)
    if bits is None:
        return torch.rand(like.shape, device=like.device).clamp(min=2**-24)
    return (((bits >> 9) & (2**23 - 1)).to(torch.float32) + 0.5) / 2**23


def exponential(like: Tensor) -> Float[Tensor, ...]:
    """Exponential numbers, likewise."""
    return -uniform(like).log()


def dropout(x: Tensor, chance: float) -> Tensor:
    """Zeros in the place of some numbers, and the others scaled, likewise."""
    kept = _kept(x, chance)
    if kept is None:
        return nn.functional.dropout(x, chance)
    return _Dropout.apply(x, kept, _scale(chance))


def dropout_of_relu(x: Tensor, chance: float) -> Tensor:
    """``dropout`` of the positive part of a tensor, which is overwritten. What is dropped need not
    be kept for the backward pass: there as where ``x`` is not positive, the result is zero."""
    kept = _kept(x, chance)
    if kept is None:
        return nn.functional.dropout(x.relu_(), chance)
    return _DropoutOfReLU.apply(x, kept, _scale(chance))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return x.mul(kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return gradient.mul(kept).mul_(ctx.scale), None, None


class _DropoutOfReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.scale = scale
        x.relu_().mul_(kept).mul_(scale)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0.0).mul_(ctx.scale), None, None


def drop_by_paragraph(model: nn.Module) -> None:
    """Have all dropout of a model's modules drawn here, that inside of attention too."""
    for module in model.modules():
        for kind, ours in ((nn.Dropout, _DropoutModule), (nn.MultiheadAttention, _Attention)):
            if type(module) is kind:  # of which ours differ in ``forward`` alone
                module.__class__ = ours


class _DropoutModule(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p) if self.training else input


class _Attention(nn.MultiheadAttention):
    """Torch's attention. Where it drops, its equations are spelt out, because Torch's own draw by
    the place in the batch."""

    def forward(
        self,
        query: Float[Tensor, "B L D"],
        key: Float[Tensor, "B K D"],
        value: Float[Tensor, "B K D"],
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        dropping = self.training and self.dropout > 0 and _numbers_of(len(query)) is not None
        plain = self._qkv_same_embed_dim and self.bias_k is None and not self.add_zero_attn
        if not (dropping and plain and self.batch_first and query.dim() == 3):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = (
            nn.functional.linear(x, weight, bias)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        masks = []
        if attn_mask is not None:
            each = attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (len(query), -1))
            masks.append(each)
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        read, shares = attended(*projected, *masks, heads=self.num_heads, chance=self.dropout)
        if not need_weights:
            return self.out_proj(read), None
        return self.out_proj(read), shares.mean(dim=1) if average_attn_weights else shares


def attended(
    q: Float[Tensor, "B L D"],
    k: Float[Tensor, "B K D"],
    v: Float[Tensor, "B K D"],
    *masks: Tensor,
    heads: int,
    chance: float,
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B H L K"]]:
    """What the heads of an attention read, side by side, and its shares, of which some are dropped.

    Args:
        q, k, v: queries, keys and values, after their linear maps.
        masks: of shapes that broadcast to that of the shares; added before the soft-max, or, of
            bool, forbidding where they are True.
    """
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    for mask in masks:
        scores = _masked(scores, mask)
    shares = scores.softmax(dim=-1)
    if chance:
        shares = dropout(shares, chance)
    return (shares @ v).transpose(1, 2).flatten(2), shares


def _masked(scores: Float[Tensor, "B H L K"], mask: Tensor) -> Float[Tensor, "B H L K"]:
    """Torch's masks are added, or forbid where they are True."""
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def _kept(like: Tensor, chance: float) -> Tensor | None:
    """0 where a number of a tensor is dropped, and 1 elsewhere, in its precision. None where there
    is nothing to draw, or the rows belong to nobody known.

    A chance is a multiple of 2^-16, so that each number that is hashed is enough for two.
    """
    if not 0 < chance < 1:
        return None
    width = like.shape[-1] if like.dim() > 1 else 1
    bits = _bits((*like.shape[: max(1, like.dim() - 1)], (width + 1) // 2), like.device)
    if bits is None:
        return None
    halves = bits.view(torch.int16)[..., :width]
    # A product is several times faster on a CPU than filling by a mask of bool.
    kept = torch.empty(halves.shape, dtype=like.dtype, device=like.device)
    return torch.ge(halves, _share(chance) - 2**15, out=kept).view(like.shape)


def _share(chance: float) -> int:
    return min(round(chance * 2**16), 2**16 - 1)


def _scale(chance: float) -> float:
    """What keeps the mean as it is."""
    return 1 / (1 - _share(chance) / 2**16)


def _bits(shape: Sequence[int], device: torch.device) -> Int[Tensor, ...] | None:
    """Random 32-bit numbers of a shape; None where its rows belong to nobody known."""
    rows = _numbers_of(shape[0]) if shape else None
    if rows is None:
        return None
    # One number of the generator a call, whatever the shape: all processes stay in step.
    call = torch.randint(_LOWEST, _LOWEST + _COUNT, (), dtype=torch.int32)
    place = torch.zeros((), dtype=torch.int32, device=device)
    for size, odd in zip(reversed(shape[1:]), _AXES, strict=False):
        index = torch.arange(1, size + 1, dtype=torch.int32, device=device)
        place = _mixed(index * odd).view(-1, *(1 for _ in place.shape)) + place
    first = _mixed(rows + call).view(-1, *(1 for _ in shape[1:]))
    return _mixed(first + place)


def _numbers_of(rows: int) -> Int[Tensor, " R"] | None:
    if _rows is not None or _owners is None:
        return _rows if _rows is not None and len(_rows) == rows else None
    if rows == len(_owners.paragraphs):
        return _owners.paragraphs
    times, rest = divmod(rows, len(_owners.sentences))
    if rest or not times:
        return None
    if times == 1:
        return _owners.sentences
    place = torch.arange(times, dtype=torch.int32, device=_owners.sentences.device)
    return _placed(_owners.sentences[:, None], place).flatten()


def _placed(sentences: Int[Tensor, "*#b"], place: Int[Tensor, "*#b"]) -> Int[Tensor, ...]:
    return _mixed(_mixed(sentences) + place + 1)


def _mixed(x: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """A hash of 32-bit numbers that leaves 0 as it is; its high bits are the good ones.

    Source: hash-prospector (Wellons, 2018), less the last shift. Shifts keep the sign here, which
    costs a bit and saves time.
    """
    for shift, odd in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        shifted = x >> shift
        shifted ^= x
        x = shifted.mul_(odd)
    return x
