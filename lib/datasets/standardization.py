"""Mean and deviation of the training videos' rows, number by number, and rows standardised by them.

They are measured on what a model would read: rows after L2 normalisation and resampling. What is
kept of the rows on disk stays raw. A checkpoint holds them, so that a test needs no training video.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..base.errors import InputError
from .cache import Rows

# A number that varies less than this, relative to its mean or to the others' deviation, varies by
# the rounding of float32. It becomes 0: divided by its deviation, rounding would look like signal.
_LEAST = 1e-6
_SAME = 1e-5  # relative difference of statistics that other libraries' summation makes


@dataclass(frozen=True)
class Standardization:
    """Statistics of the training rows.

    Attributes:
        deviation: as measured; 0 for a number that never changes.
        rows: how many rows they were measured on.
        normalize: whether these were of length 1 before they were resampled.
    """

    mean: Float[Tensor, " C"]
    deviation: Float[Tensor, " C"]
    rows: int
    normalize: bool

    @staticmethod
    def measure(rows: Rows, videos: Iterable[str], *, normalize: bool) -> Standardization:
        """Read every video once; sums are in float64, whatever the size of the corpus."""
        count, mean, squares = 0, np.zeros(rows.dim), np.zeros(rows.dim)
        for video in tqdm(
            list(dict.fromkeys(videos)),
            desc="mean and deviation",
            unit=" videos",
            leave=False,
            disable=None,
        ):
            read = rows[video].numpy().astype(np.float64)
            own, T = read.mean(axis=0), len(read)
            # Squares about the means of the parts and of the whole: nothing large is subtracted.
            apart = own - mean
            squares += np.square(read - own).sum(axis=0) + apart**2 * (count * T / (count + T))
            mean += apart * (T / (count + T))
            count += T
        deviation = np.sqrt(squares / max(count, 1))
        return Standardization(
            torch.from_numpy(mean).float(), torch.from_numpy(deviation).float(), count, normalize
        )

    @staticmethod
    def of_checkpoint(state: Mapping[str, Any], *, wanted: bool) -> Standardization | None:
        """What a checkpoint was trained with; None = with rows as they are.

        Args:
            wanted: what the experiment says (DATASET.STANDARDIZE).

        Raises:
            InputError: it was trained otherwise than the experiment says.
        """
        kept = state.get("features", {}).get("standardization")
        if wanted != (kept is not None):
            there = "with standardised" if kept is not None else "without standardised"
            raise InputError(
                f"DATASET.STANDARDIZE is {str(wanted).lower()}, but the checkpoint was trained "
                f"{there} rows; expected the same in the test as in training"
            )
        if kept is None:
            return None
        # Rows are prepared in main memory, wherever the checkpoint was read to.
        tensors = {name: kept[name].cpu() for name in ("mean", "deviation")}
        return Standardization(**{**kept, **tensors})

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and numbers only."""
        return {knob.name: getattr(self, knob.name) for knob in dataclasses.fields(self)}

    def require_fits(self, *, dim: int, normalize: bool) -> None:
        """Refuse rows that these statistics are not of.

        Raises:
            InputError: rows of another width, or normalised otherwise.
        """
        if dim != len(self.mean):
            raise InputError(
                f"the checkpoint standardises rows {len(self.mean)} wide; found {dim}."
            )
        if normalize != self.normalize:
            raise InputError(
                f"DATASET.NORMALIZE is {str(normalize).lower()}, but the checkpoint's mean and "
                f"deviation are of rows with NORMALIZE {str(self.normalize).lower()}."
            )

    def require_same(self, other: Standardization) -> None:
        """Refuse to go on where the training rows have changed.

        Raises:
            InputError: another mean or deviation than rounding explains.
        """
        for name in ("mean", "deviation"):
            ours, theirs = getattr(self, name), getattr(other, name)
            scale = self.deviation.norm() + self.mean.norm()
            if ours.shape != theirs.shape or (ours - theirs).norm() > _SAME * scale:
                raise InputError(
                    f"the {name} of the training rows is not that of the checkpoint; were the "
                    f"features or the training videos changed? Expected those it was trained with."
                )

    @functools.cached_property
    def _factor(self) -> Float[Tensor, " C"]:
        typical = self.deviation.square().mean().sqrt()
        least = _LEAST * torch.maximum(self.mean.abs(), typical)
        return torch.where(self.deviation > least, 1 / self.deviation, 0.0)

    def __call__(self, rows: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
        """Mean 0 and deviation 1 over the training rows; a number that never changed there is 0."""
        return (rows - self.mean) * self._factor
