"""Annotation files of a corpus -> the paragraphs of each split, held out and limited."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from ..base.files import open_input
from .annotations import Cleaning, Paragraph, SplitMissing, read_paragraphs
from .catalog import CorpusFacts, find_annotations, require_annotations
from .left_out import EMPTY_MOMENT, Dropped
from .options import CorpusOptions

_MOST_LETTERS = 2**26  # of a list of videos: a million ids of 60


@dataclass
class ReadSplits:
    """What was read; a split that is held out of the training has no file."""

    paragraphs: dict[str, list[Paragraph]]
    cleaning: dict[str, Cleaning]  # per split read
    files: dict[str, Path]
    notes: list[str]


def read_splits(
    corpus: CorpusFacts,
    folder: Path,
    splits: Sequence[str],
    options: CorpusOptions,
    *,
    weak: bool,
) -> ReadSplits:
    """Training and validation, and the others if they are asked for; those asked for, and training,
    must be there (validation may be held out).

    Args:
        weak: keep training sentences whose moment is empty or not known.

    Raises:
        InputError: a file is missing or unusable, or lacks some timestamps of a split that is
            scored.
    """
    read = ReadSplits({}, {}, {}, [])
    for split in dict.fromkeys(("train", "val", *splits)):
        keeps = weak and split == "train" and options.bad_moments == "drop"
        must = split == "train" or (split in splits and split != "val")
        path = (require_annotations if must else find_annotations)(corpus, folder, split)
        if path is None:
            continue
        listed = listed_videos(corpus, folder, split)
        try:
            group, cleaning = read_paragraphs(
                path,
                cut_descriptions=corpus.cut_descriptions,
                min_sentences=corpus.min_sentences.get(split, 1),
                bad_moments="keep" if keeps else options.bad_moments,
                empty_sentences=options.empty_sentences,
                untimed=weak or split != "train",
                order=corpus.order,
                paragraphs=options.paragraphs,
                split=split,
                videos=listed,
            )
        except SplitMissing:
            if must or not corpus.inside:
                raise
            continue
        if split != "train":
            _require_apart(split, group, path, read)
            _require_all_or_none(group, path)
        if listed is not None:
            said = f"paragraphs of {cleaning.videos:,} of the {len(listed):,} listed videos"
            read.notes.append(f"{split}: {said}")
        read.files[split], read.paragraphs[split], read.cleaning[split] = path, group, cleaning
    return read


def listed_videos(corpus: CorpusFacts, folder: Path, split: str) -> Collection[str] | None:
    """The videos that a split's list names, in its order; None: it has no list.

    Raises:
        InputError: the list is missing, no text, or no list of ids.
    """
    if split not in corpus.lists:
        return None
    path = folder / corpus.lists[split]
    try:
        with open_input(path, encoding="utf-8-sig") as file:
            text = file.read(_MOST_LETTERS + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected the {split} videos, which "
            f"DATASET.SPLITS.{split} says are listed there."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}).") from None
    if len(text) > _MOST_LETTERS:
        raise InputError(f"{path}: is longer than any list of videos ({_MOST_LETTERS:,} letters).")
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    if text.lstrip()[:1] in ("[", "{"):
        try:
            ids = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: is not valid JSON; expected a list of ids.") from None
    if not isinstance(ids, list) or not ids or not all(isinstance(name, str) for name in ids):
        raise InputError(
            f"{path}: is no list of videos; expected a JSON list of ids, or one id in a line."
        )
    return dict.fromkeys(ids)


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
    limits = {"train": options.limit_train, "val": options.limit_val}
    said = []
    for split, group in paragraphs.items():
        most, count = limits.get(split, options.limit_test), len(group)
        if most and most < count:
            name = split if split in limits else "test"
            said.append(f"{split}: {most:,} of {count:,} paragraphs (LIMIT_{name.upper()})")
            chosen = np.random.default_rng([options.seed, 1]).permutation(count)[:most]
            paragraphs[split] = [group[i] for i in sorted(chosen)]
            dropped.limit(split, name, group, paragraphs[split])
    return said


def _require_apart(split: str, group: Sequence[Paragraph], path: Path, read: ReadSplits) -> None:
    """Raises InputError if a file that is also that of training gives the same videos for both."""
    trained = {p.video_id for p in read.paragraphs["train"]}
    if path == read.files["train"] and trained == {p.video_id for p in group}:
        raise InputError(
            f"{path}: says of no video whether it belongs to train or to {split}; expected a list "
            "of each split's videos (DATASET.SPLITS), or a file for each (DATASET.ANNOTATIONS)."
        )


def _require_all_or_none(group: Sequence[Paragraph], path: Path) -> None:
    """Raises InputError if some sentences of a split that is scored have moments, and some not."""
    lacking = [p.paragraph_id for p in group if np.isnan(p.moments).any()]
    if lacking and not all(np.isnan(p.moments).all() for p in group):
        raise InputError(
            f"{path}: {lacking[0]} lacks timestamps, which others have; expected those of all "
            "sentences, or of none for a split on which retrieval alone is scored."
        )
