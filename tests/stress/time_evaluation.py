"""Time the scorers at the size of ActivityNet's test split, and keep the table in the docs.

    python -m tests.stress.time_evaluation            prints the table
    python -m tests.stress.time_evaluation --write    and puts it into docs/evaluation.md

Random predictions for 17,031 sentences of 4,885 paragraphs: 10 moments in each of 100 candidate
videos, and a ranking of 5,000 videos per sentence. Each row is a process of its own, so that its
peak memory is its own; making the predictions is in the memory and not in the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.evaluation import CandidateMoments, Predictions, Truth, count, summarise
from lib.evaluation.joint import pair_values
from lib.evaluation.retrieval import rank_videos

ROOT = Path(__file__).resolve().parents[2]
SENTENCES, PARAGRAPHS, CANDIDATES, MOMENTS, CORPUS, CLIPS = 17_031, 4_885, 100, 10, 5_000, 32
DOC = ROOT / "docs" / "evaluation.md"
MARKS = ("<!-- timings -->\n", "<!-- end of timings -->\n")


def truth() -> Truth:
    rng = np.random.default_rng(0)
    owner = np.sort(np.concatenate([np.arange(PARAGRAPHS), rng.integers(0, PARAGRAPHS, SENTENCES)]))
    owner = np.sort(rng.permutation(owner)[:SENTENCES])
    durations = rng.integers(500, 22_000, PARAGRAPHS) / 100
    start = rng.uniform(0, 0.6, SENTENCES)
    moments = np.stack([start, start + rng.uniform(0.05, 0.4, SENTENCES)], axis=-1)
    return Truth(
        tuple(f"v{v}" for v in range(PARAGRAPHS)),
        durations,
        tuple(f"v{v}" for v in range(PARAGRAPHS)),
        np.arange(PARAGRAPHS),
        owner,
        moments * durations[owner, None],
        ("",) * SENTENCES,
    )


def spans(rng: np.random.Generator, *shape: int) -> np.ndarray:
    start = rng.integers(0, CLIPS - 1, shape, dtype=np.int8)
    length = rng.integers(1, CLIPS, shape, dtype=np.int8)
    end = np.minimum(start.astype(np.int16) + length, CLIPS)
    return np.stack([start, end], axis=-1).astype(np.float32) / CLIPS


def predictions(of: Truth) -> Predictions:
    rng = np.random.default_rng(1)
    videos = np.stack(
        [rng.choice(PARAGRAPHS, CANDIDATES, replace=False) for _ in range(PARAGRAPHS)]
    )
    lacks = ~(videos == of.paragraph_video[:, None]).any(axis=1)
    videos[lacks, 0] = of.paragraph_video[lacks]
    owner = of.sentence_paragraph
    scores = -np.sort(-rng.random((SENTENCES, CANDIDATES, MOMENTS), dtype=np.float32), axis=-1)
    return Predictions(
        similarity=rng.random((PARAGRAPHS, PARAGRAPHS), dtype=np.float32),
        spans=spans(rng, SENTENCES, MOMENTS).astype(np.float64),
        scores=scores[:, 0],
        proposal_spans=np.array([[i, j + 1] for i in range(CLIPS) for j in range(i, CLIPS)])
        / CLIPS,
        candidates=CandidateMoments(
            videos[owner].astype(np.int32),
            spans(rng, SENTENCES, CANDIDATES, MOMENTS),
            scores,
            rng.random((SENTENCES, CANDIDATES), dtype=np.float32),
        ),
    )


def ranking() -> Callable[[], object]:
    rng = np.random.default_rng(0)
    similarity = rng.random((SENTENCES, CORPUS), dtype=np.float32)
    target = rng.integers(0, CORPUS, SENTENCES)
    return lambda: rank_videos(similarity, target)


def protocol(name: str) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        of = truth()
        said = predictions(of)
        return lambda: count(name, of, said)

    return prepare


def everything() -> Callable[[], object]:
    of = truth()
    said = predictions(of)
    return lambda: summarise(of, said)


def chunks() -> Callable[[], object]:
    """The same at once and in chunks of 97: bit for bit."""
    of = truth()
    said = predictions(of)
    assert isinstance(said.candidates, CandidateMoments)
    rules = {"k": (1, 10, 100), "iou": (0.5,), "nms_iou": 0.5, "before": 1000}

    def check() -> None:
        one = pair_values(of, said.candidates, chunk=97, **rules)  # type: ignore[arg-type]
        two = pair_values(of, said.candidates, chunk=4096, **rules)  # type: ignore[arg-type]
        for name, value in one.items():
            np.testing.assert_array_equal(value, two[name])

    return check


TASKS: dict[str, tuple[str, Callable[[], Callable[[], object]]]] = {
    "vcmr_jsg": ("`vcmr_jsg`, 17,031 sentences × 100 videos × 10 moments", protocol("vcmr_jsg")),
    "jrg_joint": ("`jrg_joint`, the same candidates", protocol("jrg_joint")),
    "ranking": ("ranking 5,000 videos for 17,031 queries", ranking),
    "topk": ("`jrg_video_topk`, 4,885 videos", protocol("jrg_video_topk")),
    "everything": ("`summarise`: all protocols, floors, ceilings, 1,000 resamples", everything),
    "chunks": ("`vcmr_jsg` twice, in chunks of 97 and of 4,096: equal", chunks),
}


def measure(task: str) -> None:
    """Print seconds and peak GB of one task."""
    run = TASKS[task][1]()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"keep the table in {DOC.name}")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        measure(args.task)
        return
    cores = len(os.sched_getaffinity(0))
    lines = ["| what | seconds | peak GB |", "| --- | ---: | ---: |"]
    for task, (what, _) in TASKS.items():
        command = [sys.executable, "-m", "tests.stress.time_evaluation", "--task", task]
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        seconds, memory = map(float, out.split())
        lines.append(f"| {what} | {seconds:.1f} | {memory:.1f} |")
        print(lines[-1], flush=True)
    about = f"NumPy {np.__version__}, Python {platform.python_version()}, {cores} cores."
    table = "\n".join([*lines, "", about, ""])
    if args.write:
        text = DOC.read_text("utf-8")
        pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
        DOC.write_text(re.sub(pattern, lambda _: MARKS[0] + table + MARKS[1], text, flags=re.S))
    print(about)


if __name__ == "__main__":
    main()
