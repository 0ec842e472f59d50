"""Which paragraphs a reader should look at, what went wrong in all of them, their score maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..base.errors import InputError
from ..base.files import replace_file
from .records import CandidateMoments, Predictions, Ranking, Truth, clips_of
from .retrieval import rank_videos, top_videos
from .spans import overlap, passes

Span = tuple[float, float]


def paragraph_quality(truth: Truth, predictions: Predictions) -> NDArray[np.float64]:
    """(P,) how well a paragraph went: its reciprocal rank times its sentences' mean overlap.

    A model that does only one of the two is judged by that one.
    """
    quality = np.ones(len(truth.paragraph_ids))
    if predictions.similarity is not None:
        quality *= rank_videos(predictions.similarity, truth.paragraph_video).reciprocal()
    if predictions.spans is not None and truth.timed:
        best = overlap(predictions.spans[:, :1], truth.fractions[:, None]).max(axis=1, initial=0)
        size = np.bincount(truth.sentence_paragraph, minlength=len(quality))
        total = np.bincount(truth.sentence_paragraph, best, minlength=len(quality))
        quality *= total / np.maximum(size, 1)
    return quality


def choose_paragraphs(
    quality: NDArray[np.float64], *, count: int = 3, seed: int = 0
) -> dict[str, list[int]]:
    """Paragraphs to show: "best", "worst" and "random" (from a seed), none of them twice.

    The random ones are the first of one order of all paragraphs, without the best and the worst:
    any two runs over the same paragraphs have ``count`` or more of all these in common, so that
    their score maps can be laid side by side.
    """
    order = np.argsort(-quality, kind="stable").tolist()
    best = order[:count]
    worst = [p for p in reversed(order) if p not in best][:count]
    mixed = np.random.default_rng(seed).permutation(len(order)).tolist()
    drawn = [p for p in mixed if p not in best and p not in worst][:count]
    return {"best": best, "worst": worst, "random": drawn}


def paragraphs_named(truth: Truth, names: Sequence[str]) -> list[int]:
    """Indices of paragraphs by their ids.

    Raises:
        InputError: the truth has no such paragraph.
    """
    index_of = {name: p for p, name in enumerate(truth.paragraph_ids)}
    unknown = [name for name in names if name not in index_of]
    if unknown:
        raise InputError(
            f"the split has no paragraph {unknown[0][:80]!r}; its ids are such as "
            f"{truth.paragraph_ids[0]!r}"
        )
    return [index_of[name] for name in names]


def ranked_videos(predictions: Predictions, paragraph: int, count: int) -> list[tuple[int, float]]:
    """The best ``count`` videos of a paragraph and their scores, best first; empty without a
    ranking."""
    similarity = predictions.similarity
    if similarity is None:
        return []
    if isinstance(similarity, Ranking):
        videos, scores = similarity.videos[paragraph], similarity.scores[paragraph]
        best = np.argsort(-np.where(videos >= 0, scores, -np.inf), kind="stable")[:count]
        videos, scores = videos[best], scores[best]
    else:
        top = top_videos(similarity[paragraph : paragraph + 1], count)
        videos, scores = top.videos[0], top.scores[0]
    pairs = zip(videos.tolist(), scores.tolist(), strict=True)
    return [(v, score) for v, score in pairs if v >= 0]


def moments_in(truth: Truth, predictions: Predictions, sentence: int, video: int) -> list[Span]:
    """The predicted moments of a sentence in one video, fractions of it, best first.

    In its own video they are those that grounding is scored by; in another one, the candidates'.
    """
    candidates = predictions.candidates
    own = truth.paragraph_video[truth.sentence_paragraph[sentence]] == video
    if own and predictions.spans is not None and predictions.scores is not None:
        spans, scores = predictions.spans[sentence], predictions.scores[sentence]
    elif candidates is None:
        return []
    else:
        inside = candidates.videos[sentence] == video
        spans, scores = candidates.spans[sentence][inside], candidates.scores[sentence][inside]
        if isinstance(candidates, CandidateMoments):  # a list of moments in each video
            spans, scores = spans.reshape(-1, 2), scores.reshape(-1)
    order = np.argsort(-scores, kind="stable")
    spans, scores = spans[order], scores[order]
    real = ~np.isnan(spans).any(axis=-1) & (scores != -np.inf)
    return [(float(start), float(end)) for start, end in spans[real]]


def sentences_of(truth: Truth, paragraphs: Sequence[int]) -> NDArray[np.int64]:
    """Indices of the sentences of some paragraphs."""
    return np.flatnonzero(np.isin(truth.sentence_paragraph, list(paragraphs)))


def error_breakdown(
    truth: Truth, predictions: Predictions, *, iou: float = 0.5
) -> dict[str, float]:
    """Where sentences fail, in per cent that add up to 100; empty unless the model does both.

    The first-ranked video and the best-ranked moment in the right video count; an overlap must
    exceed ``iou``. Where several videos tie for rank 1, each counts with its probability.
    """
    if predictions.similarity is None or predictions.spans is None or not truth.timed:
        return {}
    ranks = rank_videos(predictions.similarity, truth.paragraph_video)
    first = ranks.within(1)[truth.sentence_paragraph]
    overlaps = overlap(predictions.spans[:, :1], truth.fractions[:, None]).max(axis=1, initial=0)
    right = passes(overlaps, iou, strict=True)
    shares = {
        "right video, right moment": first * right,
        "right video, wrong moment": first * ~right,
        "wrong video, moment right in the right one": (1 - first) * right,
        "wrong video, moment wrong as well": (1 - first) * ~right,
    }
    return {name: 100.0 * float(share.mean()) for name, share in shares.items()}


@dataclass(frozen=True)
class ScoreMaps:
    """Scores of every cell for some sentences. Cell (i, j) covers the clips i..j, both included."""

    sentences: NDArray[np.int64]  # (m,) which sentences of the truth
    maps: NDArray[np.float32]  # (m, N, N) start x end; NaN where there is no proposal

    def of(self, sentence: int) -> NDArray[np.float32] | None:
        """The map of one sentence."""
        rows = np.flatnonzero(self.sentences == sentence)
        return self.maps[rows[0]] if len(rows) else None

    def paragraphs(self, truth: Truth) -> list[int]:
        """The paragraphs that have a map."""
        return np.unique(truth.sentence_paragraph[self.sentences]).tolist()


def maps_of_cells(cells: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scores (m, C) of a model's cells (C, 2), fractions of a video, as maps (m, N, N); of spans
    that fall into one cell, the best score."""
    N = clips_of(cells)
    maps = np.full((N * N, len(scores)), np.nan, np.float32)
    start, end = np.round(cells * N).astype(int).T
    start = start.clip(max=N - 1)
    np.fmax.at(maps, start * N + np.maximum(end - 1, start), scores.T.astype(np.float32))
    return maps.T.reshape(-1, N, N)


