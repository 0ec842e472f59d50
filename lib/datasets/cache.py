"""Where the resampled rows of a corpus come from: a packed file, shared memory, or HDF5 each time.

The choice changes no bit of what is read. A packed file holds the rows of many videos one after
the other, then a description as JSON, then the description's length, digest and a mark:

    rows (G, T, C) | {"key", "source", "videos", "sums", …} | length, SHA-256, b"ROWS 1\\r\\n"

It is written beside its place and renamed when its bytes are safe, so a file of its name is whole.
Its name and its description hold a key of the source and of everything that decides the rows.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
import socket
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..base import locks
from ..base.errors import InputError
from ..base.files import open_plain
from ..base.terminal import count
from .features import Features, as_read, normalize_rows, resample

Mode = Literal["auto", "disk", "memory", "direct"]
_IN_MEMORY = 2**28  # bytes that "auto" resamples at every start, which takes about a second

_FORMAT = 1  # of the packed file; part of every key
_MARK = b"ROWS 1\r\n"
_END = struct.Struct("<Q32s8s")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PACKS = os.name != "nt"  # Windows renames no file that is open
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Rows(Protocol):
    """Resampled rows of videos by id; ``str`` of it says in a line where they are."""

    @property
    def dim(self) -> int: ...

    def __getitem__(self, video_id: str) -> Float[Tensor, "T C"]: ...


class DirectRows:
    """Rows from the feature file, resampled each time they are asked for.

    Args:
        first: a video whose width C all must have; read when that is asked for.
        normalize: L2-normalise the rows before they are averaged.
        dtype: "float32", or "float16": every number is rounded to it, and given back as float32.
    """

    def __init__(
        self,
        features: Features,
        first: str,
        *,
        num_frames: int,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        self.features = features
        self.first = first
        self.num_frames = num_frames
        self.normalize = normalize
        self.dtype = dtype

    @functools.cached_property
    def dim(self) -> int:
        return self.features.width(self.first)

    def __getitem__(self, video_id: str) -> Float[Tensor, "T C"]:
        return torch.from_numpy(self.read(video_id).astype(np.float32, copy=False))

    def __str__(self) -> str:
        return f"features: resampled from {self.features} for every item"

    def read(self, video_id: str) -> Float[np.ndarray, "T C"]:
        """A video's rows in ``dtype``.

        Raises:
            InputError: see ``Features.read``; another width; a number too large for float16.
        """
        rows = self.features.read(video_id)
        where = self.features
        if rows.shape[1] != self.dim:
            raise InputError(
                f"{where}: {video_id} is {rows.shape[1]} wide, "
                f"{self.first} is {self.dim}; expected one width."
            )
        found = as_read(
            rows,
            self.num_frames,
            normalize=self.normalize,
            dtype=self.dtype,
            parts=self.features.parts,
        )
        if self.dtype == "float16" and not np.isfinite(found).all():
            raise InputError(
                f"{where}: {video_id} holds {np.abs(rows).max():g}, expected at most 65,504 where "
                f"CACHE_DTYPE is float16."
            )
        return found

    @functools.cached_property
    def key(self) -> str:
        """Digest of what decides the rows, as it was when first asked for.

        Raises:
            OSError: the features are not there.
        """
        return _key(self)

    @property
    def bytes_per_video(self) -> int:
        return self.num_frames * self.dim * np.dtype(self.dtype).itemsize


class SharedRows:
    """Rows of some videos, resampled once into memory that all worker processes share."""

    def __init__(self, direct: DirectRows, videos: Sequence[str]) -> None:
        self.dim = direct.dim
        self._index = {video: index for index, video in enumerate(videos)}
        shape = (len(videos), direct.num_frames, direct.dim)
        self._rows = torch.empty(shape, dtype=getattr(torch, direct.dtype))
        if _shared_room() > 1.1 * self._rows.nbytes:
            with contextlib.suppress(RuntimeError):  # refused; forks share any memory
                self._rows.share_memory_()
        for video, index in _watched(self._index.items(), "resampling features"):
            self._rows[index] = torch.from_numpy(direct.read(video))

    def __getitem__(self, video_id: str) -> Float[Tensor, "T C"]:
        return self._rows[self._index[video_id]].float()

    def __str__(self) -> str:
        kind = "shared memory" if self._rows.is_shared() else "memory"
        return f"features: {_described(self._rows)} in {kind}"


class PackedRows:
    """Rows from a packed file, which is mapped into memory and not read before it is needed.

    The rows of a video are held against their check sum when a process first reads them.

    Args:
        key: what the file must have been made of, and how.

    Raises:
        FileNotFoundError: there is no such file.
        Unsound: it is damaged, cut short, foreign, or of another key.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = Path(path), key
        self.said = ""  # what happened while it was looked for
        with self.path.open("rb") as file:
            about = _description(file)
            if about["key"] != key:
                raise Unsound("is of another source or setting")
            shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
            mapped = np.memmap(file, dtype, "r", shape=shape)
            with warnings.catch_warnings():  # that it cannot be written, which nobody does
                warnings.simplefilter("ignore", UserWarning)
                self._rows = torch.from_numpy(mapped)
            self._inode = os.fstat(file.fileno()).st_ino
        self.dim = shape[2]
        self._index = {video: index for index, video in enumerate(about["videos"])}
        self._sums = about["sums"]
        self._checked = bytearray(shape[0])

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __getitem__(self, video_id: str) -> Float[Tensor, "T C"]:
        index = self._index[video_id]
        rows = self._rows[index]
        if not self._checked[index]:
            if zlib.crc32(rows.numpy().data) != self._sums[index]:
                self._refuse(video_id)
            self._checked[index] = True
        return rows.to(torch.float32, copy=True)  # the reader's own: the map cannot be written

    def stored(self, video_id: str) -> Float[np.ndarray, "T C"] | None:
        """A video's rows as they are in the file; None where it lacks them or they are damaged."""
        if video_id not in self._index:
            return None
        index = self._index[video_id]
        rows = self._rows[index].numpy()
        return rows if zlib.crc32(rows.data) == self._sums[index] else None

    def __str__(self) -> str:
        told = f"features: {_described(self._rows)} in {self.path}"
        return f"{told} ({self.said})" if self.said else told

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "key": self.key}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        try:
            self.__init__(**state)  # type: ignore[misc]
        except (OSError, Unsound) as fault:
            raise InputError(
                f"{state['path']}: the cache was there at the start and is gone now ({fault})."
            ) from None

    def _refuse(self, video_id: str) -> None:
        with contextlib.suppress(OSError):  # unless another process has built it again
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        raise InputError(
            f"{self.path}: the rows of {video_id} are not those that were written (check sum); the "
            f"damaged cache is out of the way, and the next start builds it again."
        )


