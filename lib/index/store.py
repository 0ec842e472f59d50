"""An index in a folder: many readers, one writer at a time, and always whole.

    header.json       what the caller says of it, its layout, and how vectors are rounded
    projection.npy    see ``lib.index.first_stage``
    manifest.json     the segments it consists of now, and which of their videos are removed
    segment-000001    see ``lib.index.segment``
    .lock             held by the writer

A change writes new segments, makes them safe, and then replaces the manifest in one step; readers
have the old or the new generation. Segments that no manifest names, of a writer that was killed or
that were merged, are removed; a reader goes on with the ones it has mapped (on a local disk).

Small segments are merged as they come, so that there are few of them however videos are added.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..base.errors import InputError
from ..base.files import lock_folder, reason_of, replace_file, unwritable
from .first_stage import Quantizer
from .layout import Item, Layout
from .manifest import (
    MANIFEST,
    SEGMENT,
    Entry,
    Manifest,
    pack_removed,
    parse_sealed,
    read_bytes,
    write_sealed,
)
from .segment import Segment, key_of, write_merged, write_new
from .snapshot import Snapshot

FORMAT = 1
HEADER, PROJECTION = "header.json", "projection.npy"
_ADVICE = "wait for it, then do it again"
_TOGETHER = 8  # segments that are merged while videos are added
_LARGE = 2**16  # items from which on a segment is left alone


class Store:
    """An index, open for reading and, by ``writer``, for one writer.

    Attributes:
        header: what the caller gave when the index was made.
        kept: share of the squared length of the first-stage vectors that their projection keeps,
            measured on the sample that it was fitted to.
    """

    def __init__(
        self, folder: Path, header: Mapping[str, Any], layout: Layout, quantizer: Quantizer
    ) -> None:
        self.folder = folder
        self.header = header
        self.layout = layout
        self.kept = quantizer.kept
        self._quantizer = quantizer
        self._mutex = threading.Lock()
        self._read = b""
        self._snapshot: Snapshot | None = None
        self._open: dict[int, Segment] = {}

    @property
    def embedding_width(self) -> int:
        """D, the width of vectors that are added and of queries."""
        return self._quantizer.projection.shape[1]

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        header: Mapping[str, Any],
        layout: Layout,
        embedding_width: int,
        sample: Float[np.ndarray, "n P D"],
    ) -> Store:
        """Make an index without videos in a new or empty folder.

        Args:
            header: anything that JSON can hold; it comes back as it is.
            embedding_width: D, of the vectors that will be added and of queries.
            sample: first-stage vectors of some items such as will be added, from which the
                projection and the step of rounding are fitted. A few thousand vectors do.

        Raises:
            InputError: the folder holds something, is in use or cannot be written; numbers of the
                sample are not finite.
        """
        folder = Path(folder)
        sample = np.asarray(sample, np.float32)
        expected = (layout.places, embedding_width)
        if sample.shape[1:] != expected or sample.size == 0:
            raise ValueError(f"a sample of {sample.shape}, expected (n, *{expected})")
        if not np.isfinite(sample).all():
            raise InputError(f"{folder}: the vectors hold numbers that are not finite")
        quantizer = Quantizer.fit(sample, layout.width)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as fault:
            raise InputError(f"{folder} cannot be made an index ({reason_of(fault)})") from None
        with lock_folder(folder, _ADVICE):
            # What a killed ``create`` leaves has no header.
            others = sorted(
                path.name
                for path in folder.glob("[!.]*")
                if path.name not in (MANIFEST, PROJECTION)
            )
            if others:
                raise InputError(
                    f"{folder} is not empty ({', '.join(others[:3])}{', …' * (len(others) > 3)}); "
                    "name another folder for a new index, or add to the index that is there"
                )
            projection = _npy(quantizer.projection)
            replace_file(folder / PROJECTION, lambda file: file.write(projection))
            Manifest(0, 1, ()).write(folder / MANIFEST)
            about = {
                "format": FORMAT,
                "header": dict(header),
                "layout": layout.to_json(),
                "limit": quantizer.limit,
                "kept": quantizer.kept,
                "projection": hashlib.sha256(projection).hexdigest(),
            }
            write_sealed(folder / HEADER, about)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """An index that is there.

        Raises:
            InputError: there is none, it is damaged, or a newer version made it.
        """
        folder = Path(folder)
        if not (folder / HEADER).is_file():
            raise InputError(f"{folder} holds no index (no {HEADER}); make one first")
        about = parse_sealed(folder / HEADER, read_bytes(folder / HEADER))
        if about["format"] != FORMAT:
            raise InputError(
                f"{folder} is an index of format {about['format']}, this version reads format "
                f"{FORMAT}; use the version that made it, or make the index anew"
            )
        content = read_bytes(folder / PROJECTION)
        if hashlib.sha256(content).hexdigest() != about["projection"]:
            raise InputError(
                f"{folder / PROJECTION} is damaged (it is not what was written); put a copy of it "
                "back, or make the index anew"
            )
        projection = np.load(io.BytesIO(content), allow_pickle=False)
        quantizer = Quantizer(projection, about["limit"], about["kept"])
        return cls(folder, about["header"], Layout.from_json(about["layout"]), quantizer)

    def snapshot(self) -> Snapshot:
        """The index as it is now; the last one again if nothing has changed since.

        Raises:
            InputError: a file is missing or damaged.
        """
        with self._mutex:
            content = read_bytes(self.folder / MANIFEST)
            while self._snapshot is None or content != self._read:
                manifest = Manifest.parse(self.folder / MANIFEST, content)
                try:
                    segments = [self._segment(entry) for entry in manifest.entries]
                except FileNotFoundError as fault:
                    # A writer has merged it since; unless the manifest is the same.
                    again = read_bytes(self.folder / MANIFEST)
                    if again == content:
                        raise InputError(
                            f"{fault.filename} is missing; put a copy of it back, or make the "
                            "index anew"
                        ) from None
                    content = again
                    continue
                named = {entry.number for entry in manifest.entries}
                self._open = {number: self._open[number] for number in named}
                self._snapshot = Snapshot(
                    self.folder, self.layout, self._quantizer, manifest, segments
                )
                self._read = content
            return self._snapshot

    def _segment(self, entry: Entry) -> Segment:
        if entry.number not in self._open:
            path = self.folder / entry.file
            self._open[entry.number] = Segment(path, size=entry.size, digest=entry.digest)
        return self._open[entry.number]

    @contextlib.contextmanager
    def writer(self) -> Iterator[Writer]:
        """Change the index. What a killed writer left behind is removed first.

        Raises:
            InputError: another process writes, or the folder cannot be written.
        """
        with lock_folder(self.folder, _ADVICE):
            writer = Writer(self)
            writer.sweep()
            yield writer


class Writer:
    """Changes an index; each method is done when it returns, and undone if it raises."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.folder
        self._layout = store.layout

    def append(
        self,
        videos: Sequence[Mapping[str, Any]],
        items: Sequence[Item],
        vectors: Float[np.ndarray, "n P D"],
        tensors: Mapping[str, np.ndarray],
    ) -> None:
        """Add videos. They are found from the next snapshot on, all of them.

        Args:
            videos: what ``Snapshot.record`` gives back; JSON, with the key ``"id"``.
            items: of these videos, n in all.
            vectors: of each item's places, for the first stage; of any length.
            tensors: n of each that the layout names, for the second stage.

        Raises:
            InputError: a video is there already, numbers are not finite, or the disk is full.
        """
        self._check(videos, items, vectors, tensors)
        if not videos:
            return
        position = {record["id"]: number for number, record in enumerate(videos)}
        order = np.array([position[item.video] for item in items], np.int64).argsort(kind="stable")
        if (order[1:] < order[:-1]).any():
            items = [items[index] for index in order]
            vectors = vectors[order]
            tensors = {name: tensors[name][order] for name in self._layout.tensors}
        manifest = self._manifest()
        entry = self._written(
            manifest,
            len(videos),
            len(items),
            lambda path: write_new(
                path,
                self._layout,
                records=videos,
                items=items,
                places=self._store._quantizer.stored(vectors),
                tensors=tensors,
            ),
        )
        self._publish(manifest, (*manifest.entries, entry))
        self._merge_small()

    def remove(self, videos: Iterable[str]) -> int:
        """Remove videos; ids that are not there are passed over. Their space is given back by
        ``compact``.

        Returns:
            How many were there.

        Raises:
            InputError: the disk is full.
        """
        snapshot, manifest = self._store.snapshot(), self._manifest()
        removed = [entry.removed_videos() for entry in manifest.entries]
        count = 0
        for video_id in dict.fromkeys(videos):
            if (found := snapshot.locate(video_id)) is not None:
                removed[found[0]][found[1]] = True
                count += 1
        if count:
            entries = [
                dataclasses.replace(entry, removed=pack_removed(mask))
                for entry, mask in zip(manifest.entries, removed, strict=True)
            ]
            self._publish(manifest, entries)
        return count

    def compact(self) -> None:
        """Rewrite what holds removed videos, and merge small segments; needs room for the largest
        of the new segments.

        Raises:
            InputError: the disk is full; what was done before stays done.
        """
        while group := self._next_group(self._manifest()):
            self._merge(group)

    def sweep(self) -> None:
        """Remove the files of writers that were killed, and of segments that were merged."""
        named = {entry.file for entry in self._manifest().entries}
        for path in [*self._folder.glob(f"{SEGMENT}*"), *self._folder.glob(".*.new")]:
            if path.name not in named:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _manifest(self) -> Manifest:
        path = self._folder / MANIFEST
        return Manifest.parse(path, read_bytes(path))

    def _written(
        self,
        manifest: Manifest,
        videos: int,
        items: int,
        write: Callable[[Path], tuple[int, str]],
    ) -> Entry:
        entry = Entry(manifest.next_number, 0, "", videos, items)
        path = self._folder / entry.file
        try:
            size, digest = write(path)
        except OSError as fault:
            path.unlink(missing_ok=True)
            raise unwritable(path, fault) from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return dataclasses.replace(entry, size=size, digest=digest)

    def _publish(self, manifest: Manifest, entries: Iterable[Entry]) -> None:
        new = Manifest(manifest.generation + 1, manifest.next_number + 1, tuple(entries))
        try:
            new.write(self._folder / MANIFEST)
        finally:
            self.sweep()

    def _merge_small(self) -> None:
        """Merge the last segments once none of them is larger than the others together, so that
        every item is copied a number of times that grows with the logarithm of their number."""
        while True:
            last = self._manifest().entries[-_TOGETHER:]
            sizes = [entry.items for entry in last]
            if len(last) < _TOGETHER or max(sizes) >= _LARGE or 2 * max(sizes) > sum(sizes):
                return
            self._merge(last)

    def _next_group(self, manifest: Manifest) -> list[Entry]:
        """Segments that follow each other and that one new segment should replace."""
        group: list[Entry] = []
        for entry in manifest.entries:
            if entry.items >= _LARGE and not entry.removed:
                if _worth_it(group):
                    return group
                group = []
                continue
            group.append(entry)
            if sum(each.items for each in group) >= _LARGE and _worth_it(group):
                return group
        return group if _worth_it(group) else []

    def _merge(self, group: Sequence[Entry]) -> None:
        manifest, numbers = self._manifest(), [entry.number for entry in group]
        self._store.snapshot()
        segments = [self._store._segment(entry) for entry in group]
        kept = [np.flatnonzero(~entry.removed_videos()) for entry in group]
        items = sum(
            int(np.diff(segment.first_items)[videos].sum())
            for segment, videos in zip(segments, kept, strict=True)
        )
        videos = sum(map(len, kept))
        merged = []
        if videos:
            merged = [
                self._written(
                    manifest,
                    videos,
                    items,
                    lambda path: write_merged(path, self._layout, segments, kept),
                )
            ]
        first = [entry.number for entry in manifest.entries].index(numbers[0])
        others = [entry for entry in manifest.entries if entry.number not in numbers]
        self._publish(manifest, [*others[:first], *merged, *others[first:]])

    def _check(
        self,
        videos: Sequence[Mapping[str, Any]],
        items: Sequence[Item],
        vectors: Float[np.ndarray, "n P D"],
        tensors: Mapping[str, np.ndarray],
    ) -> None:
        ids = [record["id"] for record in videos]
        if unknown := {item.video for item in items} - set(ids):
            raise ValueError(f"items of videos that are not given: {sorted(unknown)[:3]}")
        expected = {"vectors": (self._layout.places, self._store.embedding_width)} | {
            name: shape for name, (shape, _) in self._layout.tensors.items()
        }
        given = {"vectors": vectors, **tensors}
        if given.keys() != expected.keys():
            raise ValueError(f"found {sorted(given)}, expected {sorted(expected)}")
        for name, shape in expected.items():
            if given[name].shape != (len(items), *shape):
                raise ValueError(f"{name}: {given[name].shape}, expected {(len(items), *shape)}")
        for name, array in given.items():
            dtype = self._layout.tensors[name][1] if name in self._layout.tensors else "float32"
            self._check_numbers(name, array, dtype, items)
        if len(set(ids)) < len(ids):
            twice, _ = Counter(ids).most_common(1)[0]
            raise InputError(f"{self._folder}: video {twice!r} is given twice")
        if there := self._present(ids):
            more = f" (and {len(there) - 1} others)" if len(there) > 1 else ""
            raise InputError(
                f"{self._folder} holds video {there[0]!r} already{more}; remove it first to "
                "replace it"
            )

    def _check_numbers(
        self, name: str, array: np.ndarray, dtype: str, items: Sequence[Item]
    ) -> None:
        if np.dtype(dtype).kind != "f":
            return
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(dtype, copy=False)).reshape(len(items), -1)
        if not finite.all():
            video = items[int(finite.all(axis=1).argmin())].video
            raise InputError(
                f"video {video!r}: its {name} hold numbers that are not finite in {dtype}"
            )

    def _present(self, ids: Sequence[str]) -> list[str]:
        """Those that the index holds."""
        snapshot = self._store.snapshot()
        keys = np.array([key_of(video_id) for video_id in ids], np.uint64)
        maybe = snapshot.maybe(keys)
        return [ids[index] for index in np.flatnonzero(maybe).tolist() if ids[index] in snapshot]


def _worth_it(group: Sequence[Entry]) -> bool:
    return len(group) > 1 or any(entry.removed for entry in group)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
