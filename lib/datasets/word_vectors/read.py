"""Reads word vectors, by what a file holds and not by its name."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Collection
from itertools import islice
from pathlib import Path

import torch

from ...base.errors import InputError
from ...base.files import open_input
from ..features.arrays import NPY, TORCH, ZIP, require_readable
from .arrays import read_numpy, read_torch
from .binary import read_binary
from .pickles import read_pickle
from .text import PACKED_DAMAGE, Table, is_binary, read_packed, read_text, require_width
from .vectors import WordVectors

_FASTTEXT = struct.pack("<i", 793712314)  # of its models, which hold parts of words
_PACKED = (b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh")
_START = 2**16


def read_word_vectors(
    path: Path,
    *,
    width: int = 0,
    words: Collection[str] | None = None,
    most: int | None = None,
) -> WordVectors:
    """Vectors of words as they are published: text of GloVe, word2vec or fastText, packed or not;
    word2vec's binary file; torchtext's cache; a matrix beside a list of words; ``glove.pkl``.

    Nothing in them is run. Words are lower-cased; where two become one, the lower-case spelling or
    else the first wins. A few lines that cannot be read are left out and noted.

    Args:
        width: of the vectors, and by which one of several in a ``.zip`` is chosen; 0 = any.
        words: in lower case, those that are wanted; None = all.
        most: of the file's first words that are wanted; None = all.

    Raises:
        InputError: missing file, unknown layout, another global in a pickle, uneven or non-finite
            vectors, many bad lines, or another width.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: the word vectors do not exist.")
    require_readable(path, "word vectors")
    try:
        with open_input(path, mode="rb") as file:
            start = file.read(_START)
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror or fault}).") from None
    if start.startswith(_FASTTEXT):
        raise InputError(
            f"{path}: is a model of fastText with parts of words, which is not read; expected the "
            ".vec file that is published beside it, or one written by: fasttext print-word-vectors "
            f"{path.name} < WORDS > {path.stem}.vec"
        )
    if is_binary(start):
        return read_binary(path, width, words, most)
    vectors = _lower_cased(path, _table(path, start, width), width)
    if words is None and most is None:
        return vectors
    first = list(islice(vectors.index, most))
    return vectors.restrict(first if words is None else set(first).intersection(words))


def _table(path: Path, start: bytes, width: int) -> Table:
    suffix = path.suffix.lower()
    if start.startswith(TORCH):
        return read_torch(path)
    if start.startswith(b"\x80") or suffix in {".pkl", ".pickle"}:
        return (*read_pickle(path), [])
    if start.startswith(NPY):
        return read_numpy(path)
    if start.startswith(ZIP):
        try:
            with open_input(path, mode="rb") as file, zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except PACKED_DAMAGE as fault:
            raise InputError(f"{path}: cannot be unpacked; is it complete? ({fault})") from None
        if any(name.split("/")[-1] == "data.pkl" for name in names):
            return read_torch(path)
        if names and all(name.endswith(".npy") for name in names):
            return read_numpy(path)
        return read_packed(path, width)
    return read_packed(path, width) if start.startswith(_PACKED) else read_text(path, width)


def _lower_cased(path: Path, table: Table, width: int) -> WordVectors:
    words, matrix, notes = table
    require_width(str(path), matrix.shape[1], width)
    if not bool(torch.isfinite(matrix).all()):
        row = int(torch.isfinite(matrix).all(dim=1).logical_not().nonzero()[0])
        raise InputError(f"{path}: the vector of {words[row]!r} is not finite.")
    first: dict[str, int] = {}
    for row, word in enumerate(words):
        if word == word.lower():
            first.setdefault(word, row)
    for row, word in enumerate(words):
        first.setdefault(word.lower(), row)
    rows = torch.tensor(list(first.values()), dtype=torch.int64)
    return WordVectors(list(first), matrix[rows], notes=notes)
