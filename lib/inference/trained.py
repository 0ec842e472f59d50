"""A trained run as its users have it: load, ground, index, export."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..base.errors import InputError
from ..base.files import unwritable
from ..base.recipe import VideoTimes
from ..datasets.features import holds_features, open_features
from ..index import HEADER, Store
from ..models.first_stage import PLACES
from ..training import checkpoint
from ..videos.backbones import open_backbone
from ..videos.extract import extract, find_videos
from .answers import Moment, Source
from .checkpoints import MANIFEST, read_checkpoints
from .download import Address, downloaded, is_address, shown, unpacked
from .export import read_export, write_export
from .grounding import moments_in
from .index import ENCODED, VideoIndex, windows_of
from .loaded import LoadedRun
from .packed import RUN_FILE, SUFFIX, require_no_code
from .sources import FeatureSource, VideoRows

EXTRACTED = "features.hdf5"  # in the folder of an index


def load(run: str | Path, *, device: str = "") -> TrainedRun:
    """A trained run.

    Args:
        run: the folder of a run, of which best.pt is read; a checkpoint; the folder or the file
            (``.zip``) that ``export`` wrote; the URL of such a file with its digest,
            ``https://host/run.zip#sha256=<64 hexadecimal digits>``; or a name of
            ``checkpoints.yaml``. What is fetched is kept (``lib.inference.download``).
        device: as ``--gpus``: empty for the first GPU, if there is one; ``cpu``; or a number.

    Raises:
        InputError: there is none, it is damaged, or it cannot answer; or it cannot be fetched, or
            is not the file that the digest means.
    """
    folder = _from_elsewhere(run)
    path = folder or Path(run)
    if (path / RUN_FILE).is_file():
        state = read_export(path)
        if folder is not None:
            require_no_code(state, str(run) if isinstance(run, Path) else shown(run))
        return TrainedRun(state, path, device=device)
    file = checkpoint_of(path)
    return TrainedRun(checkpoint.load(file, needs=("model", "epoch")), file, device=device)


def _from_elsewhere(run: str | Path) -> Path | None:
    """The folder of a run that is given by a URL, a name of the manifest, or a file of one piece;
    None of one that lies in a folder of its own."""
    if isinstance(run, str) and is_address(run):
        return downloaded(Address.parse(run))
    path = Path(run)
    if path.suffix == SUFFIX and path.is_file():
        return unpacked(path)
    if not path.exists() and (entry := read_checkpoints().get(str(run))) is not None:
        return downloaded(Address.of(entry))
    return None


def checkpoint_of(path: Path) -> Path:
    """The checkpoint itself, or best.pt of a run's folder.

    Raises:
        InputError: the folder has none.
    """
    file = path / "best.pt" if path.is_dir() else path
    if not file.exists():
        raise InputError(
            f"{path} holds no trained run (neither best.pt nor {RUN_FILE}); expected the folder of "
            "a run that has finished an epoch, or of an export, or a name of "
            f"{MANIFEST.name} (which has {', '.join(read_checkpoints()) or 'none yet'})"
        )
    return file


def open_index(
    folder: str | Path, *, run: str | Path | None = None, device: str = "", faiss: str = ""
) -> VideoIndex:
    """An index, with the run that made it.

    Args:
        run: where that run is, if not where it was; as ``load`` takes it.
        faiss: see ``VideoIndex``.
        device: see ``load``.

    Raises:
        InputError: there is no index, or the run is not the one that made it, or cannot be found.
    """
    there = Store.open(Path(folder) / ENCODED).header["run"]
    if run is None and not Path(there["path"]).exists():
        raise InputError(
            f"{folder}: the run that made it ({there['run']}) is not at {there['path']} any more; "
            "name it by --run"
        )
    index = VideoIndex(Path(folder), load(run or there["path"], device=device))
    index.faiss = faiss
    return index


class TrainedRun(LoadedRun):
    """What ``load`` returns."""

    def ground(
        self,
        video: str | Path | Float[np.ndarray, "n C"],
        paragraph: str | Sequence[str],
        *,
        duration: float | None = None,
        weights: str | None = None,
    ) -> tuple[Moment, ...]:
        """The moment of each sentence in one video.

        Args:
            video: the file of a video, whose features are extracted as those of the run were; or
                its features, with ``duration``.
            paragraph: a text, or its sentences.
            duration: seconds that the features cover.
            weights: the file of the backbone's weights, where its library has none.

        Raises:
            InputError: the video cannot be read, or the run cannot read it.
        """
        self.require_grounding()
        query = self.read(paragraph)
        rows = self._rows_of(video, duration, weights)
        parts = windows_of(self, rows.times.duration)
        encoded = self.encode_videos([rows.window(part.start, part.end) for part in parts])
        return moments_in(self, query, encoded, parts, rows.times.duration)

    def index(
        self,
        videos: str | Path | Sequence[str | Path],
        into: str | Path | None = None,
        *,
        weights: str | None = None,
        same_recipe: bool = False,
        seconds_per_row: float | None = None,
        durations: Mapping[str, float] | None = None,
        files: str | Path | None = None,
        places: int = PLACES,
        prune: bool = False,
        log: Callable[[str], None] = print,
    ) -> VideoIndex:
        """An index of videos, made or brought up to date: what is there already is kept.

        Args:
            videos: a folder of videos or one of them, whose features are extracted as those that
                the run was trained on; or features in any layout (an HDF5 file, a folder of
                ``.npy``, …), several of which are joined. Or a list of these.
            into: the folder of the index; None: beside the videos, with ``.index`` added.
            weights: the file of the backbone's weights, where its library has none.
            same_recipe, seconds_per_row, durations: of a feature file, see ``FeatureSource``.
            files: the folder of the videos that a feature file is of, so that they can be played.
            places: of a new index, see ``VideoIndex.build``.
            prune: remove from the index what is not among the videos any more.
            log: is given a line for each video that is skipped.

        Raises:
            InputError: nothing can be indexed, or the index is of another run.
        """
        given = [videos] if isinstance(videos, str | Path) else videos
        paths = [Path(path) for path in given]
        if not paths:
            raise InputError("there are no videos to index; expected a folder of them, or features")
        first = paths[0].resolve()
        into = Path(into) if into is not None else first.with_name(f"{first.name}.index")
        skipped: Mapping[Path, str] = {}
        if all(map(holds_features, paths)):
            data = self.config.DATASET
            source = FeatureSource(
                open_features(paths, member=data.FEATURE_MEMBER),
                self.state["features"],
                same_recipe=same_recipe,
                seconds_per_row=seconds_per_row or data.SECONDS_PER_ROW or None,
                durations=durations,
                files=find_videos([Path(files)]) if files is not None else None,
            )
        else:
            source, skipped = self._extracted(paths, into / EXTRACTED, weights, log)
        if (into / ENCODED / HEADER).exists():
            index = VideoIndex(into, self)
            index.updated = index.update(source, prune=prune)
        else:
            index = VideoIndex.build(into, self, source, places=places)
        index.skipped = skipped
        return index

    def _extracted(
        self, videos: list[Path], out: Path, weights: str | None, log: Callable[[str], None]
    ) -> tuple[FeatureSource, dict[Path, str]]:
        """The features of video files, made as those that the run was trained on."""
        if self.recipe is None:
            raise InputError(
                f"{videos[0]}: {self.name} cannot read videos: the features that it was trained on "
                "do not say how they were made, so none can be made alike; expected a feature file"
                " made in the same way, with --same-recipe"
            )
        find_videos(videos)  # a path without videos is said before weights are loaded
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise unwritable(out.parent, fault) from None
        backbone = open_backbone(self.recipe, weights)
        done = extract(videos, backbone, out, runtime=self.runtime, log=log)
        source = FeatureSource(
            out, self.state["features"], videos=tuple(done.videos), files=done.videos
        )
        return source, done.skipped

    def _rows_of(
        self,
        video: str | Path | Float[np.ndarray, "n C"],
        duration: float | None,
        weights: str | None,
    ) -> VideoRows:
        if isinstance(video, np.ndarray):
            if duration is None or duration <= 0:
                raise InputError("features of a video need its duration in seconds; expected one")
            step = duration / max(len(video), 1)
            times = VideoTimes(0.0, duration, 0.0, step, step)
            return VideoRows("", video, times, Source("", 0.0, duration))
        with tempfile.TemporaryDirectory() as scratch:
            source, skipped = self._extracted(
                [Path(video)], Path(scratch) / EXTRACTED, weights, lambda line: None
            )
            for sentence in skipped.values():
                raise InputError(sentence)
            return next(iter(source))

    def export(self, folder: str | Path) -> None:
        """Write the run as safetensors and JSON into a new folder, or into one new file if its
        name ends in ``.zip``, from which ``load`` reads the same bits.

        Raises:
            InputError: see ``write_export``.
        """
        write_export(self.state, self.words.path if self.words else None, Path(folder))
