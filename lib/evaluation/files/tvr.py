"""TVR's submission file, read and written: one JSON object with VR, SVMR and VCMR lists.

``{"video2idx": {name: index}, "VCMR": [{"desc_id", "desc", "predictions": [[index, start, end,
score], …]}, …], "SVMR": …, "VR": …}``, times in seconds; a VR entry's times are 0. Every sentence
is a query of its own (``records.per_sentence``).

Source: the submission format of TVRetrieval's standalone evaluation, and what it reads of it.
"""

from __future__ import annotations

import json
from dataclasses import replace
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
from ..records import CandidateMoments, Predictions, Ranking, Truth, per_sentence
from ..retrieval import top_videos
from .lines import Faults, listed_span, number, require_same_queries, rows, short
from .predictions import exact, pairs, ranking, table

_TASKS = ("VR", "SVMR", "VCMR")
_MOST = 100  # entries of a list that are looked at
_List = list[tuple[int, float, float, float]]  # video, start, end, minus the place


def write_tvr(
    path: str | Path,
    truth: Truth,
    predictions: Predictions,
    *,
    keep: int = 100,
    pairs_for: str = "vcmr_tvr",
    alpha: float = 20.0,
) -> None:
    """Write a submission: the best ``keep`` entries of each list, the best first, since TVR's
    evaluation reads the order of the file.

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
        order = np.argsort(-listed.scores, axis=1, kind="stable")
        listed = Ranking(
            np.take_along_axis(listed.videos, order, 1), np.take_along_axis(listed.scores, order, 1)
        )
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


def read_tvr(path: str | Path, truth: Truth) -> tuple[Truth, Predictions]:
    """Read a submission as TVR's own evaluation does.

    The order of the file counts, and not the scores; of each list, the first 100 entries. SVMR is
    read without the entries that lie in other videos than the query's; under VR a video that is
    listed again takes up a rank.

    Args:
        truth: its sentences are the queries, whatever their paragraphs.

    Returns:
        The truth with every sentence a query of its own, and with the videos that only the
        submission names; and the predictions, scored by minus their place in the file.

    Raises:
        InputError: up to ten faults of a kind that ``read_predictions`` refuses, named by task and
            entry; or other queries than the truth's.
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
    truth, videos = _corpus(path, data["video2idx"], per_sentence(truth))
    tasks: dict[str, dict[int, _List]] = {}
    notes: list[str] = []
    for task in (task for task in _TASKS if task in data):
        tasks[task], elsewhere = _read_task(path, task, data[task], truth, videos)
        if elsewhere:
            notes.append(
                f"SVMR: {elsewhere:,} entries lie in other videos than their query's and are left "
                "out, as TVR's evaluation does"
            )
    M = len(truth.sentences)
    spans = scores = None
    if "SVMR" in tasks:
        moments = {i: [row[1:] for row in listed] for i, listed in tasks["SVMR"].items()}
        spans, scores = table(M, moments, (2, 1), (np.nan, -np.inf), np.float64)
    listed: Ranking | None = None
    if "VR" in tasks:
        listed = ranking(M, {i: [(r[0], r[3]) for r in each] for i, each in tasks["VR"].items()})
    moments_too = spans is not None or "VCMR" in tasks
    return truth, Predictions(
        similarity=listed,
        spans=spans,
        scores=None if scores is None else scores[..., 0],
        candidates=pairs(M, tasks["VCMR"], ()) if "VCMR" in tasks else None,
        answered=np.ones(M, np.bool_) if moments_too else None,
        notes=tuple(notes),
    )


def _corpus(path: Path, video2idx: dict[str, Any], truth: Truth) -> tuple[Truth, dict[int, int]]:
    """The truth with all videos of the submission; and each video's number there -> its index."""
    numbers = list(video2idx.values())
    if not all(type(number) is int for number in numbers):
        raise InputError(f"{path}: video2idx holds something else than whole numbers")
    if len(set(numbers)) != len(numbers):
        raise InputError(f"{path}: video2idx gives two videos one number")
    known = set(truth.video_ids)
    others = tuple(name for name in video2idx if name not in known)
    # No overlap is computed in a video that describes no query, and so no length of it is needed.
    durations = np.concatenate([truth.durations, np.ones(len(others))])
    truth = replace(truth, video_ids=(*truth.video_ids, *others), durations=durations)
    index = {name: v for v, name in enumerate(truth.video_ids)}
    return truth, {number: index[name] for name, number in video2idx.items()}


def _read_task(
    path: Path, task: str, entries: Any, truth: Truth, videos: dict[int, int]
) -> tuple[dict[int, _List], int]:
    """The list of each query, and how many entries were left out for their video."""
    if not isinstance(entries, list):
        raise InputError(f"{path}: {task} is {short(entries)}, expected a list")
    found: dict[str, _List] = {}
    index = {name: i for i, name in enumerate(truth.names)}
    target = truth.sentence_video
    elsewhere, faults = 0, Faults()

    def read(location: str, entry: Any) -> None:
        nonlocal elsewhere
        if not isinstance(entry, dict) or not {"desc_id", "predictions"} <= set(entry):
            raise InputError(f"{location}: expected an object with desc_id and predictions")
        name = str(entry["desc_id"])
        location = f"{location}, desc_id {name!r}"
        if name in found:
            raise InputError(f"{location}: occurs twice")
        listed: _List = []
        form = "[video, start, end, score]"
        for video, start, end, score in rows(entry["predictions"], location, "predictions", form):
            if type(video) is not int or video not in videos:
                raise InputError(f"{location}: the video {short(video)} is not in video2idx")
            number(score, location, "a score")
            v, low, high = videos[video], 0.0, 1.0
            if task != "VR":
                low, high = listed_span(start, end, location)
            if task == "SVMR" and name in index and v != target[index[name]]:
                elsewhere += 1
                continue
            unit = truth.durations[v]
            listed.append((v, low / unit, high / unit, -float(len(listed))))
        found[name] = listed[:_MOST]

    for position, entry in enumerate(entries):
        faults.collect(partial(read, f"{path}: {task}[{position}]", entry))
    faults.raise_if_any()
    require_same_queries(f"{path}: {task}", "desc_id", found, index)
    return {index[name]: listed for name, listed in found.items()}, elsewhere
