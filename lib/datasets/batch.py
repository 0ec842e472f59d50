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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One paragraph and its video, before padding. S and W are this paragraph's own."""

    video: Float[Tensor, "T C"]
    words: tuple[Float[Tensor, "_ E"], ...]
    word_ids: tuple[Int[Tensor, " _"], ...]
    word_weights: tuple[Float[Tensor, " _"], ...]
    moments: Float[Tensor, "S 2"]
    duration: float
    video_index: int
    video_id: str
    paragraph_id: str
    sentences: tuple[str, ...] = ()  # as written, for text encoders with a tokeniser of their own


@dataclass(frozen=True)
class Batch:
    """A padded batch of paragraphs. Masks are boolean, True = real, everywhere in the project."""

    video: Float[Tensor, "B T C"]  # L2-normalised rows, resampled to T
    words: Float[Tensor, "B S W E"]  # zero where padded
    word_ids: Int[Tensor, "B S W"]  # 0 = padding, 1 = unknown
    word_weights: Float[Tensor, "B S W"]  # preference for being masked; zero where padded
    word_mask: Bool[Tensor, "B S W"]
    sentence_mask: Bool[Tensor, "B S"]
    moments: Float[Tensor, "B S 2"]  # truth [start, end) in seconds; NaN where hidden or padded
    duration: Float[Tensor, " B"]  # seconds
    video_index: Int[Tensor, " B"]  # equal numbers = the same video
    flat_index: Int[Tensor, " M"]  # place of each real sentence in the flattened (B·S) axis
    word_counts: Int[Tensor, " M"]  # words of each real sentence; stays on the CPU (LSTM packing)
    video_ids: tuple[str, ...]
    paragraph_ids: tuple[str, ...]
    sentences: tuple[str, ...] = ()  # the M real ones as written; empty where samples have none

    @property
    def owner(self) -> Int[Tensor, " M"]:
        """Which paragraph of the batch each real sentence belongs to."""
        return self.flat_index // self.sentence_mask.shape[1]

    @property
    def place(self) -> Int[Tensor, " M"]:
        """Each real sentence's place in its paragraph, from 0."""
        return self.flat_index % self.sentence_mask.shape[1]

    @property
    def sentence_counts(self) -> Int[Tensor, " B"]:
        """How many sentences each paragraph has."""
        return self.sentence_mask.sum(dim=1)

    @property
    def same_video(self) -> Bool[Tensor, "B B"]:
        """Pairs of paragraphs that describe one video, the diagonal included."""
        return self.video_index[:, None] == self.video_index[None, :]

    def flat(self, x: Tensor) -> Tensor:
        """(B, S, …) -> (M, …): the real sentences, in order."""
        return x.flatten(0, 1).index_select(0, self.flat_index)

    def padded(self, x: Tensor) -> Tensor:
        """(M, …) -> (B, S, …): zeros where there is no sentence."""
        B, S = self.sentence_mask.shape
        out = x.new_zeros(B * S, *x.shape[1:])
        return out.index_copy(0, self.flat_index, x).unflatten(0, (B, S))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; ``word_counts`` stays where it is."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor) and field.name != "word_counts"
        }
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the data loader)."""
        pinned = {
            field.name: getattr(self, field.name).pin_memory()
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor) and field.name != "word_counts"
        }
        return dataclasses.replace(self, **pinned)

    def __len__(self) -> int:
        return self.video.shape[0]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad samples to the longest paragraph and the longest sentence among them."""
    B = len(samples)
    S = max(len(sample.words) for sample in samples)
    counts = [[len(ids) for ids in sample.word_ids] for sample in samples]
    W = max(max(row) for row in counts)
    E = samples[0].words[0].shape[1]
    words = torch.zeros(B, S, W, E)
    word_ids = torch.zeros(B, S, W, dtype=torch.int64)
    word_weights = torch.zeros(B, S, W)
    word_mask = torch.zeros(B, S, W, dtype=torch.bool)
    sentence_mask = torch.zeros(B, S, dtype=torch.bool)
    moments = torch.full((B, S, 2), torch.nan)
    for b, sample in enumerate(samples):
        for s, count in enumerate(counts[b]):
            words[b, s, :count] = sample.words[s]
            word_ids[b, s, :count] = sample.word_ids[s]
            word_weights[b, s, :count] = sample.word_weights[s]
            word_mask[b, s, :count] = True
        sentence_mask[b, : len(sample.words)] = True
        moments[b, : len(sample.words)] = sample.moments
    return Batch(
        video=torch.stack([sample.video for sample in samples]),
        words=words,
        word_ids=word_ids,
        word_weights=word_weights,
        word_mask=word_mask,
        sentence_mask=sentence_mask,
        moments=moments,
        duration=torch.tensor([sample.duration for sample in samples], dtype=torch.float32),
        video_index=torch.tensor([sample.video_index for sample in samples]),
        flat_index=sentence_mask.flatten().nonzero().squeeze(1),
        word_counts=torch.tensor([count for row in counts for count in row]),
        video_ids=tuple(sample.video_id for sample in samples),
        paragraph_ids=tuple(sample.paragraph_id for sample in samples),
        sentences=tuple(text for sample in samples for text in sample.sentences),
    )
