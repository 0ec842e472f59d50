"""What a reader of the numbers must know of a corpus, from the files that were read and never from
its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..base.terminal import count
from .annotations import SORTED, Cleaning, Paragraph

Groups = Mapping[str, Sequence[Paragraph]]  # split -> its paragraphs
_FEW = 100  # videos, from which a ranking hits by chance so often that it must be said


def statements(read: Groups, cleaning: Mapping[str, Cleaning], asked: Iterable[str]) -> list[str]:
    """All of it, as sentences.

    Args:
        read: the splits whose files were read, entirely.
        cleaning: what reading each of them changed.
        asked: the splits that are trained on or scored; of others only shared videos are said.
    """
    said = shared_videos(read)
    for split in asked:
        if group := read.get(split, ()):
            own = [sorted_by_time(cleaning[split]), several_paragraphs(group)]
            own += [repeated_sentences(group)]
            own += [few_videos(group)] if split != "train" else []
            said += [f"{split}: {one}" for one in own if one]
    return said


def shared_videos(read: Groups) -> list[str]:
    """Splits that describe the same videos."""
    videos = {split: {p.video_id for p in group} for split, group in read.items()}
    pairs = [(a, b) for i, a in enumerate(videos) for b in list(videos)[i + 1 :]]
    follows = {"train": ", so that {} scores what was trained on"}
    follows["val"] = ", so that a model selected on val was selected on videos of {}"
    return [
        f"{a} and {b} share {count(shared, 'video')}{follows.get(a, '').format(b)}"
        for a, b in pairs
        if (shared := len(videos[a] & videos[b]))
    ]


def sorted_by_time(cleaning: Cleaning) -> str:
    """How many paragraphs have not the file's order; empty if none."""
    changed = cleaning.counts[SORTED]
    share = f"{changed:,} of {cleaning.paragraphs:,} paragraphs"
    return f"{share} stood in another order in the file than by time" if changed else ""


def several_paragraphs(group: Sequence[Paragraph]) -> str:
    """How many videos have more than one paragraph; empty if none."""
    counts: dict[str, int] = defaultdict(int)
    for paragraph in group:
        counts[paragraph.video_id] += 1
    several = sum(number > 1 for number in counts.values())
    return f"{several:,} of {len(counts):,} videos have several paragraphs" if several else ""


def repeated_sentences(group: Sequence[Paragraph]) -> str:
    """How many sentences also describe another video of the split, word for word; empty if none.
    Nothing in such a sentence says which of the videos it means."""
    videos: dict[str, set[str]] = defaultdict(set)
    for paragraph in group:
        for sentence in paragraph.sentences:
            videos[sentence].add(paragraph.video_id)
    texts = [sentence for paragraph in group for sentence in paragraph.sentences]
    repeated = sum(len(videos[text]) > 1 for text in texts)
    share = f"{repeated:,} of {len(texts):,} sentences ({100 * repeated / len(texts):.1f} %)"
    return f"{share} stand verbatim in other videos" if repeated else ""


def few_videos(group: Sequence[Paragraph]) -> str:
    """What chance makes of a search among few videos; empty if there are many."""
    number = len({paragraph.video_id for paragraph in group})
    if number > _FEW:
        return ""
    chance = "100 % whatever the ranking" if number <= 10 else f"{1000 / number:.0f} % by chance"
    return f"a search among {count(number, 'video')}, where R@10 is {chance}"


def without_timestamps(paragraphs: Groups) -> list[str]:
    """Splits of which no sentence has a timestamp."""
    return [
        f"{split}: no sentence has a timestamp"
        for split, group in paragraphs.items()
        if all(np.isnan(p.moments).all() for p in group)
    ]
