"""Training curves of a report: losses, and scores on validation with their best baseline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ..baselines import best_floor
from ..files.run import RunFiles
from .charts import Line, curve
from .markup import details, table
from .tables import number
from .words import metric_title, protocol_title

# Protocol and metric of the curves, if the log has them.
_SCORES = (
    ("vr", "R@1"),
    ("vr", "R@10"),
    ("jrg_joint", "R@10,IoU=0.5"),
    ("jrg_video_topk", "R@10,IoU=0.5"),
    ("svmr_2dtan", "R@1,IoU=0.5"),
    ("svmr_2dtan", "mIoU"),
)


def curves(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    """Losses and headline scores over epochs, and the same as a table."""
    if not any(len(run.log) > 1 for run in runs):
        return ""
    paths = [("train", *keys) for run in runs for keys in _keys(run.log, "train")]
    paths += [("protocols", *headline) for headline in _SCORES]
    drawings, columns = [], {}
    for path in dict.fromkeys(paths):
        lines = [
            Line(name, points, f"run{r}")
            for r, (run, name) in enumerate(zip(runs, names, strict=True))
            if len(points := _points(run.log, path)) > 1
        ]
        if not lines:
            continue
        columns[path] = lines
        title = f"{path[1]} (training)"
        if path[0] == "protocols":
            title = f"{protocol_title(path[1])}: {metric_title(*path[1:])} (validation)"
        baseline = _baseline_curve(runs[0].log, path)
        drawing = curve(title, lines + ([baseline] if baseline else []))
        legend = f"; dashed: {baseline.name}" if baseline else ""
        caption = f"<figcaption>{escape(title + legend)}</figcaption>"
        drawings.append(f"<figure>{drawing}{caption}</figure>")
    epochs = sorted({x for lines in columns.values() for line in lines for x, _ in line.points})
    several = len(runs) > 1
    head = ["epoch"] + [
        ", ".join(path[1:]) + (f" ({line.name})" if several else "")
        for path, lines in columns.items()
        for line in lines
    ]
    values = [dict(line.points) for lines in columns.values() for line in lines]
    rows = [[f"{x + 1:g}", *(number(each.get(x), 4) for each in values)] for x in epochs]
    listed = details("The same as a table", table(head, rows, caption="Values of every epoch"))
    return f'<div class="cards">{"".join(drawings)}</div>{listed}'


def _keys(log: Sequence[dict[str, Any]], part: str) -> list[tuple[str, ...]]:
    return [(key,) for record in log[:1] for key in record.get(part, {})]


def _points(log: Sequence[dict[str, Any]], path: tuple[str, ...]) -> list[tuple[float, float]]:
    points = []
    for record in log:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            points.append((float(record["epoch"]), float(value)))
    return points


def _baseline_curve(log: Sequence[dict[str, Any]], path: tuple[str, ...]) -> Line | None:
    """The best baseline of a curve's score by epoch; it may move with the retrieval."""
    if path[0] != "protocols":
        return None
    points = []
    for record in log:
        value, _ = best_floor(record, path[1], path[2])
        if value is not None:
            points.append((float(record["epoch"]), value))
    return Line("best floor", points, "floor") if len(points) > 1 else None
