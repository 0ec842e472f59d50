"""One paragraph on a report: ranked videos, sentences on the video's time, score maps."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ..examples import sentences_of
from ..files.run import RunFiles
from ..records import Ranking
from ..retrieval import rank_videos, top_videos
from ..spans import overlap
from .charts import score_map, timeline
from .markup import Cell, details, table

_VIDEOS_SHOWN = 5
_SPANS_SHOWN = 3


def case(runs: Sequence[RunFiles], paragraph: int, *, is_open: bool) -> str:
    """The predictions of each run for one paragraph, in a section to unfold."""
    truth = runs[0].truth
    video = int(truth.paragraph_video[paragraph])
    ranks = [_rank(run, paragraph) for run in runs]
    rank_text = ", ".join(
        f"{rank:g}" if np.isfinite(rank) else "not listed" for rank in ranks if rank
    )
    title = truth.paragraph_ids[paragraph] + (
        f", right video at rank {rank_text}" if rank_text else ""
    )
    sentences = sentences_of(truth, [paragraph]).tolist()
    body = "".join(_sentence(runs, i) for i in sentences)
    times = f"<span>0 s</span><span>{truth.durations[video]:.1f} s</span>"
    body += f'<div class="times" aria-hidden="true">{times}</div>'
    body += "".join(_maps(run, sentences, len(runs) > 1) for run in runs)
    body += "".join(_ranking(run, paragraph, video, len(runs) > 1) for run in runs)
    return details(title, body, kind="case", is_open=is_open)


def _rank(run: RunFiles, paragraph: int) -> float:
    if run.predictions.similarity is None:
        return 0.0
    ranks = rank_videos(run.predictions.similarity, run.truth.paragraph_video)
    return float(ranks.rank()[paragraph])


def _sentence(runs: Sequence[RunFiles], i: int) -> str:
    truth = runs[0].truth
    true_span = truth.fractions[i]
    duration = truth.durations[truth.sentence_video[i]]
    descriptions = [f"truth {_seconds(truth.moments[i])}" if truth.timed else "truth not known"]
    rows: list[list[tuple[float, float]]] = []
    for run in runs:
        spans = run.predictions.spans
        if spans is None:
            continue
        real = [(float(s), float(e)) for s, e in spans[i, :_SPANS_SHOWN] if s == s]
        rows.append(real)
        prefix = f"{run.name}: " if len(runs) > 1 else "predicted "
        if real:
            best = np.array(real[0])
            text = f"{prefix}{_seconds(best * duration)}"
            if truth.timed:
                text += f", overlap {float(overlap(best, true_span)):.2f}"
            descriptions.append(text)
        else:
            descriptions.append(f"{prefix}nothing")
    text = escape(truth.sentences[i] or truth.names[i])
    label = "; ".join(descriptions)
    true = (float(true_span[0]), float(true_span[1])) if truth.timed else None
    drawing = timeline(true, rows, label=label)
    return f'<p class="sentence">{text}<br><small>{escape(label)}</small></p>{drawing}'


def _seconds(span: np.ndarray) -> str:
    return f"{span[0]:.1f} to {span[1]:.1f} s"


def _maps(run: RunFiles, sentences: Sequence[int], named: bool) -> str:
    if run.maps is None or not run.truth.timed:
        return ""
    figures = []
    for number, i in enumerate(sentences, start=1):
        scores = run.maps.of(i)
        if scores is None or np.isnan(scores).all():
            continue
        label = f"score map of sentence {number}: start downwards, end to the right"
        drawing = score_map(scores, run.truth.fractions[i], label=label)
        prefix = f"{run.name}, " if named else ""
        caption = escape(f"{prefix}sentence {number}; red: best cell, dashed: nearest to the truth")
        figures.append(f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="maps">{"".join(figures)}</div>' if figures else ""


def _ranking(run: RunFiles, paragraph: int, video: int, named: bool) -> str:
    similarity = run.predictions.similarity
    if similarity is None:
        return ""
    if isinstance(similarity, Ranking):
        listed = similarity.videos[paragraph], similarity.scores[paragraph]
    else:
        best = top_videos(similarity[paragraph : paragraph + 1], _VIDEOS_SHOWN)
        listed = best.videos[0], best.scores[0]
    rows: list[list[Cell]] = []
    for rank, (v, score) in enumerate(zip(*listed, strict=True), start=1):
        if v >= 0 and rank <= _VIDEOS_SHOWN:
            right: Cell = ("right video", "right") if v == video else ""
            rows.append([f"{rank}. {run.truth.video_ids[v]}", f"{score:.4f}", right])
    caption = "Ranked videos" + (f", {run.name}" if named else "")
    return table(["video", "score", ""], rows, caption=caption)
