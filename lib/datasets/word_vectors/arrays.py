"""Word vectors of torchtext's cache, and matrices of NumPy beside a list of their words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...base.archive import Unusable, load_tensors
from ...base.errors import InputError
from ...base.files import open_input
from ..features.arrays import npy_entry, npy_values, npz_entries, npz_values
from ..features.store import DAMAGE, Entry
from .text import Table

_LISTS = ("{}.txt", "{}.words.txt", "{}.vocab", "{}.vocab.txt", "{}.json", "words.txt", "vocab.txt")
_MOST_TEXT = 2**30  # bytes of a list


def read_torch(path: Path) -> Table:
    """torchtext's ``(words, {word: row}, vectors, width)``.

    Raises:
        InputError: it is something else, or holds objects, which could run code.
    """
    try:
        content = load_tensors(path)
    except Unusable as fault:
        raise InputError(f"{path}: {fault}; expected torchtext's file of vectors.") from None
    fits = isinstance(content, tuple | list) and len(content) == 4
    words, _, matrix, _ = content if fits else (None, None, None, None)
    if not isinstance(words, list) or not isinstance(matrix, Tensor) or not _is_matrix(matrix):
        raise InputError(
            f"{path}: holds a {type(content).__name__}; expected torchtext's list of words, "
            "dictionary, matrix and width."
        )
    return _table(path, words, matrix.float(), str(path))


def read_numpy(path: Path) -> Table:
    """A matrix of ``.npy`` with a list of its words beside it, or a ``.npz`` that has both.

    Raises:
        InputError: there is no list, or it does not fit.
    """
    try:
        if path.suffix.lower() == ".npz":
            entries = npz_entries(path)
            matrices = [e for e in entries.values() if len(e.shape) == 2 and e.numbers]
            texts = [e for e in entries.values() if len(e.shape) == 1 and e.dtype[:2] in _TEXTS]
            if len(matrices) == 1:
                matrix = npz_values(matrices[0])
                words = _texts(npz_values(texts[0])) if len(texts) == 1 else None
                return _numbered(path, matrix, words)
            shown = ", ".join(f"{name} {entry.shape}" for name, entry in entries.items())
            raise InputError(f"{path}: holds {shown}; expected one matrix of vectors.")
        entry = npy_entry(path, path.name)
        _require_matrix(path, entry)
        return _numbered(path, npy_values(entry), None)
    except DAMAGE as fault:
        raise InputError(f"{path}: cannot be read; is it complete? ({fault})") from None


_TEXTS = ("<U", ">U", "|S")


def _require_matrix(path: Path, entry: Entry) -> None:
    if len(entry.shape) != 2 or not entry.numbers or 0 in entry.shape:
        raise InputError(
            f"{path}: has the shape {entry.shape} and the type {entry.dtype}; expected numbers of "
            "shape (words, width)."
        )


def _numbered(path: Path, matrix: np.ndarray, words: list[str] | None) -> Table:
    if words is not None:
        return _table(path, words, torch.from_numpy(matrix.astype(np.float32)), str(path))
    names = [name.format(path.stem) for name in _LISTS]
    beside = next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)
    if beside is None:
        raise InputError(
            f"{path}: is a matrix of {len(matrix):,} vectors without their words; expected a list "
            f"of them, one a line, beside it as {names[0]} or {names[-1]}."
        )
    with open_input(beside, mode="rb") as file:
        text = file.read(_MOST_TEXT).decode("utf-8", "replace")
    if beside.suffix == ".json":
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError):
            listed = None
        words = list(listed) if isinstance(listed, list) else []
    else:
        words = text.splitlines()
    return _table(path, words, torch.from_numpy(matrix.astype(np.float32)), str(beside))


def _texts(values: np.ndarray) -> list[str]:
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]


def _is_matrix(matrix: Tensor) -> bool:
    dense = matrix.layout is torch.strided and not matrix.is_quantized and not matrix.is_nested
    return dense and matrix.dim() == 2 and matrix.is_floating_point() and 0 not in matrix.shape


def _table(path: Path, words: list[str], matrix: Tensor, listed: str) -> Table:
    if len(words) != len(matrix) or not all(isinstance(word, str) for word in words):
        raise InputError(
            f"{path}: has {len(matrix):,} vectors, and {listed} names {len(words):,} words; "
            "expected one word for each."
        )
    if matrix.numel() * matrix.element_size() > 2 * matrix.untyped_storage().nbytes():
        raise InputError(f"{path}: asks for more numbers than it has.")
    return words, matrix, []
