"""An index at one moment: what is searched and read while a writer may go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, UInt
from torch import Tensor

from ..base import distributed
from ..base.errors import InputError
from .first_stage import CHUNK, Quantizer, scores_of
from .layout import Item, Layout
from .manifest import Manifest
from .segment import Segment, key_of
from .threads import side_by_side

_REMOVED = torch.iinfo(torch.int32).min


class Snapshot:
    """One generation of an index. It stays as it is whatever a writer does, and may be used by
    several threads at once.

    Items have numbers, which hold in this snapshot only; those of removed videos are not used.

    Attributes:
        manifest: the segments it consists of.
        generation: grows by one with every change of the index.
        num_videos, num_items: how many can be found.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        quantizer: Quantizer,
        manifest: Manifest,
        segments: Sequence[Segment],
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.manifest = manifest
        self.generation = manifest.generation
        self._quantizer = quantizer
        self._segments = tuple(segments)
        self._removed = [entry.removed_videos() for entry in manifest.entries]
        self._kept_items = [
            None if not removed.any() else _repeated(~removed, segment)
            for removed, segment in zip(self._removed, self._segments, strict=True)
        ]
        self._first_numbers = np.cumsum([0, *(segment.num_items for segment in self._segments)])
        self.num_videos = sum(int((~removed).sum()) for removed in self._removed)
        self.num_items = sum(
            segment.num_items if kept is None else int(kept.sum())
            for segment, kept in zip(self._segments, self._kept_items, strict=True)
        )

    def __contains__(self, video_id: str) -> bool:
        return self.locate(video_id) is not None

    def video_ids(self) -> Iterator[str]:
        """Of the videos that can be found, in the order they are stored."""
        for segment, removed in zip(self._segments, self._removed, strict=True):
            for video in np.flatnonzero(~removed).tolist():
                yield segment.record(video)["id"]

    def record(self, video_id: str) -> dict[str, Any]:
        """What was given about a video when it was added; read from the disk.

        Raises:
            InputError: there is no such video.
        """
        segment, video = self._located(video_id)
        return self._segments[segment].record(video)

    def items_of(self, video_id: str) -> Int[np.ndarray, " k"]:
        """The numbers of a video's items, in the order they were added.

        Raises:
            InputError: there is no such video.
        """
        segment, video = self._located(video_id)
        first, last = self._segments[segment].first_items[video : video + 2]
        return self._first_numbers[segment] + np.arange(first, last)

    def item_numbers(self) -> Int[np.ndarray, " k"]:
        """The numbers of all items that can be found."""
        return np.concatenate(
            [
                np.empty(0, np.int64),
                *(
                    first + (np.arange(segment.num_items) if kept is None else np.flatnonzero(kept))
                    for first, segment, kept in zip(
                        self._first_numbers, self._segments, self._kept_items, strict=False
                    )
                ),
            ]
        )

    def items(self, numbers: Int[np.ndarray, " k"]) -> list[Item]:
        """The items of these numbers, in their order."""
        found = []
        for number in np.asarray(numbers).tolist():
            index = int(np.searchsorted(self._first_numbers, number, side="right")) - 1
            segment, row = self._segments[index], number - self._first_numbers[index]
            video = int(np.searchsorted(segment.first_items, row, side="right")) - 1
            found.append(Item(segment.record(video)["id"], *segment.times[row].tolist()))
        return found

    def tensors(self, numbers: Int[np.ndarray, " k"]) -> dict[str, np.ndarray]:
        """What the items of these numbers hold, in their order: k x the shape of one item's.

        Rows that are not in memory are asked for all at once before any is read, in the order in
        which they lie on the disk.
        """
        numbers = np.asarray(numbers, np.int64)
        order = numbers.argsort(kind="stable")
        bounds = np.searchsorted(numbers[order], self._first_numbers)
        parts = [
            (segment, order[begin:end], numbers[order[begin:end]] - first)
            for segment, first, begin, end in zip(
                self._segments, self._first_numbers, bounds, bounds[1:], strict=False
            )
            if end > begin
        ]
        for segment, _, rows in parts:
            for name in self.layout.tensors:
                segment.fetch(name, rows)
        found = {}
        for name, (shape, dtype) in self.layout.tensors.items():
            gathered = np.empty((len(numbers), *shape), dtype)
            for segment, places, rows in parts:
                gathered[places] = segment.tensors[name][rows]
            found[name] = gathered
        return found

    def shortlist(self, query: Float[np.ndarray, "S D"], count: int) -> Int[np.ndarray, " k"]:
        """The items of the best first-stage scores, best first; at most ``count``.

        Args:
            query: the vectors of a paragraph's sentences, in order.
        """
        numbers, _ = self._best(self.quantized(query), count, 0, int(self._first_numbers[-1]))
        return numbers

    def shortlist_across(
        self, query: Float[np.ndarray, "S D"], count: int
    ) -> Int[np.ndarray, " k"]:
        """As ``shortlist``, by all processes of a run (``lib.base.distributed``), each of which
        goes through its share of the items. All call it with the same query and have the same
        result."""
        share = distributed.own_share(int(self._first_numbers[-1]))
        own = self._best(self.quantized(query), count, share.start, share.stop)
        numbers, scores = map(np.concatenate, zip(*distributed.gather_objects(own), strict=True))
        return numbers[np.lexsort((numbers, -scores))][:count]

    def first_scores(
        self, query: Float[np.ndarray, "S D"], numbers: Int[np.ndarray, " k"]
    ) -> Int[np.ndarray, " k"]:
        """The first-stage scores of some items; comparable within one query."""
        numbers = np.asarray(numbers, np.int64)
        width = self._quantizer.projection.shape[0]
        places = torch.empty(self.layout.places, len(numbers), width, dtype=torch.int8)
        owner = np.searchsorted(self._first_numbers, numbers, side="right") - 1
        for index in np.unique(owner):
            own = np.flatnonzero(owner == index)
            rows = torch.from_numpy(numbers[own] - self._first_numbers[index])
            places[:, torch.from_numpy(own)] = self._segments[index].places[:, rows]
        return scores_of(self.quantized(query), places, ordered=self.layout.ordered).numpy()

    def places(self) -> Iterator[tuple[Int[np.ndarray, " k"], Int8[Tensor, "P k W"]]]:
        """The numbers of items that can be found and their first-stage vectors, in pieces."""
        for first, segment, kept in zip(
            self._first_numbers, self._segments, self._kept_items, strict=False
        ):
            for begin in range(0, segment.num_items, CHUNK):
                rows = torch.arange(begin, min(begin + CHUNK, segment.num_items))
                if kept is not None:
                    rows = rows[kept[rows]]
                yield first + rows.numpy(), segment.places[:, rows]

    def quantized(self, query: Float[np.ndarray, "S D"]) -> Int8[Tensor, "S W"]:
        """The vectors of a query in the eight bits of the first stage."""
        query = np.asarray(query, np.float32)
        width = self._quantizer.projection.shape[1]
        if query.ndim != 2 or len(query) < 1 or query.shape[1] != width:
            raise ValueError(f"a query of shape {query.shape}, expected (sentences, {width})")
        if not np.isfinite(query).all():
            raise ValueError("a query with numbers that are not finite")
        return self._quantizer.query(query)

    def verify(self) -> None:
        """Read every byte of the index; raises InputError if one has changed."""
        for segment in self._segments:
            segment.verify()

    def locate(self, video_id: str) -> tuple[int, int] | None:
        """The segment of a video, and its row there."""
        key = key_of(video_id)
        for index, segment in enumerate(self._segments):
            for video in segment.holding(key).tolist():
                if not self._removed[index][video] and segment.record(video)["id"] == video_id:
                    return index, video
        return None

    def maybe(self, keys: UInt[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether an id of each key could be there, removed ones included; for many ids."""
        found = np.zeros(len(keys), bool)
        for segment in self._segments:
            if segment.num_videos:
                nearest = np.searchsorted(segment.keys, keys).clip(max=segment.num_videos - 1)
                found |= segment.keys[nearest] == keys
        return found

    def _located(self, video_id: str) -> tuple[int, int]:
        found = self.locate(video_id)
        if found is None:
            raise InputError(f"{self.folder} holds no video {json.dumps(video_id)}")
        return found

    def _scan(
        self, query: Int8[Tensor, "S W"], start: int, stop: int, scores: Int[Tensor, " n"]
    ) -> None:
        """Write the scores of a range of numbers."""
        for first, segment, kept in zip(
            self._first_numbers.tolist(), self._segments, self._kept_items, strict=False
        ):
            end = min(segment.num_items, stop - first)
            for begin in range(max(start - first, 0), end, CHUNK):
                rows = slice(begin, min(begin + CHUNK, end))
                chunk = scores_of(query, segment.places[:, rows], ordered=self.layout.ordered)
                if kept is not None:
                    chunk = torch.where(kept[rows], chunk, _REMOVED)
                scores[first + rows.start - start : first + rows.stop - start] = chunk

    def _best(
        self, query: Int8[Tensor, "S W"], count: int, start: int, stop: int
    ) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """The best items of a range of numbers, best first, and their scores."""
        scores = torch.empty(stop - start, dtype=torch.int32)
        share = max(-(-len(scores) // torch.get_num_threads()), CHUNK)
        shares = [(first, min(first + share, stop)) for first in range(start, stop, share)]

        def scan(bounds: tuple[int, int]) -> None:
            self._scan(query, *bounds, scores[bounds[0] - start : bounds[1] - start])

        side_by_side(scan, shares)
        found = scores.numpy()
        keep = min(count, len(found))
        kept_rows = np.argpartition(found, -keep)[-keep:] if keep else np.empty(0, np.int64)
        best = found[kept_rows].astype(np.int64)
        order = np.lexsort((kept_rows, -best))
        order = order[best[order] != _REMOVED]
        return kept_rows[order] + start, best[order]


def _repeated(kept_videos: Bool[np.ndarray, " V"], segment: Segment) -> Bool[Tensor, " N"]:
    return torch.from_numpy(np.repeat(kept_videos, np.diff(segment.first_items)))
