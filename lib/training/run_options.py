"""The options of a test: those that the run was trained with, and what a test may change of them.

Everything is taken from ``config.yaml`` in the run's folder, so that nothing that was set for the
training has to be repeated. A test may change how it decodes and counts, read videos that were
changed on purpose, and have its data elsewhere on this machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from ..base.errors import InputError
from ..base.installed import called, typed
from ..base.terminal import shown_path
from ..config.config import load_config
from .build import resolve, run_folder
from .reporting import describe_change
from .run import CONFIG, require_run

# What belongs to a machine or to a test, and not to the weights; and what becomes of faulty data.
_FREE = (
    *("TEST.", "DECODE.", "WORKERS", "GPUS", "DATA_DIR", "DATASET.CACHE", "DATASET.LINKED_"),
    *("DATASET.BAD_MOMENTS", "DATASET.EMPTY_SENTENCES", "DATASET.MISSING_VIDEOS"),
)
_PLACES = {"MODEL_DIR", "LOG_DIR", "TAG"}
_OF_RUN = {"tag": "--tag", "modelDir": "--modelDir", "logDir": "--logDir"}


def tested_run(args: argparse.Namespace) -> tuple[Path, EasyDict, list[str]]:
    """The folder of the run that a command line names, the options of its test, and notes on them.

    Args:
        args: with ``run``, a folder, or ``cfg``, an experiment whose run lies in MODEL_DIR; and the
            flags of ``add_common_flags``, and ``other_data``.

    Raises:
        InputError: there is no such run, or an option that a test cannot change.
    """
    if (args.run is None) == (args.cfg is None):
        raise InputError(
            f"expected either the folder of a run ({called('best_test')} RUN) or --cfg YAML"
        )
    if args.run is not None:
        needless = [flag for name, flag in _OF_RUN.items() if getattr(args, name) is not None]
        needless += [f"--set {text}" for text in args.set if text.split("=")[0].strip() in _PLACES]
        if needless:
            raise InputError(
                f"{needless[0]} is for --cfg, whose run it helps to find; {args.run} is the run's "
                "folder itself"
            )
        require_run(Path(args.run))
        return Path(args.run), _options(Path(args.run), args), []
    experiment = load_config(args.cfg, args.set, vars(args), decode=args.decode)
    folder = run_folder(args.cfg, experiment)
    require_run(folder)
    config = _options(folder, args)
    for section in ("MODEL", "DATASET"):
        there, here = config[section].NAME, experiment[section].NAME
        if there != here:
            raise InputError(
                f"{args.cfg}: {section}.NAME is {here}, and the run in {shown_path(folder)} was "
                f"trained with {there}; to test it: {typed('best_test', shown_path(folder))}"
            )
    if not resolve(config.DATA_DIR).is_dir():
        config.DATA_DIR = experiment.DATA_DIR
    ignored = _PLACES | {"DATA_DIR", "WORKERS", "GPUS", "DATASET.CACHE", "DATASET.CACHE_DIR"}
    others = describe_change(experiment, config, ignore=ignored)
    if not others:
        return folder, config, []
    return folder, config, [f"options are the run's, not those of {args.cfg}: {_few(others)}"]


def _options(folder: Path, args: argparse.Namespace) -> EasyDict:
    """Those of ``config.yaml``, changed by the command line."""
    path = folder / CONFIG
    own = load_config(path)
    flags = {name: getattr(args, name) for name in ("gpus", "workers", "dataDir")}
    config = load_config(path, args.set, flags, decode=args.decode)
    changed = describe_change(own, config, ignore=_PLACES)
    changed = [text for text in changed if not text.startswith(_FREE)]
    of_data = [text for text in changed if text.startswith("DATASET.")]
    of_training = [text for text in changed if text not in of_data]
    if of_training:
        raise InputError(
            f"{shown_path(folder)} is trained: {_few(of_training)}; a test can change TEST and "
            f"DECODE, another run is trained by {called('dense_train')} with --tag"
        )
    if of_data and not args.other_data:
        raise InputError(
            f"{shown_path(folder)} was trained on other data: {_few(of_data)}; --other-data NAME "
            "scores these, into results_on_NAME.json and .md"
        )
    config.MODEL_DIR, config.TAG = _place(folder, own)
    return config


def _place(folder: Path, own: Mapping[str, Any]) -> tuple[str, str]:
    """MODEL_DIR and TAG of a run that may have been moved."""
    if resolve(own["MODEL_DIR"]).resolve() in folder.resolve().parents:
        return own["MODEL_DIR"], own["TAG"]
    return str(folder.resolve().parent), ""


def other_data(
    trained: Mapping[str, Any], annotations: Mapping[str, str], features: str
) -> list[str]:
    """How the data here differ from those of training, a clause each; none where they do not, or
    where the checkpoint does not say.

    Args:
        trained: the state of the checkpoint.
        annotations: of each split that was read here, the name of its file and its digest.
        features: how the feature file differs from that of training.
    """
    there = (trained.get("provenance") or {}).get("annotations", {})
    clauses = [
        f"the {split} annotations are not those of training ({there[split]} there, {text} here)"
        for split, text in annotations.items()
        if split in there and there[split].split()[-1] != text.split()[-1]
    ]
    return clauses + ([f"the features are not those of training: {features}"] if features else [])


def _few(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more
