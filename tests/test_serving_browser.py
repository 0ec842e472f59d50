"""The page in Chromium: what a click, a key and a link do, and that nothing else is asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from lib.inference.answers import Source
from tests.small_index import SmallIndex, running, source_of, touch_back, write_video

for extra in ("fastapi", "uvicorn", "av", "playwright"):
    pytest.importorskip(extra, reason=f"the page in a browser needs {extra}")

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

TWO = "He opens the fridge. He drinks."
SCRIPT = "<img src=x onerror=alert(1)>"
LONG = "x" * 90  # without a place to break
NEAR = 0.5  # seconds between where a click leads and the moment
expect.set_options(timeout=40_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--disable-gpu", "--mute-audio"]
        )
        yield browser.new_context()
        browser.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_video(folder / "plain.mp4")
    write_video(folder / "late.mkv", start=100)
    write_video(folder / "late.mp4", 40, start=100)
    write_video(folder / "plain.mkv")
    write_video(folder / "plain.avi", codec="mpeg4")
    write_video(folder / "replaced.mp4", 1)
    return folder


@pytest.fixture(scope="module")
def index(films: Path) -> SmallIndex:
    index = SmallIndex(
        {
            "plain": source_of(films / "plain.mp4", 12.0),
            "late": source_of(films / "late.mkv", 12.0, start=100.0, container="matroska,webm"),
            "matroska": source_of(films / "plain.mkv", 12.0, container="matroska,webm"),
            "avi": source_of(films / "plain.avi", 12.0, container="avi"),
            SCRIPT: source_of(films / "replaced.mp4", 1.0),
            "features": Source("", 0.0, 9000.0),
            LONG: source_of(films / "plain.mp4", 12.0),
            "late mp4": source_of(films / "late.mp4", 40.0, start=100.0),
            **{f"more {number}": source_of(films / "plain.mp4", 12.0) for number in range(5)},
        }
    )
    touch_back(films / "replaced.mp4")
    return index


@pytest.fixture(scope="module")
def address(index: SmallIndex) -> Iterator[str]:
    with running(index) as port:
        yield f"http://127.0.0.1:{port}/"


@dataclass
class Window:
    """A page, and what happened in it that should not."""

    page: Page
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def bar(self, video: str, sentence: int) -> Any:
        return self.card(video).locator(".bar").nth(sentence - 1)

    def card(self, video: str) -> Any:
        return self.page.locator(".hit").filter(has=self.page.get_by_text(video, exact=True))

    def search(self, paragraph: str = TWO) -> None:
        self.page.locator("#paragraph").fill(paragraph)
        self.page.get_by_role("button", name="Search").click()
        expect(self.page.locator("#status")).to_contain_text("best first")

    def player(self, video: str, script: str) -> Any:
        return self.card(video).locator("video").evaluate(f"video => {script}")

    def clock(self, video: str) -> float:
        return self.player(video, "video.seeking || video.readyState < 1 ? -1 : video.currentTime")

    def seeks(self, video: str, act: Callable[[], None]) -> float:
        """Where the player's clock was when the first seek of an act had ended."""
        self.player(video, "{ video.dataset.at = ''; video.muted = true; }")
        self.player(
            video,
            "video.addEventListener('seeked', "
            "() => { video.dataset.at = video.currentTime; }, {once: true})",
        )
        act()
        return float(until(lambda: self.player(video, "video.dataset.at")))

    def plays(self, video: str) -> None:
        until(lambda: self.player(video, "!video.paused && video.readyState > 1"))


def until(found: Callable[[], Any], seconds: float = 40.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.04)
    raise AssertionError("it never came")


