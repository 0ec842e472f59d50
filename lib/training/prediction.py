"""The predictions of a model for a split: similarities of videos, and spans of every sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import distributed
from ..base.batch import Batch
from ..base.errors import InputError
from ..base.moments import greedy_suppression
from ..base.runtime import Runtime
from ..decoding import Decoding, Evidence, Proposals, decode, decode_prior
from ..decoding.decode import reads
from ..evaluation.records import CandidateMoments, Ranking, clips_of, on_grid
from ..models.first_stage import first_stage_similarity
from ..models.interface import Encoded, Model

ON_DEVICE = 2**30  # bytes of encoded videos that stay on the device between uses


@dataclasses.dataclass(frozen=True)
class Grounding:
    """Spans of every sentence, best first, after suppression. Fractions of the video."""

    spans: np.ndarray  # (M, n, 2); NaN where fewer than n
    scores: np.ndarray  # (M, n); -inf where fewer
    grid: np.ndarray | None  # (P, 2): the spans the model chooses from, where all share them
    prior: np.ndarray | None = None  # (M, 1, 2): the span of the decoding's prior, where it has one


@dataclasses.dataclass(frozen=True)
class Read:
    """A split as encoded by a model, once: all predictions are computed from this.

    Videos stay on the device while they take less than ``ON_DEVICE``, and in main memory beyond;
    paragraphs, in batches as they were read, stay on the device.
    """

    videos: Encoded
    paragraphs: tuple[Encoded, ...]


@torch.no_grad()
def read_split(
    model: Model,
    paragraphs: Iterable[Batch],
    videos: Iterable[Tensor],
    runtime: Runtime,
    *,
    num_videos: int,
) -> Read:
    """Every video and every paragraph of a split encoded.

    Args:
        paragraphs: in order; their own videos are not read.
        videos: the rows (b, T, C) of the ``num_videos`` of the corpus, in order.
    """
    kept: Encoded = {}
    first = 0
    for rows in videos:
        part = model.encode_videos(rows.to(runtime.device, non_blocking=True))
        if not kept:
            size = sum(x[0].numel() * x.element_size() for x in part.values()) * num_videos
            size *= distributed.world_size()  # the videos of all processes will be gathered
            home = runtime.device if size < ON_DEVICE else torch.device("cpu")
            kept = {
                name: x.new_empty(num_videos, *x.shape[1:], device=home) for name, x in part.items()
            }
        for name, x in part.items():
            kept[name][first : first + len(x)] = x
        first += len(rows)
    return Read(kept, read_paragraphs(model, paragraphs, runtime))


@torch.no_grad()
def read_paragraphs(
    model: Model, paragraphs: Iterable[Batch], runtime: Runtime
) -> tuple[Encoded, ...]:
    """Paragraphs encoded, in batches as they come; their own videos are not read."""
    return tuple(model.encode_paragraphs(batch.to(runtime.device)) for batch in paragraphs)


@torch.no_grad()
def with_all_videos(read: Read) -> Read:
    """A process's encoded share of a split, with the encoded videos of all processes."""
    count = len(next(iter(read.videos.values())))
    counts = distributed.gather_objects(count)
    return Read(
        {name: distributed.gather_rows(x, counts) for name, x in read.videos.items()},
        read.paragraphs,
    )


@torch.no_grad()
def similarities(model: Model, read: Read, runtime: Runtime) -> np.ndarray | None:
    """Similarities of paragraphs and videos, (P, V); None if the model does not retrieve."""
    if not model.retrieves():
        return None
    return _by_pairs(model.similarity, read, runtime)


@torch.no_grad()
def first_stage(model: Model, read: Read, runtime: Runtime) -> np.ndarray | None:
    """How the first stage of a search scores the videos, (P, V); None where the model compares
    every video, or by the very vectors that a first stage would."""
    if not model.retrieves() or model.embeddings is None or model.compares_embeddings:
        return None
    return _by_pairs(partial(first_stage_similarity, model), read, runtime)


