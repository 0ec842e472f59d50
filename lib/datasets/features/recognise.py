"""Which kind of storage a path is, by what is there and not by its name."""

from __future__ import annotations

from pathlib import Path

import h5py

from ...base.errors import InputError
from ...base.files import open_input
from .arrays import NPY, TORCH, ZIP, require_readable
from .folder import BIGFILE, SUFFIXES, list_folder, open_folder
from .hdf5 import ConcatenatedStore, Hdf5Store
from .store import Store
from .tensors import TensorFile

_FILES = (".hdf5", ".h5", ".pt", ".pth")
_PICKLE = b"\x80"
_ACCEPTED = "an HDF5 file, a folder of .npy, .npz or .pt files, or a .pt file of all videos"


def open_store(path: Path, *, linked: bool = False, member: str = "") -> Store:
    """The store that a path is.

    Args:
        linked, member: see ``Hdf5Store`` and ``choose_member``.

    Raises:
        InputError: nothing is there, or nothing that is read.
    """
    if path.is_dir():
        return open_folder(path, member=member)
    if not path.exists():
        raise InputError(f"{path}: the feature file does not exist{_beside(path)}.")
    try:
        with open_input(path, mode="rb") as file:
            start = file.read(len(TORCH))
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror or fault}).") from None
    require_readable(path, _ACCEPTED)
    if start.startswith(ZIP) or start == TORCH:
        if path.suffix.lower() == ".npz":
            raise InputError(
                f"{path}: is one file of numpy.savez; expected a folder with one for each video."
            )
        return TensorFile(path, member=member)
    if start.startswith(NPY):
        raise InputError(
            f"{path}: is the array of one video; expected the folder that holds one for each."
        )
    if start.startswith(_PICKLE) and not h5py.is_hdf5(path):
        raise InputError(
            f"{path}: is a pickle, which could run code when it is read; expected {_ACCEPTED} "
            "(torch.save of a dictionary of tensors writes one)."
        )
    file_ = Hdf5Store(path, linked=linked, member=member)
    return ConcatenatedStore.found_in(file_) or file_


def _beside(path: Path) -> str:
    """What there is in its place, as the rest of a sentence."""
    try:
        files = sorted(path.parent.iterdir())
    except OSError:
        return f", nor its folder {path.parent}" if not path.parent.is_dir() else ""
    names = [each.name for each in files if each.suffix.lower() in _FILES or each.is_dir()]
    return f"; DATASET.FEATURES may name {', '.join(names[:4])}" if names else ""


def holds_features(path: Path) -> bool:
    """Whether a path is features, and not videos: an HDF5 or a ``.pt`` file, or a folder of which
    most files are arrays.

    Raises:
        InputError: it cannot be read.
    """
    if path.is_dir():
        files = list_folder(path)
        arrays = [name for name in files if name.lower().endswith(SUFFIXES)]
        return BIGFILE in files or 2 * len(arrays) > len(files)
    return path.suffix.lower() in _FILES
