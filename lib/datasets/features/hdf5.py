"""HDF5: a dataset per video, a group per video, or the rows of all videos in one dataset."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...base.errors import InputError
from .store import DAMAGE, MOST_VALUES, Entry, Store, choose_member

_MOST_LINKS = 16  # followed to one dataset
_MOST_VIDEOS = 2**24
_FEW = 16  # entries at the top of a file whose rows may be together in one of them


class Hdf5Store(Store):
    """One dataset per name, or one group of datasets.

    Args:
        linked: read what lies in other files too: behind external links, in virtual datasets, in
            external storage. HDF5 gives zeros for what it does not find there, so that the other
            files are looked at first.
        member: which dataset of a group; empty = see ``choose_member``.
    """

    kind = "an HDF5 file"

    def __init__(self, path: Path, *, linked: bool = False, member: str = "") -> None:
        super().__init__(path)
        self.linked, self.member = linked, member
        self._file: h5py.File | None = None
        self._owner = 0  # process that opened the file

    def names(self) -> list[str]:
        try:
            return sorted(self.open())
        except DAMAGE as error:
            raise InputError(
                f"{self.path}: is damaged; its names cannot be read ({error})"
            ) from None

    def entry(self, name: str) -> Entry | None:
        node = self.follow(self.open(), name)
        if isinstance(node, h5py.Group):
            node = self._member(node, name)
        return _entry(name, node) if isinstance(node, h5py.Dataset) else None

    def has(self, name: str) -> bool:
        if name.isascii() and "/" not in name and name.strip("."):
            # A corpus asks for each of its videos; h5py's objects would double the time of that.
            top, key = self.open().id, name.encode()
            if not top.links.exists(key):
                return False
            if top.links.get_info(key).type == h5py.h5l.TYPE_HARD:
                place = h5py.h5o.open(top, key)
                whole = isinstance(place, h5py.h5d.DatasetID)
                return whole or (isinstance(place, h5py.h5g.GroupID) and place.get_num_objs() > 0)
        node = self.follow(self.open(), name)
        return isinstance(node, h5py.Dataset) or (isinstance(node, h5py.Group) and len(node) > 0)

    def values(self, entry: Entry) -> np.ndarray:
        """Raises InputError, too, for zeros that HDF5 would make up."""
        node: h5py.Dataset = entry.place
        if node.size > MOST_VALUES:
            raise InputError(
                f"{self.path}: {node.name} has the shape {node.shape}; expected at most "
                f"{MOST_VALUES:,} numbers."
            )
        self.require_rows(node)
        return np.asarray(node[()])

    def attributes(self, entry: Entry | None = None) -> dict[str, Any]:
        return dict(self.open().attrs if entry is None else entry.place.attrs)

    def _member(self, group: h5py.Group, name: str) -> h5py.HLObject | None:
        members = {each: self.follow(group, each) for each in group}
        arrays = {
            each: _entry(each, node)
            for each, node in members.items()
            if isinstance(node, h5py.Dataset)
        }
        if not arrays and not (self.member and members):
            return None
        return members[choose_member(f"{self.path}: {name}", arrays, self.member)]

    def follow(self, group: h5py.Group, name: str, links: int = 0) -> h5py.HLObject | None:
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
            found = self.follow(place, link.path, links + 1)
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

    def require_rows(self, node: h5py.Dataset) -> None:
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
                inside = self.follow(other, source.dset_name)
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
                self.require_rows(inside)
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

    def open(self) -> h5py.File:
        """The file, opened by this process: a handle cannot be shared over a fork."""
        if self._file is None or self._owner != os.getpid():
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


def _entry(name: str, node: h5py.Dataset) -> Entry:
    shape = node.shape if node.shape is not None else ()  # h5py.Empty
    return Entry(name, shape, str(node.dtype), node.dtype.kind in "fiu", node)


class ConcatenatedStore(Store):
    """One dataset with the rows of all videos, the ids in a second one, and in a third where each
    video's rows begin, or how many they are.

    Args:
        file: the HDF5 file.
        ids, rows: names of the datasets.
        bounds: of every id, its first row and the one after its last.
    """

    kind = "an HDF5 file of all videos' rows in one dataset"

    def __init__(
        self, file: Hdf5Store, rows: str, ids: list[str], bounds: list[tuple[int, int]]
    ) -> None:
        super().__init__(file.path)
        self.file, self.rows = file, rows
        self._bounds = dict(zip(ids, bounds, strict=True))
        self._checked = False

    @classmethod
    def found_in(cls, file: Hdf5Store) -> ConcatenatedStore | None:
        """The file read so, if it is of this layout: at its top one array of numbers of shape
        (rows, width), one list of texts, and one list of whole numbers.

        Raises:
            InputError: it is, and the lists do not fit each other.
        """
        try:
            found = _three_parts(file)
            if found is None:
                return None
            rows, ids, places = found
            names = [_text(name) for name in ids.place[()].tolist()]
            numbers = [int(number) for number in places.place[()].tolist()]
        except DAMAGE as error:
            raise InputError(f"{file.path}: cannot be read; is it complete? ({error})") from None
        if len(set(names)) < len(names):
            raise InputError(f"{file.path}: {ids.name} names a video twice; expected each once.")
        bounds = _bounds(numbers, len(names), rows.shape[0])
        if bounds is None:
            raise InputError(
                f"{file.path}: {ids.name} names {len(names):,} videos, {rows.name} has "
                f"{rows.shape[0]:,} rows, and {places.name} holds {len(numbers):,} numbers from "
                f"{min(numbers, default=0):,} to {max(numbers, default=0):,}; expected where each "
                "video's rows begin, or how many they are."
            )
        return cls(file, rows.name, names, bounds)

    def names(self) -> list[str]:
        return sorted(self._bounds)

    def has(self, name: str) -> bool:
        return name in self._bounds

    def entry(self, name: str) -> Entry | None:
        if name not in self._bounds:
            return None
        whole = self.file.entry(self.rows)
        assert whole is not None
        start, end = self._bounds[name]
        shape = (end - start, *whole.shape[1:])
        return Entry(name, shape, whole.dtype, whole.numbers, (whole.place, start, end))

    def values(self, entry: Entry) -> np.ndarray:
        node, start, end = entry.place
        if math.prod(entry.shape) > MOST_VALUES:
            raise InputError(
                f"{self.path}: {entry.name} has the shape {entry.shape}; expected at most "
                f"{MOST_VALUES:,} numbers."
            )
        if not self._checked:
            self.file.require_rows(node)
            self._checked = True
        return np.asarray(node[start:end])

    def attributes(self, entry: Entry | None = None) -> dict[str, Any]:
        return self.file.attributes() if entry is None else {}


def _three_parts(file: Hdf5Store) -> tuple[Entry, Entry, Entry] | None:
    """Rows, ids and offsets or lengths, if that is all there is."""
    names = list(file.open())
    if not 3 <= len(names) <= _FEW:
        return None
    nodes = [file.follow(file.open(), name) for name in names]
    if not all(isinstance(node, h5py.Dataset) for node in nodes):
        return None
    entries = [_entry(name, node) for name, node in zip(names, nodes, strict=True)]
    rows = [e for e in entries if len(e.shape) == 2 and e.numbers]
    ids = [e for e in entries if len(e.shape) == 1 and e.place.dtype.kind in "SO"]
    places = [e for e in entries if len(e.shape) == 1 and e.place.dtype.kind in "iu"]
    if len(rows) != 1 or len(ids) != 1 or len(places) != 1:
        return None
    if ids[0].shape[0] > _MOST_VIDEOS or places[0].shape[0] > ids[0].shape[0] + 1:
        return None
    return rows[0], ids[0], places[0]


def _bounds(numbers: list[int], videos: int, rows: int) -> list[tuple[int, int]] | None:
    """First rows and ends from offsets (with the end of the last one, or without) or lengths."""
    if min(numbers, default=-1) < 0:
        return None
    if len(numbers) == videos and sum(numbers) == rows:
        ends = np.cumsum(numbers).tolist()
        return [(end - length, end) for end, length in zip(ends, numbers, strict=True)]
    if len(numbers) == videos:
        numbers = [*numbers, rows]
    rising = all(a <= b for a, b in zip(numbers, numbers[1:], strict=False))
    if len(numbers) != videos + 1 or numbers[0] != 0 or numbers[-1] != rows or not rising:
        return None
    return list(zip(numbers, numbers[1:], strict=False))


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
