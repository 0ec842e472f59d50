"""The one Dataset of paragraphs, and the videos beneath it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from lib.core.errors import InputError
from lib.datasets.annotations import Paragraph
from lib.datasets.batch import Sample
from lib.datasets.features import FeatureFile, normalize_rows, resample
from lib.datasets.vocabulary import Vocabulary

_PRELOAD_LIMIT = 2**30  # bytes of resampled features that "auto" keeps in memory


class VideoFrames(Dataset[Tensor]):
    """Unique videos: index -> (T, C), L2-normalised and resampled.

    Args:
        video_ids: without repeats.
        normalize: L2-normalise the rows before they are averaged.
        preload: "always" resamples every video once into one tensor that all worker processes
            share, "never" reads the file each time, "auto" decides by size: under 1 GiB, and room
            for it in shared memory.
    """

    def __init__(
        self,
        video_ids: Sequence[str],
        features: FeatureFile,
        *,
        num_frames: int,
        normalize: bool = True,
        preload: str = "auto",
        label: str = "videos",
    ) -> None:
        self.video_ids = tuple(video_ids)
        self.features = features
        self.num_frames = num_frames
        self.normalize = normalize
        self.dim = features.width(self.video_ids[0])
        self._loaded: Tensor | None = None
        size = 4 * len(self.video_ids) * num_frames * self.dim
        if preload == "always" or (preload == "auto" and size <= _PRELOAD_LIMIT):
            room = _shared_room() > 1.1 * size
            if room or preload == "always":
                self._loaded = self._load_all(shared=room, label=label)

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: int) -> Float[Tensor, "T C"]:
        if self._loaded is not None:
            return self._loaded[index]
        rows = self.features.read(self.video_ids[index])
        if rows.shape[1] != self.dim:
            self._refuse_width(index, rows.shape[1])
        if self.normalize:
            rows = normalize_rows(rows)
        return torch.from_numpy(resample(rows, self.num_frames))

    def _load_all(self, *, shared: bool, label: str) -> Float[Tensor, "G T C"]:
        loaded = torch.empty(len(self), self.num_frames, self.dim)
        if shared:
            loaded.share_memory_()
        for index in tqdm(range(len(self)), desc=f"features of {label}", leave=False, disable=None):
            loaded[index] = self[index]
        return loaded

    def _refuse_width(self, index: int, width: int) -> None:
        raise InputError(
            f"{self.features.path}: {self.video_ids[index]} is {width} wide, "
            f"{self.video_ids[0]} is {self.dim}; expected one width."
        )


def _shared_room() -> float:
    """Free bytes of shared memory; a container may have very little, and overrunning it kills."""
    try:
        return float(shutil.disk_usage("/dev/shm").free)
    except OSError:
        return math.inf  # no such mount: the system keeps shared memory elsewhere


class DenseParagraphs(Dataset[Sample]):
    """Paragraphs with their videos: index -> Sample, for every corpus.

    Args:
        hide_moments: put NaN in the place of every moment, so that training without moments cannot
            read them by mistake.
        max_sentences: keep a paragraph's first so many sentences; 0 = all.
        num_frames, normalize, preload: see VideoFrames.

    Attributes:
        videos: the corpus these paragraphs search: their videos, once each, in order of first
            appearance. A sample's ``video_index`` points into it.
    """

    def __init__(
        self,
        paragraphs: Sequence[Paragraph],
        features: FeatureFile,
        vocabulary: Vocabulary,
        *,
        num_frames: int,
        normalize: bool = True,
        hide_moments: bool = False,
        max_sentences: int = 0,
        preload: str = "auto",
        label: str = "videos",
    ) -> None:
        self.paragraphs = tuple(paragraphs)
        self.vocabulary = vocabulary
        self.hide_moments = hide_moments
        self.max_sentences = max_sentences
        unique = dict.fromkeys(paragraph.video_id for paragraph in paragraphs)
        self._video_index = {video_id: index for index, video_id in enumerate(unique)}
        self.videos = VideoFrames(
            tuple(unique),
            features,
            num_frames=num_frames,
            normalize=normalize,
            preload=preload,
            label=label,
        )

    @property
    def corpus(self) -> tuple[str, ...]:
        """The ids of the videos searched."""
        return self.videos.video_ids

    def __len__(self) -> int:
        return len(self.paragraphs)

    def __getitem__(self, index: int) -> Sample:
        paragraph = self.paragraphs[index]
        kept = slice(self.max_sentences or None)
        encoded = [self.vocabulary.encode(sentence) for sentence in paragraph.sentences[kept]]
        moments = torch.from_numpy(paragraph.moments[kept]).to(torch.float32)
        video_index = self._video_index[paragraph.video_id]
        return Sample(
            video=self.videos[video_index],
            words=tuple(vectors for _, vectors, _ in encoded),
            word_ids=tuple(ids for ids, _, _ in encoded),
            word_weights=tuple(weights for _, _, weights in encoded),
            moments=torch.full_like(moments, torch.nan) if self.hide_moments else moments,
            duration=paragraph.duration,
            video_index=video_index,
            video_id=paragraph.video_id,
            paragraph_id=paragraph.paragraph_id,
            sentences=tuple(paragraph.sentences[kept]),
        )


def epoch_order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of n training items in one epoch: a function of (seed, epoch) and nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(n)


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of an epoch, from any batch on.

    All batches of an epoch differ by at most one item, so that none is left with a single paragraph
    and therefore without a negative, and none is dropped.
    """

    def __init__(self, n: int, batch_size: int, *, seed: int) -> None:
        self.n = n
        self.total = math.ceil(n / batch_size)  # batches of a whole epoch
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch, and how many of its batches to skip (a run resumed inside it)."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.total - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        batches = np.array_split(epoch_order(self.n, self.seed, self.epoch), self.total)
        for batch in batches[self.first_batch :]:
            yield batch.tolist()
