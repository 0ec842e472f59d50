"""Guess the hidden words of a sentence from the frames of a candidate moment."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Reconstructor(nn.Module):
    """Transformer encoder over frames, decoder over the masked sentence, linear map to words.

    Args:
        video_dim: C; the frames pass a linear map of their own to D.
        hidden_size: D.
        vocab_size: V.
        num_layers: of the encoder and of the decoder.
        heads, feedforward, dropout: of both.
        num_frames: frames of a candidate, for learned positions.

    Source: DMR-JRG Eq. 9-10, after SCN. Every part is registered here, and so trained and saved.
    """

    def __init__(
        self,
        video_dim: int,
        hidden_size: int,
        vocab_size: int,
        *,
        num_layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        num_frames: int,
    ) -> None:
        super().__init__()
        self.frames = nn.Linear(video_dim, hidden_size)
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
        self.words = nn.Linear(hidden_size, vocab_size)

    def forward(
        self,
        video: Float[Tensor, "B T C"],
        owner: Int[Tensor, " M"],
        rows: Int[Tensor, "M Q F"],
        states: Float[Tensor, "M W D"],
        word_mask: Bool[Tensor, "M W"],
        place: Int[Tensor, " R"],
    ) -> Float[Tensor, "Q R V"]:
        """Logits of the words at ``place`` (in the flattened M·W axis) for each candidate.

        ``states`` are the word states of the masked sentence, ``rows`` the frames of each of its Q
        candidates, ``owner`` its video. Only the words asked for reach the vocabulary.
        """
        M, Q, F = rows.shape
        T = video.shape[1]
        frames = self.frames(video).flatten(0, 1)
        places = (owner[:, None, None] * T + rows).flatten()
        moments = frames.index_select(0, places).view(M * Q, F, -1)
        memory = self.encoder(moments + self.positions)
        queries = states.repeat_interleave(Q, dim=0)
        padding = ~word_mask.repeat_interleave(Q, dim=0)
        decoded = self.decoder(queries, memory, tgt_key_padding_mask=padding)
        decoded = decoded.unflatten(0, (M, Q)).transpose(0, 1).flatten(1, 2)  # (Q, M·W, D)
        return self.words(decoded.index_select(1, place))