@pytest.fixture
def opened(browser: BrowserContext, address: str) -> Iterator[Callable[..., Window]]:
    """Opens windows, and at the end asks what they did wrong."""
    windows = []

    def open_window(
        fragment: str = "", at: str = address, width: int = 1280, scheme: Any = "light"
    ) -> Window:
        page = browser.new_page()
        page.set_viewport_size({"width": width, "height": 700})
        page.emulate_media(color_scheme=scheme)
        window = Window(page)
        page.on("console", window.console)
        page.on("pageerror", lambda fault: window.faults.append(str(fault)))
        page.on("dialog", lambda dialog: window.faults.append(dialog.message))
        page.on("request", lambda asked: window.hosts.add(urlsplit(asked.url).netloc))
        page.set_default_timeout(40_000)
        page.goto(at + fragment)
        windows.append((window, urlsplit(at).netloc))
        return window

    yield open_window
    for window, own in windows:
        window.page.close()
        assert window.faults == []
        assert window.hosts - {""} == {own}  # "" is of the icon, which is in the page


def link(paragraph: str, **more: Any) -> str:
    return "#" + urlencode({"q": paragraph, **more})


class TestAClick:
    def test_on_a_bar_plays_the_moment_and_marks_it(self, opened):
        window = opened()
        window.search()
        until(lambda: window.clock("plain") == 0)
        at = window.seeks("plain", window.bar("plain", 2).click)
        assert abs(at - 6.0) < NEAR
        window.plays("plain")
        until(lambda: window.clock("plain") > at + 0.2)
        expect(window.bar("plain", 2)).to_have_attribute("aria-current", "true")
        assert window.page.url.endswith(link(TWO, video="plain", sentence=2))

    def test_on_a_sentence_does_the_same(self, opened):
        window = opened()
        window.search("He opens it. He eats. He goes.")
        sentence = window.card("matroska").locator(".sentence").nth(2)
        until(lambda: window.clock("matroska") == 0)  # the first moment is shown
        assert abs(window.seeks("matroska", sentence.click) - 8.0) < NEAR
        expect(window.bar("matroska", 3)).to_be_focused()

    def test_counts_from_where_the_file_s_clock_begins(self, opened):
        window = opened()
        window.search()
        until(lambda: abs(window.clock("late") - 100) < NEAR)  # the first moment is shown
        assert abs(window.seeks("late", window.bar("late", 2).click) - 106.0) < NEAR

    def test_goes_on_until_it_is_there_where_a_file_hides_its_length(self, opened):
        window = opened()
        window.search()
        window.bar("late mp4", 2).click()
        until(lambda: window.clock("late mp4") > 120.0 - NEAR)  # playing there takes 15 s

    def test_stops_the_video_that_played(self, opened):
        window = opened()
        window.search()
        until(lambda: window.clock("plain") == 0 and window.clock("late") > 99)
        window.seeks("plain", window.bar("plain", 2).click)
        window.plays("plain")
        window.seeks("late", window.bar("late", 2).click)
        window.plays("late")
        assert window.player("plain", "video.paused")
        assert window.page.locator(".active").count() == 1

    def test_before_the_video_has_come_leads_there_too(self, opened):
        window = opened()
        window.search()
        video = "more 1"  # far below
        window.page.evaluate("document.querySelector('#hits').style.paddingTop = '9000px'")
        bar = window.bar(video, 2)
        bar.evaluate("bar => bar.click()")
        until(lambda: abs(window.clock(video) - 6.0) < NEAR)

    def test_on_another_moment_wins_over_a_video_that_has_not_come_yet(self, opened):
        window = opened()
        held: list[Any] = []
        window.page.route("**/video?id=plain", lambda route: held.append(route))
        window.search()
        window.bar("plain", 2).click()
        window.bar("late", 2).click()
        window.plays("late")
        for route in held:
            route.continue_()
        window.page.unroute("**/video?id=plain")
        until(lambda: window.clock("plain") == 0)  # its first picture
        assert window.player("plain", "video.paused") and not window.player("late", "video.paused")

    def test_that_leads_to_the_start_is_seen_where_a_server_has_no_ranges(self, opened, index):
        """The test can fail: without byte ranges the same click ends at the start."""
        with running(index, around=_without_ranges) as port:
            window = opened(at=f"http://127.0.0.1:{port}/")
            window.search()
            window.page.wait_for_timeout(300)
            window.bar("plain", 2).click()
            window.plays("plain")
            assert abs(window.clock("plain") - 6.0) > NEAR


