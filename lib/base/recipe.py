"""What decides the values of feature rows, written with them and compared when they are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from .errors import InputError

# Attributes of an HDF5 file of features.
RECIPE = "recipe"
RECIPE_SHA256 = "recipe_sha256"
MADE_BY = "made_by"  # JSON: versions, device, precision, batch; informative, never compared

# Attributes of a video's dataset in it. Times are in seconds.
START = "start"  # what the container's clock says at the first frame
DURATION = "duration"
ROW_START = "row_start"
ROW_STEP = "row_step"
ROW_SPAN = "row_span"
FPS = "fps"  # frames of the file per second, on average
FRAMES = "frames"
FRAMES_WITHOUT_PTS = "frames_without_pts"
FRAMES_CORRUPT = "frames_corrupt"  # that the decoder made up in part
ROTATION = "rotation"  # degrees counter-clockwise that were turned
CONTAINER = "container"
SOURCE = "source"  # name of the file, without its folder
SIZE = "size"  # bytes of it
MODIFIED_NS = "modified_ns"
ENDS_EARLY = "ends_early"  # why, where the file was not whole; empty otherwise

CONTAINER_RATE = "container"
# Counted up when frames of the same recipe are sampled or prepared in another way than before.
RULES = 1
_FRACTION = re.compile(r"[1-9][0-9]{0,8}/[1-9][0-9]{0,8}")
_TITLES = {
    "weights_sha256": "SHA-256 of the weights",
    "rate": "sampled frames per second",
    "frames": "frames per window",
    "stride": "sampled frames from window to window",
    "channels": "channel order",
    "mean_sha256": "SHA-256 of the mean's file",
    "projection_sha256": "SHA-256 of the projection's file",
    "normalised": "rows normalised",
    "rules": "version of the rules of sampling and preparing",
}


@dataclass(frozen=True)
class Recipe:
    """How a video becomes rows. Files of equal recipes hold comparable rows.

    Frames are sampled by a clock that starts at the first frame, prepared, gathered in windows,
    and each window becomes one row.

    Attributes:
        backbone: a name of ``lib.videos.backbones``, or a reference ``file.py:Name``.
        weights: the name of their file; informative, the digest is what is compared.
        weights_sha256: of the file.
        rate: sampled frames per second, a fraction as text (``15/2``); or ``container``: every
            frame of the file, whatever its rate.
        frames: sampled frames per window.
        stride: sampled frames from the start of a window to that of the next.
        resize: ``171x128`` (wide x high, ignoring the aspect), or ``short 256`` (the shorter side).
        crop: ``112x112+30+8``: wide x high, right and down of the upper left corner; or
            ``centre 224x224``.
        interpolation: ``bilinear`` (without antialiasing, rounded to whole levels), or ``pillow
            bicubic`` (with it, as Pillow does).
        channels: ``rgb`` or ``bgr``.
        scale: a fraction as text by which a level of 0 to 255 is multiplied.
        mean, std: per channel, in that order: (scale · level − mean) / std.
        mean_sha256: of the file whose mean is subtracted from the levels first; empty without one.
        tap: where in the network the row is taken.
        projection_sha256: of the file by which the row is projected; empty without one.
        width: of a row.
        normalised: whether rows have the Euclidean length 1.
        rules: ``RULES`` of the code that made the rows.
    """

    backbone: str
    weights: str
    weights_sha256: str
    rate: str
    frames: int
    stride: int
    resize: str
    crop: str
    interpolation: str
    channels: str
    scale: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tap: str
    width: int
    normalised: bool = False
    mean_sha256: str = ""
    projection_sha256: str = ""
    rules: int = RULES

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            problem = _problem(field.name, getattr(self, field.name))
            if problem:
                raise InputError(f"the recipe's {_title(field.name)} is {problem}.")

    @property
    def frames_per_second(self) -> Fraction | None:
        """The rate; None where it is the container's."""
        return None if self.rate == CONTAINER_RATE else Fraction(self.rate)

    @property
    def row_start(self) -> float | None:
        """When the first row begins, in seconds from the first frame; None as ``row_step``."""
        return None if self.rate == CONTAINER_RATE else 0.0

    @property
    def row_step(self) -> float | None:
        """Seconds from row to row; None at the container's rate, where each video has its own."""
        rate = self.frames_per_second
        return None if rate is None else float(self.stride / rate)

    @property
    def row_span(self) -> float | None:
        """Seconds that a row covers; None as ``row_step``. A single image stands for the time until
        the next one."""
        rate = self.frames_per_second
        return None if rate is None else float(self.covered / rate)

    @property
    def covered(self) -> int:
        """Sampled frames that a row stands for."""
        return self.frames if self.frames > 1 else self.stride

    def json(self) -> str:
        """The same text for equal recipes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @cached_property
    def sha256(self) -> str:
        """Digest of all that is compared."""
        return hashlib.sha256(dataclasses.replace(self, weights="").json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str, where: str = "the recipe") -> Recipe:
        """Read what ``json`` wrote.

        Args:
            where: what the text belongs to, for messages.

        Raises:
            InputError: it is no recipe.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise InputError(f"{where}: holds no recipe but {str(text)[:60]!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        wrong = [f"an unknown {name!r}" for name in sorted(values.keys() - known)]
        wrong += [f"no {_title(name)}" for name in sorted(known - values.keys())]
        if wrong:
            raise InputError(f"{where}: its recipe has {wrong[0]}.")
        for name in ("mean", "std"):
            if isinstance(values[name], list):
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def differences(self, other: Recipe) -> list[str]:
        """What differs, one phrase for each part, where the other is *there* and this one *here*;
        empty for equal recipes."""
        pairs = (
            (field.name, getattr(other, field.name), getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "weights"
        )
        return [
            f"{_title(name)} {_told(there)} there, {_told(here)} here"
            for name, there, here in pairs
            if there != here
        ]


@dataclass(frozen=True)
class VideoTimes:
    """When a video's rows are, in seconds: row i covers ``row_start + i · row_step`` and the
    ``row_span`` after it, from the first frame on; the container's clock adds ``start``."""

    start: float
    duration: float
    row_start: float
    row_step: float
    row_span: float


def recipe_of(attributes: Mapping[str, Any], where: str = "the feature file") -> Recipe | None:
    """The recipe in the attributes of a feature file; None if it has none.

    Raises:
        InputError: what is there is no recipe, or not the one that was written.
    """
    text = _text(attributes.get(RECIPE))
    if text is None:
        return None
    recipe = Recipe.from_json(text, where)
    written = _text(attributes.get(RECIPE_SHA256))
    if written is not None and written != recipe.sha256:
        raise InputError(
            f"{where}: its recipe was changed after it was written ({RECIPE_SHA256} is "
            f"{written[:12]}…, that of the recipe {recipe.sha256[:12]}…)."
        )
    return recipe


def times_of(attributes: Mapping[str, Any], where: str = "the feature file") -> VideoTimes | None:
    """The times in the attributes of a video's dataset; None if it has none.

    Raises:
        InputError: they are incomplete, or no numbers.
    """
    names = [field.name for field in dataclasses.fields(VideoTimes)]
    found = [attributes.get(name) for name in names]
    if all(value is None for value in found):
        return None
    try:
        values = [float(value) for value in found]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)) or min(values[1:]) < 0 or values[3] == 0:
        given = ", ".join(f"{name} {value}" for name, value in zip(names, found, strict=True))
        raise InputError(f"{where}: expected times in seconds as attributes, found {given}.")
    return VideoTimes(*values)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value) if value != "" else "none"


def _problem(name: str, value: Any) -> str:
    """What is wrong with a part of a recipe, as the rest of a sentence; empty if nothing is."""
    if name in ("frames", "stride", "width", "rules"):
        wrong = type(value) is not int or value < 1
        return f"{value!r}; expected a whole number of at least 1" if wrong else ""
    if name in ("mean", "std"):
        fine = isinstance(value, tuple) and len(value) == 3
        fine = fine and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
        fine = fine and (name == "mean" or 0.0 not in value)
        return "" if fine else f"{value!r}; expected three numbers"
    if name == "normalised":
        return "" if isinstance(value, bool) else f"{value!r}; expected true or false"
    if not isinstance(value, str):
        return f"{value!r}; expected text"
    if name == "scale" or (name == "rate" and value != CONTAINER_RATE):
        fine = bool(_FRACTION.fullmatch(value)) and value == fraction_text(value)
        return "" if fine else f"{value[:40]!r}; expected a fraction in lowest terms such as 15/2"
    return ""


def fraction_text(number: str | int | Fraction) -> str:
    """A number as the text of a fraction in lowest terms: 7.5 is 15/2, and 15 is 15/1."""
    fraction = Fraction(number)
    return f"{fraction.numerator}/{fraction.denominator}"
