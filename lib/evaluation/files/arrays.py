"""Predictions as arrays: everything, exactly, in one ``.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...base.errors import InputError
from ...base.files import replace_file
from ..records import CandidateMoments, Pairs, Predictions, Ranking, Truth

# Kinds and axes: P paragraphs, V videos, M sentences; other letters agree within a part.
_LAYOUTS = {
    "similarity": ("f", "PV"),
    "spans": ("f", "Mn2"),
    "scores": ("f", "Mn"),
    "proposal_spans": ("f", "C2"),
    "answered": ("b", "M"),
    "candidates.videos": ("iu", "MK"),
    "candidates.spans": ("f", "MKk2"),
    "candidates.scores": ("f", "MKk"),
    "candidates.video_scores": ("f", "MK"),
    "pairs.videos": ("iu", "ML"),
    "pairs.spans": ("f", "ML2"),
    "pairs.scores": ("f", "ML"),
    "pairs.made_for": ("U", "N"),
    "ranking.videos": ("iu", "PR"),
    "ranking.scores": ("f", "PR"),
}
_PARTS = {"candidates": CandidateMoments, "pairs": Pairs, "ranking": Ranking}


def save_arrays(path: str | Path, truth: Truth, predictions: Predictions) -> None:
    """Write all of the predictions, and the ids that they belong to; completely or not at all."""
    replace_file(Path(path), partial(fill_arrays, truth, predictions))


def fill_arrays(truth: Truth, predictions: Predictions, file: BinaryIO) -> None:
    """What ``save_arrays`` writes."""
    arrays: dict[str, np.ndarray] = {
        "video_ids": np.array(truth.video_ids),
        "paragraph_ids": np.array(truth.paragraph_ids),
        "sentence_ids": np.array(truth.names),
    }
    for name in ("similarity", "spans", "scores", "proposal_spans", "candidates", "answered"):
        value = getattr(predictions, name)
        for part, kind in _PARTS.items():
            if isinstance(value, kind):
                parts = {f"{part}.{key}": np.asarray(each) for key, each in vars(value).items()}
                arrays |= parts
        if isinstance(value, np.ndarray):
            arrays[name] = value
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: str | Path, truth: Truth) -> Predictions:
    """Read a file of ``save_arrays``.

    Raises:
        InputError: no such file, or arrays that belong to other videos or sentences.
    """
    true_ids = {
        "video_ids": truth.video_ids,
        "paragraph_ids": truth.paragraph_ids,
        "sentence_ids": truth.names,
    }
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        stored = {name: np.asarray(arrays.pop(name, None)).tolist() for name in true_ids}
    except Exception as error:  # whatever a damaged archive makes zipfile and NumPy raise
        reason = (str(error) or type(error).__name__).split("\n")[0][:120]
        raise InputError(f"{path}: cannot be read as arrays ({reason})") from None
    for name, ids in true_ids.items():
        if stored[name] != list(ids):
            raise InputError(f"{path}: its {name} are not those of the truth")
    _check_layouts(path, arrays, {"P": len(truth.paragraph_ids), "M": len(truth.names)})
    fields = {name: value for name, value in arrays.items() if "." not in name}
    for part, kind in _PARTS.items():
        members = {n.partition(".")[2]: v for n, v in arrays.items() if n.startswith(f"{part}.")}
        if members:
            if part == "pairs":
                members["made_for"] = tuple(members["made_for"].tolist())
            fields["similarity" if part == "ranking" else "candidates"] = kind(**members)
    return Predictions(**fields)  # type: ignore[arg-type]


def _check_layouts(path: str | Path, arrays: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Refuse an unknown array, a wrong kind or shape, and a part that lacks one of its arrays."""
    axis_sizes: dict[str, int] = dict(sizes)
    for name, value in arrays.items():
        if name not in _LAYOUTS:
            raise InputError(f"{path}: has an array {name[:40]!r}, expected {', '.join(_LAYOUTS)}")
        kinds, axes = _LAYOUTS[name]
        shape: tuple[int, ...] = getattr(value, "shape", ())  # a member that is no array is bytes
        kind = value.dtype.kind if hasattr(value, "dtype") else "bytes"
        fits = len(shape) == len(axes) and (kind in kinds or 0 in shape)
        fits = fits and not (axes.startswith("C") and shape[0] == 0)  # a grid without a cell
        for axis, size in zip(axes, shape, strict=False):
            fits = fits and size == (2 if axis == "2" else axis_sizes.setdefault(axis, size))
        if not fits:
            raise InputError(
                f"{path}: {name} has the shape {shape} and the kind {kind}; expected "
                f"({', '.join(axes)}) of kind {' or '.join(kinds)}, as the other arrays have it"
            )
    groups = {name.partition(".")[0] for name in arrays if "." in name}
    missing = [n for n in _LAYOUTS if n.partition(".")[0] in groups and n not in arrays]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}")
    if ("spans" in arrays) != ("scores" in arrays):
        raise InputError(f"{path}: has spans or scores, expected both")
