"""Where a reader can see a video: a file beside the page, or YouTube."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# ActivityNet's ids, and those of clips, such as QVHighlights': the clip's start and end are seconds
# of the video on YouTube.
_WHOLE = re.compile(r"v_([A-Za-z0-9_-]{11})")
_CLIP = re.compile(r"([A-Za-z0-9_-]{11})_(\d{1,6}(?:\.\d{1,3})?)_(\d{1,6}(?:\.\d{1,3})?)")


@dataclass(frozen=True)
class Videos:
    """Addresses of videos.

    Args:
        files: video id -> address of its file, as the page can refer to it.
    """

    files: Mapping[str, str] = field(default_factory=dict)

    def file(self, video: str) -> str:
        """The address of a video's file; empty without one."""
        return self.files.get(video, "")

    def link(self, video: str, start: float = 0.0, end: float | None = None) -> str:
        """An address at which a video shows a moment (seconds from its start): its file's, or
        YouTube's if the id is one of YouTube's; else empty."""
        if video in self.files:
            span = f"{start:.2f}" + (f",{end:.2f}" if end is not None else "")
            return f"{self.files[video]}#t={span}"
        return youtube_link(video, start)


def youtube_link(video: str, start: float = 0.0) -> str:
    """The address of a video on YouTube at ``start`` seconds after the beginning of the video or
    clip; empty unless the id says which video of YouTube it is: ``v_`` and eleven characters, or
    eleven characters with the clip's start and end in seconds."""
    offset, match = 0.0, _WHOLE.fullmatch(video)
    if match is None:
        match = _CLIP.fullmatch(video)
        if match is None or float(match[2]) >= float(match[3]):
            return ""
        offset = float(match[2])
    return f"https://www.youtube.com/watch?v={match[1]}&t={int(offset + start)}s"
