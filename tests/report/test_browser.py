"""The page as a person uses it: in a real browser, at two widths, with mouse and keyboard."""

from collections.abc import Iterator

import numpy as np
import pytest

from mars_dist.report.html import fitting
from mars_dist.report.parts import Curve, Grid, Ladder, Model, Report, Rung

from .chromium import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
RATE = 16_000
PLAYING = "[...document.querySelectorAll('audio')].flatMap((a, i) => a.paused ? [] : [i])"
WIDE, NARROW = 1280, 390
LONG = "steinway_model_d_close_microphones_pedal_down_round_robin_two_fortissimo_take_3"
OUTSIDE = """(frames, texts) => [...document.querySelectorAll(frames)].flatMap(frame => {
  const outer = frame.getBoundingClientRect()
  return [...frame.querySelectorAll(texts)].filter(text => {
    const inner = document.createRange()
    inner.selectNodeContents(text)
    const box = inner.getBoundingClientRect()
    return box.left < outer.left || box.right > outer.right
  }).map(text => text.textContent)
})"""


def rung(line: str, hertz: float) -> Rung:
    seconds = np.arange(4 * RATE) / RATE
    return Rung(line, 0.3 * np.sin(2 * np.pi * hertz * seconds), np.full((64, 16), -1.0), "pitch 60")


@pytest.fixture(scope="module", params=[WIDE, NARROW])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Two notes of three versions each, a grid of two, and what a training left; with names as users give them."""
    folder = tmp_path_factory.mktemp("page")
    lines = ("original", "reconstruction", f"sample, {LONG}")
    notes = [
        Ladder(f"{LONG}_{i}", {"instrument": LONG}, [rung(line, 220 * (i + 1)) for line in lines]) for i in range(2)
    ]
    grid = Grid("By family", ["48", "60"], {"brass": [rung("sample", 300), rung("sample", 400)]})
    curves = [Curve("loss", "step", {LONG: ([10, end], [0.0002, 0.00018])}) for end in (2400, 100_000)]
    model = Model("m", {"Trained on": LONG}, curves)
    report = Report(LONG, [LONG], RATE, LONG, ladders=notes, grids=[grid], models=[model])
    (folder / "report.html").write_text(fitting(report))
    with Page(folder / "report.html", request.param, folder / "profile") as page:
        yield page


@pytest.fixture(autouse=True)
def silence(page: Page) -> None:
    page.js("document.querySelectorAll('audio').forEach(a => a.pause())")


def test_a_click_on_a_picture_of_the_grid_plays_it_and_another_stops_it(page: Page) -> None:
    page.click(".grid td:nth-of-type(1) button")
    page.until(f"String({PLAYING}) === '6'")
    page.until("document.querySelectorAll('audio')[6].currentTime > 0")
    page.until("document.querySelectorAll('button.playing').length === 1")
    page.click(".grid td:nth-of-type(2) button")
    page.until(f"String({PLAYING}) === '7'")
    page.click(".grid td:nth-of-type(2) button")
    page.until(f"String({PLAYING}) === ''")
    page.until("document.querySelectorAll('button.playing').length === 0")


def test_keys_go_from_note_to_note_and_play_their_versions(page: Page) -> None:
    page.js("document.activeElement.blur()")
    for keys, playing in (("k2", "1"), ("j3", "5"), ("1", "3"), ("k1", "0")):
        for key in keys:
            page.press(key)
        page.until(f"String({PLAYING}) === '{playing}'")
    page.press("0")
    page.until(f"String({PLAYING}) === ''")


def test_a_player_plays_the_sound_that_was_written(page: Page) -> None:
    page.js("document.querySelectorAll('audio')[0].play()")
    page.until("document.querySelectorAll('audio')[0].currentTime > 0")
    assert page.js("document.querySelectorAll('audio')[0].duration") == pytest.approx(4, abs=0.05)


def test_nothing_runs_out_of_the_page(page: Page) -> None:
    assert page.js("document.documentElement.scrollWidth") <= page.js("window.innerWidth")


@pytest.mark.parametrize(
    ("frames", "texts"), [(".curve svg", "text"), (".rungs figure", "figcaption"), (".ladder", "h3, .labels li")]
)
def test_all_text_can_be_read(page: Page, frames: str, texts: str) -> None:
    """None is cut off at the edge of its plot, or lies over its neighbour."""
    assert page.js(f"({OUTSIDE})({frames!r}, {texts!r})") == []
