"""A first stage by faiss, for more items than a scan can go through in time.

It finds the nearest places of every sentence and scores their items as the scan does. Whoever is
near no sentence alone is lost, so at one length its shortlist is worse than the scan's; measure it
by ``lib.index.recall``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..base.errors import InputError
from .snapshot import Snapshot

_TRAINED_ON = 100_000  # vectors at most


class Neighbours:
    """The places of a snapshot's items in an index of faiss, in memory.

    Args:
        factory: faiss' description of an index, such as ``"Flat"`` or ``"IVF1024,SQ8"``.
        probes: lists that a query looks into, where the index has lists.
        seed: of the sample that the index is trained on.

    Raises:
        InputError: faiss is not installed, or cannot build such an index.
    """

    def __init__(
        self, snapshot: Snapshot, factory: str = "IVF1024,SQ8", *, probes: int = 32, seed: int = 0
    ) -> None:
        faiss = _faiss()
        self._snapshot = snapshot
        pieces = list(snapshot.places())
        width = pieces[0][1].shape[2] if pieces else 1
        self._numbers = np.concatenate([np.empty(0, np.int64), *(numbers for numbers, _ in pieces)])
        try:
            self._index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
            if not self._index.is_trained:
                self._index.train(self._sample(np.random.default_rng(seed)))
        except RuntimeError as fault:
            reason = str(fault).strip().splitlines()[-1]
            raise InputError(
                f"faiss cannot build {factory!r} over {len(self._numbers):,} items ({reason}); "
                "choose another one"
            ) from None
        if hasattr(self._index, "nprobe"):
            self._index.nprobe = probes
        for _, places in pieces:  # the places of an item one after the other
            self._index.add(_rows(places.permute(1, 0, 2).numpy()))

    def shortlist(self, query: Float[np.ndarray, "S D"], count: int) -> Int[np.ndarray, " k"]:
        """As ``Snapshot.shortlist``, of the items near at least one sentence."""
        vectors = _rows(self._snapshot.quantized(query).numpy())
        _, found = self._index.search(vectors, min(count, max(self._index.ntotal, 1)))
        places = self._snapshot.layout.places
        numbers = self._numbers[np.unique(found[found >= 0] // places)]
        scores = self._snapshot.first_scores(query, numbers).astype(np.int64)
        return numbers[np.lexsort((numbers, -scores))][:count]

    def _sample(self, rng: np.random.Generator) -> Float[np.ndarray, "n W"]:
        share = min(1.0, _TRAINED_ON / max(len(self._numbers) * self._snapshot.layout.places, 1))
        parts = []
        for _, places in self._snapshot.places():
            rows = places.numpy().reshape(-1, places.shape[2])
            parts.append(_rows(rows[rng.random(len(rows)) < share]))
        return np.concatenate(parts)


def _rows(vectors: np.ndarray) -> Float[np.ndarray, "n W"]:
    return np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]), np.float32)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise InputError(
            "this first stage needs faiss, which is not installed; pip install faiss-cpu"
        ) from None
    return faiss
