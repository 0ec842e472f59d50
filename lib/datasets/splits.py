"""Annotation files of a corpus -> the paragraphs of each split, held out and limited."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from .annotations import Cleaning, Paragraph, read_paragraphs
from .catalog import SPLITS, CorpusFacts, find_annotations, require_annotations
from .left_out import EMPTY_MOMENT, Dropped
from .options import CorpusOptions


@dataclass
class ReadSplits:
    """What was read; a split that is held out of the training has no file."""

    paragraphs: dict[str, list[Paragraph]]
    cleaning: dict[str, Cleaning]  # per annotation file read
    files: dict[str, Path]


def read_splits(
    corpus: CorpusFacts,
    folder: Path,
    splits: Sequence[str],
    options: CorpusOptions,
    *,
    weak: bool,
    order: str,
) -> ReadSplits:
    """Training and validation, and the test if it is asked for; those asked for, and training, must
    be there (validation may be held out).

    Args:
        weak: keep training sentences whose moment is empty or not known.
        order: of the sentences in a paragraph, "file" or "time".

    Raises:
        InputError: a file is missing or unusable, or lacks some timestamps of a split that is
            scored.
    """
    read = ReadSplits({}, {}, {})
    for split in SPLITS:
        if split == "test" and split not in splits:
            continue
        keeps = weak and split == "train" and options.bad_moments == "drop"
        must = split == "train" or (split in splits and split != "val")
        find = require_annotations if must else find_annotations
        path = find(corpus, folder, split)
        if path is not None:
            read.files[split] = path
            read.paragraphs[split], read.cleaning[split] = read_paragraphs(
                path,
                cut_descriptions=corpus.cut_descriptions,
                min_sentences=corpus.min_sentences.get(split, 1),
                bad_moments="keep" if keeps else options.bad_moments,
                empty_sentences=options.empty_sentences,
                untimed=weak or split != "train",
                order=order,
            )
            if split != "train":
                _require_all_or_none(read.paragraphs[split], path)
    return read


def with_moments(group: list[Paragraph]) -> list[Paragraph]:
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
            windows=tuple(itertools.compress(p.windows, keep)),
        )
        for p, keep in zip(group, known, strict=True)
        if keep.any()
    ]


def hold_out(
    paragraphs: dict[str, list[Paragraph]],
    fraction: float,
    seed: int,
    dropped: Dropped,
    *,
    needed: bool,
) -> list[str]:
    """Move a seeded share of the training videos, whole, to val; what to say of it.

    Raises:
        InputError: the share is no video or all, where validation is ``needed``.
    """
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
    taken = [p for p in paragraphs["train"] if p.video_id in held]
    paragraphs["val"] = with_moments(taken)
    dropped.hold_out("train", taken)
    dropped.note("val", EMPTY_MOMENT, taken, paragraphs["val"])
    paragraphs["train"] = [p for p in paragraphs["train"] if p.video_id not in held]
    return [f"val: {count:,} of {len(videos):,} training videos held out (no validation file)"]


def limit(
    paragraphs: dict[str, list[Paragraph]], options: CorpusOptions, dropped: Dropped
) -> list[str]:
    """Keep a seeded part of each split that has a limit; what to say of it."""
    limits = {"train": options.limit_train, "val": options.limit_val, "test": options.limit_test}
    said = []
    for split, most in limits.items():
        if most and most < len(paragraphs.get(split, ())):
            count = len(paragraphs[split])
            said.append(f"{split}: {most:,} of {count:,} paragraphs (LIMIT_{split.upper()})")
            chosen = np.random.default_rng([options.seed, 1]).permutation(count)[:most]
            whole = paragraphs[split]
            paragraphs[split] = [whole[i] for i in sorted(chosen)]
            dropped.limit(split, whole, paragraphs[split])
    return said


def _require_all_or_none(group: Sequence[Paragraph], path: Path) -> None:
    """Raises InputError if some sentences of a split that is scored have moments, and some not."""
    lacking = [p.paragraph_id for p in group if np.isnan(p.moments).any()]
    if lacking and not all(np.isnan(p.moments).all() for p in group):
        raise InputError(
            f"{path}: {lacking[0]} lacks timestamps, which others have; expected those of all "
            "sentences, or of none for a split on which retrieval alone is scored."
        )
