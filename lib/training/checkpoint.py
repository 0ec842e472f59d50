"""The state of a run in a file: written atomically and checked, read without executing code in it.

A checkpoint is a Torch archive of ``{"format", "version", "state"}``. The state is a dictionary of
tensors, numbers, texts, lists and dictionaries; ``"model"`` (a state dict) and ``"experiment"``
(``identity``) are read here, the rest is the training loop's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from ..base.archive import Unusable, plain, read_archive
from ..base.batch import DataDims
from ..base.errors import InputError
from ..base.files import replace_file
from ..base.schema import Wrong, shown
from ..config.external import find_model
from ..config.options import keywords
from .schema import NUMBERED, check_state, require
from .upgrade import upgraded

FORMAT = "dmr-jrg checkpoint"
VERSION = 1
_NUMBERED = frozenset(("state", *place) for place in NUMBERED)


def identity(config: Mapping[str, Any], dims: DataDims) -> dict[str, Any]:
    """What must agree for weights to fit: the model with its keywords, the sizes of the data."""
    model = config["MODEL"]
    return {
        "MODEL": {"NAME": model["NAME"], "PARAMS": json.loads(json.dumps(model["PARAMS"]))},
        "dims": dims.sizes(),
    }


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Replace a checkpoint, after reading the new file back and comparing it.

    Raises:
        InputError: the disk is full, or does not return what was written; the old file is as it
            was.
    """
    path = Path(path)

    def write(file: BinaryIO) -> None:
        written = _Faults(file)
        try:
            torch.save(
                {"format": FORMAT, "version": VERSION, "state": dict(state)},
                cast(IO[bytes], written),
            )
        except Exception:
            if written.fault is not None:  # Torch reports a full disk in its own words
                raise written.fault from None
            raise
        file.flush()
        with _synced(file):  # the disk writes while the processor reads back what it will write
            if _damaged(file.name):
                raise InputError(f"{path} reads back differently than written; check the disk")
            # ``load`` must accept the file.
            content = plain(torch.load(file.name, weights_only=True, mmap=True), numbered=_NUMBERED)
            check_state(content["state"], finite=False)

    replace_file(path, write)


def load(
    path: str | Path,
    *,
    map_location: str | torch.device = "cpu",
    needs: Sequence[str] = (),
    finite: bool = True,
) -> dict[str, Any]:
    """The state in a checkpoint, all of it checked (``lib.training.schema``).

    Args:
        needs: parts of the state that must be there.
        finite: refuse weights that are not finite.

    Raises:
        InputError: the file is missing, damaged, foreign, of a newer format, holds code, lacks a
            part, or has one that no run writes. The sentence offers the newest sound checkpoint
            beside it, if there is one.
    """
    path = Path(path)
    try:
        return _read(path, map_location, finite=finite, needs=needs)
    except Unusable as fault:
        raise InputError(f"{path} {fault}{_offer(path)}") from None


def check_matches(state: Mapping[str, Any], config: Mapping[str, Any], dims: DataDims) -> None:
    """Refuse a checkpoint of another experiment.

    A keyword that the checkpoint lacks is newer than the checkpoint and must have its default: the
    defaults of new keywords keep a model as it was before.

    Raises:
        InputError: names every key of the model section and the data sizes that differs.
    """
    saved, current = _flat(state.get("experiment", {})), _flat(identity(config, dims))
    name = config["MODEL"]["NAME"]
    if saved.get("MODEL.NAME") == name:
        for word, option in keywords(find_model(name)).items():
            saved.setdefault(f"MODEL.PARAMS.{word}", json.loads(json.dumps(option.default)))
        differing = [key for key in sorted(saved | current) if saved.get(key) != current.get(key)]
    else:
        differing = ["MODEL.NAME"]
    if differing:
        listed = "; ".join(
            f"{key} {saved.get(key, 'unknown')} there, {current.get(key, 'unknown')} here"
            for key in differing
        )
        raise InputError(f"the checkpoint is of another experiment: {listed}")


