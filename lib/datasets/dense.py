"""The one Dataset of paragraphs, the videos beneath it, and their batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..base.batch import Sample, collate
from ..base.errors import InputError
from .annotations import Paragraph
from .cache import Rows
from .loading import Loader
from .vocabulary import Vocabulary
from .word_features import WordFeatures


class VideoFrames(Dataset[Tensor]):
    """Unique videos: index -> (T, C), L2-normalised and resampled.

    Args:
        video_ids: without repeats.
        rows: where they come from.
    """

    def __init__(self, video_ids: Sequence[str], rows: Rows) -> None:
        self.video_ids = tuple(video_ids)
        self.rows = rows
        self.dim = rows.dim

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: int) -> Float[Tensor, "T C"]:
        return self.rows[self.video_ids[index]]


class DenseParagraphs(Dataset[Sample]):
    """Paragraphs with their videos: index -> Sample, for every corpus.

    Args:
        hide_moments: put NaN in the place of every moment, so that training without moments cannot
            read them by mistake.
        max_sentences: keep a paragraph's first so many sentences; 0 = all.
        word_features: what words are read as, instead of the vocabulary's vectors.

    Attributes:
        videos: the corpus these paragraphs search: their videos, once each, in order of first
            appearance. A sample's ``video_index`` points into it.
    """

    def __init__(
        self,
        paragraphs: Sequence[Paragraph],
        rows: Rows,
        vocabulary: Vocabulary,
        *,
        hide_moments: bool = False,
        max_sentences: int = 0,
        word_features: WordFeatures | None = None,
    ) -> None:
        self.word_features = word_features
        self.paragraphs = tuple(paragraphs)
        self.vocabulary = vocabulary
        self.hide_moments = hide_moments
        self._kept = slice(max_sentences or None)
        unique = dict.fromkeys(paragraph.video_id for paragraph in paragraphs)
        self._video_index = {video_id: index for index, video_id in enumerate(unique)}
        self.videos = VideoFrames(tuple(unique), rows)
        self._text = vocabulary.encode([s for p in paragraphs for s in p.sentences[self._kept]])
        sentences = np.cumsum([0] + [len(p.sentences[self._kept]) for p in paragraphs])
        words = np.cumsum([0, *self._text.counts.tolist()])
        self._sentence_bounds = sentences.tolist()  # of each paragraph
        self._word_bounds = words[sentences].tolist()

    @property
    def corpus(self) -> tuple[str, ...]:
        """The ids of the videos searched."""
        return self.videos.video_ids

    def __len__(self) -> int:
        return len(self.paragraphs)

    @property
    def texts(self) -> Dataset[Sample]:
        """The same paragraphs without their videos: samples of no rows."""
        return _Texts(self)

    def __getitem__(self, index: int) -> Sample:
        sample = self.text(index)
        return dataclasses.replace(sample, video=self.videos[sample.video_index])

    def text(self, index: int) -> Sample:
        """A paragraph without its video."""
        paragraph = self.paragraphs[index]
        words = slice(*self._word_bounds[index : index + 2])
        sentences = slice(*self._sentence_bounds[index : index + 2])
        moments = torch.from_numpy(paragraph.moments[self._kept]).to(torch.float32)
        video_index = self._video_index[paragraph.video_id]
        if self.word_features is None:
            vectors = self.vocabulary.vectors.matrix[self._text.rows[words]]
        else:
            names = paragraph.sentence_ids[self._kept]
            vectors = self.word_features.read(names, self._text.counts[sentences])
        return Sample(
            video=torch.empty(0, self.videos.dim),
            words=vectors,
            word_ids=self._text.ids[words],
            word_weights=self._text.weights[words],
            word_counts=self._text.counts[sentences],
            moments=torch.full_like(moments, torch.nan) if self.hide_moments else moments,
            duration=paragraph.duration,
            video_index=video_index,
            video_id=paragraph.video_id,
            paragraph_id=paragraph.paragraph_id,
            sentences=tuple(paragraph.sentences[self._kept]),
        )


class _Texts(Dataset[Sample]):
    def __init__(self, split: DenseParagraphs) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        return self.split.text(index)


def epoch_order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of n training items in one epoch: a function of (seed, epoch) and nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(n)


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of an epoch, from any batch on.

    All batches of an epoch differ by at most one item, so that none is left with a single paragraph
    and therefore without a negative, and none is dropped.

    Args:
        n: items of the epoch.
        batch_size: the most of a batch.
        share: (which, of how many): the part of every batch that one of several processes loads.
            Parts differ by at most one item too.

    Raises:
        InputError: a batch that leaves a process without an item.
    """

    def __init__(
        self, n: int, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.n = n
        self.total = math.ceil(n / batch_size)  # batches of a whole epoch
        self.seed = seed
        self.share, self.shares = share
        if n // self.total < self.shares:
            raise InputError(
                f"TRAIN.BATCH_SIZE {batch_size}: {n} paragraphs make batches of {n // self.total} "
                f"for {self.shares} processes; expected at least one paragraph for each"
            )
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch, and how many of its batches to skip (a run resumed inside it)."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.total - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        batches = np.array_split(epoch_order(self.n, self.seed, self.epoch), self.total)
        for batch in batches[self.first_batch :]:
            yield np.array_split(batch, self.shares)[self.share].tolist()


def build_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    workers: int = 0,
    sampler: EpochBatches | None = None,
    rows: Sequence[int] | None = None,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DataLoader:
    """Batches of a dataset: Batch for paragraphs, (B, T, C) tensors for videos.

    In the dataset's order, or in the batches of ``sampler`` (``batch_size`` is then the sampler's).

    Args:
        workers: loader processes, kept between epochs; 0 = load in this process.
        rows: the items wanted, in this order; None = all.
        start_method: of the processes: fork, spawn or forkserver; None = the platform's.
    """
    options: dict[str, Any] = (
        {"batch_sampler": sampler}
        if sampler is not None
        else {"batch_size": batch_size, "sampler": rows}
    )
    if workers:
        options |= {"persistent_workers": True, "multiprocessing_context": start_method}
    return Loader(
        dataset,
        num_workers=workers,
        collate_fn=torch.stack if isinstance(dataset, VideoFrames) else collate,
        pin_memory=pin_memory,
        **options,
    )
