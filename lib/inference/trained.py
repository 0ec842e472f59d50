"""A trained run as its users have it: load, ground, index, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lib.base.errors import InputError
from lib.base.recipe import VideoTimes
from lib.inference.answers import Moment, Source
from lib.inference.export import RUN_FILE, read_export, write_export
from lib.inference.grounding import moments_in
from lib.inference.index import windows_of
from lib.inference.loaded import LoadedRun
from lib.inference.sources import VideoRows
from lib.training import checkpoint


def load(path: str | Path, *, device: str = "") -> TrainedRun:
    """A trained run.

    Args:
        path: the folder of a run, of which best.pt is read; a checkpoint; or the folder that
            ``export`` wrote.
        device: as ``--gpus``: empty for the first GPU, if there is one; ``cpu``; or a number.

    Raises:
        InputError: there is none, it is damaged, or it cannot answer.
    """
    path = Path(path)
    if (path / RUN_FILE).is_file():
        return TrainedRun(read_export(path), path, device=device)
    file = checkpoint_of(path)
    return TrainedRun(checkpoint.load(file), file, device=device)


def checkpoint_of(path: Path) -> Path:
    """The checkpoint itself, or best.pt of a run's folder.

    Raises:
        InputError: the folder has none.
    """
    file = path / "best.pt" if path.is_dir() else path
    if not file.exists():
        raise InputError(
            f"{path} holds no trained run (neither best.pt nor {RUN_FILE}); expected the folder of "
            "a run that has finished an epoch, or of an export"
        )
    return file


class TrainedRun(LoadedRun):
    """What ``load`` returns."""

    def ground(
        self,
        video: str | Path | Float[np.ndarray, "n C"],
        paragraph: str | Sequence[str],
        *,
        duration: float | None = None,
    ) -> tuple[Moment, ...]:
        """The moment of each sentence in one video.

        Args:
            video: the file of a video, whose features are extracted as those of the run were; or
                its features, with ``duration``.
            paragraph: a text, or its sentences.
            duration: seconds that the features cover.

        Raises:
            InputError: the video cannot be read, or the run cannot read it.
        """
        self.require_grounding()
        query = self.read(paragraph)
        rows = self._rows_of(video, duration)
        parts = windows_of(self, rows.times.duration)
        encoded = self.encode_videos([rows.window(part.start, part.end) for part in parts])
        return moments_in(self, query, encoded, parts, rows.times.duration)

    def _rows_of(
        self, video: str | Path | Float[np.ndarray, "n C"], duration: float | None
    ) -> VideoRows:
        if isinstance(video, np.ndarray):
            if duration is None or duration <= 0:
                raise InputError("features of a video need its duration in seconds; expected one")
            step = duration / max(len(video), 1)
            times = VideoTimes(0.0, duration, 0.0, step, step)
            return VideoRows("", video, times, Source("", 0.0, duration))
        raise NotImplementedError

    def export(self, folder: str | Path) -> None:
        """Write the run as safetensors and JSON into a new folder, from which ``load`` reads the
        same bits.

        Raises:
            InputError: the folder is not empty or cannot be written, or safetensors is missing.
        """
        write_export(self.state, self.words.path if self.words else None, Path(folder))
