"""NumPy files of paragraphs, as PRVG and DepNet have them: pickles of a list of objects."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ...base.stand_ins import Forbidden, StandIns, unpickle
from .records import Record
from .source import Source, short
from .videos import read_list

MAGIC: bytes = np.lib.format.MAGIC_PREFIX
_LETTERS = 16  # of sentences, for each byte of the file


def read_chunks(data: bytes, source: Source) -> list[Record]:
    """One record for each object; a video has several where its paragraph was cut.

    Raises:
        InputError: the file holds numbers, or asks for anything but an array of objects.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
    except Exception as error:  # a damaged head can raise nearly anything
        raise source.fault(f"is not a readable NumPy file ({_reason(error)}).") from None
    if not dtype.hasobject:
        raise source.fault(
            f"holds an array of numbers of shape {short(shape)}; expected paragraphs (features are "
            "named by DATASET.FEATURES)."
        )
    items = _unpickled(stream, len(data), source)
    if not isinstance(items, list):
        raise source.fault(f"holds {short(items)}; expected a list of paragraphs.")
    letters = 0
    for entry in items:
        sentences = entry.get("sentences") if isinstance(entry, dict) else None
        for sentence in sentences if isinstance(sentences, list) else ():
            letters += 1 + (len(sentence) if isinstance(sentence, str) else 0)
            if letters > _LETTERS * len(data):  # a pickle can name one list a million times
                raise source.fault("repeats its own parts without end; expected annotations.")
    return read_list(items, source)


class _Type:
    """The type of an array of objects as it is pickled."""

    __slots__ = ()

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("O8", "O", "|O"):
            raise Forbidden(f"numpy.dtype({short(code)})")

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """An array of objects as it is pickled: its state ends with the list of them."""

    __slots__ = ("items",)

    def __init__(self, *_: Any) -> None:
        self.items: Any = []

    def __setstate__(self, state: Any) -> None:
        self.items = state[-1]


def _encoded(text: Any, *_: Any) -> bytes:
    return str(text).encode("latin1") if isinstance(text, str) else b""


_STAND_INS: StandIns = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encoded,  # of protocol 2
}


def _unpickled(stream: io.BytesIO, size: int, source: Source) -> Any:
    try:
        array = unpickle(stream, size, _STAND_INS)
    except Forbidden as error:
        raise source.fault(
            f"the pickle in it asks for {error}; only lists of texts and numbers are read, and no "
            "code is run."
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise source.fault(f"holds no readable pickle ({_reason(error)}).") from None
    return array.items if isinstance(array, _Array) else array


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"
