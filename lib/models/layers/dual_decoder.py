"""Two causal decoders, of frames and of words, that read each other: SCN's, and CPL's after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...base.batch import Batch, DataDims, Layout
from ...losses.reconstruction import candidate_nll
from ..interface import Encoded
from .text import MaskedWords, all_words, draw_masked_words
from .transformer import WeighedDecoder, sinusoids, small_normal


@dataclass(frozen=True)
class ReadWords:
    """Sentences as a dual decoder reads them, the start vector in front of the words."""

    memory: Float[Tensor, "M W1 D"]  # what proposals are made from
    mask: Bool[Tensor, "M W1"]
    inputs: Float[Tensor, "M L D"]  # from which each word's successor is to be predicted
    ids: Int[Tensor, "M K"]  # of the words; with a column more where their end is predicted too
    counts: Int[Tensor, " M"]  # words of each, on the CPU

    @property
    def target_counts(self) -> Int[Tensor, " M"]:
        """How much of each sentence is to be predicted: its words, and its end (id 0) where
        ``ids`` has a column for that."""
        return self.counts + (self.ids.shape[1] - self.memory.shape[1] + 1)

    def keys(self, length: int) -> Bool[Tensor, "M L"]:
        """Which of ``length`` inputs are read: the start vector and the words."""
        return nn.functional.pad(self.mask, (0, max(0, length - self.mask.shape[1])))[:, :length]

    def encoded(self, batch: Batch) -> Encoded:
        """What grounding needs of them: ``mask`` (B, S): which exist; ``memory`` (B, S, 1 + W, D),
        ``inputs`` (B, S, L, D), ``word_ids`` (B, S, K) and ``word_counts`` (B, S)."""
        return {
            "mask": batch.sentence_mask,
            "memory": batch.padded(self.memory),
            "inputs": batch.padded(self.inputs),
            "word_ids": batch.padded(self.ids),
            "word_counts": batch.word_mask.sum(dim=2),
        }

    @staticmethod
    def of(paragraphs: Encoded, pairs: Layout) -> ReadWords:
        """What ``encoded`` gave, the sentences of all pairs one after the other."""
        memory, inputs, ids, counts = (
            pairs.flat(paragraphs[name]) for name in ("memory", "inputs", "word_ids", "word_counts")
        )
        mask = torch.arange(memory.shape[1], device=counts.device) <= counts[:, None]
        return ReadWords(memory, mask, inputs, ids, counts.cpu())


class DualDecoder(nn.Module):
    """Each decoder serves twice: alone it encodes; with what the other encoded as its memory, it
    decodes. Frames that read words make proposals, words that read frames are predicted from them.

    A frame reads the frames up to itself, a word the words up to itself; words have positions,
    frames have none.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D; the feed-forward layers have twice as much.
        heads, layers: of each decoder.
        small_start: begin the decoders as BERT does (CPL) and not as PyTorch (SCN).
        large_start: begin with weights up to 1, not 1/√C, where frames and words are read. These
            may be rows of length one, no larger than the bias otherwise.

    Source: the transformer of SCN's release. Dropout is 0.1.
    """

    positions: Float[Tensor, "W D"]

    def __init__(
        self,
        dims: DataDims,
        hidden_size: int,
        *,
        heads: int,
        layers: int,
        small_start: bool = False,
        large_start: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_size = D = hidden_size
        sizes = {"num_layers": layers, "heads": heads, "feedforward": 2 * D, "dropout": 0.1}
        self.frame_decoder = WeighedDecoder(D, **sizes)  # type: ignore[arg-type]
        self.word_decoder = WeighedDecoder(D, **sizes)  # type: ignore[arg-type]
        if small_start:
            self.apply(small_normal)
            for part in self.modules():
                if isinstance(part, nn.MultiheadAttention):
                    nn.init.xavier_uniform_(part.in_proj_weight)
        self.dropout = nn.Dropout(0.1)
        self.frame = nn.Linear(dims.video_dim, D)
        self.word = nn.Linear(dims.word_dim, D)
        if large_start:
            for part in (self.frame, self.word):
                nn.init.uniform_(part.weight, -1, 1)
        self.first_word = nn.Parameter(torch.zeros(dims.word_dim))
        self.mask_word = nn.Parameter(torch.zeros(D))
        self.register_buffer("positions", sinusoids(256, D), persistent=False)

    def frames(self, video: Float[Tensor, "B L C"]) -> Float[Tensor, "B L D"]:
        return self.frame(self.dropout(video))

    def read(
        self, words: Float[Tensor, "M W E"], batch: Batch, *, hide: bool, ratio: float = 1 / 3
    ) -> ReadWords:
        """The sentences alone, from the vectors of their words; padding may hold anything.

        Args:
            hide: hide this ``ratio`` of each sentence's words from ``inputs``.
        """
        mask = batch.flat(batch.word_mask)
        w = self.word(self.dropout(self._rows(words, mask)))  # (M, 1 + W, D)
        positions = self._positions(w.shape[1])
        mask = nn.functional.pad(mask, (1, 0), value=True)

        memory = self.word_decoder(w + positions, mask)
        if hide:
            w = self.masked(
                w,
                draw_masked_words(batch.flat(batch.word_weights), batch.word_counts, ratio=ratio),
                self.mask_word,
            )
        ids = batch.flat(batch.word_ids)
        return ReadWords(memory, mask, (w + positions)[:, :-1], ids, batch.word_counts)

    def _rows(
        self, words: Float[Tensor, "M W E"], mask: Bool[Tensor, "M W"]
    ) -> Float[Tensor, "M W1 E"]:
        """The start vector and the words; zeros where there is none."""
        words = torch.where(mask[..., None], words, 0.0)
        return torch.cat([self.first_word.expand(len(words), 1, -1), words], dim=1)

    def _positions(self, length: int) -> Float[Tensor, "L D"]:
        """Of the start vector and what follows it; beyond the table all share its last."""
        place = torch.arange(length, device=self.positions.device)
        return self.positions[place.clamp(max=len(self.positions) - 1)]

    @staticmethod
    def masked(
        w: Float[Tensor, "M L D"], drawn: MaskedWords, vector: Float[Tensor, " D"]
    ) -> Float[Tensor, "M L D"]:
        """``vector`` in the place of the words drawn, of which the first is at 1."""
        marked = nn.functional.pad(drawn.mask(w.shape[1] - 1), (1, 0))
        return torch.where(marked[..., None], vector, w)

    def propose(
        self,
        text: ReadWords,
        frames: Float[Tensor, "M L D"],
        real: Bool[Tensor, "M L"] | None = None,
    ) -> Float[Tensor, "M L D"]:
        """States of the frames, which read the words; only ``real`` ones are read by others."""
        return self.frame_decoder(frames, real, memory=text.memory, memory_mask=text.mask)

    def nll(
        self,
        text: ReadWords,
        frames: Float[Tensor, "MQ F D"],
        vocabulary: nn.Module,
        weights: Float[Tensor, "MQ F"] | None = None,
    ) -> tuple[Float[Tensor, "M Q"], Float[Tensor, "M Q F D"]]:
        """Mean negative log-likelihood of a sentence's words, each from those before it and the
        frames of a proposal; and these frames, encoded.

        Args:
            frames: of the Q proposals of each sentence, sentence after sentence.
            vocabulary: D to the words' logits.
            weights: on the frames, in both decoders.
        """
        M, K = text.ids.shape
        decoded, encoded = self.decode(text, frames, weights, K)
        masked = all_words(text.target_counts, frames.device)
        place = masked.position(K)
        states = decoded.transpose(0, 1).flatten(1, 2).index_select(1, place)
        target = text.ids.flatten().index_select(0, place)
        nll = candidate_nll(vocabulary(states), target, masked.sentence, M, label_smoothing=0.1)
        return nll, encoded

    def decode(
        self,
        text: ReadWords,
        frames: Float[Tensor, "MQ F D"],
        weights: Float[Tensor, "MQ F"] | None,
        length: int,
    ) -> tuple[Float[Tensor, "M Q L D"], Float[Tensor, "M Q F D"]]:
        """States of the first ``length`` inputs, which read the frames of each proposal; and these
        frames, encoded."""
        M = len(text.inputs)
        Q = len(frames) // M
        encoded = self.frame_decoder(frames, weights=weights)
        decoded = self.word_decoder(
            text.inputs[:, :length].repeat_interleave(Q, dim=0),
            text.keys(length).repeat_interleave(Q, dim=0),
            memory=encoded,
            memory_weights=weights,
        )
        return decoded.unflatten(0, (M, Q)), encoded.unflatten(0, (M, Q))
