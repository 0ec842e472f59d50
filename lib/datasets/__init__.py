"""A corpus on disk -> datasets, sizes, and what was done on the way."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lib.core.errors import InputError
from lib.datasets.annotations import Cleaning, Paragraph, read_paragraphs
from lib.datasets.batch import collate
from lib.datasets.catalog import (
    SPLITS,
    CorpusFacts,
    facts,
    find_annotations,
    require_annotations,
)
from lib.datasets.dense import DenseParagraphs, EpochBatches, VideoFrames, epoch_order
from lib.datasets.features import FeatureFile
from lib.datasets.synthetic import WorldOptions, ensure_world
from lib.datasets.vocabulary import Vocabulary, read_word_vectors, tokenise

if TYPE_CHECKING:
    from lib.models.interface import DataDims

__all__ = [
    "DenseParagraphs",
    "EpochBatches",
    "LoadedCorpus",
    "VideoFrames",
    "build_loader",
    "epoch_order",
    "load_corpus",
]


@dataclass(frozen=True)
class LoadedCorpus:
    """Datasets of the splits asked for, and what a run should log about them once."""

    name: str
    folder: Path
    order: str  # of the sentences in a paragraph: "file" or "time"
    splits: Mapping[str, DenseParagraphs]
    dims: DataDims
    vocabulary: Vocabulary
    cleaning: Mapping[str, Cleaning]  # per annotation file read
    notes: tuple[str, ...]

    def __getitem__(self, split: str) -> DenseParagraphs:
        return self.splits[split]

    def lines(self) -> list[str]:
        """Everything to log."""
        return [line for report in self.cleaning.values() for line in report.lines()] + [
            *self.notes
        ]


def load_corpus(
    *,
    name: str,
    data_dir: Path | str,
    splits: Sequence[str],
    directory: str = "",
    features: str = "",
    feature_dim: int = 0,
    num_frames: int = 256,
    num_clips: int = 32,
    normalize: bool = True,
    word_vectors: str = "glove.pkl",
    vocab_size: int = 8000,
    tagger: str = "function_words",
    order: str = "auto",
    max_sentences: int = 0,
    val_fraction: float = 0.1,
    limits: Mapping[str, int] | None = None,
    bad_moments: str = "drop",
    empty_sentences: str = "refuse",
    preload: str = "auto",
    hide_train_moments: bool = True,
    seed: int = 0,
    synthetic: Mapping[str, Any] | None = None,
) -> LoadedCorpus:
    """Build the datasets of some splits of a corpus.

    The training annotations are read whatever the splits: the vocabulary is made of them alone. All
    annotation files that exist are read, so that ``dims.max_sentences`` and the vectors kept are
    the same in training and in scoring. Everything that can be found missing is found here.

    Args:
        name: a corpus of the catalog.
        data_dir: the data folder; ``directory`` is the corpus's folder in it, "" = the catalog's.
        splits: any of train, val, test.
        features: HDF5 file in the folder, "" = the catalog's; ``feature_dim``: the width it must
            have, 0 = any.
        num_clips: N of the proposal map; divides ``num_frames``.
        word_vectors: file in the corpus's folder, in the data folder, or a path.
        order: "file", "time", or "auto" = the catalog's.
        max_sentences: cap on training paragraphs only; scoring always has every sentence.
        val_fraction: share of the training videos held out as val where no val file exists.
        limits: split -> number of paragraphs kept, the first in a seeded order; 0 = all.
        hide_train_moments: training samples carry NaN in the place of moments.
        seed: of the held-out videos and of the limits, not of the training order.
        synthetic: knobs of the synthetic world (WorldOptions), which is made when missing.

    Raises:
        InputError: anything missing or unusable, in a sentence.
    """
    from lib.models.interface import DataDims  # which imports this package's batch

    corpus = facts(name)
    if num_frames % num_clips:
        raise InputError(f"NUM_CLIPS {num_clips} does not divide NUM_FRAMES {num_frames}.")
    data_dir = Path(data_dir)
    folder = data_dir / (directory or corpus.folder)
    if name == "synthetic":
        folder = _synthetic_folder(folder, synthetic or {})
    order = corpus.order if order == "auto" else order

    paragraphs, cleaning = _read_splits(
        corpus,
        folder,
        splits,
        order=order,
        bad_moments=bad_moments,
        empty_sentences=empty_sentences,
    )
    longest = max(len(p.sentences) for group in paragraphs.values() for p in group)
    notes = [*corpus.notes, *_shared_videos(paragraphs)]
    words = {
        word
        for group in paragraphs.values()
        for paragraph in group
        for sentence in paragraph.sentences
        for word in tokenise(sentence)
    }
    if "val" not in paragraphs:
        notes += _hold_out(paragraphs, val_fraction, seed, needed="val" in splits)
    for split, limit in (limits or {}).items():
        if limit and split in paragraphs and limit < len(paragraphs[split]):
            notes.append(f"{split}: {limit:,} of {len(paragraphs[split]):,} paragraphs (limit)")
            chosen = np.sort(
                np.random.default_rng([seed, 1]).permutation(len(paragraphs[split]))[:limit]
            )
            paragraphs[split] = [paragraphs[split][i] for i in chosen]
    if "train" in splits and max_sentences:
        cut = sum(len(p.sentences) > max_sentences for p in paragraphs["train"])
        notes.append(f"train: {cut:,} paragraphs cut to their first {max_sentences} sentences")

    vectors = read_word_vectors(_find_vectors(word_vectors, folder, data_dir))
    known = [word for word in words if word in vectors]
    notes.append(f"word vectors: {len(known):,} of {len(words):,} distinct words have one")
    training_sentences = [s for p in paragraphs["train"] for s in p.sentences]
    vocabulary = Vocabulary(
        training_sentences, vectors.restrict(words), size=vocab_size, tagger=tagger
    )

    feature_file = FeatureFile(folder / (features or corpus.features), expected_dim=feature_dim)
    _require_videos(feature_file, {split: paragraphs[split] for split in splits})
    datasets = {
        split: DenseParagraphs(
            paragraphs[split],
            feature_file,
            vocabulary,
            num_frames=num_frames,
            normalize=normalize,
            hide_moments=hide_train_moments and split == "train",
            max_sentences=max_sentences if split == "train" else 0,
            preload=preload,
            label=split,
        )
        for split in splits
    }
    dims = DataDims(
        video_dim=next(iter(datasets.values())).videos.dim,
        word_dim=vectors.dim,
        vocab_size=len(vocabulary),
        num_frames=num_frames,
        num_clips=num_clips,
        max_sentences=longest,
    )
    return LoadedCorpus(name, folder, order, datasets, dims, vocabulary, cleaning, tuple(notes))


def build_loader(
    dataset: DenseParagraphs | VideoFrames,
    *,
    batch_size: int,
    workers: int = 0,
    sampler: EpochBatches | None = None,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DataLoader:
    """Batches of a dataset: Batch for paragraphs, (B, T, C) tensors for videos.

    In the dataset's order, or in the batches of ``sampler`` (``batch_size`` is then the sampler's).

    Args:
        workers: loader processes, kept between epochs; 0 = load in this process.
        start_method: of the processes: fork, spawn or forkserver; None = the platform's.
    """
    options: dict[str, Any] = (
        {"batch_sampler": sampler} if sampler is not None else {"batch_size": batch_size}
    )
    if workers:
        options |= {"persistent_workers": True, "multiprocessing_context": start_method}
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=collate if isinstance(dataset, DenseParagraphs) else torch.stack,
        pin_memory=pin_memory,
        **options,
    )


def _read_splits(
    corpus: CorpusFacts, folder: Path, splits: Sequence[str], **rules: str
) -> tuple[dict[str, list[Paragraph]], dict[str, Cleaning]]:
    """Every split whose file exists; those asked for, and train, must (val may be held out)."""
    paragraphs, cleaning = {}, {}
    for split in SPLITS:
        must = split == "train" or (split in splits and split != "val")
        find = require_annotations if must else find_annotations
        path = find(corpus, folder, split)
        if path is not None:
            paragraphs[split], cleaning[split] = read_paragraphs(
                path,
                cut_descriptions=corpus.cut_descriptions,
                min_sentences=corpus.min_sentences.get(split, 1),
                **rules,
            )
    return paragraphs, cleaning


def _shared_videos(paragraphs: Mapping[str, Sequence[Paragraph]]) -> list[str]:
    """Splits that describe the same videos, which a reader of the numbers must know."""
    videos = {split: {p.video_id for p in group} for split, group in paragraphs.items()}
    pairs = [(a, b) for i, a in enumerate(videos) for b in list(videos)[i + 1 :]]
    return [
        f"{a} and {b} share {len(videos[a] & videos[b]):,} videos"
        for a, b in pairs
        if videos[a] & videos[b]
    ]


def _hold_out(
    paragraphs: dict[str, list[Paragraph]], fraction: float, seed: int, *, needed: bool
) -> list[str]:
    """Move a seeded share of the training videos, whole, to val."""
    videos = list(dict.fromkeys(p.video_id for p in paragraphs["train"]))
    count = round(fraction * len(videos))
    if not 0 < count < len(videos):
        if needed:
            raise InputError(
                f"there is no validation file, and VAL_FRACTION {fraction:g} of {len(videos)} "
                f"training videos holds out {count}; expected at least one and not all."
            )
        return []
    order = np.random.default_rng([seed, 0]).permutation(len(videos))
    held = {videos[i] for i in order[:count]}
    paragraphs["val"] = [p for p in paragraphs["train"] if p.video_id in held]
    paragraphs["train"] = [p for p in paragraphs["train"] if p.video_id not in held]
    return [f"val: {count:,} of {len(videos):,} training videos held out (no validation file)"]


def _find_vectors(name: str, folder: Path, data_dir: Path) -> Path:
    places = [folder / name, data_dir / name, Path(name)]
    for place in places:
        if place.is_file():
            return place
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    raise InputError(f"the word vectors {name} do not exist; looked for {tried}.")


def _require_videos(features: FeatureFile, groups: Mapping[str, Sequence[Paragraph]]) -> None:
    for split, group in groups.items():
        videos = list(dict.fromkeys(paragraph.video_id for paragraph in group))
        missing = features.missing(videos)
        if missing:
            raise InputError(
                f"{features.path}: lacks {len(missing):,} of the {len(videos):,} {split} videos, "
                f"e.g. {', '.join(missing[:5])}."
            )


def _synthetic_folder(folder: Path, knobs: Mapping[str, Any]) -> Path:
    """A world made by hand in the folder itself, or the world of these knobs below it."""
    known = list(WorldOptions.__dataclass_fields__)
    for knob in knobs:
        if knob not in known:
            near = difflib.get_close_matches(knob, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}."
            raise InputError(f"the synthetic world has no knob {knob!r}{hint}")
    if not knobs and find_annotations(facts("synthetic"), folder, "train"):
        return folder
    return ensure_world(folder, WorldOptions(**knobs))
