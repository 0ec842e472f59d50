"""The page over a searchable index, and the few answers that it asks for.

    GET  /             the page; its style and script are /page.css and /page.js
    GET  /about        what answers
    POST /search       {"paragraph", "top"} -> the videos found, with a moment for each sentence
    POST /score-maps   {"paragraph", "video"} -> the score of every span, for each sentence
    GET  /video?id=    the file of an indexed video, whole or in byte ranges

Whatever goes wrong is answered by {"error": one sentence}. A request names a video by its id, which
is looked up in the index: no path is ever made of what a request holds.
"""

# Without "from __future__ import annotations": FastAPI reads the annotations of the routes, whose
# names are imported inside the function that defines them.
import functools
import ipaddress
import json
import logging
import os
import re
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import InputError
from ..inference.answers import Answer, Hit, ScoreMap, Searchable, Source

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_CHARACTERS = 4000
MOST_SENTENCES = 32
MOST_VIDEOS = 50  # in one answer

_MOST_BYTES = 2**16  # of a request; JSON may write a character in twelve bytes
_MOST_CELLS = 4096  # of a score map as it is sent
_SIDE = 64  # of the grid to which a larger map is reduced
_REMEMBERED, _SECONDS = 64, 30.0  # answers, and for how long
_STATIC = Path(__file__).with_name("static")
_PAGE = (
    ("/", "page.html", "text/html"),
    ("/page.css", "page.css", "text/css"),
    ("/page.js", "page.js", "text/javascript"),
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_CONTAINERS = {  # by the first of PyAV's names: what people call it, and its media type
    "mov": ("MP4", "video/mp4"),
    "matroska": ("Matroska", "video/x-matroska"),
    "avi": ("AVI", "video/x-msvideo"),
    "mpegts": ("MPEG-TS", "video/mp2t"),
    "mpeg": ("MPEG-PS", "video/mpeg"),
    "asf": ("WMV", "video/x-ms-asf"),
    "flv": ("FLV", "video/x-flv"),
    "ogg": ("Ogg", "video/ogg"),
}
_LOG = logging.getLogger("uvicorn.error")


class _Refused(Exception):
    """A request that gets another answer than it asked for."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def make_app(
    searchable: Searchable,
    *,
    hosts: Sequence[str] = ("localhost",),
    workers: int | None = None,
    queue: int = 16,
) -> "FastAPI":
    """The application that shows an index in a browser.

    Args:
        searchable: its ``search`` and ``score_maps`` are called from several threads at once.
        hosts: the names by which browsers may ask for the page, besides addresses in figures.
            Others are refused, for a foreign site can point a name of its own at this server, and
            its scripts could then read what they ask for; it cannot do so with an address.
        workers: searches that run at the same time; as many as there are cores unless given.
        queue: searches that may wait for their turn; those beyond get status 503.

    Raises:
        InputError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request, Response
        from starlette.exceptions import HTTPException
        from starlette.responses import FileResponse
    except ImportError:
        raise InputError(
            "the page needs FastAPI, which is not installed: pip install fastapi uvicorn"
        ) from None

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(_Guard, hosts=frozenset(name.lower() for name in hosts))
    turns = _Turns(workers or os.cpu_count() or 1, queue)
    remembered = _Remembered()

    async def in_turn(key: Hashable, work: Callable[[], Any]) -> Response:
        found = remembered.get(key)
        if found is None:
            found = await turns.take(lambda: _json(work()))
            remembered.put(key, found)
        return Response(found, media_type="application/json")

    @app.exception_handler(_Refused)
    async def refused(_: Request, fault: _Refused) -> Response:
        return _error(fault.status, str(fault), fault.headers)

    @app.exception_handler(InputError)
    async def unusable(_: Request, fault: InputError) -> Response:
        return _error(422, str(fault))

    @app.exception_handler(HTTPException)
    async def astray(request: Request, fault: HTTPException) -> Response:
        sentence = {
            404: "there is nothing at this address; the page is at /",
            405: f"this address does not answer {request.method}",
        }.get(fault.status_code, fault.detail)
        return _error(fault.status_code, sentence, fault.headers)

    for address, name, kind in _PAGE:
        content = (_STATIC / name).read_bytes()
        app.add_api_route(
            address,
            functools.partial(_same, content, kind),
            methods=["GET", "HEAD"],
            response_model=None,
        )

    @app.api_route("/about", methods=["GET", "HEAD"])
    async def about() -> Response:
        answer = {"about": dict(searchable.about), "videos": len(searchable)}
        return Response(_json(answer), media_type="application/json")

    @app.post("/search")
    async def search(request: Request) -> Response:
        asked = await _read(request)
        paragraph, top = _paragraph(asked), _top(asked)

        def work() -> dict[str, Any]:
            return _answer(searchable, searchable.search(paragraph, top=top))

        return await in_turn(("search", paragraph, top), work)

    @app.post("/score-maps")
    async def score_maps(request: Request) -> Response:
        asked = await _read(request)
        paragraph, video = _paragraph(asked), asked.get("video")
        if not isinstance(video, str):
            raise _Refused(422, "the request names no video; expected its id under 'video'")
        source = _look_up(searchable, video)

        def work() -> dict[str, Any]:
            maps = searchable.score_maps(video, paragraph)
            return {"duration": source.duration, "maps": [_map(m, source.duration) for m in maps]}

        return await in_turn(("score-maps", paragraph, video), work)

    @app.api_route("/video", methods=["GET", "HEAD"])
    def video(id: str = "") -> Response:
        source = _look_up(searchable, id)
        status, fault = _fault(id, source)
        if fault:
            raise _Refused(status, fault)
        return FileResponse(
            source.path,
            media_type=_container(source)[1],
            headers={"cache-control": "no-cache"},  # a replaced file must be noticed
        )

    return app


class _Turns:
    """Work in threads, so much of it at a time; so much more may wait, and the rest is refused.

    Who goes away keeps its turn until the work is done, for a thread cannot be stopped.
    """

    def __init__(self, workers: int, queue: int) -> None:
        from anyio import CapacityLimiter

        self._limiter = CapacityLimiter(workers)
        self._room = workers + queue

    async def take(self, work: Callable[[], bytes]) -> bytes:
        from anyio import to_thread

        if self._room <= 0:
            raise _Refused(
                503, "too many searches are waiting; try again in a few seconds", retry_after="2"
            )
        # Counted here and now: who is about to wait is not in the limiter's count yet.
        self._room -= 1
        try:
            return await to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._room += 1


class _Remembered:
    """The last answers, for a short time: a link that many open is searched once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()

    def get(self, key: Hashable) -> bytes | None:
        until, answer = self._kept.get(key, (0.0, b""))
        return answer if time.monotonic() < until else None

    def put(self, key: Hashable, answer: bytes) -> None:
        self._kept.pop(key, None)
        self._kept[key] = (time.monotonic() + _SECONDS, answer)
        while len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)


class _Guard:
    """Around everything: whose name is asked for, the headers of every answer, our own faults."""

    def __init__(self, app: "ASGIApp", hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def guarded(message: "Message") -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                named = {name for name, _ in message["headers"]}
                added = _HEADERS if b"cache-control" in named else _UNCACHED
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in added.items()),
                ]
            await send(message)

        host = _host(dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower())
        if not (host in self.hosts or _is_address(host)):
            sentence = (
                f"this server does not go by the name {host!r:.99}; ask for it by its address, or "
                f"start it with --name"
            )
            await _error(400, sentence)(scope, receive, guarded)
            return None
        try:
            await self.app(scope, receive, guarded)
        except Exception:
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise  # what was sent cannot be taken back: the connection breaks
            sentence = "the server failed at this; what went wrong is in its output"
            await _error(500, sentence)(scope, receive, guarded)


def _host(header: str) -> str:
    """A host without its port, and an address of version 6 without its brackets."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:@/\[\]]+))(?::[0-9]*)?", header)
    return (found[1] or found[2]) if found else header


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_UNCACHED = {**_HEADERS, "cache-control": "no-store"}


