"""Figures for a paper: moments on the video's time, score maps, and retrieved videos.

    python figures.py ../save/dense_activitynet/acnet --paragraph v_uqiMw7tQ1Cc --out figures
    python figures.py ../save/dense_activitynet/acnet --baseline ../save/dense_activitynet/tan2d
    python figures.py ../save/dense_activitynet/acnet --retrieved 10

One file for each paragraph and format, named after the paragraph; without --paragraph of the best.
--baseline sets the score maps of the truth (the overlap of every span with the true moment), of the
run and of another run side by side. --retrieved draws the first videos of the ranking, and in each
the moment of every sentence; with --baseline those of the other run beside them. Needs matplotlib;
score maps are drawn of paragraphs whose maps the test kept, which it does of a few and of those
that its --maps names.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.command import COUNT, POSITIVE
from ..base.errors import InputError
from ..base.files import replace_file
from ..base.installed import called
from ..evaluation.comparison import check_same_queries
from ..evaluation.examples import (
    best_cell,
    choose_paragraphs,
    moments_in,
    overlap_map,
    paragraph_quality,
    paragraphs_named,
    ranked_videos,
    sentences_of,
    true_cell,
)
from ..evaluation.files.run import RunFiles, read_run
from ..evaluation.retrieval import rank_videos
from .compare import names

# Distinct for the colour-blind, and in grey.
TRUTH, RUNS = "#0069a8", (("#c8500a", "//"), ("#7a3fa8", "\\\\"))
RIGHT, WRONG = "#00694e", "#a8201a"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tested = f"a run that {called('best_test')} tested"
    parser.add_argument("run", type=Path, metavar="RUN", help=tested)
    parser.add_argument("--baseline", type=Path, metavar="RUN", help="another one, to set beside")
    parser.add_argument(
        "--retrieved", type=POSITIVE, metavar="K", help="draw the first K videos of the ranking"
    )
    parser.add_argument("--paragraph", nargs="+", metavar="ID", help="which paragraphs")
    parser.add_argument("--count", type=COUNT, default=3, help="how many of the best (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    parser.add_argument("--format", nargs="+", choices=("pdf", "png", "svg"), default=["pdf"])
    args = parser.parse_args(arguments)
    plt = pyplot()
    folders = [args.run, *([args.baseline] if args.baseline else [])]
    runs = [read_run(path, name=name) for path, name in zip(folders, names(folders), strict=True)]
    for other in runs[1:]:
        check_same_queries(runs[0], other)
    compares_maps = len(runs) > 1 and not args.retrieved
    draw: Callable[..., Any] = draw_sentences
    suffix = "_maps" if compares_maps else ""
    if args.retrieved:
        require_rankings(runs)
        draw, suffix = partial(draw_retrieved, count=args.retrieved), "_retrieved"
    paragraphs = chosen(runs, args.paragraph, args.count, mapped=compares_maps)
    args.out.mkdir(parents=True, exist_ok=True)
    for p in paragraphs:
        figure = draw(plt, runs, p)
        name = re.sub(r"[^\w.-]", "_", runs[0].truth.paragraph_ids[p]) + suffix
        for kind in args.format:
            path = args.out / f"{name}.{kind}"
            save = partial(figure.savefig, format=kind, bbox_inches="tight", dpi=200)
            replace_file(path, save)
            print(path)
        plt.close(figure)


def pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 8, "pdf.fonttype": 42, "svg.fonttype": "none"})
    matplotlib.rcParams["text.parse_math"] = False  # a dollar in a sentence is a dollar
    import matplotlib.pyplot as plt

    return plt


def chosen(
    runs: Sequence[RunFiles], wanted: list[str] | None, count: int, *, mapped: bool = False
) -> list[int]:
    """The paragraphs to draw: those of these ids, or the best of the first run.

    Args:
        mapped: only paragraphs of whose score maps every run has some.

    Raises:
        InputError: there is no such paragraph, or no map of it.
    """
    truth, named = runs[0].truth, paragraphs_named(runs[0].truth, wanted or ())
    drawable = list(range(len(truth.paragraph_ids)))
    if mapped:
        drawable = require_maps(runs, named)
    if wanted is not None:
        return named
    quality = paragraph_quality(truth, runs[0].predictions)[drawable]
    return [drawable[p] for p in choose_paragraphs(quality, count=count)["best"]]


def require_maps(runs: Sequence[RunFiles], paragraphs: Sequence[int]) -> list[int]:
    """The paragraphs of whose score maps every run has some, which must hold ``paragraphs``."""
    truth = runs[0].truth
    if not truth.timed:
        raise InputError(
            f"{runs[0].name}: was tested without timestamps, so that the truth has no map"
        )
    kept = [set() if run.maps is None else set(run.maps.paragraphs(truth)) for run in runs]
    for run, theirs in zip(runs, kept, strict=True):
        lacking = [truth.paragraph_ids[p] for p in paragraphs if p not in theirs]
        if not theirs or lacking:
            what = f"score maps of {lacking[0]!r}" if lacking else "score maps"
            raise InputError(f"{run.name}: its test kept no {what}; {_keeping(lacking or ['ID'])}")
    shared = sorted(set.intersection(*kept))
    if not shared:
        raise InputError(
            f"{' and '.join(run.name for run in runs)}: their tests kept score maps of no "
            f"paragraph in common; {_keeping(['ID'])}"
        )
    return shared


def _keeping(paragraphs: Sequence[str]) -> str:
    return f"{called('best_test')} RUN --maps {' '.join(paragraphs)} keeps them"


def require_rankings(runs: Sequence[RunFiles]) -> None:
    """Raises InputError if a run ranks no videos; says what else cannot be drawn."""
    for run in runs:
        if run.predictions.similarity is None:
            raise InputError(f"{run.name}: ranks no videos, so that none can be drawn as retrieved")
        if run.predictions.candidates is None:
            print(
                f"note: {run.name}: its moments in other videos than the right one are not known; "
                "a test with TEST.CANDIDATES above 0 keeps them",
                file=sys.stderr,
            )


def draw_sentences(plt: Any, runs: Sequence[RunFiles], paragraph: int) -> Any:
    """A row for each sentence: its time line, and its maps where there are some. Beside another
    run the first map is the truth's."""
    sentences = sentences_of(runs[0].truth, [paragraph]).tolist()
    maps = [_maps_of(runs, i) for i in sentences]
    columns = 1 + max(map(len, maps))
    left = {1: 5.2, 2: 4.8}.get(columns, 2.8)  # inches
    titles = [textwrap.wrap(runs[0].truth.sentences[i], int(16 * left)) for i in sentences]
    heights = [1.25 + 0.14 * max(len(lines), 1) for lines in titles]
    figure, axes = plt.subplots(
        len(sentences),
        columns,
        figsize=(left + 1.5 * (columns - 1), sum(heights)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"width_ratios": [left, *[1.5] * (columns - 1)], "height_ratios": heights},
    )
    for row, (i, title, each) in enumerate(zip(sentences, titles, maps, strict=True)):
        time_line(axes[row, 0], runs, i)
        axes[row, 0].set_title("\n".join(title), loc="left", fontsize=8)
        colours = [colour for colour, _ in RUNS[: len(runs)]]
        colours = colours if len(runs) == 1 else ["", *colours]
        for axis, scores, colour in zip(axes[row, 1:], each or repeat(None), colours, strict=False):
            score_map(axis, runs[0].truth.fractions[i], scores, colour)
        for axis in axes[row, 2:]:
            axis.set_ylabel("")
    for axis in axes[:-1, 1:].flat:
        axis.set_xlabel("")
    if len(runs) > 1:
        for axis, name in zip(axes[0, 1:], ["truth (IoU)", *(r.name for r in runs)], strict=True):
            axis.set_title("\n".join(textwrap.wrap(name, 22)), fontsize=8)
    axes[-1, 0].set_xlabel("seconds")
    _legend(figure, axes.flat, "upper")
    return figure


