"""The folder of MS-SL, GMMFormer and DCIML (``feature.bin``, …) -> one HDF5 file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
from tqdm import tqdm

from ..base.errors import InputError
from ..base.files import replace_file
from ..datasets.features.folder import BigFile


def convert_bigfile(folder: Path, out: Path) -> tuple[int, int]:
    """Write every video's rows as one dataset; returns the number of videos and of rows written.

    Raises:
        InputError: a file that is missing, damaged or does not fit the others, or ``out`` exists or
            cannot be written.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another name or remove it.")
    source = BigFile(folder)
    _require_names(folder / "video2frames.txt", source.videos)

    def write(file: BinaryIO) -> None:
        with h5py.File(file.name, "w") as features:
            for video in tqdm(source.videos, desc="videos", leave=False, disable=None):
                entry = source.entry(video)
                assert entry is not None
                features[video] = source.values(entry)

    replace_file(out, write)
    return len(source.videos), sum(map(len, source.videos.values()))


def _require_names(path: Path, videos: Collection[str]) -> None:
    """Raises InputError for a video that an HDF5 file cannot hold under its name."""
    for video in videos:
        if not _is_name(video):
            raise InputError(
                f"{path}: names a video {ascii(video)[:60]}, which an HDF5 file cannot hold; "
                "expected text without an empty part, . or .. between slashes"
            )
    for video in videos:  # a data set and a folder of the same name
        inside = next((p for p in _parents(video) if p in videos), None)
        if inside is not None:
            raise InputError(f"{path}: {video[:60]} lies inside of the video {inside[:60]}.")


def _is_name(video: str) -> bool:
    """Whether HDF5 can keep a data set under this name, and under no other."""
    try:
        video.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in video and all(part not in ("", ".", "..") for part in video.split("/"))


def _parents(video: str) -> Iterator[str]:
    parts = video.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))
