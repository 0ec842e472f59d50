"""A first look at what a model from outside answers, before an epoch is spent on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..base.batch import Batch
from ..base.errors import InputError
from ..decoding import Evidence
from ..models.interface import Model


@torch.no_grad()
def probe(model: Model, batch: Batch, name: str) -> None:
    """Ask a model for everything that scoring reads of it, on a few paragraphs.

    Args:
        name: of the model, for the message.

    Raises:
        InputError: an answer of another kind or shape than the contract says, or none at all.
    """
    training = model.training
    model.eval()
    B, M = len(batch), len(batch.flat_index)
    try:
        videos = _named(model.encode_videos(batch.video), "encode_videos", B)
        paragraphs = _named(model.encode_paragraphs(batch), "encode_paragraphs", B)
        if "mask" not in paragraphs:
            raise _Wrong("encode_paragraphs returns no 'mask' (B, S) of the sentences that exist")
        if model.retrieves():
            _shape(model.similarity(paragraphs, videos), (B, B), "similarity", "(Q, G)")
        if model.grounds():
            _evidence(model.ground_pairs(paragraphs, videos), M, model)
    except _Wrong as fault:
        raise InputError(f"MODEL.NAME: {name} does not keep to the contract: {fault}") from None
    except Exception as fault:  # whatever a stranger's model raises
        reason = (str(fault).split("\n")[0] or "no message")[:200]
        kind = type(fault).__name__
        raise InputError(
            f"MODEL.NAME: {name} cannot answer for {B} paragraphs ({kind}: {reason})"
        ) from fault
    finally:
        model.train(training)


class _Wrong(Exception):
    """What is wrong with an answer."""


def _named(answer: Any, method: str, rows: int) -> dict[str, Tensor]:
    if not isinstance(answer, dict) or not all(isinstance(x, Tensor) for x in answer.values()):
        raise _Wrong(f"{method} returns {type(answer).__name__}, expected named tensors")
    for name, value in answer.items():
        if not value.dim() or len(value) != rows:
            raise _Wrong(
                f"{method} returns {name!r} of shape {tuple(value.shape)}, expected {rows} rows"
            )
    return answer


def _shape(value: Any, expected: tuple[int, ...], method: str, letters: str) -> None:
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if found != expected:
        raise _Wrong(f"{method} returns {found}, expected {letters} = {expected}")


def _evidence(answer: Any, sentences: int, model: Model) -> None:
    if not isinstance(answer, Evidence):
        raise _Wrong(f"ground_pairs returns {type(answer).__name__}, expected Evidence")
    P = answer.spans.shape[-2]
    if answer.scores is not None:
        _shape(answer.scores, (sentences, P), "ground_pairs", "scores (M, P)")
    for name, values in answer.clips.items():
        if values.dim() != 2 or len(values) != sentences:
            raise _Wrong(
                f"ground_pairs returns evidence {name!r} of shape {tuple(values.shape)}, "
                f"expected (M, N) with M = {sentences}"
            )
    kinds = {"scores": answer.scores is not None, "clips": bool(answer.clips)}
    missing = [name for name in sorted(model.grounds_from) if not kinds[name]]
    if missing:
        raise _Wrong(f"grounds_from names {', '.join(missing)}, which ground_pairs does not return")