class Unsound(Exception):
    """Why a packed file cannot be used, as the rest of a sentence that begins with its name."""


def find_packed(
    direct: DirectRows, needed: Iterable[str], folders: Sequence[Path]
) -> PackedRows | None:
    """The packed file of a corpus, if one is there that has these videos."""
    try:
        key = direct.key
    except OSError:
        return None
    for folder in folders:
        found, _ = _load(folder / _name(direct, key), key)
        width = direct.features.expected_dim
        if found and (not width or found.dim == width) and all(v in found for v in needed):
            return found
    return None


def make_rows(
    direct: DirectRows,
    needed: Sequence[str],
    others: Sequence[str] = (),
    *,
    mode: Mode,
    folders: Sequence[Path],
) -> Rows:
    """The rows of some videos, in the way asked for, where no packed file is there.

    Args:
        needed: without repeats; but for "direct", all of them are read now and must be sound.
        others: what other runs of the corpus need, packed too as far as it can be read.
        mode: "disk" packs a file; "memory" resamples what is needed now; "direct" reads the feature
            file each time; "auto" is memory for a corpus under 256 MiB and disk for others (on
            Windows, where files cannot be packed, direct).
        folders: where packed files may be, in order of preference.

    Raises:
        InputError: a video cannot be used, no folder can be written, or the disk is full.
    """
    if mode == "direct":
        return direct
    size = len({*needed, *others}) * direct.bytes_per_video
    small = size <= _IN_MEMORY and _shared_room() > 1.1 * size
    if mode == "memory" or (mode == "auto" and small):
        return SharedRows(direct, needed)
    if not _PACKS:
        if mode == "auto":
            return direct
        raise InputError(
            "DATASET.CACHE disk packs features by renaming an open file, which Windows does not; "
            "expected memory or direct"
        )
    return pack(direct, needed, others, folders)


