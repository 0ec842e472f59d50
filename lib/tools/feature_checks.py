"""A feature file against the videos that need it: everything that is wrong in it, counted."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from lib.base.errors import InputError
from lib.datasets.annotations import Record
from lib.datasets.features import FeatureFile
from lib.tools.doctor import Finding

_RATE_APART = 0.25  # share by which a video's rows per second may differ from the median


def examine_features(
    features: FeatureFile,
    records: Mapping[str, Sequence[Record]],
    *,
    videos: int = 0,
    seed: int = 0,
) -> list[Finding]:
    """Check keys, and read what the splits need.

    Args:
        videos: how many to read, drawn by the seed; 0 = all of them.
    """
    name = features.path.name
    try:
        keys = set(features.keys())
    except InputError as fault:
        told = str(fault).removeprefix(f"{features.path}:").strip()
        return [Finding("problem", name, told, "get the file again, or set DATASET.FEATURES")]
    durations = {r.video_id: r.duration for group in records.values() for r in group}
    findings = _missing(features, records)
    used = {
        node.name.strip("/").split("/")[0]
        for video in durations
        if (node := features.dataset(video)) is not None
    }
    if superfluous := sorted(keys - used):
        told = f"{len(superfluous):,} entries belong to no split (e.g. {_some(superfluous)})"
        remedy = "nothing to do, unless annotations are incomplete"
        findings.append(Finding("note", name, told, remedy))
    there = sorted(video for video in durations if features.dataset(video) is not None)
    if videos and videos < len(there):
        chosen = np.random.default_rng(seed).permutation(len(there))[:videos]
        told = f"{videos:,} of {len(there):,} videos were read, a sample"
        findings.append(Finding("note", name, told, "run without --videos to read all"))
        there = [there[index] for index in sorted(chosen)]
    seen = _Seen()
    for video in tqdm(there, desc=f"reading {name}", leave=False, disable=None):
        seen.add(features, video, durations[video])
    return findings + seen.findings(name, features.expected_dim)


def _missing(features: FeatureFile, records: Mapping[str, Sequence[Record]]) -> list[Finding]:
    findings = []
    for split, group in records.items():
        needed = list(dict.fromkeys(record.video_id for record in group))
        if missing := features.missing(needed):
            told = f"{len(missing):,} of the {len(needed):,} {split} videos are missing"
            remedy = "get the whole file, or take the videos out of the annotations"
            findings.append(
                Finding("problem", features.path.name, f"{told} (e.g. {_some(missing)})", remedy)
            )
    return findings


@dataclass
class _Seen:
    """What was met in the videos read so far."""

    widths: Counter[int] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    constant_rows: int = 0
    of: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # fault -> videos
    rates: dict[str, float] = field(default_factory=dict)
    digests: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, features: FeatureFile, video: str, duration: float) -> None:
        node = features.dataset(video)
        assert node is not None
        if node.ndim != 2 or node.dtype.kind not in "fiu":
            self.of["shape"].append(video)
            return
        if node.shape[0] == 0:
            self.of["empty"].append(video)
            return
        try:
            rows = features.values(node)
        except (InputError, OSError):  # a damaged chunk, or a size that cannot be
            self.of["unreadable"].append(video)
            return
        self.rows += len(rows)
        self.widths[rows.shape[1]] += 1
        self.dtypes[str(node.dtype)] += 1
        self.rates[video] = len(rows) / duration
        self.digests[hashlib.sha256(rows.tobytes()).digest()].append(video)
        if not np.isfinite(rows).all():
            self.of["not finite"].append(video)
            return
        constant = int((np.ptp(rows, axis=1) == 0).sum())
        self.constant_rows += constant
        if constant:
            self.of["constant"].append(video)
        if len(rows) > 1 and (rows == rows[0]).all():
            self.of["still"].append(video)

    def findings(self, name: str, expected_dim: int) -> list[Finding]:
        found = [Finding("note", name, self._sizes())]
        texts = {
            "shape": "videos are not numbers of shape (rows, width)",
            "empty": "videos have no rows",
            "unreadable": "videos cannot be read: their part of the file is damaged",
            "not finite": "videos hold NaN or infinity",
        }
        for what, text in texts.items():
            if videos := self.of[what]:
                told = f"{len(videos):,} {text} (e.g. {_some(videos)})"
                found.append(Finding("problem", name, told, "get or compute them again"))
        if self.constant_rows:
            told = (
                f"{self.constant_rows:,} rows in {len(self.of['constant']):,} videos hold one "
                f"number throughout (e.g. {_some(self.of['constant'])})"
            )
            remedy = "black frames, or an extractor that failed: compute them again"
            found.append(Finding("warning", name, told, remedy))
        if videos := self.of["still"]:
            told = f"{len(videos):,} videos repeat one row (e.g. {_some(videos)})"
            remedy = "nothing can be found in time there: compute them again"
            found.append(Finding("warning", name, told, remedy))
        if len(self.widths) > 1 or (expected_dim and set(self.widths) - {expected_dim}):
            told = f"widths {', '.join(f'{w} ({n:,} videos)' for w, n in self.widths.items())}"
            wanted = f"expected {expected_dim}" if expected_dim else "expected one width"
            remedy = "use one file of one extractor, and its width as FEATURE_DIM"
            found.append(Finding("problem", name, f"{told}, {wanted}", remedy))
        copies = [videos for videos in self.digests.values() if len(videos) > 1]
        if copies:
            surplus = sum(len(videos) - 1 for videos in copies)
            told = f"{surplus:,} videos have another one's features (e.g. {_some(copies[0])})"
            remedy = "the same video twice, or a mistake in extraction"
            found.append(Finding("warning", name, told, remedy))
        return found + self._of_rates(name)

    def _sizes(self) -> str:
        kinds = ", ".join(f"{kind} ({count:,} videos)" for kind, count in self.dtypes.items())
        return f"{sum(self.dtypes.values()):,} videos read, {self.rows:,} rows, {kinds or 'none'}"

    def _of_rates(self, name: str) -> list[Finding]:
        """Videos whose number of rows does not go with their duration."""
        if len(self.rates) < 3:
            return []
        usual = float(np.median(list(self.rates.values())))
        apart = sorted(
            (abs(rate / usual - 1), video)
            for video, rate in self.rates.items()
            if abs(rate / usual - 1) > _RATE_APART
        )[::-1]
        told = f"{usual:.3g} rows per second in the middle"
        if not apart:
            return [Finding("note", name, f"{told}, all within {100 * _RATE_APART:.0f} %")]
        shown = ", ".join(f"{video} {self.rates[video]:.3g}" for _, video in apart[:3])
        told += f"; {len(apart):,} videos are off by more than {100 * _RATE_APART:.0f} % ({shown})"
        remedy = "cut or resampled features, or a wrong duration: moments would be misplaced"
        return [Finding("warning", name, told, remedy)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3])