def _maps_of(runs: Sequence[RunFiles], i: int) -> list[NDArray[np.floating] | None]:
    """A sentence's maps, one for each run that has a column; none without timestamps."""
    truth = runs[0].truth
    maps = [None if run.maps is None else run.maps.of(i) for run in runs]
    first = next((each for each in maps if each is not None), None)
    if first is None or not truth.timed:
        return []
    return maps if len(runs) == 1 else [overlap_map(first, truth.fractions[i]), *maps]


def _legend(figure: Any, axes: Any, side: str) -> None:
    found = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in found}
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc=f"outside {side} center",
            ncols=len(handles),
            frameon=False,
        )


def time_line(axis: Any, runs: Sequence[RunFiles], i: int) -> None:
    """The true moment of a sentence in its video, and each run's best one."""
    truth = runs[0].truth
    video = int(truth.sentence_video[i])
    duration = float(truth.durations[video])
    lanes = ["truth", *_labels(runs)]
    if truth.timed:
        _bar(axis, 0, truth.fractions[i] * duration, 0.8, color=TRUTH, label="truth")
    for lane, (run, (colour, hatch)) in enumerate(zip(runs, RUNS, strict=False), start=1):
        for span in moments_in(truth, run.predictions, i, video)[:1]:
            style = {"color": colour, "hatch": hatch, "label": lanes[lane]}
            _bar(axis, lane, np.array(span) * duration, 0.8, **style)
    axis.set(xlim=(0, duration), ylim=(len(lanes) - 0.4, -0.6), yticks=[])
    axis.spines[["top", "right", "left"]].set_visible(False)


def _labels(runs: Sequence[RunFiles]) -> list[str]:
    return ["predicted"] if len(runs) == 1 else [run.name for run in runs]


def _bar(axis: Any, lane: float, span: NDArray[np.float64], height: float, **style: Any) -> None:
    axis.barh(lane, span[1] - span[0], left=span[0], height=height, **style)


