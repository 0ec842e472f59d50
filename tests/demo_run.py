"""A run folder that looks like a real one, for the report: 60 paragraphs of a made-up corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lib.evaluation import CandidateMoments, Predictions, Truth, summarise, top_videos
from lib.evaluation.examples import (
    ScoreMaps,
    choose_paragraphs,
    maps_of_cells,
    paragraph_quality,
    sentences_of,
)
from lib.evaluation.files.run import save_run_predictions

CLIPS = 16
ACTS = (
    "A person walks into the kitchen and opens the fridge",
    "They take out a bottle & pour a glass",
    "Someone <laughs> at the table",
    "The dog runs out of the door",
    "She puts the knife back into the drawer",
)


def make_run(folder: Path, *, skill: float, seed: int = 0, epochs: int = 12) -> None:
    """Write a run of a model that is right more often the more ``skill`` (0 to 1) it has."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = _truth(np.random.default_rng(7))
    predictions, maps = _predictions(truth, np.random.default_rng(seed), skill)
    summary = summarise(truth, predictions, alpha=5.0, resamples=200)
    summary["notes"] = ["made up: no model was trained"]
    (folder / "results.json").write_text(json.dumps(summary))
    options = f"MODEL:\n  NAME: demo\n  PARAMS: {{skill: {skill}}}\nTRAIN:\n  SEED: {seed}\n"
    (folder / "config.yaml").write_text(options)
    save_run_predictions(folder, truth, predictions, maps=maps, alpha=5.0)
    with (folder / "log.jsonl").open("w") as file:
        for epoch in range(epochs):
            part = 1 - np.exp(-0.3 * (epoch + 1))
            file.write(json.dumps(_record(summary, epoch, float(part))) + "\n")


def _truth(rng: np.random.Generator) -> Truth:
    P = 60
    owner = np.repeat(np.arange(P), rng.integers(2, 5, P))
    durations = rng.integers(2000, 18000, P) / 100
    place = np.concatenate([np.arange(n) for n in np.bincount(owner)])
    count = np.bincount(owner)[owner]
    middle = (place + 0.5 + rng.normal(0, 0.8, len(owner))) / count
    width = rng.uniform(0.15, 0.9, len(owner)) / count
    middle = middle.clip(width / 2, 1 - width / 2)
    spans = np.stack([middle - width / 2, middle + width / 2], axis=-1)
    return Truth(
        tuple(f"v_{v:03d}" for v in range(P)),
        durations,
        tuple(f"v_{v:03d}" for v in range(P)),
        np.arange(P),
        owner,
        np.round(spans * durations[owner, None], 2),
        tuple(ACTS[i % len(ACTS)] for i in range(len(owner))),
    )


def _predictions(
    truth: Truth, rng: np.random.Generator, skill: float
) -> tuple[Predictions, ScoreMaps]:
    P, M, n, Kv = len(truth.paragraph_ids), len(truth.sentences), 5, 10
    similarity = rng.normal(0, 0.2, (P, P)).astype(np.float32)
    similarity[np.arange(P), np.arange(P)] += np.float32(0.7 * skill)
    cells = np.array([[i, j + 1] for i in range(CLIPS) for j in range(i, CLIPS)]) / CLIPS
    fit = -np.abs(cells - truth.fractions[:, None]).sum(axis=-1)
    scores = (skill * 3 * fit + rng.normal(0, 0.5, fit.shape)).astype(np.float32)
    order = np.argsort(-scores, axis=1)[:, :n]
    best = top_videos(similarity, Kv)
    owner = truth.sentence_paragraph
    elsewhere = np.argsort(rng.random((M, Kv, len(cells))), axis=-1)[..., :n]
    right = best.videos[owner] == truth.sentence_video[:, None]
    elsewhere[right] = order[right.any(axis=1)]
    worth = -np.sort(-rng.normal(-1, 0.5, (M, Kv, n)), axis=-1)
    predictions = Predictions(
        similarity=similarity,
        spans=cells[order],
        scores=np.take_along_axis(scores, order, axis=1),
        proposal_spans=cells,
        candidates=CandidateMoments(
            best.videos[owner], cells[elsewhere], worth, best.scores[owner]
        ),
    )
    kinds = choose_paragraphs(paragraph_quality(truth, predictions))
    chosen = sentences_of(truth, [p for each in kinds.values() for p in each])
    return predictions, ScoreMaps(chosen, maps_of_cells(cells, scores[chosen]))


def _record(summary: dict, epoch: int, part: float) -> dict:
    names = ("vr", "svmr_2dtan", "jrg_video_topk", "jrg_joint")
    protocols = {
        name: {metric: value * part for metric, value in summary["protocols"][name].items()}
        for name in names
    }
    train = {"total": 4 * (1 - part) + 1, "retrieval_nce": 2 * (1 - part), "rank": 0.7}
    floors = {name: summary["floors"][name] for name in names}
    return {"epoch": epoch, "lr": 1e-4, "train": train, "protocols": protocols, "floors": floors}
