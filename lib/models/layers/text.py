"""Sentences: the recurrent encoder, and which words get hidden from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class SentenceEncoder(nn.Module):
    """LSTM over the words of a sentence, both ways unless told otherwise.

    Args:
        word_dim: E.
        hidden_size: D; in the bidirectional case each direction has half of it.
        num_layers: depth.
        bidirectional: read the sentence both ways (DMR-JRG III-C.1). 2D-TAN reads it forwards.
    """

    def __init__(
        self, word_dim: int, hidden_size: int, *, num_layers: int = 1, bidirectional: bool = True
    ) -> None:
        super().__init__()
        if bidirectional and hidden_size % 2:
            raise ValueError(f"hidden_size must be even for two directions, found {hidden_size}")
        self.lstm = nn.LSTM(
            word_dim,
            hidden_size // 2 if bidirectional else hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
        )
        self.directions = 2 if bidirectional else 1
        self.project = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, words: Float[Tensor, "M W E"], counts: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M W D"], Float[Tensor, "M D"]]:
        """Encode sentences of ``counts`` real words (a CPU tensor, so that nothing waits for it).

        Returns:
            States of the words, zero where padded, and one feature per sentence: the state after
            the last real word and, read backwards, after the first, through a linear layer.
        """
        packed = pack_padded_sequence(words, counts, batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=words.shape[1])
        top = last[-self.directions :].transpose(0, 1).flatten(1)  # (M, D)
        return states, self.project(top)


@dataclass(frozen=True)
class MaskedWords:
    """Which words are hidden. R is their number over all sentences."""

    hidden: Bool[Tensor, "M W"]
    place: Int[Tensor, " R"]  # into the flattened (M·W) axis
    sentence: Int[Tensor, " R"]  # into M


def draw_masked_words(
    weights: Float[Tensor, "M W"],
    counts: Int[Tensor, " M"],
    *,
    share: float = 1 / 3,
    generator: torch.Generator | None = None,
) -> MaskedWords:
    """Hide a share of every sentence's words, at least one, drawn without replacement.

    The chance of a word grows with its weight (content words 2, others 1). Exponential keys divided
    by the weights, smallest first, are such a draw (Efraimidis and Spirakis, 2006). How many words
    are hidden follows from ``counts`` alone, which lives on the CPU: no shape waits for the device.

    Source: DMR-JRG III-C.1, after SCN.
    """
    noise = torch.empty_like(weights).exponential_(generator=generator)
    keys = torch.where(weights > 0, noise / weights.clamp(min=1e-6), torch.inf)
    order = keys.argsort(dim=1)
    quota = (counts * share).floor().long().clamp(min=1)
    rows = torch.repeat_interleave(torch.arange(len(counts)), quota)
    columns = torch.cat([torch.arange(q) for q in quota.tolist()])
    sentence = rows.to(weights.device, non_blocking=True)
    word = order[sentence, columns.to(weights.device, non_blocking=True)]
    place = sentence * weights.shape[1] + word
    hidden = torch.zeros_like(weights, dtype=torch.bool).flatten()
    return MaskedWords(hidden.index_fill(0, place, True).view_as(weights), place, sentence)
