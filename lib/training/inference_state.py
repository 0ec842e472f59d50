"""What a checkpoint carries beside weights, so that the run answers without its corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lib.base.batch import DataDims
from lib.datasets import LoadedCorpus
from lib.datasets.packed_words import fingerprint_of
from lib.datasets.vocabulary import Vocabulary

MOST = 0.95  # of the training videos are not longer than ``durations["most"]``


def inference_state(config: Mapping[str, Any], corpus: LoadedCorpus) -> dict[str, Any]:
    """The resolved options, the vocabulary with the vectors of the words of training and
    validation, by which file the vectors of all other words are known, and how long the training
    videos are.

    The other words' vectors lie beside the checkpoints in one file (``packed_words``), because
    there are hundreds of thousands of them and every checkpoint would repeat them.
    """
    return {
        "config": json.loads(json.dumps(config)),
        "order": corpus.order,
        "vocabulary": corpus.vocabulary.state(),
        "word_vectors": fingerprint_of(corpus.vector_file),
        "durations": {
            "videos": len(corpus.durations),
            "median": float(np.median(corpus.durations)),
            "most": float(np.quantile(corpus.durations, MOST)),
            "longest": max(corpus.durations),
        },
    }


def dims_of(state: Mapping[str, Any], vocabulary: Vocabulary) -> DataDims:
    """The sizes that the model was built with, from a checkpoint with an inference state."""
    sizes = state["experiment"]["dims"]
    contextual = bool(state["inference"]["config"]["DATASET"]["WORD_FEATURES"])
    return DataDims(
        **sizes,
        word_vectors=None if contextual else vocabulary.word_vectors(),
        word_idf=vocabulary.inverse_document_frequency(),
    )
