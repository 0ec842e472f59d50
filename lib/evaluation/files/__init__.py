"""Truth and predictions on disk; each kind of file has its own module."""

from __future__ import annotations

from pathlib import Path

from ...base.errors import InputError
from ...base.files import open_input
from ..records import Predictions, Truth
from .arrays import load_arrays, save_arrays
from .predictions import read_predictions, write_predictions
from .qvhighlights import WINDOWS, read_qvhighlights
from .truth import read_truth, write_truth
from .tvr import read_tvr, write_tvr

__all__ = [
    "load_arrays",
    "read_any",
    "read_predictions",
    "read_qvhighlights",
    "read_truth",
    "read_tvr",
    "save_arrays",
    "write_predictions",
    "write_truth",
    "write_tvr",
]


def read_any(path: str | Path, truth: Truth) -> tuple[Truth, Predictions]:
    """Predictions of any format, recognised by content, and the truth they are scored against.

    For TVR's submissions that is the truth of ``read_tvr``, else the given one.

    Raises:
        InputError: what the reader of that format refuses.
    """
    path = Path(path)
    try:
        with open_input(path, mode="rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if content.startswith(b"PK"):
        return truth, load_arrays(path, truth)
    if b'"video2idx"' in content:
        return read_tvr(path, truth)
    if f'"{WINDOWS}"'.encode() in content:
        return truth, read_qvhighlights(path, truth)
    return truth, read_predictions(path, truth)
