"""One small file of each annotation layout, all of them of the same two videos."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# video, seconds, sentences with their moments; times are whole segments of five seconds (DiDeMo)
WORLD = (
    ("v_a", 20.0, (("A man runs.", (0.0, 5.0)), ("He stops.", (5.0, 15.0)))),
    ("v_b", 10.0, (("A dog sleeps.", (0.0, 10.0)),)),
)
# As rows they are shuffled: the second sentence of v_a stands behind v_b's.
ROWS = tuple(
    (video, seconds, text, moment, number)
    for number in (0, 1)
    for video, seconds, sentences in WORLD
    for text, moment in sentences[number : number + 1]
)
PLAIN = {"v_a": ("v_a#0", "v_a#1"), "v_b": ("v_b#0",)}
OWN = {"v_a": ("100", "102"), "v_b": ("101",)}


@dataclass(frozen=True)
class Layout:
    """A file, what lies beside it, and how it is read."""

    name: str
    file: str
    data: bytes
    ids: dict[str, tuple[str, ...]]
    split: str = ""
    beside: tuple[tuple[str, str], ...] = ()
    timed: bool = True


def _json(data: Any) -> bytes:
    return json.dumps(data).encode()


def lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _videos(**names: str) -> dict[str, Any]:
    """2D-TAN's object under other keys."""
    return {
        video: {
            names.get("duration", "duration"): seconds,
            "timestamps": [list(moment) for _, moment in sentences],
            "sentences": [text for text, _ in sentences],
        }
        for video, seconds, sentences in WORLD
    }


def _events(key: str, text: str, *bounds: str, **more: Any) -> dict[str, Any]:
    """A list of objects for each video."""
    return {
        video: {
            "duration": seconds,
            **more,
            key: [
                {text: sentence, "id": i}
                | (
                    {bounds[0]: list(moment)}
                    if len(bounds) == 1
                    else dict(zip(bounds, moment, strict=True))
                )
                for i, (sentence, moment) in enumerate(sentences)
            ],
        }
        for video, seconds, sentences in WORLD
    }


def _queries(video: str, text: str, moment: str, name: str, **more: Any) -> list[dict[str, Any]]:
    """An object for each sentence."""
    nested = moment == "relevant_windows"
    return [
        {
            name: 100 + number,
            text: sentence,
            "duration": seconds,
            video: vid,
            moment: [list(span)] if nested else list(span),
            **more,
        }
        for number, (vid, seconds, sentence, span, _) in enumerate(ROWS)
    ]


def _didemo() -> list[dict[str, Any]]:
    return [
        {
            "video": video,
            "num_segments": round(seconds / 5),
            "times": [[round(start / 5), round(end / 5) - 1]] * 4,
            "description": text,
            "annotation_id": 100 + number,
        }
        for number, (video, seconds, text, (start, end), _) in enumerate(ROWS)
    ]


def _hirest() -> dict[str, Any]:
    prompts = _events("steps", "heading", "absolute_bounds", clip=True, bounds=[0, 1])
    for entry in prompts.values():
        entry["v_duration"] = entry.pop("duration")
    empty = {"v_c.mp4": {"v_duration": 9.0, "bounds": [0, 0], "steps": [], "clip": False}}
    return {"Run": {"v_a": prompts["v_a"], **empty}, "Sleep": {"v_b": prompts["v_b"]}}


def _ego4d() -> dict[str, Any]:
    clips = [
        {
            "clip_uid": video,
            "video_start_sec": 100.0,
            "video_end_sec": 100.0 + seconds,
            "annotations": [
                {
                    "annotation_uid": f"{video}/x",
                    "language_queries": [
                        {"query": text, "clip_start_sec": start, "clip_end_sec": end}
                        for text, (start, end) in sentences
                    ]
                    + [{"query": None, "clip_start_sec": 0, "clip_end_sec": 1}],
                }
            ],
        }
        for video, seconds, sentences in WORLD
    ]
    return {"version": "1", "videos": [{"video_uid": "u", "clips": clips}]}


def numpy_file(entries: Any) -> bytes:
    """``np.save`` of an object array."""
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _chunks() -> list[dict[str, Any]]:
    return [{"video": video, **entry} for video, entry in _videos().items()]


def _captions(tail: bool) -> bytes:
    return "".join(
        f"{video}#enc#{number} {text}"
        + (f" [{moment[0]}, {moment[1]}] {seconds}\n" if tail else "\n")
        for video, seconds, text, moment, number in ROWS
    ).encode()


