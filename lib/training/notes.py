"""What a reader of a test's numbers must know, a sentence each."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..datasets import LoadedCorpus
from ..decoding import Decoding
from ..decoding.calibration import measures_split
from .provenance import lines as provenance_lines
from .scorer import Querybank, calibration_lines, metric
from .selection import finer_metric


def how_it_came_about(corpus: Any, config: Any) -> list[str]:
    """What a reader of the numbers must know about how they came about."""
    order = "in the order of their times" if corpus.order == "time" else "in file order"
    supervision = {
        "weak": "training saw no timestamps",
        "full": "training saw the timestamps (full supervision)",
    }[config.TRAIN.SUPERVISION]
    chosen = f"checkpoint chosen on validation by {config.TRAIN.SELECT_BY}"
    finer = finer_metric(config.TRAIN.SELECT_BY)
    chosen += f" (of epochs that tie, by {finer})" if finer else ""
    if not config.TRAIN.SELECT_BY.startswith("vr"):
        chosen += " (which reads validation timestamps)"
    about = [f"sentences stand {order}", supervision, chosen]
    if config.TEST.NMS_ROUNDED:
        about.append("suppressed in rounded seconds, as 2D-TAN's release does (TEST.NMS_ROUNDED)")
    return about


def timestamp_notes(split: str, timed: bool, corpus: LoadedCorpus) -> list[str]:
    """What is not scored for want of timestamps, those of the split or of training."""
    if not timed:
        return [f"{split} has no timestamps to score against: retrieval is scored, and no moment"]
    if len(corpus.training_fractions):
        return []
    return ["the floor of ten fixed spans is left out: no training sentence has a timestamp"]


def counted_as_misses(summary: dict[str, Any]) -> list[str]:
    """What grounding would be if sentences that are left out were misses, as published protocols
    have it; empty where none is left out."""
    for name in ("svmr_any", "svmr", "svmr_2dtan"):
        as_misses = summary["queries"].get(name, {}).get("as_misses", {})
        recalls = [metric for metric in as_misses if metric.startswith("R@1,")]
        if recalls:
            listed = ", ".join(f"{metric} {as_misses[metric]:.2f}" for metric in recalls)
            return [f"{name} with them counted as misses: {listed} (all scores: the tables)"]
    return []


def decoding_notes(decoding: Decoding, trained: Decoding, calibration: dict[str, Any]) -> list[str]:
    """How evidence became moments, as far as it is not the default."""
    plain = Decoding()
    chosen = {
        field.name: getattr(decoding, field.name)
        for field in dataclasses.fields(decoding)
        if getattr(decoding, field.name) != getattr(plain, field.name)
    }
    said = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "the defaults"
    notes = [f"decoded with {said}"]
    if decoding != trained:
        notes.append("this is not how the run was decoded in training")
    where = "here" if measures_split(decoding) else "on validation"
    notes += [f"{line}, chosen {where}" for line in calibration_lines(calibration)]
    return notes


def querybank_notes(querybank: Querybank | None) -> list[str]:
    if querybank is None:
        return []
    return [
        f"vr_querybank: normalised by {len(querybank.paragraphs):,} training paragraphs, scale "
        f"{querybank.scale:.2f} chosen on validation"
    ]


def provenance_notes(about: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {line}" for what, one in about.items() if one for line in provenance_lines(one)
    ]


def compare_with_training(summary: dict[str, Any], state: dict[str, Any]) -> str:
    """Whether the number that training printed came out again, in a line."""
    name = state["select_by"]
    there, here = metric(state["validation"], name), metric(summary, name)
    if there == here:
        return f"{name} on val: {here:.2f}, in training and here: the same"
    return (
        f"{name} on val: {there!r} in training, {here!r} here: DIFFERENT (another device or "
        "library version?)"
    )
