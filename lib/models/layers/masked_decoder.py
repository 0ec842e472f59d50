"""The dual decoder of CNM, CPL and PPS, from which a third of the words is masked."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...base.batch import Batch, DataDims
from .dual_decoder import DualDecoder, ReadWords
from .text import draw_masked_words, noise_of_words
from .transformer import WeighedDecoder, xavier_attention


class MaskedDecoder(DualDecoder):
    """Reads sentences with a share of the words masked.

    A masked word is a learned word vector (DCIML and SCN here: a state). Words are drawn by the
    soft-max of their weights, so that a content word is e times as likely as another. In training
    they are drawn anew each time; otherwise a sentence draws the same whatever it is read with
    (released: from a generator shared by all, so that scores depend on the batches and their
    order).

    Args:
        dims: the sizes that the data decides.
        hidden_size, heads, layers: as in DualDecoder.
        mask_ratio: of the words, rounded down, at least one of a sentence.
        end_word: the end of every sentence is predicted too, as id 0. (Released: of every
            sentence but the longest of its batch.)
        separate: proposals are made by decoders of their own. Of these the one of words, and of the
            others the one of frames, then never read a memory (PPS).
        class_word: a learned word behind every sentence, read by none, that reads all of it (PPS).

    Source: CPL's release; CNM's before it and PPS's after it have the same.
    """

    def __init__(
        self,
        dims: DataDims,
        hidden_size: int,
        *,
        heads: int,
        layers: int,
        mask_ratio: float = 1 / 3,
        end_word: bool = False,
        separate: bool = False,
        class_word: bool = False,
    ) -> None:
        super().__init__(dims, hidden_size, heads=heads, layers=layers)
        self.mask_ratio, self.end_word = mask_ratio, end_word
        self.frame_generator: WeighedDecoder | None = None
        self.word_generator: WeighedDecoder | None = None
        if separate:
            D = hidden_size
            sizes = {"num_layers": layers, "heads": heads, "feedforward": 2 * D, "dropout": 0.1}
            self.frame_decoder = WeighedDecoder(D, **sizes, memory=False)  # type: ignore[arg-type]
            self.frame_generator = WeighedDecoder(D, **sizes)  # type: ignore[arg-type]
            self.word_generator = WeighedDecoder(D, **sizes, memory=False)  # type: ignore[arg-type]
        self.mask_word = nn.Parameter(torch.zeros(dims.word_dim))
        self.class_word = nn.Parameter(torch.zeros(dims.word_dim)) if class_word else None
        self.apply(xavier_attention)

    def read_masked(self, batch: Batch) -> ReadWords:
        """The sentences alone. With a class word ``inputs`` are (M, W + 2, D): the start vector,
        the words, and it behind the last of them; otherwise as many as are predicted."""
        mask = batch.flat(batch.word_mask)
        ids = torch.where(mask, batch.flat(batch.word_ids), 0)
        rows = self._rows(batch.flat(batch.words), mask)
        if self.class_word is not None:
            rows = nn.functional.pad(rows, (0, 0, 0, 1))
            behind = nn.functional.pad(mask, (1, 1)).sum(dim=1, keepdim=True) + 1
            here = torch.arange(rows.shape[1], device=rows.device) == behind
            rows = torch.where(here[..., None], self.class_word, rows)
        w = self.word(self.dropout(rows))
        positions = self._positions(w.shape[1])
        keys = nn.functional.pad(mask, (1, 0), value=True)
        memory = (self.word_generator or self.word_decoder)(
            (w + positions)[:, : keys.shape[1]], keys
        )
        drawn = draw_masked_words(
            torch.where(mask, batch.flat(batch.word_weights).exp(), 0.0),
            batch.word_counts,
            ratio=self.mask_ratio,
            noise=None if self.training else noise_of_words(ids, mask),
        )
        inputs = self.masked(w, drawn, self.word(self.mask_word)) + positions
        if self.end_word:
            ids = nn.functional.pad(ids, (0, 1))
        if self.class_word is None:
            inputs = inputs[:, : ids.shape[1]]
        return ReadWords(memory, keys, inputs, ids, batch.word_counts)

    def propose(
        self,
        text: ReadWords,
        frames: Float[Tensor, "M L D"],
        real: Bool[Tensor, "M L"] | None = None,
    ) -> Float[Tensor, "M L D"]:
        decoder = self.frame_generator or self.frame_decoder
        return decoder(frames, real, memory=text.memory, memory_mask=text.mask)

    def of_class_word(
        self,
        text: ReadWords,
        frames: Float[Tensor, "MQ F D"],
        weights: Float[Tensor, "MQ F"],
    ) -> Float[Tensor, "M Q D"]:
        """The state of the class word under each weighting of the frames."""
        decoded, _ = self.decode(text, frames, weights, text.inputs.shape[1])
        behind = text.counts.to(decoded.device, non_blocking=True) + 1
        index = behind[:, None, None, None].expand(-1, decoded.shape[1], 1, decoded.shape[3])
        return decoded.gather(2, index)[:, :, 0]
