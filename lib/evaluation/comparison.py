"""Tested runs side by side: which of them are one model with several seeds, what was changed
between the models, and their differences on the same draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from ..base.errors import InputError
from ..base.installed import called
from . import compare_predictions
from .baselines import best_floor
from .bootstrap import lower_is_better
from .files.run import RunFiles

SEED = "TRAIN.SEED"
# Options of folders, machine and bookkeeping: runs that differ in these have the same numbers.
BOOKKEEPING = frozenset(
    (
        *("WORKERS", "DATA_DIR", "MODEL_DIR", "LOG_DIR", "LOGGER", "GPUS", "TAG"),
        *("DATASET.CACHE", "DATASET.CACHE_DIR"),
        *("TRAIN.LOG_EVERY", "TRAIN.CHECKPOINT_EVERY", "TRAIN.KEEP_BEST"),
    )
)
_MOST_CHARACTERS, _MOST_VALUES = 64 * 1024, 10_000  # of a config.yaml; a real one has 4 KB
_CODE = "code version"
ABSENT = "–"  # the value of an option that a model does not have


@dataclass(frozen=True)
class Column:
    """One model of a comparison: a run, or runs that differ in their seed alone, by seed."""

    name: str
    runs: tuple[RunFiles, ...]
    seeds: tuple[str, ...]  # empty where a run does not say
    facts: dict[str, str]  # options and code version, without the seed

    @property
    def label(self) -> str:
        """The name, with the number of seeds if there are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"


@dataclass(frozen=True)
class Result:
    """One score of one column; per cent and points."""

    score: float
    deviation: float | None  # standard deviation over seeds; None for one run
    floor: float | None  # the best score without a model, mean over seeds
    below: bool  # the floor is as good
    difference: float | None = None  # from the first column; None for itself
    interval: tuple[float, float] | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that ``compare_runs`` finds."""

    columns: tuple[Column, ...]
    changes: dict[str, list[str]]  # option -> its value in each column, where they differ
    results: dict[str, dict[str, list[Result | None]]]  # protocol -> metric -> of each column


def compare_runs(runs: Sequence[RunFiles], *, resamples: int = 1000) -> Comparison:
    """Compare runs over the same queries with the first of them.

    Raises:
        InputError: fewer than two runs, runs over different queries, or a ``config.yaml`` that is
            no YAML.
    """
    if len(runs) < 2:
        raise InputError(
            f"{len(runs)} run, expected two or more ({called('report')} makes a page of one)"
        )
    columns = joined(runs)
    compared = columns if len(columns) > 1 else columns * 2  # seeds alone still have a mean
    results = compare_columns(compared, resamples=resamples)
    if len(columns) == 1:
        results = {p: {m: row[:1] for m, row in rows.items()} for p, rows in results.items()}
    return Comparison(columns, _changes(columns), results)


def compare_columns(
    columns: Sequence[Column], *, resamples: int = 1000, protocols: Sequence[str] | None = None
) -> dict[str, dict[str, list[Result | None]]]:
    """Two models or more, each compared with the first: protocol -> metric -> of each model.

    Args:
        protocols: these alone; None: all that can be counted.

    Raises:
        InputError: runs over different queries, or that cannot be counted under one of the
            protocols.
    """
    first, *others = [run for column in columns for run in column.runs]
    for run in others:
        check_same_queries(first, run)
    models = [[run.predictions for run in column.runs] for column in columns]
    compared = compare_predictions(
        first.truth,
        models,
        protocols=protocols,
        resamples=resamples,
        **_scoring_options(first.summary),
    )
    return {
        name: {
            metric: [
                _result(column, name, metric, row)
                for column, row in zip(columns, rows, strict=True)
            ]
            for metric, rows in metrics.items()
        }
        for name, metrics in compared.items()
    }


def joined(runs: Sequence[RunFiles]) -> tuple[Column, ...]:
    """The runs as columns, in the order given. Runs are joined where all that is known of
    them but their seed is the same, and no seed occurs twice."""
    groups: list[list[tuple[str, RunFiles]]] = []
    about: list[dict[str, str]] = []
    for run in runs:
        facts = facts_of(run)
        seed = facts.pop(SEED, "")
        for group, theirs in zip(groups, about, strict=True):
            known = [other for other, _ in group]
            if seed and facts == theirs and all(known) and seed not in known:
                group.append((seed, run))
                break
        else:
            groups.append([(seed, run)])
            about.append(facts)
    columns, names = [], [_name([run.name for _, run in group]) for group in groups]
    for name, group, facts in zip(names, groups, about, strict=True):
        group.sort(key=lambda pair: (len(pair[0]), pair[0]))
        columns.append(
            Column(
                name if names.count(name) == 1 else group[0][1].name,
                tuple(run for _, run in group),
                tuple(seed for seed, _ in group if seed),
                facts,
            )
        )
    return tuple(columns)


def _name(names: Sequence[str]) -> str:
    """What the names of several runs begin with, up to the end of a part of it."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(list(names))
    cut = max((start.rfind(mark) for mark in "-_./ "), default=-1)
    return start[:cut] if cut > 1 else names[0]


def facts_of(run: RunFiles) -> dict[str, str]:
    """What is known of a run, as text: its options, and the code and the data of its training and
    its test.

    Raises:
        InputError: its ``config.yaml`` is no YAML.
    """
    facts = options_of(run) if run.config else {"options": "not known (no config.yaml)"}
    provenance = run.summary.get("provenance")
    for stage in ("training", "test"):
        about = provenance.get(stage) if isinstance(provenance, dict) else None
        if isinstance(about, dict):
            facts |= {f"{key} ({stage})": text for key, text in _provenance(about).items()}
    return facts


