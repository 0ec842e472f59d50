"""What every backbone is: a network, and the recipe by which frames become its rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from ...base.errors import InputError
from ...base.recipe import CONTAINER_RATE, Recipe, fraction_text
from ..picture import Picture


@dataclass(frozen=True)
class Options:
    """What can be chosen about a backbone; None leaves it as the backbone has it.

    Attributes:
        weights: a file, or a name by which the backbone's library knows its weights.
        rate: sampled frames per second, or ``container``.
        frames: per window.
        stride: sampled frames from window to window.
        tap: where in the network the row is taken.
        channels: ``rgb`` or ``bgr``.
        mean: a file whose mean is subtracted from the levels.
        projection: a file by which rows are projected.
        only_known: leave out what a backbone has no choice of, instead of refusing it.
    """

    weights: str | None = None
    rate: str | None = None
    frames: int | None = None
    stride: int | None = None
    tap: str | None = None
    channels: str | None = None
    mean: Path | None = None
    projection: Path | None = None
    only_known: bool = False

    def over(self, backbone: str, **defaults: Any) -> Settled:
        """These options where they are given, and the defaults elsewhere.

        A default that is a tuple lists what may be chosen, the default first. What has no default
        cannot be chosen.

        Raises:
            InputError: something is given that this backbone does not have.
        """
        settled: dict[str, Any] = {}
        for name in (field.name for field in dataclasses.fields(Settled)):
            given = getattr(self, name)
            if name not in defaults:
                if given is not None and not self.only_known:
                    raise InputError(f"{backbone} has no choice of {name}; leave --{name} out.")
                continue
            default = defaults[name]
            allowed = default if isinstance(default, tuple) else ()
            if given is not None and allowed and given not in allowed:
                expected = " or ".join(map(str, allowed))
                raise InputError(f"{backbone}: --{name} {given}; expected {expected}.")
            settled[name] = given if given is not None else (allowed[0] if allowed else default)
        if "rate" in settled:
            settled["rate"] = _rate(settled["rate"])
        for name in ("frames", "stride"):
            if settled.get(name, 1) < 1:
                raise InputError(f"{backbone}: --{name} {settled[name]}; expected at least 1.")
        return Settled(**settled)


@dataclass(frozen=True)
class Settled:
    """Options after the choice."""

    weights: str | None = None
    rate: str = CONTAINER_RATE
    frames: int = 1
    stride: int = 1
    tap: str = ""
    channels: str = "rgb"
    mean: Path | None = None
    projection: Path | None = None


class Backbone(nn.Module):
    """Windows of frames -> rows, as the recipe says. In evaluation mode, without gradients.

    Args:
        network: (B, 3, T, H, W) float32 -> (B, width of the tap).
        mean: of the levels, shaped as a window: (3, T, H, W), or (3, 1, H, W).
        projection: a vector that is subtracted from a row of the tap, and a matrix (width of the
            tap, width) that it is then multiplied by.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        *,
        mean: Float[Tensor, "3 t H W"] | None = None,
        projection: tuple[Float[Tensor, " D"], Float[Tensor, "D C"]] | None = None,
    ) -> None:
        super().__init__()
        Picture.of(recipe)  # raises where the recipe asks for what cannot be done
        if recipe.channels not in ("rgb", "bgr"):
            raise InputError(f"channel order {recipe.channels!r}; expected rgb or bgr.")
        self.recipe = recipe
        self.network = network
        self.level_mean: Tensor | None
        self.offset: Tensor | None
        self.matrix: Tensor | None
        self.register_buffer("level_mean", mean, persistent=False)
        self.register_buffer("offset", projection[0] if projection else None, persistent=False)
        self.register_buffer("matrix", projection[1] if projection else None, persistent=False)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, windows: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B C"]:
        """Rows of windows of RGB levels, float32.

        Raises:
            InputError: the network's rows are not as wide as the recipe says.
        """
        rows = self.network(self.prepared(windows)).float()
        if self.offset is not None and self.matrix is not None:
            with torch.autocast(rows.device.type, enabled=False):
                rows = (rows - self.offset) @ self.matrix
        if rows.shape != (len(windows), self.recipe.width):
            raise InputError(
                f"{self.recipe.backbone}: gives rows of the shape {tuple(rows.shape)} for "
                f"{len(windows)} windows; its recipe says {self.recipe.width} wide."
            )
        return functional.normalize(rows, dim=1) if self.recipe.normalised else rows

    def prepared(self, windows: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 3 T H W"]:
        """Levels as the network is given them."""
        recipe = self.recipe
        levels = windows.permute(0, 4, 1, 2, 3)
        if recipe.channels == "bgr":
            levels = levels.flip(1)
        values = levels.float()
        if self.level_mean is not None:
            values = values - self.level_mean
        scale = Fraction(recipe.scale)
        if scale.numerator != 1:
            values = values * scale.numerator
        if scale.denominator != 1:
            values = values / scale.denominator
        mean, std = (values.new_tensor(x)[:, None, None, None] for x in (recipe.mean, recipe.std))
        return ((values - mean) / std).contiguous()


def _rate(text: str) -> str:
    if text == CONTAINER_RATE:
        return text
    try:
        rate = fraction_text(text) if len(text) < 20 and "e" not in text.lower() else "0/1"
    except (ValueError, ZeroDivisionError):
        rate = "0/1"
    if rate.startswith(("0/", "-")):
        raise InputError(
            f"--rate {text}: expected frames per second, such as 15, 7.5 or 30000/1001, or "
            f"{CONTAINER_RATE}."
        )
    return rate
