"""Arrays from files of NumPy and Torch: their shapes without the numbers, and the numbers.

Nothing in them is run: arrays of Python objects, which are pickles, are refused.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ...base.archive import Unusable, load_tensors
from ...base.errors import InputError
from ...base.files import open_input, what_it_is
from .store import Entry, choose_member, read_exactly, require_size

NPY: bytes = npy.MAGIC_PREFIX
TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before release 1.6
ZIP = b"PK\x03\x04"
# What a damaged archive makes zipfile raise, beside OSError and ValueError.
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, LZMAError)
_DEEPEST = 2  # dictionaries in dictionaries


def require_readable(path: Path, expected: str) -> None:
    """Refuse a file that is something else by its first bytes: a pointer, a web page, nothing.

    Args:
        expected: what it should be, as the end of the sentence.

    Raises:
        InputError: it is, or it cannot be opened.
    """
    try:
        found = what_it_is(path)
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror or fault}).") from None
    if found:
        raise InputError(f"{path}: {found}; expected {expected}.")


def npy_entry(path: Path, name: str) -> Entry:
    """The header of a ``.npy`` file.

    Raises:
        InputError: it holds objects, or is not of NumPy.
        OSError, ValueError, EOFError: it is damaged.
    """
    with open_input(path, mode="rb") as file:
        if file.read(len(NPY)) != NPY:
            require_readable(path, "an array of NumPy")
            raise InputError(f"{path}: is no array of NumPy; expected a file of numpy.save.")
        file.seek(0)
        shape, fortran, dtype = _header(file, str(path))
        return _entry(name, shape, dtype, (path, file.tell(), fortran, dtype))


def npy_values(entry: Entry) -> np.ndarray:
    path, offset, fortran, dtype = entry.place
    require_size(str(path), entry.shape)
    with open_input(path, mode="rb") as file:
        file.seek(offset)
        data = read_exactly(file, math.prod(entry.shape) * dtype.itemsize)
        if file.read(1):
            raise ValueError("it is longer than its header says")
    return _array(data, dtype, entry.shape, fortran)


def npz_entry(path: Path, name: str, member: str) -> Entry:
    """The header of that array of a ``.npz`` file which holds the rows.

    Raises:
        as ``npy_entry`` and ``choose_member``.
    """
    members = npz_entries(path)
    return replace(members[choose_member(str(path), members, member)], name=name)


def npz_entries(path: Path) -> dict[str, Entry]:
    """The headers of all arrays of a ``.npz`` file by their names."""
    members = {}
    with open_input(path, mode="rb") as file:
        if file.read(len(ZIP)) != ZIP:
            require_readable(path, "arrays of numpy.savez")
            raise InputError(f"{path}: is no archive of arrays; expected a file of numpy.savez.")
        try:
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    key = info.filename.removesuffix(".npy")
                    if key == info.filename:
                        continue
                    with archive.open(info) as inside:
                        shape, fortran, dtype = _header(inside, f"{path}: {key}")
                    place = (path, info.filename, fortran, dtype)
                    members[key] = _entry(key, shape, dtype, place)
        except ZIP_DAMAGE as fault:
            raise ValueError(str(fault)[:80]) from None
    if not members:
        raise InputError(f"{path}: holds no array; expected a file of numpy.savez.")
    return members


def npz_values(entry: Entry) -> np.ndarray:
    path, filename, fortran, dtype = entry.place
    require_size(str(path), entry.shape)
    size = math.prod(entry.shape) * dtype.itemsize
    with open_input(path, mode="rb") as file:
        try:
            with zipfile.ZipFile(file) as archive, archive.open(filename) as inside:
                _header(inside, str(path))
                data = read_exactly(inside, size)
                if inside.read(1):  # at its end the check sum is compared
                    raise ValueError("it is longer than its header says")
        except ZIP_DAMAGE as fault:
            raise ValueError(str(fault)[:80]) from None
    return _array(data, dtype, entry.shape, fortran)


def torch_content(path: Path) -> Any:
    """What ``torch.save`` wrote, its tensors left on the disk where that is possible.

    Raises:
        InputError: it is damaged, or holds objects, which could run code.
    """
    require_readable(path, "tensors of torch.save")
    try:
        return load_tensors(path)
    except Unusable as fault:
        raise InputError(
            f"{path}: {fault}; expected a tensor, or a dictionary of tensors, of torch.save."
        ) from None


def torch_entry(content: Any, where: str, name: str, member: str) -> Entry | None:
    """The tensor that holds the rows: the content itself, or one of a dictionary of tensors.

    Returns:
        None: neither of them.

    Raises:
        InputError: see ``choose_member``.
    """
    if isinstance(content, Tensor):
        return tensor_entry(content, name)
    if isinstance(content, Mapping):
        members = {
            str(key): tensor_entry(each, str(key))
            for key, each in content.items()
            if isinstance(each, Tensor)
        }
        if members:
            return replace(members[choose_member(where, members, member)], name=name)
    return None


def tensor_entry(tensor: Tensor, name: str) -> Entry:
    dense = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
    numbers = dense and not tensor.is_meta and not tensor.is_complex()
    kind = str(tensor.dtype).removeprefix("torch.")
    shape = tuple(tensor.shape) if dense else ()
    return Entry(name, shape, kind, numbers and tensor.dtype != torch.bool, tensor)


def tensor_values(entry: Entry, where: str) -> np.ndarray:
    tensor: Tensor = entry.place
    require_size(where, entry.shape)
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise ValueError(f"it asks for {size:,} bytes, and the file has fewer")
    wide = tensor.dtype in (torch.float64, torch.int64, torch.int32)
    found: np.ndarray = tensor.detach().to(torch.float64 if wide else torch.float32).numpy()
    return found


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    readers: Mapping[tuple[int, int], Callable[..., Any]] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    if version not in readers:
        raise InputError(f"{where}: is an array of named fields; expected an array of numbers.")
    try:
        shape, fortran, dtype = readers[version](file)
    except Exception as fault:  # whatever NumPy and Python's tokeniser raise at damaged text
        raise ValueError(f"its header cannot be read: {str(fault)[:80]}") from None
    if dtype.hasobject:
        raise InputError(
            f"{where}: holds Python objects and not numbers, which only running its code would "
            "read; expected an array of numbers of shape (rows, width)."
        )
    if any(length < 0 for length in shape):
        raise ValueError(f"its header says the shape {shape}")
    return shape, fortran, dtype


def _entry(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], place: Any) -> Entry:
    return Entry(name, tuple(map(int, shape)), str(dtype), dtype.kind in "fiu", place)


def _array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
