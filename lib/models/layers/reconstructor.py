"""Predict the masked words of a sentence from the frames of a candidate moment."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...base.batch import DataDims
from .text import MaskedWords, word_logits, word_places
from .transformer import Places, attend, encode, feed_forward, projected, self_attended


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
        moments = frames.flatten(0, 1).index_select(0, indices).view(M * Q, F, -1) + self.positions
        places = Places.all_of(M * Q, F, frames.device)
        memory = places.padded(encode(self.encoder, moments.flatten(0, 1), places))
        return self.words(self._decode(memory, Q, states, counts, masked))

    def _decode(
        self,
        memory: Float[Tensor, "MQ F D"],
        Q: int,
        states: Float[Tensor, "M W D"],
        counts: Int[Tensor, " M"],
        masked: MaskedWords,
    ) -> Float[Tensor, "Q R D"]:
        """The decoder of Torch, without computing what is never used.

        A sentence is the same for all its candidates until it has asked one, padding is computed
        nowhere, and in the last layer only the masked words need an output.
        """
        M, W, _ = states.shape
        sentence, column, start = (
            i.to(states.device, non_blocking=True)
            for i in (*word_places(counts), counts.cumsum(0) - counts)
        )
        places = Places(sentence, column, (M, W))
        hidden = Places(masked.sentence, masked.slot, (M, masked.column.shape[1]))
        of_hidden = start[masked.sentence] + masked.column[masked.sentence, masked.slot]
        x, last = places.flat(states), len(self.decoder.layers) - 1
        padding = places.padding()
        for depth, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, nn.TransformerDecoderLayer)
            asking = asked = None
            if depth == last:
                asking, asked = x.index_select(0, of_hidden), hidden
            read = self_attended(layer.self_attn, x, places, padding, asking, asked)
            x, places = x if asking is None else asking, asked or places
            with places.drawing():
                x = layer.norm1(x + layer.dropout1(read))
            (q,) = projected(layer.multihead_attn, x, "q")
            if depth == 0:
                copy = torch.arange(Q, device=x.device)[:, None] * len(sentence)
                of_hidden = (copy + of_hidden).flatten()
                x, q = x.repeat(Q, 1), q.repeat(Q, 1)
                places, hidden = places.repeated(Q), hidden.repeated(Q)
                padding = places.padding()
            k, v = projected(layer.multihead_attn, memory, "kv")
            read = places.flat(attend(layer.multihead_attn, places.padded(q), k, v))
            read = layer.multihead_attn.out_proj(read)
            with places.drawing():
                x = layer.norm2(x + layer.dropout2(read))
                x = layer.norm3(x + feed_forward(layer, x))
        return x.unflatten(0, (Q, -1))
