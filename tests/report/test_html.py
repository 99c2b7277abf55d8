"""The page: whole, safe and readable without the network."""

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mars_dist.metrics.summary import Estimate
from mars_dist.report.html import fitting, render
from mars_dist.report.media import PICTURE_HEIGHT, sound
from mars_dist.report.parts import LINES, Curve, Grid, Ladder, Model, Report, Row, Rung, ScaleUse

RATE = 16_000
LADDER = ("original", "griffin_lim", "reconstruction", "sample")
VOID = {"meta", "link", "img", "line", "polyline", "image"}
LOSSES = {"train": ([0, 10, 20], [3.0, 0.5, 0.05]), "valid": ([0, 20], [3.0, float("nan")])}
NASTY = "<script>alert(\"x\")</script> & 'more'"


class Page(HTMLParser):
    """Every start tag with its attributes, and whether the tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def rung(line: str, seed: int) -> Rung:
    rng = np.random.default_rng(seed)
    return Rung(line, rng.uniform(-1, 1, 4000).astype(np.float32), rng.uniform(-1, 1, (64, 16)), f"pitch {seed}")


@pytest.fixture(scope="module")
def full() -> Report:
    return Report(
        title="A page",
        description=["One line.", "Another."],
        sample_rate=RATE,
        notice="rendered from a soundfont, not NSynth",
        ladders=[
            Ladder(f"note {i}", {"pitch": str(60 + i)}, [rung(line, 10 * i + j) for j, line in enumerate(LADDER)])
            for i in range(3)
        ],
        table=[
            Row(
                "MSE",
                "valid",
                "lower is better",
                "mean of (a - b)^2",
                {"real": None, "sample": Estimate(0.01234, 57, (0.011, 0.0139))},
            ),
            Row(
                "Accuracy", "valid", "higher is better", "share of notes", {"sample": Estimate(0.875, 58, (0.81, 0.93))}
            ),
        ],
        table_notes=["Rests on a classifier."],
        models=[
            Model(
                "tiny",
                facts={"Parameters": "2 M"},
                curves=[Curve("Loss", "step", LOSSES)],
                codebook=[ScaleUse("1x1", 0.25, 12.3), ScaleUse("8x8", 1.0, 801.5, 2.3456)],
                codebook_size=1024,
                settings={"width": 192, "path": Path("runs/tok")},
            )
        ],
    )


@pytest.fixture(scope="module")
def page(full: Report) -> Page:
    return Page(render(full))


def data(uri: str | None, media_type: str) -> io.BytesIO:
    assert uri is not None
    head, _, body = uri.partition(",")
    assert head == f"data:{media_type};base64"
    return io.BytesIO(base64.b64decode(body))


def test_the_page_fetches_nothing(full: Report, page: Page) -> None:
    sources = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "data", "action") if name in a]
    assert len(sources) == 3 * 4 * 2 + 2
    assert all(source is not None and source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|url\(|@import", render(full))


def test_every_ladder_has_a_player_and_a_picture_for_each_line(page: Page) -> None:
    headings = [LINES[line][0] for line in LADDER]
    titles = Counter(f"{heading}, note {i}" for i in range(3) for heading in headings)
    assert Counter(audio["aria-label"] for audio in page.all("audio")) == titles
    assert all("controls" in audio for audio in page.all("audio"))
    assert Counter((image["alt"] or "").removeprefix("Spectrogram: ") for image in page.all("img")) == titles


def test_players_hold_the_same_samples(full: Report, page: Page) -> None:
    rungs = [rung for ladder in full.ladders for rung in ladder.rungs]
    for audio, version in zip(page.all("audio"), rungs, strict=True):
        samples_T, rate = soundfile.read(data(audio["src"], "audio/flac"), dtype="int16")
        expected_T = np.clip(np.round(version.wave_T.astype(np.float64) * 32768), -32768, 32767)
        assert rate == RATE
        assert np.array_equal(samples_T, expected_T)


def test_too_loud_is_clipped_and_not_wrapped() -> None:
    loud = Rung("sample", np.array([1.5, -1.5, 1.0] * 100), np.zeros((64, 16)))
    audio = Page(render(Report("t", [], RATE, ladders=[Ladder("n", {}, [loud])]))).all("audio")[0]
    samples_T, _ = soundfile.read(data(audio["src"], "audio/flac"), dtype="int16")
    assert samples_T[:3].tolist() == [32767, -32768, 32767]


def test_low_frequencies_lie_at_the_bottom_and_loud_is_bright() -> None:
    picture_FN = -np.ones((512, 256))
    picture_FN[64] = 1  # 1 kHz
    loud = Rung("sample", np.zeros(64_000), picture_FN)
    image = Page(render(Report("t", [], RATE, ladders=[Ladder("n", {}, [loud])]))).all("img")[0]
    pixels = np.asarray(Image.open(data(image["src"], "image/png")).convert("RGB")).sum(-1)
    share_from_below = 1 - pixels[:, 0].argmax() / PICTURE_HEIGHT
    assert share_from_below == pytest.approx(np.log10(1 + 1000 / 700) / np.log10(1 + 8000 / 700), abs=0.02)
    assert pixels[0].max() == pixels[-1].max() < 30 < 500 < pixels.max()


def test_estimates_stand_with_interval_and_n(full: Report) -> None:
    text = render(full)
    assert "<td>0.0123<small>0.0110 to 0.0139</small><small>n = 57</small></td>" in text
    assert "<td>0.875<small>0.810 to 0.930</small><small>n = 58</small></td>" in text
    # Neither row has a Griffin-Lim column; two cells of the "Real" column are empty.
    assert text.count("not measured") == 2
    for row in full.table:
        assert row.formula in text
    assert "An interval says what other instruments, or (instrument, pitch) pairs, would give" in text


def test_what_rounds_to_nothing_has_no_sign() -> None:
    """As a kernel distance of notes of one kind may."""
    row = Row("PKID", "valid", "", "", {"real": Estimate(-4e-6, 57, (-0.0012, 0.0011))})
    assert "<td>0.00000<small>-0.00120 to 0.00110</small>" in render(Report("t", [], RATE, table=[row]))


def test_every_line_is_explained_once(full: Report) -> None:
    text = render(full)
    for line in (*LADDER, "real"):
        assert text.count(LINES[line][1].split("'")[0]) == 1
    assert LINES["nearest_training_note"][1] not in text


def test_a_line_of_the_callers_own_goes_by_its_name() -> None:
    row = Row("MSE", "", "", "", {"sample of run b": Estimate(1.0, 2, (1.0, 1.0))})
    assert '<th scope="col">sample of run b</th>' in render(Report("t", [], RATE, table=[row]))


def test_all_text_is_escaped() -> None:
    nasty = Report(
        title=NASTY,
        description=[NASTY],
        sample_rate=RATE,
        notice=NASTY,
        ladders=[Ladder(NASTY, {NASTY: NASTY}, [Rung(NASTY, np.zeros(100), np.zeros((64, 16)), NASTY)])],
        table=[Row(NASTY, NASTY, NASTY, NASTY, {NASTY: None})],
        grids=[Grid(NASTY, [NASTY], {NASTY: [Rung(NASTY, np.zeros(100), np.zeros((64, 16)), NASTY)]})],
        table_notes=[NASTY],
        models=[
            Model(
                NASTY,
                {NASTY: NASTY},
                [Curve(NASTY, NASTY, {NASTY: ([0, 1], [1.0, 2.0])})],
                [ScaleUse(NASTY, 0.5, 2.0)],
                settings={NASTY: NASTY},
            )
        ]
        * 2,
        lines={},
    )
    text = render(nasty)
    assert len(Page(text).all("script")) == 1
    assert "alert(&quot;x&quot;)" in text
    assert 'alert("x")' not in text


def test_curves_draw_finite_points_inside_the_frame(page: Page) -> None:
    points = [(line["points"] or "").split() for line in page.all("polyline")]
    assert [len(line) for line in points] == [3, 2] and len(set(points[1])) == 1, "one point is a dot"
    corners = np.array([[float(x) for x in point.split(",")] for point in points[0]])
    assert np.array_equal(np.sort(corners[:, 0]), corners[:, 0])
    assert np.array_equal(np.sort(corners[:, 1]), corners[:, 1])  # a falling loss falls: y grows downwards
    assert corners.min() >= 0
    assert corners[:, 0].max() <= 480
    assert corners[:, 1].max() <= 250


def test_as_many_scales_as_a_schedule_may_have_are_told_apart() -> None:
    series = {str(i): ([0.0, 1.0], [1.0, float(i)]) for i in range(13)}
    page = Page(render(Report("t", [], RATE, models=[Model("m", {}, [Curve("By scale", "step", series)])])))
    drawn, legend = ([a["class"] for a in page.all(tag)] for tag in ("polyline", "li"))
    assert len(set(drawn)) == 13 and drawn == legend


@pytest.mark.parametrize("series", [{"train": ([], [])}, {"train": ([0, 1], [float("nan")] * 2)}])
def test_a_curve_without_a_value_is_left_out(series: dict[str, tuple[list[float], list[float]]]) -> None:
    model = Model("m", {}, [Curve("Loss", "step", series)])
    assert not Page(render(Report("t", [], RATE, models=[model]))).all("svg")


def test_a_training_that_ended_before_its_first_line_has_the_other_curve() -> None:
    series = {"train": ([], []), "valid": ([50.0], [2.0])}
    text = render(Report("t", [], RATE, models=[Model("m", {}, [Curve("Loss", "step", series)])]))
    assert len(Page(text).all("polyline")) == 1 and "valid <b>2</b>" in text


def test_empty_parts_are_left_out() -> None:
    bare = Page(render(Report("t", [], RATE)))
    assert not bare.all("section")
    assert not bare.all("details")


def test_a_measure_of_two_splits_is_explained_once() -> None:
    cells = {"real": Estimate(1.0, 2, (1.0, 1.0))}
    table = [Row("MSE", split, "", "squared", cells) for split in ("valid", "test")]
    text = render(Report("t", [], RATE, table=table))
    assert text.count("squared") == 1 and "MSE (valid)" in text and "MSE (test)" in text


def test_a_scale_shows_its_codes_and_how_well_they_are_foretold(full: Report) -> None:
    text = render(full)
    assert "\u200725.0&#8239;%</td><td>12.3</td><td></td>" in text
    assert "100.0&#8239;%</td><td>801.5</td><td>2.35</td>" in text


def test_a_tokenizer_alone_foretells_nothing_and_makes_nothing_new(full: Report) -> None:
    ladder = Ladder("note", {}, [rung(line, i) for i, line in enumerate(LADDER[:3])])
    alone = replace(full.models[0], codebook=[ScaleUse("1x1", 0.25, 12.3)])
    text = render(Report("t", [], RATE, ladders=[ladder], models=[alone]))
    assert "hands on it. Where" in text and "12.3</td></tr>" in text and "ross-entropy" not in text
    told = render(full)
    assert "hands on it; a sample is new, made to the same order. Where" in told and "Cross-entropy</th>" in told
    assert "left to right, model after model one more" in render(replace(full, models=2 * full.models))


def test_two_models_are_told_apart(full: Report) -> None:
    text = render(Report("t", [], RATE, models=[Model("a", {"Steps": "1"}), Model("b", {"Steps": "2"})]))
    assert '<h2 id="the-model-a">The model a</h2>' in text and '<h2 id="the-model-b">The model b</h2>' in text
    assert "<h2" in render(full) and "The model tiny" not in render(full)


def test_a_grid_has_a_button_for_each_note_and_none_where_there_is_none() -> None:
    grid = Grid("By family", ["48", "60"], {"brass": [rung("sample", 1), None], "flute": [None, rung("sample", 2)]})
    page = Page(render(Report("t", [], RATE, grids=[grid])))
    assert [button["aria-label"] for button in page.all("button")] == ["Play brass, 48", "Play flute, 60"]
    assert len(page.all("audio")) == len(page.all("img")) == 2
    assert all("controls" not in audio for audio in page.all("audio"))


def test_sounds_are_lossless_where_the_page_stays_below_the_limit(full: Report) -> None:
    lossless = render(full)
    text = fitting(full, len(lossless.encode()))
    page = Page(text)
    assert text == lossless and all((audio["src"] or "").startswith("data:audio/flac") for audio in page.all("audio"))


def test_a_larger_page_has_ogg_sounds_that_are_nearly_the_same() -> None:
    seconds = np.arange(4 * RATE) / RATE
    tone = Rung("sample", 0.5 * np.sin(2 * np.pi * 440 * seconds), np.zeros((64, 16)))
    report = Report("t", [], RATE, ladders=[Ladder("n", {}, [tone])])
    lossless = len(render(report).encode())
    text = fitting(report, lossless - 1)
    wave_T, rate = soundfile.read(data(Page(text).all("audio")[0]["src"], "audio/ogg"))
    assert len(text.encode()) < lossless and rate == RATE and len(wave_T) == 4 * RATE
    assert np.abs(wave_T - tone.wave_T).mean() < 0.02


def test_a_long_sound_is_written_piece_by_piece() -> None:
    """Of millions of samples at once libsndfile's Vorbis encoder dies, and the process with it."""
    wave_T = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2**22) / 44_100)
    read_T, rate = soundfile.read(data(sound(wave_T, 44_100, "ogg"), "audio/ogg"))
    assert rate == 44_100 and len(read_T) == len(wave_T) and np.abs(read_T - wave_T).mean() < 0.02


def test_notes_that_do_not_fit_are_left_out_and_the_page_says_so(full: Report) -> None:
    limit = len(render(full, "ogg", 1).encode()) + 100
    text = fitting(full, limit)
    assert len(text.encode()) <= limit and len(Page(text).all("article")) == 1
    assert "2 more notes were left out" in text
    assert "left out, to keep" not in render(full)
