"""Queries with their true moments, and predictions, as arrays. ``files`` reads and writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..base.errors import InputError


@dataclass(frozen=True)
class Truth:
    """A corpus, its paragraphs and their moments. Letters as in ``spans``.

    The sentences of a paragraph stand together and in order. Several paragraphs may belong to one
    video; the video is then the right answer to each. Videos without a paragraph are distractors.

    Raises:
        InputError: a duplicate id, a moment that is none, or arrays that do not fit.
    """

    video_ids: tuple[str, ...]
    durations: NDArray[np.float64]  # (V,) seconds
    paragraph_ids: tuple[str, ...]
    paragraph_video: NDArray[np.int64]  # (P,) index into video_ids
    sentence_paragraph: NDArray[np.int64]  # (M,) ascending
    moments: NDArray[np.float64]  # (M, 2) seconds; NaN for all of them where they are not known
    sentences: tuple[str, ...]
    # (M, A, 2) seconds: the moments of sentences that have several, whether a query has several
    # windows or a moment several annotators; NaN where fewer
    annotations: NDArray[np.float64] | None = None
    sentence_ids: tuple[str, ...] = ()  # unique; empty: "<paragraph>/<position, from 1>"
    clipped: int = 0  # sentences whose moment was cut where its video ends

    def __post_init__(self) -> None:
        for kind, ids in (("video", self.video_ids), ("paragraph", self.paragraph_ids)):
            if len(set(ids)) != len(ids):
                twice = next(name for name in ids if ids.count(name) > 1)
                raise InputError(f"{kind} {twice!r} is in the truth twice, expected once")
        V, P, M = len(self.video_ids), len(self.paragraph_ids), len(self.sentences)
        shapes = {
            "durations": (V,),
            "paragraph_video": (P,),
            "sentence_paragraph": (M,),
            "moments": (M, 2),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise InputError(
                    f"truth: {name} has shape {np.shape(getattr(self, name))}, expected {shape}"
                )
        if not M:
            raise InputError("the truth holds no sentence, expected at least one")
        if self.sentence_ids and len(set(self.sentence_ids)) != M:
            raise InputError(f"truth: {len(set(self.sentence_ids))} sentence ids, expected {M}")
        if np.any(np.diff(self.sentence_paragraph) < 0):
            raise InputError("truth: sentence_paragraph descends, expected paragraphs in order")
        if not np.all(self.durations > 0) or not np.isfinite(self.durations).all():
            video = self.video_ids[int(np.argmin(np.nan_to_num(self.durations, nan=-1.0)))]
            raise InputError(f"video {video!r}: the duration is not a positive number of seconds")
        bad = ~(self.moments[:, 0] < self.moments[:, 1]) | ~np.isfinite(self.moments).all(axis=1)
        if bad.any() and self.timed:
            i = int(bad.argmax())
            raise InputError(
                f"paragraph {self.paragraph_ids[self.sentence_paragraph[i]]!r}: the moment "
                f"{self.moments[i].tolist()} is none, expected start < end"
            )

    @property
    def timed(self) -> bool:
        """Whether there are moments to score against; else retrieval alone can be."""
        return not np.isnan(self.moments).all()

    @property
    def names(self) -> tuple[str, ...]:
        """The sentences' ids."""
        if self.sentence_ids:
            return self.sentence_ids
        owners = (self.paragraph_ids[p] for p in self.sentence_paragraph)
        return tuple(f"{p}/{i + 1}" for p, i in zip(owners, self.position[0], strict=True))

    @property
    def sentence_video(self) -> NDArray[np.int64]:
        """(M,) the video of each sentence."""
        return self.paragraph_video[self.sentence_paragraph]

    @property
    def fractions(self) -> NDArray[np.float64]:
        """(M, 2) the moments as fractions of their video."""
        return self.moments / self.durations[self.sentence_video, None]

    @property
    def windows(self) -> NDArray[np.float64]:
        """(M, A, 2) all true moments of each sentence as fractions of its video; NaN: fewer."""
        if self.annotations is None:
            return self.fractions[:, None]
        return self.annotations / self.durations[self.sentence_video, None, None]

    @property
    def several(self) -> int:
        """How many sentences have more than one true moment."""
        if self.annotations is None:
            return 0
        return int(((~np.isnan(self.annotations).any(axis=-1)).sum(axis=1) > 1).sum())

    @property
    def position(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each sentence's position in its paragraph, from 0, and how many sentences the paragraph
        has, both (M,)."""
        counts = np.bincount(self.sentence_paragraph, minlength=len(self.paragraph_ids))
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        position = np.arange(len(self.sentences)) - first[self.sentence_paragraph]
        return position, counts[self.sentence_paragraph]


@dataclass(frozen=True)
class CandidateMoments:
    """Each sentence grounded in several candidate videos.

    Scores are added: a pair is worth ``alpha · video_scores + scores``. With log-probabilities as
    scores this is XML's exp(alpha · s) · p. Entries that do not exist have video -1, NaN spans or a
    score of -inf.
    """

    videos: NDArray[np.integer]  # (M, Kv) index into video_ids; no video twice in a row
    spans: NDArray[np.floating]  # (M, Kv, n, 2) fractions of the candidate video, best first
    scores: NDArray[np.floating]  # (M, Kv, n)
    video_scores: NDArray[np.floating]  # (M, Kv)


@dataclass(frozen=True)
class Pairs:
    """One finished list of (video, moment) pairs per sentence, in any order.

    A pair's score already holds whatever the model mixed into it, so that a list may be meant for
    some protocols only: it is then not counted under others.
    """

    videos: NDArray[np.integer]  # (M, L) index into video_ids; -1 where the list is shorter
    spans: NDArray[np.floating]  # (M, L, 2) fractions of the pair's video
    scores: NDArray[np.floating]  # (M, L)
    made_for: tuple[str, ...] = ()  # names of protocols; empty: all


@dataclass(frozen=True)
class Ranking:
    """The best videos of each paragraph, listed. A video that is not listed is never retrieved; one
    that is listed again takes up a rank."""

    videos: NDArray[np.integer]  # (P, L) index into video_ids; -1 where the list is shorter
    scores: NDArray[np.floating]  # (P, L)


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model. None: the model does not do this.

    Spans are fractions [0, 1] of a video. They should be exact on the model's grid (``on_grid``);
    float32 thirds are not.
    """

    similarity: NDArray[np.floating] | Ranking | None = None  # (P, V)
    spans: NDArray[np.float64] | None = None  # (M, n, 2) in the true video, best first; NaN = none
    scores: NDArray[np.floating] | None = None  # (M, n); -inf = none
    proposal_spans: NDArray[np.float64] | None = None  # (C, 2): the model's grid, for the ceiling
    candidates: CandidateMoments | Pairs | None = None
    answered: NDArray[np.bool_] | None = None  # (M,) False: the sentence was left out; None: none
    prior: NDArray[np.float64] | None = None  # (M, 1, 2) of a decoding that was given no evidence
    first_stage: NDArray[np.floating] | None = None  # (P, V) by the vectors that shortlist videos
    normalised: NDArray[np.floating] | None = None  # (P, V) similarity against that of a querybank
    notes: tuple[str, ...] = ()  # what reading them left out, a sentence each


def clips_of(grid: NDArray[np.floating]) -> int:
    """The least number of clips, up to 256, on whose borders all spans of a grid (P, 2), fractions
    of the video, begin and end. No span need be as short as one clip. If no such number exists, the
    number of clips as long as the shortest span."""
    borders, clips = np.unique(grid.round(6)), np.arange(1, 257)[:, None]
    fits = np.abs(np.round(borders * clips) / clips - borders).max(axis=1) < 2e-6
    if fits.any():
        return int(clips[fits.argmax(), 0])
    return int(round(1 / (grid[:, 1] - grid[:, 0]).min()))


def on_grid(spans: NDArray, num_clips: int) -> NDArray[np.float64]:
    """Spans moved to the nearest multiple of 1/num_clips, in float64."""
    return np.round(np.asarray(spans, np.float64) * num_clips) / num_clips


def per_sentence(truth: Truth) -> Truth:
    """The same corpus with every sentence a query of its own, as in TVR."""
    return replace(
        truth,
        paragraph_ids=truth.names,
        paragraph_video=truth.sentence_video,
        sentence_paragraph=np.arange(len(truth.sentences)),
        sentence_ids=truth.names,
    )


def merge_videos(
    names: Sequence[str], similarity: NDArray[np.floating]
) -> tuple[tuple[str, ...], NDArray[np.floating]]:
    """A corpus in which videos occur several times, with each video once.

    Duplicates raise recall: they are right answers twice. A video's similarity is the highest of
    its copies; the order is that of the first occurrence.
    """
    unique = tuple(dict.fromkeys(names))
    if len(unique) == len(names):
        return unique, similarity
    index_of = {name: index for index, name in enumerate(unique)}
    indices = np.array([index_of[name] for name in names])
    order, sizes = np.argsort(indices, kind="stable"), np.bincount(indices)
    first = np.cumsum(sizes) - sizes
    return unique, np.maximum.reduceat(similarity[:, order], first, axis=1)


def check(truth: Truth, predictions: Predictions) -> None:
    """Refuse predictions that do not fit the truth.

    Raises:
        InputError: a wrong shape; a similarity or a moment's score that is NaN or infinite.
    """
    P, V, M = len(truth.paragraph_ids), len(truth.video_ids), len(truth.sentences)
    similarity = predictions.similarity
    if isinstance(similarity, np.ndarray):
        _expect("similarity", similarity.shape, (P, V))
        bad = ~np.isfinite(similarity).all(axis=1)
        if bad.any():
            p = int(bad.argmax())
            v = int((~np.isfinite(similarity[p])).argmax())
            raise InputError(
                f"paragraph {truth.paragraph_ids[p]!r}: its similarity with video "
                f"{truth.video_ids[v]!r} is {similarity[p, v]}, expected a finite number"
            )
    elif similarity is not None:
        _expect("ranking", similarity.videos.shape[:1], (P,))
        _finite(truth, similarity.scores, similarity.videos >= 0, None)
        _known(truth, similarity.videos)
    for name in ("first_stage", "normalised"):
        scores = getattr(predictions, name)
        if scores is not None:
            _expect(name, scores.shape, (P, V))
            if not np.isfinite(scores).all():
                raise InputError(f"predictions: a score of {name} is not a finite number")
    if predictions.spans is not None:
        if predictions.scores is None:
            raise InputError("predictions: spans without scores, expected both")
        n = predictions.spans.shape[1]
        _expect("spans", predictions.spans.shape, (M, n, 2))
        _expect("scores", predictions.scores.shape, (M, n))
        exists = np.asarray(~np.isnan(predictions.spans).any(axis=-1))
        _finite(truth, predictions.scores, exists, truth.sentence_paragraph)
    if predictions.prior is not None:
        _expect("prior", predictions.prior.shape, (M, 1, 2))
    candidates = predictions.candidates
    if isinstance(candidates, CandidateMoments):
        K, n = candidates.scores.shape[1:]
        _expect("candidates.spans", candidates.spans.shape, (M, K, n, 2))
        _expect("candidates.videos", candidates.videos.shape, (M, K))
        _expect("candidates.video_scores", candidates.video_scores.shape, (M, K))
        real = candidates.videos >= 0
        _finite(truth, candidates.video_scores, real, truth.sentence_paragraph)
        scores = candidates.scores.reshape(M, -1)
        _finite(truth, scores, scores != -np.inf, truth.sentence_paragraph)
        listed = np.sort(candidates.videos, axis=1)
        twice = ((listed[:, 1:] == listed[:, :-1]) & (listed[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            where = _location(truth, int(twice.argmax()), truth.sentence_paragraph)
            raise InputError(f"{where}: a candidate video is listed twice")
        _known(truth, candidates.videos)
    elif candidates is not None:
        L = candidates.videos.shape[1]
        _expect("pairs.spans", candidates.spans.shape, (M, L, 2))
        _finite(truth, candidates.scores, candidates.videos >= 0, truth.sentence_paragraph)
        _known(truth, candidates.videos)


def _expect(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise InputError(f"predictions: {name} has shape {shape}, expected {expected}")


def _finite(truth: Truth, scores: NDArray, exists: NDArray, owner: NDArray | None) -> None:
    bad = (exists & ~np.isfinite(scores)).any(axis=1)
    if bad.any():
        where = _location(truth, int(bad.argmax()), owner)
        raise InputError(f"{where}: a score is not a finite number")


def _known(truth: Truth, videos: NDArray) -> None:
    if videos.size and videos.max() >= len(truth.video_ids):
        raise InputError(
            f"predictions: video {videos.max()} is none of the {len(truth.video_ids)} of the corpus"
        )


def _location(truth: Truth, row: int, owner: NDArray | None) -> str:
    paragraph = truth.paragraph_ids[row if owner is None else owner[row]]
    sentence = "" if owner is None else f", sentence {int(truth.position[0][row]) + 1}"
    return f"paragraph {paragraph!r}{sentence}"
