"""Keeps what a command prints in the run's folder."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, TextIO

from ..base.files import open_plain, unwritable
from ..base.terminal import for_file


class Console:
    """While it is entered, whatever goes to standard output and standard error is kept as well.

    The folder of a run exists only when all else is loaded: what is printed before waits in memory.
    Progress bars, which rewrite their line, are left out, and colours.
    """

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.file: IO[str] | None = None

    def attach(self, path: Path, *, append: bool) -> None:
        """Write what waits, and all that follows, to a file."""
        self.file = open_plain(path, "a" if append else "w")
        for text in self.waiting:
            self.keep(text)
        self.waiting.clear()

    def keep(self, text: str) -> None:
        text = for_file(text)
        if self.file is None:
            self.waiting.append(text)
        else:
            try:
                self.file.write(text)
                self.file.flush()
            except OSError as fault:
                name, file, self.file = self.file.name, self.file, None
                with contextlib.suppress(OSError):
                    file.close()
                raise unwritable(Path(name), fault) from None

    def __enter__(self) -> Console:
        self.streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Kept(stream, self) for stream in self.streams)  # type: ignore
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout, sys.stderr = self.streams
        if fault is not None and not isinstance(fault, SystemExit):
            self.keep(f"ended by {type(fault).__name__}: {fault}\n")
        if self.file is not None:
            self.file.close()


class _Kept:
    """A stream that passes everything on, and keeps what is written."""

    def __init__(self, stream: TextIO, console: Console) -> None:
        self._stream, self._console = stream, console

    def write(self, text: str) -> int:
        self._console.keep(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