def save_maps(path: str | Path, maps: ScoreMaps) -> None:
    """Write an ``.npz`` with ``sentences`` and ``maps`` as in ``ScoreMaps``."""
    replace_file(Path(path), partial(fill_maps, maps))


def fill_maps(maps: ScoreMaps, file: BinaryIO) -> None:
    """What ``save_maps`` writes."""
    np.savez_compressed(file, sentences=maps.sentences, maps=maps.maps)


def load_maps(path: str | Path, truth: Truth) -> ScoreMaps:
    """Read a file of ``save_maps``.

    Raises:
        InputError: not such a file, or sentences that the truth does not have.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            loaded = ScoreMaps(file["sentences"], file["maps"])
    except Exception as error:  # whatever a damaged archive makes zipfile and NumPy raise
        reason = (str(error) or type(error).__name__).split("\n")[0][:120]
        raise InputError(f"{path}: cannot be read as score maps ({reason})") from None
    M, maps, sentences = len(truth.sentences), loaded.maps, loaded.sentences
    shaped = getattr(maps, "ndim", 0) == 3 and maps.shape[1] == maps.shape[2] > 0
    if (
        not shaped
        or maps.dtype.kind != "f"
        or getattr(sentences, "dtype", np.dtype("U")).kind != "i"
    ):
        raise InputError(f"{path}: holds no score maps; expected a square for each sentence")
    if np.isnan(maps).all(axis=(1, 2)).any():
        raise InputError(f"{path}: has a map without a score")
    if maps.shape[:1] != sentences.shape or (sentences >= M).any() or (sentences < 0).any():
        raise InputError(f"{path}: maps of sentences that the truth, of {M} sentences, lacks")
    return loaded


def best_cell(scores: NDArray[np.floating]) -> tuple[int, int]:
    """(start, end) clip of the highest score of a map."""
    start, end = np.unravel_index(int(np.nanargmax(scores)), scores.shape)
    return int(start), int(end)


def overlap_map(scores: NDArray[np.floating], moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, N) the map of the truth: the overlap of every proposal of a map with a moment, in
    fractions; NaN where there is no proposal."""
    N = len(scores)
    start, end = np.indices(scores.shape)
    overlaps = overlap(np.stack([start, end + 1], axis=-1) / N, moment)
    return np.where(np.isnan(scores), np.nan, overlaps)


def true_cell(scores: NDArray[np.floating], moment: NDArray[np.float64]) -> tuple[int, int]:
    """(start, end) clip of the proposal that overlaps a moment, in fractions, most."""
    return best_cell(overlap_map(scores, moment))
