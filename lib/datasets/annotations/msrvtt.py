"""MSR-VTT's ``MSRVTT_data.json``: a list of clips, with their splits, and a list of captions."""

from __future__ import annotations

from typing import Any

from .queries import read_queries
from .records import Record
from .source import Source, short
from .videos import of_split


def read_captions_of_clips(videos: list[Any], sentences: list[Any], source: Source) -> list[Record]:
    """The captions of a clip are a paragraph without moments; a clip lasts from its start time to
    its end time in the film."""
    clips: dict[str, dict[str, Any]] = {}
    for number, clip in enumerate(videos, start=1):
        if not isinstance(clip, dict) or not isinstance(clip.get("video_id"), str):
            raise source.fault(f"video {number} is {short(clip)}; expected one with a video_id.")
        clips[clip["video_id"]] = clip
    chosen = of_split(clips, source)
    rows = []
    for number, caption in enumerate(sentences, start=1):
        place = f"caption {number}"
        name = caption.get("video_id") if isinstance(caption, dict) else None
        if not isinstance(name, str) or name not in clips:
            raise source.fault(f"{place} is {short(caption)}; expected one of a video in the file.")
        if name in chosen:
            start, end = (
                source.number(clips[name].get(key), name, key) for key in ("start time", "end time")
            )
            rows.append((place, {**caption, "duration": end - start}))
    return read_queries(rows, source)
