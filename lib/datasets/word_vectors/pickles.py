"""Word vectors and word counts from pickles, read without running their code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...base.errors import InputError
from ...base.stand_ins import Forbidden, StandIns, unpickle

_GENSIM = (
    'python -c "from gensim.models import KeyedVectors as K; '
    "K.load('{}').save_word2vec_format('{}', binary=True)\""
)


class _Counts(dict[Any, Any]):
    """A counter as it is pickled: a dictionary."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Forbidden("new attributes of a counter")


class _Type:
    """A NumPy number type as it is pickled."""

    __slots__ = ("type",)

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]", code):
            raise Forbidden(f"numpy.dtype({str(code)[:20]!r})")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


class _Array:
    """A NumPy array as it is pickled."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray = np.zeros(0, dtype=np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        self.value = np.frombuffer(data, kind.type).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, kind: _Type, shape: tuple[int, ...], order: Any) -> _Array:
    array = _Array()
    array.value = np.frombuffer(data, kind.type).reshape(shape, order=order)
    return array


def _scalar(kind: _Type, data: Any) -> float:
    data = data.encode("latin1") if isinstance(data, str) else data
    return float(np.frombuffer(data, kind.type)[0])


_STAND_INS: StandIns = {
    "collections.Counter": _Counts,
    "_codecs.encode": lambda text, _: text.encode("latin1"),  # the bytes of an array, protocol 2
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _shown(word: Any) -> str:
    """Short, and not the text of a container: it could be endless."""
    plain = isinstance(word, str | bytes | int | float)
    return repr(word)[:60] if plain else f"a {type(word).__name__}"


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return unpickle(file, path.stat().st_size, _STAND_INS)
    except Forbidden as error:
        if str(error).startswith("gensim."):
            raise InputError(
                f"{path}: is a model of gensim, which only its own code reads; write its vectors as"
                f" word2vec's file: {_GENSIM.format(path.name, path.with_suffix('.bin').name)}"
            ) from None
        raise InputError(
            f"{path}: the pickle asks for {error}; only counters and numpy arrays are read."
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            f"{path}: is not a readable pickle ({type(error).__name__}: {error})."
        ) from None


def read_pickle(path: Path) -> tuple[list[str], Float[Tensor, "n E"]]:
    """Words and vectors of ``{"w2id": {word: id}, "id2vec": vectors, …}`` (CPL's layout) or of
    ``{word: vector}``.

    Raises:
        InputError: another layout, another global than those of counters and arrays, or uneven
            vectors.
    """
    data = _unpickled(path)
    vectors: Mapping[Any, Any]
    if isinstance(data, dict) and "w2id" in data and "id2vec" in data:
        table, ids = _unwrapped(data["id2vec"]), data["w2id"]
        if not isinstance(ids, dict) or not isinstance(table, list | tuple | np.ndarray | dict):
            raise InputError(f"{path}: w2id must be a dict and id2vec a list, an array or a dict.")
        try:
            vectors = {word: table[id_] for word, id_ in ids.items() if word != "<PAD>"}
        except (IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: w2id names ids that id2vec (of {len(table)}) does not have ({error})."
            ) from None
    elif isinstance(data, dict) and data:
        vectors = data
    else:
        raise InputError(
            f"{path}: holds a {type(data).__name__}; expected a dict with w2id and id2vec, or a "
            f"dict of words to vectors."
        )
    rows, width = [], 0
    for word, vector in vectors.items():
        try:
            vector = _unwrapped(vector)
            if isinstance(vector, list | tuple) and not isinstance(vector[0], int | float):
                raise TypeError  # lists in lists may hold each other, and never end
            row = np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError, OverflowError, IndexError):
            row = np.zeros((0, 0), dtype=np.float32)
        width = width or (len(row) if row.ndim == 1 else 0)
        if not isinstance(word, str) or row.ndim != 1 or len(row) != width or width == 0:
            raise InputError(
                f"{path}: {_shown(word)} -> {type(vector).__name__} of shape {np.shape(row)}; "
                f"expected words with vectors of one length ({width})."
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no word.")
    return list(vectors), torch.from_numpy(np.stack(rows))


def ranked_words(path: Path, size: int) -> tuple[str, ...]:
    """The ``size`` most frequent words by the ``counter`` of a pickle in CPL's layout, in the order
    in which CNM, CPL and PPS number them: of equally frequent ones those that it names first.

    Raises:
        InputError: missing file, not such a pickle, or fewer words.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: the vocabulary does not exist.")
    data = _unpickled(Path(path))
    counts = data.get("counter") if isinstance(data, dict) else None
    if not isinstance(counts, _Counts) or not all(
        isinstance(word, str) and isinstance(n, int) for word, n in counts.items()
    ):
        raise InputError(f"{path}: holds no counter of words; expected CPL's layout.")
    if len(counts) < size:
        raise InputError(f"{path}: counts {len(counts):,} words; expected {size:,} at least.")
    return tuple(sorted(counts, key=counts.__getitem__, reverse=True)[:size])
