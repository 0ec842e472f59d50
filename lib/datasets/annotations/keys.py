"""The names under which files of the field keep one and the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where an entry has two of them the first counts: seconds before frames, MAD's times within the
# film before those within its clip.
NAMES: Mapping[str, tuple[str, ...]] = {
    "video": ("vid", "vid_name", "video", "video_id", "movie", "clip_uid", "data_key"),
    "duration": (
        *("duration", "video_duration", "v_duration", "movie_duration", "duration_sec"),
        "length",
    ),
    "moment": (
        *("exact_times", "ext_timestamps", "timestamps", "timestamp", "relevant_windows", "ts"),
        *("segments", "segment", "absolute_bounds", "times", "bounds"),
    ),
    "sentence": (
        *("sentences", "sentence", "query", "desc", "description", "heading", "captions"),
        *("caption", "text"),
    ),
    "id": ("qid", "desc_id", "annotation_id", "sentence_id"),
    "split": ("subset", "split"),
}
# Lists of objects, one for each sentence: YouCook2 and SnAG, HiREST, COOT.
EVENTS = ("annotations", "captions", "segments", "steps")
BOUNDS = (("start", "end"), ("start_sec", "stop_sec"), ("start_sec", "end_sec"))
PREDICTIONS = ("pred_relevant_windows", "pred_saliency_scores", "predictions", "predicted_times")


def key_of(entry: Mapping[str, Any], what: str) -> str | None:
    """The key under which an entry has it, if it has it."""
    return next((key for key in NAMES[what] if key in entry), None)


def alternatives(what: str) -> str:
    """The names, for a message."""
    *most, last = NAMES[what]
    return f"{', '.join(most)} or {last}"
