"""Predict the masked words of a sentence from the frames of a candidate moment."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...base.batch import DataDims
from ...base.draws import rows_of
from .text import MaskedWords, word_logits, word_places

MOST_WORDS = 2**16  # of a sentence, as far as numbering the words of all candidates goes


class Reconstructor(nn.Module):
    """Transformer encoder over frames, decoder over the masked sentence, linear map to words.

    Args:
        dims: C, V and the words' vectors; the frames pass a linear map of their own to D.
        hidden_size: D.
        num_layers: of the encoder and of the decoder.
        heads, feedforward, dropout: of both.
        num_frames: frames of a candidate, for learned positions.

    Source: DMR-JRG Eq. 9-10, after SCN. Every part is registered here, and so trained and saved.
    """

    def __init__(
        self,
        dims: DataDims,
        hidden_size: int,
        *,
        num_layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        num_frames: int,
    ) -> None:
        super().__init__()
        self.frames = nn.Linear(dims.video_dim, hidden_size)
        self.positions = nn.Parameter(torch.randn(num_frames, hidden_size) * 0.02)
        sizes = (hidden_size, heads, feedforward, dropout)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*sizes, batch_first=True),
            num_layers,
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(*sizes, batch_first=True), num_layers
        )
        self.words = word_logits(dims, hidden_size, tied=False)

    def forward(
        self,
        frames: Float[Tensor, "B T D"],
        owner: Int[Tensor, " M"],
        rows: Int[Tensor, "M Q F"],
        states: Float[Tensor, "M W D"],
        counts: Int[Tensor, " M"],
        masked: MaskedWords,
    ) -> Float[Tensor, "Q R V"]:
        """Logits of the R masked words, for each candidate.

        Args:
            frames: of the videos, through ``self.frames``.
            owner: the video of each sentence.
            rows: the frames of each of its Q candidates.
            states: of the words of the masked sentence, of which ``counts`` (on the CPU) are real.
        """
        M, Q, F = rows.shape
        indices = (owner[:, None, None] * frames.shape[1] + rows).flatten()
        moments = frames.flatten(0, 1).index_select(0, indices).view(M * Q, F, -1)
        memory = self.encoder(moments + self.positions)
        return self.words(self._decode(memory, Q, states, counts, masked))

    def _decode(
        self,
        memory: Float[Tensor, "MQ F D"],
        Q: int,
        states: Float[Tensor, "M W D"],
        counts: Int[Tensor, " M"],
        masked: MaskedWords,
    ) -> Float[Tensor, "Q R D"]:
        """The decoder of torch, without computing what is never used.

        A sentence is the same for all its candidates until it first attends to one, padding needs
        no feed-forward, and in the last layer only the masked words need an output.
        """
        M, W, _ = states.shape
        sentence, column = (i.to(states.device, non_blocking=True) for i in word_places(counts))
        real, padding = sentence * W + column, torch.ones_like(states[..., 0], dtype=torch.bool)
        padding = padding.flatten().index_fill(0, real, False).view(M, W)
        candidate = torch.arange(Q, device=states.device)[:, None]
        x, last = states, len(self.decoder.layers) - 1
        for depth, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, nn.TransformerDecoderLayer)
            read = x if depth < last else _columns(x, masked.column)
            attended = layer.self_attn(read, x, x, key_padding_mask=padding, need_weights=False)[0]
            read = layer.norm1(read + layer.dropout1(attended))
            if depth == 0:
                read = read.repeat_interleave(Q, dim=0)
                padding = padding.repeat_interleave(Q, dim=0)
            attended = layer.multihead_attn(read, memory, memory, need_weights=False)[0]
            read = layer.norm2(read + layer.dropout2(attended))
            L = read.shape[1]
            kept = (sentence, column) if depth < last else (masked.sentence, masked.slot)
            indices = ((kept[0] * Q + candidate) * L + kept[1]).flatten()
            words = read.flatten(0, 1).index_select(0, indices)
            places = candidate * MOST_WORDS + kept[1]
            with rows_of(kept[0].expand_as(places).flatten(), places.flatten()):
                words = layer.norm3(words + layer._ff_block(words))
            x = read.flatten(0, 1).index_copy(0, indices, words).view_as(read)
        return words.unflatten(0, (Q, -1))


def _columns(x: Float[Tensor, "L W D"], column: Int[Tensor, "M K"]) -> Float[Tensor, "L K D"]:
    """The words at ``column`` of each sentence; x has each sentence once, or once per candidate."""
    index = column.repeat_interleave(len(x) // len(column), dim=0)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