def _without_ranges(app: Any) -> Any:
    async def around(scope: Any, receive: Any, send: Any) -> None:
        async def bare(message: Any) -> None:
            if scope.get("path") == "/video" and message["type"] == "http.response.start":
                gone = (b"accept-ranges", b"content-length")
                message["headers"] = [pair for pair in message["headers"] if pair[0] not in gone]
            await send(message)

        asked = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await app({**scope, "headers": asked}, receive, bare)

    return around


class TestWhatCannotBePlayed:
    def test_says_so_with_the_moment(self, opened):
        window = opened()
        window.search()
        window.card("avi").scroll_into_view_if_needed()
        fault = window.card("avi").locator(".fault")
        expect(fault).to_have_text("This browser cannot play AVI; the moment is 0.0–4.5 s.")
        window.bar("avi", 2).click()
        expect(fault).to_have_text("This browser cannot play AVI; the moment is 6.0–10.5 s.")

    def test_without_a_file_says_that_there_is_none(self, opened):
        window = opened()
        window.search()
        expect(window.card("features").locator(".fault")).to_have_text(
            "Not playable: there is no file; features was indexed from features alone."
        )
        expect(window.bar("features", 2)).to_have_attribute(
            "aria-label", "Sentence 2, 1:15:00 to 2:11:15: He drinks."
        )

    def test_says_that_its_file_was_replaced_and_shows_its_name_as_text(self, opened):
        window = opened()
        window.search()
        expect(window.card(SCRIPT).locator(".fault")).to_contain_text(
            f"the file of {SCRIPT} was replaced after it was indexed"
        )
        assert window.page.locator("img").count() == 0

    def test_learns_it_from_the_server_where_the_file_changes_later(self, opened, films, index):
        index.videos["passing"] = source_of(films / "plain.mp4", 12.0)
        try:
            window = opened(link("He eats.", top=20))
            expect(window.page.locator("#status")).to_contain_text("14 videos")
            expect(window.card("passing")).to_be_attached()  # the answer came before the change
            index.videos["passing"] = Source(str(films / "gone.mp4"), 0.0, 12.0)
            window.card("passing").scroll_into_view_if_needed()
            expect(window.card("passing").locator(".fault")).to_have_text(
                "Not playable: the file of passing is gone from where it was indexed; "
                "the moment is 0.0–9.0 s."
            )
        finally:
            del index.videos["passing"]
        assert all("404" in fault for fault in window.faults)  # which the browser itself reports
        window.faults.clear()


class TestTheKeyboard:
    def test_is_enough(self, opened):
        window = opened()
        page = window.page
        page.locator("h1").click()  # somewhere else
        page.keyboard.press("/")
        expect(page.locator("#paragraph")).to_be_focused()
        page.keyboard.type(TWO + " 1/2")
        expect(page.locator("#paragraph")).to_have_value(TWO + " 1/2")
        page.keyboard.press("Control+Enter")
        expect(window.bar("plain", 3)).to_be_visible()
        until(lambda: window.clock("plain") == 0)
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.className") == "bar":
                break
        expect(window.bar("plain", 1)).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(window.bar("plain", 2)).to_be_focused()
        assert window.player("plain", "video.paused")
        assert abs(window.seeks("plain", lambda: page.keyboard.press(" ")) - 4.0) < NEAR
        window.plays("plain")
        page.keyboard.press(" ")
        until(lambda: window.player("plain", "video.paused"))
        page.keyboard.press(" ")
        window.plays("plain")
        page.keyboard.press("End")
        page.keyboard.press("ArrowRight")
        expect(window.bar("late", 1)).to_be_focused()
        page.keyboard.press("ArrowLeft")
        expect(window.bar("plain", 3)).to_be_focused()
        page.keyboard.press("Home")
        assert abs(window.seeks("plain", lambda: page.keyboard.press("Enter"))) < NEAR
        page.keyboard.press("Tab")  # one stop for all moments of a video
        expect(window.card("plain").get_by_role("button", name="Score map")).to_be_focused()

    def test_finds_a_name_on_everything(self, opened):
        window = opened()
        window.search()
        window.card("plain").get_by_role("button", name="Score map").click()
        expect(window.page.get_by_role("img").first).to_be_visible()
        snapshot = window.page.locator("body").aria_snapshot()
        for role in ("button", "link", "textbox", "img", "article", "region"):
            named = re.findall(rf"^ *- '?{role}\b.*", snapshot, re.MULTILINE)
            assert named, role
            assert all('"' in line for line in named), named
        assert '- textbox "Describe what happens, one sentence for each event"' in snapshot
        assert "- 'button \"Sentence 2, 6.0 to 10.5 seconds: He drinks.\"'" in snapshot
        assert window.player("plain", "video.ariaLabel") == "Video plain"


