"""The page's server: what it answers, what it refuses, and that it names no file by a path."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.inference.answers import ScoreMap, Source
from lib.serving import app as serving
from lib.serving import listen, make_app
from tests.small_index import CLIPS, SmallIndex, running, source_of, touch_back

for extra in ("fastapi", "httpx", "uvicorn"):
    pytest.importorskip(extra, reason=f"the page needs {extra}")

with warnings.catch_warnings():  # that a client of another name would be preferred
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

REPOSITORY = Path(__file__).resolve().parents[1]
HERE = "http://127.0.0.1"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that are indexed and one that is not; nothing here needs a picture."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "fridge.mp4").write_bytes(bytes(range(256)) * 40)
    (media / "a & b'\"<i>.mkv").write_bytes(b"other")
    (media / "secret.txt").write_text("the secret")
    (media / "link.mp4").symlink_to(media / "secret.txt")
    return media


@pytest.fixture
def index(folder: Path) -> SmallIndex:
    return SmallIndex(
        {
            "fridge": source_of(folder / "fridge.mp4", 20.0, start=1.5),
            SCRIPT: source_of(folder / "a & b'\"<i>.mkv", 8.0, container="matroska,webm"),
            "features": Source("", 0.0, 5.0),
        }
    )


@pytest.fixture
def client(index: SmallIndex) -> TestClient:
    return TestClient(make_app(index), base_url=HERE)


def ask(client: TestClient, paragraph: Any = "He eats.", **more: Any) -> Any:
    return client.post("/search", json={"paragraph": paragraph, **more})


def refusal(response: Any, status: int) -> str:
    """The one sentence of an answer that is none."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert set(said) == {"error"} and "\n" not in said["error"]
    assert "Traceback" not in response.text
    return said["error"]


class TestThePage:
    @pytest.mark.parametrize(
        ("address", "kind"),
        [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")],
    )
    def test_is_three_files(self, client, address, kind):
        response = client.get(address)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        head = client.head(address)
        assert (head.status_code, head.content) == (200, b"")

    def test_may_run_and_load_nothing_that_is_not_its_own(self, client):
        for address in ("/", "/about", "/video?id=fridge", "/nothing", "/video?id=no"):
            policy = client.get(address).headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            headers = client.get(address).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"  # no other may show it

    def test_has_no_inline_script_or_style_and_no_address_elsewhere(self):
        for path in (REPOSITORY / "lib/serving/static").iterdir():
            text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "://" not in text and "innerHTML" not in text
        page = (REPOSITORY / "lib/serving/static/page.html").read_text("utf-8")
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src)", page)

    def test_says_what_answers(self, client):
        found = client.get("/about").json()
        assert found["videos"] == 3
        assert found["about"]["model"] == "dmr_jrg" and found["about"]["epoch"] == 12

    @pytest.mark.parametrize("address", ["/docs", "/redoc", "/openapi.json", "/static/page.js"])
    def test_has_nothing_else(self, client, address):
        assert refusal(client.get(address), 404) == (
            "there is nothing at this address; the page is at /"
        )

    def test_a_search_cannot_be_had_by_following_a_link(self, client):
        assert refusal(client.get("/search"), 405) == "this address does not answer GET"


