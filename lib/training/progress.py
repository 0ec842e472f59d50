"""The progress of a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """The progress of a run. With the seed and the data it determines everything that follows."""

    epoch: int = 0  # the current epoch, from 0
    step: int = 0  # steps of it that are done
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over those steps
    best_score: float | None = None
    best_epoch: int | None = None
    kept: list[tuple[float, int]] = field(default_factory=list)  # (score, epoch), best first
    # Epoch, as text -> the number that decides between epochs of one score
    finer: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps of the epoch so far."""
        return {name: value / max(self.step, 1) for name, value in self.sums.items()}
