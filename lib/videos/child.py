"""The process that decodes one file: what FFmpeg does there to memory, or to itself, ends there.

Reads a request as JSON from standard input and answers on standard output with messages of one
letter, a length of eight bytes and so many bytes: I information, F a frame, D the end, E a sentence
about the file, X a fault of ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import struct
import sys
import traceback
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from ..base.errors import InputError
from .decode import Video
from .picture import Picture

HEAD = struct.Struct("<cQ")
_MOST_MEMORY = 2**31  # beyond what the process has when it starts; an 8K video takes about 1 GB


def main() -> None:
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is no message
    with contextlib.suppress(BrokenPipeError):  # the reader has gone
        request = json.load(sys.stdin)
        path = request["path"]
        try:
            _answer(request, out)
        except InputError as error:
            _send(out, b"E", str(error).encode())
        except BrokenPipeError:
            raise
        except MemoryError:
            _send(out, b"E", f"{path}: needs more memory than a video does.".encode())
        except BaseException:
            _send(out, b"X", traceback.format_exc().encode())
    os._exit(0)  # without the destructors of a library that may be in disorder


def _answer(request: dict[str, Any], out: BinaryIO) -> None:
    _limit_memory()
    with Video(Path(request["path"])) as video:
        _send(out, b"I", _json(video.info))
        if request["decode"]:
            rate = Fraction(request["rate"]) if request["rate"] else None
            picture = Picture(request["resize"], request["crop"], request["interpolation"])
            for pixels in video.sampled(rate, picture, first=request["first"]):
                _send(out, b"F", pixels.data)
            assert video.decoded is not None
            _send(out, b"D", _json(video.decoded))


def _send(out: BinaryIO, kind: bytes, payload: bytes | memoryview) -> None:
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    out.write(HEAD.pack(kind, size))
    rest = memoryview(payload).cast("B")
    while rest:
        rest = rest[out.write(rest) :]


def _json(value: Any) -> bytes:
    return json.dumps(dataclasses.asdict(value)).encode()


def _limit_memory() -> None:
    """Bound the memory of this process, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        import av  # noqa: F401 (its libraries are no part of what a file asks for)

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        most = used + _MOST_MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or most <= hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
