"""What a model answers for a split: a ranking of the videos, and spans for every sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lib.core.errors import InputError
from lib.core.moments import greedy_suppression
from lib.core.runtime import Runtime
from lib.datasets.batch import Batch, Sample
from lib.datasets.dense import DenseParagraphs
from lib.evaluation.records import CandidateMoments, Ranking, on_grid
from lib.models.interface import Encoded, Grounder, Proposals, Retriever


@dataclasses.dataclass(frozen=True)
class Grounding:
    """Spans of every sentence, best first, after suppression. Fractions of the video."""

    spans: np.ndarray  # (M, n, 2); NaN where fewer than n
    scores: np.ndarray  # (M, n); -inf where fewer
    grid: np.ndarray | None  # (P, 2): the spans the model chooses from, where all share them


@torch.no_grad()
def retrieve(
    model: nn.Module, paragraphs: Iterable[Batch], videos: Iterable[Tensor], runtime: Runtime
) -> np.ndarray | None:
    """Similarity of every paragraph with every video (P, V); None if the model does not retrieve.

    Args:
        paragraphs: in order; their own videos are not read.
        videos: the rows (b, T, C) of every video of the corpus, in order; each is encoded once.
    """
    if not isinstance(model, Retriever):
        return None
    model.eval()
    gallery = _concatenate([model.encode_videos(rows.to(runtime.device)) for rows in videos])
    rows = []
    for batch in paragraphs:
        found = model.similarity(model.encode_paragraphs(batch.to(runtime.device)), gallery)
        rows.append(found.float().cpu().numpy())
    return np.concatenate(rows)


@torch.no_grad()
def ground(
    model: nn.Module,
    paragraphs: Iterable[Batch],
    runtime: Runtime,
    *,
    moments: int,
    nms_iou: float,
) -> Grounding | None:
    """Every sentence grounded in the video of its batch row; None if the model does not ground.

    Args:
        moments: spans kept of a sentence after suppression.
        nms_iou: two kept spans of a sentence overlap by at most this.
    """
    if not isinstance(model, Grounder):
        return None
    model.eval()
    spans, scores, grid = [], [], None
    for batch in paragraphs:
        proposals = model.ground(batch.to(runtime.device))
        kept = best_moments(proposals, moments=moments, nms_iou=nms_iou)
        spans.append(kept[0])
        scores.append(kept[1])
        if proposals.spans.dim() == 2 and grid is None:
            grid = proposals.spans.double().cpu().numpy()
    if grid is not None:  # exact fractions, so that a threshold tie is decided and not rounded
        num_clips = int(round(1 / (grid[:, 1] - grid[:, 0]).min()))  # the shortest span is a clip
        grid = on_grid(grid, num_clips)
        spans = [on_grid(each, num_clips) for each in spans]
    return Grounding(_stack_ragged(spans, np.nan), _stack_ragged(scores, -np.inf), grid)


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


@torch.no_grad()
def all_scores(
    model: nn.Module, paragraphs: Iterable[Batch], runtime: Runtime
) -> Iterator[np.ndarray]:
    """The score of every proposal, (M, P) for each batch: what a picture of a map shows."""
    assert isinstance(model, Grounder)
    model.eval()
    for batch in paragraphs:
        scores = model.ground(batch.to(runtime.device)).scores
        yield scores.detach().float().cpu().numpy()


class CandidatePairs(Dataset[Sample]):
    """Every paragraph with each of its candidate videos in the place of its own.

    Args:
        split: the paragraphs and the corpus they search.
        videos: (P, K) candidates of each paragraph, indices into the corpus.
    """

    def __init__(self, split: DenseParagraphs, videos: np.ndarray) -> None:
        self.split, self.videos = split, videos

    def __len__(self) -> int:
        return self.videos.size

    def __getitem__(self, index: int) -> Sample:
        paragraph, candidate = divmod(index, self.videos.shape[1])
        video = int(self.videos[paragraph, candidate])
        return dataclasses.replace(
            self.split[paragraph],
            video=self.split.videos[video],
            video_index=video,
            video_id=self.split.corpus[video],
        )


def candidate_moments(
    split: DenseParagraphs, best: Ranking, grounding: Grounding
) -> CandidateMoments:
    """Grounding of ``CandidatePairs``, sentence by sentence.

    Args:
        best: the candidates of each paragraph, with their scores.
        grounding: of the pairs, in their order: paragraph, candidate, sentence.
    """
    counts = np.array([len(paragraph.sentences) for paragraph in split.paragraphs])
    K, n = best.videos.shape[1], grounding.scores.shape[1]
    owner = np.repeat(np.arange(len(counts)), counts)
    # The pairs lie (paragraph, candidate, sentence); the result wants (sentence, candidate).
    first = np.concatenate([[0], np.cumsum(counts * K)[:-1]])
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = first[owner, None] + np.arange(K) * counts[owner, None] + place[:, None]
    return CandidateMoments(
        videos=best.videos[owner],
        spans=grounding.spans[rows].reshape(len(owner), K, n, 2),
        scores=grounding.scores[rows].reshape(len(owner), K, n),
        video_scores=best.scores[owner],
    )


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
