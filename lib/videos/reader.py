"""Files decoded in processes of their own, seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..base.installed import FIND_PACKAGE
from .child import HEAD
from .decode import Decoded, VideoInfo
from .errors import BrokenVideo
from .optional import optional
from .picture import Picture

_CHILD = f"{FIND_PACKAGE}; from {__package__}.child import main; main()"


def probe(path: Path) -> VideoInfo:
    """What the head of a video file says, read in a process with bounded memory.

    Raises:
        BrokenVideo: it cannot be opened, or is no video.
        InputError: PyAV is not installed.
    """
    with FrameStream(path) as stream:
        return stream.info


class FrameStream:
    """The sampled frames of a file, decoded in a process of their own.

    Args:
        rate: see ``Video.sampled``.
        picture: how frames are prepared; None = only the head is read.
        first: see ``Video.sampled``.

    Attributes:
        info: what the file's head says.
        decoded: what decoding found, at the end of ``frames``.

    Raises:
        BrokenVideo: it cannot be opened, or is no video.
        InputError: PyAV is not installed.
    """

    def __init__(
        self,
        path: Path,
        rate: Fraction | None = None,
        picture: Picture | None = None,
        *,
        first: int = 0,
    ) -> None:
        optional("av", "av", "reading videos")
        self.path = path
        self.decoded: Decoded | None = None
        self._picture = picture
        request: dict[str, Any] = {"path": str(path), "decode": picture is not None}
        if picture is not None:
            request.update(
                rate=str(rate) if rate is not None else "",
                resize=picture.resize,
                crop=picture.crop,
                interpolation=picture.interpolation,
                first=first,
            )
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stdin:
                stdin.write(json.dumps(request).encode())
            self.info = VideoInfo(**json.loads(self._message()[1]))
        except BrokenPipeError:
            died = self._died()
            self.close()
            raise died from None
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The frames in order; each array is the caller's own.

        Raises:
            BrokenVideo: the file has no frame, or decoding it ended its process.
        """
        assert self._picture is not None
        shape = (*self._picture.shape, 3)
        while True:
            kind, payload = self._message()
            if kind == b"D":
                self.decoded = Decoded(**json.loads(payload))
                return
            yield np.frombuffer(payload, dtype=np.uint8).reshape(shape)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _message(self) -> tuple[bytes, bytearray]:
        kind, size = HEAD.unpack(self._read(HEAD.size))
        payload = self._read(size)
        if kind == b"E":
            raise BrokenVideo(payload.decode())
        if kind == b"X":
            raise RuntimeError(f"decoding {self.path} failed:\n{payload.decode()}")
        return kind, payload

    def _read(self, size: int) -> bytearray:
        assert self._process.stdout is not None
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._process.stdout.readinto1(rest)  # type: ignore[attr-defined]
            if not count:
                raise self._died()
            rest = rest[count:]
        return data

    def _died(self) -> Exception:
        status = self._process.wait()
        if status > 0:  # not by a signal: Python itself could not go on
            self._said.seek(0)
            said = self._said.read().decode(errors="replace")
            return RuntimeError(f"the decoder's process ended with the status {status}:\n{said}")
        return BrokenVideo(
            f"{self.path}: decoding it ended the decoder's process (status {status}); the file is "
            f"damaged, or too large for the memory."
        )
