"""What a checkpoint carries beside weights, so that the run answers without its corpus."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

import numpy as np
from easydict import EasyDict

from ..base.batch import DataDims
from ..config.options import SCHEMA, Option
from ..datasets import LoadedCorpus
from ..datasets.packed_words import fingerprint_of
from ..datasets.vocabulary import Vocabulary

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
        "word_vectors": fingerprint_of(corpus.vector_file) if corpus.vector_file else {},
        "durations": {
            "videos": len(corpus.durations),
            "median": float(np.median(corpus.durations)),
            "most": float(np.quantile(corpus.durations, MOST)),
            "longest": max(corpus.durations),
        },
    }


def config_of(state: Mapping[str, Any]) -> EasyDict:
    """The resolved options in a checkpoint with an inference state; an option that is newer than
    the checkpoint has its default."""
    config = copy.deepcopy(state["inference"]["config"])
    for name, section in SCHEMA.items():
        if isinstance(section, Option):
            config.setdefault(name, section.default)
            continue
        own = config.setdefault(name, {})
        for key, option in section.items():
            if option.default is not MISSING:
                own.setdefault(key, copy.deepcopy(option.default))
    return EasyDict(config)


def dims_of(state: Mapping[str, Any], vocabulary: Vocabulary) -> DataDims:
    """The sizes that the model was built with, from a checkpoint with an inference state."""
    sizes = state["experiment"]["dims"]
    contextual = bool(state["inference"]["config"]["DATASET"]["WORD_FEATURES"])
    return DataDims(
        **sizes,
        word_vectors=None if contextual else vocabulary.word_vectors(),
        word_idf=vocabulary.inverse_document_frequency(),
    )
