"""A corpus on disk -> datasets, sizes, and what was done on the way."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..base.batch import DataDims, collate
from ..base.errors import InputError
from .annotations import Cleaning, Paragraph, read_paragraphs
from .cache import DirectRows, Mode, Rows, find_packed, make_rows
from .catalog import (
    SPLITS,
    CorpusFacts,
    facts,
    find_annotations,
    require_annotations,
)
from .corruption import Corruption, prepared_rows
from .dense import DenseParagraphs, EpochBatches, VideoFrames, epoch_order
from .features import Features
from .loading import Loader
from .options import CorpusOptions
from .standardization import Standardization
from .synthetic import WorldOptions, ensure_world, read_manifest
from .videos import features_in, find_videos, leave_out, require_videos
from .vocabulary import TOKENISERS, Vocabulary
from .word_features import WordFeatures
from .word_vectors import WordVectors, coverage, read_word_vectors

__all__ = [
    "DenseParagraphs",
    "EpochBatches",
    "LoadedCorpus",
    "VideoFrames",
    "build_loader",
    "corpus_folder",
    "find_vectors",
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
    annotations: Mapping[str, Path]  # the file of each split that was read
    notes: tuple[str, ...]
    training_fractions: np.ndarray  # (M, 2) for one floor, the fixed list of spans; no model's food
    features: Features
    rows: Rows  # of the videos of all splits, raw; as a text, where they are
    standardization: Standardization | None = None  # of the rows that the datasets give
    vector_file: Path | None = None  # of word vectors; None where sentences bring features
    durations: tuple[float, ...] = ()  # seconds, of the training videos
    empty_moments: str = "dropped"  # training sentences with an empty moment: "dropped" or "kept"

    def __getitem__(self, split: str) -> DenseParagraphs:
        return self.splits[split]

    def lines(self) -> list[str]:
        """Everything to log."""
        reports = [line for report in self.cleaning.values() for line in report.lines()]
        return [*reports, *self.notes, str(self.rows)]


def load_corpus(
    options: CorpusOptions | None = None,
    *,
    name: str,
    data_dir: Path | str,
    splits: Sequence[str],
    cache_fallback: Path | str = "",
    standardization: Standardization | None = None,
    corruption: Mapping[str, Corruption] | None = None,
    hide_train_moments: bool = True,
    weak: bool = False,
    positions: int = 0,
    synthetic: Mapping[str, Any] | None = None,
    **changed: Any,
) -> LoadedCorpus:
    """Build the datasets of some splits of a corpus.

    The training annotations are read whatever the splits: vocabulary and sizes are made of them
    alone. Those of validation are read where they exist, those of the test only when they are asked
    for. Everything that can be found missing is found here.

    A split that is scored may be without timestamps; those of its sentences that have none while
    others do are refused.

    Args:
        options: how it is read; ``changed`` are fields of it that differ.
        name: a corpus of the catalog, or a reference to one from outside.
        data_dir: the data folder, in which the corpus has its own.
        splits: any of train, val, test.
        cache_fallback: folder of packed features where the one beside the feature file cannot be
            written.
        standardization: of the rows, known from a checkpoint; None: measured on the training split,
            which must then be asked for, where the options want one.
        corruption: split -> what destroys the time of its videos.
        hide_train_moments: training samples carry NaN in the place of moments.
        weak: read the training sentences as training without timestamps does, whatever their
            moments; those without one are left out where the training split is scored.
        positions: ``dims.max_sentences``; 0 = the sentences of the longest training paragraph.
        synthetic: knobs of the synthetic world (WorldOptions), which is made when missing.

    Raises:
        InputError: anything missing or unusable, in a sentence.
    """
    options = dataclasses.replace(options or CorpusOptions(), **changed)
    corpus = facts(name)
    if options.num_frames % options.num_clips:
        raise InputError(
            f"NUM_CLIPS {options.num_clips} does not divide NUM_FRAMES {options.num_frames}."
        )
    data_dir = Path(data_dir)
    folder = corpus_folder(name, data_dir, options.dir, synthetic)
    order = corpus.order if options.order == "auto" else options.order

    paragraphs, cleaning, files = _read_splits(
        corpus,
        folder,
        splits,
        weak=weak,
        order=order,
        bad_moments=options.bad_moments,
        empty_sentences=options.empty_sentences,
    )
    features = features_in(
        folder,
        options.features or corpus.features,
        expected_dim=options.feature_dim,
        linked=options.linked_features,
        member=options.feature_member,
    )
    missing, found = find_videos(features, paragraphs)
    if options.missing_videos == "drop":
        leave_out(missing, paragraphs, cleaning, features)
    notes = [*corpus.notes, *_shared_videos(paragraphs), *found]
    sentences = (s for group in paragraphs.values() for p in group for s in p.sentences)
    words = Counter(chain.from_iterable(map(TOKENISERS[options.tokens], sentences)))
    if "val" not in paragraphs:
        notes += _hold_out(paragraphs, options.val_fraction, options.seed, needed="val" in splits)
        if "val" in paragraphs:
            paragraphs["val"] = _with_moments(paragraphs["val"])
    limits = {"train": options.limit_train, "val": options.limit_val, "test": options.limit_test}
    for split, limit in limits.items():
        if limit and limit < len(paragraphs.get(split, ())):
            count = len(paragraphs[split])
            notes.append(f"{split}: {limit:,} of {count:,} paragraphs (LIMIT_{split.upper()})")
            chosen = np.random.default_rng([options.seed, 1]).permutation(count)[:limit]
            paragraphs[split] = [paragraphs[split][i] for i in sorted(chosen)]
    longest = max(len(p.sentences) for p in paragraphs["train"])
    longest = min(longest, options.max_sentences or longest)
    if "train" in splits and options.max_sentences:
        cut = sum(len(p.sentences) > options.max_sentences for p in paragraphs["train"])
        notes.append(
            f"train: {cut:,} paragraphs cut to their first {options.max_sentences} sentences"
        )

    require_videos(features, missing, {split: paragraphs[split] for split in splits})
    beside = [features.path.parent / "cache"]
    beside += [Path(cache_fallback)] if cache_fallback else []
    rows = _open_rows(
        features,
        paragraphs,
        splits,
        num_frames=options.num_frames,
        normalize=options.normalize,
        dtype=options.cache_dtype,
        mode=options.cache,
        folders=[Path(options.cache_dir)] if options.cache_dir else beside,
    )
    vector_file, vectors = None, WordVectors.none()
    if not options.word_features:
        vector_file = find_vectors(options.word_vectors, folder, data_dir)
        vectors = read_word_vectors(vector_file, width=options.word_dim, words=words)
        share, tail = coverage(words, vectors)
        notes += [
            *vectors.notes,
            f"word vectors: {100 * share:.2f} % of the words have one{tail}",
        ]
    training_sentences = [s for p in paragraphs["train"] for s in p.sentences]
    timed = [p.moments[~np.isnan(p.moments[:, 0])] / p.duration for p in paragraphs["train"]]
    notes += [
        f"{split}: no sentence has a timestamp"
        for split, group in paragraphs.items()
        if all(np.isnan(p.moments).all() for p in group)
    ]
    # The releases that read words between spaces have zeros for an unknown one.
    unknown = torch.zeros(vectors.dim) if options.tokens == "spaces" else None
    known = vectors.restrict(words, unknown)
    vocabulary = Vocabulary(
        training_sentences,
        known,
        size=options.vocab_size,
        tagger=options.tagger,
        tokens=options.tokens,
        stems=options.stems,
    )
    contextual, word_dim = None, vectors.dim
    if options.word_features:
        names = [i for split in splits for p in paragraphs[split] for i in p.sentence_ids]
        contextual = WordFeatures(folder / options.word_features, linked=options.linked_features)
        contextual.require(names)
        word_dim = contextual.width(names[0])
    standardization = _standardization(
        standardization or options.standardize,
        rows,
        paragraphs["train"] if "train" in splits else None,
        normalize=options.normalize,
    )
    if standardization is not None:
        notes.append(f"rows standardised by {standardization.rows:,} rows of training videos")
    corruption = corruption or {}
    notes += [f"{split}: features CORRUPTED on purpose: {how}" for split, how in corruption.items()]
    datasets = {
        split: DenseParagraphs(
            _with_moments(paragraphs[split])
            if split == "train" and not hide_train_moments
            else paragraphs[split],
            prepared_rows(rows, corruption.get(split), standardization),
            vocabulary,
            hide_moments=hide_train_moments and split == "train",
            max_sentences=options.max_sentences if split == "train" else 0,
            word_features=contextual,
        )
        for split in splits
    }
    dims = DataDims(
        video_dim=rows.dim,
        word_dim=word_dim,
        vocab_size=len(vocabulary),
        num_frames=options.num_frames,
        num_clips=options.num_clips,
        max_sentences=positions or longest,
        word_vectors=None if contextual else vocabulary.word_vectors(),
        word_idf=vocabulary.inverse_document_frequency(),
    )
    return LoadedCorpus(
        name,
        folder,
        order,
        datasets,
        dims,
        vocabulary,
        cleaning,
        files,
        tuple(notes),
        np.concatenate(timed),
        features,
        rows,
        standardization,
        vector_file,
        tuple({p.video_id: p.duration for p in paragraphs["train"]}.values()),
        "kept" if weak else "dropped",
    )


def _standardization(
    asked: bool | Standardization,
    rows: Rows,
    training: Sequence[Paragraph] | None,
    *,
    normalize: bool,
) -> Standardization | None:
    """The statistics given, or measured on the training videos.

    Raises:
        InputError: they fit other rows, or the training split is not read.
    """
    if isinstance(asked, Standardization):
        asked.require_fits(dim=rows.dim, normalize=normalize)
        return asked
    if not asked:
        return None
    if training is None:
        raise InputError(
            "DATASET.STANDARDIZE takes mean and deviation from training videos; expected the "
            "training split, or a checkpoint that holds them."
        )
    videos = (paragraph.video_id for paragraph in training)
    return Standardization.measure(rows, videos, normalize=normalize)


def corpus_folder(
    name: str,
    data_dir: Path | str,
    directory: str = "",
    synthetic: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a corpus; that of the synthetic world is made when it is missing."""
    folder = Path(data_dir) / (directory or facts(name).folder)
    return _synthetic_folder(folder, synthetic or {}) if name == "synthetic" else folder


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


