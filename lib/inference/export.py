"""A trained run as safetensors and JSON, for keeping and for programs that do not know Torch.

A folder of weights.safetensors, the state dict as it is; run.json, with everything that is no
tensor; tensors.safetensors, the tensors that are no weights; and the packed vectors of all words,
if the run has them. In run.json a tensor stands as ``{"tensor": its name}``. Or the same files in
one (``packed``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..base.archive import Unusable, plain
from ..base.errors import InputError
from ..base.files import open_input, replace_file, unwritable, write_bytes
from ..base.schema import Wrong
from ..datasets.packed_words import FILE as WORDS
from ..training import checkpoint
from ..training.schema import NUMBERED
from .packed import RUN_FILE, SUFFIX, TENSORS, WEIGHTS, pack, require_no_code

FORMAT, VERSION = "dmr-jrg run", 1


def write_export(state: Mapping[str, Any], words: Path | None, out: Path) -> None:
    """Write a checkpoint's state, and the packed words if there are any, into a new folder, or into
    one new file if its name ends in ``.zip``.

    In a folder run.json is written last: a folder with it is whole.

    Raises:
        InputError: the folder holds something already, the file is there, or it cannot be written;
            safetensors is not installed; or the run names code, which one file may not.
    """
    if out.suffix == SUFFIX:
        require_no_code(state, str(out))
        pack(_files(state), words, out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and is not empty; expected a new folder")
    files = _files(state)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise unwritable(out, fault) from None
    if words is not None:
        with words.open("rb") as source:
            replace_file(out / WORDS, lambda file: shutil.copyfileobj(source, file))
    for name, content in files.items():
        write_bytes(out / name, content)


def _files(state: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of an export but for the words, run.json last."""
    tensors: dict[str, Tensor] = {}
    left_out = ("model", "validation", "optimizer")
    tree = _without_tensors({k: v for k, v in state.items() if k not in left_out}, tensors, "")
    content = {"format": FORMAT, "version": VERSION, "state": tree}
    try:
        text = json.dumps(content, ensure_ascii=False, indent=1)
    except (TypeError, ValueError) as fault:
        raise InputError(f"the checkpoint holds what JSON cannot say ({fault})") from None
    to_bytes = _safetensors().save
    files = {}
    for name, group in ((WEIGHTS, state["model"]), (TENSORS, tensors)):
        # Tensors under two names (shared layers) are written twice: the format knows no sharing.
        files[name] = to_bytes({key: each.detach().cpu().clone() for key, each in group.items()})
    return {**files, RUN_FILE: text.encode()}


def read_export(folder: Path) -> dict[str, Any]:
    """The state that ``write_export`` wrote, the same bits.

    Raises:
        InputError: a file is missing, damaged or foreign, or holds what no run writes.
    """
    path = folder / RUN_FILE
    try:
        with open_input(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as fault:
        raise InputError(f"{path} cannot be read ({str(fault)[:120]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path} is no exported run (no "format": "{FORMAT}" in it)')
    if content.get("version") != VERSION:
        raise InputError(f"{path} has version {content.get('version')!r}, expected {VERSION}")
    try:
        state = _with_tensors(content.get("state"), _tensors(folder / TENSORS))
        if not isinstance(state, dict):
            raise Unusable('holds no run (no "state" in it)')
        whole = plain({**state, "model": _tensors(folder / WEIGHTS)}, numbered=NUMBERED)
        return checkpoint.sound(whole, needs=("model", "epoch"))
    except KeyError as fault:
        raise InputError(f"{folder / TENSORS} lacks the tensor {fault}") from None
    except (Unusable, Wrong, RecursionError) as fault:
        raise InputError(f"{path} {fault or 'is nested too deeply'}") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    load_file = _safetensors().load_file
    try:
        return load_file(path)
    except Exception as fault:  # safetensors has an error type of its own
        raise InputError(f"{path} cannot be read ({str(fault)[:120]})") from None


def _without_tensors(tree: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {str(k): _without_tensors(v, tensors, f"{name}/{k}") for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_tensors(v, tensors, f"{name}/{n}") for n, v in enumerate(tree)]
    return tree


def _with_tensors(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {"tensor"} and isinstance(tree["tensor"], str):
            return tensors[tree["tensor"]]
        return {key: _with_tensors(value, tensors) for key, value in tree.items()}
    return [_with_tensors(each, tensors) for each in tree] if isinstance(tree, list) else tree


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise InputError("safetensors is not installed; pip install safetensors") from None
    return safetensors.torch
