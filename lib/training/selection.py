"""Which epoch is the best: by TRAIN.SELECT_BY on validation, then by a finer number.

Recalls over few queries take few values: on 27 videos, R@10 of every epoch may be 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Scores = tuple[float, float | None]  # by TRAIN.SELECT_BY, and by the finer number where it has one
_SHOWN = 8  # tied epochs that a line names


def finer_metric(select_by: str) -> str | None:
    """A number of the same task that hardly ever ties, and is better when higher: the mean
    reciprocal rank for a number of retrieval, the mean overlap for one of grounding. None: there is
    none, or it is this one."""
    protocol, _, metric = select_by.partition("/")
    if protocol.startswith("vr"):
        return None if metric == "MRR" else f"{protocol}/MRR"
    of_overlap = {"svmr": "svmr", "svmr_2dtan": "svmr_2dtan", "svmr_discounted": "svmr_2dtan"}
    of_overlap |= {"svmr_any": "svmr_any", "svmr_map": "svmr_any"}
    if protocol in of_overlap and metric != "mIoU":
        return f"{of_overlap[protocol]}/mIoU"
    return None


def value_of(protocols: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """The number called ``protocol/metric``; None if it is not there, or not finite, or none, in a
    log that somebody changed."""
    protocol, _, metric = name.partition("/")
    row = protocols.get(protocol)
    value = row.get(metric) if isinstance(row, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def better(select_by: str, score: Scores, best: Scores) -> bool:
    """Whether an epoch goes before an earlier one. Ranks are better when lower, everything else
    when higher; where epochs tie to the last digit, that with the higher finer number, and then the
    earlier."""
    if score[0] != best[0]:
        return (score[0] < best[0]) == select_by.endswith("MedR")
    return score[1] is not None and best[1] is not None and score[1] > best[1]


def ties(records: Iterable[Mapping[str, Any]], select_by: str, best: int) -> str:
    """What to say where other epochs have the score of the best one; empty where none has.

    Args:
        records: of the log, each of one epoch.
        best: the best epoch, from 0.
    """
    scored = {
        epoch: row
        for record in records
        if isinstance(epoch := record.get("epoch"), int)
        and isinstance(row := record.get("protocols"), Mapping)
    }
    if best not in scored:
        return ""
    top = value_of(scored[best], select_by)
    tied = [epoch + 1 for epoch, row in scored.items() if value_of(row, select_by) == top]
    if top is None or len(tied) < 2:
        return ""
    listed = ", ".join(map(str, tied[:_SHOWN]))
    if len(tied) > _SHOWN:
        listed += f" and {len(tied) - _SHOWN} more"
    finer = finer_metric(select_by)
    if finer is None:
        chosen = "the earliest is taken"
    else:
        value = value_of(scored[best], finer)
        chosen = f"epoch {best + 1} is the best of them by {finer}"
        chosen += "" if value is None else f" ({value:.2f})"
    return f"epochs {listed} tie by {select_by} at {top:.2f}: {chosen}"
