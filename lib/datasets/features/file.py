"""Features of a corpus: the rows of a video by its id, whatever they are stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...base.errors import InputError
from .hdf5 import Hdf5Store
from .names import AS_IS, Finder, Names, VideoNames
from .recognise import open_store
from .store import DAMAGE, Entry, Store

_SAMPLED = 32  # arrays whose shapes say which axis is the width
_TURNED = 3  # lengths of the other axis, at least
_APART, _SHARE = 3, 0.01  # rows by which sources may differ; or so much of a long video


@dataclass(frozen=True)
class Stored:
    """A video's array as it will be read.

    Attributes:
        shape: (rows, width) once axes of length 1 are taken out and a turned array is turned back;
            the stored shape where that is not two axes.
        entries: where its parts are, one for each source.
    """

    shape: tuple[int, ...]
    dtype: str
    numbers: bool
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Under which it is stored, in the first source."""
        return self.entries[0].name


class Features(ABC):
    """The rows of videos, checked: of one file or folder, or of several side by side.

    Attributes:
        path: of the first source.
        expected_dim: the width C that every video must have; 0 = whatever there is.
    """

    path: Path
    expected_dim: int

    def read(self, video_id: str) -> Float[np.ndarray, "n C"]:
        """A video's rows as float32, checked.

        Raises:
            InputError: no such file or video, wrong rank, width or type, no rows, NaN, rows that
                were never written, or that lie in other files; sources of other lengths.
        """
        try:
            stored = self.stored(video_id)
            if stored is None:
                raise InputError(f"{self}: has no features of the video {video_id}.")
            if len(stored.shape) != 2 or not stored.numbers:
                raise InputError(
                    f"{self}: {video_id} has the shape {stored.shape} and the type {stored.dtype}; "
                    f"expected numbers of shape (rows, width)."
                )
            if self.expected_dim and stored.shape[1] != self.expected_dim:
                raise InputError(
                    f"{self}: {video_id} is {stored.shape[1]} wide; expected {self.expected_dim}."
                )
            if 0 in stored.shape:
                lacking = "rows" if stored.shape[0] == 0 else "numbers in its rows"
                raise InputError(
                    f"{self}: {video_id} has no {lacking}; its shape is {stored.shape}."
                )
            rows = self.values(stored)
        except DAMAGE as error:
            raise InputError(
                f"{self}: {video_id} cannot be read; is the file complete? ({error})"
            ) from None
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{self}: {video_id} holds NaN or infinity in row {int(finite.argmin())} "
                f"of {len(rows)}."
            )
        return rows

    def width(self, video_id: str) -> int:
        """C, as this video has it."""
        return self.read(video_id).shape[1]

    def missing(self, ids: Iterable[str]) -> list[str]:
        """The videos that are not there, in some of the sources.

        Raises:
            InputError: the file cannot be read, or two videos would be read from one place.
        """
        return self.find(ids).missing

    @property
    def paths(self) -> tuple[Path, ...]:
        """Of all sources."""
        return (self.path,)

    @property
    def parts(self) -> tuple[int, ...]:
        """Widths of the sources that rows are joined of; none: there is one source."""
        return ()

    @abstractmethod
    def stored(self, video_id: str) -> Stored | None:
        """What is stored of a video, without its numbers; None = nothing.

        Raises:
            InputError: the file cannot be read, or it is not known what is meant.
        """

    @abstractmethod
    def values(self, stored: Stored) -> Float[np.ndarray, "n C"]:
        """The numbers as float32; those too large for it become infinite.

        Raises:
            InputError: a size that no video has, or zeros that HDF5 would make up.
            OSError, ValueError, …: the file is damaged there.
        """

    @abstractmethod
    def find(self, ids: Iterable[str]) -> Found:
        """Look for videos by their ids.

        Raises:
            InputError: as ``missing`` does.
        """

    @abstractmethod
    def keys(self) -> list[str]:
        """The names that are stored, sorted; videos, and whatever else is there."""

    def attributes(self, video_id: str = "") -> dict[str, Any]:
        """What the file says of itself beside the numbers, or of a video.

        Raises:
            InputError: no such file or video, or it is damaged there.
        """
        stored = self.stored(video_id) if video_id else None
        if video_id and stored is None:
            raise InputError(f"{self}: has no features of the video {video_id}.")
        return self.attributes_of(stored)

    @abstractmethod
    def attributes_of(self, stored: Stored | None) -> dict[str, Any]:
        """The same of what is stored, or of the file (None).

        Raises:
            InputError: it is damaged there.
        """

    @abstractmethod
    def identity(self) -> list[Any]:
        """By which the features are known again without reading them all: numbers and texts.

        Raises:
            OSError: they are not there.
        """

    @abstractmethod
    def lines(self) -> list[str]:
        """What a reader of the numbers should know of how they are stored."""