def _by_pairs(
    score: Callable[[Encoded, Encoded], Tensor], read: Read, runtime: Runtime
) -> np.ndarray:
    """The scores of all pairs, in blocks of videos."""
    size = sum(x[:1].numel() * x.element_size() for x in read.videos.values())
    block = max(1, ON_DEVICE // size)  # all of them, unless they are kept in main memory
    columns = []
    for first in range(0, len(next(iter(read.videos.values()))), block):
        part = {
            name: x[first : first + block].to(runtime.device) for name, x in read.videos.items()
        }
        rows = [score(text, part).float() for text in read.paragraphs]
        columns.append(torch.cat(rows).cpu().numpy())
    return np.concatenate(columns, axis=1)


@torch.no_grad()
def ground_in(
    model: Model,
    read: Read,
    videos: np.ndarray,
    runtime: Runtime,
    decoding: Decoding,
    calibration: Mapping[str, Any],
    *,
    pairs: int,
    moments: int,
    nms_iou: float,
    durations: np.ndarray | None = None,
    watch: Callable[[Iterable[Encoded]], Iterable[Encoded]] = lambda batches: batches,
) -> Grounding | None:
    """Every paragraph's sentences grounded in some videos; None if the model does not ground.

    Args:
        decoding, calibration: how evidence becomes moments.
        videos: (P, K) indices of videos for each paragraph. The result has this order: paragraph,
            video, sentence.
        pairs: sentences grounded at once, each in one video, at most; bounds the memory. A
            paragraph is never divided.
        moments: spans kept of a sentence after suppression.
        nms_iou: two kept spans of a sentence overlap by at most this.
        durations: (V,) of the videos in seconds, for suppression in rounded seconds; None: exact.
        watch: wraps the batches of paragraphs, to show progress.
    """
    if not model.grounds():
        return None
    spans, scores, priors, grid, first = [], [], [], None, 0
    for text in watch(read.paragraphs):
        counts = text["mask"].sum(dim=1).cpu().numpy()
        candidates = videos[first : first + len(counts)]
        first += len(counts)
        for rows in _chunks(np.repeat(counts, candidates.shape[1]), pairs):
            evidence = evidence_of(
                model,
                _pick(text, rows // candidates.shape[1], runtime),
                _pick(read.videos, candidates.ravel()[rows], runtime),
                decoding,
            )
            proposals = decode(evidence, decoding, calibration)
            seconds = None
            if durations is not None:
                lengths = np.repeat(counts, candidates.shape[1])[rows]
                own = np.repeat(durations[candidates.ravel()[rows]], lengths)
                seconds = torch.from_numpy(own).to(runtime.device, torch.float32)
            kept = best_moments(proposals, moments=moments, nms_iou=nms_iou, durations=seconds)
            spans.append(kept[0])
            scores.append(kept[1])
            prior = decode_prior(evidence, decoding, calibration)
            if prior is not None:
                priors.append(best_moments(prior, moments=1, nms_iou=nms_iou)[0])
            if proposals.spans.dim() == 2 and grid is None:
                grid = proposals.spans.double().cpu().numpy()
    if grid is not None:  # exact fractions, so that a threshold tie is decided and not rounded
        num_clips = clips_of(grid)
        exact = on_grid(grid, num_clips)
        if np.abs(exact - grid).max() < 1e-6:  # and not a grid of centres and widths
            grid, spans = exact, [on_grid(each, num_clips) for each in spans]
    prior_spans = np.concatenate(priors) if priors else None
    return Grounding(
        _stack_ragged(spans, np.nan), _stack_ragged(scores, -np.inf), grid, prior_spans
    )


@torch.no_grad()
def evidence_in(
    model: Model,
    read: Read,
    videos: np.ndarray,
    runtime: Runtime,
    decoding: Decoding,
    *,
    pairs: int,
) -> list[Evidence]:
    """A model's evidence for the sentences of every paragraph in one video each.

    Args:
        videos: (P,) index of the video for each paragraph.
        pairs: sentences at once, at most.
    """
    evidence, first = [], 0
    for text in read.paragraphs:
        counts = text["mask"].sum(dim=1).cpu().numpy()
        own_videos = videos[first : first + len(counts)]
        first += len(counts)
        for rows in _chunks(counts, pairs):
            paragraphs = _pick(text, rows, runtime)
            evidence.append(
                evidence_of(
                    model, paragraphs, _pick(read.videos, own_videos[rows], runtime), decoding
                )
            )
    return evidence


def evidence_of(model: Model, paragraphs: Encoded, videos: Encoded, decoding: Decoding) -> Evidence:
    """A model's evidence for the sentences of paragraph b in video b, as far as decoding reads
    it."""
    has_scores, has_clips = ("scores" in model.grounds_from, "clips" in model.grounds_from)
    read = reads(decoding, has_scores=has_scores, has_clips=has_clips)
    return model.ground_pairs(paragraphs, videos, read)


def of_all_processes(grounding: Grounding) -> Grounding:
    """The groundings of all processes' shares, one after the other."""
    parts = distributed.gather_objects(grounding)
    return Grounding(
        _stack_ragged([part.spans for part in parts], np.nan),
        _stack_ragged([part.scores for part in parts], -np.inf),
        grounding.grid,
        None if grounding.prior is None else np.concatenate([p.prior for p in parts]),
    )


def _chunks(sizes: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Consecutive indices whose sizes sum up to at most ``most``, at least one each."""
    total, first = np.cumsum(sizes), 0
    while first < len(sizes):
        before = total[first] - sizes[first]
        last = max(first + 1, int(np.searchsorted(total, before + most, side="right")))
        yield np.arange(first, last)
        first = last


def _pick(items: Encoded, rows: np.ndarray, runtime: Runtime) -> Encoded:
    """The items at ``rows``, on the device."""
    index = torch.from_numpy(rows)
    return {
        name: x.index_select(0, index.to(x.device, non_blocking=True)).to(runtime.device)
        for name, x in items.items()
    }


def best_moments(
    proposals: Proposals, *, moments: int, nms_iou: float, durations: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best spans of each sentence after suppression: (M, K, 2) fractions and (M, K) scores.

    Args:
        durations: (M,) seconds, see ``greedy_suppression``.

    Raises:
        InputError: a score that is not finite (an arg-max over NaN would look like an answer).
    """
    if not torch.isfinite(proposals.scores).all():
        raise InputError("the model scores a moment with a number that is not finite")
    kept, exists = greedy_suppression(
        proposals.spans, proposals.scores, keep=moments, max_iou=nms_iou, durations=durations
    )
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    spans = proposals.spans[kept] if proposals.spans.dim() == 2 else proposals.spans[rows, kept]
    spans = spans.double().masked_fill(~exists[..., None], torch.nan)
    scores = proposals.scores.float()[rows, kept].masked_fill(~exists, -torch.inf)
    return spans.cpu().numpy(), scores.cpu().numpy()


@torch.no_grad()
def all_scores(
    model: Model,
    paragraphs: Iterable[Batch],
    runtime: Runtime,
    decoding: Decoding,
    calibration: Mapping[str, Any],
) -> Iterator[np.ndarray]:
    """The score of every proposal, (M, P) for each batch, as figures of score maps show it."""
    model.eval()
    for batch in paragraphs:
        batch = batch.to(runtime.device)
        evidence = evidence_of(
            model, model.encode_paragraphs(batch), model.encode_videos(batch.video), decoding
        )
        scores = decode(evidence, decoding, calibration).scores
        yield scores.detach().float().cpu().numpy()


def split_candidates(
    grounding: Grounding, best: Ranking, counts: np.ndarray
) -> tuple[Grounding, CandidateMoments]:
    """Split groundings into those in the true video and those in candidate videos.

    Args:
        grounding: of every paragraph in its own video and then in its candidates.
        best: the candidates of each paragraph, with their scores.
        counts: sentences of each paragraph.
    """
    K, n = best.videos.shape[1], grounding.scores.shape[1]
    owner = np.repeat(np.arange(len(counts)), counts)
    # They lie (paragraph, video, sentence); the result wants (sentence, video).
    first = np.concatenate([[0], np.cumsum(counts * (K + 1))[:-1]])
    position = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = first[owner, None] + np.arange(K + 1) * counts[owner, None] + position[:, None]
    own, others = rows[:, 0], rows[:, 1:]
    return (
        Grounding(
            grounding.spans[own],
            grounding.scores[own],
            grounding.grid,
            None if grounding.prior is None else grounding.prior[own],
        ),
        CandidateMoments(
            videos=best.videos[owner],
            spans=grounding.spans[others].reshape(len(owner), K, n, 2),
            scores=grounding.scores[others].reshape(len(owner), K, n),
            video_scores=best.scores[owner],
        ),
    )


def _stack_ragged(parts: list[np.ndarray], fill: float) -> np.ndarray:
    """Concatenate along the first axis, after padding the second to the longest with ``fill``."""
    width = max(part.shape[1] for part in parts)
    rest = [(0, 0)] * (parts[0].ndim - 2)
    return np.concatenate(
        [
            np.pad(part, [(0, 0), (0, width - part.shape[1]), *rest], constant_values=fill)
            for part in parts
        ]
    )
