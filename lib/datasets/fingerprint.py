"""What a feature file looks like in a few numbers, to notice when another one is in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..base.errors import InputError
from ..base.recipe import Recipe, recipe_of
from .features import Features

_APART = 0.25  # standard deviations between two means that a sample of the same kind does not show


def fingerprint(features: Features, *, videos: int = 16, seed: int = 0) -> dict[str, Any]:
    """Statistics of a seeded sample of the file's videos, and a digest of all its keys.

    Videos that cannot be read are passed over: the file may hold other things beside them.

    Raises:
        InputError: the file cannot be opened, or none of the sample can be read.
    """
    keys = features.keys()
    chosen = np.random.default_rng(seed).permutation(len(keys))
    rows: list[np.ndarray] = []
    read: list[str] = []
    for index in chosen[: 4 * videos]:
        try:
            found = features.read(keys[index])
        except InputError:
            continue
        if not rows or found.shape[1] == rows[0].shape[1]:
            rows.append(found)
            read.append(keys[index])
        if len(rows) == videos:
            break
    if not rows:
        raise InputError(f"{features}: none of {len(chosen[: 4 * videos])} entries is readable")
    recipe = recipe_of(features.attributes(), str(features))
    together = np.concatenate(rows).astype(np.float64)
    stored = features.stored(read[0])
    assert stored is not None
    about = {
        "recipe": recipe.json() if recipe else None,
        "entries": len(keys),
        "keys": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        "sample": read,
        "rows": len(together),
        "dtype": stored.dtype,
        "width": together.shape[1],
        "mean": torch.from_numpy(together.mean(axis=0)).float(),
        "std": torch.from_numpy(together.std(axis=0)).float(),
    }
    return {**about, "parts": list(features.parts)} if features.parts else about


def require_recipe(there: Mapping[str, Any], here: Mapping[str, Any], where: str) -> None:
    """Refuse features that were made in another way than those of a checkpoint, as far as both say
    how they were made.

    Args:
        where: the file here.

    Raises:
        InputError: names what differs.
    """
    if not there.get("recipe") or not here.get("recipe"):
        return
    ours, theirs = (Recipe.from_json(of["recipe"], where) for of in (here, there))
    differing = ours.differences(theirs)
    if differing:
        raise InputError(
            f"{where}: was made in another way than the features of the run ({'; '.join(differing)}"
            "); extract the videos again as the run's were"
        )


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """``differences`` in a line; "" = there are none."""
    return "; ".join(differences(there, here))


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], *, of_kind: bool = False
) -> list[str]:
    """How the file here differs from the one a checkpoint was trained on. Files of the same videos
    must agree in every number; of others, in kind.

    Args:
        of_kind: which videos a file holds is no difference: a test needs those of its split alone.
    """
    found = [
        f"{name} {there.get(name)} there, {here.get(name)} here"
        for name in ("width", "parts", "dtype")
        if there.get(name) != here.get(name)
    ]
    same_videos = there.get("keys") == here["keys"]
    if not same_videos and not of_kind:
        found.append(f"other videos ({there.get('entries', 0):,} there, {here['entries']:,} here)")
    elif same_videos and there.get("rows") != here["rows"]:
        found.append(f"{there.get('rows')} rows in a sample there, {here['rows']} here")
    if there.get("width") == here["width"]:
        apart = (there["mean"] - here["mean"]).abs() / there["std"].clamp(min=1e-6)
        spread = here["std"] / there["std"].clamp(min=1e-6)
        worst = int(apart.argmax())
        moved, widened = (
            (apart.max(), (spread - 1).abs().max())
            if same_videos
            else (apart.median(), (spread.median() - 1).abs())
        )
        limit = 1e-3 if same_videos else _APART
        if max(float(moved), float(widened)) > limit:
            mean, std = (f"{float(of['mean'][worst]):.4g}" for of in (there, here)), spread.median()
            found.append(
                f"values of another kind (dimension {worst}: mean {next(mean)} there, "
                f"{next(mean)} here; spread {float(std):.3g} times as wide)"
            )
    return found
