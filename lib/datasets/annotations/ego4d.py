"""Ego4D's natural language queries: a clip is what is searched, and its queries are a paragraph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .records import Record
from .source import UNKNOWN, Groups, Source, short


def read_clips(videos: list[Any], source: Source) -> list[Record]:
    """Times are seconds within the clip; a query's id is that of its annotation and its number
    there, from 0, empty queries counted."""
    groups = Groups(source)
    for clip in _objects(videos, "clips", source):
        uid = source.name(clip.get("clip_uid"), "a clip", "clip_uid")
        start = source.number(clip.get("video_start_sec"), uid, "video_start_sec")
        end = source.number(clip.get("video_end_sec"), uid, "video_end_sec")
        duration = source.positive(end - start, uid, "video_end_sec - video_start_sec")
        for annotation in _objects([clip], "annotations", source):
            name = source.name(annotation.get("annotation_uid"), uid, "annotation_uid")
            queries = _objects([annotation], "language_queries", source)
            for number, query in enumerate(queries):
                place = f"{uid} query {number} of {name}"
                if not query.get("query"):
                    source.cleaning.note("queries without text left out", place)
                    continue
                times = [query.get("clip_start_sec"), query.get("clip_end_sec")]
                moment = UNKNOWN if times == [None, None] else source.moment(times, place)
                groups.add(
                    uid,
                    duration,
                    [] if moment is UNKNOWN else [moment],
                    source.sentence(query["query"], place),
                    place=place,
                    name=f"{name}_{number}",
                )
    return list(groups.records.values())


def _objects(parents: list[Any], key: str, source: Source) -> Iterator[dict[str, Any]]:
    """The objects in the lists that objects have under a key."""
    for parent in parents:
        children = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(children, list):
            raise source.fault(f"{short(parent)} lacks a list {key}, as Ego4D's videos have it.")
        for child in children:
            if not isinstance(child, dict):
                raise source.fault(f"{key} holds {short(child)}; expected an object.")
            yield child
