"""The predictions, results and log in a finished run's folder, read for a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ...base.errors import InputError
from ...base.files import Write, digest_of, open_input, record_file, replace_files
from ...base.installed import called
from ...base.schema import (
    Wrong,
    listed,
    mapping,
    number,
    one_of,
    optional,
    record,
    row,
    text,
    unique_keys,
    whole,
)
from .. import PROTOCOLS, summarise
from ..examples import ScoreMaps, fill_maps, load_maps
from ..records import Predictions, Truth
from ..retrieval import TIES
from . import load_arrays, read_any, read_truth
from .arrays import fill_arrays
from .predictions import fill_predictions
from .truth import fill_truth

_SCORES = mapping(optional(number()))
_FLOORS = mapping(mapping(_SCORES))
_SUMMARY = record(
    {
        "protocols": mapping(_SCORES),
        "floors": _FLOORS,
        "ceilings": mapping(_SCORES),
        "intervals": mapping(mapping(optional(row(*[optional(number())] * 2)))),
        "queries": mapping(record({"alpha": number(), "counted": whole(), "missing": whole()})),
        "corpus": record(
            dict.fromkeys(("videos", "paragraphs", "sentences"), whole()),
            needed=("videos", "paragraphs", "sentences"),
        ),
        "diagnostics": record(
            dict.fromkeys(
                (
                    *("order_violated", "identical_within_paragraph", "most_common_share"),
                    *("mean_width", "width_spread", "most_common_first"),
                ),
                optional(number()),
            )
        ),
        "left_out": record({"sentences": whole(), "of": whole(), "clipped": whole()}),
        "warnings": listed(text),
        "notes": listed(text),
        "settings": record({"ties": one_of(*TIES), "alpha": number()}),
        "files": mapping(text),
    },
    needed=("protocols", "corpus"),
)
_LOGGED = record(
    {
        "epoch": whole(),
        "train": mapping(optional(number())),
        "protocols": mapping(_SCORES),
        "floors": _FLOORS,
    }
)
TRUTH = "predictions.truth.jsonl"
LINES, ARRAYS = "predictions.jsonl", "predictions.npz"
MAPS = "predictions.maps.npz"


def save_run_predictions(
    folder: str | Path,
    truth: Truth,
    predictions: Predictions,
    *,
    results: Callable[[dict[str, str]], Mapping[str, str]] = lambda digests: {},
    arrays: bool = False,
    maps: ScoreMaps | None = None,
    alpha: float = 20.0,
    videos: int = 1000,
    note: dict[str, Any] | None = None,
    stem: str = "predictions",
) -> None:
    """Write what a report and the standalone scorer need: truth, predictions, and score maps.

    All appear together, when all are complete.

    Args:
        results: from the name and SHA-256 of each of these files, further files by name, written
            after them: ``results.json`` with the digests as ``files``, by which ``read_run`` knows
            that they belong together.
        arrays: also write everything, candidates of all videos included, as one ``.npz``.
        alpha, videos, note: see ``write_predictions``.
        stem: with which the files' names begin; a run is read under the usual one.

    Raises:
        InputError: the disk is full, or the folder not writable; the old files are as they were.
    """
    folder = Path(folder)
    options: dict[str, Any] = {"alpha": alpha, "videos": videos, "note": note}
    fill: dict[str, Write] = {
        TRUTH: partial(fill_truth, truth),
        LINES: partial(fill_predictions, truth, predictions, **options),
    }
    if arrays:
        fill[ARRAYS] = partial(fill_arrays, truth, predictions)
    if maps is not None:
        fill[MAPS] = partial(fill_maps, maps)
    fill = {name.replace("predictions", stem, 1): write for name, write in fill.items()}
    digests: dict[str, str] = {}
    texts: dict[str, str] = {}

    def filled(name: str, file: BinaryIO) -> None:
        fill[name](file)
        file.flush()
        digests[name] = digest_of(Path(file.name))

    def described(name: str, file: BinaryIO) -> None:
        texts.update({} if texts else results(digests))
        file.write(texts[name].encode())

    files = {name: partial(filled, name) for name in fill}
    files |= {name: partial(described, name) for name in results({})}
    replace_files({record_file(folder, name): write for name, write in files.items()})


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
        InputError: no predictions, or a file that cannot be read, was cut, or is of another test.
    """
    folder = Path(folder)
    source = folder / ARRAYS if (folder / ARRAYS).is_file() else folder / LINES
    if not (folder / TRUTH).is_file() or not source.is_file():
        raise InputError(
            f"{folder}: holds no {TRUTH} with {LINES} or {ARRAYS}; a report needs them, and "
            f"{called('best_test')} writes them"
        )
    results = folder / "results.json"
    stored = _json(results) if results.is_file() else None
    if stored is not None:
        _require_same(folder, stored.get("files", {}))
    truth = read_truth(folder / TRUTH)
    if source.name == ARRAYS:
        predictions = load_arrays(source, truth)
    else:
        truth, predictions = read_any(source, truth)
    summary = summarise(truth, predictions) if stored is None else stored
    config = folder / "config.yaml"
    return RunFiles(
        name=name or folder.resolve().name,
        truth=truth,
        predictions=predictions,
        summary=summary,
        log=_log(folder / "log.jsonl"),
        config=_text(config) if config.is_file() else "",
        maps=load_maps(folder / MAPS, truth) if (folder / MAPS).is_file() else None,
    )


def _require_same(folder: Path, digests: Any) -> None:
    """Refuse files that are not those which the results were written with."""
    for name, digest in digests.items() if isinstance(digests, dict) else ():
        if Path(name).name != name:
            continue
        path = folder / name
        try:
            found = digest_of(path)
        except OSError as fault:
            raise InputError(f"{path}: cannot be read ({fault.strerror})") from None
        if found != digest:
            raise InputError(
                f"{path}: is not the file that results.json was written with: it was cut or "
                "changed, or a test was stopped as it replaced them; run "
                f"{called('best_test')} again"
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path), object_pairs_hook=unique_keys)
        _SUMMARY(value, "")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({str(error)[:100]})") from None
    except Wrong as fault:
        expected = f"expected the results of {called('best_test')}"
        raise InputError(f"{path}: {fault}; {expected}") from None
    unknown = [name for name in value["protocols"] if name not in PROTOCOLS]
    if unknown:
        raise InputError(f"{path}: has scores of the unknown protocol {unknown[0][:40]!r}")
    return dict(value)


def _text(path: Path) -> str:
    try:
        with open_input(path, encoding="utf-8") as file:
            return str(file.read())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def _log(path: Path) -> list[dict[str, Any]]:
    """Records with an epoch. A line that a kill cut short does not count."""
    records = []
    if path.is_file():
        lines = _text(path).split("\n")
        for place, line in enumerate(lines):
            try:
                record = json.loads(line)
                _LOGGED(record, "")
            except (ValueError, RecursionError, Wrong) as fault:
                if line.strip() and place < len(lines) - 1:
                    raise InputError(f"{path}:{place + 1}: is no epoch ({str(fault)[:100]})") from (
                        None
                    )
                continue
            if "epoch" in record:
                records.append(record)
    return records