def score_map(
    axis: Any, moment: NDArray[np.float64], scores: NDArray[np.floating] | None, colour: str
) -> None:
    """A map with the cell that is nearest to a moment, in fractions, and its best one in a colour;
    without a colour the map is the truth's, in which they are the same."""
    if scores is None:
        axis.axis("off")
        return
    axis.imshow(scores, cmap="viridis", interpolation="nearest")
    marks = [(true_cell(scores, moment), TRUTH, "s", 8)]
    marks += [(best_cell(scores), colour, "x", 5)] if colour else []
    for (start, end), ink, style, size in marks:
        for drawn, width in (("white", 3.0), (ink, 1.6)):
            options = {"color": drawn, "mew": width, "markersize": size, "fillstyle": "none"}
            axis.plot(end, start, style, clip_on=False, **options)
    axis.set(xticks=[0, len(scores) - 1], yticks=[0, len(scores) - 1], xlabel="end clip")
    axis.set_ylabel("start clip")


def draw_retrieved(plt: Any, runs: Sequence[RunFiles], paragraph: int, *, count: int) -> Any:
    """A column for each run and a row for each of its first ``count`` videos: rank, score, and the
    best moment of every sentence, in the right video beside the true one. The right video comes
    last where it is not among them."""
    truth = runs[0].truth
    sentences = sentences_of(truth, [paragraph]).tolist()
    columns = [_retrieved(run, paragraph, count) for run in runs]
    known = any(run.predictions.candidates is not None for run in runs)
    lanes = 0.14 * len(sentences)
    right = int(truth.paragraph_video[paragraph])
    rows = max(map(len, columns))
    tall = [known or any(r < len(c) and c[r][0] == right for c in columns) for r in range(rows)]
    heights = [0.35 + (lanes if each else 0.12) for each in tall]
    width = 5.2 if len(runs) == 1 else 7.2
    text = [f"{n}. {truth.sentences[i]}" for n, i in enumerate(sentences, start=1)]
    lines = [line for each in text for line in textwrap.wrap(each, int(17 * width))]
    figure, axes = plt.subplots(
        rows,
        len(runs),
        figsize=(width, sum(heights) + 0.14 * len(lines) + 0.5),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=7)
    for c, (run, column) in enumerate(zip(runs, columns, strict=True)):
        if len(runs) > 1:
            above = {"xytext": (0, 17), "textcoords": "offset points", "weight": "bold"}
            axes[0, c].annotate(run.name, (0, 1), xycoords="axes fraction", **above)
        for r in range(rows):
            if r < len(column):
                video, title = column[r]
                _video(axes[r, c], run, sentences, video, style=c, label=_labels(runs)[c])
                colour = RIGHT if video == right else WRONG
                axes[r, c].set_title(title, loc="left", fontsize=7, color=colour)
                axes[r, c].spines[:].set_color(colour)
            else:
                axes[r, c].axis("off")
    _legend(figure, axes.flat, "lower")
    return figure


def _retrieved(run: RunFiles, paragraph: int, count: int) -> list[tuple[int, str]]:
    """Videos and what is said of them: the first ones, and the right one."""
    truth, similarity = run.truth, run.predictions.similarity
    assert similarity is not None  # require_rankings
    right = int(truth.paragraph_video[paragraph])
    everything = ranked_videos(run.predictions, paragraph, len(truth.video_ids))
    listed = [(v, f"{rank}.", f"{score:.4f}") for rank, (v, score) in enumerate(everything, 1)]
    shown = listed[:count]
    if all(v != right for v, _, _ in shown):
        rank = rank_videos(similarity, truth.paragraph_video).rank()[paragraph]
        score = next((score for v, _, score in listed if v == right), "")
        shown.append((right, f"{rank:g}." if np.isfinite(rank) else "not listed:", score))
    return [
        (v, f"{rank} {truth.video_ids[v]}  {score}{'  right video' if v == right else ''}")
        for v, rank, score in shown
    ]


def _video(
    axis: Any, run: RunFiles, sentences: Sequence[int], video: int, *, style: int, label: str
) -> None:
    """A video's time with a lane for each sentence."""
    truth = run.truth
    duration = float(truth.durations[video])
    own = truth.paragraph_video[truth.sentence_paragraph[sentences[0]]] == video
    colour, hatch = RUNS[style]
    axis.set(xlim=(0, duration), xticks=[], yticks=[])
    if not own and run.predictions.candidates is None:
        said = {"ha": "center", "va": "center", "fontsize": 6, "color": "#5c5f66"}
        axis.text(0.5, 0.5, "moments not known", transform=axis.transAxes, **said)
        return
    for lane, i in enumerate(sentences):
        beside = own and truth.timed
        if beside:
            _bar(axis, lane - 0.2, truth.moments[i], 0.36, color=TRUTH, label="truth")
        for span in moments_in(truth, run.predictions, i, video)[:1]:
            seconds = np.array(span) * duration
            place, height = (lane + 0.2, 0.36) if beside else (lane, 0.6)
            _bar(axis, place, seconds, height, color=colour, hatch=hatch, label=label)
    axis.set(ylim=(len(sentences) - 0.5, -0.5), xticks=[0, duration])
    axis.set_xticks([0, duration], ["0", f"{duration:.1f} s"], fontsize=6)
    axis.set_yticks(range(len(sentences)), range(1, len(sentences) + 1), fontsize=6)
    axis.tick_params(length=2, pad=1)
