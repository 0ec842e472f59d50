"""Runs in one file, from anywhere: the digest decides, nothing else is opened, and none is fetched
twice."""

from __future__ import annotations

import hashlib
import http.server
import json
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lib.base.errors import InputError
from lib.base.files import digest_of
from lib.inference import download, load, trained
from lib.inference.checkpoints import MANIFEST, read_checkpoints
from lib.inference.download import Address, cache_folder, is_address, plain_name
from lib.inference.export import write_export
from lib.inference.packed import NEEDED, unpack
from lib.training import checkpoint
from tests.runs import REPOSITORY, run
from tests.test_crafted import put

pytest.importorskip("safetensors")
SENTENCES = ("She opens the door.", "Then she sits down.")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DMR_JRG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runs"


@pytest.fixture(scope="session")
def archive(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one file, with its word vectors."""
    path = tmp_path_factory.mktemp("archive") / "tiny run.zip"
    ended = run("export", made_home / "save/tiny", "--out", path, output=path.with_suffix(".txt"))
    assert ended.status == 0, ended.output
    assert f"SHA256: {digest_of(path)}" in ended.output
    assert f"BYTES: {path.stat().st_size}" in ended.output
    return path


def address(path: Path, digest: str = "") -> str:
    return f"{path.as_uri()}#sha256={digest or digest_of(path)}"


def left(cache: Path) -> list[str]:
    """What of the cache is no lock."""
    return [p.name for p in cache.rglob("*") if p.is_file() and p.name != ".lock"]


# The file.


def test_one_file_reads_back_to_the_same_bits(made_home, archive, cache):
    ours, theirs = (load(p, device="cpu") for p in (made_home / "save/tiny", archive))
    assert theirs.fingerprint == ours.fingerprint and theirs.words is not None
    assert theirs.name == "tiny_run" and theirs.path == cache / digest_of(archive) / "tiny_run"
    queries = [each.read(SENTENCES).encoded for each in (ours, theirs)]
    assert all(torch.equal(queries[0][name], queries[1][name]) for name in queries[0])
    assert not (theirs.path.parent / ".new").exists()


def test_the_same_run_makes_the_same_bytes(made_home, archive, tmp_path):
    load(made_home / "save/tiny", device="cpu").export(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with pytest.raises(InputError, match="exists already; expected the name of a new file"):
        load(archive, device="cpu").export(tmp_path / "again.zip")


def rewritten(archive: Path, path: Path, change: Callable[[zipfile.ZipInfo], Any], **more: bytes):
    """A copy whose members are changed; ``change`` says "leave out" by False."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if change(member) is not False:
                new.writestr(member, content)
        for name, content in more.items():
            new.writestr(name, content)
    return path


def named(old: str, new: str) -> Callable[[zipfile.ZipInfo], None]:
    def change(member: zipfile.ZipInfo) -> None:
        if member.filename == old:
            member.filename = new

    return change


def link(member: zipfile.ZipInfo) -> None:
    if member.filename == "run.json":
        member.external_attr = (stat.S_IFLNK | 0o777) << 16


def compressed(member: zipfile.ZipInfo) -> None:
    member.compress_type = zipfile.ZIP_DEFLATED


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (named("run.json", "../run.json"), {}, "it holds .*expected weights.safetensors"),
        (named("run.json", "/tmp/run.json"), {}, "expected weights.safetensors"),
        (named("run.json", "run.json/"), {}, "expected weights.safetensors"),
        (lambda member: member.filename != "weights.safetensors", {}, "and nothing else"),
        (lambda member: None, {"evil.py": b"x"}, r"evil\.py"),
        (lambda member: None, {"run.json": b"{}"}, "and nothing else"),
        (link, {}, "run.json in it is no plain file"),
        (compressed, {}, "is compressed, which export never does"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_export_is_not_unpacked(change, more, said, archive, cache, tmp_path):
    path = rewritten(archive, tmp_path / "made.zip", change, **more)
    with pytest.raises(InputError, match=said) as caught:
        load(path, device="cpu")
    assert str(path) in str(caught.value)
    assert not left(cache) and not (tmp_path / "run.json").exists()


def test_a_member_cannot_be_larger_than_the_file(archive, tmp_path):
    """Members that share their bytes, as a bomb's do."""
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        sizes = {each.filename: each.file_size for each in opened.infolist()}
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"run.json"))
    (tmp_path / "out").mkdir()
    for claimed, said in ((sum(sizes.values()), "larger than the file"), (2**31, "far too large")):
        # Both sizes of run.json, in the list of contents.
        content[place + 20 : place + 28] = claimed.to_bytes(4, "little") * 2
        (tmp_path / "bomb.zip").write_bytes(content)
        with pytest.raises(InputError, match=said):
            unpack(tmp_path / "bomb.zip", tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_a_damaged_file_is_one_sentence(archive, cache, tmp_path):
    whole, path = archive.read_bytes(), tmp_path / "cut.zip"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # a check sum then fails
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-9], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load(path, device="cpu")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert not left(cache)