class TestASearch:
    def test_answers_with_what_the_page_shows(self, client):
        found = ask(client, "He opens it. He eats 3 eggs.").json()
        assert found["sentences"] == ["He opens it.", "He eats 3 eggs."]
        assert found["unknown_words"] == ["3"]
        first, second, third = found["hits"]
        assert first == {
            "video": "fridge",
            "score": 0.9,
            "duration": 20.0,
            "start": 1.5,
            "container": "MP4",
            "fault": "",
            "moments": [
                {"start": 0.0, "end": 7.5, "score": 0.5},
                {"start": 10.0, "end": 17.5, "score": 0.49},
            ],
        }
        assert (second["video"], second["container"]) == (SCRIPT, "Matroska")
        assert third["fault"] == "there is no file; features was indexed from features alone"

    def test_gives_as_many_videos_as_asked_for(self, client):
        assert len(ask(client, top=2).json()["hits"]) == 2

    def test_is_not_done_twice_within_a_short_time(self, client, index, monkeypatch):
        first = ask(client, "He eats.").content
        assert ask(client, "He eats.").content == first
        assert index.searched == ["He eats."]
        ask(client, "He eats.", top=1)
        ask(client, "He drinks.")
        assert index.searched == ["He eats.", "He eats.", "He drinks."]
        monkeypatch.setattr(serving, "_SECONDS", 0.0)
        ask(client, "She eats.")
        ask(client, "She eats.")
        assert index.searched[3:] == ["She eats.", "She eats."]

    def test_remembers_only_so_many(self, client, index, monkeypatch):
        monkeypatch.setattr(serving, "_REMEMBERED", 2)
        for paragraph in ("A.", "B.", "C.", "A."):
            ask(client, paragraph)
        assert index.searched == ["A.", "B.", "C.", "A."]

    def test_passes_on_what_the_index_says_of_bad_input(self, client):
        assert refusal(ask(client, "  \n"), 422) == "the paragraph holds no words"

    @pytest.mark.parametrize(
        ("asked", "status", "said"),
        [
            ({"paragraph": "a" * 4001}, 413, "4,001 characters; expected at most 4,000"),
            ({"paragraph": "He eats. " * 33}, 413, "33 sentences; expected at most 32"),
            ({"paragraph": "he eats\n" * 40}, 413, "40 sentences; expected at most 32"),
            ({"paragraph": "a" * 70000}, 413, "larger than 65,536 bytes"),
            ({"paragraph": ["He eats."]}, 422, "holds no text"),
            ({}, 422, "holds no text"),
            ([], 422, "not a JSON object"),
            ({"paragraph": "He eats.", "top": 0}, 422, "'top' is 0; expected a number from 1"),
            ({"paragraph": "He eats.", "top": 51}, 422, "'top' is 51"),
            ({"paragraph": "He eats.", "top": True}, 422, "'top' is True"),
            ({"paragraph": "He eats.", "top": "9" * 99}, 422, "'top' is '999"),
        ],
    )
    def test_that_asks_too_much_is_refused_before_it_costs(
        self, client, index, asked, status, said
    ):
        assert said in refusal(client.post("/search", json=asked), status)
        assert index.searched == []

    def test_of_the_largest_size_is_answered(self, client):
        assert ask(client, "é" * 4000).status_code == 200
        assert len(ask(client, "At 3.5 s he eats. " * 32).json()["sentences"]) == 32

    def test_that_never_ends_is_refused(self, client, index):
        def endless():
            while True:
                yield b" " * 4096

        kind = {"content-type": "application/json"}
        response = client.post("/search", content=_first(endless(), 100), headers=kind)
        assert "larger than" in refusal(response, 413)

    @pytest.mark.parametrize("body", [b"", b"paragraph", b"\xff", b"[" * 60000])
    def test_that_is_not_json_is_refused(self, client, body):
        kind = {"content-type": "application/json"}
        said = refusal(client.post("/search", content=body, headers=kind), 400)
        assert said == "the request is not JSON"

    def test_cannot_be_sent_from_a_form_of_another_site(self, client, index):
        body = json.dumps({"paragraph": "He eats."})
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            response = client.post("/search", content=body, headers={"content-type": kind})
            assert refusal(response, 415) == f"the request is {kind}; expected application/json"
        assert index.searched == []

    def test_that_fails_by_our_fault_says_so_without_the_traceback(self, index, client, caplog):
        index.search = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
        response = ask(client)
        assert "the server failed at this" in refusal(response, 500)
        assert "content-security-policy" in response.headers
        assert "ZeroDivisionError" in caplog.text and "ZeroDivisionError" not in response.text


def _first(chunks, number):
    return (chunk for chunk, _ in zip(chunks, range(number), strict=False))


