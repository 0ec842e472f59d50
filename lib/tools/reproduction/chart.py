"""A table that was trained anew as a figure: its metrics over its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from ...base.files import replace_file
from .page import Trained
from .tables import CorpusOfTable, Table

FORMATS = (".pdf", ".png", ".svg")
_STYLES = ("-o", "-s", "-^", "-v", "-D", "-x")


def draw(
    plt: Any, table: Table, corpus: CorpusOfTable, trained: Mapping[str, Trained], path: Path
) -> None:
    """The metrics of the first protocol, a line each: means and standard deviations over seeds.

    Args:
        plt: matplotlib's ``pyplot``.
        path: ends in one of ``FORMATS``.
    """
    protocol, metrics = next(iter(table.protocols.items()))
    rows = {name: trained[name].results for name in table.rows if name in trained}
    rows = {name: results for name, results in rows.items() if results}
    figure, axis = plt.subplots(figsize=(max(4.0, 0.7 * len(rows) + 2), 3.4), layout="constrained")
    for metric, style in zip(metrics, cycle(_STYLES), strict=False):
        means, spreads = [], []
        for results in rows.values():
            found = [each["protocols"].get(protocol, {}).get(metric) for each in results]
            values = [value for value in found if value is not None]
            means.append(statistics.mean(values) if values else math.nan)
            spreads.append(statistics.stdev(values) if len(values) > 1 else 0.0)
        axis.errorbar(range(len(rows)), means, yerr=spreads, fmt=style, label=metric, capsize=2)
    titles = [table.rows[name].title for name in rows]
    axis.set_xticks(range(len(rows)), titles, rotation=30, ha="right")
    axis.set(ylabel=f"per cent ({protocol})", ylim=(0, None))
    axis.set_title(f"{table.title}, on {corpus.name}", fontsize=8)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, partial(figure.savefig, format=path.suffix[1:], dpi=200))
    plt.close(figure)
