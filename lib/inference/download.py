"""Runs from elsewhere, in a folder of this machine: each is fetched once, and known by its digest.

Nothing of a file is opened before all of it is here and has the digest that was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from tqdm import tqdm

from ..base import locks
from ..base.errors import InputError
from ..base.files import digest_of, open_input, open_plain, reason_of, sync_folder, unwritable
from .checkpoints import DIGEST, Checkpoint
from .packed import unpack

CACHE = "DMR_JRG_CACHE"  # an environment variable: the folder, in the place of ~/.cache/dmr_jrg
MOST_BYTES = 8 * 2**30  # of a file whose size nobody said
SECONDS = 30.0  # without an answer
_LOCAL = ("localhost", "127.0.0.1", "::1")
_BLOCK = 1 << 16
_NEW = ".new"  # a folder under way


@dataclass(frozen=True)
class Address:
    """A run in one file somewhere.

    Attributes:
        url: without the digest.
        size: of the file in bytes; None where nobody said it.
        name: what the run is called, a plain name.
    """

    url: str
    sha256: str
    size: int | None = None
    name: str = "run"

    @classmethod
    def parse(cls, text: str) -> Address:
        """From ``https://host/file.zip#sha256=<64 hexadecimal digits>``.

        Raises:
            InputError: it has no digest, or another scheme than https, file and (on this machine)
                http.
        """
        parts = _checked(text)
        kind, _, digest = parts.fragment.partition("=")
        if kind != "sha256" or not DIGEST.fullmatch(digest.lower()):
            raise InputError(
                f"{shown(text)} has no digest, so that nobody could tell whether the right file "
                "came; expected #sha256= and 64 hexadecimal digits behind it, which export prints"
            )
        name = plain_name(unquote(parts.path).rpartition("/")[2])
        return cls(urlunsplit(parts._replace(fragment="")), digest.lower(), name=name)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Address:
        """Of a run of the manifest.

        Raises:
            InputError: as ``parse``.
        """
        _checked(checkpoint.url)
        name = plain_name(checkpoint.name)
        return cls(checkpoint.url, checkpoint.sha256, checkpoint.size, name)


def is_address(text: str) -> bool:
    """Whether a text is a URL, and no path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/", text) is not None


def shown(url: str) -> str:
    """A URL as messages show it: short, and without what may be a password."""
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    head = re.sub(r"//[^/]*@", "//…@", head)
    return head if len(head) <= 120 and head.isprintable() else f"{ascii(head[:120])[1:-1]}…"


def plain_name(file: str) -> str:
    """The stem of a file's name, as the name of a folder."""
    stem = re.sub(r"[^\w.-]+", "_", file.removesuffix(".zip"), flags=re.ASCII)[:80]
    return stem.lstrip(".") or "run"


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 (raises where it is no number)
    except ValueError as fault:
        raise InputError(f"{shown(url)} is no URL ({fault})") from None
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{shown(url)} names a user or a password; expected a URL without")
    if not url.isprintable() or " " in url:
        raise InputError(f"{shown(url)} is no URL: it has spaces or signs that are not printed")
    secure = parts.scheme == "https" and host
    local = parts.scheme == "http" and host in _LOCAL
    file = parts.scheme == "file" and host in ("", "localhost") and parts.path
    if not (secure or local or file):
        raise InputError(
            f"{shown(url)} is not fetched; expected https://, file:///, or http:// of this machine"
        )
    return parts


# The folder.


def cache_folder() -> Path:
    """Where runs from elsewhere lie.

    Raises:
        InputError: the user has no home folder, and the variable is not set.
    """
    if named := os.environ.get(CACHE):
        return Path(named).absolute() / "runs"
    try:
        return Path.home() / ".cache" / "dmr_jrg" / "runs"
    except RuntimeError:
        raise InputError(
            f"there is no home folder to keep runs in; set {CACHE} to a folder"
        ) from None


def downloaded(address: Address) -> Path:
    """The folder of a run from elsewhere, which is fetched if it is not there yet.

    Raises:
        InputError: it cannot be fetched, is larger than it may be, has another digest, or is no
            run; or the cache cannot be written. Nothing of it is left.
    """

    def bring(scratch: Path) -> tuple[Path, str]:
        path = scratch / "download"
        found = _fetch(address, path)
        if found != address.sha256:
            raise InputError(
                f"{shown(address.url)} has the digest {found}, expected {address.sha256}: it is "
                "another file, or was changed on its way; nothing of it was opened"
            )
        return path, shown(address.url)

    return _kept(address.sha256, address.name, bring)