@dataclass(frozen=True)
class Found:
    """Which of some videos are there, and how they were found.

    Attributes:
        ways: how a stored name differs from the id, and for how many.
    """

    missing: list[str]
    ways: Mapping[str, int]

    def lines(self, where: object) -> list[str]:
        """One line, where an id is not the name of what is stored."""
        ways = [f"{count:,} {way}" for way, count in self.ways.items() if way]
        total = sum(self.ways.values())
        return [f"{where}: of {total:,} ids found {', '.join(ways)}"] if ways else []


class FeatureFile(Features):
    """Features of one file or folder, of any kind that ``recognise`` knows.

    It is opened when it is first read, and handles are opened again in every process that reads.

    Args:
        path: the file or folder.
        expected_dim: the width C that every video must have; 0 = whatever the file has.
        linked: read what lies in other files too, see ``Hdf5Store``.
        member: which array of a video with several; empty = see ``choose_member``.
        names: how ids are looked for.
    """

    def __init__(
        self,
        path: Path,
        *,
        expected_dim: int = 0,
        linked: bool = False,
        member: str = "",
        names: Finder = VideoNames,
    ) -> None:
        self.path = Path(path)
        self.expected_dim = expected_dim
        self.linked, self.member = linked, member
        self._finder = names
        self._opened: tuple[Store, Names] | None = None
        self._is_turned: bool | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def store(self) -> Store:
        return self._open()[0]

    def _open(self) -> tuple[Store, Names]:
        if self._opened is None:
            store = open_store(self.path, linked=self.linked, member=self.member)
            self._opened = store, self._finder(store)
        return self._opened

    def stored(self, video_id: str) -> Stored | None:
        store, names = self._open()
        try:
            name = names.find(video_id)
            entry = None if name is None else store.entry(name)
        except DAMAGE as error:
            raise InputError(
                f"{self.path}: {video_id} cannot be looked up; is the file complete? ({error})"
            ) from None
        return None if entry is None else self.arranged(entry)

    def arranged(self, entry: Entry) -> Stored:
        """What a stored array will be read as."""
        shape = arranged(entry.shape)
        if len(shape) == 2 and self.turned:
            shape = shape[::-1]
        return Stored(shape, entry.dtype, entry.numbers, (entry,))

    def values(self, stored: Stored) -> Float[np.ndarray, "n C"]:
        found = self.store.values(stored.entries[0])
        if len(stored.shape) == 2:
            found = found.reshape(arranged(found.shape))
            found = found.T if self.turned else found
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(found, dtype=np.float32)

    @property
    def turned(self) -> bool:
        """Whether arrays are (width, rows): the first axis is the same in a sample of them, and the
        second is not."""
        if self._is_turned is None:
            self._is_turned = self._look_at_shapes()
        return self._is_turned

    def _look_at_shapes(self) -> bool:
        store, _ = self._open()
        names = store.names()
        shapes = set()
        for place in np.linspace(0, len(names) - 1, min(_SAMPLED, len(names)), dtype=np.int64):
            try:
                entry = store.entry(names[place])
            except (InputError, *DAMAGE):
                continue
            if entry is not None and entry.numbers and len(arranged(entry.shape)) == 2:
                shapes.add(arranged(entry.shape))
        first, second = ({shape[axis] for shape in shapes} for axis in (0, 1))
        fits = not self.expected_dim or first == {self.expected_dim}
        return len(first) == 1 and len(second) >= _TURNED and fits

    def find(self, ids: Iterable[str]) -> Found:
        store, names = self._open()
        missing: list[str] = []
        ways: Counter[str] = Counter()
        owners: dict[str, str] = {}
        for id_ in dict.fromkeys(ids):
            try:
                name = names.find(id_)
            except DAMAGE as error:
                raise InputError(
                    f"{self.path}: {id_} cannot be looked up; is the file complete? ({error})"
                ) from None
            if name is None:
                missing.append(id_)
                continue
            other = owners.setdefault(name, id_)
            if other != id_:
                raise InputError(
                    f"{store.path}: {other} and {id_} would both be read from {name}; expected "
                    "features of each under its own id."
                )
            ways[names.way(id_, name)] += 1
        return Found(missing, ways)

    def keys(self) -> list[str]:
        return self.store.names()

    def attributes_of(self, stored: Stored | None) -> dict[str, Any]:
        try:
            return self.store.attributes(stored.entries[0] if stored else None)
        except DAMAGE as error:
            raise InputError(f"{self.path}: its attributes cannot be read ({error}).") from None

    def identity(self) -> list[Any]:
        known = self.store.identity() if self.path.exists() else _absent(self.path)
        if self.member:
            known = [*known, "member", self.member]
        return [*known, "turned"] if self.turned else known

    def lines(self) -> list[str]:
        """Nothing, of an HDF5 file of (rows, width)."""
        turned = "; its arrays are (width, rows) and are turned" if self.turned else ""
        if not turned and self.store.kind == Hdf5Store.kind:
            return []
        return [f"{self.path}: {self.store.kind}{turned}"]