class TestManySearches:
    def test_wait_for_their_turn_and_then_are_refused(self, index):
        go, begun = threading.Event(), threading.Semaphore(0)
        search = index.search

        def slow(paragraph, *, top=10):
            begun.release()
            assert go.wait(30)
            return search(paragraph, top=top)

        index.search = slow
        app = make_app(index, workers=1, queue=1)
        with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(3) as pool:
            first = pool.submit(ask, client, "One.")
            assert begun.acquire(timeout=20)
            others = [pool.submit(ask, client, paragraph) for paragraph in ("Two.", "Three.")]
            done, waiting = wait(others, timeout=20, return_when=FIRST_COMPLETED)
            (refused,) = (each.result() for each in done)
            assert refusal(refused, 503).startswith("too many searches are waiting")
            assert refused.headers["retry-after"] == "2"
            assert client.get("/about").status_code == 200  # the rest answers meanwhile
            go.set()
            assert {each.result(20).status_code for each in (first, *waiting)} == {200}
            for number in range(3):  # each turn was given back
                assert ask(client, f"Number{number}.").status_code == 200

    def test_do_not_run_more_than_there_are_workers(self, index):
        lock, at_once, most = threading.Lock(), 0, 0
        search = index.search

        def counted(paragraph, *, top=10):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            threading.Event().wait(0.02)
            with lock:
                at_once -= 1
            return search(paragraph, top=top)

        index.search = counted
        app = make_app(index, workers=2, queue=50)
        with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: ask(client, f"Number{number}."), range(16)))
        assert {response.status_code for response in found} == {200}
        assert most == 2