def unpacked(archive: Path) -> Path:
    """The folder of a run in one file of this machine.

    Raises:
        InputError: it is no run, or the cache cannot be written.
    """
    try:
        digest = digest_of(archive)
    except OSError as fault:
        raise InputError(f"{archive} cannot be read ({reason_of(fault)})") from None
    return _kept(digest, plain_name(archive.name), lambda scratch: (archive, str(archive)))


def _kept(digest: str, name: str, bring: Callable[[Path], tuple[Path, str]]) -> Path:
    """The folder with the files of an archive of this digest; made if it is not there. One process
    makes it, and others wait.

    Args:
        name: of the folder, if it is made.
        bring: given a folder to work in, the archive and what messages call it.
    """
    home = cache_folder() / digest
    if (there := _run_in(home)) is not None:
        return there
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise _no_cache(home, fault) from None
    with _locked(home):
        if (there := _run_in(home)) is not None:  # another process was faster
            return there
        scratch = home / _NEW
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
            (scratch / name).mkdir(parents=True)
            archive, called = bring(scratch)
            unpack(archive, scratch / name, name=called)
            os.replace(scratch / name, home / name)
            sync_folder(home)
        except OSError as fault:
            raise _no_cache(home, fault) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home / name


def _run_in(home: Path) -> Path | None:
    with contextlib.suppress(OSError):
        for path in sorted(home.iterdir()):
            if not path.name.startswith(".") and path.is_dir():
                return path
    return None


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    lock: IO[str] = open_plain(home / ".lock", "a+")
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            locks.lock(lock, wait=True)
        yield


def _no_cache(home: Path, fault: OSError) -> InputError:
    return InputError(
        f"{home} cannot be written ({reason_of(fault)}), where runs from elsewhere are kept; set "
        f"{CACHE} to another folder"
    )


# The way here.


class _SameRules(urllib.request.HTTPRedirectHandler):
    """Follows a server that points elsewhere, to where a URL may point."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _checked(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(address: Address, path: Path) -> str:
    """Write what lies at an address into a new file, and give back its digest."""
    most = address.size or MOST_BYTES
    name = shown(address.url)
    try:
        with contextlib.closing(_opened(address)) as source:
            stated = _length(source)
            if stated is not None and stated != address.size and (address.size or stated > most):
                raise _wrong_size(name, stated, address)
            return _copy(source, path, address, stated, most)
    except urllib.error.HTTPError as fault:
        said = (str(fault.reason).splitlines() or [""])[0][:80]
        raise InputError(
            f"{name} answers {fault.code} ({ascii(said)[1:-1]}), and no file"
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as fault:
        reason = getattr(fault, "reason", fault)
        said = reason_of(reason) if isinstance(reason, Exception) else str(reason)
        raise InputError(
            f"{name} cannot be reached ({said or type(fault).__name__}); a run that was fetched "
            "before needs no network"
        ) from None


def _opened(address: Address) -> IO[bytes]:
    parts = urlsplit(address.url)
    if parts.scheme == "file":
        return open_input(Path(urllib.request.url2pathname(parts.path)), mode="rb")
    handlers: list[urllib.request.BaseHandler] = [_SameRules()]
    if parts.hostname in _LOCAL:
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address.url, headers={"User-Agent": "dmr-jrg"})
    return urllib.request.build_opener(*handlers).open(request, timeout=SECONDS)


def _length(source: IO[bytes]) -> int | None:
    """What a server, or the system, says of the size."""
    if isinstance(source, http.client.HTTPResponse):
        stated = source.headers.get("Content-Length", "")
        return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 19 else None
    return os.fstat(source.fileno()).st_size


def _copy(source: IO[bytes], path: Path, address: Address, stated: int | None, most: int) -> str:
    sha, received = hashlib.sha256(), 0
    bar = tqdm(
        total=address.size or stated,
        desc=address.name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        dynamic_ncols=True,
        disable=None,
    )
    with bar, path.open("xb") as target:
        while block := source.read(_BLOCK):
            received += len(block)
            if received > most:
                raise _wrong_size(shown(address.url), received, address, at_least=True)
            sha.update(block)
            try:
                target.write(block)
            except OSError as fault:
                raise unwritable(path, fault) from None
            bar.update(len(block))
    if stated is not None and received < stated:
        raise InputError(
            f"{shown(address.url)}: the connection ended after {received:,} of {stated:,} bytes; "
            "try again"
        )
    if address.size is not None and received != address.size:
        raise _wrong_size(shown(address.url), received, address)
    return sha.hexdigest()


def _wrong_size(name: str, found: int, address: Address, *, at_least: bool = False) -> InputError:
    expected = f"{address.size:,}" if address.size else f"at most {MOST_BYTES:,}"
    more = "at least " if at_least else ""
    return InputError(f"{name} has {more}{found:,} bytes, expected {expected}")
