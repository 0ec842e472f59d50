"""An exported run in one file: an archive of its files as they are, not compressed.

The same run makes the same bytes. Archives come from anywhere: one is read only if it holds the
files of an export and nothing else, and what is in it is no larger than the archive.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..base.errors import InputError
from ..base.external import is_external
from ..base.files import open_input, reason_of, replace_file, unwritable
from ..base.memory import bounded_memory
from ..base.recipe import Recipe
from ..datasets.packed_words import FILE as WORDS
from ..training.inference_state import config_of

SUFFIX = ".zip"
RUN_FILE, WEIGHTS, TENSORS = "run.json", "weights.safetensors", "tensors.safetensors"
NEEDED = (WEIGHTS, TENSORS, RUN_FILE)
_DIRECTORY = 2**28  # bytes of memory for the list of what is in an archive
_JSON = 2**28  # bytes; a vocabulary of a million words has some ten million
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the first that the format knows


def pack(files: Mapping[str, bytes], words: Path | None, path: Path) -> None:
    """Write the files of an export, and the packed words if there are any, into one file.

    Raises:
        InputError: it is there already, or cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} exists already; expected the name of a new file")

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            if words is not None:
                with words.open("rb") as source, archive.open(_member(WORDS), "w") as target:
                    shutil.copyfileobj(source, target)
            for name, content in files.items():
                archive.writestr(_member(name), content)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise unwritable(path.parent, fault) from None
    replace_file(path, write)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _MOMENT)
    member.create_system = 3  # Unix, on whatever system it is written
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    return member


def unpack(path: Path, folder: Path, *, name: str = "") -> None:
    """Write the files in an archive into a folder that is there and empty.

    Args:
        name: what messages call the archive; "" = its path.

    Raises:
        InputError: it is no exported run in one file, or damaged, or the folder cannot be written.
    """
    name = name or str(path)
    try:
        with open_input(path, mode="rb") as file, _opened(file, name) as archive:
            for member in _members(archive, path.stat().st_size, name):
                _copy(archive, member, folder / member.filename)
    except InputError:
        raise
    except Exception as fault:  # whatever a damaged archive makes zipfile raise
        raise InputError(
            f"{name} cannot be read ({reason_of(fault) or type(fault).__name__}); expected a run "
            "in one file, as export writes it"
        ) from None


@contextlib.contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[zipfile.ZipFile]:
    try:
        with bounded_memory(_DIRECTORY):
            archive = zipfile.ZipFile(file)
    except MemoryError:
        raise InputError(f"{name} is no exported run: it has far too many files") from None
    with archive:
        yield archive


def _members(archive: zipfile.ZipFile, size: int, name: str) -> list[zipfile.ZipInfo]:
    """What is to be copied, if that and nothing else is there.

    Raises:
        InputError: it is not.
    """
    members = archive.infolist()
    names = sorted(member.filename for member in members)
    if names not in (sorted(NEEDED), sorted((*NEEDED, WORDS))):
        found = ", ".join(ascii(each)[1:-1][:60] for each in names[:6]) or "nothing"
        raise InputError(
            f"{name} is no exported run: it holds {found}; expected {', '.join(NEEDED)}, perhaps "
            f"{WORDS}, and nothing else"
        )
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise InputError(f"{name} is no exported run: {member.filename} in it is no plain file")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise InputError(
                f"{name} is no exported run: {member.filename} in it is compressed, which export "
                "never does"
            )
    if archive.getinfo(RUN_FILE).file_size > _JSON:
        raise InputError(f"{name} is no exported run: its {RUN_FILE} is far too large")
    if sum(member.file_size for member in members) > size:
        raise InputError(f"{name} is damaged: what is in it is larger than the file")
    return members


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    with archive.open(member) as source, path.open("xb") as target:
        while block := source.read(1 << 20):
            try:
                target.write(block)
            except OSError as fault:
                raise unwritable(path, fault) from None


def require_no_code(state: Mapping[str, Any], name: str) -> None:
    """A run in one file is passed on, and none that is may name code to be run: a model, or a
    backbone of its features, that is a file or a module of its own.

    Raises:
        InputError: it does.
    """
    named = {}
    if isinstance(state.get("inference"), Mapping):
        named["the model"] = config_of(state).MODEL.NAME
    recipe = (state.get("features") or {}).get("recipe")
    if recipe:
        named["the backbone of its features"] = Recipe.from_json(recipe, name).backbone
    for what, code in named.items():
        if is_external(str(code)):
            raise InputError(
                f"{name}: {what} is code of its own ({str(code)[:60]!a}), and a run in one file "
                "may name none; pass such a run on as a folder, with its code"
            )
