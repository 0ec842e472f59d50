"""Scores a model on a split; built once, used every epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Subset
from tqdm import tqdm

from ..base import distributed
from ..base.batch import Sample
from ..base.errors import InputError
from ..base.runtime import Runtime
from ..datasets import build_loader
from ..datasets.annotations import Paragraph
from ..datasets.corruption import Corruption, prepared_rows
from ..datasets.dense import DenseParagraphs, VideoFrames
from ..decoding import Decoding, Evidence
from ..decoding.calibration import (
    calibrate_starts,
    calibrate_trust,
    estimates_starts,
    measures_split,
    needs_shuffled,
)
from ..evaluation import summarise
from ..evaluation.examples import (
    ScoreMaps,
    choose_paragraphs,
    maps_of_cells,
    paragraph_quality,
    sentences_of,
)
from ..evaluation.querybank import choose_scale, normalised
from ..evaluation.records import Predictions, Truth
from ..evaluation.retrieval import pairing_skill, top_videos
from ..models.interface import Model
from .prediction import (
    Read,
    all_scores,
    evidence_in,
    first_stage,
    ground_in,
    of_all_processes,
    read_paragraphs,
    read_split,
    similarities,
    split_candidates,
    with_all_videos,
)

TIME_SHUFFLED = Corruption("time_shuffled")


@dataclass(frozen=True)
class Options:
    """How a split is read and counted; the ``TEST`` section of an experiment has the same."""

    batch_size: int = 32
    pairs: int = 128  # sentences grounded at once
    moments: int = 10  # kept per sentence
    nms_iou: float = 0.5
    nms_rounded: bool = False
    iou: Sequence[float] = (0.3, 0.5, 0.7)
    grounding_n: Sequence[int] = (1, 5)
    retrieval_k: Sequence[int] = (1, 5, 10, 100)


@dataclass(frozen=True)
class Querybank:
    """Training paragraphs against which retrieval is normalised, and how strongly; see
    ``evaluation.querybank``."""

    paragraphs: Subset[Sample]
    scale: float


class Scorer:
    """Scores a model on one split; built once, used every epoch.

    Several processes each encode a share of the split and predict for its paragraphs; all of them
    then get all predictions. A split with fewer videos than processes is scored by each process
    entirely.
    """

    def __init__(
        self,
        split: DenseParagraphs,
        runtime: Runtime,
        options: Options,
        decoding: Decoding,
        *,
        workers: int = 0,
        verbose: bool = False,
    ) -> None:
        self.options, self.decoding = options, decoding
        self.runtime, self.verbose = runtime, verbose
        self.split, self.truth = split, truth_of(split)
        self.loader: dict[str, Any] = {
            "batch_size": options.batch_size,
            "workers": workers,
            "pin_memory": runtime.pin_memory,
        }
        videos = len(split.videos)
        self.shared = distributed.world_size() > 1 and videos >= distributed.world_size()
        self.share = distributed.own_share(len(split)) if self.shared else range(len(split))
        self.video_share = distributed.own_share(videos) if self.shared else range(videos)
        self.paragraphs = build_loader(split.texts, rows=self.share, **self.loader)
        self.videos = build_loader(split.videos, rows=self.video_share, **self.loader)

    def predict(
        self,
        model: Model,
        *,
        calibration: Mapping[str, Any] | None = None,
        candidates: int = 0,
        querybank: Querybank | None = None,
    ) -> Predictions:
        """The model's predictions for the split.

        Args:
            calibration: what was chosen on validation; None chooses it on this split and keeps it
                in the attribute ``calibration``.
            candidates: ground each paragraph in so many of its best videos too (joint protocols).
            querybank: normalise retrieval by this too, of a model that retrieves.
        """
        read = self._read(model)
        similarity = self._of_all(similarities(model, read, self.runtime))
        shortlisting = self._of_all(first_stage(model, read, self.runtime))
        against_bank = None
        if querybank is not None and similarity is not None:
            bank = self._bank(model, read, querybank.paragraphs)
            against_bank = normalised(similarity, bank, querybank.scale)
        self.calibration = self._calibrate(model, read, similarity, calibration)
        videos, best, joint = self.truth.paragraph_video[:, None], None, None
        if similarity is not None and candidates:
            best = top_videos(similarity, candidates)
            videos = np.concatenate([videos, best.videos], axis=1)
        grounding = ground_in(
            model,
            read,
            videos[self.share],
            self.runtime,
            self.decoding,
            self.calibration,
            pairs=self.options.pairs,
            moments=self.options.moments,
            nms_iou=self.options.nms_iou,
            durations=self.truth.durations if self.options.nms_rounded else None,
            watch=lambda batches: self._watched(batches, "grounding"),
        )
        if self.shared and grounding is not None:
            grounding = of_all_processes(grounding)
        if grounding is not None and best is not None:
            counts = np.bincount(self.truth.sentence_paragraph)
            grounding, joint = split_candidates(grounding, best, counts)
        return Predictions(
            similarity=similarity,
            spans=None if grounding is None else grounding.spans,
            scores=None if grounding is None else grounding.scores,
            proposal_spans=None if grounding is None else grounding.grid,
            prior=None if grounding is None else grounding.prior,
            candidates=joint,
            first_stage=shortlisting,
            normalised=against_bank,
        )

    def querybank_scale(self, model: Model, paragraphs: Subset[Sample]) -> float:
        """The scale of a ``Querybank`` of these paragraphs, chosen on this split. For a model that
        retrieves."""
        read = self._read(model)
        similarity = self._of_all(similarities(model, read, self.runtime))
        assert similarity is not None
        bank = self._bank(model, read, paragraphs)
        return choose_scale(similarity, bank, self.truth.paragraph_video)

    def _read(self, model: Model) -> Read:
        """The split encoded: this process's paragraphs, and all videos."""
        model.eval()
        read = read_split(
            model,
            self._watched(self.paragraphs, "paragraphs"),
            self._watched(self.videos, "videos"),
            self.runtime,
            num_videos=len(self.video_share),
        )
        return with_all_videos(read) if self.shared else read

    def _of_all(self, scores: np.ndarray | None) -> np.ndarray | None:
        """Scores (P, V) of all processes' paragraphs."""
        if self.shared and scores is not None:
            return np.concatenate(distributed.gather_objects(scores))
        return scores

    def _bank(self, model: Model, read: Read, paragraphs: Subset[Sample]) -> np.ndarray:
        """(B, V) similarities of other paragraphs with the videos of this split."""
        count = len(paragraphs)
        shared = self.shared and count >= distributed.world_size()
        rows = distributed.own_share(count) if shared else range(count)
        batches = build_loader(paragraphs, rows=rows, **self.loader)
        texts = read_paragraphs(model, self._watched(batches, "querybank"), self.runtime)
        bank = similarities(model, dataclasses.replace(read, paragraphs=texts), self.runtime)
        assert bank is not None
        return np.concatenate(distributed.gather_objects(bank)) if shared else bank

    def _calibrate(
        self,
        model: Model,
        read: Read,
        similarity: np.ndarray | None,
        chosen: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """The calibration of the decoding; numbers chosen on validation stay as they are.

        The trust in the evidence is measured on the videos that are scored, which takes neither a
        timestamp nor another video's paragraph.
        """
        calibration = dict(chosen or {})
        shuffle = needs_shuffled(self.decoding)
        if not model.grounds() or not (measures_split(self.decoding) or chosen is None):
            return calibration
        own = self._own_evidence(model, read) if self._reads_evidence else []
        if shuffle:
            rows = prepared_rows(self.split.videos.rows, TIME_SHUFFLED, None)
            videos = VideoFrames(self.split.videos.video_ids, rows)
            loader = build_loader(videos, rows=self.video_share, **self.loader)
            shuffled_videos = read_split(
                model,
                [],
                self._watched(loader, "shuffled videos"),
                self.runtime,
                num_videos=len(self.video_share),
            )
            if self.shared:
                shuffled_videos = with_all_videos(shuffled_videos)
            shuffled_split = dataclasses.replace(shuffled_videos, paragraphs=read.paragraphs)
            shuffled = self._own_evidence(model, shuffled_split)
            calibration |= calibrate_trust(self.decoding, own=own, shuffled=shuffled)
        elif measures_split(self.decoding):
            calibration |= calibrate_trust(self.decoding, own=own)
        elif similarity is not None:
            skill = pairing_skill(similarity, self.truth.paragraph_video)
            calibration |= calibrate_trust(self.decoding, retrieval_skill=skill)
        if chosen is None:
            trust = calibration.get("trust", 1.0)
            calibration |= calibrate_starts(self.decoding, own, trust=trust)
        return calibration

    @property
    def _reads_evidence(self) -> bool:
        return measures_split(self.decoding) or estimates_starts(self.decoding)

    def _own_evidence(self, model: Model, read: Read) -> list[Evidence]:
        """The evidence of all paragraphs, in their true videos."""
        evidence = evidence_in(
            model,
            read,
            self.truth.paragraph_video[self.share],
            self.runtime,
            self.decoding,
            pairs=self.options.pairs,
        )
        if self.shared:
            evidence = [each for part in distributed.gather_objects(evidence) for each in part]
        return evidence

    def score_maps(
        self, model: Model, predictions: Predictions, named: Sequence[int] = ()
    ) -> ScoreMaps | None:
        """The maps of a few paragraphs, best, worst, drawn and named ones, for report and figures;
        None of a model without a list of spans that all sentences share."""
        if predictions.proposal_spans is None:
            return None
        chosen = choose_paragraphs(paragraph_quality(self.truth, predictions))
        paragraphs = sorted({*named, *(p for group in chosen.values() for p in group)})
        few = build_loader(Subset(self.split, paragraphs), **{**self.loader, "workers": 0})
        scores = np.concatenate(
            list(all_scores(model, few, self.runtime, self.decoding, self.calibration))
        )
        return ScoreMaps(
            sentences_of(self.truth, paragraphs), maps_of_cells(predictions.proposal_spans, scores)
        )

    def _watched(self, batches: Any, what: str) -> Iterator[Any]:
        """With a bar where somebody watches, from the first batch on: one at a time."""
        disable = None if self.verbose and distributed.is_main() else True
        yield from tqdm(batches, desc=f"scoring: {what}", leave=False, disable=disable)

    def summarise(self, predictions: Predictions, **more: Any) -> dict[str, Any]:
        """The summary of ``lib.evaluation`` with the experiment's thresholds and counts."""
        return summarise(self.truth, predictions, **self._columns, **more)

    @property
    def _columns(self) -> dict[str, Any]:
        options = self.options
        return {
            "iou": options.iou,
            "grounding_n": options.grounding_n,
            "retrieval_k": options.retrieval_k,
        }

    def require(self, name: str, model: Model) -> None:
        """Refuse a score that validation will not have, before an epoch is spent.

        Raises:
            InputError: with the names that it will have.
        """
        if not (self.truth.timed or model.retrieves()):
            raise InputError(
                "validation has no timestamps, and this model ranks no videos: no score can choose "
                "a checkpoint; expected timestamps of validation, or a model that retrieves"
            )
        moment = [0.0, 1.0] if self.truth.timed else [np.nan, np.nan]
        truth = Truth(
            video_ids=("video",),
            durations=np.ones(1),
            paragraph_ids=("paragraph",),
            paragraph_video=np.zeros(1, dtype=np.int64),
            sentence_paragraph=np.zeros(1, dtype=np.int64),
            moments=np.array([moment]),
            sentences=("sentence",),
            annotations=None if self.truth.annotations is None else np.array([[moment]]),
        )
        retrieves, grounds = model.retrieves(), model.grounds()
        answer = Predictions(
            similarity=np.ones((1, 1)) if retrieves else None,
            spans=np.array([[[0.0, 1.0]]]) if grounds else None,
            scores=np.ones((1, 1)) if grounds else None,
        )
        metric(summarise(truth, answer, **self._columns, resamples=0), name)


def metric(summary: dict[str, Any], name: str) -> float:
    """The value called ``protocol/metric`` in a summary.

    Raises:
        InputError: a name that the summary does not have, with those it has.
    """
    protocol, _, key = name.partition("/")
    values = summary["protocols"].get(protocol)
    if values is None or key not in values:
        known = [f"{p}/{m}" for p, row in summary["protocols"].items() for m in row]
        raise InputError(
            f"TRAIN.SELECT_BY: {name!r} is not among the scores of this model, "
            f"expected one of {', '.join(known)}"
        )
    return values[key]


def truth_of(split: DenseParagraphs) -> Truth:
    """The true moments, from the annotations (float64, every sentence, all its windows)."""
    paragraphs = split.paragraphs
    video_index = {video: index for index, video in enumerate(split.corpus)}
    duration = dict.fromkeys(split.corpus, 0.0)
    for paragraph in paragraphs:  # of one video, their durations may differ by a frame
        video = paragraph.video_id
        duration[video] = max(duration[video], paragraph.duration)
    return Truth(
        video_ids=split.corpus,
        durations=np.array([duration[video] for video in split.corpus], dtype=np.float64),
        paragraph_ids=tuple(paragraph.paragraph_id for paragraph in paragraphs),
        paragraph_video=np.array([video_index[paragraph.video_id] for paragraph in paragraphs]),
        sentence_paragraph=np.repeat(
            np.arange(len(paragraphs)), [len(paragraph.sentences) for paragraph in paragraphs]
        ),
        moments=np.concatenate([paragraph.moments for paragraph in paragraphs]),
        sentences=tuple(text for paragraph in paragraphs for text in paragraph.sentences),
        annotations=_windows_of(paragraphs),
    )


def _windows_of(paragraphs: Sequence[Paragraph]) -> np.ndarray | None:
    """(M, A, 2) all moments of every sentence in seconds, *the* moment first; None where no
    sentence has several."""
    if not any(paragraph.windows for paragraph in paragraphs):
        return None
    rows = []
    for paragraph in paragraphs:
        windows = paragraph.windows or (np.empty((0, 2)),) * len(paragraph.sentences)
        for moment, several in zip(paragraph.moments, windows, strict=True):
            again = (several == moment).all(axis=1).nonzero()[0][:1]
            rows.append(np.concatenate([moment[None], np.delete(several, again, axis=0)]))
    table = np.full((len(rows), max(map(len, rows)), 2), np.nan)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table


def calibration_lines(calibration: Mapping[str, Any]) -> list[str]:
    """The calibration as lines of text."""
    lines = [
        f"{name} {calibration[name]:.3f}"
        for name in ("trust", "contiguity", "backward")
        if name in calibration
    ]
    if "starts" in calibration:
        lines.append(f"{100 * calibration['starts'][0]:.0f} % of the moments start with the video")
    return lines