def pack(
    direct: DirectRows, needed: Sequence[str], others: Sequence[str], folders: Sequence[Path]
) -> PackedRows:
    """Make the packed file of a corpus, or wait for the process that is making it.

    It keeps the videos of the file it replaces. Of several processes one builds and the others
    wait, by a lock on the unfinished file; the system takes the lock from a process that dies, and
    the next one begins anew.

    Raises:
        InputError: see ``make_rows``; or the feature file changes in the meantime.
    """
    key = direct.key
    folder, excuse = _writable(folders)
    path = folder / _name(direct, key)
    try:
        with _unfinished(path) as file:
            found = find_packed(direct, needed, folders)
            if found is not None:  # it was waited for
                return found
            before, why = _load(path, key)
            _write(file, direct, needed, others, before, key)
            if _key(direct) != key:
                raise InputError(
                    f"{direct.features}: changed while its rows were packed; start again "
                    f"when it is complete."
                )
            found = PackedRows(Path(file.name), key)
            os.replace(file.name, path)
            _sync(folder)
    except OSError as fault:
        if fault.errno not in _FULL:
            raise
        raise InputError(
            f"{folder}: no room for the packed features of {direct.features} "
            f"({fault.strerror}); nothing of them is left there. Choose another folder by CACHE_DIR"
            f", half the size by CACHE_DTYPE float16, or CACHE direct."
        ) from None
    _clear(path, direct)
    found.path = path
    found.said = "; ".join(filter(None, ["packed now", why, excuse]))
    return found


def _write(
    file: BinaryIO,
    direct: DirectRows,
    needed: Sequence[str],
    others: Sequence[str],
    before: PackedRows | None,
    key: str,
) -> None:
    """Rows of the needed videos, and of the others as far as they can be read; then the rest.

    Args:
        before: a file of the same key, whose rows are copied.
    """
    wanted = list(dict.fromkeys([*needed, *others, *(before or ())]))
    size = len(wanted) * direct.bytes_per_video
    if shutil.disk_usage(Path(file.name).parent).free < size:
        raise OSError(errno.ENOSPC, f"{_gigabytes(size)} are needed")
    must = set(needed)
    videos, sums = [], []
    for video in _watched(wanted, "packing features"):
        try:
            copied = None if before is None else before.stored(video)
            rows = direct.read(video) if copied is None else copied
        except InputError:
            if video in must:
                raise
            continue  # a run that needs it will be told
        file.write(rows.data)
        videos.append(video)
        sums.append(zlib.crc32(rows.data))
    about = {
        "key": key,
        "source": _source(direct),
        "setting": _setting(direct),
        "shape": (len(videos), direct.num_frames, direct.dim),
        "dtype": np.dtype(direct.dtype).newbyteorder("=").str,
        "videos": videos,
        "sums": sums,
    }
    text = json.dumps(about).encode()
    file.write(text + _END.pack(len(text), hashlib.sha256(text).digest(), _MARK))
    file.flush()
    os.fsync(file.fileno())


def _description(file: BinaryIO) -> dict[str, Any]:
    """The description at the end of a packed file; raises ``Unsound``."""
    size = file.seek(0, os.SEEK_END)
    if size < _END.size:
        raise Unsound("is cut short")
    file.seek(size - _END.size)
    length, digest, mark = _END.unpack(file.read())
    if mark != _MARK or length > size - _END.size:
        raise Unsound("is cut short or of another format")
    file.seek(size - _END.size - length)
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise Unsound("is damaged")
    about: dict[str, Any] = json.loads(text)
    if size != math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize + length + _END.size:
        raise Unsound("is damaged")
    return about


def _load(path: Path, key: str) -> tuple[PackedRows | None, str]:
    """A packed file, or why what is there is none."""
    try:
        return PackedRows(path, key), ""
    except Unsound as fault:
        return None, f"the file there {fault}"
    except OSError:
        return None, ""


