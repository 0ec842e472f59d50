"""The report: what it holds, that it stands alone, and that a browser finds no fault with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lib.base.errors import InputError
from lib.evaluation import Predictions
from lib.evaluation.examples import choose_paragraphs, error_breakdown, load_maps, maps_of_cells
from lib.evaluation.files.run import MAPS, read_run
from lib.evaluation.report import report
from lib.evaluation.report.tables import verdict_against
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
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "action", "data")]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label")):
            self.faults.append("a drawing without a label")
        if tag == "th" and values.get("scope") not in ("row", "col"):
            self.faults.append("a table's head without a scope")
        if values.get("class") == "scroll" and values.get("tabindex") != "0":
            self.faults.append("a frame that a keyboard cannot scroll")


def test_the_page_stands_alone_and_is_described_to_those_who_cannot_see_it(runs: Path) -> None:
    done = run_script("report.py", runs / "strong")
    assert done.returncode == 0, done.stderr
    text = (runs / "strong" / "results.html").read_text()
    page = Page(text)
    assert page.faults == []
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in page.tags and "default-src 'none'" in text
    assert page.tags.count("table") == page.tags.count("caption")
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links <= set(page.ids) and len(set(page.ids)) == len(page.ids)
    assert not re.search(r"url\(|@import|https?://", text)


def test_the_page_holds_what_a_reader_needs(runs: Path) -> None:
    text = report([read_run(runs / "strong")])
    for wanted in (
        "equal parts in order, 1.5 wide",
        "What jrg_video_topk counts",
        "R@10 may show 100 moments",
        "made up: no model was trained",
        "right video, wrong moment",
        "run backwards",
        "Worst",
        "Random (seed 0)",
        'class="right">right video',
        "svmr_2dtan, mIoU (validation)",
        "NAME: demo",
    ):
        assert wanted in text
    assert "Someone &lt;laughs&gt;" in text and "<laughs>" not in text
    assert text.count('class="map"') >= 9  # a map for every sentence of nine paragraphs


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
    text = report([read_run(tmp_path)])
    assert "svmr_2dtan" in text and "Ranked videos" not in text and "Training" not in text


def test_two_runs_are_compared_on_one_page(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = run_script("compare.py", runs / "weak", runs / "strong", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "better" in done.stdout and "95 % interval" in done.stdout
    text = out.read_text()
    assert Page(text).faults == []
    assert "Gained most by strong" in text and "strong: " in text
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
    page.write_text(report([read_run(runs / "strong")]))
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
    text = report([read_run(runs / "strong"), read_run(runs / "weak")])
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


def test_nothing_below_its_floor_is_called_better() -> None:
    assert verdict_against("better", 30.0, 29.0, "mIoU") == "better"
    assert verdict_against("better", 30.0, 31.0, "mIoU") == "higher, and not above its floor"
    assert verdict_against("better", 30.0, 30.0, "mIoU") == "higher, and not above its floor"
    assert verdict_against("worse", 20.0, 31.0, "mIoU") == "worse"
    assert verdict_against("better", 5.0, 50.0, "MedR") == "better"
    assert verdict_against("better", 60.0, 50.0, "MedR") == "higher, and not above its floor"
    assert verdict_against("better", 3.0, None, "R@1") == "better"