def _provenance(about: dict[str, Any]) -> dict[str, str]:
    facts = {}
    commit = about.get("commit")
    if isinstance(commit, str):
        changed = ", with uncommitted changes" if about.get("clean") is False else ""
        facts[_CODE] = commit[:10] + changed
    for key, what in (("versions", "libraries"), ("annotations", "annotations")):
        value = about.get(key)
        if isinstance(value, dict):
            facts[what] = ", ".join(f"{name} {text}" for name, text in value.items())
    features = about.get("features")
    if isinstance(features, dict):
        facts["features"] = ", ".join(f"{k} {str(v)[:16]}" for k, v in features.items())
    return facts


def options_of(run: RunFiles) -> dict[str, str]:
    """The options in a run's ``config.yaml``, each by its path, as they are written there.

    Nothing is constructed: a value is its text.

    Raises:
        InputError: it is no YAML, or too large for one.
    """
    try:
        if len(run.config) > _MOST_CHARACTERS:
            raise ValueError(f"longer than {_MOST_CHARACTERS:,} characters")
        found: dict[str, str] = {}
        budget = [_MOST_VALUES]
        root = yaml.compose(run.config, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("no mapping")
        _collect(root, "", found, budget)
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        reason = " ".join(str(fault).split())[:100] or type(fault).__name__
        raise InputError(
            f"{run.name}: its config.yaml cannot be read ({reason}); expected the one that "
            f"{called('dense_train')} wrote"
        ) from None
    return {key: text for key, text in found.items() if key not in BOOKKEEPING}


def _collect(node: yaml.Node, path: str, found: dict[str, str], budget: list[int]) -> None:
    _spend(budget)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            _collect(value, f"{path}.{name}" if path else name, found, budget)
    else:
        found[path] = _text(node, budget)


def _text(node: yaml.Node, budget: list[int]) -> str:
    _spend(budget)
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(_text(child, budget) for child in node.value)}]"
    if isinstance(node, yaml.MappingNode):
        return f"{{{', '.join(f'{_text(k, budget)}: {_text(v, budget)}' for k, v in node.value)}}}"
    return str(node.value)


def _spend(budget: list[int]) -> None:
    """Count a value; an alias counts as often as it is used."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(f"more than {_MOST_VALUES:,} values")


def _changes(columns: Sequence[Column]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for column in columns for key in column.facts)
    changes = {key: [column.facts.get(key, ABSENT) for column in columns] for key in keys}
    seeds = [", ".join(column.seeds) or ABSENT for column in columns]
    return {key: values for key, values in {**changes, SEED: seeds}.items() if len(set(values)) > 1}


def _result(column: Column, name: str, metric: str, row: dict[str, Any] | None) -> Result | None:
    if row is None:
        return None
    floors = [best_floor(run.summary, name, metric)[0] for run in column.runs]
    known = [floor for floor in floors if floor is not None]
    floor = sum(known) / len(known) if known else None
    below = below_floor(metric, row["score"], floor)
    verdict = row.get("verdict", "")
    if verdict == "better" and below:
        higher = row["difference"] > 0
        verdict = "higher, not above its floor" if higher else "lower, not below its floor"
    return Result(
        score=row["score"],
        deviation=row["deviation"],
        floor=floor,
        below=below,
        difference=row.get("difference"),
        interval=tuple(row["interval"]) if "interval" in row else None,
        verdict=verdict,
    )


def below_floor(metric: str, score: float, floor: float | None) -> bool:
    """Whether a score does not beat its floor."""
    if floor is None:
        return False
    return score >= floor if lower_is_better(metric) else score <= floor


def check_same_queries(first: RunFiles, run: RunFiles) -> None:
    """Raises InputError unless both runs were tested on the same sentences and moments."""
    for name, what in (("video_ids", "videos"), ("paragraph_ids", "paragraphs"), ("names", "ids")):
        if getattr(run.truth, name) != getattr(first.truth, name):
            raise InputError(
                f"{run.name} and {first.name} were not tested on the same queries: "
                f"their {what} differ"
            )
    if not np.array_equal(run.truth.moments, first.truth.moments, equal_nan=True):
        raise InputError(f"{run.name} and {first.name} were not scored against the same moments")


def _scoring_options(summary: dict[str, Any]) -> dict[str, Any]:
    """The ``ScoringOptions`` that a run was scored with, read off its summary's metric names."""
    metrics = {metric for row in summary["protocols"].values() for metric in row}
    pairs = [metric.split(",IoU=") for metric in metrics if ",IoU=" in metric]
    single = {
        int(metric[2:])
        for name in ("vr", "vr_sentences")
        for metric in summary["protocols"].get(name, {})
        if metric.startswith("R@")
    }
    moments = {
        int(metric.split(",")[0][2:])
        for name in ("svmr_2dtan", "svmr")
        for metric in summary["protocols"].get(name, {})
        if ",IoU=" in metric
    }
    settings = summary.get("settings", {})
    options: dict[str, Any] = {key: settings[key] for key in ("ties", "alpha") if key in settings}
    if pairs:
        options["iou"] = sorted({float(threshold) for _, threshold in pairs})
    if single:
        options["retrieval_k"] = sorted(single)
    if moments:
        options["grounding_n"] = sorted(moments)
    return options
