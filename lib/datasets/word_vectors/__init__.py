"""Vectors of words that were trained elsewhere."""

from .pickles import ranked_words
from .read import read_word_vectors
from .vectors import WordVectors, coverage

__all__ = ["WordVectors", "coverage", "ranked_words", "read_word_vectors"]
