"""Files of weights: found, read without running code in them, and fitted to a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import InputError

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which checkpoints keep weights
_PREFIXES = ("module.", "backbone.", "model.", "network.")  # that wrapped networks put first


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def given_file(path: str | Path | None, backbone: str, advice: str) -> Path:
    """A file that the user must name.

    Raises:
        InputError: none was named, or it is not there.
    """
    if path is None:
        raise InputError(f"{backbone} needs its weights: --weights FILE ({advice}).")
    return existing(Path(path))


def existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    return path


def cached_or_fetched(given: str | None, backbone: str, url: str) -> Path:
    """The file that was given, or the library's own: from Torch's cache, or downloaded into it.

    Raises:
        InputError: the file is not there, or cannot be downloaded.
    """
    if given is not None:
        return existing(Path(given))
    name = url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), name.rsplit("-", 1)[-1].split(".")[0])
        except (OSError, RuntimeError) as fault:
            raise InputError(
                f"{backbone}: its weights are not at {path} and cannot be downloaded from {url} "
                f"({fault}); put the file there, or name it with --weights FILE."
            ) from None
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file of Torch.

    Raises:
        InputError: it is no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # of many kinds, by how the file is damaged
        raise InputError(
            f"{path}: is no file of weights that Torch can read ({str(fault).splitlines()[0]})."
        ) from None
    for name in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    tensors = isinstance(state, Mapping) and {k: v for k, v in state.items() if torch.is_tensor(v)}
    if not tensors:
        raise InputError(f"{path}: holds no named weights.")
    return tensors


def fit(
    network: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    unused: Collection[str] = (),
    advice: Callable[[str, tuple[int, ...]], str] = lambda name, shape: "",
) -> None:
    """Load weights, whatever prefix their names have.

    Args:
        unused: beginnings of names that the file may have and the network need not.
        advice: what to say of a weight of another shape.

    Raises:
        InputError: a weight is missing, unknown or of another shape.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("batches_tracked")}
    found = {_bare(k, wanted): v for k, v in state.items() if not k.endswith("batches_tracked")}
    missing = [name for name in wanted if name not in found]
    strange = [name for name in found if name not in wanted and not name.startswith(tuple(unused))]
    if missing:
        raise InputError(
            f"{path}: lacks {missing[0]}, and {len(missing) - 1} more of {len(wanted)} weights; it "
            f"has {', '.join(list(state)[:3])}, …"
        )
    if strange:
        raise InputError(
            f"{path}: has {strange[0]}, which this network does not; is it another one's?"
        )
    for name, value in wanted.items():
        shape = tuple(found[name].shape)
        if shape != tuple(value.shape):
            raise InputError(
                f"{path}: {name} has the shape {shape}, expected {tuple(value.shape)}"
                f"{advice(name, shape)}."
            )
    network.load_state_dict({name: found[name] for name in wanted}, strict=False)


def _bare(name: str, wanted: Mapping[str, Any]) -> str:
    while name not in wanted:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name