class TestALink:
    def test_searches_again_and_goes_there(self, opened):
        window = opened(link(TWO, video="matroska", sentence=2))
        expect(window.bar("matroska", 2)).to_be_focused()
        until(lambda: abs(window.clock("matroska") - 6.0) < NEAR)
        assert window.player("matroska", "video.paused")  # nobody asked it to play
        expect(window.page.locator("#paragraph")).to_have_value(TWO)

    def test_to_a_video_further_down_asks_for_as_many(self, opened):
        window = opened(link(TWO))
        window.page.get_by_role("button", name="Show more videos").click()
        expect(window.page.locator(".hit")).to_have_count(13)
        expect(window.bar("more 2", 1)).to_be_focused()  # the first of the new ones
        window.card("more 4").locator(".link").click()
        expect(window.card("more 4").locator(".said")).not_to_be_empty()
        other = opened(window.page.url.removeprefix(window.page.url.split("#")[0]))
        expect(other.bar("more 4", 1)).to_be_focused()

    def test_to_a_video_that_is_not_in_the_answer_says_so(self, opened):
        window = opened(link(TWO, video="nobody"))
        expect(window.page.get_by_text("The link leads to nobody, which is not")).to_be_visible()

    def test_is_kept_for_each_question_and_going_back_returns_to_it(self, opened):
        window = opened()
        page = window.page
        window.search()
        window.bar("plain", 2).click()
        window.search("She eats.")
        expect(page.locator("#sentences li")).to_have_count(1)
        page.go_back()
        expect(page.locator("#sentences li")).to_have_count(2)
        expect(window.bar("plain", 2)).to_have_attribute("aria-current", "true")
        expect(page.locator("#paragraph")).to_have_value(TWO)
        page.go_back()
        expect(page.get_by_text("How to use it")).to_be_visible()
        expect(page.locator("#answer")).to_be_hidden()
        page.go_forward()
        expect(page.locator("#sentences li")).to_have_count(2)