def load_into(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a model the weights of a checkpoint, all of them or none.

    Raises:
        InputError: names the weights that are missing, superfluous or of another shape.
    """
    saved, current = state.get("model"), model.state_dict()
    if not isinstance(saved, Mapping):
        raise InputError('the checkpoint holds no weights (no "model" in it)')
    other = [
        f"{key} ({_shape(saved[key])}, expected {_shape(value)})"
        for key, value in current.items()
        if key in saved and _shape(saved[key]) != _shape(value)
    ]
    faults = {
        "missing": [key for key in current if key not in saved],
        "unexpected": [key for key in saved if key not in current],
        "of another shape": other,
    }
    if any(faults.values()):
        listed = "; ".join(f"{what}: {_few(keys)}" for what, keys in faults.items() if keys)
        raise InputError(f"the checkpoint's weights do not fit the model; {listed}")
    model.load_state_dict(saved)


def _read(
    path: Path, map_location: str | torch.device, *, finite: bool, needs: Sequence[str] = ()
) -> dict[str, Any]:
    foreign = "is not a checkpoint of this project"
    content = read_archive(path, map_location=map_location, numbered=_NUMBERED)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Unusable(f'{foreign} (no "format": "{FORMAT}" in it)')
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise Unusable(f"{foreign} (format version {shown(version)}, expected {VERSION})")
    if version > VERSION:
        raise Unusable(
            f"was written by a newer release (format version {shown(version)}, expected {VERSION} "
            "at most)"
        )
    if not isinstance(content.get("state"), dict):
        raise Unusable(f'{foreign} (no "state" in it)')
    return sound(content["state"], finite=finite, needs=needs)


def sound(
    state: Mapping[str, Any], *, finite: bool = True, needs: Sequence[str] = ()
) -> dict[str, Any]:
    """The state with this release's names, if every part of it is what a run writes.

    Args:
        state: plain values, as ``read_archive`` gives them.
        finite: whether the weights must be finite.
        needs: parts that must be there.

    Raises:
        Unusable: names the part and what is wrong with it.
    """
    try:
        renamed = upgraded(state)
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as fault:
        reason = str(fault).split("\n")[0][:100]
        raise Unusable(f"has a state that no release wrote ({reason})") from None
    try:
        check_state(renamed, finite=finite)
        require(renamed, *needs)
    except Wrong as fault:
        raise Unusable(f"has a state that no run writes: {fault}") from None
    return renamed


def _offer(path: Path) -> str:
    """The newest sound checkpoint beside a bad one, as the end of a sentence."""
    try:
        others = [p for p in path.parent.glob("*.pt") if p != path and p.is_file()]
        # A link to last.pt is as new as last.pt, which is named then.
        others.sort(key=lambda p: (p.stat().st_mtime, p.name == "last.pt"), reverse=True)
    except OSError:
        return ""
    for other in others:
        try:
            state = _read(other, "cpu", finite=True)
        except Unusable:
            continue
        epoch = f" (epoch {state['epoch']})" if isinstance(state.get("epoch"), int) else ""
        return f"; {other}{epoch} is sound"
    return ""


class _Faults:
    """A file that keeps the error of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as fault:
            self.fault = fault
            raise

    def flush(self) -> None:
        self.file.flush()


@contextlib.contextmanager
def _synced(file: BinaryIO) -> Iterator[None]:
    """A context at whose end the disk has the file.

    Raises:
        OSError: it has not taken it.
    """
    with ThreadPoolExecutor(1) as apart:
        done = apart.submit(os.fsync, file.fileno())
        yield
        done.result()


def _damaged(path: str) -> bool:
    """Whether what the disk returns is not what Torch wrote, by the check sums that it wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except Exception:  # whatever a damaged archive makes zipfile raise
        return True


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary by dotted keys."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    inner = [_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in tree.items()]
    return {key: value for part in inner for key, value in part.items()}


def _shape(value: Any) -> str:
    return "×".join(map(str, value.shape)) or "number" if isinstance(value, Tensor) else "no tensor"


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
