"""A corpus on disk -> datasets, sizes, and what was done on the way."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.batch import DataDims
from ..base.errors import InputError
from .annotations import Cleaning, Paragraph
from .cache import DirectRows, Rows, find_packed, make_rows
from .catalog import CorpusFacts, facts
from .corruption import Corruption, prepared_rows
from .dense import DenseParagraphs
from .features import Features
from .left_out import EMPTY_MOMENT, Dropped, LeftOut
from .options import CorpusOptions
from .splits import hold_out, limit, read_splits, with_moments
from .standardization import Standardization
from .statements import Groups, statements, without_timestamps
from .synthetic import WorldOptions, ensure_world, read_manifest
from .videos import corpus_features, find_videos, leave_out, require_videos
from .vocabulary import Vocabulary, tokeniser
from .word_features import WordFeatures
from .word_vectors import WordVectors, coverage, read_word_vectors


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
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)  # of each split asked for

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
        name: of a corpus that ships, or of the one that the options describe.
        data_dir: the data folder, in which the corpus has its own.
        splits: any of train, val, test and the others that the corpus has.
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
    corpus = facts(name, options)
    if options.num_frames % options.num_clips:
        raise InputError(
            f"NUM_CLIPS {options.num_clips} does not divide NUM_FRAMES {options.num_frames}."
        )
    data_dir = Path(data_dir)
    folder = corpus_folder(corpus, data_dir, synthetic)

    read = read_splits(corpus, folder, splits, options, weak=weak)
    paragraphs = read.paragraphs
    features = corpus_features(corpus, folder, options)
    missing, found = find_videos(features, paragraphs)
    if options.missing_videos == "drop":
        leave_out(missing, paragraphs, read.cleaning, features)
    notes = [*corpus.notes, *read.notes, *statements(paragraphs, read.cleaning, splits), *found]
    sentences = (s for group in paragraphs.values() for p in group for s in p.sentences)
    words = Counter(chain.from_iterable(map(tokeniser(options.tokens), sentences)))
    dropped = Dropped()
    if "val" not in paragraphs:
        notes += hold_out(
            paragraphs, options.val_fraction, options.seed, dropped, needed="val" in splits
        )
    notes += limit(paragraphs, options, dropped)
    longest = max(len(p.sentences) for p in paragraphs["train"])
    longest = min(longest, options.max_sentences or longest)
    if "train" in splits and options.max_sentences:
        cut = sum(len(p.sentences) > options.max_sentences for p in paragraphs["train"])
        notes.append(
            f"train: {cut:,} paragraphs cut to their first {options.max_sentences} sentences"
        )

    require_videos(features, missing, {split: paragraphs[split] for split in splits})
    rows = _open_rows(features, paragraphs, splits, options, fallback=cache_fallback)
    vector_file = None
    if not options.word_features:
        vector_file = find_vectors(options.word_vectors, folder, data_dir)
    vocabulary, said = _open_vocabulary(vector_file, words, paragraphs["train"], options)
    notes += [*said, *without_timestamps(paragraphs)]
    contextual, word_dim = None, vocabulary.vectors.dim
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
            with_moments(paragraphs[split])
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
    if "train" in datasets:
        dropped.note("train", EMPTY_MOMENT, paragraphs["train"], datasets["train"].paragraphs)
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
    timed = [p.moments[~np.isnan(p.moments[:, 0])] / p.duration for p in paragraphs["train"]]
    return LoadedCorpus(
        name,
        folder,
        corpus.order,
        datasets,
        dims,
        vocabulary,
        read.cleaning,
        read.files,
        tuple(notes),
        np.concatenate(timed),
        features,
        rows,
        standardization,
        vector_file,
        tuple({p.video_id: p.duration for p in paragraphs["train"]}.values()),
        "kept" if weak else "dropped",
        {
            split: dropped.left_out(split, read.cleaning.get(split), data.paragraphs)
            for split, data in datasets.items()
        },
    )


def corpus_folder(
    corpus: CorpusFacts, data_dir: Path | str, synthetic: Mapping[str, Any] | None = None
) -> Path:
    """The folder of a corpus; that of the synthetic world is made when it is missing."""
    folder = Path(data_dir) / corpus.folder
    return _synthetic_folder(folder, synthetic or {}) if corpus.name == "synthetic" else folder


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


def _open_vocabulary(
    path: Path | None, words: Counter[str], training: Sequence[Paragraph], options: CorpusOptions
) -> tuple[Vocabulary, list[str]]:
    """The vocabulary of the training sentences with the vectors of all words, if there are any, and
    what to say of them."""
    vectors, said = WordVectors.none(), []
    if path is not None:
        vectors = read_word_vectors(path, width=options.word_dim, words=words)
        share, tail = coverage(words, vectors)
        said = [*vectors.notes, f"word vectors: {100 * share:.2f} % of the words have one{tail}"]
    # The releases that read words between spaces have zeros for an unknown one.
    unknown = torch.zeros(vectors.dim) if options.tokens.startswith("spaces") else None
    vocabulary = Vocabulary(
        [sentence for paragraph in training for sentence in paragraph.sentences],
        vectors.restrict(words, unknown),
        size=options.vocab_size,
        tagger=options.tagger,
        tokens=options.tokens,
        stems=options.stems,
    )
    return vocabulary, said


def _open_rows(
    features: Features,
    paragraphs: Groups,
    splits: Sequence[str],
    options: CorpusOptions,
    *,
    fallback: Path | str,
) -> Rows:
    """Rows of the splits' videos, which are there; a packed file has the other splits' too."""
    folders = [features.path.parent / "cache"]
    folders += [Path(fallback)] if fallback else []
    if options.cache_dir:
        folders = [Path(options.cache_dir)]
    needed = list(dict.fromkeys(p.video_id for split in splits for p in paragraphs[split]))
    others = list(dict.fromkeys(p.video_id for group in paragraphs.values() for p in group))
    direct = DirectRows(
        features,
        needed[0],
        num_frames=options.num_frames,
        normalize=options.normalize,
        dtype=options.cache_dtype,
    )
    if options.cache in ("auto", "disk"):
        found = find_packed(direct, needed, folders)
        if found is not None:
            return found
    return make_rows(direct, needed, others, mode=options.cache, folders=folders)


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
