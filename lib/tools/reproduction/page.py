"""The page of a table that was trained anew, in Markdown: what came out, beside what was published
and beside what needs no model, and which of the paper's claims hold."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.terminal import count
from ...evaluation import PROTOCOLS
from ...evaluation.baselines import best_floor
from ...evaluation.bootstrap import lower_is_better
from ...evaluation.comparison import Column, Result, below_floor, compare_columns
from ...evaluation.files.run import read_run
from .tables import Claim, CorpusOfTable, Numbers, Table

RESAMPLES = 1000
_KINDS = {
    "weak": "Trained without timestamps",
    "full": "Trained on the moments (full supervision)",
}


@dataclass(frozen=True)
class Trained:
    """What there is of a row.

    Attributes:
        supervision: ``weak`` or ``full``.
        folders: of the runs that were tested, one a seed.
        results: what their tests wrote, in the same order.
        fault: why runs are missing, a sentence; "" where none is.
    """

    supervision: str
    folders: Sequence[Path] = ()
    results: Sequence[Mapping[str, Any]] = ()
    fault: str = ""


def page(
    table: Table,
    corpus: CorpusOfTable,
    trained: Mapping[str, Trained],
    *,
    command: str,
    seeds: int,
) -> str:
    """The page. It says nothing of when and how fast its runs were trained, so that the same
    results make the same page.

    Args:
        trained: of each row that can be trained.
        command: the line that writes this page.
    """
    done = {name: row for name, row in trained.items() if row.results}
    lines = [f"# {table.title}", "", f"Written by `{command}`.", ""]
    lines += [_about(corpus, done, seeds), ""]
    lines += [note for text in (*table.notes, *corpus.notes) for note in (f"- {text}",)]
    if not done:
        lines += ["", "No run has results yet.", *_left_out(table, trained)]
        return "\n".join(lines) + "\n"
    differences = _Differences(done, table.protocols)
    for protocol, metrics in table.protocols.items():
        lines += ["", f"## Protocol `{protocol}`", "", _definition(protocol)]
        for kind, title in _KINDS.items():
            names = [name for name in table.rows if name in done and done[name].supervision == kind]
            if names:
                lines += ["", f"{title}:", ""]
                lines += _rows(table, corpus, protocol, metrics, names, done, differences)
    lines += _published_elsewhere(table, corpus)
    lines += _claims(table, done, differences)
    lines += _left_out(table, trained)
    return "\n".join(lines) + "\n"


def _about(corpus: CorpusOfTable, done: Mapping[str, Trained], seeds: int) -> str:
    text = f"Corpus: {corpus.title}. "
    results = [result for row in done.values() for result in row.results]
    if results:
        sizes = results[0]["corpus"]
        text += (
            f"Test split: {count(sizes['videos'], 'video')}, "
            f"{count(sizes['paragraphs'], 'paragraph')}, {count(sizes['sentences'], 'sentence')}. "
        )
    text += (
        f"Per cent, mean ± standard deviation over {count(seeds, 'training seed')}"
        f"{' (rows with fewer say so)' if seeds > 1 else ''}. ↓ marks a mean that does not beat "
        "the best of the rows without a model, which are in italics. Intervals are 95 %, over "
        "paragraphs and seeds."
    )
    if commits := commits_of(results):
        text += f" Trained by {commits}."
    return text


def commits_of(results: Iterable[Mapping[str, Any]]) -> str:
    """The code that trained the runs, in words; empty where no run says."""
    found = set()
    for result in results:
        about = (result.get("provenance") or {}).get("training") or {}
        if about.get("commit"):
            changed = "" if about.get("clean", True) else " with changes"
            found.add(f"{str(about['commit'])[:10]}{changed}")
    return "the code of commit " + ", ".join(sorted(found)) if found else ""


def _definition(protocol: str) -> str:
    known = PROTOCOLS[protocol]
    lines = f"{known.definition} Source: {known.source}."
    if known.ranked in ("pairs", "videos, then moments"):
        lines += (
            " Rules without a model ground in the ranking of a run: those shown have that of the "
            "first row's first seed, and ↓ compares each row with those of its own runs."
        )
    return lines


def _rows(
    table: Table,
    corpus: CorpusOfTable,
    protocol: str,
    metrics: Sequence[str],
    names: Sequence[str],
    done: Mapping[str, Trained],
    differences: _Differences,
) -> list[str]:
    """The rows of one kind of supervision, the rules without a model above them."""
    first = protocol == next(iter(table.protocols))
    at = table.compared_at if table.compared_at in metrics else metrics[0]
    head = ["", "seeds", *metrics, f"beside `{table.reference}` at {at}"]
    floors = done[names[0]].results[0].get("floors", {}).get(protocol, {})
    rows = [
        [f"*{rule}*", "", *(_number(row.get(metric)) for metric in metrics), ""]
        for rule, row in floors.items()
    ]
    for name in names:
        row = done[name]
        cells = [_cell(row.results, protocol, metric) for metric in metrics]
        if not any(cells):
            continue
        beside = ""
        if name != table.reference and table.reference in done:
            beside = _signed(differences.of(table.reference, name, protocol).get(at))
        rows.append([_title(table, name), str(len(row.results)), *cells, beside])
        published = table.rows[name].published.get(corpus.name)
        if first and published:
            rows.append(["published", "", *_published(published), ""])
    return _markdown(head, rows)


def _title(table: Table, name: str) -> str:
    title = table.rows[name].title
    return f"`{name}`" if title == name else f"`{name}` ({title})"


def _cell(results: Sequence[Mapping[str, Any]], protocol: str, metric: str) -> str:
    rows = [result["protocols"].get(protocol, {}) for result in results]
    values = [row[metric] for row in rows if row.get(metric) is not None]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    floors = [best_floor(dict(result), protocol, metric)[0] for result in results]
    known = [floor for floor in floors if floor is not None]
    floor = statistics.mean(known) if known else None
    mark = " ↓" if below_floor(metric, statistics.mean(values), floor) else ""
    return f"{statistics.mean(values):.2f}{spread}{mark}"


def _published(values: Numbers) -> list[str]:
    return ["–" if value is None else f"{value:.2f}" for value in values]


def _published_elsewhere(table: Table, corpus: CorpusOfTable) -> list[str]:
    """The published numbers of the other corpora, and of rows that nothing trains."""
    protocol, metrics = next(iter(table.protocols.items()))
    corpora = dict.fromkeys(name for row in table.rows.values() for name in row.published)
    lines = []
    for name in corpora:
        rows = [
            [_title(table, key), *_published(row.published[name])]
            for key, row in table.rows.items()
            if name in row.published and (name != corpus.name or row.absent)
        ]
        if rows:
            lines += ["", f"On {name}:", "", *_markdown(["", *metrics], rows)]
    if not lines:
        return []
    here = "what follows is of other corpora, or of rows that nothing here trains"
    return [
        "",
        "## As published",
        "",
        f"By the paper, whose protocol is `{protocol}`; {here}.",
        *lines,
    ]


def _claims(table: Table, done: Mapping[str, Trained], differences: _Differences) -> list[str]:
    """Which of the paper's claims hold, each against each of its rivals."""
    lines = []
    for claim in table.claims:
        rows = [
            [f"over `{rival}`", f"`{protocol}`", *judged]
            for rival in claim.than
            if rival in done and claim.better in done
            for protocol, metrics in table.protocols.items()
            if (judged := _judged(claim, rival, metrics, differences, protocol, done))
        ]
        if rows:
            head = [f"`{claim.better}`", "protocol", "", "differences, metric by metric"]
            lines += ["", f"**{claim.text}**", "", *_markdown(head, rows)]
    if not lines:
        return []
    explained = (
        "A difference is beyond chance where its 95 % interval does not hold 0. The metrics of a "
        "protocol are not independent of each other, and some of many differences are beyond "
        "chance by chance."
    )
    return ["", "## Do the paper's claims hold here?", "", explained, *lines]


