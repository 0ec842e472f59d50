"""Videos -> a file of feature rows that states its recipe; can be killed and continued."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from ..base.errors import InputError
from ..base.recipe import (
    CONTAINER,
    DURATION,
    ENDS_EARLY,
    FPS,
    FRAMES,
    FRAMES_CORRUPT,
    FRAMES_WITHOUT_PTS,
    MODIFIED_NS,
    ROTATION,
    ROW_SPAN,
    ROW_START,
    ROW_STEP,
    SIZE,
    SOURCE,
    START,
    Recipe,
)
from ..base.runtime import Runtime
from .backbones import Backbone
from .batches import Batch, Failed, Finished, Job, decoded_batches
from .decode import Decoded, VideoInfo
from .feature_file import Layout, read_about, write_features
from .optional import optional
from .parts import Part, Parts, fingerprint, open_parts

_SUFFIXES = "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts flv wmv ogv 3gp"
SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
Log = Callable[[str], None]
_IN_FLIGHT = 2  # batches that the device may be at before their rows are fetched


@dataclass(frozen=True)
class Extracted:
    """What an extraction did.

    Attributes:
        out: the feature file.
        videos: by id, the files whose rows are in it; what else it had is not among them.
        skipped: the files that could not be used, each with one sentence.
        rows: that were computed now.
        frames: that the network was given for them; windows that overlap count each.
        seconds: what it took.
    """

    out: Path
    recipe: Recipe
    videos: dict[str, Path]
    skipped: dict[Path, str]
    rows: int
    frames: int
    seconds: float


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """Video files by id: the file's name without its suffix.

    Args:
        paths: files, whatever their suffix, and folders, in which files with a video's suffix are
            looked for at any depth.

    Raises:
        InputError: a path does not exist, nothing is found, two files have the same id, or a name
            is not valid UTF-8, as the names in a feature file must be.
    """
    found: dict[str, Path] = {}
    for path in _listed(paths):
        try:
            path.stem.encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(path)!r}: its name is not valid UTF-8; rename it.") from None
        other = found.setdefault(path.stem, path)
        if os.path.abspath(other) != os.path.abspath(path):
            raise InputError(
                f"{other} and {path} would both be the video {path.stem}; rename one of them."
            )
    if not found:
        given = ", ".join(map(str, paths)) or "no path"
        raise InputError(f"{given}: holds no video; looked for {' '.join(sorted(SUFFIXES))}.")
    return found


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    out: Path,
    *,
    runtime: Runtime,
    layout: Layout = "plain",
    dtype: Literal["float16", "float32"] = "float16",
    batch: int = 8,
    decoders: int = 0,
    ends_early: Literal["skip", "keep"] = "skip",
    retry: bool = False,
    save_every: float = 120.0,
    log: Log = print,
) -> Extracted:
    """Write the rows of videos to an HDF5 file, and add to it if it is there.

    A video that cannot be used is named, skipped, and not tried again until its file changes or
    ``retry`` is set. A call that was killed goes on where it was when it is repeated.

    Args:
        paths: files and folders.
        out: the feature file; what it has of other videos stays.
        layout: ``plain``: a dataset per video; ``activitynet``: a group with ``c3d_features``.
        dtype: of the stored rows.
        batch: windows that go through the network at a time; the bits of a row depend on it.
        decoders: files that are decoded at a time; 0 = as many as there are processors but one.
        ends_early: what to do with a file whose picture ends before its head says.
        save_every: seconds after which the rows of a long video are saved before it is done.
        log: is given one line for each video that is skipped.

    Raises:
        InputError: nothing could be used; ``out`` has rows of another recipe; a package is missing;
            or the disk is full.
    """
    began = time.monotonic()
    if batch < 1 or decoders < 0:
        raise InputError(f"batch {batch}, decoders {decoders}; expected at least 1, and 0 or more.")
    optional("av", "av", "reading videos")
    videos = find_videos(paths)
    made_by = _made_by(runtime, batch, dtype)
    recipe = backbone.recipe
    with open_parts(out) as parts:
        there = read_about(out, recipe, made_by)
        parts.agree(recipe, made_by)
        work = _Work(parts, recipe, dtype, ends_early, save_every, log)
        kept = {v for v, path in videos.items() if _is_current(there.get(v), path, ends_early)}
        jobs = work.plan({v: path for v, path in videos.items() if v not in kept}, retry=retry)
        compute = functools.partial(_rows, backbone.to(runtime.device), runtime)
        work.run(jobs, compute, size=batch, decoders=decoders or _default_decoders())
        usable = kept | work.done.keys()
        if not usable:
            first = work.skipped[min(work.skipped)]
            raise InputError(f"none of {len(videos)} video(s) can be used; the first: {first}")
        failed = {v for v, path in videos.items() if path in work.skipped}
        content: dict[str, Callable[[], Part] | None] = {
            video: None for video in there if video not in failed
        }
        content |= {v: functools.partial(_loaded, parts, v, path) for v, path in work.done.items()}
        if work.done or failed & there.keys():
            write_features(out, content, recipe, made_by, layout)
        parts.clear(iter(usable))
    return Extracted(
        out=out,
        recipe=recipe,
        videos={v: path for v, path in videos.items() if v in usable},
        skipped=dict(sorted(work.skipped.items())),
        rows=work.rows,
        frames=work.rows * recipe.frames,
        seconds=time.monotonic() - began,
    )


@dataclass
class _Open:
    """A video under way."""

    rows: list[Float[np.ndarray, "n C"]]
    saved: float  # when, by the monotonic clock
    shown: float = 0.0  # bytes of the file that the bar has counted


@dataclass
class _Work:
    """The videos of one call, from the plan to the parts."""

    parts: Parts
    recipe: Recipe
    dtype: str
    ends_early: str
    save_every: float
    log: Log
    done: dict[str, Path] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    rows: int = 0
    _open: dict[str, _Open] = field(default_factory=dict)

    def plan(self, videos: dict[str, Path], *, retry: bool) -> list[Job]:
        """What is left to do."""
        jobs = []
        for video, path in sorted(videos.items()):
            part = self.parts.load(video, path)
            if part is not None and self._may_end(part.about[ENDS_EARLY]):
                self.done[video] = path
                continue
            failure = None if retry else self.parts.failure(video, path)
            if failure is not None and not (failure[1] and self.ends_early == "keep"):
                self._skip(path, f"{failure[0]} (failed before; --retry tries it again)")
                continue
            rest = self.parts.load_unfinished(video, path)
            rows = [] if rest is None else [rest.rows]
            self._open[video] = _Open(rows, time.monotonic())
            jobs.append(Job(video, path, first=sum(map(len, rows))))
        return jobs

    def run(
        self,
        jobs: Sequence[Job],
        compute: Callable[[UInt8[np.ndarray, "B T H W 3"]], Float[Tensor, "B C"]],
        *,
        size: int,
        decoders: int,
    ) -> None:
        """Decode, compute and save; the device works while the rows before are fetched."""
        if not jobs:
            return
        total = sum(job.path.stat().st_size for job in jobs if job.path.exists())
        began = time.monotonic()
        waiting: deque[tuple[Any, Float[Tensor, "B C"] | None]] = deque()
        decoding = decoded_batches(jobs, self.recipe, size=size, decoders=decoders)
        with (
            contextlib.closing(decoding),  # now, and not when the last traceback is forgotten
            tqdm(
                total=total, unit="B", unit_scale=True, desc="extracting", leave=False, disable=None
            ) as bar,
        ):
            for item in decoding:
                waiting.append((item, compute(item.windows) if isinstance(item, Batch) else None))
                while len(waiting) > _IN_FLIGHT:
                    self._take(*waiting.popleft(), bar)
                speed = self.rows * self.recipe.frames / (time.monotonic() - began)
                bar.set_postfix_str(f"{speed:,.1f} frames/s", refresh=False)
            while waiting:
                self._take(*waiting.popleft(), bar)

    def _take(
        self, item: Batch | Finished | Failed, rows: Float[Tensor, "B C"] | None, bar: tqdm[Any]
    ) -> None:
        video, path = item.job.id, item.job.path
        under_way = self._open[video]
        if isinstance(item, Batch):
            assert rows is not None
            under_way.rows.append(self._stored(rows[: item.count], path))
            self.rows += item.count
            if time.monotonic() - under_way.saved >= self.save_every:
                made = np.concatenate(under_way.rows)
                self.parts.save_unfinished(video, Part(made, fingerprint(path)))
                under_way.rows, under_way.saved = [made], time.monotonic()
            self._show(under_way, self._share(under_way, item.info), path, bar)
            return
        if isinstance(item, Failed):
            self._fail(video, path, str(item.error), ends_early=False)
        elif not self._may_end(item.decoded.ends_early):
            sentence = f"{path}: {item.decoded.ends_early}; --ends-early keep uses what is there."
            self._fail(video, path, sentence, ends_early=True)
        else:
            made = np.concatenate(under_way.rows)
            about = _about(path, self.recipe, item.info, item.decoded)
            self.parts.save(video, Part(made, about))
            self.done[video] = path
        self._show(under_way, 1.0, path, bar)
        del self._open[video]

    def _stored(self, rows: Float[Tensor, "B C"], path: Path) -> Float[np.ndarray, "B C"]:
        with np.errstate(over="ignore"):
            stored = rows.cpu().numpy().astype(self.dtype)
        if not np.isfinite(stored).all():
            finite = bool(torch.isfinite(rows).all())
            raise InputError(
                f"{path}: its rows reach {float(rows.abs().max()):,.0f}, which {self.dtype} cannot "
                f"hold; choose --dtype float32."
                if finite
                else f"{path}: the backbone {self.recipe.backbone} gives NaN or infinity for it."
            )
        return stored

    def _share(self, under_way: _Open, info: VideoInfo) -> float:
        """About how much of a video is done."""
        rate = float(self.recipe.frames_per_second or info.fps)
        frames = rate * info.duration
        count = sum(map(len, under_way.rows)) * self.recipe.stride
        return min(count / frames, 1.0) if frames else 0.0

    def _show(self, under_way: _Open, share: float, path: Path, bar: tqdm[Any]) -> None:
        size = path.stat().st_size if path.exists() else 0
        bar.update(max(0, round(share * size) - under_way.shown))
        under_way.shown = max(under_way.shown, round(share * size))

    def _may_end(self, why: str) -> bool:
        return not why or self.ends_early == "keep"

    def _fail(self, video: str, path: Path, sentence: str, *, ends_early: bool) -> None:
        self.parts.save_failure(video, path, sentence, ends_early=ends_early)
        self._skip(path, sentence)

    def _skip(self, path: Path, sentence: str) -> None:
        self.skipped[path] = sentence
        self.log(f"skipped: {sentence}")


def _rows(
    backbone: Backbone, runtime: Runtime, windows: UInt8[np.ndarray, "B T H W 3"]
) -> Float[Tensor, "B C"]:
    levels = torch.from_numpy(windows)
    if runtime.pin_memory:
        levels = levels.pin_memory()
    with runtime.autocast():
        rows: Tensor = backbone(levels.to(runtime.device, non_blocking=True))
    return rows


def _about(path: Path, recipe: Recipe, info: VideoInfo, decoded: Decoded) -> dict[str, Any]:
    """The attributes of a video's dataset."""
    step, span = recipe.row_step, recipe.row_span
    if step is None or span is None:  # at the container's rate
        step, span = recipe.stride / decoded.fps, recipe.covered / decoded.fps
    return {
        START: decoded.start,
        DURATION: decoded.duration,
        ROW_START: 0.0,
        ROW_STEP: step,
        ROW_SPAN: span,
        FPS: decoded.fps,
        FRAMES: decoded.frames,
        FRAMES_WITHOUT_PTS: decoded.frames_without_pts,
        FRAMES_CORRUPT: decoded.frames_corrupt,
        ROTATION: decoded.rotation,
        CONTAINER: info.container,
        ENDS_EARLY: decoded.ends_early,
        **fingerprint(path),
    }