def _read_splits(
    corpus: CorpusFacts,
    folder: Path,
    splits: Sequence[str],
    *,
    weak: bool,
    bad_moments: str,
    **rules: str,
) -> tuple[dict[str, list[Paragraph]], dict[str, Cleaning], dict[str, Path]]:
    """Training and validation, and the test if it is asked for; those asked for, and training, must
    be there (validation may be held out)."""
    paragraphs, cleaning, files = {}, {}, {}
    for split in SPLITS:
        if split == "test" and split not in splits:
            continue
        keeps = weak and split == "train" and bad_moments == "drop"
        must = split == "train" or (split in splits and split != "val")
        find = require_annotations if must else find_annotations
        path = find(corpus, folder, split)
        if path is not None:
            files[split] = path
            paragraphs[split], cleaning[split] = read_paragraphs(
                path,
                cut_descriptions=corpus.cut_descriptions,
                min_sentences=corpus.min_sentences.get(split, 1),
                bad_moments="keep" if keeps else bad_moments,
                untimed=weak or split != "train",
                **rules,
            )
            if split != "train":
                _require_all_or_none(paragraphs[split], path)
    return paragraphs, cleaning, files


def _require_all_or_none(group: Sequence[Paragraph], path: Path) -> None:
    """Raises InputError if some sentences of a split that is scored have moments, and some not."""
    lacking = [p.paragraph_id for p in group if np.isnan(p.moments).any()]
    if lacking and not all(np.isnan(p.moments).all() for p in group):
        raise InputError(
            f"{path}: {lacking[0]} lacks timestamps, which others have; expected those of all "
            "sentences, or of none for a split on which retrieval alone is scored."
        )


