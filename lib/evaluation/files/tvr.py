"""TVR's submission file, read and written: one JSON object with VR, SVMR and VCMR lists.

``{"video2idx": {name: index}, "VCMR": [{"desc_id", "desc", "predictions": [[index, start, end,
score], …]}, …], "SVMR": …, "VR": …}``, times in seconds; a VR entry's times are 0. Every sentence
is a query of its own (``records.per_sentence``).

Source: the submission format of TVRetrieval's standalone evaluation.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.errors import InputError
from ...base.files import open_input, write_text
from ...base.schema import unique_keys
from ..joint import finished_pairs
from ..protocols import PROTOCOLS
from ..records import CandidateMoments, Predictions, Ranking, Truth
from ..retrieval import top_videos
from .lines import Faults, number, rows, short, span
from .predictions import exact, pairs, ranking, table

_TASKS = ("VR", "SVMR", "VCMR")


def write_tvr(
    path: str | Path,
    truth: Truth,
    predictions: Predictions,
    *,
    keep: int = 100,
    pairs_for: str = "vcmr_tvr",
    alpha: float = 20.0,
) -> None:
    """Write a submission: the best ``keep`` entries of each list.

    Each sentence gets its paragraph's ranking under VR. VCMR is the finished list of ``pairs_for``.
    """
    listed, finished = predictions.similarity, predictions.candidates
    if isinstance(listed, np.ndarray):
        listed = top_videos(listed, keep)
    if isinstance(finished, CandidateMoments):
        finished = finished_pairs(finished, PROTOCOLS[pairs_for], alpha=alpha, keep=keep)
    tasks: dict[str, Any] = {"video2idx": {name: v for v, name in enumerate(truth.video_ids)}}
    if listed is not None:
        owner = truth.sentence_paragraph
        no_times = np.zeros((*listed.videos.shape, 2))
        tasks["VR"] = _entries(
            truth, listed.videos[owner], no_times[owner], listed.scores[owner], keep
        )
    if predictions.spans is not None and predictions.scores is not None:
        videos = np.broadcast_to(truth.sentence_video[:, None], predictions.scores.shape)
        tasks["SVMR"] = _entries(truth, videos, predictions.spans, predictions.scores, keep)
    if finished is not None:
        order = np.argsort(-finished.scores, axis=1, kind="stable")
        tasks["VCMR"] = _entries(
            truth,
            np.take_along_axis(finished.videos, order, 1),
            np.take_along_axis(finished.spans, order[..., None], 1),
            np.take_along_axis(finished.scores, order, 1),
            keep,
        )
    write_text(Path(path), json.dumps(tasks, allow_nan=False))


def _entries(
    truth: Truth, videos: NDArray, spans: NDArray, scores: NDArray, keep: int
) -> list[dict[str, Any]]:
    names = truth.names
    seconds = spans * truth.durations[videos][..., None]
    return [
        {
            "desc_id": names[i],
            "desc": truth.sentences[i],
            "predictions": [
                [v, start, end, score]
                for v, (start, end), score in zip(
                    videos[i, :keep].tolist(),
                    seconds[i, :keep].tolist(),
                    exact(scores[i, :keep]),
                    strict=True,
                )
                if v >= 0 and start == start and score > -np.inf
            ],
        }
        for i in range(len(names))
    ]


def read_tvr(path: str | Path, truth: Truth) -> Predictions:
    """Read a submission for a truth whose queries are sentences.

    Raises:
        InputError: what ``read_predictions`` refuses, named by task and entry; an SVMR moment that
            is not in its query's own video (a known fault: rows shifted by the video's index).
    """
    path = Path(path)
    try:
        with open_input(path, encoding="utf-8-sig") as file:
            text = file.read()
        data = json.loads(text, object_pairs_hook=unique_keys)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError):  # no UTF-8, endless numbers, endless brackets
        raise InputError(f"{path}: is no JSON text that can be read") from None
    if not isinstance(data, dict) or not isinstance(data.get("video2idx"), dict):
        raise InputError(f"{path}: lacks video2idx, expected TVR's submission format")
    videos = _corpus(path, data["video2idx"], truth)
    tasks: dict[str, dict[int, list[tuple[int, float, float, float]]]] = {}
    for task in (task for task in _TASKS if task in data):
        tasks[task] = _read_task(path, task, data[task], truth, videos)
    M = len(truth.sentences)
    answered = np.zeros(M, np.bool_)
    for task in ("SVMR", "VCMR"):
        answered[list(tasks.get(task, {}))] = True
    spans = scores = None
    if "SVMR" in tasks:
        moments = {i: [row[1:] for row in listed] for i, listed in tasks["SVMR"].items()}
        spans, scores = table(M, moments, (2, 1), (np.nan, -np.inf), np.float64)
    listed: Ranking | None = None
    if "VR" in tasks:
        listed = ranking(M, {i: [(r[0], r[3]) for r in each] for i, each in tasks["VR"].items()})
    return Predictions(
        similarity=listed,
        spans=spans,
        scores=None if scores is None else scores[..., 0],
        candidates=pairs(M, tasks["VCMR"], ()) if "VCMR" in tasks else None,
        answered=answered if spans is not None or "VCMR" in tasks else None,
    )


def _corpus(path: Path, video2idx: dict[str, Any], truth: Truth) -> dict[int, int]:
    """The submission's number of each video -> its index in the truth."""
    index = {name: v for v, name in enumerate(truth.video_ids)}
    unknown = [name for name in video2idx if name not in index]
    if unknown:
        raise InputError(
            f"{path}: video2idx names {len(unknown)} videos that are not in the corpus, the first "
            f"is {unknown[0]!r}; name distractors in the truth by lines without desc"
        )
    numbers = list(video2idx.values())
    if not all(isinstance(number, int) for number in numbers):
        raise InputError(f"{path}: video2idx holds something else than whole numbers")
    if len(set(numbers)) != len(numbers):
        raise InputError(f"{path}: video2idx gives two videos one number")
    return {number: index[name] for name, number in video2idx.items()}