class TestTheAnswer:
    def test_shows_how_the_paragraph_was_read(self, opened):
        window = opened()
        window.search("He opens it. <b>He</b> eats 3 eggs.")
        expect(window.page.locator("#sentences li")).to_have_text(
            ["1He opens it.", "2<b>He</b> eats 3 eggs."]
        )
        expect(window.page.locator("#unknown")).to_have_text(
            "A word that the model does not know was left out: “3”."
        )
        expect(window.page.locator("#status")).to_have_text(
            "10 videos, best first, in 0.01 s, by dmr_jrg of epoch 12"
        )
        expect(window.page.locator("#about")).to_contain_text("clip ViT-B-32")

    def test_does_not_take_away_what_is_typed_before_the_server_has_said_who_it_is(self, opened):
        window = opened("nothing-here")
        page = window.page
        held: list[Any] = []
        page.route("**/about", lambda route: held.append(route))
        page.goto(page.url.removesuffix("nothing-here"))
        page.locator("#paragraph").fill("He eats.")
        until(lambda: held or page.wait_for_timeout(20))
        held[0].continue_()
        expect(page.locator("#size")).to_have_text("13 videos")
        expect(page.locator("#paragraph")).to_have_value("He eats.")
        window.faults.clear()  # of the address where nothing is

    def test_draws_the_score_of_every_span(self, opened):
        window = opened()
        window.search()
        button = window.card("plain").get_by_role("button", name="Score map")
        button.click()
        maps = window.card("plain").get_by_role("img")
        expect(maps).to_have_count(2)
        expect(maps.first).to_have_attribute(
            "aria-label", "Score of every span for sentence 1: best 0.0–4.5 s, score 1"
        )
        squares = maps.first.locator(".cells").evaluate_all(
            "paths => paths.map(path => path.getAttribute('d').split('M').length - 1)"
        )
        assert sum(squares) == 16 * 17 // 2
        maps.first.hover(position={"x": 60, "y": 60})
        expect(window.card("plain").locator(".pointed").first).not_to_contain_text("Best")
        button.click()
        expect(maps.first).to_be_hidden()

    def test_says_what_is_wrong_and_tries_again(self, opened):
        window = opened()
        page = window.page
        window.search()
        page.locator("#paragraph").fill("He eats. " * 40)
        page.keyboard.press("Control+Enter")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text(
            "No answer: the paragraph has 40 sentences; expected at most 32."
        )
        page.route("**/search", lambda route: route.abort())
        page.locator("#paragraph").fill("He sleeps.")
        page.keyboard.press("Control+Enter")
        expect(alert).to_contain_text("No answer: the server does not answer")
        expect(page.locator("#answer")).to_be_hidden()
        page.unroute("**/search")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#status")).to_contain_text("best first")
        expect(alert).to_be_empty()
        page.locator("#paragraph").fill(" ")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#status")).to_have_text("Write a sentence first.")
        assert all("Failed to load resource" in fault for fault in window.faults)
        window.faults.clear()

    def test_is_waited_for_in_sight_and_a_later_question_wins(self, opened, index, monkeypatch):
        window, go, search = opened(), threading.Event(), index.search

        def slow(paragraph: str, *, top: int = 10) -> Any:
            if paragraph == "Slow.":
                assert go.wait(20)
            return search(paragraph, top=top)

        monkeypatch.setattr(index, "search", slow)
        page = window.page
        page.locator("#paragraph").fill("Slow.")
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("status").first).to_have_text("Searching 13 videos…")
        expect(page.locator("#status")).to_have_class("busy")
        page.route("**/search", lambda route: None)  # on its way for ever
        page.locator("#paragraph").fill("Slower.")
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(100)
        expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
        page.unroute("**/search")
        window.search("Fast.")
        go.set()
        page.wait_for_timeout(100)
        expect(page.locator("#sentences li")).to_have_text(["1Fast."])
        expect(page.locator("#answer")).not_to_have_attribute("aria-busy", "true")


class TestTheLooks:
    @pytest.mark.parametrize("width", [390, 1280])
    def test_fit_the_width(self, opened, width):
        window = opened(width=width)
        page = window.page
        window.search(f"He opens it. {LONG * 3}. " + "He eats and drinks. " * 9)
        page.locator("#unknown").evaluate("(note, text) => { note.textContent = text }", LONG * 2)
        window.card("plain").get_by_role("button", name="Score map").click()
        expect(page.get_by_role("img").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.scrollWidth") <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_are_legible_by_day_and_by_night(self, opened, scheme):
        window = opened(scheme=scheme)
        window.search("He eats. " * 8)
        pairs = json.loads(window.page.evaluate(CONTRASTS))
        night = pairs["body"] < 60
        assert night == (scheme == "dark")
        assert len(pairs["ratios"]) > 20
        assert {name: ratio for name, ratio in pairs["ratios"].items() if ratio < 4.5} == {}


# The contrast ratio (WCAG 2) of each text with what lies behind it, and how light the page is.
CONTRASTS = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if (found.startsWith("rgb") && (rgb(found)[3] ?? 1) === 1) return found;
    }
    return "rgb(255, 255, 255)";
  };
  const ratios = {};
  const kinds = "h1, h2, h3, label, button:not(.bar), kbd, #hint, .chip, .sentence, .time, .fit," +
    " .rank, .link, .fault, dt, dd, #status, .scale span";
  for (const element of document.querySelectorAll(kinds)) {
    if (!element.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const name = `${element.localName}.${element.className} ${element.textContent}`;
    ratios[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return JSON.stringify({ ratios, body: rgb(getComputedStyle(document.body).backgroundColor)[0] });
})()"""
