"""The two loops: an epoch of training, and what a model answers for a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.errors import InputError
from lib.core.moments import greedy_suppression
from lib.core.runtime import Runtime, seed_everything
from lib.datasets.batch import Batch
from lib.evaluation.records import Predictions, on_grid
from lib.losses import Criterion
from lib.models.interface import Encoded, Grounder, Proposals, Retriever


class Batches(Sized, Protocol):
    """A loader of batches whose length is known."""

    def __iter__(self) -> Any: ...


@dataclass
class Progress:
    """Where a run stands. With the seed and the data it decides everything that follows."""

    epoch: int = 0  # the epoch under way, from 0
    step: int = 0  # steps of it that are done
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term over those steps
    best_score: float | None = None
    best_epoch: int | None = None

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps of the epoch so far."""
        return {name: value / max(self.step, 1) for name, value in self.sums.items()}


def train_one_epoch(
    model: nn.Module,
    criterion: Criterion,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    progress: Progress,
    *,
    seed: int,
    max_grad_norm: float,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train on ``batches``, the ones of the epoch that are still to come.

    Every step draws its random numbers from (seed, epoch, step) alone. ``progress`` is brought up to
    date after each step and given to ``on_step``, which may save, print, or stop by raising.

    Raises:
        FloatingPointError: a loss that is not finite; the step is not taken.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    for batch in batches:
        seed_everything(seed, progress.epoch, progress.step)
        batch = batch.to(runtime.device)
        optimizer.zero_grad(set_to_none=True)
        values = criterion(model(batch, terms=criterion.active), batch)
        values["total"].backward()
        limit = max_grad_norm if max_grad_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        numbers = _to_numbers({**values, "grad_norm": norm})
        _refuse_not_finite(numbers, batch)
        optimizer.step()
        for name, number in numbers.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + number
        progress.step += 1
        on_step(progress)


def _to_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """All of them with one wait for the device."""
    stacked = torch.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, stacked, strict=True))


def _refuse_not_finite(numbers: dict[str, float], batch: Batch) -> None:
    if np.isfinite(list(numbers.values())).all():
        return
    told = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
    raise FloatingPointError(
        f"the loss is not finite ({told}) on the videos {', '.join(batch.video_ids)}"
    )


def unreached_parameters(model: nn.Module) -> list[str]:
    """Trainable parameters that the last backward pass did not reach."""
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@torch.no_grad()
def predict(
    model: nn.Module,
    paragraphs: Iterable[Batch],
    videos: Iterable[Tensor],
    runtime: Runtime,
    *,
    moments: int,
    nms_iou: float,
) -> Predictions:
    """What the model answers for a split.

    Args:
        paragraphs: the split's paragraphs with their own videos, in order.
        videos: the rows (b, T, C) of every video of the corpus, in order; each is encoded once.
        moments: spans kept of a sentence after suppression.
        nms_iou: two kept spans of a sentence overlap by at most this.
    """
    model.eval()
    encoded_videos = None
    if isinstance(model, Retriever):
        encoded_videos = _concatenate(
            [model.encode_videos(rows.to(runtime.device)) for rows in videos]
        )
    similarity: list[np.ndarray] = []
    spans: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    grid: np.ndarray | None = None
    for batch in paragraphs:
        batch = batch.to(runtime.device)
        if encoded_videos is not None:
            assert isinstance(model, Retriever)
            found = model.similarity(model.encode_paragraphs(batch), encoded_videos)
            similarity.append(found.float().cpu().numpy())
        if isinstance(model, Grounder):
            proposals = model.ground(batch)
            kept_spans, kept_scores = best_moments(proposals, moments=moments, nms_iou=nms_iou)
            spans.append(kept_spans)
            scores.append(kept_scores)
            if grid is None and proposals.spans.dim() == 2:
                grid = proposals.spans.double().cpu().numpy()
    if grid is not None:  # exact fractions, so that a threshold tie is decided and not rounded
        num_clips = _clips_of(grid)
        grid = on_grid(grid, num_clips)
        spans = [on_grid(each, num_clips) for each in spans]
    return Predictions(
        similarity=np.concatenate(similarity) if similarity else None,
        spans=_stack_ragged(spans, np.nan) if spans else None,
        scores=_stack_ragged(scores, -np.inf) if scores else None,
        proposal_spans=grid,
    )


def best_moments(
    proposals: Proposals, *, moments: int, nms_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best spans of each sentence after suppression: (M, K, 2) fractions and (M, K) scores.

    Raises:
        InputError: a score that is not finite (an arg-max over NaN would look like an answer).
    """
    if not torch.isfinite(proposals.scores).all():
        raise InputError("the model scores a moment with a number that is not finite")
    kept, exists = greedy_suppression(
        proposals.spans, proposals.scores, keep=moments, max_iou=nms_iou
    )
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    spans = proposals.spans[kept] if proposals.spans.dim() == 2 else proposals.spans[rows, kept]
    spans = spans.double().masked_fill(~exists[..., None], torch.nan)
    scores = proposals.scores.float()[rows, kept].masked_fill(~exists, -torch.inf)
    return spans.cpu().numpy(), scores.cpu().numpy()


def _clips_of(grid: np.ndarray) -> int:
    """N of a map whose cells are given as fractions: its shortest span is one clip."""
    return int(round(1 / (grid[:, 1] - grid[:, 0]).min()))


def _concatenate(parts: list[Encoded]) -> Encoded:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _stack_ragged(parts: list[np.ndarray], fill: float) -> np.ndarray:
    """Along the first axis; the second is filled up to the longest."""
    width = max(part.shape[1] for part in parts)
    rest = [(0, 0)] * (parts[0].ndim - 2)
    return np.concatenate(
        [
            np.pad(part, [(0, 0), (0, width - part.shape[1]), *rest], constant_values=fill)
            for part in parts
        ]
    )