def _read_task(
    path: Path, task: str, entries: Any, truth: Truth, videos: dict[int, int]
) -> dict[int, list[tuple[int, float, float, float]]]:
    if not isinstance(entries, list):
        raise InputError(f"{path}: {task} is {short(entries)}, expected a list")
    index = {name: i for i, name in enumerate(truth.names)}
    listed_by_query: dict[int, list[tuple[int, float, float, float]]] = {}
    faults = Faults()

    def read(location: str, entry: Any) -> None:
        if not isinstance(entry, dict) or not {"desc_id", "predictions"} <= set(entry):
            raise InputError(f"{location}: expected an object with desc_id and predictions")
        name = str(entry["desc_id"])
        location = f"{location}, desc_id {name!r}"
        if name not in index:
            raise InputError(f"{location}: is not in the truth")
        if index[name] in listed_by_query:
            raise InputError(f"{location}: occurs twice")
        true_video, listed = int(truth.sentence_video[index[name]]), []
        form = "[video, start, end, score]"
        for video, start, end, score in rows(entry["predictions"], location, "predictions", form):
            if not isinstance(video, int) or video not in videos:
                raise InputError(f"{location}: the video {short(video)} is not in video2idx")
            v, low, high = videos[video], 0.0, 1.0
            if task != "VR":
                low, high = span(start, end, location)
            if task == "SVMR" and v != true_video:
                raise InputError(
                    f"{location}: a moment in {truth.video_ids[v]!r}, expected its own video "
                    f"{truth.video_ids[true_video]!r}"
                )
            unit = truth.durations[v]
            listed.append((v, low / unit, high / unit, number(score, location, "a score")))
        if task == "VR" and len({row[0] for row in listed}) != len(listed):
            raise InputError(f"{location}: ranks a video twice")
        listed_by_query[index[name]] = listed

    for position, entry in enumerate(entries):
        faults.collect(partial(read, f"{path}: {task}[{position}]", entry))
    faults.raise_if_any()
    return listed_by_query
