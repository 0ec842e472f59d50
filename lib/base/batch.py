"""The batch, and the letters of every shape in this project.

**B** videos (= paragraphs), **S** sentences of a paragraph (padded), **M** real sentences of the
batch, **W** words, **T** frames after resampling, **N** clips along a map axis, **C** video feature
width, **E** word-vector width, **D** hidden width, **P** proposals (valid cells of a map), **K**
kept candidates, **V** vocabulary size, **Q** / **G** queries / gallery.

Ragged text has one representation: padded (B, S, …) with a boolean mask at the edges, flat (M, …)
inside. ``flat`` and ``padded`` go between them; nothing else does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class DataDims:
    """What the data decides: sizes, and the vectors of the words that have an id."""

    video_dim: int  # C
    word_dim: int  # E
    vocab_size: int  # V: word ids are 0 (padding), 1 (unknown), 2 … V-1
    num_frames: int  # T
    num_clips: int  # N
    max_sentences: int  # most sentences of any paragraph, for learned sentence positions
    # None where a word has no fixed vector: word features then depend on the sentence
    word_vectors: Float[Tensor, "V E"] | None = field(default=None, compare=False, repr=False)
    # the logarithm of how rare each id is among the training sentences
    word_idf: Float[Tensor, " V"] | None = field(default=None, compare=False, repr=False)

    def sizes(self) -> dict[str, int]:
        """All that is a number, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.compare}


@dataclass(frozen=True)
class Sample:
    """One paragraph and its video. Its S sentences lie one after the other: L words in all."""

    video: Float[Tensor, "T C"]
    words: Float[Tensor, "L E"]
    word_ids: Int[Tensor, " L"]
    word_weights: Float[Tensor, " L"]
    word_counts: Int[Tensor, " S"]
    moments: Float[Tensor, "S 2"]
    duration: float
    video_index: int
    video_id: str
    paragraph_id: str
    sentences: tuple[str, ...] = ()  # as written, for text encoders with a tokeniser of their own


@dataclass(frozen=True)
class Layout:
    """Which sentences a batch of paragraphs has."""

    sentence_mask: Bool[Tensor, "B S"]
    flat_index: Int[Tensor, " M"]  # index of each real sentence in the flattened (B·S) axis

    @staticmethod
    def of(sentence_mask: Bool[Tensor, "B S"]) -> Layout:
        return Layout(sentence_mask, _real_indices(sentence_mask))

    @property
    def owner(self) -> Int[Tensor, " M"]:
        """Which paragraph of the batch each real sentence belongs to."""
        return self.flat_index // self.sentence_mask.shape[1]

    @property
    def sentence_position(self) -> Int[Tensor, " M"]:
        """Each real sentence's position in its paragraph, from 0."""
        return self.flat_index % self.sentence_mask.shape[1]

    @property
    def sentence_counts(self) -> Int[Tensor, " B"]:
        """How many sentences each paragraph has."""
        return self.sentence_mask.sum(dim=1)

    def flat(self, x: Tensor) -> Tensor:
        """(B, S, …) -> (M, …): the real sentences, in order."""
        return x.flatten(0, 1).index_select(0, self.flat_index)

    def padded(self, x: Tensor) -> Tensor:
        """(M, …) -> (B, S, …): zeros where there is no sentence."""
        B, S = self.sentence_mask.shape
        out = x.new_zeros(B * S, *x.shape[1:])
        return out.index_copy(0, self.flat_index, x).unflatten(0, (B, S))

    def mean(self, x: Float[Tensor, "M G"]) -> Float[Tensor, "B G"]:
        """Of each paragraph's real sentences."""
        # Not by index_add, which sums in any order on a GPU.
        return self.padded(x).sum(dim=1) / self.sentence_counts[:, None]


