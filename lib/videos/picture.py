"""Frames as decoded -> the pixels that a network is given."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..base.errors import InputError
from ..base.recipe import Recipe
from .optional import optional

INTERPOLATIONS = ("bilinear", "pillow bicubic")
_FIXED = re.compile(r"(\d{1,5})x(\d{1,5})")
_SHORT = re.compile(r"short (\d{1,5})")
_CORNER = re.compile(r"(\d{1,5})x(\d{1,5})\+(\d{1,5})\+(\d{1,5})")
_CENTRE = re.compile(r"centre (\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class Picture:
    """Resize, then crop. The words are those of ``Recipe``.

    Raises:
        InputError: they say nothing that can be done, or a crop larger than the picture.
    """

    resize: str
    crop: str
    interpolation: str

    def __post_init__(self) -> None:
        fixed, short = _FIXED.fullmatch(self.resize), _SHORT.fullmatch(self.resize)
        if not fixed and not short:
            raise InputError(f"resize {self.resize!r}: expected 171x128 or short 256.")
        if not _CORNER.fullmatch(self.crop) and not _CENTRE.fullmatch(self.crop):
            raise InputError(f"crop {self.crop!r}: expected 112x112+30+8 or centre 224x224.")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"interpolation {self.interpolation!r}: expected {', '.join(INTERPOLATIONS)}."
            )
        smallest = (int(fixed[1]), int(fixed[2])) if fixed else (int(short[1]),) * 2  # type: ignore[index]
        left, top, width, height = self.box(*smallest)
        fits = left >= 0 <= top and left + width <= smallest[0] and top + height <= smallest[1]
        if not fits or not width or not height:
            raise InputError(f"crop {self.crop!r}: does not fit in a picture of {self.resize}.")

    @classmethod
    def of(cls, recipe: Recipe) -> Picture:
        return cls(recipe.resize, recipe.crop, recipe.interpolation)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        found = _CORNER.fullmatch(self.crop) or _CENTRE.fullmatch(self.crop)
        assert found is not None
        return int(found[2]), int(found[1])

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the resize of a picture that is shown so wide and high."""
        fixed = _FIXED.fullmatch(self.resize)
        if fixed:
            return int(fixed[1]), int(fixed[2])
        short = int(self.resize.removeprefix("short "))
        # In floating point and cut off, as torchvision computes it.
        long = int(short * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of the crop from a resized picture."""
        corner = _CORNER.fullmatch(self.crop)
        if corner:
            return int(corner[3]), int(corner[4]), int(corner[1]), int(corner[2])
        high, wide = self.shape
        return round((width - wide) / 2), round((height - high) / 2), wide, high

    def pixels(self, frame: Any, aspect: float = 1.0) -> UInt8[np.ndarray, "H W 3"]:
        """A frame of PyAV as RGB, turned upright.

        Args:
            aspect: how much wider a pixel is shown than high.
        """
        turns = round(frame.rotation / 90) % 4
        shown = (max(1, round(frame.width * aspect)), frame.height)
        width, height = self.size(*(shown if turns % 2 == 0 else shown[::-1]))
        box = self.box(width, height)
        array = frame.to_ndarray(format="rgb24")
        if self.interpolation == "bilinear" and not turns:
            return bilinear(array, width, height, box)
        resize = bilinear if self.interpolation == "bilinear" else _pillow_bicubic
        array = resize(array, *((width, height) if turns % 2 == 0 else (height, width)))
        left, top, wide, high = box
        turned = np.rot90(array, k=turns)  # after the resize, which makes it smaller
        return np.ascontiguousarray(turned[top : top + high, left : left + wide])


def bilinear(
    pixels: UInt8[np.ndarray, "h w 3"],
    width: int,
    height: int,
    box: tuple[int, int, int, int] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Bilinear interpolation at pixel centres, without antialiasing, rounded to whole levels: what
    torchvision's transforms of video networks do to a tensor.

    Args:
        box: left, top, width and height of the part of the result that is wanted; None = all.
    """
    left, top, wide, high = box or (0, 0, width, height)
    upper, lower, down = (x[top : top + high] for x in _neighbours(pixels.shape[0], height))
    one, other, across = (x[left : left + wide] for x in _neighbours(pixels.shape[1], width))
    # Three levels a pixel, side by side: columns are then picked in one dimension.
    one, other = ((3 * x[:, None] + np.arange(3)).reshape(-1) for x in (one, other))
    across = across.repeat(3)
    flat = pixels.reshape(len(pixels), -1)

    def blended(rows: np.ndarray) -> np.ndarray:
        near, far = (flat[rows].take(x, axis=1).astype(np.float32) for x in (one, other))
        near *= 1 - across
        far *= across
        near += far
        return near

    result, below = blended(upper), blended(lower)
    result *= 1 - down[:, None]
    below *= down[:, None]
    result += below
    return np.rint(result, out=result).astype(np.uint8).reshape(high, wide, 3)


@functools.lru_cache(maxsize=64)
def _neighbours(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each wanted pixel: the two pixels it lies between, and the weight of the second."""
    scale = np.float32(size / wanted)
    place = np.maximum(scale * (np.arange(wanted, dtype=np.float32) + 0.5) - 0.5, 0)
    first = np.minimum(place.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    return first, second, (place - first).astype(np.float32)


def _pillow_bicubic(
    pixels: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "H W 3"]:
    pillow = optional("PIL.Image", "pillow", "resizing as Pillow does")
    image = pillow.fromarray(pixels).resize((width, height), pillow.Resampling.BICUBIC)
    return np.asarray(image)
