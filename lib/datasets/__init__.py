"""A corpus on disk -> datasets, sizes, and what was done on the way."""

from __future__ import annotations

from .corpus import LoadedCorpus, corpus_folder, find_vectors, load_corpus
from .dense import DenseParagraphs, EpochBatches, VideoFrames, build_loader, epoch_order

__all__ = [
    "DenseParagraphs",
    "EpochBatches",
    "LoadedCorpus",
    "VideoFrames",
    "build_loader",
    "corpus_folder",
    "find_vectors",
    "epoch_order",
    "load_corpus",
]