def _key(direct: DirectRows) -> str:
    """Digest of what decides the rows: the setting, and by what the features are known (of a file,
    its size, time of change and a sample of its bytes). Their place is no part of it."""
    made_of = [_FORMAT, _rules(), _setting(direct), *direct.features.identity()]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _source(direct: DirectRows) -> str:
    return " + ".join(str(path.resolve()) for path in direct.features.paths)


def _setting(direct: DirectRows) -> dict[str, Any]:
    return {"T": direct.num_frames, "normalize": direct.normalize, "dtype": direct.dtype}


@functools.cache
def _rules() -> str:
    """Digest of what normalisation and resampling make of some rows: when the code changes so that
    other bits come out, the files packed before are not read any more."""
    rows = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    made = [normalize_rows(rows), *(resample(rows, length) for length in (3, 7, 16))]
    made.append(normalize_rows(rows * np.float32(1e30)))
    return hashlib.sha256(b"".join(each.tobytes() for each in made)).hexdigest()


def _name(direct: DirectRows, key: str) -> str:
    raw = "" if direct.normalize else "-raw"
    path = direct.features.path
    stem = path.name if path.is_dir() else path.stem
    stem += "-joined" if direct.features.parts else ""
    return f"{stem}-{direct.num_frames}{raw}-{direct.dtype}-{key[:12]}.rows"


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[BinaryIO]:
    """An empty file beside ``path``, ours alone; removed at the end, unless it was renamed."""
    part = path.with_name(f".{path.name}.part")
    while True:
        file = open_plain(part, "ab")
        try:
            _lock(file, f"waiting for the process that packs {path.name}")
        except OSError as fault:
            file.close()
            part.unlink(missing_ok=True)
            if fault.errno not in _NO_LOCKS:
                raise
            # Without locks each builder does the whole work, and the last to finish wins.
            part = part.with_suffix(f".{socket.gethostname()}-{os.getpid()}.part")
            file = open_plain(part, "ab")
        if _is(part, file):
            break
        file.close()  # it was renamed or removed by the process that was waited for
    with file:
        file.truncate(0)  # of a process that died
        try:
            yield file
        finally:
            if _is(part, file):
                part.unlink()


def _lock(file: BinaryIO, said: str) -> None:
    try:
        locks.lock(file)
    except BlockingIOError:
        with tqdm(desc=said, bar_format="{desc}", leave=False, disable=None):
            locks.lock(file, wait=True)


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _clear(path: Path, direct: DirectRows) -> None:
    """Remove what builders left that died, and packs of what the feature file was before."""
    for part in path.parent.glob(".*.rows*.part"):
        with contextlib.suppress(OSError, InputError), open_plain(part, "ab") as file:
            locks.lock(file)
            part.unlink()
    for other in path.parent.glob("*.rows"):
        with contextlib.suppress(OSError, Unsound), other.open("rb") as file:
            about = _description(file)
            same = about["setting"] == _setting(direct)
            if other != path and same and about["source"] == _source(direct):
                other.unlink()


def _writable(folders: Sequence[Path]) -> tuple[Path, str]:
    """The first folder that can be written, made if need be, and what was wrong with those before.

    Raises:
        InputError: none of them can.
    """
    faults: list[str] = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder, "; ".join(faults)
        except OSError as fault:
            faults.append(f"{folder} cannot be written ({fault.strerror})")
    raise InputError(
        f"{'; '.join(faults)}; expected a folder for packed features: choose one by CACHE_DIR, or "
        f"CACHE direct."
    )


def _sync(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shared_room() -> float:
    """Free bytes of shared memory; a container may have very little, and overrunning it kills."""
    try:
        return float(shutil.disk_usage("/dev/shm").free)
    except OSError:
        return math.inf  # no such mount: the system keeps shared memory elsewhere


def _watched(items: Iterable[Any], what: str) -> Iterable[Any]:
    return tqdm(items, desc=what, unit=" videos", leave=False, disable=None)


def _described(rows: Float[Tensor, "G T C"]) -> str:
    size = " x ".join(f"{length:,}" for length in rows.shape[1:])
    kind = str(rows.dtype).removeprefix("torch.")
    return f"{count(len(rows), 'video')} x {size} {kind} ({_gigabytes(rows.nbytes)})"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
