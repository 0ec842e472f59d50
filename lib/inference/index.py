"""An index: videos as a run has encoded them, searched by paragraphs.

Items of the index are windows. A video that is not much longer than those of training is one; a
longer one is read in overlapping windows of several lengths, the longest being the whole video.
A search shortlists items by a few vectors each (``lib.index``), compares these as the model does,
and finds moments in the best videos. The model's own similarity decides, in float32, of tensors
kept in float16.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..base.errors import InputError
from ..decoding import decode
from ..decoding.long import Window, windows
from ..index import Item, Layout, Snapshot, Store
from ..index.neighbours import Neighbours
from ..index.recall import recall
from ..models.first_stage import PLACES, place_vectors
from ..models.interface import Encoded
from .answers import Answer, Hit, ScoreMap, Source
from .grounding import moments_in
from .loaded import LoadedRun, Query
from .sources import FeatureSource, VideoRows

KEPT_AS = "float16"
EXHAUSTIVE = 2000  # items that are all compared
SHARE = 300  # of a larger index every so many items are compared, but not fewer than EXHAUSTIVE
BATCH = 64  # windows encoded at once
ENCODED = "encoded"  # the store, in the folder of an index
SEGMENT = 4096  # windows that are appended at once


@dataclass(frozen=True)
class Updated:
    """How many videos an update added, replaced and removed."""

    added: int
    replaced: int
    removed: int


class VideoIndex:
    """A folder of encoded videos, and the run that encoded them.

    Attributes:
        faiss: description of a faiss index that makes the shortlist instead of the scan; empty =
            the scan. It is built in memory at the first search.
        updated, skipped: what ``TrainedRun.index`` did, and the videos that it could not use with
            the reasons.

    Raises:
        InputError: the folder holds no index, or one of another run.
    """

    def __init__(self, folder: Path, run: LoadedRun) -> None:
        self.folder, self.run = Path(folder), run
        self.store = Store.open(self.folder / ENCODED)
        self.faiss = ""
        self._neighbours: tuple[Snapshot, Neighbours] | None = None
        self._building = threading.Lock()
        self.skipped: Mapping[Path, str] = {}
        self.updated = Updated(0, 0, 0)
        there, here = self.store.header["run"], run.about
        if self.store.header["fingerprint"] != run.fingerprint:
            raise InputError(
                f"{folder} was made by another run ({there['run']}, epoch {there['epoch']}; this "
                f"is {here['run']}, epoch {here['epoch']}): open it with that one, or make a new "
                "index"
            )

    # Making it.

    @classmethod
    def build(
        cls,
        folder: Path,
        run: LoadedRun,
        videos: Iterable[VideoRows],
        *,
        places: int = PLACES,
    ) -> VideoIndex:
        """A new index of some videos, at least one.

        Args:
            places: vectors of each window that the shortlist is made by; they stay in memory, 128
                bytes each.

        Raises:
            InputError: there is an index already, or no video.
        """
        batches = _encoded(run, videos, places)
        first = next(batches, None)
        if first is None:
            raise InputError(f"{folder}: there is no video to make an index of")
        vectors = first[2]
        Store.create(
            folder / ENCODED,
            header={
                "run": {**run.about, "path": str(run.path.resolve())},
                "fingerprint": run.fingerprint,
                "places": places,
            },
            layout=Layout(
                tensors={
                    name: (value.shape[1:], str(value.dtype)) for name, value in first[3].items()
                },
                places=vectors.shape[1],
                width=min(vectors.shape[2], 128),
                # Models weigh order softly or not at all. Of 1,052 real videos a shortlist of 5 %
                # holds 98.5 % of the best ten, and 96.9 % if sentences must stand in order.
                ordered=False,
            ),
            embedding_width=vectors.shape[2],
            sample=vectors,
        )
        index = cls(folder, run)
        with index.store.writer() as writer:
            for batch in chain([first], batches):
                writer.append(*batch)
        index.updated = Updated(len(index), 0, 0)
        return index

    def add(self, videos: Iterable[VideoRows]) -> None:
        """Append videos that are not there yet; each batch is there for readers once it is on disk.

        Raises:
            InputError: a video of that id is there.
        """
        with self.store.writer() as writer:
            for batch in _encoded(self.run, videos, self.store.header["places"]):
                writer.append(*batch)

    def update(self, videos: FeatureSource, *, prune: bool = False) -> Updated:
        """Add the videos that are not there, and replace those whose rows have changed.

        Args:
            prune: remove the videos that are not among these.
        """
        snapshot = self.store.snapshot()
        changed = [
            video
            for video in videos.video_ids
            if video in snapshot and snapshot.record(video)["sum"] != videos.read(video).sum
        ]
        wanted = set(videos.video_ids)
        gone = [video for video in snapshot.video_ids() if video not in wanted] if prune else []
        new = [video for video in videos.video_ids if video not in snapshot]
        self.add(map(videos.read, new))  # first: one that cannot be read then removes nothing
        with self.store.writer() as writer:
            writer.remove([*changed, *gone])
        self.add(map(videos.read, changed))
        return Updated(len(new), len(changed), len(gone))

    def remove(self, videos: Iterable[str]) -> int:
        """Take videos out, and say how many were there."""
        with self.store.writer() as writer:
            return writer.remove(videos)

    # Asking it.

    @property
    def about(self) -> Mapping[str, Any]:
        recipe = self.run.recipe
        features = "of unknown making"
        if recipe is not None:
            features = f"{recipe.backbone} {recipe.tap}, {recipe.rate} frames/s"
        return {**self.run.about, "features": features, "index": self.folder.name}

    def __len__(self) -> int:
        return self.store.snapshot().num_videos

    def __contains__(self, video: str) -> bool:
        return video in self.store.snapshot()

    def video_ids(self) -> Iterator[str]:
        return self.store.snapshot().video_ids()

    def search(
        self,
        paragraph: str | Sequence[str],
        *,
        top: int = 10,
        shortlist: int | None = None,
    ) -> Answer:
        """The best videos for a paragraph, with a moment for each sentence.

        Args:
            shortlist: items that are compared as the model does; None: all of a small index, and
                of a large one what ``check`` found to be enough.

        Raises:
            InputError: no words, too many of them, or the model ranks no videos.
        """
        began = time.monotonic()
        self._require_ranking()
        query, snapshot = self.run.read(paragraph), self.store.snapshot()
        numbers, scores = self._ranked(query, snapshot, shortlist)
        best = _best_of_videos(snapshot, numbers, scores, top)
        hits = [
            Hit(video, score, record["duration"], moments)
            for (video, score), (record, moments) in zip(
                best, self._moments(query, snapshot, [video for video, _ in best]), strict=True
            )
        ]
        return Answer(tuple(hits), query.sentences, query.unknown_words, time.monotonic() - began)

    def score_maps(self, video: str, paragraph: str | Sequence[str]) -> tuple[ScoreMap, ...]:
        """The score of every span of the whole video, for each sentence.

        Raises:
            InputError: no such video, the model finds no moments, or see ``search``.
        """
        self.run.require_grounding()
        snapshot = self.store.snapshot()
        duration = self._record(snapshot, video)["duration"]
        query = self.run.read(paragraph)
        whole = self._encoded(snapshot, snapshot.items_of(video)[-1:])
        with torch.no_grad():
            evidence = self.run.evidence(query, whole)
            proposals = decode(evidence, self.run.decoding, self.run.calibration)
        scores = proposals.scores.double().cpu().numpy()
        spans = proposals.spans.double().expand(len(scores), -1, 2).cpu().numpy() * duration
        return tuple(
            ScoreMap(sentence, span, score)
            for sentence, span, score in zip(query.sentences, spans, scores, strict=True)
        )

    def source(self, video: str) -> Source:
        """The file of a video.

        Raises:
            InputError: there is no such video.
        """
        return Source(**self._record(self.store.snapshot(), video)["source"])

    def check(
        self, paragraphs: Iterable[Sequence[str]], *, top: int = 10, shortlist: int | None = None
    ) -> dict[str, float]:
        """How much the shortlist loses: the share of the best ``top`` items of a comparison with
        every item that it holds (``recall``), and of the very best (``first``)."""
        self._require_ranking()
        snapshot = self.store.snapshot()
        queries = [self.run.read(paragraph) for paragraph in paragraphs]
        vectors = [self._vectors(query) for query in queries]
        read = {id(vector): query for vector, query in zip(vectors, queries, strict=True)}
        known: dict[int, np.ndarray] = {}

        def exact(vector: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            if id(vector) not in known:
                known[id(vector)] = self._compare(read[id(vector)], snapshot, numbers)
            return known[id(vector)]

        count = self._count(snapshot, shortlist)
        shares = [
            recall(
                snapshot,
                vectors,
                exact,
                count=count,
                top=best,
                shortlist=functools.partial(self._shortlist, snapshot),
            )
            for best in (top, 1)
        ]
        compared = min(count, snapshot.num_items)
        return {
            "queries": len(queries),
            "compared": compared,
            "recall": shares[0],
            "first": shares[1],
        }

    def _require_ranking(self) -> None:
        if not self.run.model.retrieves():
            raise InputError(
                f"{self.run.config.MODEL.NAME} finds moments and ranks no videos; expected a run "
                "of a model that does both, or one video to ground in"
            )

    def _record(self, snapshot: Snapshot, video: str) -> dict[str, Any]:
        if video not in snapshot:
            raise InputError(f"the index has no video {video!r}")
        return snapshot.record(video)

    def _count(self, snapshot: Snapshot, shortlist: int | None) -> int:
        if self.run.model.embeddings is None:  # nothing to shortlist by
            return snapshot.num_items
        return shortlist or max(EXHAUSTIVE, snapshot.num_items // SHARE)

    def _vectors(self, query: Query) -> Float[np.ndarray, "S D"]:
        names = self.run.model.embeddings
        if names is None:
            return np.zeros((1, 1), dtype=np.float32)
        found = query.encoded[names[1]][0].float().cpu().numpy()
        return found if found.ndim == 2 else found[None]

    def _shortlist(
        self, snapshot: Snapshot, vectors: Float[np.ndarray, "S D"], count: int
    ) -> Int[np.ndarray, " k"]:
        if not self.faiss:
            return snapshot.shortlist_across(vectors, count)
        with self._building:
            if self._neighbours is None or self._neighbours[0] is not snapshot:
                self._neighbours = snapshot, Neighbours(snapshot, self.faiss)
            return self._neighbours[1].shortlist(vectors, count)

    def _ranked(
        self, query: Query, snapshot: Snapshot, shortlist: int | None
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Items and their similarities, best first."""
        count = self._count(snapshot, shortlist)
        numbers = self._shortlist(snapshot, self._vectors(query), count)
        scores = self._compare(query, snapshot, numbers)
        order = np.argsort(-scores, kind="stable")
        return numbers[order], scores[order]

    def _compare(
        self, query: Query, snapshot: Snapshot, numbers: Int[np.ndarray, " k"]
    ) -> Float[np.ndarray, " k"]:
        blocks = [numbers[i : i + 8192] for i in range(0, len(numbers), 8192)]
        parts = [self.run.similarity(query, self._encoded(snapshot, block)) for block in blocks]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def _encoded(self, snapshot: Snapshot, numbers: Int[np.ndarray, " k"]) -> Encoded:
        device = self.run.runtime.device
        return {
            name: _as_encoded(value).to(device) for name, value in snapshot.tensors(numbers).items()
        }

    def _moments(
        self, query: Query, snapshot: Snapshot, videos: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
        """Record and moments of each video; those of one window are grounded together."""
        records = [snapshot.record(video) for video in videos]
        if not self.run.model.grounds():
            yield from ((record, ()) for record in records)
            return
        numbers = [snapshot.items_of(video) for video in videos]
        single = [place for place, own in enumerate(numbers) if len(own) == 1]
        found: dict[int, Any] = {}
        if single:
            encoded = self._encoded(snapshot, np.concatenate([numbers[place] for place in single]))
            durations = [records[place]["duration"] for place in single]
            found |= dict(zip(single, self.run.ground_in(query, encoded, durations), strict=True))
        for place, (record, own) in enumerate(zip(records, numbers, strict=True)):
            if place not in found:
                parts = [
                    Window(item.start, item.end, scale)
                    for item, scale in zip(snapshot.items(own), record["scales"], strict=True)
                ]
                encoded = self._encoded(snapshot, own)
                found[place] = moments_in(self.run, query, encoded, parts, record["duration"])
            yield record, found[place]


def _best_of_videos(
    snapshot: Snapshot, numbers: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"], top: int
) -> list[tuple[str, float]]:
    """The ``top`` best videos, each by its best item."""
    best: dict[str, float] = {}
    for first in range(0, len(numbers), 4 * top):
        block = slice(first, first + 4 * top)
        items = snapshot.items(numbers[block])
        for item, score in zip(items, scores[block].tolist(), strict=True):
            best.setdefault(item.video, score)
        if len(best) >= top:
            break
    return list(islice(best.items(), top))


Batch = tuple[list[dict[str, Any]], list[Item], np.ndarray, dict[str, np.ndarray]]


def _encoded(run: LoadedRun, videos: Iterable[VideoRows], places: int) -> Iterator[Batch]:
    """Videos as the store appends them: records, items, vectors, tensors; about ``SEGMENT`` windows
    at once, of which only a few are held as raw rows."""
    records: list[dict[str, Any]] = []
    items: list[Item] = []
    rows: list[np.ndarray] = []
    kept: list[Encoded] = []

    def encode() -> None:
        if rows:
            kept.append({name: _kept(value) for name, value in run.encode_videos(rows).items()})
            rows.clear()

    def batch() -> Batch:
        encode()
        whole = {name: torch.cat([part[name] for part in kept]) for name in kept[0]}
        vectors = _places(run, whole, places)
        done = [*records], [*items], vectors, {name: x.numpy() for name, x in whole.items()}
        for each in (records, items, kept):
            each.clear()
        return done

    for video in videos:
        parts = windows_of(run, video.times.duration)
        for part in parts:
            rows.append(video.window(part.start, part.end))
            if len(rows) == BATCH:
                encode()
        items += [Item(video.id, part.start, part.end) for part in parts]
        records.append(
            {
                "id": video.id,
                "duration": video.times.duration,
                "sum": video.sum,
                "source": asdict(video.source),
                "scales": [part.scale for part in parts],
            }
        )
        if len(items) >= SEGMENT:
            yield batch()
    if records:
        yield batch()


def windows_of(run: LoadedRun, duration: float) -> tuple[Window, ...]:
    """The windows in which a run reads a video: as long as most of its training videos."""
    return windows(duration, run.durations["most"], num_clips=run.config.DATASET.NUM_CLIPS)


def _places(
    run: LoadedRun, encoded: Mapping[str, torch.Tensor], places: int
) -> Float[np.ndarray, "n P D"]:
    """The vectors by which the first stage finds a window."""
    names = run.model.embeddings
    if names is None:
        return np.zeros((len(next(iter(encoded.values()))), 1, 1), dtype=np.float32)
    return place_vectors(encoded[names[0]], places).numpy()


def _kept(value: torch.Tensor) -> torch.Tensor:
    return value.cpu().to(getattr(torch, KEPT_AS)) if value.is_floating_point() else value.cpu()


def _as_encoded(value: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(value)
    return tensor.float() if tensor.is_floating_point() else tensor
