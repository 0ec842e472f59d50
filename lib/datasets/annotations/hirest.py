"""HiREST: ``{prompt: {video: {v_duration, bounds, steps}}}``; the steps of a video are its
paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .records import Record
from .source import Source, short
from .videos import read_events


def read_prompts(prompts: Mapping[str, Any], source: Source) -> list[Record]:
    """The videos that have steps; the others are counted.

    Raises:
        InputError: no video has a step: the test's are withheld, and its bounds mean nothing.
    """
    records = []
    for prompt, videos in prompts.items():
        if not isinstance(videos, dict):
            raise source.fault(f"{prompt} is {short(videos)}; expected an object of videos.")
        for video, entry in videos.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("steps", []), list):
                raise source.fault(f"{video} is {short(entry)}; expected an object with steps.")
            if not entry.get("steps"):
                source.cleaning.note("videos without steps left out", video)
                continue
            duration, _, used = source.duration(entry, video)
            record = Record(video, video, duration, [], [])
            records.append(read_events(record, entry["steps"], source))
            source.ignore(entry, [*used, "steps"])
    if not records:
        raise source.fault(
            "no video has steps: HiREST withholds those of its test (and [0, 1] under bounds is "
            "no moment); formatted_moment_evaluation_gt.json has them."
        )
    return records
