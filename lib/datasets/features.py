"""HDF5 features -> rows of one video, and the resampling to T rows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from ..base.errors import InputError

# What h5py raises where a file is damaged, or asks for more memory than there is.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
_MOST_VALUES = 2**28  # of a video: a day of one row a second, 3,000 wide
_MOST_LINKS = 16  # followed to one dataset


class FeatureFile:
    """Features of a corpus: one (n, C) dataset per video.

    The file is opened when first read, and again in every process that reads it: an HDF5 handle
    cannot be shared over a fork and is never part of a pickle. A video is looked for under its id,
    with and without ``.avi`` and ``v_``; it may be a dataset, or a group that holds
    ``c3d_features`` or one dataset only.

    Args:
        path: the HDF5 file.
        expected_dim: the width C that every video must have; 0 = whatever the file has.
        linked: read what lies in other files too: behind external links, in virtual datasets, in
            external storage. HDF5 gives zeros for what it does not find there, so that the other
            files are looked at first.
    """

    def __init__(self, path: Path, *, expected_dim: int = 0, linked: bool = False) -> None:
        self.path = Path(path)
        self.expected_dim = expected_dim
        self.linked = linked
        self._file: h5py.File | None = None
        self._owner = 0  # process that opened the file

    def read(self, video_id: str) -> Float[np.ndarray, "n C"]:
        """A video's rows as float32, checked.

        Raises:
            InputError: no such file or video, wrong rank, width or type, no rows, NaN, rows that
                were never written, or that lie in other files.
        """
        try:
            node = self.dataset(video_id)
            if node is None:
                raise InputError(f"{self.path}: has no features of the video {video_id}.")
            shape, kind = node.shape, node.dtype.kind
            if len(shape) != 2 or kind not in "fiu":
                raise InputError(
                    f"{self.path}: {video_id} has the shape {shape} and the type {node.dtype}; "
                    f"expected numbers of shape (rows, width)."
                )
            if self.expected_dim and shape[1] != self.expected_dim:
                raise InputError(
                    f"{self.path}: {video_id} is {shape[1]} wide; expected {self.expected_dim}."
                )
            if 0 in shape:
                raise InputError(f"{self.path}: {video_id} has no rows.")
            rows = self.values(node)
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: {video_id} cannot be read; is the file complete? ({error})"
            ) from None
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{self.path}: {video_id} holds NaN or infinity in row {int(finite.argmin())} "
                f"of {len(rows)}."
            )
        return rows

    def values(self, node: h5py.Dataset) -> Float[np.ndarray, "n C"]:
        """A dataset as float32; numbers too large for it become infinite.

        Raises:
            InputError: a size that no video has (a damaged header can ask for any), or zeros that
                HDF5 would make up.
            OSError: the file is damaged there.
        """
        if node.size > _MOST_VALUES:
            raise InputError(
                f"{self.path}: {node.name} has the shape {node.shape}; expected at most "
                f"{_MOST_VALUES:,} numbers."
            )
        self._require_rows(node)
        with np.errstate(over="ignore"):
            return np.asarray(node[()], dtype=np.float32)

    def attributes(self, video_id: str = "") -> dict[str, Any]:
        """The HDF5 attributes of the file, or of a video's dataset.

        Raises:
            InputError: no such file or video, or it is damaged there.
        """
        node = self.dataset(video_id) if video_id else self._open()
        if node is None:
            raise InputError(f"{self.path}: has no features of the video {video_id}.")
        try:
            return dict(node.attrs)
        except _DAMAGE as error:
            raise InputError(f"{self.path}: its attributes cannot be read ({error}).") from None

    def width(self, video_id: str) -> int:
        """C, as this video has it."""
        return self.read(video_id).shape[1]

    def keys(self) -> list[str]:
        """The names at the top of the file, sorted; videos, and whatever else is there."""
        try:
            return sorted(self._open())
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: is damaged; its names cannot be read ({error})"
            ) from None

    def missing(self, video_ids: Iterable[str]) -> list[str]:
        """The videos that the file does not have."""
        return [video_id for video_id in video_ids if self.dataset(video_id) is None]

    def dataset(self, video_id: str) -> h5py.Dataset | None:
        """Where this video's rows are stored, under whichever of its names; None = nowhere."""
        try:
            return self._look_up(self._open(), video_id)
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: {video_id} cannot be looked up; is the file complete? ({error})"
            ) from None

    def _look_up(self, file: h5py.File, video_id: str) -> h5py.Dataset | None:
        bare = video_id.removesuffix(".avi")
        short = bare.removeprefix("v_")
        names = (video_id, bare, f"{bare}.avi", f"v_{bare}", short, f"v_{bare}.avi", f"{short}.avi")
        for name in names:
            node = self._follow(file, name)
            if isinstance(node, h5py.Group):
                members = list(node)
                inside = "c3d_features" if "c3d_features" in members else ""
                inside = inside or (members[0] if len(members) == 1 else "")
                node = self._follow(node, inside)
            if isinstance(node, h5py.Dataset):
                return node
        return None

    def _follow(self, group: h5py.Group, name: str, links: int = 0) -> h5py.HLObject | None:
        """What a path leads to, link by link: h5py would open another file to find that out."""
        node: h5py.HLObject = group
        for part in filter(None, name.split("/")):
            if not isinstance(node, h5py.Group):
                return None
            link = node.get(part, getlink=True)
            if link is None:
                return None
            if isinstance(link, h5py.HardLink):
                node = node[part]
                continue
            if links >= _MOST_LINKS:
                raise InputError(f"{self.path}: {name} is a chain of links; expected a dataset.")
            if isinstance(link, h5py.ExternalLink):
                self._require_linked(f"{name} is a link into {link.filename}")
                place = h5py.File(self._other(node.file, link.filename), "r")
            else:
                place = node.file if link.path.startswith("/") else node
            found = self._follow(place, link.path, links + 1)
            if found is None:
                return None
            node = found
        return node if name.strip("/") else None

    def _require_linked(self, what: str) -> None:
        if not self.linked:
            raise InputError(
                f"{self.path}: {what}, another file; expected the rows themselves "
                "(DATASET.LINKED_FEATURES: true reads such files)."
            )

    def _other(self, file: h5py.File, name: str | bytes) -> Path:
        """Another file that a feature file names, beside it unless by a whole path."""
        path = Path(file.filename).parent / os.fsdecode(name)
        if not path.is_file():  # a pipe, for one, would be waited for
            raise InputError(f"{self.path}: names {path}, which is no file.")
        return path

    def _require_rows(self, node: h5py.Dataset) -> None:
        """Refuse a dataset whose numbers HDF5 would fill in, in part or all, because nobody wrote
        them or because they lie in a file that is not there."""
        where = node.name
        if node.is_virtual:
            self._require_linked(f"{where} is put together from virtual sources")
            covered = 0
            for source in node.virtual_sources():
                other, ranges = node.file, source.src_space
                if source.file_name != ".":
                    other = h5py.File(self._other(node.file, source.file_name), "r")
                inside = self._follow(other, source.dset_name)
                if not isinstance(inside, h5py.Dataset) or inside.is_virtual or inside.external:
                    raise InputError(
                        f"{self.path}: {where} has a source {source.file_name}/{source.dset_name} "
                        "that holds no rows."
                    )
                points = source.vspace.get_select_npoints()
                if ranges.get_select_type() == h5py.h5s.SEL_ALL:
                    whole = inside.size >= points
                else:
                    ends = ranges.get_select_bounds()[1]
                    whole = all(end < n for end, n in zip(ends, inside.shape, strict=False))
                if not whole:
                    raise InputError(f"{self.path}: {where} reaches past the end of a source.")
                self._require_rows(inside)
                covered += points
            if covered < node.size:
                raise InputError(f"{self.path}: {where} has sources for a part of its rows only.")
            return
        if node.external:
            names = ", ".join(str(name) for name, _, _ in node.external)
            self._require_linked(f"{where} keeps its rows in {names}")
            for name, offset, size in node.external:
                if not os.path.isabs(name):  # HDF5 looks in the working folder
                    raise InputError(
                        f"{self.path}: {where} keeps its rows in {name}; expected "
                        "the whole path of that file."
                    )
                path = self._other(node.file, name)
                needed = offset + min(size, node.size * node.dtype.itemsize)
                if path.stat().st_size < needed:
                    raise InputError(f"{self.path}: {where} reaches past the end of {path}.")
            return
        if not node.size:
            return
        if node.chunks is None:
            written = node.id.get_storage_size() > 0
        else:
            sizes = zip(node.shape, node.chunks, strict=True)
            written = node.id.get_num_chunks() >= math.prod(-(-n // chunk) for n, chunk in sizes)
        if not written:
            raise InputError(f"{self.path}: the rows of {where} were never written, or not all.")

    def _open(self) -> h5py.File:
        if self._file is None or self._owner != os.getpid():
            if not self.path.is_file():
                raise InputError(f"{self.path}: the feature file does not exist.")
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise InputError(
                    f"{self.path}: is not an HDF5 file or is incomplete ({error})."
                ) from None
            self._owner = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}


def normalize_rows(rows: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
    """Rows of Euclidean length 1; rows of zeros stay zero."""
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    large = ~np.isfinite(norms[:, 0])  # the sum of squares is past float32, the rows are not
    if large.any():
        wide = rows[large].astype(np.float64)
        unit = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(rows.dtype)
        out = normalize_rows(np.where(large[:, None], 0, rows))
        out[large] = unit
        return out
    return rows / np.maximum(norms, 1e-12)


def resample(rows: Float[np.ndarray, "n C"], num_frames: int) -> Float[np.ndarray, "T C"]:
    """Average n rows to T.

    Row k is the mean of the rows [e_k, e_{k+1}), or the row e_k when that range is empty, with the
    edges e_k = min(round(k·n/T), n − 1) rounded half to even. As in the published preprocessing
    the last row is therefore never used when n >= T.

    Source: 2D-TAN, average_to_fixed_length.
    """
    n = len(rows)
    edges = np.round(np.arange(num_frames + 1) * n / num_frames).astype(np.int64)
    edges = np.minimum(edges, n - 1)
    # reduceat sums rows[e_k : e_{k+1}] and gives rows[e_k] where that is empty: the rule itself.
    sums = np.add.reduceat(rows, edges, axis=0, dtype=np.float64)[:-1]
    counts = np.maximum(np.diff(edges), 1)
    return (sums / counts[:, None]).astype(np.float32)


def as_read(
    rows: Float[np.ndarray, "n C"], num_frames: int, *, normalize: bool, dtype: str
) -> Float[np.ndarray, "T C"]:
    """Rows as models read them: of length 1 where asked for, then resampled, then rounded to
    ``dtype`` (infinite where they do not fit it)."""
    if normalize:
        rows = normalize_rows(rows)
    with np.errstate(over="ignore"):
        return resample(rows, num_frames).astype(dtype, copy=False)
