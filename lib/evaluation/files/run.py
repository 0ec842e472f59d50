"""The predictions, results and log in a finished run's folder, read for a report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.base.errors import InputError
from lib.evaluation import summarise
from lib.evaluation.examples import ScoreMaps, load_maps, save_maps
from lib.evaluation.files import load_arrays, read_any, read_truth, save_arrays, write_predictions
from lib.evaluation.files.truth import write_truth
from lib.evaluation.records import Predictions, Truth

TRUTH = "predictions.truth.jsonl"
LINES, ARRAYS = "predictions.jsonl", "predictions.npz"
MAPS = "predictions.maps.npz"


def save_run_predictions(
    folder: str | Path,
    truth: Truth,
    predictions: Predictions,
    *,
    arrays: bool = False,
    maps: ScoreMaps | None = None,
    alpha: float = 20.0,
    videos: int = 1000,
    note: dict[str, Any] | None = None,
) -> None:
    """Write what a report and the standalone scorer need: truth, predictions, and score maps.

    Args:
        arrays: also write everything, candidates of all videos included, as one ``.npz``.
        alpha, videos, note: see ``write_predictions``.
    """
    folder = Path(folder)
    write_truth(folder / TRUTH, truth)
    write_predictions(folder / LINES, truth, predictions, alpha=alpha, videos=videos, note=note)
    if arrays:
        save_arrays(folder / ARRAYS, truth, predictions)
    if maps is not None:
        save_maps(folder / MAPS, maps)


@dataclass(frozen=True)
class RunFiles:
    """One run, as a report shows it."""

    name: str
    truth: Truth
    predictions: Predictions
    summary: dict[str, Any]
    log: list[dict[str, Any]]
    config: str
    maps: ScoreMaps | None


def read_run(folder: str | Path, *, name: str | None = None) -> RunFiles:
    """Read a run's folder.

    The results are those in ``results.json``; without it, the predictions are scored anew. Arrays
    go before lines, since they hold more.

    Raises:
        InputError: no predictions, or a file that cannot be read.
    """
    folder = Path(folder)
    source = folder / ARRAYS if (folder / ARRAYS).is_file() else folder / LINES
    if not (folder / TRUTH).is_file() or not source.is_file():
        raise InputError(
            f"{folder}: holds no {TRUTH} with {LINES} or {ARRAYS}; a report needs them, and "
            "best_test.py writes them"
        )
    truth = read_truth(folder / TRUTH)
    if source.name == ARRAYS:
        predictions = load_arrays(source, truth)
    else:
        truth, predictions = read_any(source, truth)
    results = folder / "results.json"
    summary = _json(results) if results.is_file() else summarise(truth, predictions)
    config = folder / "config.yaml"
    return RunFiles(
        name=name or folder.resolve().name,
        truth=truth,
        predictions=predictions,
        summary=summary,
        log=_log(folder / "log.jsonl"),
        config=config.read_text("utf-8") if config.is_file() else "",
        maps=load_maps(folder / MAPS, truth) if (folder / MAPS).is_file() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("protocols"), dict):
        raise InputError(f"{path}: holds no protocols, expected the results of best_test.py")
    return value


def _log(path: Path) -> list[dict[str, Any]]:
    """Records with an epoch. A line that a kill cut short does not count."""
    records = []
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                records.append(record)
    return records
