"""Test videos whose time is destroyed: does a model ground by what it sees, or by its prior?

Without time in the features nothing can be grounded, and the honest answer is the best prior: a
model that falls below it trusts evidence that is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .cache import Rows
from .simulated_rows import named_generator
from .standardization import Standardization

Kind = Literal["time_shuffled", "video_mean"]


def time_shuffled(rows: Float[Tensor, "T C"], blocks: int, video_id: str) -> Float[Tensor, "T C"]:
    """The rows in consecutive blocks of nearly equal length, the blocks in random order.

    What happens is all there, for moments up to a block long even in one piece; when it happens is
    not. The order is a function of the video's id.
    """
    pieces = torch.tensor_split(rows, min(blocks, len(rows)))
    order = named_generator(0, "time_shuffled", video_id).permutation(len(pieces))
    return torch.cat([pieces[place] for place in order])


def video_mean(rows: Float[Tensor, "T C"], noise: float, video_id: str) -> Float[Tensor, "T C"]:
    """The video's mean in every row: what the video is about, and nothing of when.

    Args:
        noise: deviation of what is added to each number, as a share of that number's own deviation
            over the video; with 1, rows spread as before. A function of the video's id.
    """
    drawn = named_generator(0, "video_mean", video_id).standard_normal(tuple(rows.shape))
    spread = rows.std(dim=0, correction=0)
    return rows.mean(dim=0) + noise * spread * torch.from_numpy(drawn.astype(np.float32))


@dataclass(frozen=True)
class Corruption:
    """One of these, with its settings."""

    kind: Kind
    blocks: int = 8  # of ``time_shuffled``
    noise: float = 1.0  # of ``video_mean``

    def __call__(self, rows: Float[Tensor, "T C"], video_id: str) -> Float[Tensor, "T C"]:
        if self.kind == "time_shuffled":
            return time_shuffled(rows, self.blocks, video_id)
        return video_mean(rows, self.noise, video_id)

    @property
    def name(self) -> str:
        """For file names, settings included: results of other settings are other results."""
        return f"{self.kind}_{self.blocks if self.kind == 'time_shuffled' else f'{self.noise:g}'}"

    def __str__(self) -> str:
        return {
            "time_shuffled": f"{self.blocks} blocks of each video's rows in random order",
            "video_mean": f"each row the video's mean plus noise ({self.noise:g} of the rows' own)",
        }[self.kind]


def prepared_rows(
    rows: Rows, corruption: Corruption | None, standardization: Standardization | None
) -> Rows:
    """Rows as a model reads them: corrupted, then standardised, as far as asked for."""
    asked = corruption is not None or standardization is not None
    return _PreparedRows(rows, corruption, standardization) if asked else rows


class _PreparedRows:
    def __init__(
        self, rows: Rows, corruption: Corruption | None, standardization: Standardization | None
    ) -> None:
        self.rows, self.dim = rows, rows.dim
        self.corruption, self.standardization = corruption, standardization

    def __getitem__(self, video_id: str) -> Float[Tensor, "T C"]:
        rows = self.rows[video_id]
        if self.corruption is not None:
            rows = self.corruption(rows, video_id)
        return rows if self.standardization is None else self.standardization(rows)

    def __str__(self) -> str:
        return str(self.rows)
