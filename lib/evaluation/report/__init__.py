"""A page about one run, or about several side by side: numbers, errors, cases, curves, options."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ...base.errors import InputError
from ..examples import choose_paragraphs, error_breakdown, paragraph_quality
from ..files.run import RunFiles
from .cases import case
from .charts import bar
from .curves import curves
from .markup import Cell, details, page, paragraph, table
from .tables import best_baseline, comparison, number, score_tables

# Protocol and metric of the cards and of the curves, if the run has them.
_HEADLINES = (
    ("vr", "R@1"),
    ("vr", "R@10"),
    ("jrg_joint", "R@10,IoU=0.5"),
    ("jrg_video_topk", "R@10,IoU=0.5"),
    ("svmr_2dtan", "R@1,IoU=0.5"),
    ("svmr_2dtan", "mIoU"),
)
_MOST_RUNS = 4  # as many as there are colours


def report(
    runs: Sequence[RunFiles], *, count: int = 3, seed: int = 0, resamples: int = 1000
) -> str:
    """The page as HTML.

    Args:
        runs: one to four over the same queries; further ones are compared with the first.
        count: paragraphs shown of each kind.
        seed: draws the random ones.

    Raises:
        InputError: runs over different queries, or too many.
    """
    if not 1 <= len(runs) <= _MOST_RUNS:
        raise InputError(f"{len(runs)} runs, expected 1 to {_MOST_RUNS}")
    first = runs[0]
    corpus = first.summary.get("corpus", {})
    facts = ", ".join(f"{number:,} {kind}" for kind, number in corpus.items())
    lead = paragraph(f"{facts}. All scores are per cent; nothing is rounded but here.", "soft")
    title = first.name if len(runs) == 1 else " · ".join(run.name for run in runs)
    numbers = score_tables(first) if len(runs) == 1 else comparison(runs, resamples=resamples)
    return page(
        title,
        [
            ("At a glance", _notes(runs) + "".join(_cards(run, len(runs) > 1) for run in runs)),
            ("Every number", numbers),
            ("What goes wrong", _errors(runs)),
            ("Paragraphs", _cases(runs, count, seed)),
            ("Training", curves(runs, _HEADLINES)),
            ("Configuration", _configuration(runs)),
        ],
        lead=lead,
    )


def _notes(runs: Sequence[RunFiles]) -> str:
    parts = []
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for text in run.summary.get("warnings", []):
            parts.append(f'<p class="warning" role="note">{escape(f"{prefix}{text}")}</p>')
        parts += [paragraph(f"{prefix}{text}", "soft") for text in run.summary.get("notes", [])]
    return "".join(parts)


def _cards(run: RunFiles, named: bool) -> str:
    cards = []
    for name, metric in _HEADLINES:
        score = run.summary["protocols"].get(name, {}).get(metric)
        if score is None:
            continue
        interval = run.summary.get("intervals", {}).get(name, {}).get(metric)
        ceiling = run.summary.get("ceilings", {}).get(name, {}).get(metric)
        baseline, rule = best_baseline(run.summary, name, metric)
        context = [f"95 % from {interval[0]:.2f} to {interval[1]:.2f}"] if interval else []
        context += [f"floor {baseline:.2f} ({rule})"] if baseline is not None else []
        context += [f"ceiling {ceiling:.2f}"] if ceiling is not None else []
        label = f"{name} {metric}: {score:.2f}; {'; '.join(context)}"
        drawing = bar(score, interval=interval, baseline=baseline, ceiling=ceiling, label=label)
        cards.append(
            f'<div class="card"><h3>{escape(f"{name}, {metric}")}</h3>'
            f'<div class="value">{score:.2f} <small>%</small></div>{drawing}'
            f"<small>{escape('; '.join(context))}</small></div>"
        )
    title = f"<h3>{escape(run.name)}</h3>" if named else ""
    return f'{title}<div class="cards">{"".join(cards)}</div>'


def _errors(runs: Sequence[RunFiles]) -> str:
    parts = []
    broken = [error_breakdown(run.truth, run.predictions) for run in runs]
    names = [run.name if len(runs) > 1 else "sentences, %" for run in runs]
    if all(broken):
        rows: list[list[Cell]] = [[k, *(f"{each[k]:.2f}" for each in broken)] for k in broken[0]]
        caption = "First video of the ranking, best moment, overlap above 0.5"
        parts.append(table(["", *names], rows, caption=caption))
    labels = {
        "order_violated": "neighbouring sentences whose spans run backwards, %",
        "identical_within_paragraph": "sentences with the span of another of their paragraph, %",
        "most_common_share": "sentences that got the most common span, %",
        "mean_width": "mean width of the best spans, of the video",
        "width_spread": "spread of the widths (standard deviation)",
        "most_common_first": "paragraphs that rank one and the same video first, %",
    }
    diagnostics = [run.summary.get("diagnostics", {}) for run in runs]
    rows = [
        [text, *(number(each.get(key), 3 if "width" in key else 2) for each in diagnostics)]
        for key, text in labels.items()
        if any(key in each for each in diagnostics)
    ]
    if rows:
        parts.append(
            table(["", *names], rows, caption="How the spans and the first-ranked videos vary")
        )
    return "<br>".join(parts)


def _cases(runs: Sequence[RunFiles], count: int, seed: int) -> str:
    first = runs[0]
    quality = paragraph_quality(first.truth, first.predictions)
    kinds = choose_paragraphs(quality, count=count, seed=seed)
    titles = {"best": "Best", "worst": "Worst", "random": f"Random (seed {seed})"}
    if len(runs) > 1:
        change = paragraph_quality(runs[-1].truth, runs[-1].predictions) - quality
        order = np.argsort(-change, kind="stable").tolist()
        kinds = {
            "gain": [p for p in order[:count] if change[p] > 0],
            "loss": [p for p in reversed(order[-count:]) if change[p] < 0],
            "random": choose_paragraphs(quality, count=count, seed=seed)["random"],
        }
        titles |= {
            "gain": f"Gained most by {runs[-1].name}",
            "loss": f"Lost most by {runs[-1].name}",
        }
    key = ['<li style="--mark:var(--truth)">truth</li>']
    key += [
        f'<li style="--mark:var(--run{r})">{escape(run.name)}</li>' for r, run in enumerate(runs)
    ]
    intro = paragraph(
        "Ordered by reciprocal rank times mean overlap. Of a run's spans the best-ranked is solid, "
        "the next ones are thin; they were predicted for the right video.",
        "soft",
    )
    parts = [intro, f'<ul class="key">{"".join(key)}</ul>']
    for kind, chosen in kinds.items():
        if chosen:
            parts.append(f"<h3>{escape(titles[kind])}</h3>")
            parts += [case(runs, p, is_open=kind != "random" and p == chosen[0]) for p in chosen]
    return "".join(parts)


def _configuration(runs: Sequence[RunFiles]) -> str:
    return "".join(
        details(run.name, f'<pre tabindex="0">{escape(run.config)}</pre>', is_open=len(runs) == 1)
        for run in runs
        if run.config
    )
