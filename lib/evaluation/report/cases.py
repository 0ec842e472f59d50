"""Paragraphs on a report: sentences on the video's time, score maps, and retrieved videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from ..examples import (
    choose_paragraphs,
    moments_in,
    overlap_map,
    paragraph_quality,
    ranked_videos,
)
from ..files.run import RunFiles
from ..records import CandidateMoments, Pairs, Truth
from ..retrieval import rank_videos
from ..spans import overlap
from .charts import nice_ticks, score_map, timeline
from .markup import details
from .videos import Videos

_VIDEOS_SHOWN = 5
_SPANS_SHOWN = 3
_SUMMARY_LENGTH = 90  # characters of the text in a heading
MOST_BYTES = 6_000_000  # of all paragraphs on a page, which a browser still opens at once


@dataclass(frozen=True)
class Shown:
    """A run, and what its paragraphs are sorted by."""

    run: RunFiles
    name: str
    place: int  # of its colour
    ranks: NDArray[np.float64] | None  # (P,) of the right video
    overlaps: NDArray[np.float64] | None  # (M,) of the best-ranked moment with the true one
    quality: NDArray[np.float64]  # (P,)


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
    maps = first.run.maps
    with_maps = [] if maps is None or not count else maps.paragraphs(first.run.truth)
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
        body += self._maps(sentences, float(truth.durations[video]))
        body += "".join(self._retrieved(run, p, sentences) for run in self.runs)
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

    def _maps(self, sentences: Sequence[int], duration: float) -> str:
        """The score maps of the sentences. Of several runs they stand side by side, a row for each
        sentence, and the map of the truth before them."""
        if not self.truth.timed:
            return ""
        several = len(self.runs) > 1
        rows = []
        for number, i in enumerate(sentences, start=1):
            found = [(run, run.run.maps.of(i)) for run in self.runs if run.run.maps is not None]
            maps = [(run, scores) for run, scores in found if scores is not None]
            moment, figures = self.fractions[i], []
            if several and maps:
                name = f"overlap of every span with the truth of sentence {number}"
                true = overlap_map(maps[0][1], moment)
                drawing = score_map(true, moment, duration=duration, label=name, best=False)
                figures.append(_figure(drawing, f"{name}; dashed: the nearest"))
            for run, scores in maps:
                name = f"{run.name}, " if several else ""
                name += f"score map of sentence {number}"
                drawing = score_map(scores, moment, duration=duration, label=name)
                figures.append(_figure(drawing, f"{name}; red: best, dashed: nearest to the truth"))
            rows.append("".join(figures))
        rows = rows if several else ["".join(rows)]
        return "".join(f'<div class="maps">{row}</div>' for row in rows if row)

    def _retrieved(self, run: Shown, p: int, sentences: Sequence[int]) -> str:
        """The first videos of the ranking, and what was found in those that are wrong; without a
        ranking, the sentences whose best pair is in a wrong one."""
        right = int(self.truth.paragraph_video[p])
        candidates = run.run.predictions.candidates
        title, items = "retrieved videos", []
        ranked = ranked_videos(run.run.predictions, p, _VIDEOS_SHOWN)
        for rank, (v, score) in enumerate(ranked, start=1):
            said = f"{rank}. {escape(self.truth.video_ids[v])} <small>{score:.4f}</small>"
            if v == right:
                items.append((f'{said} <span class="right">right video</span>', "", "own"))
            else:
                found = "" if candidates is None else self._found(run, sentences, v)
                items.append((said, found, "other"))
        if not items and candidates is not None:
            title = "found in wrong videos"
            for number, i in enumerate(sentences, start=1):
                wrong = _best_pair_video(candidates, i)
                if wrong not in (-1, right):
                    name = escape(self.truth.video_ids[wrong])
                    items.append((name, self._found(run, [i], wrong, first=number), "other"))
        if not items:
            return ""
        heading = f"{run.name}: {title}" if len(self.runs) > 1 else title.capitalize()
        listed = "".join(f'<li class="{kind}">{said}{found}</li>' for said, found, kind in items)
        return f'<h4>{escape(heading)}</h4><ol class="retrieved">{listed}</ol>'

    def _found(self, run: Shown, sentences: Sequence[int], video: int, *, first: int = 1) -> str:
        """The moments of sentences, numbered from ``first``, in a video that is not theirs."""
        truth = self.truth
        name, duration = truth.video_ids[video], float(truth.durations[video])
        said, rows = [], []
        for number, i in enumerate(sentences, start=first):
            spans = moments_in(truth, run.run.predictions, i, video)[:_SPANS_SHOWN]
            rows.append((run.place, spans))
            if spans:
                start, end = (bound * duration for bound in spans[0])
                text = f"sentence {number}: {_seconds(start, end)}"
                said.append((text, self.videos.link(name, start, end)))
            else:
                said.append((f"sentence {number}: nothing", ""))
        length = f" of {duration:.1f} s"
        drawing = timeline(None, rows, label="; ".join(each for each, _ in said) + length)
        return f"<br><small>{_said(said)}{length}</small>{drawing}"


def _best_pair_video(candidates: CandidateMoments | Pairs, i: int) -> int:
    """The video of a sentence's best pair; -1 without one."""
    if isinstance(candidates, CandidateMoments):
        return int(candidates.videos[i, 0]) if candidates.videos.shape[1] else -1
    real = np.where(candidates.videos[i] >= 0, candidates.scores[i], -np.inf)
    return int(candidates.videos[i, int(real.argmax())]) if len(real) else -1


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


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
