"""Figures for a paper: a paragraph's sentences on the video's time, and their score maps.

    python figures.py ../save/dense_activitynet/acnet --paragraph v_uqiMw7tQ1Cc --out figures

One file for each paragraph and format, named after the paragraph. Without --paragraph: the best.
Needs matplotlib; score maps are drawn for paragraphs whose maps best_test.py kept.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..base.command import COUNT
from ..base.errors import InputError
from ..base.files import replace_file
from ..base.installed import called
from ..evaluation.examples import (
    best_cell,
    choose_paragraphs,
    paragraph_quality,
    sentences_of,
    true_cell,
)
from ..evaluation.files.run import RunFiles, read_run

TRUTH, PREDICTED = "#0069a8", "#c8500a"  # distinct for the colour-blind, and in grey


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tested = f"a run that {called('best_test')} tested"
    parser.add_argument("run", type=Path, metavar="RUN", help=tested)
    parser.add_argument("--paragraph", nargs="+", metavar="ID", help="which paragraphs")
    parser.add_argument("--count", type=COUNT, default=3, help="how many of the best (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    parser.add_argument("--format", nargs="+", choices=("pdf", "png", "svg"), default=["pdf"])
    args = parser.parse_args(arguments)
    plt = pyplot()
    run = read_run(args.run)
    args.out.mkdir(parents=True, exist_ok=True)
    for p in chosen(run, args.paragraph, args.count):
        figure = draw(plt, run, p)
        name = re.sub(r"[^\w.-]", "_", run.truth.paragraph_ids[p])
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
    import matplotlib.pyplot as plt

    return plt


def chosen(run: RunFiles, names: list[str] | None, count: int) -> list[int]:
    if names is None:
        quality = paragraph_quality(run.truth, run.predictions)
        return choose_paragraphs(quality, count=count)["best"]
    index_of = {name: p for p, name in enumerate(run.truth.paragraph_ids)}
    unknown = [name for name in names if name not in index_of]
    if unknown:
        raise InputError(f"{run.name}: has no paragraph {unknown[0]!r}")
    return [index_of[name] for name in names]


def draw(plt: Any, run: RunFiles, paragraph: int) -> Any:
    """A row for each sentence: its time line, and its map where there is one."""
    sentences = sentences_of(run.truth, [paragraph]).tolist()
    maps = [None if run.maps is None else run.maps.of(i) for i in sentences]
    columns = 2 if any(each is not None for each in maps) else 1
    figure, axes = plt.subplots(
        len(sentences),
        columns,
        figsize=(6.8 if columns == 2 else 5.2, 1.6 * len(sentences)),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"width_ratios": [3, 1][:columns]},
    )
    for row, (i, scores) in enumerate(zip(sentences, maps, strict=True)):
        time_line(axes[row, 0], run, i)
        if columns == 2:
            score_map(axes[row, 1], run, i, scores)
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.25), ncols=2, frameon=False)
    axes[-1, 0].set_xlabel("seconds")
    return figure


def time_line(axis: Any, run: RunFiles, i: int) -> None:
    truth, spans = run.truth, run.predictions.spans
    duration = float(truth.durations[truth.sentence_video[i]])
    start, end = truth.moments[i]
    if truth.timed:
        axis.barh(1, end - start, left=start, height=0.8, color=TRUTH, label="truth")
    if spans is not None and not np.isnan(spans[i, 0, 0]):
        low, high = spans[i, 0] * duration
        style = {"color": PREDICTED, "hatch": "//", "label": "predicted"}
        axis.barh(0, high - low, left=low, height=0.8, **style)
    axis.set(xlim=(0, duration), ylim=(-0.6, 1.6), yticks=[])
    axis.set_title(truth.sentences[i], loc="left", wrap=True, fontsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)


def score_map(axis: Any, run: RunFiles, i: int, scores: np.ndarray | None) -> None:
    if scores is None or not run.truth.timed:
        axis.axis("off")
        return
    axis.imshow(scores, cmap="viridis", interpolation="nearest")
    for (start, end), colour, style in (
        (true_cell(scores, run.truth.fractions[i]), TRUTH, "s"),
        (best_cell(scores), PREDICTED, "x"),
    ):
        axis.plot(
            end, start, style, color=colour, markersize=6, fillstyle="none", mew=1.6, clip_on=False
        )
    axis.set(xticks=[0, len(scores) - 1], yticks=[0, len(scores) - 1], xlabel="end clip")
    axis.set_ylabel("start clip")
