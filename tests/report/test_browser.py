"""The page as a person uses it: in a real browser, at two widths, with mouse and keyboard."""

from collections.abc import Iterator

import numpy as np
import pytest

from mars_dist.report.html import fitting
from mars_dist.report.parts import Grid, Ladder, Report, Rung

from .chromium import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
RATE = 16_000
PLAYING = "[...document.querySelectorAll('audio')].flatMap((a, i) => a.paused ? [] : [i])"
WIDE, NARROW = 1280, 390


def rung(line: str, hertz: float) -> Rung:
    seconds = np.arange(4 * RATE) / RATE
    return Rung(line, 0.3 * np.sin(2 * np.pi * hertz * seconds), np.full((64, 16), -1.0), "pitch 60")


@pytest.fixture(scope="module", params=[WIDE, NARROW])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Two notes of three versions each, and a grid of two."""
    folder = tmp_path_factory.mktemp("page")
    lines = ("original", "reconstruction", "sample")
    notes = [Ladder(f"note {i}", {}, [rung(line, 220 * (i + 1)) for line in lines]) for i in range(2)]
    grid = Grid("By family", ["48", "60"], {"brass": [rung("sample", 300), rung("sample", 400)]})
    (folder / "report.html").write_text(fitting(Report("t", [], RATE, ladders=notes, grids=[grid])))
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
