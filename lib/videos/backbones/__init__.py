"""Networks that turn windows of frames into rows, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...base.errors import InputError
from ...base.external import is_external, load_object
from ...base.recipe import Recipe
from . import c3d, clip, i3d, torchvision_models
from .base import Backbone, Options

__all__ = ["BACKBONES", "Backbone", "Options", "load_backbone", "open_backbone"]

Factory = Callable[[str, Options], Backbone]

BACKBONES: dict[str, Factory] = {
    "c3d": c3d.build,
    "i3d": i3d.build,
    **dict.fromkeys(torchvision_models.KINDS, torchvision_models.build),
}


def load_backbone(name: str, options: Options | None = None) -> Backbone:
    """A backbone with its weights.

    Args:
        name: one of ``BACKBONES``; ``open_clip/MODEL``; or a reference ``package.module:Name`` or
            ``folder/file.py:Name`` to a function that is called as those of ``BACKBONES`` are, with
            its own name and the options.

    Raises:
        InputError: there is no such backbone, a package is missing, or an option or a file does not
            fit.
    """
    options = options or Options()
    if name.startswith(clip.PREFIX):
        return clip.build(name, options)
    if is_external(name):
        backbone = load_object(name)(name, options)
        if not isinstance(backbone, Backbone):
            raise InputError(
                f"{name}: gave {type(backbone).__name__}; expected a {__name__}.Backbone."
            )
        return backbone
    if name not in BACKBONES:
        raise InputError(
            f"no backbone {name!r}; expected {', '.join(BACKBONES)}, {clip.PREFIX}MODEL or a "
            f"reference such as my_backbone.py:build."
        )
    return BACKBONES[name](name, options)


def open_backbone(
    recipe: Recipe,
    weights: str | None = None,
    *,
    mean: Path | None = None,
    projection: Path | None = None,
) -> Backbone:
    """The backbone that a recipe was made with.

    Args:
        weights, mean, projection: the files it was made with; a backbone whose library has weights
            of its own finds them.

    Raises:
        InputError: as ``load_backbone``, or the files are others than the recipe's.
    """
    if weights is None and recipe.backbone.startswith(clip.PREFIX):
        weights = recipe.weights
    backbone = load_backbone(
        recipe.backbone,
        Options(
            weights=weights,
            rate=recipe.rate,
            frames=recipe.frames,
            stride=recipe.stride,
            tap=recipe.tap,
            channels=recipe.channels,
            mean=mean,
            projection=projection,
            only_known=True,
        ),
    )
    differences = backbone.recipe.differences(recipe)
    if differences:
        raise InputError(
            f"{recipe.backbone}: the recipe asked for cannot be made with these files "
            f"({'; '.join(differences)})."
        )
    return backbone