def _made_by(runtime: Runtime, batch: int, dtype: str) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", "av")}
    return {
        "versions": {k: str(v) for k, v in (versions | runtime.versions()).items()},
        "device": runtime.name,
        "device kind": runtime.device.type,
        "precision": runtime.precision,
        "batch": batch,
        "dtype": dtype,
    }


def _is_current(about: dict[str, Any] | None, path: Path, ends_early: str) -> bool:
    """Whether the rows in the feature file are those of this file as it is now."""
    if about is None or (about.get(ENDS_EARLY) and ends_early != "keep"):
        return False
    keys = (SOURCE, SIZE, MODIFIED_NS)
    now = fingerprint(path)
    return all(about.get(key) == now[key] for key in keys)


def _loaded(parts: Parts, video: str, path: Path) -> Part:
    part = parts.load(video, path)
    if part is None:
        raise InputError(f"{path}: changed while it was extracted; start again.")
    return part


def _default_decoders() -> int:
    return max(1, min(16, (os.cpu_count() or 1) - 1))


def _listed(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(
                each
                for each in path.rglob("*")
                if each.suffix.lower() in SUFFIXES
                and not each.is_dir()
                and not any(part.startswith(".") for part in each.relative_to(path).parts)
            )
        elif path.exists() or path.is_symlink():
            yield path
        else:
            raise InputError(f"{path}: there is no such file or folder.")
