"""Words and their vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor


class WordVectors:
    """Vectors of words that were trained elsewhere, with one vector for all words not among them.

    Args:
        words: lower case, without repeats.
        matrix: one row per word.
        unknown: the vector of any other word; None = the mean of all rows.
        size: words of the file that they come from; None = these.
        notes: what a reader of the numbers should know of that file, one sentence each.
    """

    def __init__(
        self,
        words: Sequence[str],
        matrix: Float[Tensor, "n E"],
        unknown: Float[Tensor, " E"] | None = None,
        *,
        size: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.size, self.notes = len(words) if size is None else size, tuple(notes)
        self.index = {word: row for row, word in enumerate(words)}
        mean = matrix.mean(dim=0) if unknown is None else unknown
        self.matrix = torch.cat([matrix, mean[None]]).to(torch.float32)  # last row: unknown

    @classmethod
    def none(cls) -> WordVectors:
        """Of no word, where sentences bring features of their own."""
        return cls([], torch.zeros(0, 1), torch.zeros(1))

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def rows(self, words: Sequence[str]) -> Int[Tensor, " W"]:
        """Where in ``matrix`` the vector of each word is."""
        rows = map(self.index.get, words, repeat(len(self.index)))
        return torch.tensor(list(rows), dtype=torch.int64)

    def lookup(self, words: Sequence[str]) -> Float[Tensor, "W E"]:
        return self.matrix[self.rows(words)]

    def restrict(
        self, words: Iterable[str], unknown: Float[Tensor, " E"] | None = None
    ) -> WordVectors:
        """Only these words' vectors, and the same unknown one unless another is given."""
        kept = sorted({word for word in words if word in self.index})
        other = self.matrix[-1] if unknown is None else unknown
        return WordVectors(kept, self.lookup(kept), other, size=self.size, notes=self.notes)


def coverage(words: Counter[str], vectors: WordVectors) -> tuple[float, str]:
    """The share of the words, counted as often as they occur, that have a vector; and the most
    frequent that have none, as the rest of a sentence."""
    lacking = Counter({word: count for word, count in words.items() if word not in vectors})
    most = ", ".join(word for word, _ in lacking.most_common(5))
    tail = f"; the most frequent without: {most}" if lacking else ""
    return 1 - lacking.total() / max(words.total(), 1), tail
