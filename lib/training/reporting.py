"""The progress reports of a run: lines for the console, scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .progress import Progress

_EVENTS = "events.out.tfevents.*"


def epoch_line(
    epoch: int,
    epochs: int,
    means: Mapping[str, float],
    summary: Mapping[str, Any],
    select_by: str,
    progress: Progress,
) -> str:
    """One epoch in one line: the loss, and each kind of score with its best baseline (floor)."""
    parts = [f"epoch {epoch + 1}/{epochs}", f"loss {means['total']:.4f}"]
    scores, baselines = summary["protocols"], summary["floors"]
    for protocol, name in (("vr", "R@1"), ("vr", "R@10"), ("svmr_2dtan", "R@1,IoU=0.5")):
        if name in scores.get(protocol, {}):
            baseline = max(
                (row.get(name, 0.0) for row in baselines[protocol].values()), default=0.0
            )
            parts.append(f"{protocol} {name} {scores[protocol][name]:.2f} (floor {baseline:.2f})")
    if "mIoU" in scores.get("svmr_2dtan", {}):
        baseline = max(row.get("mIoU", 0.0) for row in baselines["svmr_2dtan"].values())
        parts.append(f"mIoU {scores['svmr_2dtan']['mIoU']:.2f} (floor {baseline:.2f})")
    best = epoch if progress.best_epoch is None else progress.best_epoch
    chosen = "best so far" if best == epoch else f"best {best + 1}"
    return "  ".join([*parts, f"[{chosen} by {select_by}]"])


def describe_change(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignore: set[str]
) -> list[str]:
    """Options that differ between two configurations, as ``KEY was x and is y``."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old | new)
        if key not in ignore and old.get(key) != new.get(key)
    ]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple | list) else value


class Scalars:
    """TensorBoard, where it is installed; nothing otherwise (log.jsonl always has the numbers).

    Attributes:
        files: names of what it writes in the folder.
    """

    def __init__(self, folder: Path, *, purge_from: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer, self.files = None, []
            return
        there = set(folder.glob(_EVENTS))
        self.writer = SummaryWriter(str(folder), purge_step=purge_from)
        self.files = sorted(path.name for path in set(folder.glob(_EVENTS)) - there)

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of a log record, under its path."""
        if self.writer is None:
            return
        for key, value in _leaves(record):
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "epoch":
                self.writer.add_scalar(key.replace(".", "/"), value, record["epoch"])
        self.writer.flush()