_FRAMES = {
    video: {
        "fps": 2.0,
        "num_frames": round(2 * seconds),
        "timestamps": [[round(2 * start), round(2 * end)] for _, (start, end) in sentences],
        "sentences": [text for text, _ in sentences],
    }
    for video, seconds, sentences in WORLD
}
_EXACT = {
    video: entry | {"exact_times": _videos()[video]["timestamps"], "timestamps": [[7, 8]] * 2}
    for video, entry in _FRAMES.items()
}
_COOT = {
    f"{video}_1": entry | {"data_key": video, "split": "train"}
    for video, entry in _events("segments", "text", "start_sec", "stop_sec").items()
}
_GT = _events("captions", "sentence", "start", "end")
_SECONDS = (("durations.csv", "id,duration\nv_a,20.0\nv_b,10.0\n"),)
_DATABASE = {"database": _events("annotations", "sentence", "segment", subset="training")}
_DATABASE["database"]["v_t"] = {"duration": 5, "subset": "testing"}
_CAPTION_IDS = {"v_a": ("v_a#enc#0", "v_a#enc#1"), "v_b": ("v_b#enc#0",)}
_MAD = {
    str(row.pop("id")): row | {"ext_timestamps": row["timestamps"], "timestamps": [900, 901]}
    for row in _queries("movie", "sentence", "timestamps", "id")
}

LAYOUTS = (
    Layout("object", "a.json", _json(_videos()), PLAIN),
    Layout("video_duration", "a.json", _json(_videos(duration="video_duration")), PLAIN),
    Layout("frames", "a.json", _json(_FRAMES), PLAIN),
    Layout("exact_times", "a.json", _json(_EXACT), PLAIN),
    Layout(
        "rows",
        "a.json",
        _json([[v, s, list(m), t] for v, s, ts in WORLD for t, m in ts]),
        PLAIN,
    ),
    Layout(
        "qvhighlights", "a.jsonl", lines(_queries("vid", "query", "relevant_windows", "qid")), OWN
    ),
    Layout("tvr", "a.jsonl", lines(_queries("vid_name", "desc", "ts", "desc_id", type="v")), OWN),
    Layout("list", "a.json", _json(_queries("vid", "query", "relevant_windows", "qid")), OWN),
    Layout("mad", "a.json", _json(_MAD), OWN),
    Layout("didemo", "a.json", _json(_didemo()), OWN),
    Layout("youcook2", "a.json", _json(_DATABASE), PLAIN, split="train"),
    Layout(
        "snag",
        "a.json",
        _json({"train": _events("annotations", "sentence", "segment"), "val": {}}),
        PLAIN,
        split="training",
    ),
    Layout(
        "coot",
        "a.json",
        _json(_COOT),
        {"v_a": ("v_a_1#0", "v_a_1#1"), "v_b": ("v_b_1#0",)},
    ),
    Layout("hirest", "a.json", _json(_hirest()), PLAIN),
    Layout(
        "hirest_test",
        "gt.json",
        _json({video: {"captions": entry["captions"]} for video, entry in _GT.items()}),
        PLAIN,
        split="test",
        beside=(("all_data_test.json", json.dumps(_hirest())),),
    ),
    Layout(
        "ego4d", "a.json", _json(_ego4d()), {"v_a": ("v_a/x_0", "v_a/x_1"), "v_b": ("v_b/x_0",)}
    ),
    Layout("numpy", "a.npy", numpy_file(_chunks()), PLAIN),
    Layout("list_of_paragraphs", "a.json", _json(_chunks()), PLAIN),
    Layout(
        "charades",
        "charades_sta_train.txt",
        "".join(f"{v} {m[0]} {m[1]}##{t}\n" for v, _, t, m, _ in ROWS).encode(),
        PLAIN,
        beside=(("Charades_v1_train.csv", "id,length\nv_a,20\nv_b,10\n"),),
    ),
    Layout("dciml", "a.caption.txt", _captions(True), _CAPTION_IDS),
    Layout(
        "ms_sl", "a.caption.txt", _captions(False), _CAPTION_IDS, beside=_SECONDS, timed=False
    ),
    Layout(
        "msrvtt",
        "a.csv",
        (
            "key;vid_key;video_id;sentence\n"
            + "".join(f"{100 + i};m;{v};{t}\n" for i, (v, _, t, _, _) in enumerate(ROWS))
        ).encode(),
        OWN,
        beside=_SECONDS,
        timed=False,
    ),
)  # fmt: skip
