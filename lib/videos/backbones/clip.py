"""The image towers of open_clip: one image -> one row of length 1."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...base.errors import InputError
from ...base.recipe import Recipe
from ..optional import optional
from ..torchvision_import import import_torchvision
from .base import Backbone, Options
from .weights import digest

PREFIX = "open_clip/"
QUICK = "-quickgelu"


class _ImageTower(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = model.get_submodule("visual")

    def forward(self, x: Float[Tensor, "B 3 1 H W"]) -> Float[Tensor, "B C"]:
        rows: Tensor = self.visual(x[:, :, 0])
        return rows


def build(name: str, options: Options) -> Backbone:
    """The image tower of ``open_clip/MODEL``.

    Weights are a file, or a tag of open_clip such as ``openai``, which is downloaded once.

    Raises:
        InputError: open_clip is not installed, does not know the model or the tag, or an option or
            a file does not fit.
    """
    chosen = options.over(
        name, weights=None, rate="1/1", frames=(1,), stride=1, tap=("image embedding",)
    )
    import_torchvision(f"the backbone {name}")
    open_clip = optional("open_clip", "open_clip_torch", f"the backbone {name}")
    model_name = name.removeprefix(PREFIX)
    about = open_clip.get_model_config(model_name)
    if about is None:
        near = difflib.get_close_matches(model_name, open_clip.list_models(), 4, 0.5)
        some = ", ".join(near) or "those of open_clip.list_models()"
        raise InputError(f"{name}: open_clip has no model {model_name}; it has {some}.")
    tag = _tag(open_clip, name, model_name, chosen.weights)
    _check_activation(open_clip, name, model_name, bool(about.get("quick_gelu")), tag)
    path = _fetched(open_clip, name, model_name, str(chosen.weights))
    try:
        model = open_clip.create_model(model_name, pretrained=str(path))
    except Exception as fault:  # of many kinds, by what does not fit
        raise InputError(
            f"{path}: its weights do not fit {model_name} ({str(fault).splitlines()[0]})."
        ) from None
    prepare = dict(open_clip.get_model_preprocess_cfg(model))
    if tag:
        prepare |= {
            key: value
            for key, value in open_clip.get_pretrained_cfg(model_name, tag).items()
            if key in ("mean", "std", "interpolation", "resize_mode") and value
        }
    tower = _ImageTower(model).eval()
    resize, crop, (high, wide) = _geometry(name, prepare)
    with torch.inference_mode():
        width = tower(torch.zeros(1, 3, 1, high, wide)).shape[1]
    recipe = Recipe(
        backbone=name,
        weights=tag or path.name,
        weights_sha256=digest(path),
        rate=chosen.rate,
        frames=1,
        stride=chosen.stride,
        resize=resize,
        crop=crop,
        interpolation="pillow bicubic",
        channels="rgb",
        scale="1/255",
        mean=tuple(map(float, prepare["mean"])),  # type: ignore[arg-type]
        std=tuple(map(float, prepare["std"])),  # type: ignore[arg-type]
        tap=chosen.tap,
        width=width,
        normalised=True,
    )
    return Backbone(recipe, tower)


def _tag(open_clip: ModuleType, name: str, model: str, given: str | None) -> str:
    """The tag of the weights that were asked for; empty for a file that is none of open_clip's."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    if given is None:
        some = f", or a tag: {', '.join(tags[:8])}" if tags else ""
        raise InputError(f"{name} needs its weights: --weights FILE{some}.")
    if Path(given).is_file():
        return _tag_of(open_clip, model, tags, Path(given))
    if given not in tags:
        raise InputError(
            f"{name}: --weights {given} is neither a file nor a tag of {model}; its tags are "
            f"{', '.join(tags) or 'none'}."
        )
    return given


def _fetched(open_clip: ModuleType, name: str, model: str, given: str) -> Path:
    """The file of the weights, downloaded if it is not there."""
    if Path(given).is_file():
        return Path(given)
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, given)))
    except Exception as fault:  # of many kinds, by how the network is absent
        raise InputError(
            f"{name}: the weights {given} are not in open_clip's cache and cannot be downloaded "
            f"({str(fault).splitlines()[0]}); name a file with --weights FILE."
        ) from None


def _tag_of(open_clip: ModuleType, model: str, tags: list[str], path: Path) -> str:
    """The tag whose file this is, by the digest that is part of its address."""
    sha = digest(path)
    for tag in tags:
        url = (open_clip.get_pretrained_cfg(model, tag) or {}).get("url") or ""
        if sha in url or f"-{sha[:8]}." in url:
            return tag
    return ""


def _check_activation(open_clip: ModuleType, name: str, model: str, quick: bool, tag: str) -> None:
    """Weights that were trained with the quick GELU give wrong rows without it, and vice versa."""
    if not tag:
        return
    needs = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"))
    if needs != quick:
        other = f"{model}{QUICK}" if needs else model.removesuffix(QUICK)
        raise InputError(
            f"{name}: the weights {tag} were trained {'with' if needs else 'without'} the quick "
            f"GELU; use {PREFIX}{other}."
        )


def _geometry(name: str, prepare: dict[str, Any]) -> tuple[str, str, tuple[int, int]]:
    """Resize and crop in the recipe's words, and height and width."""
    size = prepare["size"]
    high, wide = (size, size) if isinstance(size, int) else size
    mode = prepare.get("resize_mode", "shortest")
    if prepare.get("interpolation", "bicubic") != "bicubic" or mode not in ("shortest", "squash"):
        raise InputError(
            f"{name}: its pictures are resized by {mode}, {prepare.get('interpolation')}; only "
            f"shortest and squash, bicubic, are known here."
        )
    if mode == "shortest" and high == wide:
        return f"short {high}", f"centre {wide}x{high}", (high, wide)
    return f"{wide}x{high}", f"centre {wide}x{high}", (high, wide)
