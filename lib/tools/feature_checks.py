"""Checks of a feature file: missing, damaged or implausible features of the splits' videos."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from tqdm import tqdm

from ..base.errors import InputError
from ..base.recipe import ROW_STEP
from ..datasets.annotations import Record
from ..datasets.features import DAMAGE, Features
from .doctor import Finding

# What a video's rows may differ by from its duration at the usual rate: a share of them, or a few,
# which windows at the end of a video make.
_RATE_APART, _ROWS_APART = 0.05, 3


def examine_features(
    features: Features,
    records: Mapping[str, Sequence[Record]],
    *,
    videos: int = 0,
    seed: int = 0,
    missing_videos: str = "refuse",
    seconds_per_row: float = 0.0,
) -> list[Finding]:
    """Check the file's keys, and the features of the videos that the splits need.

    Args:
        videos: how many to read, drawn by the seed; 0 = all of them.
        missing_videos, seconds_per_row: as the experiment says (``CorpusOptions``).
    """
    name = features.path.name
    durations = {r.video_id: r.duration for group in records.values() for r in group}
    try:
        keys = set(features.keys())
        found = features.find(durations)
        lines = [*features.lines(), *found.lines(features)]
    except InputError as fault:
        description = str(fault).removeprefix(f"{features}:").strip()
        return [Finding("problem", name, description, "see what is said there")]
    findings = [Finding("note", name, line.removeprefix(f"{features}: ")) for line in lines]
    missing = set(found.missing)
    findings += _missing(name, missing, records, missing_videos)
    present, unclear, used = [], [], set()
    for video in durations:
        try:
            stored = None if video in missing else features.stored(video)
        except InputError as fault:
            unclear.append(str(fault).removeprefix(f"{features}:").strip())
            used.add(video)
            continue
        if stored is not None:
            present.append(video)
            used.add(stored.name.strip("/").split("/")[0])
    if unclear:
        description = f"{len(unclear):,} videos cannot be looked up: {unclear[0]}"
        findings.append(Finding("problem", name, description, "see what is said there"))
    if superfluous := sorted(keys - used):
        description = f"{len(superfluous):,} entries belong to no split (e.g. {_some(superfluous)})"
        remedy = "nothing to do, unless annotations are incomplete"
        findings.append(Finding("note", name, description, remedy))
    present.sort()
    if videos and videos < len(present):
        chosen = np.random.default_rng(seed).permutation(len(present))[:videos]
        description = f"{videos:,} of {len(present):,} videos were read, a sample"
        findings.append(Finding("note", name, description, "run without --videos to read all"))
        present = [present[index] for index in sorted(chosen)]
    seen = _Seen(seconds_per_row)
    for video in tqdm(present, desc=f"reading {name}", leave=False, disable=None):
        seen.add(features, video, durations[video])
    return findings + seen.findings(name, features.expected_dim)


def missing_of(features: Features, records: Mapping[str, Sequence[Record]]) -> list[str]:
    """A line ``split<TAB>video`` for every video without features."""
    needed = {split: dict.fromkeys(r.video_id for r in group) for split, group in records.items()}
    missing = set(features.missing(video for videos in needed.values() for video in videos))
    return [f"{split}\t{v}" for split, videos in needed.items() for v in videos if v in missing]


def _missing(
    name: str, missing: Collection[str], records: Mapping[str, Sequence[Record]], rule: str
) -> list[Finding]:
    findings = []
    for split, group in records.items():
        needed = list(dict.fromkeys(record.video_id for record in group))
        lacking = [video for video in needed if video in missing]
        if not lacking:
            continue
        sentences = sum(len(r.sentences) for r in group if r.video_id in missing)
        description = (
            f"{len(lacking):,} of the {len(needed):,} {split} videos are missing "
            f"(e.g. {_some(lacking)}), with {sentences:,} sentences"
        )
        level: Literal["problem", "warning"] = "problem"
        remedy = "get the whole file, or MISSING_VIDEOS: drop; --missing FILE lists them all"
        if rule == "drop":
            level, remedy = "warning", "MISSING_VIDEOS: drop leaves their paragraphs out"
        findings.append(Finding(level, name, description, remedy))
    return findings


@dataclass
class _Seen:
    """Statistics and faults of the videos read so far.

    Args:
        seconds_per_row: as it is stated; 0 = it is not.
    """

    seconds_per_row: float = 0.0
    widths: Counter[int] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    constant_rows: int = 0
    videos_with: dict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # fault -> videos
    refusals: dict[str, str] = field(default_factory=dict)  # of a video, in words
    lengths: dict[str, tuple[int, float, float]] = field(
        default_factory=dict
    )  # rows, seconds, and seconds from row to row that the file states (0: it does not)
    digests: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, features: Features, video: str, duration: float) -> None:
        stored = features.stored(video)
        assert stored is not None
        if len(stored.shape) != 2 or not stored.numbers:
            self.videos_with["shape"].append(video)
            return
        if 0 in stored.shape:
            self.videos_with["empty" if stored.shape[0] == 0 else "no numbers"].append(video)
            return
        try:
            rows = features.values(stored)
            step = float(features.attributes_of(stored).get(ROW_STEP, 0.0))
        except InputError as fault:  # which says what is there instead of rows
            self.refusals.setdefault(video, str(fault).removeprefix(f"{features}:").strip())
            return
        except DAMAGE:
            self.videos_with["unreadable"].append(video)
            return
        self.rows += len(rows)
        self.widths[rows.shape[1]] += 1
        self.dtypes[stored.dtype] += 1
        self.lengths[video] = len(rows), duration, step
        self.digests[hashlib.sha256(rows.tobytes()).digest()].append(video)
        if not np.isfinite(rows).all():
            self.videos_with["not finite"].append(video)
            return
        constant = int((np.ptp(rows, axis=1) == 0).sum())
        self.constant_rows += constant
        if constant:
            self.videos_with["constant"].append(video)
        if len(rows) > 1 and (rows == rows[0]).all():
            self.videos_with["still"].append(video)

    def findings(self, name: str, expected_dim: int) -> list[Finding]:
        findings = [Finding("note", name, self._sizes())]
        texts = {
            "shape": "videos are not numbers of shape (rows, width)",
            "empty": "videos have no rows",
            "no numbers": "videos have no numbers in their rows",
            "unreadable": "videos cannot be read: their part of the file is damaged",
            "not finite": "videos hold NaN or infinity",
        }
        for what, text in texts.items():
            if videos := self.videos_with[what]:
                description = f"{len(videos):,} {text} (e.g. {_some(videos)})"
                findings.append(Finding("problem", name, description, "get or compute them again"))
        if self.refusals:
            first = next(iter(self.refusals.values()))
            description = f"{len(self.refusals):,} videos cannot be read: {first}"
            findings.append(Finding("problem", name, description, "see what is said there"))
        if self.constant_rows:
            videos = self.videos_with["constant"]
            description = (
                f"{self.constant_rows:,} rows in {len(videos):,} videos hold one "
                f"number throughout (e.g. {_some(videos)})"
            )
            remedy = "black frames, or an extractor that failed: compute them again"
            findings.append(Finding("warning", name, description, remedy))
        if videos := self.videos_with["still"]:
            description = f"{len(videos):,} videos repeat one row (e.g. {_some(videos)})"
            remedy = "no moment can be localized in them: compute them again"
            findings.append(Finding("warning", name, description, remedy))
        if len(self.widths) > 1 or (expected_dim and set(self.widths) - {expected_dim}):
            description = (
                f"widths {', '.join(f'{w} ({n:,} videos)' for w, n in self.widths.items())}"
            )
            expected = f"expected {expected_dim}" if expected_dim else "expected one width"
            remedy = "use one file of one extractor, and its width as FEATURE_DIM"
            findings.append(Finding("problem", name, f"{description}, {expected}", remedy))
        copies = [videos for videos in self.digests.values() if len(videos) > 1]
        if copies:
            surplus = sum(len(videos) - 1 for videos in copies)
            description = (
                f"{surplus:,} videos have another one's features (e.g. {_some(copies[0])})"
            )
            remedy = "the same video twice, or a mistake in extraction"
            findings.append(Finding("warning", name, description, remedy))
        return findings + self._of_rates(name)

    def _sizes(self) -> str:
        kinds = ", ".join(f"{kind} ({count:,} videos)" for kind, count in self.dtypes.items())
        return f"{sum(self.dtypes.values()):,} videos read, {self.rows:,} rows, {kinds or 'none'}"

    def _of_rates(self, name: str) -> list[Finding]:
        """Videos whose rows do not fit their duration: at the seconds per row that are stated, or
        else at the usual ones of the file."""
        if len(self.lengths) < 3:
            return []
        usual = float(np.median([rows / seconds for rows, seconds, _ in self.lengths.values()]))
        each = {
            video: step or self.seconds_per_row or 1 / usual
            for video, (_, _, step) in self.lengths.items()
        }
        apart = sorted(
            (abs(rows * each[video] / seconds - 1), video)
            for video, (rows, seconds, _) in self.lengths.items()
            if abs(rows - seconds / each[video]) > max(_ROWS_APART, _RATE_APART * rows)
        )[::-1]
        description = f"{usual:.3g} rows per second (median), {1 / usual:.3g} s per row"
        stated = self.seconds_per_row or any(step for _, _, step in self.lengths.values())
        expected = "what is stated" if stated else "it"
        if not apart:
            within = f"all within {100 * _RATE_APART:.0f} % of {expected}"
            return [Finding("note", name, f"{description}, {within}")]
        shown = ", ".join(
            f"{video} {self.lengths[video][0] / self.lengths[video][1]:.3g}"
            for _, video in apart[:3]
        )
        description += (
            f"; {len(apart):,} videos are off by more than {100 * _RATE_APART:.0f} % of {expected} "
            f"({shown})"
        )
        remedy = "cut or resampled features, or a wrong duration: moments would be misplaced"
        if not stated:
            remedy += "; if the rate is known state it as SECONDS_PER_ROW"
        return [Finding("warning", name, description, remedy)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3])
