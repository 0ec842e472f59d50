"""How many of the best items by an exact score reach the second stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int

from .snapshot import Snapshot

Shortlist = Callable[[Float[np.ndarray, "S D"], int], np.ndarray]
Exact = Callable[[Float[np.ndarray, "S D"], Int[np.ndarray, " k"]], np.ndarray]


def recall(
    snapshot: Snapshot,
    queries: Iterable[Float[np.ndarray, "_ D"]],
    exact: Exact,
    *,
    count: int,
    top: int = 10,
    among: int | None = None,
    shortlist: Shortlist | None = None,
) -> float:
    """Share of the exact best items that are in the shortlist, as the mean over queries.

    Args:
        exact: scores of a query with the items of given numbers, k of them; higher is better.
        count: length of the shortlist.
        top: how many best items count.
        among: score only this many items exactly, the best ones of the first stage, where all of
            them would take too long. What the first stage loses altogether is then not seen: the
            result is an upper bound, and says something only well above ``count``.
        shortlist: another first stage than the snapshot's scan.
    """
    first = shortlist or snapshot.shortlist
    shares = []
    for query in queries:
        if among is None:
            numbers, found = snapshot.item_numbers(), first(query, count)
        else:
            numbers = first(query, among)
            found = numbers[:count]
        scores = exact(query, numbers)
        best = numbers[np.lexsort((numbers, -scores))[:top]]
        shares.append(np.isin(best, found).mean() if len(best) else 1.0)
    if not shares:
        raise ValueError("no queries")
    return float(np.mean(shares))
