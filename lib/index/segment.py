"""A segment of an index: one file that never changes, with all that some videos hold.

    arrays, each at a multiple of 4,096 bytes | description | its length, b"ITEMS 1\\n"

The description, JSON, has the place, dtype, shape and CRC-32 of every array. The arrays are mapped,
so what nobody asks for is not read, and a file that is removed stays readable to who has it open.
One file, since each that is mapped takes a file descriptor.

Opening checks the length of the file, and the SHA-256 of its description, against the manifest, and
so finds a file that was cut short or exchanged; ``verify`` reads every array and finds a changed
byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int8, UInt
from torch import Tensor

from ..base.errors import InputError
from .layout import Item, Layout

_MARK = b"ITEMS 1\n"
_END = struct.Struct("<Q8s")
_ALIGNMENT = 4096
_BLOCK = 2**24  # bytes read at a time where all are read
_ROWS = 4096  # items copied at a time
# Windows takes no such advice.
_RANDOM, _WANTED = getattr(mmap, "MADV_RANDOM", 0), getattr(mmap, "MADV_WILLNEED", 0)
_TENSOR = "tensor "


class Column(NamedTuple):
    """An array to be written: its parts follow each other along the file."""

    dtype: str
    shape: tuple[int, ...]
    parts: Iterable[np.ndarray]


class Segment:
    """A segment file, open and mapped.

    Attributes:
        places: P x N vectors for the first stage.
        tensors: N of each, for the second stage.
        first_items: where the items of each video start, and the number of items N; the items of a
            video follow each other.
        times: start and end of each item in seconds.
    """

    def __init__(self, path: Path, *, size: int, digest: str) -> None:
        """Raises FileNotFoundError, or InputError for a file that is not the one expected."""
        self.path = path
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    raise _damaged(path, f"{found:,} bytes, expected {size:,}")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as fault:
            raise InputError(f"{path} cannot be read ({fault})") from None
        self.size = size
        self._about = self._description(digest)
        arrays = {name: self._array(name) for name in self._about}
        with warnings.catch_warnings():  # that it cannot be written to, which nobody does
            warnings.simplefilter("ignore")
            self.places: Int8[Tensor, "P N W"] = torch.from_numpy(arrays["places"])
        self.first_items: Int[np.ndarray, " V+1"] = arrays["first_items"]
        self.times: Float[np.ndarray, "N 2"] = arrays["times"]
        self.keys: UInt[np.ndarray, " V"] = arrays["keys"]
        self._videos_by_key: Int[np.ndarray, " V"] = arrays["videos_by_key"]
        self._records: Int[np.ndarray, " bytes"] = arrays["records"]
        self._record_ends: Int[np.ndarray, " V+1"] = arrays["record_ends"]
        self.tensors: dict[str, np.ndarray] = {
            name.removeprefix(_TENSOR): array
            for name, array in arrays.items()
            if name.startswith(_TENSOR)
        }
        # Reading a row would bring in what lies around it.
        for name in self.tensors:
            self._advise(_RANDOM, _TENSOR + name, 0, len(self.times))

    @property
    def num_videos(self) -> int:
        return len(self.first_items) - 1

    @property
    def num_items(self) -> int:
        return len(self.times)

    def record(self, video: int) -> dict[str, Any]:
        """What was given about a video.

        Raises:
            InputError: it cannot be read.
        """
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(self._record_bytes(video))
            if isinstance(record, dict) and isinstance(record.get("id"), str):
                return record
        raise _damaged(self.path, f"what it says of its video {video + 1:,} cannot be read")

    def records(self) -> Iterator[dict[str, Any]]:
        return (self.record(video) for video in range(self.num_videos))

    def holding(self, key: int) -> Int[np.ndarray, " few"]:
        """The videos whose id may be the one of this key."""
        first = np.searchsorted(self.keys, np.uint64(key))
        last = np.searchsorted(self.keys, np.uint64(key), side="right")
        return self._videos_by_key[first:last]

    def fetch(self, name: str, rows: Int[np.ndarray, " k"]) -> None:
        """Ask the system to read rows of a tensor, ascending, all at once and without waiting."""
        ends = np.flatnonzero(np.diff(rows) > 1)
        starts = rows[np.concatenate([[0], ends + 1])]
        stops = rows[np.concatenate([ends, [len(rows) - 1]])] + 1
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            self._advise(_WANTED, _TENSOR + name, start, stop)

    def verify(self) -> None:
        """Read everything; raises InputError if a byte has changed."""
        for name, about in self._about.items():
            start, size = about["offset"], _size(about)
            found = 0
            for offset in range(start, start + size, _BLOCK):
                found = zlib.crc32(self._map[offset : min(offset + _BLOCK, start + size)], found)
            if found != about["crc32"]:
                raise _damaged(self.path, f"its {name} have changed")

    def _description(self, digest: str) -> dict[str, Any]:
        if self.size >= _END.size:
            length, mark = _END.unpack(self._map[self.size - _END.size :])
            end = self.size - _END.size
            if mark == _MARK and length <= end:
                text = self._map[end - length : end]
                if hashlib.sha256(text).hexdigest() == digest:
                    about: dict[str, Any] = json.loads(text)
                    return about
        raise _damaged(self.path, "its description is not the one that was written")

    def _array(self, name: str) -> np.ndarray:
        about = self._about[name]
        content = memoryview(self._map)[about["offset"] : about["offset"] + _size(about)]
        return np.frombuffer(content, about["dtype"]).reshape(about["shape"])

    def _advise(self, advice: int, name: str, start: int, stop: int) -> None:
        about = self._about[name]
        row = _size(about) // max(about["shape"][0], 1)
        first = about["offset"] + start * row
        begin = first // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start and hasattr(self._map, "madvise"):
            self._map.madvise(advice, begin, about["offset"] + stop * row - begin)

    def _record_bytes(self, video: int) -> bytes:
        begin, end = self._record_ends[video], self._record_ends[video + 1]
        return self._records[begin:end].tobytes()


def key_of(video_id: str) -> int:
    """64 bits of a digest of an id; two ids may have the same."""
    digest = hashlib.blake2b(video_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def write_new(
    path: Path,
    layout: Layout,
    *,
    records: Sequence[Mapping[str, Any]],
    items: Sequence[Item],
    places: Int8[np.ndarray, "P N W"],
    tensors: Mapping[str, np.ndarray],
) -> tuple[int, str]:
    """Write a segment of given items, those of a video in one run and in the order of the videos.

    Returns:
        Size and digest of the file.
    """
    counts = dict.fromkeys((record["id"] for record in records), 0)
    for item in items:
        counts[item.video] += 1
    times = np.array([(item.start, item.end) for item in items], np.float64).reshape(-1, 2)
    texts = [json.dumps(record, allow_nan=False).encode() for record in records]
    keys = np.array([key_of(video_id) for video_id in counts], np.uint64)
    columns = _video_columns(
        np.array(list(counts.values()), np.int64),
        np.array([len(text) for text in texts], np.int64),
        texts,
        keys,
    )
    columns["times"] = Column("<f8", times.shape, [times])
    columns["places"] = Column("|i1", places.shape, [places])
    for name, (shape, dtype) in layout.tensors.items():
        columns[_TENSOR + name] = Column(_little(dtype), (len(items), *shape), [tensors[name]])
    return _write(path, columns)


def write_merged(
    path: Path,
    layout: Layout,
    segments: Sequence[Segment],
    kept_videos: Sequence[Int[np.ndarray, " _"]],
) -> tuple[int, str]:
    """Write what is kept of several segments into one; nothing but a few rows is held in memory.

    Args:
        kept_videos: of each segment, ascending.

    Returns:
        Size and digest of the file.
    """
    pairs = list(zip(segments, kept_videos, strict=True))
    counts = np.concatenate([np.diff(segment.first_items)[videos] for segment, videos in pairs])
    rows = [_items_of(segment, videos) for segment, videos in pairs]
    total = int(counts.sum())
    ends = [segment._record_ends for segment in segments]
    lengths = np.concatenate(
        [np.diff(end)[videos] for end, (_, videos) in zip(ends, pairs, strict=True)]
    )
    keys = np.concatenate([_keys(segment)[videos] for segment, videos in pairs])
    texts = (segment._record_bytes(video) for segment, videos in pairs for video in videos)
    columns = _video_columns(counts, lengths, texts, keys)
    parts = list(zip(segments, rows, strict=True))
    columns["times"] = Column(
        "<f8", (total, 2), (part for segment, kept in parts for part in _taken(segment.times, kept))
    )
    count, _, width = segments[0].places.shape
    columns["places"] = Column(
        "|i1",
        (count, total, width),
        (
            part
            for place in range(count)
            for segment, kept in parts
            for part in _taken(segment.places[place].numpy(), kept)
        ),
    )
    for name, (shape, dtype) in layout.tensors.items():
        columns[_TENSOR + name] = Column(
            _little(dtype), (total, *shape), _tensor_parts(parts, name)
        )
    return _write(path, columns)


def _tensor_parts(
    parts: Sequence[tuple[Segment, Int[np.ndarray, " _"]]], name: str
) -> Iterator[np.ndarray]:
    for segment, kept in parts:
        yield from _taken(segment.tensors[name], kept)


def _taken(array: np.ndarray, rows: Int[np.ndarray, " k"]) -> Iterator[np.ndarray]:
    return (array[rows[first : first + _ROWS]] for first in range(0, len(rows), _ROWS))


def _items_of(segment: Segment, videos: Int[np.ndarray, " v"]) -> Int[np.ndarray, " k"]:
    kept = np.zeros(segment.num_videos, bool)
    kept[videos] = True
    return np.flatnonzero(np.repeat(kept, np.diff(segment.first_items)))


def _keys(segment: Segment) -> UInt[np.ndarray, " V"]:
    keys = np.empty(segment.num_videos, np.uint64)
    keys[segment._videos_by_key] = segment.keys
    return keys


def _video_columns(
    counts: Int[np.ndarray, " V"],
    lengths: Int[np.ndarray, " V"],
    texts: Iterable[bytes],
    keys: UInt[np.ndarray, " V"],
) -> dict[str, Column]:
    first_items = np.concatenate([[0], counts.cumsum()])
    ends = np.concatenate([[0], lengths.cumsum()])
    order = keys.argsort(kind="stable")
    return {
        "first_items": Column("<i8", first_items.shape, [first_items]),
        "keys": Column("<u8", keys.shape, [keys[order]]),
        "videos_by_key": Column("<i8", order.shape, [order]),
        "record_ends": Column("<i8", ends.shape, [ends]),
        "records": Column(
            "|u1", (int(ends[-1]),), (np.frombuffer(text, np.uint8) for text in texts)
        ),
    }


def _write(path: Path, columns: Mapping[str, Column]) -> tuple[int, str]:
    about: dict[str, Any] = {}
    with path.open("wb") as file:
        for name, column in columns.items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            entry: dict[str, Any] = {
                "offset": file.tell(),
                "dtype": column.dtype,
                "shape": column.shape,
            }
            checksum = 0
            for part in column.parts:
                content = np.ascontiguousarray(part, column.dtype).reshape(-1).view(np.uint8)
                file.write(content.data)
                checksum = zlib.crc32(content.data, checksum)
            if file.tell() != entry["offset"] + _size(entry):
                raise ValueError(f"{name}: {file.tell() - entry['offset']} bytes are not {entry}")
            about[name] = {**entry, "crc32": checksum}
        text = json.dumps(about).encode()
        file.write(text + _END.pack(len(text), _MARK))
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return size, hashlib.sha256(text).hexdigest()


def _size(about: Mapping[str, Any]) -> int:
    return math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize


def _little(dtype: str) -> str:
    return np.dtype(dtype).newbyteorder("<").str


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged ({what}); put a copy of it back, or make the index anew")
