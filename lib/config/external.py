"""The models and loss terms that an experiment names, of this project or from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..base.errors import InputError
from ..base.external import is_external, load_object
from ..losses import Term
from ..models import MODELS
from ..models.interface import Model, missing_parts
from .options import shown


def find_model(name: str, models: Mapping[str, type[Model]] = MODELS) -> type[Model]:
    """The class called ``name``.

    Raises:
        InputError: there is none, or it lacks a part that a model must have.
    """
    if not is_external(name):
        if name not in models:
            known = ", ".join(models)
            raise InputError(f"MODEL.NAME is {shown(name)}, expected one of {known}")
        return models[name]
    kind = load_object(name)
    if faults := missing_parts(kind):
        raise InputError(f"MODEL.NAME: {name} is no model: {', and '.join(faults)}")
    return kind


def find_term(name: str) -> Term:
    """The loss term that a reference names.

    Raises:
        InputError: there is none, or it cannot be called.
    """
    term: Callable[..., Any] = load_object(name)
    if not callable(term):
        raise InputError(f"{name} is no function of (output, batch)")
    return term
