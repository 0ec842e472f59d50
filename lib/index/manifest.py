"""The two small files of an index: what it is, and which segments it consists of now.

Both are JSON with a digest of their own content, replaced completely or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ..base.errors import InputError
from ..base.files import reason_of, write_bytes

MANIFEST = "manifest.json"
SEGMENT = "segment-"


@dataclass(frozen=True)
class Entry:
    """A segment of an index.

    Attributes:
        number: of its file; never given twice.
        size, digest: of its file, see ``lib.index.segment``.
        videos: how many it holds, removed ones included.
        removed: which of them are removed: a bit each, compressed, as base64; empty if none is.
    """

    number: int
    size: int
    digest: str
    videos: int
    items: int
    removed: str = ""

    @property
    def file(self) -> str:
        return f"{SEGMENT}{self.number:06d}"

    def removed_videos(self) -> Bool[np.ndarray, " V"]:
        if not self.removed:
            return np.zeros(self.videos, bool)
        bits = np.frombuffer(zlib.decompress(base64.b64decode(self.removed)), np.uint8)
        return np.unpackbits(bits, count=self.videos).astype(bool)


def pack_removed(removed: Bool[np.ndarray, " V"]) -> str:
    if not removed.any():
        return ""
    return base64.b64encode(zlib.compress(np.packbits(removed).tobytes())).decode()


@dataclass(frozen=True)
class Manifest:
    """The segments of one generation of an index."""

    generation: int
    next_number: int
    entries: tuple[Entry, ...]

    @classmethod
    def parse(cls, path: Path, content: bytes) -> Manifest:
        """Raises InputError for a damaged file."""
        value = parse_sealed(path, content)
        entries = tuple(Entry(**entry) for entry in value["entries"])
        return cls(value["generation"], value["next_number"], entries)

    def write(self, path: Path) -> None:
        write_sealed(path, asdict(self))


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise InputError(f"{path} cannot be read ({reason_of(fault)})") from None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with its digest; raises as ``replace_file``."""
    text = json.dumps({"sha256": _digest(value), "content": value}, allow_nan=False, indent=1)
    write_bytes(path, text.encode())


def parse_sealed(path: Path, content: bytes) -> dict[str, Any]:
    """Raises InputError unless the content is what ``write_sealed`` wrote."""
    try:
        whole = json.loads(content)
        value: dict[str, Any] = whole["content"]
        sound = whole["sha256"] == _digest(value)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise InputError(
            f"{path} is damaged (it is not what was written); put a copy of it back, or make the "
            "index anew"
        )
    return value


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
