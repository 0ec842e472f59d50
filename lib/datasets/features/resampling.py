"""Rows of one video -> T rows as models read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def normalize_rows(
    rows: Float[np.ndarray, "n C"], parts: Sequence[int] = ()
) -> Float[np.ndarray, "n C"]:
    """Rows of Euclidean length 1; rows of zeros stay zero.

    Args:
        parts: widths of the sources that the rows were joined of, each of which gets length 1 by
            itself; none: one source.
    """
    if len(parts) > 1:
        pieces = np.split(rows, np.cumsum(parts)[:-1], axis=1)
        return np.concatenate([normalize_rows(piece) for piece in pieces], axis=1)
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
    rows: Float[np.ndarray, "n C"],
    num_frames: int,
    *,
    normalize: bool,
    dtype: str,
    parts: Sequence[int] = (),
) -> Float[np.ndarray, "T C"]:
    """Rows as models read them: of length 1 where asked for, then resampled, then rounded to
    ``dtype`` (infinite where they do not fit it).

    Args:
        parts: see ``normalize_rows``.
    """
    if normalize:
        rows = normalize_rows(rows, parts)
    with np.errstate(over="ignore"):
        return resample(rows, num_frames).astype(dtype, copy=False)
