"""Videos to be indexed or grounded: their feature rows, times and files."""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..base import recipe as names
from ..base.errors import InputError
from ..base.files import open_input
from ..base.installed import called
from ..base.recipe import VideoTimes, times_of
from ..datasets.features import FeatureFile, Features
from ..datasets.fingerprint import difference, fingerprint, require_recipe
from .answers import Source


@dataclass(frozen=True)
class VideoRows:
    """A video as its features.

    Attributes:
        rows: as the feature file has them.
        times: when they are.
        source: the video's file, if there is one.
    """

    id: str
    rows: Float[np.ndarray, "n C"]
    times: VideoTimes
    source: Source

    @functools.cached_property
    def sum(self) -> int:
        """Check sum of rows and times, by which a video that has changed is noticed."""
        return zlib.crc32(repr(self.times).encode(), zlib.crc32(self.rows.tobytes()))

    def window(self, start: float, end: float) -> Float[np.ndarray, "m C"]:
        """The rows of a part of the video, in seconds from its first frame; at least one."""
        step, offset = self.times.row_step, self.times.row_start
        first = min(max(math.floor((start - offset) / step + 1e-6), 0), len(self.rows) - 1)
        last = max(math.ceil((end - offset) / step - 1e-6), first + 1)
        return self.rows[first:last]


class FeatureSource:
    """The videos of a feature file, or of other features.

    Args:
        features: them, or the path of the one file or folder that holds them.
        trained_on: what a checkpoint says of the features it was trained on.
        same_recipe: the user vouches that the file was made as they were; what both files say of
            themselves is compared all the same.
        seconds_per_row, durations: how long the videos are, where the file does not say.
        videos: which ones; None = all of the file's.
        files: the videos' own, by id, where they are at hand.

    Raises:
        InputError: the file cannot be read, or was made in another way, or it is not known how.
    """

    def __init__(
        self,
        features: Path | Features,
        trained_on: Mapping[str, Any],
        *,
        same_recipe: bool = False,
        seconds_per_row: float | None = None,
        durations: Mapping[str, float] | None = None,
        videos: Sequence[str] | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self.file = FeatureFile(features) if isinstance(features, Path) else features
        self.seconds_per_row, self.durations = seconds_per_row, durations
        self.fingerprint = fingerprint(self.file)
        _require_same_kind(trained_on, self.fingerprint, str(self.file), same_recipe)
        self.files = files or {}
        self.video_ids = tuple(self.file.keys() if videos is None else videos)

    def __len__(self) -> int:
        return len(self.video_ids)

    def read(self, video_id: str) -> VideoRows:
        """Raises InputError: no such video, it is damaged, or its length is not known."""
        rows = self.file.read(video_id)
        attributes = self.file.attributes(video_id)
        times = times_of(attributes, f"{self.file}: {video_id}")
        if times is None:
            times = self._stated_times(video_id, len(rows))
        return VideoRows(video_id, rows, times, self._source(video_id, attributes, times))

    def _stated_times(self, video_id: str, count: int) -> VideoTimes:
        if self.durations is not None and video_id in self.durations:
            duration = self.durations[video_id]
            return VideoTimes(0.0, duration, 0.0, duration / count, duration / count)
        if self.seconds_per_row is not None:
            step = self.seconds_per_row
            return VideoTimes(0.0, count * step, 0.0, step, step)
        lacking = "" if self.durations is None else f" and the durations given lack {video_id}"
        raise InputError(
            f"{self.file}: does not say how long its videos are{lacking}; expected the "
            f"attributes of {called('extract_features')}, --seconds-per-row, or --durations with a "
            "JSON file "
            "of video ids and seconds"
        )

    def _source(self, video_id: str, attributes: Mapping[str, Any], times: VideoTimes) -> Source:
        if video_id not in self.files:
            return Source("", times.start, times.duration)
        return Source(
            path=str(self.files[video_id].resolve()),
            start=times.start,
            duration=times.duration,
            container=_text(attributes.get(names.CONTAINER)),
            size=int(attributes.get(names.SIZE, 0)),
            modified_ns=int(attributes.get(names.MODIFIED_NS, 0)),
        )

    def __iter__(self) -> Iterator[VideoRows]:
        return map(self.read, self.video_ids)


def read_durations(path: Path) -> dict[str, float]:
    """Seconds by video id, from a JSON object of numbers, or of objects with a ``duration`` as
    ActivityNet's annotations are.

    Raises:
        InputError: it is no such file.
    """
    try:
        with open_input(path, encoding="utf-8") as file:
            content = json.load(file)
        entries = content.items()
        found = {
            video: float(entry["duration"] if isinstance(entry, dict) else entry)
            for video, entry in entries
        }
    except OSError as fault:
        raise InputError(f"{path} cannot be read ({fault.strerror})") from None
    except (
        *(ValueError, AttributeError, KeyError, TypeError, RecursionError, OverflowError),
    ) as fault:
        raise InputError(
            f"{path}: expected a JSON object of video ids and seconds, or of objects with a "
            f"duration ({type(fault).__name__}: {str(fault)[:80]})"
        ) from None
    wrong = [video for video, seconds in found.items() if not 0 < seconds < math.inf]
    if wrong:
        raise InputError(f"{path}: {wrong[0]} lasts {found[wrong[0]]} s; expected more than 0")
    return found


def _require_same_kind(
    there: Mapping[str, Any], here: Mapping[str, Any], where: str, same_recipe: bool
) -> None:
    require_recipe(there, here, where)
    if there["width"] != here["width"]:
        raise InputError(
            f"{where}: rows are {here['width']} wide; expected {there['width']}, as the run was "
            "trained on"
        )
    if there.get("recipe") and here.get("recipe") or same_recipe:
        return
    if there.get("recipe") or here.get("recipe"):
        which = "the run's features say" if there.get("recipe") else "only this file says"
        other = "this file does not" if there.get("recipe") else "the run's features do not"
        raise InputError(
            f"{where}: {which} how they were made and {other}; if they were made alike say "
            "--same-recipe"
        )
    # Neither says how it was made: the numbers must at least look alike.
    differing = [part for part in difference(there, here).split("; ") if "values" in part]
    if differing:
        raise InputError(
            f"{where}: is not of the kind that the run was trained on ({differing[0]}); if it was "
            "made alike nevertheless say --same-recipe"
        )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
