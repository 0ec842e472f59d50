"""What a reader of the numbers must know of a corpus, from the files that were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .annotations import Paragraph

Groups = Mapping[str, Sequence[Paragraph]]  # split -> its paragraphs


def shared_videos(paragraphs: Groups) -> list[str]:
    """Splits that describe the same videos."""
    videos = {split: {p.video_id for p in group} for split, group in paragraphs.items()}
    pairs = [(a, b) for i, a in enumerate(videos) for b in list(videos)[i + 1 :]]
    return [
        f"{a} and {b} share {len(videos[a] & videos[b]):,} videos"
        for a, b in pairs
        if videos[a] & videos[b]
    ]


def without_timestamps(paragraphs: Groups) -> list[str]:
    """Splits of which no sentence has a timestamp."""
    return [
        f"{split}: no sentence has a timestamp"
        for split, group in paragraphs.items()
        if all(np.isnan(p.moments).all() for p in group)
    ]
