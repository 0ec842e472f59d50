"""Word vectors as text: GloVe's, word2vec's and fastText's ``.vec``, packed or not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import re
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...base.errors import InputError
from ...base.files import open_input, write_text
from ..features.arrays import ZIP_DAMAGE
from .faults import Faults

HEADER = re.compile(rb"([0-9]{1,12})[ \t]([0-9]{1,6})\s*")
COPY_FROM = 200 * 2**20  # bytes of text from which a binary copy is worth its place
_LONGEST = 2**20  # bytes of a line
_LOOKED_AT = 64  # lines from which the width is found
_TIMES, _ROOM = 100, 2**26  # how much more than the packed file its text may be, at most
PACKED_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, *ZIP_DAMAGE)
_SKIPPED = ("__MACOSX/", "._")

Table = tuple[list[str], Float[Tensor, "n E"], list[str]]  # words, vectors, notes


def read_text(path: Path, width: int = 0) -> Table:
    """Words, vectors and notes of a text file; of a large one a binary copy is kept beside it.

    The copy is in torchtext's format and is read by it. Its folder is named after the file's size
    and age, so that a newer file is never shadowed, and it appears there whole.

    Raises:
        InputError: it is no such file, or of another width.
    """
    stat = path.stat()
    folder = path.with_name(f".{path.name}.cache") / f"{stat.st_size}-{stat.st_mtime_ns}"
    with contextlib.suppress(Exception):  # a damaged copy is made again
        found = _read_copy(path, folder)
        require_width(str(path), found[1].shape[1], width)
        return found
    with open_input(path, mode="rb") as file:
        table = parse(file, str(path), width)
    if stat.st_size >= COPY_FROM:
        with contextlib.suppress(OSError, InputError):  # no room, or not ours to write
            _write_copy(path, folder, table)
    return table


def _read_copy(path: Path, folder: Path) -> Table:
    copy = folder / f"{path.name}.pt"
    if not copy.is_file():
        raise FileNotFoundError(copy)
    from torchtext.vocab import Vectors  # late: only needed here

    loaded = Vectors(str(path), cache=str(folder))
    notes = json.loads((folder / "notes.json").read_text("utf-8"))
    if not bool(torch.isfinite(loaded.vectors).all()) or len(loaded.itos) != len(loaded.vectors):
        raise ValueError(copy)
    return list(loaded.itos), loaded.vectors, [str(note) for note in notes]


def _write_copy(path: Path, folder: Path, table: Table) -> None:
    words, matrix, notes = table
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "notes.json", json.dumps(notes))
    part = folder / f"{path.name}.pt.{os.getpid()}"
    index = {word: row for row, word in enumerate(words)}
    torch.save((words, index, matrix, matrix.shape[1]), part)
    part.replace(folder / f"{path.name}.pt")


def read_packed(path: Path, width: int = 0) -> Table:
    """The same of a ``.gz``, ``.xz`` or ``.bz2`` file, or of a member of a ``.zip``: its only one,
    or that of the width asked for.

    Raises:
        InputError: it is damaged, or it is not known which member is meant.
    """
    try:
        with open_input(path, mode="rb") as file:
            start = file.read(4)
            file.seek(0)
            size = path.stat().st_size
            if not start.startswith(b"PK"):
                with _unpacked(file, start) as inside:
                    return parse(_Bounded(inside, size, str(path)), str(path), width)
            with zipfile.ZipFile(file) as archive:
                name = _member(archive, path, width)
                with archive.open(name) as inside:
                    where = f"{path}: {name}"
                    return parse(_Bounded(inside, size, where), where, width)
    except PACKED_DAMAGE as fault:
        raise InputError(f"{path}: cannot be unpacked; is it complete? ({fault})") from None


def _unpacked(file: IO[bytes], start: bytes) -> Any:
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    return bz2.BZ2File(file) if start.startswith(b"BZh") else lzma.LZMAFile(file)


def _member(archive: zipfile.ZipFile, path: Path, width: int) -> str:
    names = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir() and not Path(info.filename).name.startswith(_SKIPPED[1])
        if not info.filename.startswith(_SKIPPED[0])
    ]
    if len(names) == 1:
        return names[0]
    widths = {name: _width_of_member(archive, name) for name in names[:16]}
    fitting = [name for name, each in widths.items() if each and each == width]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(f"{name} ({each or 'no'} numbers)" for name, each in widths.items())
    asked = f", and {width} is asked for" if width else ""
    raise InputError(
        f"{path}: holds {shown or 'nothing'}{asked}; expected one of vectors, or their width as "
        "DATASET.WORD_DIM."
    )


def _width_of_member(archive: zipfile.ZipFile, name: str) -> int:
    with archive.open(name) as inside:
        lines = [inside.readline(_LONGEST) for _ in range(_LOOKED_AT)]
    return width_of(lines)


class _Bounded:
    """Lines of packed text, which may not be endlessly longer than the packed file."""

    def __init__(self, file: Any, packed: int, where: str) -> None:
        self.file, self.where = file, where
        self.left = _TIMES * packed + _ROOM

    def readline(self, most: int) -> bytes:
        line: bytes = self.file.readline(most)
        self.left -= len(line)
        if self.left < 0:
            raise InputError(
                f"{self.where}: unpacks to more than {_TIMES} times its size; expected a text."
            )
        return line


def width_of(lines: list[bytes]) -> int:
    """The width that the first lines of a text have: that of the header, or else of most of them;
    0 = none."""
    lines = [line.rstrip() for line in lines if line.strip()]
    if not lines:
        return 0
    header = HEADER.fullmatch(lines[0])
    if header and len(lines) > 1 and _numbers(lines[1]) >= int(header[2]) > 0:
        return int(header[2])
    counts = Counter(_numbers(line) for line in lines)
    counts.pop(0, None)
    return counts.most_common(1)[0][0] if counts else 0


def _numbers(line: bytes) -> int:
    """How many numbers stand behind the first word of a line."""
    count = 0
    for piece in reversed(line.rstrip().split(b" ")[1:]):
        if _is_number(piece):
            count += 1
        else:
            break
    return count


def _is_number(piece: bytes) -> bool:
    try:
        float(piece)
    except ValueError:
        return False
    return b"_" not in piece


def is_binary(start: bytes) -> bool:
    """Whether a file begins as word2vec's binary format does: two numbers on a line, and then no
    text of as many numbers.

    Args:
        start: its first bytes, some lines of a text.
    """
    line, _, rest = start.partition(b"\n")
    if not HEADER.fullmatch(line) or not rest:
        return False
    lines = rest.split(b"\n")[:_LOOKED_AT]
    whole = lines[:-1] if len(lines) > 1 else lines
    return width_of([line, *whole]) != int(line.split()[1])


def parse(file: Any, where: str, width: int = 0) -> Table:
    """Words and vectors of lines ``word number number …``.

    The numbers are the last of a line, as many as most lines have, so that a word may hold spaces
    (as in GloVe 840B). A line with more numbers, with fewer, or with something else in their place
    is left out.

    Args:
        file: with ``readline``.
        width: that there must be; 0 = any.

    Raises:
        InputError: many lines are wrong, or the width is another one.
    """
    first = [line for line in (file.readline(_LONGEST) for _ in range(_LOOKED_AT)) if line]
    if is_binary(b"".join(first)):
        raise InputError(
            f"{where}: is word2vec's binary file, packed; expected it unpacked (gunzip -k or unzip)"
            ", because it is read in place."
        )
    found = width_of(first)
    faults = Faults(where)
    if not found:
        for number, line in enumerate(first, start=1):
            faults.add(number, _shown(line))
        faults.refuse(len(first))
    require_width(where, found, width)
    header = HEADER.fullmatch(first[0].rstrip())
    promised = int(header[1]) if header and int(header[2]) == found else None
    words: list[str] = []
    values, numbers = array("f"), array("q")
    odd = total = 0
    for number, line in enumerate(_lines(first, file), start=1):
        stripped = line.rstrip()
        if not stripped or (number == 1 and promised is not None):
            continue
        total += 1
        word, *pieces = stripped.rsplit(b" ", found)
        last = word.rpartition(b" ")
        try:
            if len(pieces) != found or (last[1] and _is_number(last[2])):
                raise ValueError
            row = list(map(float, pieces))
        except ValueError:
            faults.add(number, _shown(stripped))
            continue
        text = word.decode("utf-8", "replace")
        odd += "\ufffd" in text
        words.append(text)
        numbers.append(number)
        values.extend(row)
    if not words:
        faults.refuse(total)
    matrix = np.frombuffer(values, dtype=np.float32).reshape(len(words), found)
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        for row_ in np.flatnonzero(~finite):
            faults.add(numbers[row_], f"({words[row_]!r}) is not finite")
        words = [words[row_] for row_ in np.flatnonzero(finite)]
        matrix = matrix[finite]
    faults.require_few(total)
    notes = faults.notes()
    if promised is not None and promised != total:
        notes.append(f"{where}: says that it has {promised:,} words, and has {total:,}; cut short?")
    if odd:
        notes.append(f"{where}: {odd:,} words are not UTF-8")
    return words, torch.from_numpy(matrix), notes


def _lines(first: list[bytes], file: Any) -> Iterator[bytes]:
    """Whole lines; of one that is longer than any line of vectors the beginning."""
    going_on = False
    for line in first:
        if not going_on:
            yield line
        going_on = not line.endswith(b"\n")
    while line := file.readline(_LONGEST):
        if not going_on:
            yield line
        going_on = not line.endswith(b"\n")


def _shown(line: bytes) -> str:
    text = line.rstrip().decode("utf-8", "replace")
    count = _numbers(line)
    return f"({text[:24] + '…' * (len(text) > 24)!r}) has {count} numbers at its end"


def require_width(where: str, found: int, width: int) -> None:
    """Raises InputError unless the vectors are as wide as they must be (0 = any)."""
    if width and found != width:
        raise InputError(f"{where}: vectors are {found} wide; expected {width} (DATASET.WORD_DIM).")