def test_a_run_in_one_file_names_no_code(made_home, tmp_path):
    state = checkpoint.load(made_home / "save/tiny/best.pt")
    foreign = state
    for place in ("inference.config.MODEL.NAME", "experiment.MODEL.NAME"):
        foreign = put(foreign, place, f"{tmp_path}/evil.py:Evil")
    with pytest.raises(InputError, match="the model is code of its own"):
        write_export(foreign, None, tmp_path / "foreign.zip")
    write_export(foreign, None, tmp_path / "folder")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as made:
        for name in NEEDED:
            made.write(tmp_path / "folder" / name, name)
    with pytest.raises(InputError, match="the model is code of its own"):
        load(address(tmp_path / "foreign.zip"), device="cpu")
    assert not (tmp_path / "ran").exists()


# The address.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://host/run.zip", "has no digest"),
        ("https://host/run.zip#sha256=12", "has no digest"),
        (f"https://host/run.zip#md5={'0' * 64}", "has no digest"),
        (f"https://host/run.zip#sha256={'g' * 64}", "has no digest"),
        (f"http://host/run.zip#sha256={'0' * 64}", "is not fetched; expected https://"),
        (f"ftp://host/run.zip#sha256={'0' * 64}", "is not fetched"),
        (f"https:/host/run.zip#sha256={'0' * 64}", "is not fetched"),
        (f"file://elsewhere/run.zip#sha256={'0' * 64}", "is not fetched"),
        (f"https://me:secret@host/run.zip#sha256={'0' * 64}", "names a user or a password"),
        (f"https://host:x/run.zip#sha256={'0' * 64}", "is no URL"),
        (f"https://[host/run.zip#sha256={'0' * 64}", "is no URL"),
        (f"https://host/a b.zip#sha256={'0' * 64}", "is no URL"),
        (f"https://host/a\r\nb.zip#sha256={'0' * 64}", "is no URL"),
    ],
)
def test_an_address_that_is_none_is_refused(url, said, cache):
    with pytest.raises(InputError, match=said) as caught:
        load(url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert not cache.exists()


def test_addresses_and_paths_are_told_apart():
    assert is_address("https://host/x") and is_address("file:///x") and is_address("s3://x/y")
    assert not any(map(is_address, ("save/x", "C:/x", r"C:\x", "acnet", "../a:b/c", "a.zip")))
    parsed = Address.parse(f"https://h/d/my%20run.zip?key=1#sha256={'AB' * 32}")
    assert parsed == Address("https://h/d/my%20run.zip?key=1", "ab" * 32, None, "my_run")
    assert plain_name("..zip") == "run" and plain_name("a/../b.zip") == "a_.._b"
    assert len(plain_name("x" * 300)) == 80


def test_a_file_of_another_digest_is_not_opened(archive, cache, monkeypatch):
    monkeypatch.setattr(download, "unpack", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(InputError, match=f"has the digest {digest_of(archive)}, expected 0000"):
        load(address(archive, "0" * 64))
    assert not left(cache)


def test_a_cache_that_cannot_be_written_is_one_sentence(archive, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DMR_JRG_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set DMR_JRG_CACHE to another folder"):
        load(archive)
    monkeypatch.delenv("DMR_JRG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/dmr_jrg/runs"


# The way here.


class Server:
    """Answers on this machine: path -> status, headers, content."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, headers, content = outer.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # which this machine does not go by
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def of(content: bytes) -> str:
    return f"#sha256={hashlib.sha256(content).hexdigest()}"


def test_a_run_is_fetched_once(server, archive, made_home):
    content = archive.read_bytes()
    server.pages["/a/x.zip"] = (302, {"Location": "/y.zip?key=1"}, b"")
    server.pages["/y.zip?key=1"] = (200, {"Content-Length": str(len(content))}, content)
    first = load(f"{server.url}/a/x.zip{of(content)}", device="cpu")
    assert first.fingerprint == load(made_home / "save/tiny", device="cpu").fingerprint
    assert first.name == "x" and server.asked == ["/a/x.zip", "/y.zip?key=1"]
    again = load(f"https://127.0.0.1:9/elsewhere.zip{of(content)}", device="cpu")
    assert again.path == first.path and len(server.asked) == 2
    assert load(archive, device="cpu").path == first.path


def test_what_a_server_may_do_is_one_sentence(server, cache, monkeypatch):
    content = b"x" * 1000
    server.pages["/web"] = (200, {}, b"<!doctype html>")
    server.pages["/busy"] = (503, {}, b"")
    server.pages["/short"] = (200, {"Content-Length": "2000"}, content)
    server.pages["/out"] = (302, {"Location": "http://example.com/x"}, b"")
    server.pages["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    server.pages["/round"] = (302, {"Location": "/round"}, b"")
    server.pages["/large"] = (200, {"Content-Length": str(10**12)}, b"")
    server.pages["/endless"] = (200, {}, content * 500)
    server.pages["/none"] = (200, {"Content-Length": "-5"}, b"")
    monkeypatch.setattr(download, "MOST_BYTES", 200_000)
    for path, said in {
        "/web": "has the digest",
        "/busy": "answers 503",
        "/absent": "answers 404",
        "/short": "ended after 1,000 of 2,000 bytes; try again",
        "/out": "http://example.com/x is not fetched",
        "/file": "answers 302",
        "/round": "answers 302",
        "/large": r"has 1,000,000,000,000 bytes, expected at most 200,000",
        "/endless": r"has at least 2\d\d,\d\d\d bytes, expected at most 200,000",
        "/none": "has the digest",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            load(f"{server.url}{path}{of(content)}")
        assert "\n" not in str(caught.value)
        assert not left(cache)


def test_without_a_network_it_is_one_sentence(tmp_path):
    for url in ("http://127.0.0.1:1/x.zip", f"file://{tmp_path}/absent.zip", f"file://{tmp_path}"):
        with pytest.raises(InputError, match="cannot be reached .*needs no network"):
            load(f"{url}{of(b'')}")


def test_what_a_killed_process_left_is_removed(archive, cache):
    scratch = cache / digest_of(archive) / ".new" / "half"
    scratch.mkdir(parents=True)
    (scratch / "run.json").write_text("{")
    assert load(address(archive), device="cpu").name == "tiny_run"
    assert not scratch.exists()


def test_several_ask_at_once_and_one_fetches(server, archive):
    content = archive.read_bytes()
    server.pages["/x.zip"] = (200, {"Content-Length": str(len(content))}, content)
    wanted = Address.parse(f"{server.url}/x.zip{of(content)}")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(download.downloaded(wanted))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4 and server.asked == ["/x.zip"]


# The manifest.


def entry(archive: Path, **changed: Any) -> dict[str, Any]:
    return {
        "URL": archive.as_uri(),
        "SHA256": digest_of(archive),
        "BYTES": archive.stat().st_size,
        "EXPERIMENT": "synthetic/dmr_jrg",
        "RESULTS": {"svmr": {"R@1,IoU=0.5": {"SCORE": 50.5, "FLOOR": 49.4}}},
        **changed,
    }


def manifest(path: Path, entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"CHECKPOINTS": entries}), "utf-8")
    return path


def test_the_manifest_names_experiments_that_are_there():
    for checkpoint_ in read_checkpoints().values():
        Address.of(checkpoint_)
        assert (REPOSITORY / "experiments" / f"{checkpoint_.experiment}.yaml").is_file()
    about = [line for line in MANIFEST.read_text("utf-8").splitlines() if line.startswith("#")]
    stated = "\n".join(line[2:] for line in about[about.index("#") + 1 :])
    example = yaml.safe_load(stated)["CHECKPOINTS"]["NAME"]
    assert set(example) == {"URL", "SHA256", "BYTES", "EXPERIMENT", "RESULTS"}


def test_a_run_is_loaded_by_its_name(archive, tmp_path, monkeypatch):
    path = manifest(tmp_path / "checkpoints.yaml", {"mine": entry(archive)})
    (known,) = read_checkpoints(path).values()
    assert known.results == {"svmr": {"R@1,IoU=0.5": (50.5, 49.4)}}
    monkeypatch.setattr(trained, "read_checkpoints", lambda: read_checkpoints(path))
    assert load("mine", device="cpu").name == "mine"
    with pytest.raises(InputError, match="which has mine"):
        load("yours")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="mine holds no trained run"):  # a folder goes first
        load("mine")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SHA256": "12"}, "SHA256 is '12', expected 64 hexadecimal digits"),
        ({"BYTES": 0}, "BYTES is 0"),
        ({"RESULTS": {}}, "has RESULTS of nothing"),
        ({"RESULTS": {"best": {}}}, r"has RESULTS of \['best'\]"),
        ({"RESULTS": {"vr": {"R@1": {"SCORE": 3.0}}}}, "lacks 'FLOOR'"),
        ({"URL": 3}, "URL is 3"),
    ],
)
def test_an_entry_that_is_none_is_refused(changed, said, archive, tmp_path):
    path = manifest(tmp_path / "checkpoints.yaml", {"mine": entry(archive, **changed)})
    with pytest.raises(InputError, match=said):
        read_checkpoints(path)


def test_the_size_of_the_manifest_is_the_size(archive, tmp_path, cache):
    size = archive.stat().st_size
    path = manifest(tmp_path / "m.yaml", {"mine": entry(archive, BYTES=size + 1)})
    with pytest.raises(InputError, match=f"has {size:,} bytes, expected {size + 1:,}"):
        download.downloaded(Address.of(read_checkpoints(path)["mine"]))
    assert not left(cache)


def test_an_index_finds_a_run_by_its_address(made_home, archive, tmp_path, cache):
    """What --run takes."""
    out = tmp_path / "out"
    (features,) = (made_home / "data").rglob("features.hdf5")
    line = [features, "--run", address(archive), "--out", out, "--gpus", "cpu", "--same-recipe"]
    ended = run("index", *line, "--seconds-per-row", "1", output=tmp_path / "said.txt")
    assert ended.status == 0, ended.output
    ended = run("search", out, " ".join(SENTENCES), "--json", output=tmp_path / "said.txt")
    assert ended.status == 0, ended.output
    answer = json.loads(ended.output.splitlines()[-1])
    assert answer["hits"]