class TestAVideo:
    def address(self, video="fridge"):
        return {"url": "/video", "params": {"id": video}}

    def test_comes_whole_or_in_ranges(self, client, folder):
        whole = (folder / "fridge.mp4").read_bytes()
        response = client.get(**self.address())
        assert (response.status_code, response.content) == (200, whole)
        assert response.headers["content-type"] == "video/mp4"
        assert response.headers["accept-ranges"] == "bytes"
        for asked, part, said in (
            ("0-", whole, f"0-{len(whole) - 1}"),
            ("100-299", whole[100:300], "100-299"),
            ("-50", whole[-50:], f"{len(whole) - 50}-{len(whole) - 1}"),
        ):
            response = client.get(**self.address(), headers={"range": f"bytes={asked}"})
            assert (response.status_code, response.content) == (206, part)
            assert response.headers["content-range"] == f"bytes {said}/{len(whole)}"
        beyond = client.get(**self.address(), headers={"range": f"bytes={len(whole)}-"})
        assert beyond.status_code == 416

    def test_can_be_asked_about(self, client, folder):
        response = client.head(**self.address())
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) == 256 * 40

    def test_of_any_name_is_found_by_its_id(self, client):
        response = client.get(**self.address(SCRIPT))
        assert response.content == b"other"
        assert response.headers["content-type"] == "video/x-matroska"

    def test_has_the_type_of_its_container_and_never_one_that_runs(self, index, folder):
        (folder / "page.html").write_text(SCRIPT)
        index.videos["page"] = source_of(folder / "page.html", 1.0, container="strange")
        response = TestClient(make_app(index), base_url=HERE).get(**self.address("page"))
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("change", ["longer", "later", "link", "pipe", "folder"])
    def test_that_was_replaced_is_refused(self, client, folder, change):
        path = folder / "fridge.mp4"
        if change == "longer":
            before = path.stat()
            with path.open("ab") as file:
                file.write(b"more")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif change == "later":
            touch_back(path)
        else:
            path.unlink()
            if change == "link":
                path.symlink_to(folder / "secret.txt")
            elif change == "pipe":
                os.mkfifo(path)  # reading it would wait for ever
            else:
                path.mkdir()
        for ask_by in (client.get, client.head):
            response = ask_by(**self.address())
            assert response.status_code == 409
        assert "fridge was" in refusal(client.get(**self.address()), 409)
        assert "secret" not in client.get(**self.address()).text
        assert "fridge was" in ask(client).json()["hits"][0]["fault"]

    def test_that_is_gone_is_not_found(self, client, folder):
        (folder / "fridge.mp4").unlink()
        said = refusal(client.get(**self.address()), 404)
        assert said == "the file of fridge is gone from where it was indexed"

    def test_of_features_alone_has_no_file(self, client):
        assert "features alone" in refusal(client.get(**self.address("features")), 404)

    def test_of_unknown_size_is_served_if_it_is_a_file(self, index, client, folder):
        index.videos["fridge"] = dataclasses.replace(index.videos["fridge"], size=0, modified_ns=0)
        assert client.get(**self.address()).status_code == 200
        (folder / "fridge.mp4").unlink()
        os.mkfifo(folder / "fridge.mp4")
        assert "is not a file" in refusal(client.get(**self.address()), 409)

    def test_that_may_not_be_read_is_not_found(self, client, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        said = refusal(client.get(**self.address()), 404)
        assert said == "the file of fridge cannot be read by the server"


class TestNoPath:
    @pytest.fixture
    def port(self, index):
        with running(index) as port:
            yield port

    def raw(self, port: int, target: bytes, host: bytes = b"127.0.0.1") -> bytes:
        """An answer to a request line as it is: clients tidy up what they are given."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(
                b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, host)
            )
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def test_leads_out_of_the_index(self, port, folder):
        assert b"200 OK" in self.raw(port, b"/video?id=fridge")
        secret = str(folder / "secret.txt").encode()
        names = (
            b"secret.txt",
            b"../secret.txt",
            b"%2e%2e%2fsecret.txt",
            b"..%2fmedia%2fsecret.txt",
            b"link.mp4",
            b"link",
            secret,
            b"/" + secret,
            secret.replace(b"/", b"%2f"),
            b"//etc/passwd",
            b"%2fetc%2fpasswd",
            b"file:///etc/passwd",
            b"fridge%00",
            b"fridge%00.mp4",
            b"fridge.mp4",
            b"%ff%fe",
            b"",
            b"%3Cscript%3E",
        )
        for prefix in (b"/video?id=", b"/video/", b"/", b"/static/", b"/page.js/"):
            for name in names:
                if (prefix, name) == (b"/", b""):
                    continue
                found = self.raw(port, prefix + name)
                assert found.startswith(b"HTTP/1.1 404"), (prefix + name, found[:200])
                assert b"the secret" not in found and b"root:" not in found

    def test_is_in_an_absolute_target(self, port):
        found = self.raw(port, b"http://other.example/video?id=../secret.txt")
        assert b" 404 " in found[:20]

    def test_host_of_another_site_is_answered(self, port):
        own = socket.gethostname().encode()
        for host in (b"127.0.0.1", b"LOCALHOST:8000", b"[::1]:8000", b"10.1.2.3:9", own):
            assert b"200 OK" in self.raw(port, b"/about", host)
        for host in (
            b"evil.example",
            b"evil.example:8000",
            b"127.0.0.1.evil.example",
            b"127.0.0.1@evil.example",
            b"[::1].evil.example",
            b"[evil.example]",
            b"localhost.evil.example",
            b"",
        ):
            found = self.raw(port, b"/about", host)
            assert found.startswith(b"HTTP/1.1 400") and b"dmr_jrg" not in found
            assert b"content-security-policy" in found

    def test_is_answered_to_another_name_unless_it_was_given(self, index):
        named = TestClient(make_app(index, hosts=["Page.example"]), base_url="http://page.example")
        assert named.get("/about").status_code == 200
        other = TestClient(make_app(index), base_url="http://page.example:81")
        assert refusal(other.get("/about"), 400) == (
            "this server does not go by the name 'page.example'; ask for it by its address, or "
            "start it with --name"
        )


class TestAScoreMap:
    def test_is_a_triangle_for_each_sentence(self, client):
        asked = {"paragraph": "He opens it. He eats.", "video": "fridge"}
        found = client.post("/score-maps", json=asked).json()
        assert found["duration"] == 20.0 and len(found["maps"]) == 2
        first = found["maps"][0]
        assert first["sentence"] == "He opens it."
        assert (first["step"], first["reduced"]) == (20.0 / CLIPS, False)
        assert len(first["scores"]) == CLIPS * (CLIPS + 1) // 2
        best = int(np.argmax(first["scores"]))
        assert (first["starts"][best], first["ends"][best]) == (0.0, 7.5)

    @pytest.mark.parametrize("video", ["nobody", "../fridge"])
    def test_of_no_video_is_not_found(self, client, video):
        asked = {"paragraph": "He eats.", "video": video}
        assert "no such video" in refusal(client.post("/score-maps", json=asked), 404)

    def test_without_a_video_is_refused(self, client):
        said = refusal(client.post("/score-maps", json={"paragraph": "He eats."}), 422)
        assert said == "the request names no video; expected its id under 'video'"

    def test_of_very_many_spans_keeps_the_best_in_each_square(self):
        draw = np.random.default_rng(0)
        spans = np.sort(draw.uniform(0, 100, (50_000, 2)), axis=1)
        scores = draw.normal(size=50_000)
        found = serving._map(ScoreMap("He eats.", spans, scores), 100.0)
        assert found["reduced"] and len(found["scores"]) <= 64 * 65 // 2
        step = 100 / 64
        first = np.minimum(spans[:, 0] // step, 63)
        last = np.maximum(np.ceil(spans[:, 1] / step), first + 1)
        best: dict[tuple[float, float], float] = {}
        for square, score in zip(zip(first, last, strict=True), scores, strict=True):
            best[square] = max(best.get(square, -np.inf), score)
        squares = zip(
            np.round(np.array(found["starts"]) / step),
            np.round(np.array(found["ends"]) / step),
            strict=True,
        )
        np.testing.assert_allclose(found["scores"], [best[square] for square in squares], rtol=1e-4)
        assert len(best) == len(found["scores"])

    def test_leaves_out_what_is_no_number(self):
        spans = np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 2.0]])
        found = serving._map(ScoreMap("He eats.", spans, np.array([-np.inf, 1.0, np.nan])), 2.0)
        assert found["scores"] == [1.0] and found["ends"] == [2.0]
        nothing = serving._map(ScoreMap("He eats.", spans, np.full(3, np.nan)), 2.0)
        assert nothing["scores"] == []
        json.dumps(nothing, allow_nan=False)


class TestTheSocket:
    def test_of_a_taken_port_is_refused_in_one_sentence(self):
        with listen("127.0.0.1", "0") as first:
            port = first.getsockname()[1]
            with pytest.raises(InputError) as caught:
                listen("127.0.0.1", str(port))
        assert str(caught.value) == (
            f"127.0.0.1 port {port} cannot be listened at (address already in use); choose another "
            f"port by --port, or an address of this machine by --host"
        )

    @pytest.mark.parametrize("port", ["http", "-1", "65536", "", "８０", "1" * 5000])
    def test_needs_a_port(self, port):
        with pytest.raises(InputError, match="--port: found .*, expected a whole number from 0"):
            listen("127.0.0.1", port)

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "203.0.113.7"])
    def test_needs_a_host_of_this_machine(self, host):
        with pytest.raises(InputError, match=f"{host}.*--host|--host: found '{host}'"):
            listen(host, "0")


class TestTheCommand:
    def start(self, folder: Path, *arguments: str) -> subprocess.Popen[str]:
        """The command over a small index in place of one on disk."""
        code = """
            import runpy, sys
            import lib.inference
            from pathlib import Path
            from tests.small_index import SmallIndex, source_of
            def open_index(path, run=None, **options):
                return SmallIndex({"fridge": source_of(path / "fridge.mp4", 20.0)})
            lib.inference.open_index = open_index
            runpy.run_path("moment_localization/serve.py", run_name="__main__")
        """
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(folder), *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_says_where_it_answers_and_stops_when_told(self, folder):
        import httpx

        process = self.start(folder, "--port", "0")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1 videos (run save/small, model dmr_jrg")
        said = process.stdout.readline()
        found = re.fullmatch(
            r"open (http://127\.0\.0\.1:\d+/) in a browser; stop with Ctrl\+C\n", said
        )
        assert found, said
        assert httpx.get(found[1] + "about").json()["videos"] == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "stopped\n", "")

    def test_ends_with_status_2_and_a_sentence(self, folder):
        with listen("127.0.0.1", "0") as taken:
            process = self.start(folder, "--port", str(taken.getsockname()[1]))
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert re.fullmatch(r"error: 127\.0\.0\.1 port \d+ cannot be listened at .*\n", err)


@pytest.mark.parametrize("absent", ["fastapi", "uvicorn"])
def test_what_is_not_installed_is_named_with_the_command(absent, index, monkeypatch):
    from lib.serving.server import make_server

    monkeypatch.setitem(sys.modules, absent, None)
    with listen("127.0.0.1", "0") as bound, pytest.raises(InputError) as caught:
        make_server(index, bound)
    assert "pip install fastapi uvicorn" in str(caught.value)


def test_a_copy_of_the_folder_is_served_alike(folder, tmp_path):
    """A moved file is another file unless its time is kept."""
    shutil.copy2(folder / "fridge.mp4", tmp_path / "moved.mp4")
    index = SmallIndex({"fridge": source_of(folder / "fridge.mp4", 20.0)})
    moved = dataclasses.replace(index.videos["fridge"], path=str(tmp_path / "moved.mp4"))
    index.videos["fridge"] = moved
    response = TestClient(make_app(index), base_url=HERE).get("/video", params={"id": "fridge"})
    assert response.status_code == 200
