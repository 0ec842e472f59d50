"""Videos of a corpus joined to hours: does a paragraph find its part, wherever it stands?

    python -m tests.stress.long_video save/synthetic/linear_align --hours 3

The test videos come first, and others fill up. Printed are the share of the test's moments found in
the joined video, of those whose middle lies in the right part, and, with material in front, of
those that stay where they were, to a clip; beside them time and memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from lib.base.command import run_script
from lib.base.recipe import VideoTimes
from lib.inference import TrainedRun, VideoIndex, load
from lib.inference.answers import Source
from lib.inference.sources import VideoRows
from lib.training.build import open_corpus


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--front", type=float, nargs="+", default=[0, 17, 100], help="seconds")
    parser.add_argument("--paragraphs", type=int, default=60)
    args = parser.parse_args()
    run = load(args.run, device="cpu")
    corpus = open_corpus(run.config, ("test", "val", "train"), show_moments=True)
    paragraphs = {p.video_id: p for split in corpus.splits.values() for p in split.paragraphs}
    asked = set(corpus["test"].corpus)
    clip = run.durations["most"] / run.config.DATASET.NUM_CLIPS
    first: list[tuple[float, float]] = []
    for front in args.front:
        rows, begin, duration = joined(corpus, paragraphs, args.hours, front)
        chosen = [paragraphs[v] for v in begin if v in asked][: args.paragraphs]
        answers, line = ask(run, rows, duration, chosen)
        truth = [m + begin[p.video_id] for p in chosen for m in p.moments]
        parts = [begin[p.video_id] + np.array([0, p.duration]) for p in chosen for _ in p.moments]
        spans = np.array([(m.start, m.end) for answer in answers for m in answer])
        found = np.mean([overlap(a, b) >= 0.5 for a, b in zip(spans, truth, strict=True)])
        middle = spans.mean(axis=1)
        inside = np.mean([a <= m <= b for m, (a, b) in zip(middle, parts, strict=True)])
        result = f"{front:g} s in front: {100 * found:.1f} % of {len(truth)} moments found, "
        result += f"{100 * inside:.1f} % in the right part"
        if first:
            moved = np.abs(spans - front - np.array(first)).max(axis=1)
            result += f", {100 * np.mean(moved <= clip):.1f} % unmoved to {clip:.1f} s"
        else:
            first = [(a - front, b - front) for a, b in spans]
        print(f"{result}; {line}", flush=True)


def joined(corpus, paragraphs, hours: float, front: float) -> tuple[np.ndarray, dict, float]:
    """Rows of one long video, where each of its parts begins, and its seconds; the rows of each
    part cover its duration evenly, so all are resampled to one rate."""
    order = list(np.random.default_rng(1).permutation(corpus["test"].corpus))
    order += [video for video in paragraphs if video not in set(order)]
    known = corpus.features.read(order[0])
    rate = len(known) / paragraphs[order[0]].duration
    filler = corpus.features.read(order[-1])
    rows = [np.resize(filler, (round(front * rate), filler.shape[1]))] if front else []
    begin, now = {}, sum(map(len, rows)) / rate
    for video in order:
        own = corpus.features.read(video)
        count = max(1, round(paragraphs[video].duration * rate))
        rows.append(own[np.linspace(0, len(own) - 1, count).round().astype(int)])
        begin[video] = now
        now += count / rate
        if now > hours * 3600:
            break
    return np.concatenate(rows), begin, now


def ask(run: TrainedRun, rows: np.ndarray, duration: float, chosen: list) -> tuple[list, str]:
    """The moments of each paragraph in the long video, and what it took."""
    step = duration / len(rows)
    times = VideoTimes(0.0, duration, 0.0, step, step)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        video = VideoRows("long", rows, times, Source("", 0.0, duration))
        index = VideoIndex.build(Path(folder) / "index", run, [video])
        built = time.monotonic() - began
        began = time.monotonic()
        answers = [index.search(p.sentences, top=1)[0].moments for p in chosen]
        spent = 1000 * (time.monotonic() - began) / max(len(chosen), 1)
        windows = index.store.snapshot().num_items
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return answers, (
        f"{duration / 3600:.1f} h in {windows} windows, indexed in {built:.1f} s, {spent:.0f} ms a "
        f"paragraph, {peak:.0f} MiB at most"
    )


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (max(a[1], b[1]) - min(a[0], b[0]))


if __name__ == "__main__":
    run_script(main)
