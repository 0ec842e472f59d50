"""Files of ``torch.save`` from anywhere, read as plain values: no code, no surprises.

What comes out is made of dictionaries, lists, tuples, texts, numbers, None, and dense tensors that
are no larger than what the file holds for them.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .memory import bounded_memory
from .schema import Wrong, shown

_DEEPEST = 40  # containers in containers
_MOST = 500_000  # values; a tree in which lists are named twice can hold 2^n
_OBJECTS = "it holds Python objects, which may run code when read"
_TIMES = 8  # a tensor under several names counts each time: at most so many times the file
Place = tuple[str, ...]
_KINDS = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
}


class Unusable(Exception):
    """Why a file cannot be used, as the rest of a sentence that begins with its name."""


def read_archive(
    path: Path,
    *,
    map_location: str | torch.device = "cpu",
    mmap: bool = False,
    numbered: frozenset[Place] = frozenset(),
) -> Any:
    """What ``torch.save`` wrote, if it is plain.

    Args:
        mmap: leave the tensors on the disk until they are used; check sums are then not compared.
        numbered: where mappings are that have numbers for keys, as the keys that lead there.

    Raises:
        Unusable: no such file, a damaged one, one that holds objects, or tensors that are not
            dense, or larger than the file.
    """
    foreign = "is not a checkpoint of this project"
    try:
        content = _loaded(path, foreign, map_location=map_location, mmap=mmap)
        return plain(content, bytes_at_most=_TIMES * path.stat().st_size, numbered=numbered)
    except Wrong as fault:
        raise Unusable(f"holds what no run writes: {fault}") from None


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, of this release or before 1.6, with the tensors left on the disk
    where the file allows it. No code runs, but what comes out is not checked, as ``plain`` does.

    Raises:
        Unusable: no such file, a damaged one, or one that holds objects.
    """
    foreign = "is no file of torch.save"
    if path.is_file() and not _is_archive(path):
        try:
            with bounded_memory(2**30 + 4 * path.stat().st_size):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise Unusable(f"{foreign}, or {_OBJECTS}") from None
        except Exception as fault:
            raise Unusable(f"is damaged, or {foreign} ({_first_line(fault)})") from None
    return _loaded(path, foreign, map_location="cpu", mmap=True)


def _loaded(path: Path, foreign: str, *, map_location: str | torch.device, mmap: bool) -> Any:
    """The content of an archive, unchecked; ``foreign`` says what it is if it is none."""
    if not path.is_file():
        raise Unusable("does not exist" if not path.exists() else "is not a file")
    try:
        if not zipfile.is_zipfile(path):
            raise Unusable(f"{foreign}, or is cut short (no archive of torch.save)")
        with zipfile.ZipFile(path) as archive:
            # Torch never compresses; unpacking a foreign compressed archive could take forever.
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise Unusable(f"{foreign} (a packed archive)")
            if not mmap and (damaged := archive.testzip()):  # torch.load does not look at them
                raise Unusable(f"is damaged (the check sum of {damaged} is wrong)")
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Unusable:
        raise
    except pickle.UnpicklingError:
        raise Unusable(f"{foreign}: {_OBJECTS}; expected tensors, numbers and texts only") from None
    except Exception as fault:  # whatever a damaged archive makes zipfile and Torch raise
        raise Unusable(f"is damaged ({_first_line(fault)})") from None


def _is_archive(path: Path) -> bool:
    """Whether it ends as an archive does, damaged or not."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _first_line(fault: Exception) -> str:
    return (str(fault) or type(fault).__name__).split("\n")[0][:120]


def plain(
    tree: Any, *, bytes_at_most: int | None = None, numbered: frozenset[Place] = frozenset()
) -> Any:
    """The same values in new dictionaries, lists and tuples without attributes of their own.

    Args:
        bytes_at_most: of all tensors together.
        numbered: see ``read_archive``.

    Raises:
        Wrong: a value of another kind, or too many of them.
    """
    return _Copy(bytes_at_most, numbered).of(tree)


class _Copy:
    def __init__(self, bytes_at_most: int | None, numbered: frozenset[Place]) -> None:
        self.bytes_left, self.values_left = bytes_at_most, _MOST
        self.numbered = numbered
        self.path: list[str | int] = []

    def of(self, value: Any) -> Any:
        self.values_left -= 1
        if self.values_left < 0:
            raise Wrong(f"more than {_MOST:,} values")
        if value is None or type(value) in (str, int, float, bool):
            return value
        if isinstance(value, Tensor):
            return self._tensor(value)
        if len(self.path) >= _DEEPEST:
            raise Wrong(f"{self.name[:60]}… is nested more than {_DEEPEST} deep")
        if isinstance(value, Mapping):
            keys = int if tuple(self.path) in self.numbered else str
            return {self._key(key, keys): self._inner(key, each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            copied = [self._inner(place, each) for place, each in enumerate(value)]
            return tuple(copied) if isinstance(value, tuple) else copied
        raise Wrong(f"{self.name} is a {type(value).__name__}, expected numbers and texts")

    def _key(self, key: Any, kind: type) -> Any:
        if type(key) is not kind:
            expected = "texts" if kind is str else "whole numbers"
            raise Wrong(f"{self.name} has the key {shown(key)}, expected {expected} as keys")
        return key

    def _inner(self, key: Any, value: Any) -> Any:
        self.path.append(key)
        copied = self.of(value)
        self.path.pop()
        return copied

    def _tensor(self, value: Tensor) -> Tensor:
        dense = value.layout is torch.strided and not value.is_nested
        if not dense or value.is_meta or value.is_quantized or value.dtype not in _KINDS:
            kind = _kind(value)
            raise Wrong(f"{self.name} is a tensor of another kind ({kind}), expected dense numbers")
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            raise Wrong(f"{self.name} asks for {size:,} bytes, and the file has fewer for it")
        if self.bytes_left is not None:
            self.bytes_left -= size
            if self.bytes_left < 0:
                raise Wrong("one tensor is named so often that all together exceed the file")
        return value.detach()

    @property
    def name(self) -> str:
        """Of the value under way; only for messages, where a key may be anything."""
        return ".".join(k if isinstance(k, str) else str(k) for k in self.path)[:200] or "it"


def _kind(value: Tensor) -> str:
    if value.is_nested or value.layout is not torch.strided:
        return "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    if value.is_meta:
        return "without values"
    return str(value.dtype).removeprefix("torch.")
