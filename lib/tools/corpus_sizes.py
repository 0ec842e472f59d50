"""How large the corpus of an experiment is: counted in its annotations, or known before they are
there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..datasets.annotations import Paragraph
from ..datasets.catalog import CorpusFacts, facts, require_annotations
from ..datasets.left_out import Dropped
from ..datasets.splits import hold_out, limit, read_splits
from ..datasets.synthetic import WorldOptions
from ..training.build import corpus_options, resolve
from .measuring import SIZES, SplitSizes
from .profiling import SENTENCES


def split_sizes(config: Any) -> tuple[dict[str, SplitSizes], str]:
    """Of training and validation, and where that is known from, as a sentence. No feature file is
    opened, and the synthetic world is not made.

    Raises:
        InputError: annotations that are there cannot be read.
    """
    data = config.DATASET
    if data.NAME == "synthetic":
        world = WorldOptions(**(data.get("SYNTHETIC") or {}))
        sizes = {name: _of(getattr(world, name)) for name in ("train", "val")}
        return _limited(config, sizes), "sizes of the synthetic world, as its knobs have them"
    options = corpus_options(config)
    corpus = facts(data.NAME, options)
    folder = Path(resolve(config.DATA_DIR)) / corpus.folder
    try:
        require_annotations(corpus, folder, "train")
    except InputError:
        return _known(config, corpus)
    read = read_splits(
        corpus, folder, ("train", "val"), options, weak=config.TRAIN.SUPERVISION == "weak"
    )
    groups, dropped = read.paragraphs, Dropped()
    if "val" not in groups:
        hold_out(groups, options.val_fraction, options.seed, dropped, needed=True)
    limit(groups, options, dropped)
    counted = {name: _counted(groups[name]) for name in ("train", "val")}
    return counted, f"sizes counted in the annotations in {folder}"


def _known(config: Any, corpus: CorpusFacts) -> tuple[dict[str, SplitSizes], str]:
    data = config.DATASET
    known = SIZES.get(data.DIR) or SIZES.get(data.NAME)
    if known is None or not known.splits:
        sizes, which = SIZES["activitynet"].splits, "ActivityNet Captions, for want of its own"
    else:
        sizes, which = known.splits, f"{corpus.title} as published"
    train = sizes["train"]
    if "val" in sizes:
        found = dict(sizes)
    else:
        share = data.VAL_FRACTION
        found = {"train": _part(train, 1 - share), "val": _part(train, share)}
    said = f"no annotations of {corpus.title} are there yet; sizes of {which}"
    return _limited(config, found), said


def _limited(config: Any, sizes: dict[str, SplitSizes]) -> dict[str, SplitSizes]:
    limits = {"train": config.DATASET.LIMIT_TRAIN, "val": config.DATASET.LIMIT_VAL}
    return {
        name: _part(split, min(1.0, (limits[name] or split.paragraphs) / split.paragraphs))
        for name, split in sizes.items()
    }


def _of(paragraphs: int) -> SplitSizes:
    """So many paragraphs, each of a video, with the lengths of ActivityNet Captions."""
    return SplitSizes(paragraphs, round(paragraphs * sum(SENTENCES) / len(SENTENCES)), paragraphs)


def _part(split: SplitSizes, share: float) -> SplitSizes:
    counts = (split.paragraphs, split.sentences, split.videos)
    return SplitSizes(*(max(1, round(count * share)) for count in counts))


def _counted(group: Sequence[Paragraph]) -> SplitSizes:
    return SplitSizes(
        len(group),
        sum(len(paragraph.sentences) for paragraph in group),
        len({paragraph.video_id for paragraph in group}),
    )
