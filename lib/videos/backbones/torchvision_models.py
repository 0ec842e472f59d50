"""The video networks of torchvision, trained on Kinetics-400: S3D, R3D-18 and MViT v2 S.

Frames are resized and cropped as torchvision's own transforms of these weights do.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from ...base.errors import InputError
from ...base.recipe import Recipe
from ..torchvision_import import import_torchvision
from .base import Backbone, Options
from .weights import cached_or_fetched, digest, fit, read_state


@dataclass(frozen=True)
class _Kind:
    """How one of them was trained."""

    weights: str  # torchvision's name of the set of weights
    rate: str
    resize: str
    crop: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    head: str  # the part that turns a row into classes
    tap: str
    width: int
    fewest: int = 1  # frames
    fixed: bool = False  # no other number of frames than 16


_MEAN, _STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
KINDS = {
    "s3d": _Kind(
        "S3D_Weights", "15/1", "256x256", "centre 224x224", _MEAN, _STD,
        head="classifier", tap="avgpool mean", width=1024, fewest=14,
    ),
    "r3d_18": _Kind(
        "R3D_18_Weights", "15/1", "171x128", "centre 112x112", _MEAN, _STD,
        head="fc", tap="avgpool", width=512,
    ),
    "mvit_v2_s": _Kind(
        "MViT_V2_S_Weights", "15/2", "short 256", "centre 224x224", (0.45,) * 3, (0.225,) * 3,
        head="head", tap="class token", width=768, fixed=True,
    ),
}  # fmt: skip


class _Tapped(nn.Module):
    """A network without its classifier."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        setattr(network, head, nn.Identity())
        self.network = network

    def forward(self, x: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C"]:
        rows: Tensor = self.network(x)
        return rows.flatten(1)


def build(name: str, options: Options) -> Backbone:
    """One of the networks, with torchvision's weights or those of a file of the same names.

    Raises:
        InputError: torchvision is not installed, or an option or a file does not fit.
    """
    kind = KINDS[name]
    frames = (16,) if kind.fixed else 16
    chosen = options.over(
        name, weights=None, rate=kind.rate, frames=frames, stride=16, tap=(kind.tap,)
    )
    if chosen.frames < kind.fewest:
        raise InputError(f"{name}: --frames {chosen.frames}; expected {kind.fewest} or more.")
    video = import_torchvision(f"the backbone {name}").models.video
    path = cached_or_fetched(chosen.weights, name, getattr(video, kind.weights).DEFAULT.url)
    network = getattr(video, name)(weights=None)
    fit(network, read_state(path), path)
    recipe = Recipe(
        backbone=name,
        weights=path.name,
        weights_sha256=digest(path),
        rate=chosen.rate,
        frames=chosen.frames,
        stride=chosen.stride,
        resize=kind.resize,
        crop=kind.crop,
        interpolation="bilinear",
        channels="rgb",
        scale="1/255",
        mean=kind.mean,
        std=kind.std,
        tap=kind.tap,
        width=kind.width,
    )
    return Backbone(recipe, _Tapped(network, kind.head))