class JoinedFeatures(Features):
    """Several sources side by side: rows as wide as all of them together, cut to the shortest.

    Sources that differ by more than three rows, or one in a hundred, are of other rates.

    Source: moment_detr, which joins CLIP's and SlowFast's rows so.
    """

    def __init__(self, sources: Sequence[FeatureFile], *, expected_dim: int = 0) -> None:
        self.sources = tuple(sources)
        self.path = self.sources[0].path
        self.expected_dim = expected_dim
        self._parts: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " + ".join(map(str, self.sources))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(source.path for source in self.sources)

    @property
    def parts(self) -> tuple[int, ...]:
        """Raises InputError unless one of the videos can be read."""
        if not self._parts:
            for name in self.keys():
                stored = self.stored(name)
                if stored is not None:
                    break
        return self._parts

    def stored(self, video_id: str) -> Stored | None:
        found = [source.stored(video_id) for source in self.sources]
        there = [each for each in found if each is not None]
        if len(there) < len(found):
            return None
        odd = next((e for e in there if len(e.shape) != 2 or not e.numbers), None)
        if odd is not None:
            return Stored(odd.shape, odd.dtype, odd.numbers, odd.entries)
        counts, widths = ([each.shape[axis] for each in there] for axis in (0, 1))
        if max(counts) - min(counts) > max(_APART, _SHARE * min(counts)):
            first, last = counts.index(min(counts)), counts.index(max(counts))
            raise InputError(
                f"{video_id} has {counts[first]:,} rows in {self.sources[first].path} and "
                f"{counts[last]:,} in {self.sources[last].path}; expected the same number, as of "
                "one rate."
            )
        self._parts = self._parts or tuple(widths)
        if tuple(widths) != self._parts:
            raise InputError(
                f"{self}: {video_id} is {' + '.join(map(str, widths))} wide; expected "
                f"{' + '.join(map(str, self._parts))}, as another video is."
            )
        kinds = dict.fromkeys(each.dtype for each in there)
        entries = tuple(each.entries[0] for each in there)
        return Stored((min(counts), sum(widths)), " + ".join(kinds), True, entries)

    def values(self, stored: Stored) -> Float[np.ndarray, "n C"]:
        if len(stored.entries) < len(self.sources):  # no rows: the odd one alone
            raise ValueError(f"it has the shape {stored.shape}")
        pairs = zip(self.sources, self._apart(stored), strict=True)
        return np.concatenate(
            [source.values(part)[: stored.shape[0]] for source, part in pairs], axis=1
        )

    def _apart(self, stored: Stored) -> list[Stored]:
        return [
            source.arranged(entry)
            for source, entry in zip(self.sources, stored.entries, strict=False)
        ]

    def find(self, ids: Iterable[str]) -> Found:
        ids = list(dict.fromkeys(ids))
        found = [source.find(ids) for source in self.sources]
        missing = {id_ for each in found for id_ in each.missing}
        most = max(found, key=lambda each: sum(n for way, n in each.ways.items() if way != AS_IS))
        return Found([id_ for id_ in ids if id_ in missing], most.ways)

    def keys(self) -> list[str]:
        keys = self.sources[0].keys()
        lacking = {key for source in self.sources[1:] for key in source.missing(keys)}
        return [key for key in keys if key not in lacking]

    def attributes_of(self, stored: Stored | None) -> dict[str, Any]:
        """What all sources agree on."""
        parts = [None] * len(self.sources) if stored is None else self._apart(stored)
        first, *others = (
            source.attributes_of(part) for source, part in zip(self.sources, parts, strict=True)
        )
        return {
            key: value
            for key, value in first.items()
            if all(key in other and np.array_equal(value, other[key]) for other in others)
        }

    def identity(self) -> list[Any]:
        return ["joined", *(source.identity() for source in self.sources)]

    def lines(self) -> list[str]:
        lines = [line for source in self.sources for line in source.lines()]
        return [*lines, f"rows joined by width, {' + '.join(map(str, self.parts))}"]


def open_features(
    paths: Sequence[Path],
    *,
    expected_dim: int = 0,
    linked: bool = False,
    member: str = "",
) -> Features:
    """The features of one path, or of several joined; see ``FeatureFile``.

    Args:
        expected_dim: of the joined rows.
    """
    if len(paths) == 1:
        return FeatureFile(paths[0], expected_dim=expected_dim, linked=linked, member=member)
    sources = [FeatureFile(path, linked=linked, member=member) for path in paths]
    return JoinedFeatures(sources, expected_dim=expected_dim)


def arranged(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of more than two axes without those of length 1, if two are left: (n, 1, w, 1, 1) is
    (n, w). Of a video with one row, only its width is left."""
    if len(shape) <= 2:
        return shape
    kept = tuple(length for length in shape if length != 1)
    if len(kept) < 2:
        return (1, *(kept or (1,)))
    return kept if len(kept) == 2 else shape


def _absent(path: Path) -> list[Any]:
    raise FileNotFoundError(f"{path} does not exist")
