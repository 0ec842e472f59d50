"""A trained run in memory: it reads sentences and videos, and says how they fit."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..base.batch import Sample, collate
from ..base.errors import InputError
from ..base.recipe import Recipe
from ..base.runtime import Runtime
from ..datasets.features import as_read
from ..datasets.packed_words import FILE as WORDS
from ..datasets.packed_words import PackedWords
from ..datasets.standardization import Standardization
from ..datasets.vocabulary import FUNCTION_WORDS, Vocabulary, WordVectors
from ..decoding import Decoding, Evidence, decode
from ..models.interface import Encoded, Model
from ..training.build import model_of_file
from ..training.inference_state import config_of, dims_of
from ..training.prediction import best_moments, evidence_of
from .answers import Moment
from .sentences import sentences_of

NMS_IOU = 0.5


@dataclass(frozen=True)
class Query:
    """A paragraph as the model has read it.

    Attributes:
        encoded: what ``encode_paragraphs`` returned, of one paragraph.
        unknown_words: those with neither a vector nor an id, without function words.
    """

    sentences: tuple[str, ...]
    encoded: Encoded
    unknown_words: tuple[str, ...]


def words_beside(path: Path) -> Path | None:
    """The packed word vectors in the folder of a checkpoint or an export, if they are there."""
    words = (path if path.is_dir() else path.parent) / WORDS
    return words if words.exists() else None


class LoadedRun:
    """What a run needs to answer, loaded.

    Args:
        state: of a checkpoint.
        path: where it came from; the packed word vectors lie in the same folder.
        device: as ``--gpus``: empty for the first GPU, if there is one; ``cpu``; or a number.

    Attributes:
        config: the resolved options of the training.
        similarity_scale: see ``lib.evaluation.retrieval.similarity_scale``.
        recipe: how the features that it was trained on were made; None if that is not known.
        fingerprint: a digest of weights, vocabulary and decoding, by which an index knows its run.

    Raises:
        InputError: the run cannot answer free text.
    """

    def __init__(self, state: Mapping[str, Any], path: Path, *, device: str = "") -> None:
        self.state, self.path = state, Path(path)
        carried = state.get("inference")
        if not isinstance(carried, Mapping):
            raise InputError(
                f"{path} holds no vocabulary, so it cannot read a sentence: it is a last.pt, or an "
                "earlier release wrote it; expected the best.pt of a run trained with this release"
            )
        self.config = config_of(state)
        data = self.config.DATASET
        if data.WORD_FEATURES:
            raise InputError(
                f"{path} reads sentences as features that another program made of them "
                f"({data.WORD_FEATURES}), so it cannot read new ones; expected a run with "
                "DATASET.WORD_FEATURES empty"
            )
        self.runtime = Runtime.start(device, log=lambda line: None)
        self.vocabulary = Vocabulary.from_state(carried["vocabulary"])
        self.durations: Mapping[str, float] = carried["durations"]
        self.similarity_scale: float = carried["similarity_scale"]
        recipe = state["features"].get("recipe")
        self.recipe = Recipe.from_json(recipe, str(path)) if recipe else None
        self.decoding = Decoding(**state["decoding"])
        self.calibration: Mapping[str, Any] = state.get("calibration") or {}
        self.standardization = Standardization.of_checkpoint(state, wanted=data.STANDARDIZE)
        dims = dims_of(state, self.vocabulary)
        self.video_dim = dims.video_dim
        model = model_of_file(self.path, state, self.config, dims, self.decoding)
        self.model: Model = model.to(self.runtime.device).eval()
        words = words_beside(self.path)
        self.words = PackedWords(words) if words else None
        if self.words is not None:
            self.words.require(self.vocabulary.vectors.dim, carried.get("word_vectors", {}))

    @property
    def name(self) -> str:
        """The folder's name and those above it up to ``save``, as runs are called."""
        folder = self.path if self.path.is_dir() else self.path.parent
        parts = folder.resolve().parts
        below = parts[parts.index("save") + 1 :] if "save" in parts else parts[-1:]
        return "/".join(below)

    @property
    def about(self) -> dict[str, Any]:
        """Name, model, epoch and what it was trained on."""
        return {
            "run": self.name,
            "model": self.config.MODEL.NAME,
            "epoch": self.state["epoch"] + 1,
            "corpus": self.config.DATASET.NAME.rpartition("/")[2],  # of one from a file, its name
            "supervision": self.config.TRAIN.SUPERVISION,
            "feature_width": self.video_dim,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(sorted(self.state["decoding"].items())).encode())
        digest.update(repr(sorted(self.calibration.items())).encode())
        for name, value in sorted(self.state["model"].items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        digest.update(self.vocabulary.vectors.matrix.numpy().tobytes())
        return digest.hexdigest()

    # Sentences.

    @torch.no_grad()
    def read(self, paragraph: str | Sequence[str]) -> Query:
        """Encode a paragraph, or its sentences.

        Raises:
            InputError: it has no words, or more than is read.
        """
        sentences = sentences_of(paragraph)
        vectors, unknown = self._vectors_of(sentences)
        text = self.vocabulary.encode(sentences, vectors)
        S = len(sentences)
        sample = Sample(
            video=torch.empty(0, self.video_dim),
            words=vectors.matrix[text.rows],
            word_ids=text.ids,
            word_weights=text.weights,
            word_counts=text.counts,
            moments=torch.full((S, 2), torch.nan),
            duration=1.0,
            video_index=0,
            video_id="",
            paragraph_id="",
            sentences=sentences,
        )
        encoded = self.model.encode_paragraphs(collate([sample]).to(self.runtime.device))
        return Query(sentences, encoded, unknown)

    def _vectors_of(self, sentences: Sequence[str]) -> tuple[WordVectors, tuple[str, ...]]:
        """The vectors of all words of some sentences, and the words that have none."""
        known = self.vocabulary.vectors
        words = {word: None for text in sentences for word in self.vocabulary.tokenise(text)}
        own = known.restrict(words)
        other = [word for word in words if word not in known]
        found, rows = self.words.lookup(other) if self.words and other else ([], None)
        if rows is not None and found:
            matrix = torch.cat([own.matrix[:-1], rows])
            own = WordVectors([*own.index, *found], matrix, own.matrix[-1])
        ids, key = self.vocabulary.ids, self.vocabulary.key
        unknown = [word for word in words if word not in own and key(word) not in ids]
        return own, tuple(word for word in unknown if word not in FUNCTION_WORDS)

    # Videos.

    def prepared(self, rows: Float[np.ndarray, "n C"]) -> Float[Tensor, "T C"]:
        """A video's raw rows as the model reads them.

        Raises:
            InputError: rows of another width, none, or numbers that are not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.video_dim or not len(rows):
            raise InputError(
                f"features have the shape {tuple(rows.shape)}; expected rows {self.video_dim} wide "
                f"as {self.name} was trained on"
            )
        if not np.isfinite(rows).all():
            raise InputError("features hold NaN or infinity; expected finite numbers")
        data = self.config.DATASET
        rows = as_read(
            rows.astype(np.float32, copy=False),
            data.NUM_FRAMES,
            normalize=data.NORMALIZE,
            dtype=data.CACHE_DTYPE,
            parts=self.state["features"].get("parts", ()),
        )
        tensor = torch.from_numpy(rows.astype(np.float32, copy=False))
        return tensor if self.standardization is None else self.standardization(tensor)

    @torch.no_grad()
    def encode_videos(self, videos: Sequence[Float[np.ndarray, "_ C"]]) -> Encoded:
        """What the model keeps of each video (or window of one), from its raw rows."""
        rows = torch.stack([self.prepared(video) for video in videos])
        return self.model.encode_videos(rows.to(self.runtime.device))

    # Answers.

    @torch.no_grad()
    def similarity(self, query: Query, videos: Encoded) -> Float[np.ndarray, " G"]:
        """How well each encoded video fits the paragraph."""
        return self.model.similarity(query.encoded, videos)[0].float().cpu().numpy()

    @torch.no_grad()
    def fit(self, query: Query, windows: Encoded) -> Float[Tensor, " W"] | None:
        """The log-odds, up to a constant and for each sentence, that the paragraph is about what a
        window shows; None if the model does not tell."""
        if not self.model.retrieves():
            return None
        return self.similarity_scale * torch.from_numpy(self.similarity(query, windows))

    @torch.no_grad()
    def evidence(self, query: Query, videos: Encoded) -> Evidence:
        """The model's evidence for every sentence in each of G encoded videos, (G · S, …)."""
        count = len(next(iter(videos.values())))
        paragraphs = {
            name: value.expand(count, *value.shape[1:]) for name, value in query.encoded.items()
        }
        return evidence_of(self.model, paragraphs, videos, self.decoding)

    @torch.no_grad()
    def ground_in(
        self, query: Query, videos: Encoded, durations: Sequence[float]
    ) -> list[tuple[Moment, ...]]:
        """The best moment of each sentence in each of G encoded videos.

        Raises:
            InputError: the model does not ground.
        """
        self.require_grounding()
        proposals = decode(self.evidence(query, videos), self.decoding, self.calibration)
        spans, scores = best_moments(proposals, moments=1, nms_iou=NMS_IOU)
        S = len(query.sentences)
        spans, scores = spans.reshape(-1, S, 2), scores.reshape(-1, S)
        return [
            tuple(
                Moment(sentence, float(start) * duration, float(end) * duration, float(score))
                for sentence, (start, end), score in zip(query.sentences, span, row, strict=True)
            )
            for span, row, duration in zip(spans, scores, durations, strict=True)
        ]

    def require_grounding(self) -> None:
        """Raises InputError unless the model finds moments."""
        if not self.model.grounds():
            raise InputError(f"{self.config.MODEL.NAME} ranks videos and finds no moments in them")