def _judged(
    claim: Claim,
    rival: str,
    metrics: Sequence[str],
    differences: _Differences,
    protocol: str,
    done: Mapping[str, Trained],
) -> list[str]:
    """Verdict and differences; empty where a row is not counted."""
    found = differences.of(rival, claim.better, protocol)
    known = {metric: found[metric] for metric in metrics if metric in found}
    if not known:
        return []
    points = ", ".join(f"{result.difference:+.2f}" for result in known.values())
    return [_verdict(claim, rival, known, done), points]


def _verdict(
    claim: Claim,
    rival: str,
    known: Mapping[str, Result],
    done: Mapping[str, Trained],
) -> str:
    better = sum(_gain(metric, result) > 0 for metric, result in known.items())
    sure = sum(_surely(metric, result) for metric, result in known.items())
    if sure == len(known):
        text = "**holds**, beyond chance in all metrics"
    elif better == len(known):
        text = f"holds in the means; beyond chance in {sure} of {len(known)} metrics"
    else:
        worse = sum(_surely(metric, result, sign=-1) for metric, result in known.items())
        text = (
            f"**does not hold**: better in {better} of {len(known)} metrics, beyond chance in "
            f"{sure}; worse beyond chance in {worse}"
        )
    if all(result.below for result in known.values()):
        text += f"; and `{claim.better}` does not beat the rows without a model"
    if done[claim.better].supervision != done[rival].supervision:
        text += f"; `{rival}` is trained with {done[rival].supervision} supervision"
    return text


