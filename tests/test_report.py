"""The report: what it holds, that it stands alone, and that a browser finds no fault with it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.evaluation import PROTOCOLS, CandidateMoments, Pairs, Predictions, headline_numbers
from lib.evaluation.comparison import compare_runs
from lib.evaluation.examples import (
    choose_paragraphs,
    error_breakdown,
    load_maps,
    maps_of_cells,
    overlap_map,
    ranked_videos,
    true_cell,
)
from lib.evaluation.files.run import MAPS, RunFiles, read_run
from lib.evaluation.report import cases, comparison_report, report
from lib.evaluation.report.charts import nice_ticks
from lib.evaluation.report.videos import Videos, youtube_link
from lib.evaluation.report.words import TITLES, headline_words, metric_title
from tests.demo_run import make_run

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "moment_localization"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "weak", skill=0.45, seed=1)
    make_run(folder / "strong", skill=0.9, seed=2)
    return folder


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """What a page refers to, and what of it a screen reader or a keyboard would miss."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.faults: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.examples: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self._inside = tag
        self.scripts += [""] if tag == "script" else []
        self.headings += [""] if tag == "h2" else []
        self.handlers += [name for name in values if name.startswith("on")]
        if tag == "details" and "example" in (values.get("class") or "").split():
            self.examples.append(values)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "action", "data")]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label")):
            self.faults.append("a drawing without a label")
        if tag == "th" and values.get("scope") not in ("row", "col"):
            self.faults.append("a table's head without a scope")
        if values.get("class") == "scroll" and values.get("tabindex") != "0":
            self.faults.append("a frame that a keyboard cannot scroll")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "h2":
            self.headings[-1] += data


def test_the_page_stands_alone_and_is_described_to_those_who_cannot_see_it(runs: Path) -> None:
    done = run_script("report.py", runs / "strong")
    assert done.returncode == 0, done.stderr
    text = (runs / "strong" / "results.html").read_text()
    page = Page(text)
    assert page.faults == []
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "default-src 'none'" in text and page.handlers == []
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "media-src" not in text
    assert page.tags.count("table") == page.tags.count("caption")
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links <= set(page.ids) and len(set(page.ids)) == len(page.ids)
    assert not re.search(r"url\(|@import|https?://", text)


def test_the_page_holds_what_a_reader_needs(runs: Path) -> None:
    text = report(read_run(runs / "strong"))
    for wanted in (
        "equal parts in order, 1.5 wide",
        "Video among the first K, one of ten moments in it right (jrg_video_topk)",
        "R@10 may show 100 moments",
        "made up: no model was trained",
        "right video, wrong moment",
        "run backwards",
        'class="right">right video',
        "mean overlap (validation)",
        "NAME: demo",
        "60 of 60 paragraphs are on this page.",
        "start, s</text>",
    ):
        assert wanted in text
    assert "Someone &lt;laughs&gt;" in text and "<laughs>" not in text
    assert text.count('class="map"') >= 9  # a map for every sentence of nine paragraphs
    page = Page(text)
    assert page.headings[:2] == ["The answer", "Examples"]
    assert len(page.examples) == 60 and page.tags.count("svg") > 250


def test_the_answer_is_first_and_the_caveats_are_folded(runs: Path) -> None:
    run = read_run(runs / "strong")
    summary = run.summary | {"warnings": ["the first", "the second"]}
    text = report(dataclasses.replace(run, summary=summary))
    numbers = headline_numbers(summary)
    assert len(numbers) == 5
    places = []
    for number in numbers:
        title, meaning = headline_words(number)
        card = re.search(
            rf'<div class="card"><h3>{re.escape(title)}</h3>.*?{re.escape(meaning)}', text
        )
        assert card is not None and f"{number.score:.2f}" in card[0]
        assert number.interval is not None
        assert f"{number.interval[0]:.2f} to {number.interval[1]:.2f}" in card[0]
        assert f"floor {number.floor:.2f} ({number.rule})" in card[0]
        assert f"{number.verdict} its floor" in card[0]
        places.append(card.start())
    warned = text.index("2 warnings about these numbers</summary><ul><li>the first</li>")
    assert max(places) < warned < text.index("1 note about these numbers")
    assert "<details open" not in text[: text.index('id="examples"')]


