"""The recipe of feature rows: written, read, compared, refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lib.base.errors import InputError
from lib.base.recipe import (
    RECIPE,
    RECIPE_SHA256,
    Recipe,
    fraction_text,
    recipe_of,
    times_of,
)

WINDOWS = Recipe(
    backbone="i3d",
    weights="i3d.ckpt",
    weights_sha256="ab" * 32,
    rate="25/1",
    frames=16,
    stride=8,
    resize="short 256",
    crop="centre 224x224",
    interpolation="bilinear",
    channels="rgb",
    scale="2/255",
    mean=(1.0, 1.0, 1.0),
    std=(1.0, 1.0, 1.0),
    tap="Mixed_5c mean",
    width=1024,
)
IMAGES = dataclasses.replace(WINDOWS, rate="2/1", frames=1, stride=1, normalised=True)
CONTAINER = dataclasses.replace(WINDOWS, rate="container")


@pytest.mark.parametrize("recipe", [WINDOWS, IMAGES, CONTAINER], ids=["windows", "images", "vfr"])
def test_a_recipe_is_read_as_it_was_written(recipe):
    again = Recipe.from_json(recipe.json())
    assert again == recipe and again.sha256 == recipe.sha256
    assert recipe_of({RECIPE: recipe.json(), RECIPE_SHA256: recipe.sha256}) == recipe
    assert recipe_of({RECIPE: recipe.json().encode()}) == recipe


def test_rows_of_windows_images_and_the_container_s_rate():
    assert (WINDOWS.row_start, WINDOWS.row_step, WINDOWS.row_span) == (0.0, 8 / 25, 16 / 25)
    assert (IMAGES.row_start, IMAGES.row_step, IMAGES.row_span) == (0.0, 0.5, 0.5)
    assert CONTAINER.row_start is CONTAINER.row_step is CONTAINER.row_span is None


def test_differences_are_named_and_the_name_of_the_weights_file_is_none():
    other = dataclasses.replace(WINDOWS, frames=64, weights="renamed.ckpt", mean=(0.0, 1.0, 1.0))
    assert WINDOWS.differences(other) == [
        "frames per window 64 there, 16 here",
        "mean 0.0 1.0 1.0 there, 1.0 1.0 1.0 here",
    ]
    renamed = dataclasses.replace(WINDOWS, weights="renamed.ckpt")
    assert renamed.differences(WINDOWS) == [] and renamed.sha256 == WINDOWS.sha256


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Recipe) if f.name != "weights"]
)
def test_every_part_counts(name):
    values = {"rate": "24/1", "scale": "1/255", "mean": (0.0, 0.0, 0.0), "std": (2.0, 1.0, 1.0)}
    before = getattr(WINDOWS, name)
    kinds = {bool: not before, int: 7, str: "other"}
    other = dataclasses.replace(WINDOWS, **{name: values.get(name, kinds.get(type(before)))})
    assert len(WINDOWS.differences(other)) == 1 and other.sha256 != WINDOWS.sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 0}, "frames per window is 0; expected a whole number of at least 1"),
        ({"stride": 1.5}, "is 1.5; expected a whole number"),
        ({"width": True}, "width is True; expected a whole number"),
        ({"rate": "7.5"}, "expected a fraction in lowest terms"),
        ({"rate": "30/2"}, "expected a fraction in lowest terms"),
        ({"rate": "1e99999999/1"}, "expected a fraction in lowest terms"),
        ({"rate": 15}, "is 15; expected text"),
        ({"scale": "0/1"}, "expected a fraction in lowest terms"),
        ({"mean": [1, 2]}, "expected three numbers"),
        ({"std": [1, 0.0, 1]}, "expected three numbers"),
        ({"normalised": 1}, "expected true or false"),
        ({"colour": "red"}, "its recipe has an unknown 'colour'"),
        ({"tap": None}, "tap is None; expected text"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_sentence(change, said):
    text = json.dumps(json.loads(WINDOWS.json()) | change)
    with pytest.raises(InputError) as error:
        Recipe.from_json(text, "rows.hdf5")
    message = str(error.value)
    assert said in message and message.startswith("rows.hdf5: ") and "\n" not in message


@pytest.mark.parametrize("text", ["", "no", "[1]", "[" * 100_000, '{"backbone": "i3d"}'])
def test_other_texts_are_refused(text):
    for name in dataclasses.asdict(WINDOWS):
        part = {k: v for k, v in json.loads(WINDOWS.json()).items() if k != name}
        with pytest.raises(InputError, match="its recipe has no "):
            Recipe.from_json(json.dumps(part), "rows.hdf5")
    with pytest.raises(InputError, match=r"rows.hdf5: (holds no recipe|its recipe has no )"):
        Recipe.from_json(text, "rows.hdf5")


def test_a_file_without_recipe_has_none_and_a_changed_one_is_noticed():
    assert recipe_of({}) is None
    changed = dataclasses.replace(WINDOWS, stride=16)
    with pytest.raises(InputError, match="was changed after it was written"):
        recipe_of({RECIPE: changed.json(), RECIPE_SHA256: WINDOWS.sha256})


def test_times_of_a_video():
    about = {"start": 1.5, "duration": 9.0, "row_start": 0.0, "row_step": 0.5, "row_span": 1.0}
    times = times_of(about)
    assert times is not None and (times.start, times.row_step) == (1.5, 0.5)
    assert times_of({"fps": 30.0}) is None
    for broken in ({"row_step": 0.0}, {"duration": "long"}, {"row_span": float("nan")}):
        with pytest.raises(InputError, match="expected times in seconds"):
            times_of(about | broken)
    del about["row_span"]
    with pytest.raises(InputError, match="row_span None"):
        times_of(about)


def test_fractions_as_text():
    assert [fraction_text(x) for x in ("7.5", "15", "30000/1001", 4)] == [
        "15/2",
        "15/1",
        "30000/1001",
        "4/1",
    ]