@dataclass(frozen=True)
class Batch(Layout):
    """A padded batch of paragraphs. Masks are boolean, True = real, everywhere in the project."""

    video: Float[Tensor, "B T C"]  # L2-normalised rows, resampled to T
    words: Float[Tensor, "B S W E"]  # zero where padded
    word_ids: Int[Tensor, "B S W"]  # 0 = padding, 1 = unknown
    word_weights: Float[Tensor, "B S W"]  # preference for being masked; zero where padded
    word_mask: Bool[Tensor, "B S W"]
    moments: Float[Tensor, "B S 2"]  # truth [start, end) in seconds; NaN where hidden or padded
    duration: Float[Tensor, " B"]  # seconds
    video_index: Int[Tensor, " B"]  # equal numbers = the same video
    word_counts: Int[Tensor, " M"]  # words of each real sentence; stays on the CPU (LSTM packing)
    video_ids: tuple[str, ...]
    paragraph_ids: tuple[str, ...]
    sentences: tuple[str, ...] = ()  # the M real ones as written; empty where samples have none

    @property
    def same_video(self) -> Bool[Tensor, "B B"]:
        """Pairs of paragraphs that describe one video, the diagonal included."""
        return self.video_index[:, None] == self.video_index[None, :]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; ``word_counts`` stays where it is."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the data loader)."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        moved: dict[str, Any] = {
            field.name: move(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor) and field.name != "word_counts"
        }
        return dataclasses.replace(self, **moved)

    def __len__(self) -> int:
        return self.video.shape[0]

    def outline(self) -> Batch:
        """The same batch without frames and words: what similarities and losses read."""
        return dataclasses.replace(
            self,
            video=self.video[:, :0],
            words=self.words[:, :, :0],
            word_ids=self.word_ids[:, :, :0],
            word_weights=self.word_weights[:, :, :0],
            word_mask=self.word_mask[:, :, :0],
            sentences=(),
        )

    def split(self, count: int) -> list[Batch]:
        """``count`` batches of consecutive paragraphs, the first ones at most one longer, each
        padded to its own longest paragraph and sentence (of a batch on the CPU)."""
        sizes = [len(rows) for rows in torch.arange(len(self)).tensor_split(count)]
        rows = {
            field.name: getattr(self, field.name).split(sizes)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor) and field.name not in _BY_SENTENCE
        }
        pieces, paragraph, sentence = [], 0, 0
        for number, size in enumerate(sizes):
            fields = {name: tensors[number] for name, tensors in rows.items()}
            mask = fields["sentence_mask"]
            M = int(mask.sum())
            counts = self.word_counts[sentence : sentence + M]
            longest = (int(mask.sum(dim=1).max()), int(counts.max()))
            for name, axes in _PADDED.items():
                for axis in range(axes):
                    fields[name] = fields[name].narrow(axis + 1, 0, longest[axis])
            pieces.append(
                Batch(
                    **fields,
                    flat_index=_real_indices(fields["sentence_mask"]),
                    word_counts=counts,
                    video_ids=self.video_ids[paragraph : paragraph + size],
                    paragraph_ids=self.paragraph_ids[paragraph : paragraph + size],
                    sentences=self.sentences[sentence : sentence + M],
                )
            )
            paragraph, sentence = paragraph + size, sentence + M
        return pieces


# How many of a field's axes after the first are padded: sentences, or sentences and words.
_PADDED = {"sentence_mask": 1, "moments": 1}
_PADDED |= dict.fromkeys(("words", "word_ids", "word_weights", "word_mask"), 2)
_BY_SENTENCE = ("flat_index", "word_counts")  # (M, …)


def _real_indices(mask: Bool[Tensor, "B S"]) -> Int[Tensor, " M"]:
    """Indices of the real entries (True) in the flattened axis."""
    return mask.flatten().nonzero().squeeze(1)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of all their paragraphs, in order: the inverse of ``Batch.split``."""
    longest = [max(batch.words.shape[axis] for batch in batches) for axis in (1, 2)]
    fields: dict[str, Tensor] = {}
    for name in (f.name for f in dataclasses.fields(Batch)):
        values = [getattr(batch, name) for batch in batches]
        if not isinstance(values[0], Tensor) or name == "flat_index":
            continue
        for axis in range(_PADDED.get(name, 0)):
            fill = torch.nan if name == "moments" else 0
            values = [_grown(value, axis + 1, longest[axis], fill) for value in values]
        fields[name] = torch.cat(values)
    return Batch(
        **fields,
        flat_index=_real_indices(fields["sentence_mask"]),
        video_ids=tuple(i for batch in batches for i in batch.video_ids),
        paragraph_ids=tuple(i for batch in batches for i in batch.paragraph_ids),
        sentences=tuple(text for batch in batches for text in batch.sentences),
    )


def _grown(x: Tensor, axis: int, size: int, fill: float) -> Tensor:
    shape = list(x.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([x, x.new_full(shape, fill)], dim=axis)


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad samples to the longest paragraph and the longest sentence among them."""
    sentence_counts = torch.tensor([len(sample.word_counts) for sample in samples])
    word_counts = torch.cat([sample.word_counts for sample in samples])
    B, S, W = len(samples), int(sentence_counts.max()), int(word_counts.max())
    sentence_mask = torch.arange(S) < sentence_counts[:, None]
    flat_index = _real_indices(sentence_mask)
    word_mask = torch.zeros(B * S, W, dtype=torch.bool)
    word_mask[flat_index] = torch.arange(W) < word_counts[:, None]
    word_index = _real_indices(word_mask)
    moments = torch.full((B * S, 2), torch.nan)
    moments[flat_index] = torch.cat([sample.moments for sample in samples])

    def spread(words: list[Tensor]) -> Tensor:
        """The words of all samples, padded with zeros: (B, S, W, …)."""
        flat = torch.cat(words)
        out = flat.new_zeros(B * S * W, *flat.shape[1:])
        return out.index_copy_(0, word_index, flat).unflatten(0, (B, S, W))

    return Batch(
        video=torch.stack([sample.video for sample in samples]),
        words=spread([sample.words for sample in samples]),
        word_ids=spread([sample.word_ids for sample in samples]),
        word_weights=spread([sample.word_weights for sample in samples]),
        word_mask=word_mask.unflatten(0, (B, S)),
        sentence_mask=sentence_mask,
        moments=moments.unflatten(0, (B, S)),
        duration=torch.tensor([sample.duration for sample in samples], dtype=torch.float32),
        video_index=torch.tensor([sample.video_index for sample in samples]),
        flat_index=flat_index,
        word_counts=word_counts,
        video_ids=tuple(sample.video_id for sample in samples),
        paragraph_ids=tuple(sample.paragraph_id for sample in samples),
        sentences=tuple(text for sample in samples for text in sample.sentences),
    )