async def _same(content: bytes, kind: str) -> "Response":
    from fastapi import Response

    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def _error(status: int, sentence: str, headers: Any = None) -> "Response":
    from fastapi import Response

    said = _json({"error": sentence})
    return Response(said, status, headers=headers, media_type="application/json")


def _json(value: Any) -> bytes:
    """As JSON; what JSON has no type for is written out, so a model's facts may be any."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")


async def _read(request: "Request") -> dict[str, Any]:
    """The JSON object that a request holds; a few kilobytes of it at most."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # which a foreign site cannot send without asking first
        raise _Refused(415, f"the request is {kind or 'of no type'}; expected application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise _Refused(413, f"the request is larger than {_MOST_BYTES:,} bytes")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "the request is not JSON") from None
    if not isinstance(asked, dict):
        raise _Refused(422, "the request is not a JSON object")
    return asked


def _paragraph(asked: dict[str, Any]) -> str:
    paragraph = asked.get("paragraph")
    if not isinstance(paragraph, str):
        raise _Refused(422, "the request holds no text; expected it under 'paragraph'")
    if len(paragraph) > MOST_CHARACTERS:
        raise _Refused(
            413,
            f"the paragraph has {len(paragraph):,} characters; expected at most "
            f"{MOST_CHARACTERS:,}",
        )
    sentences = len(re.findall(r"\w.*?(?:[.!?]+(?=\s|$)|$)", paragraph, re.MULTILINE))
    if sentences > MOST_SENTENCES:
        raise _Refused(
            413, f"the paragraph has {sentences} sentences; expected at most {MOST_SENTENCES}"
        )
    return paragraph


def _top(asked: dict[str, Any]) -> int:
    top = asked.get("top", 10)
    if type(top) is not int or not 1 <= top <= MOST_VIDEOS:
        raise _Refused(422, f"'top' is {top!r:.20}; expected a number from 1 to {MOST_VIDEOS}")
    return top


def _look_up(searchable: Searchable, video: str) -> Source:
    try:
        return searchable.source(video)
    except InputError as fault:
        raise _Refused(404, str(fault)) from None


def _answer(searchable: Searchable, answer: Answer) -> dict[str, Any]:
    return {
        "sentences": answer.sentences,
        "unknown_words": answer.unknown_words,
        "seconds": round(answer.seconds, 3),
        "hits": [_hit(hit, searchable.source(hit.video)) for hit in answer],
    }


def _hit(hit: Hit, source: Source) -> dict[str, Any]:
    return {
        "video": hit.video,
        "score": _finite(hit.score),
        "duration": hit.duration,
        "start": source.start,
        "container": _container(source)[0],
        "fault": _fault(hit.video, source)[1],
        "moments": [
            {"start": moment.start, "end": moment.end, "score": _finite(moment.score)}
            for moment in hit.moments
        ],
    }


def _fault(video: str, source: Source) -> tuple[int, str]:
    """Why the file of a video cannot be shown, with the status that says so; empty if it can."""
    if not source.path:
        return 404, f"there is no file; {video} was indexed from features alone"
    try:
        found = os.stat(source.path)
    except (OSError, ValueError):
        return 404, f"the file of {video} is gone from where it was indexed"
    if not stat.S_ISREG(found.st_mode):
        return 409, f"what lies where the file of {video} was is not a file"
    if not os.access(source.path, os.R_OK):
        return 404, f"the file of {video} cannot be read by the server"
    then = (source.size, source.modified_ns)
    if then != (0, 0) and then != (found.st_size, found.st_mtime_ns):
        return 409, (
            f"the file of {video} was replaced after it was indexed, so the moments may not be "
            f"its own; index it again"
        )
    return 200, ""


def _container(source: Source) -> tuple[str, str]:
    """What people call the format of a file, and its media type."""
    first = source.container.partition(",")[0]
    suffix = Path(source.path).suffix.lower()
    if first == "matroska" and suffix == ".webm":
        return "WebM", "video/webm"
    unknown = (first or suffix.lstrip(".")).upper() or "this file"
    return _CONTAINERS.get(first, (unknown, "application/octet-stream"))


def _map(scored: ScoreMap, duration: float) -> dict[str, Any]:
    """A score map as the page draws it: squares of ``step`` seconds, one for a span.

    A square reaches ``step`` to the right of its span's start and ``step`` below its end. A map of
    more spans than can be drawn is reduced to a grid, of which a square has the best score of the
    spans that begin and end in it.
    """
    sound = np.isfinite(scored.scores) & np.isfinite(scored.spans).all(axis=1)
    spans = scored.spans[sound].astype(np.float64)
    scores = scored.scores[sound].astype(np.float64)
    step = _step(spans, duration)
    reduced = len(spans) > _MOST_CELLS
    if reduced:
        step = max(duration, float(spans.max())) / _SIDE
        first = np.floor(spans[:, 0] / step).clip(0, _SIDE - 1)
        last = np.ceil(spans[:, 1] / step).clip(first + 1, _SIDE)
        cell = (first * (_SIDE + 1) + last).astype(np.int64)
        order = np.lexsort((-scores, cell))
        best = order[np.unique(cell[order], return_index=True)[1]]
        spans = np.stack((first, last), axis=1)[best] * step
        scores = scores[best]
    return {
        "sentence": scored.sentence,
        "step": round(step, 4),
        "reduced": reduced,
        "starts": spans[:, 0].round(3).tolist(),
        "ends": spans[:, 1].round(3).tolist(),
        "scores": [float(f"{score:.5g}") for score in scores.tolist()],
    }


def _step(spans: Any, duration: float) -> float:
    """The usual distance in seconds between neighbouring starts, or ends, of the spans."""
    gaps = np.concatenate([np.diff(np.unique(spans[:, side].round(4))) for side in (0, 1)])
    return float(np.median(gaps)) if len(gaps) else duration


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
