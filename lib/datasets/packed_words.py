"""The vectors of all words of a vector file, packed so that a trained run can take them along.

A run that answers meets words that its corpus does not have. Reading GloVe's text for each start
would take half a minute and the file may not be there any more, so training packs it once: words
and half-precision vectors in one file that is mapped into memory, shared by all runs through hard
links. A vector rounded to float16 keeps three digits; the words of training and validation are
kept in the checkpoint in full precision.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..base.archive import Unusable, read_archive
from ..base.errors import InputError
from ..base.files import add_sample, replace_file
from ..base.schema import Wrong, record, shown, text, whole
from .vocabulary import read_word_vectors

FILE = "word_vectors.pt"  # in the folder of a run
FORMAT, VERSION = "dmr-jrg word vectors", 1
MOST_WORDS = 1_000_000  # vector files list frequent words first
_LARGEST = 65504.0  # of float16
_TEXT = ("utf-8", "surrogatepass")


def fingerprint_of(path: Path) -> dict[str, Any]:
    """By which a vector file is known again: name, size, and a digest of a sample of its bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        add_sample(digest, file, size)
    return {"file": path.name, "bytes": size, "sha256": digest.hexdigest()}


def pack_words(source: Path, folder: Path) -> Path:
    """The packed vectors of a vector file in ``folder``, written where they are not there yet.

    Raises:
        InputError: the folder cannot be written.
    """
    about = fingerprint_of(source)
    path = folder / f"words-{about['sha256'][:16]}.pt"
    if path.is_file():
        return path
    vectors = read_word_vectors(source)
    words = [word for word in list(vectors.index)[:MOST_WORDS] if "\n" not in word]
    matrix = vectors.lookup(words)
    fits = bool(matrix.abs().amax() <= _LARGEST)
    text = np.frombuffer("\n".join(words).encode(*_TEXT), np.uint8)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "source": about,
        "words": torch.from_numpy(text.copy()),
        "matrix": matrix.half() if fits else matrix,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"{folder} cannot be made ({fault.strerror})") from None
    return replace_file(path, lambda file: torch.save(content, cast(Any, file)))


def link_words(packed: Path, folder: Path) -> Path:
    """Put packed vectors into a run's folder: by a hard link, or a copy across file systems."""
    path = folder / FILE
    path.unlink(missing_ok=True)
    try:
        os.link(packed, path)
    except OSError:
        with packed.open("rb") as source:
            replace_file(path, lambda file: shutil.copyfileobj(source, file))
    return path


class PackedWords:
    """Vectors of words by name, from a packed file; read when first asked for.

    Raises:
        InputError: the file is not there, damaged, or no file of packed vectors.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            content = read_archive(self.path, mmap=True)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise Unusable(f'holds no packed word vectors (no "format": "{FORMAT}")')
            if content.get("version") != VERSION:
                found = shown(content.get("version"))
                raise Unusable(f"is of another release (version {found}, expected {VERSION})")
            _check_content(content)
        except Unusable as fault:
            raise InputError(f"{self.path} {fault}; copy it with the run, or remove it") from None
        self.source: dict[str, Any] = content["source"]
        self.matrix: Tensor = content["matrix"]
        self._text: Tensor = content["words"]

    def require(self, dim: int, source: Mapping[str, Any]) -> None:
        """Refuse vectors that are not of a run.

        Args:
            dim: of the run's vectors.
            source: by what the run knows its vector file, see ``fingerprint_of``.

        Raises:
            InputError: vectors of another length, or of another file.
        """
        if self.matrix.shape[1] != dim or self.source["sha256"] != source.get("sha256"):
            raise InputError(
                f"{self.path} holds vectors of {self.source['file'][:80]}, {self.matrix.shape[1]} "
                f"long; the run has read {str(source.get('file'))[:80]}, {dim} long: put its file "
                "there, or remove this one"
            )

    @functools.cached_property
    def index(self) -> dict[str, int]:
        try:
            words = self._text.numpy().tobytes().decode(*_TEXT).split("\n")
        except UnicodeDecodeError:
            words = []
        index = {word: row for row, word in enumerate(words)}
        if len(index) != len(self.matrix) or len(words) != len(index):
            raise InputError(
                f"{self.path} is damaged ({len(self.matrix):,} vectors of {len(index):,} words)"
            )
        return index

    def lookup(self, words: Iterable[str]) -> tuple[list[str], Tensor]:
        """Those of the words that are there, and their vectors as float32.

        Raises:
            InputError: the words are damaged, or a vector is not finite.
        """
        found = [word for word in dict.fromkeys(words) if word in self.index]
        rows = torch.tensor([self.index[word] for word in found], dtype=torch.int64)
        vectors = self.matrix[rows].float()
        if not bool(torch.isfinite(vectors).all()):
            raise InputError(f"{self.path} is damaged (a vector is not finite)")
        return found, vectors


def _check_content(content: Mapping[str, Any]) -> None:
    """Raises Unusable unless everything is there and of its kind."""
    source, matrix, words = (content.get(name) for name in ("source", "matrix", "words"))
    parts = {"file": text, "bytes": whole(), "sha256": text}
    try:
        record(parts, needed=tuple(parts))(source, "source")
    except Wrong as fault:
        raise Unusable(f"is damaged ({fault})") from None
    fits = isinstance(matrix, Tensor) and matrix.dtype in (torch.float16, torch.float32)
    if not fits or matrix.dim() != 2 or 0 in matrix.shape:  # type: ignore[union-attr]
        raise Unusable("is damaged (its vectors are no matrix of floats)")
    if not isinstance(words, Tensor) or words.dim() != 1 or words.dtype != torch.uint8:
        raise Unusable("is damaged (its words are no text)")
