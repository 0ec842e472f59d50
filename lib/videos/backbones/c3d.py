"""C3D of Sports-1M: 16 frames of 112 x 112 -> 4096, or 500 after ActivityNet's PCA.

Source: Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks (2015).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...base.errors import InputError
from ...base.recipe import CONTAINER_RATE, Recipe
from .base import Backbone, Options
from .weights import digest, existing, fit, given_file, read_state

TAPS = ("fc6", "fc6_raw", "fc7", "fc7_raw")  # raw: before the ReLU
FRAMES = 16
_TOP, _LEFT, _SIDE = 8, 30, 112  # of the crop from 128 x 171, as the mean cube's users cut it
_ROW_OF_COMPONENTS = 500


class C3D(nn.Module):
    """The network up to a tap.

    Args:
        widths: channels of the convolutions; others than the default are for tests.
        full: width of fc6 and fc7.
    """

    def __init__(
        self,
        tap: str = "fc6",
        widths: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512, 512),
        full: int = 4096,
    ) -> None:
        super().__init__()
        names = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
        before = 3
        for name, width in zip(names, widths, strict=True):
            self.add_module(name, nn.Conv3d(before, width, 3, padding=1))
            before = width
        self.fc6 = nn.Linear(before * 16, full)
        if tap.startswith("fc7"):
            self.fc7 = nn.Linear(full, full)
        self.tap = tap

    def forward(self, x: Float[Tensor, "B 3 16 112 112"]) -> Float[Tensor, "B C"]:
        x = nn.functional.max_pool3d(self._conv("conv1", x), (1, 2, 2))
        x = nn.functional.max_pool3d(self._conv("conv2", x), 2)
        x = nn.functional.max_pool3d(self._conv("conv3b", self._conv("conv3a", x)), 2)
        x = nn.functional.max_pool3d(self._conv("conv4b", self._conv("conv4a", x)), 2)
        x = self._conv("conv5b", self._conv("conv5a", x))
        x = self.fc6(nn.functional.max_pool3d(x, 2, padding=(0, 1, 1)).flatten(1))
        if self.tap.startswith("fc7"):
            x = self.fc7(x.relu())
        return x if self.tap.endswith("_raw") else x.relu()

    def _conv(self, name: str, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(name)(x)
        return out.relu()


def build(name: str, options: Options) -> Backbone:
    """C3D with weights from a file in the layout of the usual ``c3d.pickle``.

    Raises:
        InputError: an option or a file does not fit.
    """
    chosen = options.over(
        name,
        weights=None,
        rate=CONTAINER_RATE,
        frames=(FRAMES,),
        stride=8,
        tap=("fc7", *(tap for tap in TAPS if tap != "fc7")) if options.projection else TAPS,
        channels=("rgb", "bgr"),
        mean=None,
        projection=None,
    )
    path = given_file(chosen.weights, name, "c3d.pickle, trained on Sports-1M")
    network = C3D(chosen.tap)
    fit(network, read_state(path), path, unused=("fc7.", "fc8."), advice=_advice)
    width = network.fc6.out_features
    projection = None
    if chosen.projection:
        projection = read_pca(chosen.projection, width)
        width = projection[1].shape[1]
    recipe = Recipe(
        backbone=name,
        weights=path.name,
        weights_sha256=digest(path),
        rate=chosen.rate,
        frames=FRAMES,
        stride=chosen.stride,
        resize="171x128",
        crop=f"{_SIDE}x{_SIDE}+{_LEFT}+{_TOP}",
        interpolation="bilinear",
        channels=chosen.channels,
        scale="1/1",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        tap=chosen.tap,
        width=width,
        mean_sha256=digest(existing(chosen.mean)) if chosen.mean else "",
        projection_sha256=digest(chosen.projection) if chosen.projection else "",
    )
    mean = read_mean(chosen.mean) if chosen.mean else None
    return Backbone(recipe, network, mean=mean, projection=projection)


def read_mean(path: Path) -> Float[Tensor, "3 16 112 112"]:
    """The mean cube of a ``.npy`` file, (3, 16, 128, 171) in the network's channel order, cropped
    as frames are.

    Raises:
        InputError: it is no such file.
    """
    try:
        cube = np.load(existing(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as fault:
        raise InputError(f"{path}: is no .npy file ({fault}).") from None
    cube = cube[0] if cube.ndim == 5 and len(cube) == 1 else cube
    if cube.shape != (3, FRAMES, 128, 171) or cube.dtype.kind != "f":
        raise InputError(
            f"{path}: holds {cube.dtype} of the shape {cube.shape}; expected a mean of the shape "
            f"(3, {FRAMES}, 128, 171)."
        )
    cropped = cube[:, :, _TOP : _TOP + _SIDE, _LEFT : _LEFT + _SIDE]
    return torch.from_numpy(cropped.astype(np.float32))


def read_pca(path: Path, width: int) -> tuple[Float[Tensor, " D"], Float[Tensor, "D C"]]:
    """ActivityNet's ``PCA_activitynet_v1-3.hdf5``: the mean and the first 500 components.

    Raises:
        InputError: it is no such file.
    """
    try:
        with h5py.File(existing(path), "r") as file:
            mean, components = (
                np.asarray(file["data"][key], np.float32) for key in ("x_mean", "U")
            )
    except (OSError, KeyError, TypeError, ValueError) as fault:
        raise InputError(
            f"{path}: expected an HDF5 file with data/x_mean and data/U ({fault})."
        ) from None
    mean = mean.reshape(-1)
    if mean.shape != (width,) or components.ndim != 2 or components.shape[0] != width:
        raise InputError(
            f"{path}: x_mean has {mean.size:,} numbers and U the shape {components.shape}; "
            f"expected {width:,} and ({width:,}, components)."
        )
    if components.shape[1] < _ROW_OF_COMPONENTS:
        raise InputError(
            f"{path}: has {components.shape[1]} components; expected {_ROW_OF_COMPONENTS} or more."
        )
    kept = np.ascontiguousarray(components[:, :_ROW_OF_COMPONENTS])
    return torch.from_numpy(mean), torch.from_numpy(kept)


def _advice(name: str, shape: tuple[int, ...]) -> Any:
    if name == "fc6.weight" and shape[1:] == (4608,):
        return "; it is of the variant whose last pooling has no padding, which is another network"
    return ""
