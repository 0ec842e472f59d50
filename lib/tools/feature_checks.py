"""Checks of a feature file: missing, damaged or implausible features of the splits' videos."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from ..base.errors import InputError
from ..datasets.annotations import Record
from ..datasets.features import FeatureFile
from .doctor import Finding

_RATE_APART = 0.25  # share by which a video's rows per second may differ from the median


def examine_features(
    features: FeatureFile,
    records: Mapping[str, Sequence[Record]],
    *,
    videos: int = 0,
    seed: int = 0,
) -> list[Finding]:
    """Check the file's keys, and the features of the videos that the splits need.

    Args:
        videos: how many to read, drawn by the seed; 0 = all of them.
    """
    name = features.path.name
    try:
        keys = set(features.keys())
    except InputError as fault:
        description = str(fault).removeprefix(f"{features.path}:").strip()
        return [
            Finding("problem", name, description, "get the file again, or set DATASET.FEATURES")
        ]
    durations = {r.video_id: r.duration for group in records.values() for r in group}
    findings = _missing(features, records)
    used = {
        node.name.strip("/").split("/")[0]
        for video in durations
        if (node := features.dataset(video)) is not None
    }
    if superfluous := sorted(keys - used):
        description = f"{len(superfluous):,} entries belong to no split (e.g. {_some(superfluous)})"
        remedy = "nothing to do, unless annotations are incomplete"
        findings.append(Finding("note", name, description, remedy))
    present = sorted(video for video in durations if features.dataset(video) is not None)
    if videos and videos < len(present):
        chosen = np.random.default_rng(seed).permutation(len(present))[:videos]
        description = f"{videos:,} of {len(present):,} videos were read, a sample"
        findings.append(Finding("note", name, description, "run without --videos to read all"))
        present = [present[index] for index in sorted(chosen)]
    seen = _Seen()
    for video in tqdm(present, desc=f"reading {name}", leave=False, disable=None):
        seen.add(features, video, durations[video])
    return findings + seen.findings(name, features.expected_dim)


def _missing(features: FeatureFile, records: Mapping[str, Sequence[Record]]) -> list[Finding]:
    findings = []
    for split, group in records.items():
        needed = list(dict.fromkeys(record.video_id for record in group))
        if missing := features.missing(needed):
            description = f"{len(missing):,} of the {len(needed):,} {split} videos are missing"
            remedy = "get the whole file, or take the videos out of the annotations"
            findings.append(
                Finding(
                    "problem", features.path.name, f"{description} (e.g. {_some(missing)})", remedy
                )
            )
    return findings


@dataclass
class _Seen:
    """Statistics and faults of the videos read so far."""

    widths: Counter[int] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    constant_rows: int = 0
    videos_with: dict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # fault -> videos
    rates: dict[str, float] = field(default_factory=dict)
    digests: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, features: FeatureFile, video: str, duration: float) -> None:
        node = features.dataset(video)
        assert node is not None
        if node.ndim != 2 or node.dtype.kind not in "fiu":
            self.videos_with["shape"].append(video)
            return
        if 0 in node.shape:
            self.videos_with["empty"].append(video)
            return
        try:
            rows = features.values(node)
        except (InputError, OSError):  # a damaged chunk, or a size that cannot be
            self.videos_with["unreadable"].append(video)
            return
        self.rows += len(rows)
        self.widths[rows.shape[1]] += 1
        self.dtypes[str(node.dtype)] += 1
        self.rates[video] = len(rows) / duration
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
            "unreadable": "videos cannot be read: their part of the file is damaged",
            "not finite": "videos hold NaN or infinity",
        }
        for what, text in texts.items():
            if videos := self.videos_with[what]:
                description = f"{len(videos):,} {text} (e.g. {_some(videos)})"
                findings.append(Finding("problem", name, description, "get or compute them again"))
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
        """Videos whose rows per second differ from the median of the file."""
        if len(self.rates) < 3:
            return []
        usual = float(np.median(list(self.rates.values())))
        apart = sorted(
            (abs(rate / usual - 1), video)
            for video, rate in self.rates.items()
            if abs(rate / usual - 1) > _RATE_APART
        )[::-1]
        description = f"{usual:.3g} rows per second (median)"
        if not apart:
            return [Finding("note", name, f"{description}, all within {100 * _RATE_APART:.0f} %")]
        shown = ", ".join(f"{video} {self.rates[video]:.3g}" for _, video in apart[:3])
        description += (
            f"; {len(apart):,} videos are off by more than {100 * _RATE_APART:.0f} % ({shown})"
        )
        remedy = "cut or resampled features, or a wrong duration: moments would be misplaced"
        return [Finding("warning", name, description, remedy)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3])
