"""Contextual features of a sentence's words, from a file made with a pretrained text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.errors import InputError
from .features import FeatureFile, SentenceNames


class WordFeatures:
    """Rows of every sentence's tokens, one (rows, E) array per sentence id, in any layout that
    features of videos may have. Of a file with several arrays ``last_hidden_state`` is read.

    The first row is the start token's. A tokeniser of another kind made the others, so they are
    given to our words in order: row k + 1 to word k. What is left (the full stop, the end token,
    pieces of words) is not read, and where there are too few rows the last words share the last.

    Source: the RoBERTa features that MS-SL, GMMFormer and DCIML read, DCIML with this pairing; the
    files ``qid{qid}.npz`` of moment_detr.
    """

    def __init__(self, path: Path, *, linked: bool = False) -> None:
        self.file = FeatureFile(path, linked=linked, names=SentenceNames)

    def width(self, sentence_id: str) -> int:
        """E, as this sentence has it."""
        return self.file.width(sentence_id)

    def require(self, sentence_ids: Sequence[str]) -> None:
        """Raises InputError unless the file has all of these sentences."""
        missing = self.file.missing(sentence_ids)
        if missing:
            raise InputError(
                f"{self.file.path}: lacks {len(missing):,} of the {len(sentence_ids):,} sentences, "
                f"e.g. {', '.join(missing[:3])}; expected one array for each sentence id."
            )

    def read(self, sentence_ids: Iterable[str], counts: Int[Tensor, " S"]) -> Float[Tensor, "L E"]:
        """The rows of the words of sentences with ``counts`` words, one after the other.

        Raises:
            InputError: a sentence that is missing, damaged, or has no row but the start token's.
        """
        found = []
        for sentence_id, count in zip(sentence_ids, counts.tolist(), strict=True):
            rows = self.file.read(sentence_id)
            if len(rows) < 2:
                raise InputError(
                    f"{self.file.path}: {sentence_id} has {len(rows)} row; expected that of the "
                    f"start token and at least one more."
                )
            found.append(rows[np.minimum(np.arange(count) + 1, len(rows) - 1)])
        return torch.from_numpy(np.concatenate(found))
