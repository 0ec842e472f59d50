"""Rows of videos -> the HDF5 file of features, with its recipe, replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py

from ..base.errors import InputError
from ..base.files import sync_folder, unwritable
from ..base.recipe import MADE_BY, RECIPE, RECIPE_SHA256, Recipe, recipe_of
from .parts import Part, check_agreement

Layout = Literal["plain", "activitynet"]
_INSIDE = "c3d_features"  # the dataset of a video's group in ActivityNet's layout


def read_about(path: Path, recipe: Recipe, made_by: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The attributes of each video that a feature file has, which must be of this recipe; none if
    there is no file.

    Raises:
        InputError: it is another kind of file, or its rows were made in another way.
    """
    if not path.exists():
        return {}
    with _opened(path) as file:
        there = recipe_of(file.attrs, str(path))
        if there is None:
            raise InputError(
                f"{path}: exists and says no recipe; choose another --out, or remove it."
            )
        try:
            by = json.loads(file.attrs.get(MADE_BY, "{}"))
        except ValueError:
            by = {}
        check_agreement(path, there, by, recipe, made_by)
        return {
            video: {key: _plain(value) for key, value in _dataset(file, video).attrs.items()}
            for video in file
        }


def write_features(
    path: Path,
    videos: Mapping[str, Callable[[], Part] | None],
    recipe: Recipe,
    made_by: Mapping[str, Any],
    layout: Layout,
) -> None:
    """Write a feature file and put it in the place of the old one.

    Args:
        videos: by id, what gives the rows; None = they are in the old file.

    Raises:
        InputError: the disk is full or the folder not writable; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        try:
            with contextlib.ExitStack() as stack:
                new = stack.enter_context(h5py.File(temporary, "w"))
                new.attrs[RECIPE] = recipe.json()
                new.attrs[RECIPE_SHA256] = recipe.sha256
                new.attrs[MADE_BY] = json.dumps(made_by, sort_keys=True)
                keeps = any(part is None for part in videos.values())
                old = stack.enter_context(_opened(path)) if keeps else None
                for video, part in sorted(videos.items()):
                    if part is not None:
                        made = part()
                        _add(new, video, made.rows, made.about, layout)
                    elif old is not None:
                        node = _dataset(old, video)
                        _add(new, video, node[()], node.attrs, layout)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except (OSError, RuntimeError) as fault:  # h5py's, of a full disk, are either
        fault = fault if isinstance(fault, OSError) else OSError(str(fault))
        raise unwritable(path, fault) from None


def _add(file: h5py.File, video: str, rows: Any, about: Mapping[str, Any], layout: Layout) -> None:
    place = file.create_group(video) if layout == "activitynet" else file
    dataset = place.create_dataset(_INSIDE if layout == "activitynet" else video, data=rows)
    for key, value in sorted(about.items()):
        dataset.attrs[key] = value


def _dataset(file: h5py.File, video: str) -> h5py.Dataset:
    node = file[video]
    return node[_INSIDE] if isinstance(node, h5py.Group) else node


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as fault:
        raise InputError(f"{path}: is not an HDF5 file or is incomplete ({fault}).") from None
    with file:
        yield file


def _plain(value: Any) -> Any:
    """An attribute as h5py gives it, as Python's own kind."""
    return value.item() if hasattr(value, "item") else value