def _with_moments(group: list[Paragraph]) -> list[Paragraph]:
    """The sentences that have a moment, as they are scored; all of them where none has."""
    known = [~np.isnan(p.moments[:, 0]) for p in group]
    if all(k.all() for k in known) or not any(k.any() for k in known):
        return group
    return [
        dataclasses.replace(
            p,
            sentences=tuple(itertools.compress(p.sentences, keep)),
            moments=p.moments[keep],
            sentence_ids=tuple(itertools.compress(p.sentence_ids, keep)),
        )
        for p, keep in zip(group, known, strict=True)
        if keep.any()
    ]


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


def find_vectors(name: str, folder: Path, data_dir: Path) -> Path:
    """A word-vector file: in the corpus's folder, in the data folder, or a path.

    Raises:
        InputError: it is in none of these places.
    """
    places = [folder / name, data_dir / name, Path(name)]
    for place in places:
        if place.is_file():
            return place
    tried = ", ".join(str(place) for place in dict.fromkeys(places))
    raise InputError(f"the word vectors {name} do not exist; looked for {tried}.")


def _open_rows(
    features: Features,
    paragraphs: Mapping[str, Sequence[Paragraph]],
    splits: Sequence[str],
    *,
    mode: Mode,
    folders: Sequence[Path],
    **setting: Any,
) -> Rows:
    """Rows of the splits' videos, which are there; a packed file has the other splits' too."""
    needed = list(dict.fromkeys(p.video_id for split in splits for p in paragraphs[split]))
    others = list(dict.fromkeys(p.video_id for group in paragraphs.values() for p in group))
    direct = DirectRows(features, needed[0], **setting)
    if mode in ("auto", "disk"):
        found = find_packed(direct, needed, folders)
        if found is not None:
            return found
    return make_rows(direct, needed, others, mode=mode, folders=folders)


def _synthetic_folder(folder: Path, knobs: Mapping[str, Any]) -> Path:
    """A world that was written into the folder itself, or the world of these knobs below it."""
    known = [knob.name for knob in dataclasses.fields(WorldOptions)]
    for name in knobs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise InputError(f"the synthetic world has no knob {name!r}; {hint}")
    options = WorldOptions(**knobs)
    made = read_manifest(folder)
    if made is None:
        return ensure_world(folder, options)
    for knob in dataclasses.fields(options):
        wanted = getattr(options, knob.name)
        there = made.get(knob.name, knob.default)  # a world older than the knob is without it
        if wanted not in (knob.default, there):
            raise InputError(
                f"{folder}: this world was made with {knob.name} {there}, "
                f"not {wanted}; leave the knob out, or choose another folder."
            )
    return folder