def _gain(metric: str, result: Result) -> float:
    sign = -1 if lower_is_better(metric) else 1
    return sign * (result.difference or 0.0)


def _surely(metric: str, result: Result, sign: int = 1) -> bool:
    """Whether it is better beyond chance; worse, with the sign -1."""
    low, high = result.interval or (0.0, 0.0)
    upwards = (sign > 0) != lower_is_better(metric)
    return low > 0 if upwards else high < 0


class _Differences:
    """Rows compared in pairs, each pair once. The predictions of two rows are held at a time."""

    def __init__(self, done: Mapping[str, Trained], protocols: Iterable[str]) -> None:
        self.done, self.protocols = done, protocols
        self._known: dict[tuple[str, str], dict[str, dict[str, Result]]] = {}

    def of(self, first: str, second: str, protocol: str) -> dict[str, Result]:
        """Of a protocol's metrics: how the second row differs from the first."""
        if (first, second) not in self._known:
            columns = [self._column(name) for name in (first, second)]
            results = [r["protocols"] for name in (first, second) for r in self.done[name].results]
            counted = [name for name in self.protocols if all(name in each for each in results)]
            compared = compare_columns(columns, resamples=RESAMPLES, protocols=counted)
            self._known[first, second] = {
                name: {m: row[1] for m, row in rows.items() if row[1] is not None}
                for name, rows in compared.items()
            }
        return self._known[first, second].get(protocol, {})

    def _column(self, name: str) -> Column:
        runs = tuple(read_run(folder) for folder in self.done[name].folders)
        return Column(name, runs, (), {})


def _left_out(table: Table, trained: Mapping[str, Trained]) -> list[str]:
    rows = [
        f"- {_title(table, name)}: {row.absent}" for name, row in table.rows.items() if row.absent
    ]
    rows += [f"- {_title(table, name)}: {row.fault}" for name, row in trained.items() if row.fault]
    return ["", "## What is missing", "", *rows] if rows else []


def _signed(result: Result | None) -> str:
    if result is None or result.difference is None or result.interval is None:
        return ""
    low, high = result.interval
    return f"{result.difference:+.2f} ({low:+.2f} to {high:+.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
