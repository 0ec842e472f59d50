"""Two causal decoders, of frames and of words, that read each other: SCN's, and CPL's after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.base.batch import Batch, DataDims, Layout
from lib.losses.reconstruction import candidate_nll
from lib.models.interface import Encoded
from lib.models.layers.text import all_words, draw_masked_words
from lib.models.layers.transformer import WeighedDecoder, sinusoids, small_normal


@dataclass(frozen=True)
class ReadWords:
    """Sentences as a dual decoder reads them, the start vector in front of the words."""

    memory: Float[Tensor, "M W1 D"]  # what proposals are made from
    mask: Bool[Tensor, "M W1"]
    inputs: Float[Tensor, "M W D"]  # from which each word's successor is to be told
    ids: Int[Tensor, "M W"]
    counts: Int[Tensor, " M"]  # on the CPU

    def encoded(self, batch: Batch) -> Encoded:
        """What grounding needs of them: ``mask`` (B, S): which exist; ``memory`` (B, S, 1 + W, D),
        ``inputs``, ``word_ids`` (B, S, W, …) and ``word_counts`` (B, S)."""
        return {
            "mask": batch.sentence_mask,
            "memory": batch.padded(self.memory),
            "inputs": batch.padded(self.inputs),
            "word_ids": batch.word_ids,
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
    decodes. Frames that read words make proposals, words that read frames are told from them.

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
        D = hidden_size
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
        words = torch.where(mask[..., None], words, 0.0)
        first = self.first_word.expand(len(words), 1, -1)
        w = self.word(self.dropout(torch.cat([first, words], dim=1)))  # (M, 1 + W, D)
        place = torch.arange(w.shape[1], device=w.device).clamp(max=len(self.positions) - 1)
        positions = self.positions[place]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)

        memory = self.word_decoder(w + positions, mask)
        if hide:
            drawn = draw_masked_words(
                batch.flat(batch.word_weights), batch.word_counts, ratio=ratio
            )
            hidden = torch.cat([torch.zeros_like(mask[:, :1]), drawn.mask(words.shape[1])], dim=1)
            w = torch.where(hidden[..., None], self.mask_word, w)
        ids = batch.flat(batch.word_ids)
        return ReadWords(memory, mask, (w + positions)[:, :-1], ids, batch.word_counts)

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
        M, MQ = len(text.inputs), len(frames)
        Q = MQ // M
        encoded = self.frame_decoder(frames, weights=weights)
        decoded = self.word_decoder(
            text.inputs.repeat_interleave(Q, dim=0),
            text.mask[:, :-1].repeat_interleave(Q, dim=0),
            memory=encoded,
            memory_weights=weights,
        )
        masked = all_words(text.counts, frames.device)
        place = masked.position(text.ids.shape[1])
        told = decoded.unflatten(0, (M, Q)).transpose(0, 1).flatten(1, 2).index_select(1, place)
        target = text.ids.flatten().index_select(0, place)
        nll = candidate_nll(vocabulary(told), target, masked.sentence, M, label_smoothing=0.1)
        return nll, encoded.unflatten(0, (M, Q))
