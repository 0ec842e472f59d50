"""A page about one run, or about several side by side: numbers, errors, cases, curves, options."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..comparison import Comparison
from ..examples import error_breakdown
from ..files.run import RunFiles
from ..headline import HeadlineNumber, headline_numbers
from .cases import Shown, examples, shown
from .charts import bar
from .curves import curves
from .markup import Cell, details, page, paragraph, table
from .tables import changes_table, comparison_tables, headline_tables, number, score_tables
from .videos import Videos
from .words import headline_words

_MOST_COLOURS = 4  # runs whose paragraphs and curves are drawn
_NO_VIDEOS = Videos()


def report(run: RunFiles, *, count: int = 50, seed: int = 0, videos: Videos = _NO_VIDEOS) -> str:
    """The page about one run, as HTML.

    Args:
        count: paragraphs of each kind: the best, the worst, and random ones.
        seed: draws the random ones.
        videos: where the videos can be seen.
    """
    return page(
        run.name,
        [
            ("The answer", _answer(run)),
            ("Examples", _examples([shown(run, run.name, 0)], count, seed, videos)),
            ("What goes wrong", _errors([run], [run.name])),
            ("Every number", score_tables(run)),
            ("Training", curves([run], [run.name])),
            ("Configuration", _configuration([run])),
        ],
        lead=_lead(run),
        media=bool(videos.files),
    )


def comparison_report(
    comparison: Comparison, *, count: int = 50, seed: int = 0, videos: Videos = _NO_VIDEOS
) -> str:
    """The page about several runs over the same queries, as HTML.

    Args:
        comparison: of ``compare_runs``. Paragraphs and curves are of the first run of each of its
            first four columns.
        count, seed, videos: as in ``report``; the paragraphs are those that gained or lost most
            between the first column and the last drawn one.
    """
    columns = comparison.columns
    drawn = columns[:_MOST_COLOURS]
    runs = [column.runs[0] for column in drawn]
    names = [column.name for column in drawn]
    notes = "".join(
        _caveats(run, f"{column.name}: ") for column in columns for run in column.runs[:1]
    )
    cases = [
        shown(run, name, place) for place, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    parts = []
    if len(columns) > len(drawn):
        parts.append(f"Of {len(columns)} columns the first {len(drawn)} are drawn.")
    if any(len(column.runs) > 1 for column in drawn):
        parts.append("Of several seeds the first is drawn.")
    drawn_note = paragraph(" ".join(parts), "soft") if parts else ""
    return page(
        " · ".join(column.label for column in columns),
        [
            ("The answer", headline_tables(comparison) + notes),
            ("What was changed", changes_table(comparison)),
            ("Examples", drawn_note + _examples(cases, count, seed, videos)),
            ("What goes wrong", _errors(runs, names)),
            ("Every number", comparison_tables(comparison)),
            ("Training", curves(runs, names)),
            ("Configuration", _configuration([run for c in columns for run in c.runs])),
        ],
        lead=_lead(runs[0]),
        media=bool(videos.files),
    )


def _lead(run: RunFiles) -> str:
    facts = ", ".join(f"{size:,} {kind}" for kind, size in run.summary["corpus"].items())
    split = run.summary.get("split")
    where = f"Split {split}: " if isinstance(split, str) else ""
    return paragraph(f"{where}{facts}. Scores are per cent.", "soft")


def _answer(run: RunFiles) -> str:
    cards = "".join(_card(run, number) for number in headline_numbers(run.summary))
    legend = paragraph(
        "Bar: the score. Whiskers: 95 % interval, were other paragraphs asked. Dashed: the floor, "
        "the best of the rules without a model. Pale: the ceiling, what the grid of spans allows. "
        "Above and below are said of the whole interval; not above: the floor is in it.",
        "soft",
    )
    return f'<div class="cards answer">{cards}</div>{legend}{_caveats(run)}'


def _card(run: RunFiles, line: HeadlineNumber) -> str:
    title, meaning = headline_words(line)
    facts = ["no interval (TEST.RESAMPLES was 0)"]
    if line.interval:
        facts = [f"95 % interval {line.interval[0]:.2f} to {line.interval[1]:.2f}"]
    if line.verdict:
        facts.append(f"floor {line.floor:.2f} ({line.rule})")
    ceiling = run.summary.get("ceilings", {}).get(line.protocol, {}).get(line.metric)
    if ceiling is not None:
        facts.append(f"ceiling {ceiling:.2f}")
    drawing = bar(
        line.score,
        interval=line.interval,
        baseline=line.floor if line.verdict else None,
        ceiling=ceiling,
        label=f"{title}: {line.score:.2f}; {'; '.join(facts)}",
    )
    said = f"{line.verdict} its floor" if line.verdict else ""
    kind = "right" if line.verdict == "above" else "below"
    return (
        f'<div class="card"><h3>{escape(title)}</h3>'
        f'<div class="value">{line.score:.2f} <small>%</small></div>{drawing}'
        f'<p class="{kind}">{said}</p><p class="facts">{"<br>".join(map(escape, facts))}</p>'
        f'<p class="meaning">{escape(meaning)} <code>{escape(line.protocol)} '
        f"{escape(line.metric)}</code></p></div>"
    )


def _caveats(run: RunFiles, prefix: str = "") -> str:
    """What a reader must know about the numbers, to unfold; warnings are counted in sight."""
    warned, noted = run.summary.get("warnings", []), run.summary.get("notes", [])
    parts = []
    for texts, what, kind in ((warned, "warning", "caveats warned"), (noted, "note", "caveats")):
        if texts:
            plural = f"{len(texts)} {what}{'s' * (len(texts) > 1)} about these numbers"
            items = "".join(f"<li>{escape(text)}</li>" for text in texts)
            parts.append(details(f"{prefix}{plural}", f"<ul>{items}</ul>", kind=kind))
    return "".join(parts)


def _errors(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    parts = []
    broken = [error_breakdown(run.truth, run.predictions) for run in runs]
    heads = names if len(runs) > 1 else ["sentences, %"]
    if all(broken):
        rows: list[list[Cell]] = [[k, *(f"{each[k]:.2f}" for each in broken)] for k in broken[0]]
        caption = "First video of the ranking, best moment, overlap above 0.5"
        parts.append(table(["", *heads], rows, caption=caption))
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
        caption = "How the spans and the first-ranked videos vary"
        heads = names if len(runs) > 1 else ["value"]
        parts.append(table(["", *heads], rows, caption=caption))
    return "<br>".join(parts)


# Orders and filters by what they read of a paragraph: see page.js.
_SORTS = {
    "quality": (("best first", "down"), ("worst first", "up")),
    "change": (("gained most first", "down"), ("lost most first", "up")),
    "rank": (("rank of the right video", "up"), ("rank, worst first", "down")),
    "overlap": (("mean overlap, highest first", "down"), ("mean overlap, lowest first", "up")),
    "sentences": (("most sentences first", "down"),),
}
_FILTERS = {
    "rank": {
        "first": "right video first",
        "wrong": "wrong video first",
        "far": "right video after rank 10",
    },
    "hits": {"hit": "some sentence above 0.5", "miss": "no sentence above 0.5"},
}


def _examples(runs: Sequence[Shown], count: int, seed: int, videos: Videos) -> str:
    first = runs[0]
    found = examples(runs, count=count, seed=seed, videos=videos)
    if not found.count:
        return ""
    total = len(first.run.truth.paragraph_ids)
    what = f"{found.count:,} of {total:,} paragraphs are on this page"
    if found.kinds:
        what += f": {', '.join(found.kinds.values())}, at most {count} of each (--count)"
    if found.cut:
        what += ", and no more, which would be too large for a browser"
    measure = {
        (True, True): "reciprocal rank times mean overlap",
        (True, False): "reciprocal rank",
        (False, True): "mean overlap",
        (False, False): "their order in the file",
    }[first.ranks is not None, first.overlaps is not None]
    order = f"by what {runs[-1].name} gained in" if len(runs) > 1 else "best first by"
    predictions = [run.run.predictions for run in runs]
    elsewhere = ""
    if any(each.similarity is not None and each.candidates is None for each in predictions):
        elsewhere = " Moments in retrieved videos are known of tests with TEST.CANDIDATES above 0."
    intro = paragraph(
        f"{what}. They stand {order} {measure}. Of a run's spans the best-ranked is solid, the "
        f"next ones are thin.{elsewhere}",
        "soft",
    )
    key = ['<li style="--mark:var(--truth)">truth</li>']
    key += [f'<li style="--mark:var(--run{run.place})">{escape(run.name)}</li>' for run in runs]
    known = {"quality", "sentences"}
    known |= {"change"} if len(runs) > 1 else set()
    known |= {"rank"} if first.ranks is not None else set()
    known |= {"overlap", "hits"} if first.overlaps is not None else set()
    orders = {
        f"{name} {direction}": text
        for name, each in _SORTS.items()
        if name in known
        for text, direction in each
    }
    if len(runs) > 1:
        orders = {"page": "as on the page"} | orders
    filters = {"all": "all"} | {
        name: text for of, each in _FILTERS.items() if of in known for name, text in each.items()
    }
    controls = (
        '<div id="controls" role="search" hidden><label>Search '
        '<input id="search" type="search" placeholder="words or an id"></label>'
        f"{_choice('kind', 'Kind', {'all': 'all'} | found.kinds) if found.kinds else ''}"
        f"{_choice('filter', 'Only', filters)}"
        f"{_choice('sort', 'Order', orders)}"
        '<span id="shown" role="status"></span></div>'
    )
    return (
        f'{intro}<ul class="key">{"".join(key)}</ul>{controls}'
        f'<div id="examples">{found.html}</div>'
        '<button id="more" type="button" hidden>Show more</button>'
    )


def _choice(name: str, label: str, options: dict[str, str]) -> str:
    inside = "".join(
        f'<option value="{escape(value)}">{escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{label} <select id="{name}">{inside}</select></label>'


def _configuration(runs: Sequence[RunFiles]) -> str:
    return "".join(
        details(run.name, f'<pre tabindex="0">{escape(run.config)}</pre>')
        for run in runs
        if run.config
    )
