"""The features of a corpus, and what is done about videos that have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..base.errors import InputError
from ..base.installed import called
from .annotations import Cleaning, Paragraph
from .catalog import CorpusFacts
from .features import Features, open_features
from .options import CorpusOptions

NO_FEATURES = "sentences whose video has no features, left out"
_SHOWN = 5  # names in a message


def corpus_features(corpus: CorpusFacts, folder: Path, options: CorpusOptions) -> Features:
    """The features of a corpus, which it names in its folder or by whole paths, as the options have
    them read.

    Raises:
        InputError: no name is given.
    """
    names = [corpus.features] if isinstance(corpus.features, str) else list(corpus.features)
    if not names or not all(names):
        raise InputError(f"{folder}: DATASET.FEATURES names no file; expected one, or several.")
    paths = [folder / name for name in names]
    return open_features(
        paths,
        expected_dim=options.feature_dim,
        linked=options.linked_features,
        member=options.feature_member,
    )


def find_videos(
    features: Features, paragraphs: Mapping[str, Sequence[Paragraph]]
) -> tuple[frozenset[str], list[str]]:
    """The videos without features, and what to log about the others.

    Raises:
        InputError: the features cannot be read, or two videos would be read from one place.
    """
    found = features.find(p.video_id for group in paragraphs.values() for p in group)
    return frozenset(found.missing), [*features.lines(), *found.lines(features)]


def leave_out(
    missing: Iterable[str],
    paragraphs: dict[str, list[Paragraph]],
    cleaning: Mapping[str, Cleaning],
    features: Features,
) -> None:
    """Take the paragraphs of videos without features out of every split, and count them.

    Raises:
        InputError: nothing is left of a split.
    """
    missing = frozenset(missing)
    for split, group in paragraphs.items():
        kept = [paragraph for paragraph in group if paragraph.video_id not in missing]
        if len(kept) == len(group):
            continue
        if not kept:
            raise InputError(_lacking(features, split, [p.video_id for p in group], missing))
        report = cleaning[split]
        for paragraph in group:
            if paragraph.video_id in missing:
                for name in paragraph.sentence_ids:
                    report.note(NO_FEATURES, name)
        report.paragraphs = len(kept)
        report.sentences = sum(len(paragraph.sentences) for paragraph in kept)
        report.videos = len({paragraph.video_id for paragraph in kept})
        paragraphs[split] = kept


def require_videos(
    features: Features, missing: Iterable[str], groups: Mapping[str, Sequence[Paragraph]]
) -> None:
    """Raises InputError if a split has a video without features."""
    missing = frozenset(missing)
    for split, group in groups.items():
        videos = list(dict.fromkeys(paragraph.video_id for paragraph in group))
        if missing.intersection(videos):
            raise InputError(_lacking(features, split, videos, missing))


def _lacking(features: Features, split: str, videos: Sequence[str], missing: frozenset[str]) -> str:
    videos = list(dict.fromkeys(videos))
    lacking = [video for video in videos if video in missing]
    shown = ", ".join(lacking[:_SHOWN])
    lack = f"{features}: lacks {len(lacking):,} of the {len(videos):,} {split} videos, e.g. {shown}"
    if len(lacking) == len(videos):
        held = features.keys()
        names = f"it has {len(held):,} others such as {', '.join(held[:3])}"
        return (
            f"{lack}; {names}: expected the features of this corpus, under the ids of its videos."
        )
    return (
        f"{lack}; DATASET.MISSING_VIDEOS: drop goes on without them and counts them, and "
        f"{called('doctor')} --missing FILE lists them all."
    )
