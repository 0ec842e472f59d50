"""Paragraphs on a report: sentences on the video's time, what was found elsewhere, score maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from ..examples import choose_paragraphs, paragraph_quality
from ..files.run import RunFiles
from ..records import CandidateMoments, Pairs, Ranking, Truth
from ..retrieval import rank_videos, top_videos
from ..spans import overlap
from .charts import nice_ticks, score_map, timeline
from .markup import Cell, details, table
from .videos import Videos

_VIDEOS_SHOWN = 5
_SPANS_SHOWN = 3
_SUMMARY_LENGTH = 90  # characters of the text in a heading
MOST_BYTES = 6_000_000  # of all paragraphs on a page, which a browser still opens at once
Span = tuple[float, float]


@dataclass(frozen=True)
class Shown:
    """A run, and what its paragraphs are sorted by."""

    run: RunFiles
    name: str
    place: int  # of its colour
    ranks: NDArray[np.float64] | None  # (P,) of the right video
    overlaps: NDArray[np.float64] | None  # (M,) of the best-ranked moment with the true one
    quality: NDArray[np.float64]  # (P,)

    def first_video(self, paragraph: int) -> int:
        """The first-ranked video; -1 without a ranking."""
        listed = self.ranking(paragraph, 1)
        return int(listed[0][0]) if listed else -1

    def ranking(self, paragraph: int, count: int) -> list[tuple[int, float]]:
        """The best videos and their scores, best first."""
        similarity = self.run.predictions.similarity
        if similarity is None:
            return []
        if isinstance(similarity, Ranking):
            videos, scores = similarity.videos[paragraph], similarity.scores[paragraph]
            best = np.argsort(-np.where(videos >= 0, scores, -np.inf), kind="stable")[:count]
            videos, scores = videos[best], scores[best]
        else:
            top = top_videos(similarity[paragraph : paragraph + 1], count)
            videos, scores = top.videos[0], top.scores[0]
        pairs = zip(videos.tolist(), scores.tolist(), strict=True)
        return [(v, score) for v, score in pairs if v >= 0]


def shown(run: RunFiles, name: str, place: int) -> Shown:
    """What is needed of a run, counted once for all its paragraphs."""
    truth, predictions = run.truth, run.predictions
    ranks = None
    if predictions.similarity is not None:
        ranks = rank_videos(predictions.similarity, truth.paragraph_video).rank()
    overlaps = None
    if predictions.spans is not None and truth.timed:
        first = predictions.spans[:, :1]
        overlaps = overlap(first, truth.fractions[:, None]).max(axis=1, initial=0)
    return Shown(run, name, place, ranks, overlaps, paragraph_quality(truth, predictions))


@dataclass(frozen=True)
class Examples:
    """Paragraphs of a page as HTML, best first, and how many of each kind were asked for."""

    html: str
    count: int
    kinds: dict[str, str]  # kind -> its title, of those that occur
    cut: bool  # some were left out, for the page would have become too large


def examples(runs: Sequence[Shown], *, count: int, seed: int, videos: Videos) -> Examples:
    """The paragraphs that a reader can look through.

    Args:
        runs: over the same queries; what is called best and worst is the first's, and the gain the
            last one's over the first.
        count: paragraphs of each kind. Those with score maps are always among them.
    """
    first = runs[0]
    change = runs[-1].quality - first.quality if len(runs) > 1 else None
    everyone = np.argsort(-(first.quality if change is None else change), kind="stable").tolist()
    if len(everyone) <= 3 * count:
        chosen, titles = {"": everyone}, {}
    elif change is not None:
        chosen = choose_paragraphs(change, count=count, seed=seed)
        chosen = {
            "gain": [p for p in chosen["best"] if change[p] > 0],
            "loss": [p for p in chosen["worst"] if change[p] < 0],
            "random": chosen["random"],
        }
        titles = {
            "gain": f"gained most by {runs[-1].name}",
            "loss": f"lost most by {runs[-1].name}",
            "random": f"random (seed {seed})",
        }
    else:
        chosen = choose_paragraphs(first.quality, count=count, seed=seed)
        titles = {"best": "best", "worst": "worst", "random": f"random (seed {seed})"}
    kind_of = {p: kind for kind, each in reversed(chosen.items()) for p in each}
    longest = max(map(len, chosen.values()), default=0)
    by_turns = [each[i] for i in range(longest) for each in chosen.values() if i < len(each)]
    with_maps = _paragraphs_with_maps(first) if count else []
    maker = _Maker(runs, change, videos)
    made: dict[int, str] = {}
    size, cut = 0, False
    for p in dict.fromkeys([*with_maps, *by_turns]):
        html = maker.case(p, kind_of.get(p, ""), titles)
        if made and size + len(html) > MOST_BYTES:
            cut = True
            break
        made[p], size = html, size + len(html)
    best_first = [made[p] for p in everyone if p in made]
    best_first[:1] = [html.replace("<details", "<details open", 1) for html in best_first[:1]]
    kinds = {kind: title for kind, title in titles.items() if chosen.get(kind)}
    return Examples("".join(best_first), len(made), kinds, cut)


def _paragraphs_with_maps(run: Shown) -> list[int]:
    if run.run.maps is None:
        return []
    return np.unique(run.run.truth.sentence_paragraph[run.run.maps.sentences]).tolist()


class _Maker:
    """Makes the section of one paragraph after another."""

    def __init__(
        self, runs: Sequence[Shown], change: NDArray[np.float64] | None, videos: Videos
    ) -> None:
        self.runs, self.change, self.videos = runs, change, videos
        truth: Truth = runs[0].run.truth
        self.truth, self.fractions, self.names = truth, truth.fractions, truth.names
        borders = np.arange(len(truth.paragraph_ids) + 1)
        self.first_sentence = np.searchsorted(truth.sentence_paragraph, borders)

    def case(self, p: int, kind: str, titles: dict[str, str]) -> str:
        """The predictions of each run for one paragraph, in a section to unfold."""
        truth = self.truth
        video = int(truth.paragraph_video[p])
        sentences = list(range(self.first_sentence[p], self.first_sentence[p + 1]))
        body = self._player(video)
        body += "".join(self._sentence(i, video) for i in sentences)
        body += _time_axis(float(truth.durations[video]))
        body += "".join(self._elsewhere(run, p, video, sentences) for run in self.runs)
        body += "".join(self._maps(run, sentences) for run in self.runs)
        body += "".join(self._ranking(run, p, video) for run in self.runs)
        first = self.runs[0]
        data: dict[str, str] = {"kind": kind, "quality": f"{first.quality[p]:.6f}"}
        if first.ranks is not None:
            rank = first.ranks[p]
            data["rank"] = f"{rank:g}" if np.isfinite(rank) else "1e9"
        if first.overlaps is not None and sentences:
            data["overlap"] = f"{first.overlaps[sentences].mean():.6f}"
            data["hits"] = str(int((first.overlaps[sentences] > 0.5).sum()))
        if self.change is not None:
            data["change"] = f"{self.change[p]:.6f}"
        data["sentences"] = str(len(sentences))
        heading = self._heading(p, sentences, titles.get(kind, ""))
        return details("", body, kind="case example", heading=heading, data=data)

    def _heading(self, p: int, sentences: Sequence[int], kind: str) -> str:
        text = " ".join(self.truth.sentences[i] for i in sentences)
        if len(text) > _SUMMARY_LENGTH:
            text = text[:_SUMMARY_LENGTH].rstrip() + "…"
        chips = []
        for run in self.runs:
            parts = []
            good = ""
            if run.ranks is not None:
                rank = run.ranks[p]
                listed = f"right video at rank {rank:g}"
                parts.append(listed if np.isfinite(rank) else "right video not listed")
                good = " right" if rank == 1 else ""
            if run.overlaps is not None and sentences:
                parts.append(f"mean overlap {run.overlaps[list(sentences)].mean():.2f}")
            if parts:
                prefix = f"{run.name}: " if len(self.runs) > 1 else ""
                chips.append(f'<span class="chip{good}">{escape(prefix + ", ".join(parts))}</span>')
        if kind:
            chips.append(f'<span class="chip">{escape(kind)}</span>')
        name = f'<span class="name">{escape(self.truth.paragraph_ids[p])}</span>'
        return f'{name} {" ".join(chips)}<span class="first">{escape(text)}</span>'

    def _player(self, video: int) -> str:
        name = self.truth.video_ids[video]
        address = self.videos.file(name)
        if address:
            label = escape(f"the right video, {name}")
            return (
                f'<video controls preload="none" src="{escape(address)}" aria-label="{label}">'
                "</video>"
            )
        address = self.videos.link(name)
        return f"<p>{_link(address, f'{name} on YouTube')}</p>" if address else ""

    def _sentence(self, i: int, video: int) -> str:
        truth = self.truth
        name, duration = truth.video_ids[video], float(truth.durations[video])
        said = [("truth not known", "")]
        if truth.timed:
            start, end = truth.moments[i].tolist()
            said = [(f"truth {_seconds(start, end)}", self.videos.link(name, start, end))]
        rows = []
        for run in self.runs:
            spans = run.run.predictions.spans
            if spans is None:
                continue
            real = [(float(s), float(e)) for s, e in spans[i, :_SPANS_SHOWN] if s == s]
            rows.append((run.place, real))
            prefix = f"{run.name}: " if len(self.runs) > 1 else "predicted "
            if not real:
                said.append((f"{prefix}nothing", ""))
                continue
            start, end = (bound * duration for bound in real[0])
            text = prefix + _seconds(start, end)
            if run.overlaps is not None:
                text += f", overlap {run.overlaps[i]:.2f}"
            said.append((text, self.videos.link(name, start, end)))
        true = self.fractions[i].tolist() if truth.timed else None
        drawing = timeline(true, rows, label="; ".join(text for text, _ in said))
        return (
            f'<p class="sentence"><span class="query">{escape(truth.sentences[i] or self.names[i])}'
            f"</span><br><small>{_said(said)}</small></p>{drawing}"
        )

    def _elsewhere(self, run: Shown, p: int, video: int, sentences: Sequence[int]) -> str:
        """What was found in the video that was ranked first, where that is the wrong one."""
        truth, candidates = self.truth, run.run.predictions.candidates
        first = run.first_video(p)
        if candidates is None or first == video:
            return ""
        parts, said_video = [], ""
        for number, i in enumerate(sentences, start=1):
            wrong = first if first >= 0 else _best_pair_video(candidates, i)
            if wrong < 0 or wrong == video:
                continue
            said_video = truth.video_ids[wrong]
            duration = float(truth.durations[wrong])
            spans = _found_in(candidates, i, wrong)[:_SPANS_SHOWN]
            said = [(f"sentence {number}: nothing", "")]
            if spans:
                start, end = (bound * duration for bound in spans[0])
                text = f"sentence {number}: {_seconds(start, end)} of {duration:.1f} s"
                said = [(text, self.videos.link(said_video, start, end))]
            if first < 0:
                said = [(f"{text} in {said_video}", link) for text, link in said]
            drawing = timeline(None, [(run.place, spans)], label=said[0][0])
            parts.append(f'<p class="sentence"><small>{_said(said)}</small></p>{drawing}')
        if not parts:
            return ""
        prefix = f"{run.name}: f" if len(self.runs) > 1 else "F"
        where = f"the wrong video {said_video}, ranked first" if first >= 0 else "wrong videos"
        return f'<div class="elsewhere"><h4>{escape(f"{prefix}ound in {where}")}</h4>' + (
            f"{''.join(parts)}</div>"
        )

    def _maps(self, run: Shown, sentences: Sequence[int]) -> str:
        maps = run.run.maps
        if maps is None or not self.truth.timed:
            return ""
        figures = []
        for number, i in enumerate(sentences, start=1):
            scores = maps.of(i)
            if scores is None or np.isnan(scores).all():
                continue
            duration = float(
                self.truth.durations[self.truth.paragraph_video[self.truth.sentence_paragraph[i]]]
            )
            prefix = f"{run.name}, " if len(self.runs) > 1 else ""
            name = f"{prefix}score map of sentence {number}"
            drawing = score_map(scores, self.fractions[i], duration=duration, label=name)
            caption = f"{name}; red: best, dashed: nearest to the truth"
            figures.append(f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>")
        return f'<div class="maps">{"".join(figures)}</div>' if figures else ""

    def _ranking(self, run: Shown, p: int, video: int) -> str:
        rows: list[list[Cell]] = []
        for rank, (v, score) in enumerate(run.ranking(p, _VIDEOS_SHOWN), start=1):
            right: Cell = ("right video", "right") if v == video else ""
            rows.append([f"{rank}. {self.truth.video_ids[v]}", f"{score:.4f}", right])
        if not rows:
            return ""
        caption = "Ranked videos" + (f", {run.name}" if len(self.runs) > 1 else "")
        return table(["video", "score", ""], rows, caption=caption)


def _best_pair_video(candidates: CandidateMoments | Pairs, i: int) -> int:
    """The video of a sentence's best pair; -1 without one."""
    if isinstance(candidates, CandidateMoments):
        return int(candidates.videos[i, 0]) if candidates.videos.shape[1] else -1
    real = np.where(candidates.videos[i] >= 0, candidates.scores[i], -np.inf)
    return int(candidates.videos[i, int(real.argmax())]) if len(real) else -1