def test_every_protocol_has_a_title_in_words() -> None:
    assert set(TITLES) == set(PROTOCOLS)
    assert metric_title("vr", "R@1") == "right first"
    assert metric_title("svmr", "R@5,IoU=0.7") == (
        "right among the first 5 moments of the right video, overlap 0.7"
    )
    assert metric_title("svmr_discounted", "dR@1,IoU=0.5") == "right first, overlap 0.5, discounted"
    assert metric_title("vr", "something else") == "something else"


def test_a_large_split_stays_a_page(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(runs / "strong")
    text = report(run, count=4, seed=5)
    page = Page(text)
    with_maps = 9
    assert 12 <= len(page.examples) <= 12 + with_maps
    assert (
        f"{len(page.examples)} of 60 paragraphs are on this page: best, worst, random (seed 5)"
        in text
    )
    assert "at most 4 of each (--count)" in text
    quality = [float(each["data-quality"] or "nan") for each in page.examples]
    assert quality == sorted(quality, reverse=True)
    assert {each["data-kind"] for each in page.examples} == {"best", "worst", "random", ""}
    assert Page(report(run, count=0)).examples == []
    monkeypatch.setattr(cases, "MOST_BYTES", 60_000)
    text = report(run)
    assert 1 < len(Page(text).examples) < 20
    assert "and no more, which would be too large for a browser" in text


def test_retrieved_videos_are_listed_with_what_was_found_in_the_wrong_ones(runs: Path) -> None:
    run = read_run(runs / "weak")
    shown = cases.shown(run, "weak", 0)
    assert shown.ranks is not None
    wrong = int(np.flatnonzero(shown.ranks == 2)[0])
    ranked = ranked_videos(run.predictions, wrong, 5)
    assert ranked[1][0] == wrong and ranked == sorted(ranked, key=lambda pair: -pair[1])
    sentences = np.flatnonzero(run.truth.sentence_paragraph == wrong).tolist()
    listed = _retrieved(report(run), run.truth.paragraph_ids[wrong])
    assert len(listed) == 5
    candidates = run.predictions.candidates
    assert isinstance(candidates, Pairs)
    for rank, ((video, score), item) in enumerate(zip(ranked, listed, strict=True), start=1):
        assert f"{rank}. {run.truth.video_ids[video]} <small>{score:.4f}</small>" in item
        assert ("right video" in item) == (video == wrong)
        if video == wrong:
            assert item.startswith('<li class="own">') and "<svg" not in item
            continue
        duration = run.truth.durations[video]
        for number, sentence in enumerate(sentences, start=1):
            inside = np.flatnonzero(candidates.videos[sentence] == video)
            said = f"sentence {number}: nothing"
            if len(inside):
                best = inside[candidates.scores[sentence][inside].argmax()]
                start, end = candidates.spans[sentence, best] * duration
                said = f"sentence {number}: {start:.1f} to {end:.1f} s"
            assert item.count(said) == 2  # in sight, and in the drawing's label
        assert item.count(f" of {duration:.1f} s") == 2 and "<svg" in item
    # A model that only lists pairs: the video of a sentence's best one.
    predictions = dataclasses.replace(run.predictions, similarity=None)
    alone = report(dataclasses.replace(run, predictions=predictions))
    assert "Found in wrong videos" in alone and "Retrieved videos" not in alone
    # A model that only ranks: the videos without moments, and why.
    predictions = dataclasses.replace(run.predictions, candidates=None)
    text = report(dataclasses.replace(run, predictions=predictions))
    assert "<svg" not in "".join(_retrieved(text, run.truth.paragraph_ids[wrong]))
    assert "known of tests with TEST.CANDIDATES above 0" in text
    assert "TEST.CANDIDATES" not in report(run)
    # Candidates as arrays hold the same moments.
    first, _ = ranked[0]
    spans = np.full((len(run.truth.sentences), 1, 1, 2), 0.25)
    spans[..., 1] = 0.5
    one = np.zeros((len(spans), 1, 1))
    grounded = CandidateMoments(
        np.full((len(spans), 1), first), spans, one, np.zeros((len(spans), 1))
    )
    arrays = dataclasses.replace(
        run, predictions=dataclasses.replace(run.predictions, candidates=grounded)
    )
    item, *_ = _retrieved(report(arrays), run.truth.paragraph_ids[wrong])
    duration = run.truth.durations[first]
    assert f"sentence 1: {duration / 4:.1f} to {duration / 2:.1f} s" in item


def _retrieved(text: str, name: str) -> list[str]:
    """The items of the list of retrieved videos of one paragraph."""
    (listed,) = re.findall(r'<ol class="retrieved">(.*?)</ol>', _example(text, name))
    return [str(item) for item in re.findall(r"<li.*?</li>", listed)]


def test_score_maps_of_runs_stand_beside_the_truth(runs: Path) -> None:
    """A row for each sentence: the overlaps with its moment, and each run's scores."""
    pair = [read_run(runs / "weak"), read_run(runs / "strong")]
    truth = pair[0].truth
    assert pair[0].maps is not None and pair[1].maps is not None
    both = set(pair[0].maps.paragraphs(truth)) & set(pair[1].maps.paragraphs(truth))
    alone = set(pair[0].maps.paragraphs(truth)) - both
    assert len(both) >= 3 and alone
    text = comparison_report(compare_runs(pair, resamples=20))
    for paragraph, wanted in ((min(both), ["weak", "strong"]), (min(alone), ["weak"])):
        example = _example(text, truth.paragraph_ids[paragraph])
        rows = example.split('<div class="maps">')[1:]
        sentences = np.flatnonzero(truth.sentence_paragraph == paragraph)
        assert len(rows) == len(sentences)
        for number, row in enumerate(rows, start=1):
            captions = re.findall(r"<figcaption>(.*?);", row)
            assert captions == [
                f"overlap of every span with the truth of sentence {number}",
                *(f"{name}, score map of sentence {number}" for name in wanted),
            ]
            labels = re.findall(r'class="map"[^>]*aria-label="([^"]*)"', row)
            assert "IoU 0 to" in labels[0] and ": best" not in labels[0]
            assert all("scores" not in label and "; score " in label for label in labels[1:])
            assert row.count('class="mark best"') == len(wanted)
            assert row.count('class="mark truth"') == len(wanted) + 1


def _example(text: str, name: str) -> str:
    """The section of one paragraph."""
    start = text.index(f'<span class="name">{name}</span>')
    after = text.find('class="case example"', start)
    return text[start : after if after > 0 else len(text)]


HOSTILE = '"></script><img src=x onerror=alert(1)>'


def hostile(run: RunFiles) -> RunFiles:
    """The same run with its texts from somebody who means harm."""

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{HOSTILE}{i}" for i in range(len(names)))

    truth = dataclasses.replace(
        run.truth,
        video_ids=renamed(run.truth.video_ids),
        paragraph_ids=renamed(run.truth.paragraph_ids),
        sentences=renamed(run.truth.sentences),
        sentence_ids=renamed(run.truth.sentences),
    )
    summary = json.loads(json.dumps(run.summary))
    summary |= {"warnings": [HOSTILE], "notes": [HOSTILE]}
    summary["provenance"] = {"training": {"commit": HOSTILE, "versions": {HOSTILE: HOSTILE}}}
    for name in summary["protocols"]:
        summary["protocols"][name][HOSTILE] = 1.0
        summary["floors"][name][HOSTILE] = dict.fromkeys(summary["protocols"][name], 99.0)
    log = [record | {"train": {HOSTILE: 1.0 / (1 + record["epoch"])}} for record in run.log]
    config = f"TAG: {json.dumps(HOSTILE)}\nMODEL: {{{json.dumps(HOSTILE)}: 1}}\n"
    return dataclasses.replace(
        run, name=HOSTILE, truth=truth, summary=summary, log=log, config=config
    )


def hostile_pages(runs: Path) -> list[str]:
    first, second = hostile(read_run(runs / "strong")), hostile(read_run(runs / "weak"))
    second = dataclasses.replace(second, name=f"{HOSTILE}2", config="MODEL: {a: 2}\n")
    pair = compare_runs([first, second], resamples=20)
    videos = Videos({first.truth.video_ids[0]: f"x{HOSTILE}.mp4"})
    return [report(first, videos=videos), comparison_report(pair)]


def test_untrusted_text_is_text(runs: Path) -> None:
    for text in hostile_pages(runs):
        page = Page(text)
        assert page.handlers == [] and "img" not in page.tags
        assert len(page.scripts) == 1 and page.scripts[0].startswith('"use strict"')
        assert "onerror=alert(1)&gt;" in text
        assert not re.search(r"<[^>]*onerror[^>]*=alert[^>]*>", re.sub(r'"[^"]*"', '""', text))


def test_ids_of_youtube_lead_there() -> None:
    watch = "https://www.youtube.com/watch?v="
    assert youtube_link("v_uqiMw7tQ1Cc", 12.9) == f"{watch}uqiMw7tQ1Cc&t=12s"
    assert youtube_link("NUsG9BgSes0_210.0_360.0", 5.5) == f"{watch}NUsG9BgSes0&t=215s"
    assert youtube_link("a_b-c_d-e_f_60.0_210.0") == f"{watch}a_b-c_d-e_f&t=60s"
    for other in ("v_000", "v_uqiMw7tQ1Cc1", "uqiMw7tQ1Cc", "v_uqiMw7tQ1C/", "uqiMw7tQ1Cc_9_3"):
        assert youtube_link(other) == ""
    assert youtube_link("v_uqiMw7tQ1Cc\n") == ""


def test_moments_lead_to_youtube_where_no_file_is(runs: Path) -> None:
    run = read_run(runs / "strong")
    ids = tuple(f"{i:011d}_30.0_230.0" for i in range(60))
    run = dataclasses.replace(run, truth=dataclasses.replace(run.truth, video_ids=ids))
    page = Page(report(run))
    links = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert links and all(
        re.fullmatch(r"https://www\.youtube\.com/watch\?v=\d{11}&t=\d+s", link) for link in links
    )
    start = int(run.truth.moments[0, 0])
    assert f"https://www.youtube.com/watch?v=00000000000&t={30 + start}s" in links
    assert "video" not in page.tags


def test_ticks_are_round_and_few() -> None:
    assert nice_ticks(56.1) == [0, 15, 30, 45]
    assert nice_ticks(3.2) == [0, 1, 2, 3]
    assert nice_ticks(0.35) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert nice_ticks(7200) == [0, 1800, 3600, 5400, 7200]
    for duration in (0.01, 1, 59.99, 60, 61, 1e5):
        assert len(nice_ticks(duration)) <= 6 and max(nice_ticks(duration)) <= duration * 1.001


def test_a_run_that_only_grounds_has_a_page(tmp_path: Path, runs: Path) -> None:
    for name in ("predictions.truth.jsonl", "config.yaml"):
        shutil.copy(runs / "strong" / name, tmp_path / name)
    lines = (runs / "strong" / "predictions.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines if "paragraph_id" not in json.loads(line)]
    for record in kept:
        record.pop("pairs", None)
        record.pop("pairs_for", None)
        record.pop("lines", None)
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    text = report(read_run(tmp_path))
    assert (
        "svmr_2dtan" in text
        and 'value="rank up"' not in text
        and "Retrieved videos" not in text
        and "Training" not in text
    )


def test_two_runs_are_compared_on_one_page(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = run_script("compare.py", runs / "weak", runs / "strong", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "better" in done.stdout and "95 % interval" in done.stdout
    text = out.read_text()
    assert Page(text).faults == []
    assert "gained most first" in text and "strong: " in text
    assert "by what strong gained in reciprocal rank times mean overlap" in text
    assert re.search(r'class="better">better', text)


def test_runs_over_different_queries_are_not_compared(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "weak", tmp_path / "other")
    path = tmp_path / "other" / "predictions.truth.jsonl"
    path.write_text(path.read_text().replace('"desc_id": "v_000/1"', '"desc_id": "v_000/x"'))
    lines = tmp_path / "other" / "predictions.jsonl"
    lines.write_text(lines.read_text().replace('"desc_id":"v_000/1"', '"desc_id":"v_000/x"'))
    done = run_script("compare.py", runs / "strong", tmp_path / "other")
    assert done.returncode == 2 and "not tested on the same queries" in done.stderr


def test_a_folder_without_predictions_is_reported(tmp_path: Path) -> None:
    done = run_script("report.py", tmp_path)
    assert done.returncode == 2 and "holds no predictions.truth.jsonl" in done.stderr


def test_figures_are_drawn_for_a_paper(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    done = run_script(
        "figures.py", runs / "strong", "--out", tmp_path, "--count", "1", "--format", "pdf", "png"
    )
    assert done.returncode == 0, done.stderr
    found = sorted(path.suffix for path in tmp_path.iterdir())
    assert found == [".pdf", ".png"]
    done = run_script("figures.py", runs / "strong", "--paragraph", "nobody")
    assert done.returncode == 2 and "'nobody'" in done.stderr


def test_figures_without_matplotlib_say_so(runs: Path) -> None:
    code = (
        "import sys, runpy; sys.modules['matplotlib'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(SCRIPTS / "figures.py"), str(runs / "strong")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install matplotlib" in done.stderr


def test_the_shares_of_errors_add_up(runs: Path) -> None:
    run = read_run(runs / "strong")
    shares = error_breakdown(run.truth, run.predictions)
    assert sum(shares.values()) == pytest.approx(100)
    recall = run.summary["protocols"]["jrg_video_topk_n1"]["R@1,IoU=0.5"]
    assert shares["right video, right moment"] == pytest.approx(recall)
    assert error_breakdown(run.truth, Predictions(similarity=run.predictions.similarity)) == {}


def test_no_paragraph_is_shown_twice() -> None:
    kinds = choose_paragraphs(np.random.default_rng(0).random(7), count=3)
    shown = [p for each in kinds.values() for p in each]
    assert len(set(shown)) == len(shown) == 7


def test_two_runs_show_some_of_the_same_paragraphs() -> None:
    """Whatever their qualities: their score maps can be laid side by side."""
    random = np.random.default_rng(0)
    for paragraphs in (4, 7, 60, 145):
        shown = [
            {p for each in choose_paragraphs(random.random(paragraphs)).values() for p in each}
            for _ in range(20)
        ]
        assert len(set.intersection(*shown)) >= 3
    kinds = choose_paragraphs(random.random(60), seed=1)
    assert kinds["random"] != choose_paragraphs(random.random(60), seed=2)["random"]


def test_the_map_of_the_truth_holds_the_overlap_of_every_proposal() -> None:
    scores = np.where(np.triu(np.ones((6, 6))) > 0, 0.5, np.nan)
    scores[1, 3] = np.nan
    low, high = 0.1, 0.62
    overlaps = overlap_map(scores, np.array([low, high]))
    best = (-1.0, (0, 0))
    for start in range(6):
        for end in range(6):
            if end < start or (start, end) == (1, 3):
                assert np.isnan(overlaps[start, end])
                continue
            first, last = start / 6, (end + 1) / 6
            inside = max(min(last, high) - max(first, low), 0.0)
            iou = inside / ((last - first) + (high - low) - inside)
            assert overlaps[start, end] == pytest.approx(iou, abs=1e-12)
            best = max(best, (iou, (start, end)), key=lambda pair: pair[0])
    assert true_cell(scores, np.array([low, high])) == best[1]


def test_score_maps_lie_where_their_cells_do(runs: Path) -> None:
    cells = np.array([[0, 0.25], [0.25, 1.0], [0.5, 0.75]])
    maps = maps_of_cells(cells, np.array([[1.0, 2.0, 3.0]]))
    assert maps.shape == (1, 4, 4)
    assert [maps[0, 0, 0], maps[0, 1, 3], maps[0, 2, 2]] == [1, 2, 3]
    assert np.isnan(maps).sum() == 13
    run = read_run(runs / "strong")
    with pytest.raises(InputError, match="cannot be read as score maps"):
        load_maps(runs / "strong" / "results.json", run.truth)
    assert load_maps(runs / "strong" / MAPS, run.truth).maps.shape[1:] == (16, 16)


# --- in a browser ---------------------------------------------------------------------------------


def open_in_browser(page: Path, folder: Path, *flags: str) -> tuple[list[str], list[str]]:
    """What the page wrote to the console, and what it asked of a network."""
    assert CHROMIUM is not None
    log = folder / "net.json"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
        *flags,
        page.as_uri(),
    ]
    env = os.environ | {"HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    network = json.loads(log.read_text())
    started = network["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [e["params"] for e in network["events"] if e["type"] == started and "params" in e]
    # The browser's own housekeeping has no origin; whatever the page asks for does.
    return console, [a["url"] for a in asked if a.get("initiator") not in (None, "not an origin")]


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install)")


@needs_browser
def test_the_harness_notices_an_error_and_a_request(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("planted")</script>')
    console, asked = open_in_browser(page, tmp_path, "--dump-dom")
    assert any("planted" in line for line in console)
    assert "http://127.0.0.1:9/x.png" in asked


@needs_browser
@pytest.mark.parametrize("size", ["390,800", "1280,900"])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_browser_finds_no_fault(runs: Path, tmp_path: Path, size: str, scheme: str) -> None:
    """At a phone's width and a desk's, in both schemes: something is drawn, on the right ground."""
    page = tmp_path / "page.html"
    page.write_text(report(read_run(runs / "strong")))
    shot = tmp_path / "shot.png"
    console, asked = open_in_browser(
        page,
        tmp_path,
        f"--screenshot={shot}",
        f"--window-size={size}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
    )
    assert console == [] and asked == []
    image = pytest.importorskip("matplotlib.image").imread(shot)[..., :3]
    ground = image[5, 5].mean()
    assert ground < 0.2 if scheme == "dark" else ground > 0.9
    assert image.std() > 0.02


@needs_browser
def test_the_page_fits_a_phone(runs: Path, tmp_path: Path) -> None:
    """Nothing is wider than the window: wide tables scroll inside their frames."""
    pair = [read_run(runs / "strong"), read_run(runs / "weak")]
    text = comparison_report(compare_runs(pair, resamples=50))
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    measure = "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script>"
    inside, page = tmp_path / "inside.html", tmp_path / "page.html"
    inside.write_text(
        text.replace("<details", "<details open").replace("</body>", measure + "</body>")
    )
    page.write_text(  # a window is never narrower than 500 pixels; a frame is
        "<script>onmessage = e => { document.title = e.data + ' wide' }</script>"
        '<iframe src="inside.html" width="360" height="900" style="border: 0"></iframe>'
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    width = re.search(r"<title>(\d+) wide", done.stdout)
    assert width is not None and int(width[1]) <= 360


@needs_browser
def test_a_hostile_page_runs_nothing(runs: Path, tmp_path: Path) -> None:
    for text in hostile_pages(runs):
        page = tmp_path / "page.html"
        page.write_text(text)
        console, asked = open_in_browser(page, tmp_path, "--dump-dom")
        assert console == [] and asked == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--disable-gpu", "--mute-audio"]
        )
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    return []


def opened(browser: Any, page: Path, faults: list[str], **options: Any) -> Any:
    """A page in a browser; what goes wrong in it is noted."""
    context = browser.new_context(**options)
    window = context.new_page()
    window.on("console", lambda message: faults.append(message.text))
    window.on("pageerror", lambda fault: faults.append(str(fault)))
    window.on(
        "request",
        lambda asked: faults.append(asked.url) if not asked.url.startswith("file:") else None,
    )
    window.goto(page.as_uri())
    return window


@needs_browser
def test_examples_are_searched_filtered_and_sorted(
    runs: Path, tmp_path: Path, browser: Any, faults: list[str]
) -> None:
    run = read_run(runs / "weak")
    page = tmp_path / "page.html"
    page.write_text(report(run))
    window = opened(browser, page, faults)
    visible = window.locator("details.example:visible")
    state = window.locator("#shown")
    assert state.inner_text() == "10 of 60 that fit, 60 on this page" and visible.count() == 10
    window.get_by_role("button", name="Show more").click()
    assert visible.count() == 50
    ranks = cases.shown(run, "weak", 0).ranks
    assert ranks is not None

    window.locator("#filter").select_option("wrong")
    wrong = int((ranks > 1).sum())
    assert state.inner_text() == f"{min(wrong, 10)} of {wrong} that fit, 60 on this page"
    window.locator("#sort").select_option("rank down")
    found = [float(each.get_attribute("data-rank")) for each in visible.all()]
    assert found == sorted(ranks.tolist(), reverse=True)[:10]
    window.locator("#filter").select_option("all")
    window.locator("#sort").select_option("overlap up")
    overlaps = [float(each.get_attribute("data-overlap")) for each in visible.all()]
    assert overlaps == sorted(overlaps) and overlaps[0] < overlaps[-1]

    window.locator("#search").fill("<LAUGHS> fridge")
    texts = [
        " ".join(run.truth.sentences[i] for i in np.flatnonzero(run.truth.sentence_paragraph == p))
        for p in range(60)
    ]
    fitting = sum("<laughs>" in text and "fridge" in text for text in texts)
    assert 0 < fitting < 60 and f"of {fitting} that fit" in state.inner_text()
    window.locator("#search").fill("v_017")
    assert visible.count() == 1 and "v_017" in visible.inner_text()
    window.locator("#search").fill("nothing like it")
    assert state.inner_text() == "0 of 0 that fit, 60 on this page" and visible.count() == 0
    assert faults == []


@needs_browser
def test_without_scripts_every_example_is_listed(
    runs: Path, tmp_path: Path, browser: Any, faults: list[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text(report(read_run(runs / "strong")))
    window = opened(browser, page, faults, java_script_enabled=False)
    assert window.locator("details.example:visible").count() == 60
    assert not window.locator("#controls").is_visible()
    window.locator("details.example summary").nth(3).click()
    assert window.locator("details.example").nth(3).locator(".sentence").first.is_visible()
    assert faults == []


@needs_browser
def test_a_player_goes_to_the_moment(
    runs: Path, tmp_path: Path, browser: Any, faults: list[str]
) -> None:
    pytest.importorskip("av", reason="a video is made with av")
    from tests.small_index import write_video

    run = read_run(runs / "strong")
    films = tmp_path / "fi lms #1"
    films.mkdir()
    best = int(np.argmax(cases.shown(run, "strong", 0).quality))
    name = run.truth.video_ids[int(run.truth.paragraph_video[best])]
    write_video(films / f"{name}.mp4", 120)
    out = tmp_path / "page.html"
    done = run_script("report.py", runs / "strong", "--out", out, "--videos", films)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert f'src="fi%20lms%20%231/{name}.mp4"' in text and "media-src 'self' file:" in text
    window = opened(browser, out, faults)
    example = window.locator("details.example").first
    player = example.locator("video")
    player.evaluate("video => { video.muted = true; }")
    example.get_by_role("link", name="play").first.click()
    (i, *_) = np.flatnonzero(run.truth.sentence_paragraph == best).tolist()
    start, end = run.truth.moments[i]
    window.wait_for_function(
        "([low, high]) => { const at = document.querySelector('details.example video').currentTime;"
        " return at >= low && at <= high; }",
        arg=[start - 0.5, end + 0.5],
        timeout=15_000,
    )
    assert window.url == out.as_uri() and faults == []
    assert window.locator("video").count() == 1  # of the one video that is there