def _found_in(candidates: CandidateMoments | Pairs, i: int, video: int) -> list[Span]:
    """The moments of a sentence in one video, fractions of it, best first."""
    if isinstance(candidates, CandidateMoments):
        places = np.flatnonzero(candidates.videos[i] == video)
        if not len(places):
            return []
        spans, scores = candidates.spans[i, places[0]], candidates.scores[i, places[0]]
    else:
        inside = candidates.videos[i] == video
        spans, scores = candidates.spans[i][inside], candidates.scores[i][inside]
    order = np.argsort(-scores, kind="stable")
    spans, scores = spans[order], scores[order]
    real = ~np.isnan(spans).any(axis=-1) & (scores != -np.inf)
    return [(float(start), float(end)) for start, end in spans[real]]


def _time_axis(duration: float) -> str:
    marks = "".join(
        f'<span style="left:{100 * at / duration:.2f}%">{at:g}</span>'
        for at in nice_ticks(duration)
    )
    return f'<div class="times" aria-hidden="true">{marks}<b>{duration:.1f} s</b></div>'


def _seconds(start: float, end: float) -> str:
    return f"{start:.1f} to {end:.1f} s"


def _said(parts: Sequence[tuple[str, str]]) -> str:
    """Statements, each with a link to where it can be seen, if there is one."""
    return "; ".join(
        escape(text) + (f" {_link(address, 'play')}" if address else "") for text, address in parts
    )


def _link(address: str, text: str) -> str:
    kind = "" if address.startswith("https://") else ' class="play"'
    return f'<a{kind} href="{escape(address)}" rel="noreferrer" target="_blank">{escape(text)}</a>'
