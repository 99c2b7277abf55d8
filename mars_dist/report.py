"""One self-contained HTML page: players and pictures of the same note side by side, measures, curves, settings.

Nothing is fetched: sounds are FLAC and pictures PNG within the page, and the page needs no library.
Suffixes: T samples, F frequency bins, N frames.
"""

import base64
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from matplotlib import colormaps
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from mars_dist.metrics.summary import Estimate

LINES = {
    "original": ("Original", "The note from the data set, untouched."),
    "real": ("Real", "The notes from the data set themselves: what a measure says of the real thing."),
    "griffin_lim": (
        "Resynthesis",
        "The original's own picture turned back into sound. A picture holds no phase, so the phase is estimated; "
        "this is the ceiling for every picture that is turned into sound in this way.",
    ),
    "reconstruction": (
        "Reconstruction",
        "The note squeezed by the tokenizer into a few hundred codes and unpacked again: about the "
        "best that a sample made of such codes can be.",
    ),
    "sample": ("Sample", "A new note that the model made up, given only the pitch and the kind of instrument."),
    "nearest_training_note": (
        "Nearest training note",
        "The training note most like each sample, turned into sound as the sample is: "
        "what a model would score that only remembers its training.",
    ),
}
"""Name of a line -> its heading and what it is, in plain words."""

STYLE = Path(__file__).with_name("report.css").read_text()
# One player at a time.
SCRIPT = """
document.addEventListener("play", event => {
  for (const audio of document.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
}, true);
"""

PICTURE_WIDTH, PICTURE_HEIGHT = 256, 160
COLOURS = 64
KHZ_TICKS = (0.5, 1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """A measure: one cell a line, None where the line has no such number."""

    metric: str
    split: str
    unit: str
    """The unit and which way is better, such as "dB, lower is better"."""
    formula: str
    cells: Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Rung:
    """One version of a ladder's note."""

    line: str
    wave_T: NDArray[np.floating]
    """In [-1, 1]."""
    picture_FN: NDArray[np.floating]
    """Normalised log magnitude: -1 silence, 1 a full-scale sine; the lowest frequency first, the last at Nyquist."""
    caption: str = ""


@dataclass(frozen=True)
class Ladder:
    """The same note, line by line."""

    title: str
    labels: Mapping[str, str]
    rungs: Sequence[Rung]


@dataclass(frozen=True)
class Curve:
    """Values over steps, one or several series in one picture."""

    title: str
    x_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """Name -> (steps, values)."""


@dataclass(frozen=True)
class ScaleUse:
    """How a scale uses the codebook."""

    scale: str
    usage: float
    """Codes that occur, as a share of those that could (of the book, or of the codes counted), in [0, 1]."""
    perplexity: float
    """exp of the entropy of the codes: as if so many were used equally often."""


@dataclass(frozen=True)
class Report:
    """All that the page shows; an empty part is left out."""

    title: str
    description: Sequence[str]
    sample_rate: int
    notice: str = ""
    """What a reader must know before any number, such as "rendered from a soundfont, not NSynth"."""
    ladders: Sequence[Ladder] = ()
    table: Sequence[Row] = ()
    curves: Sequence[Curve] = ()
    codebook: Sequence[ScaleUse] = ()
    codebook_size: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, tuple[str, str]] = field(default_factory=lambda: LINES)
    """Headings and explanations; a line that is not in here goes by its own name."""


def write(report: Report, path: Path) -> int:
    """Write the page, whole or not at all, and return its size in bytes."""
    page = render(report).encode()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(page)
    unfinished.replace(path)
    return len(page)


def render(report: Report) -> str:
    """The page as text."""
    sections = [
        _section("listen", "Listen", _listen(report)) if report.ladders else "",
        _section("measures", "Measures", _measures(report)) if report.table else "",
        _section("training", "Training", "".join(_curve(curve) for curve in report.curves)) if report.curves else "",
        _section("codebook", "Codebook", _codebook(report)) if report.codebook else "",
    ]
    settings = json.dumps(report.settings, indent=2, default=str, ensure_ascii=False)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(report.title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(report.title)}</h1>
{_paragraphs(report.description)}
{f'<p class="notice" role="note">{escape(report.notice)}</p>' if report.notice else ""}
</header>
<main>
{"".join(sections)}
{f"<details><summary>Settings</summary><pre>{escape(settings)}</pre></details>" if report.settings else ""}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _section(anchor: str, heading: str, body: str) -> str:
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{heading}</h2>\n{body}</section>\n'


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def _heading(report: Report, line: str) -> str:
    return escape(report.lines[line][0] if line in report.lines else line)


def _explain_lines(report: Report, used: Iterable[str]) -> str:
    """What each line is, once, in the order of first use."""
    known = [line for line in dict.fromkeys(used) if line in report.lines]
    items = "".join(f"<div><dt>{_heading(report, k)}</dt><dd>{escape(report.lines[k][1])}</dd></div>" for k in known)
    return f'<dl class="lines">{items}</dl>'


# ---------------------------------------------------------------------------------------------------------- ladders


def _listen(report: Report) -> str:
    rungs = [rung for ladder in report.ladders for rung in ladder.rungs]
    return (
        "<p>Each row is one note. From left to right one more part of the system has had its hands on it; "
        "the last is new, made to the same order. Where it stops sounding right is where to look.</p>"
        + _explain_lines(report, (rung.line for rung in rungs))
        + _legend(rungs[0], report.sample_rate)
        + "".join(_ladder(report, ladder) for ladder in report.ladders)
    )


def _ladder(report: Report, ladder: Ladder) -> str:
    labels = "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in ladder.labels.items())
    rungs = "".join(_rung(report, ladder, rung) for rung in ladder.rungs)
    return (
        f'<article class="ladder"><h3>{escape(ladder.title)}</h3><ul class="labels">{labels}</ul>'
        f'<div class="rungs">{rungs}</div></article>\n'
    )


def _rung(report: Report, ladder: Ladder, rung: Rung) -> str:
    name = _heading(report, rung.line)
    title = f"{name}, {escape(ladder.title)}"
    caption = f'<span class="caption">{escape(rung.caption)}</span>' if rung.caption else ""
    # preload="none": browsers refuse more than some dozens of loaded players on a page.
    return (
        f'<figure><figcaption><span class="line">{name}</span>{caption}</figcaption>'
        f'<img src="{_png(rung.picture_FN, report.sample_rate)}" width="{PICTURE_WIDTH}" height="{PICTURE_HEIGHT}" '
        f'alt="Spectrogram: {title}">'
        f'<audio controls preload="none" src="{_flac(rung.wave_T, report.sample_rate)}" aria-label="{title}"></audio>'
        "</figure>"
    )


def _legend(rung: Rung, sample_rate: int) -> str:
    """How to read a picture: the first one again, with its axes."""
    width, height, left, top = 300, 180, 44, 8
    y_ticks = "".join(
        f'<text x="{left - 6}" y="{top + height * (1 - share) + 4:.1f}" class="y">{khz:g}</text>'
        for khz in KHZ_TICKS
        if (share := _mel(1000 * khz) / _mel(sample_rate / 2)) <= 1
    )
    seconds = len(rung.wave_T) / sample_rate
    x_ticks = "".join(
        f'<text x="{left + width * second / seconds:.1f}" y="{top + height + 18}" class="x">{second:g}</text>'
        for second in MaxNLocator(4).tick_values(0, seconds)
        if 0 <= second <= seconds
    )
    return f"""<figure class="legend">
<svg viewBox="0 0 {left + width + 12} {top + height + 40}" role="img" aria-label="A spectrogram with its axes">
<image href="{_png(rung.picture_FN, sample_rate)}" x="{left}" y="{top}" width="{width}" height="{height}"
 preserveAspectRatio="none"/>
{y_ticks}{x_ticks}
<text x="{left + width / 2}" y="{top + height + 36}" class="x">time, seconds</text>
<text transform="translate(11 {top + height / 2}) rotate(-90)" class="x">frequency, kHz</text>
</svg>
<figcaption>How to read the pictures: time runs from left to right, pitch from bottom to top, and the brighter, the
louder. Mostly the lowest bright line is the note, and those above it are the harmonics that make its timbre;
noise is a haze between them. Frequencies are spaced as the ear hears them (mel scale). All pictures share these axes
and one scale of brightness, from silence to a full-scale tone.</figcaption>
</figure>
"""


def _mel(hertz: float | NDArray[np.floating]) -> Any:
    return np.log10(1 + np.asarray(hertz) / 700)


def _png(picture_FN: NDArray[np.floating], sample_rate: int) -> str:
    """The picture as a data URI: mel-spaced, low frequencies at the bottom, magma."""
    num_bins, num_frames = picture_FN.shape
    top_mel = _mel(sample_rate / 2)
    edge_hertz = 700 * (10 ** np.linspace(top_mel, 0, PICTURE_HEIGHT + 1) - 1)
    edges = edge_hertz / (sample_rate / 2) * num_bins
    # A row shows the loudest bin that it spans, so that no harmonic falls between two rows.
    rows = [
        picture_FN[min(int(low), num_bins - 1) : max(int(low) + 1, math.ceil(high))].max(0)
        for high, low in pairwise(edges)
    ]
    columns = np.linspace(0, num_frames - 1, PICTURE_WIDTH).round().astype(int)
    level = (np.clip(np.stack(rows)[:, columns], -1, 1) + 1) / 2
    image = Image.fromarray((level * (COLOURS - 1)).round().astype(np.uint8), mode="P")
    image.putpalette((colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3] * 255).astype(np.uint8).tobytes())
    return _data_uri("image/png", lambda file: image.save(file, format="PNG", optimize=True))


def _flac(wave_T: NDArray[np.floating], sample_rate: int) -> str:
    samples_T = np.clip(np.round(np.asarray(wave_T, dtype=np.float64) * 32768), -32768, 32767).astype(np.int16)
    return _data_uri("audio/flac", lambda file: soundfile.write(file, samples_T, sample_rate, format="FLAC"))


def _data_uri(media_type: str, save: Any) -> str:
    file = io.BytesIO()
    save(file)
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"


# ------------------------------------------------------------------------------------------------- tables and curves


def _measures(report: Report) -> str:
    used = list(dict.fromkeys(line for row in report.table for line in row.cells))
    heard = {rung.line for ladder in report.ladders for rung in ladder.rungs}
    heads = "".join(f'<th scope="col">{_heading(report, line)}</th>' for line in used)
    body = "".join(
        f'<tr><th scope="row">{escape(row.metric)} ({escape(row.split)})<small>{escape(row.unit)}</small></th>'
        + "".join(_cell(row.cells.get(line)) for line in used)
        + "</tr>"
        for row in report.table
    )
    formulas = "".join(
        f"<div><dt>{escape(metric)}</dt><dd>{escape(formula)}</dd></div>"
        for metric, formula in {row.metric: row.formula for row in report.table}.items()
    )
    return (
        "<p>Every line is measured in the same way, so that a number can be read against its neighbours: "
        "a sample need not beat what the reconstruction or the resynthesis does not reach. Under each value stand "
        "its 95&#8239;% bootstrap interval and the number of notes it rests on.</p>"
        f"{_explain_lines(report, (line for line in used if line not in heard))}"
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="measures"><table><thead><tr>'
        f'<th scope="col">Measure</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<h3>How each is computed</h3><dl class="formulas">{formulas}</dl>'
    )


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return '<td><span aria-label="not measured">&ndash;</span></td>'
    low, high = estimate.interval
    digits = _digits(max(abs(low), abs(high), abs(estimate.value)))
    return (
        f"<td>{estimate.value:.{digits}f}<small>{low:.{digits}f} to {high:.{digits}f}</small>"
        f"<small>n = {estimate.n}</small></td>"
    )


def _digits(largest: float) -> int:
    """Digits after the point that leave three significant ones."""
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 0


def _codebook(report: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(use.scale)}</th>'
        f'<td><meter min="0" max="1" value="{use.usage:.4f}" aria-hidden="true"></meter>'
        f" {100 * use.usage:.1f}&#8239;%</td>"
        f"<td>{use.perplexity:.1f}</td></tr>"
        for use in report.codebook
    )
    return (
        f"<p>A note is written as codes out of a book of {report.codebook_size}, on grids from coarse to fine. "
        "Codes in use are a share of all that could occur: of the book, or of the codes counted where these are fewer. "
        "Perplexity says as how many equally frequent codes that counts. A scale that uses a handful of codes has "
        "collapsed.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="codebook"><table class="narrow"><thead><tr>'
        '<th scope="col">Scale</th><th scope="col">Codes in use</th><th scope="col">Perplexity</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _curve(curve: Curve) -> str:
    """Axes, a line a series, and a legend. Values that span more than a factor of 20 get a logarithmic axis."""
    left, right, top, bottom = 58, 468, 10, 206
    steps = np.concatenate([np.asarray(x, dtype=float) for x, _ in curve.series.values()])
    values = np.concatenate([np.asarray(y, dtype=float) for _, y in curve.series.values()])
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    logarithmic = values.min() > 0 and values.max() > 20 * values.min()
    scale = np.log10 if logarithmic else np.asarray
    y_low, y_high = scale(values.min()), scale(values.max())
    y_span, x_span = (y_high - y_low) or 1.0, (steps.max() - steps.min()) or 1.0

    def x_of(step: Any) -> Any:
        return left + (step - steps.min()) / x_span * (right - left)

    def y_of(value: Any) -> Any:
        return bottom - (scale(value) - y_low) / y_span * (bottom - top)

    locator = LogLocator(subs=(1, 2, 5) if y_span < 2 else (1,)) if logarithmic else MaxNLocator(4)
    grid = "".join(
        f'<line x1="{left}" x2="{right}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
        f'<text x="{left - 8}" y="{y_of(tick) + 4:.1f}" class="y">{tick:g}</text>'
        for tick in locator.tick_values(values.min(), values.max())
        if values.min() <= tick <= values.max()
    ) + "".join(
        f'<text x="{x_of(tick):.1f}" y="{bottom + 20}" class="x">{tick:,.0f}</text>'
        for tick in MaxNLocator(4, integer=True).tick_values(steps.min(), steps.max())
        if steps.min() <= tick <= steps.max()
    )
    polylines, legend = "", ""
    for i, (name, (series_steps, series_values)) in enumerate(curve.series.items()):
        points = zip(x_of(np.asarray(series_steps, float)), y_of(np.asarray(series_values, float)), strict=True)
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points if math.isfinite(y))
        polylines += f'<polyline points="{text}" class="series-{i % 5}"/>'
        last = f"{series_values[-1]:.4g}"
        legend += f'<li class="series-{i % 5}">{escape(name)} <b>{last}</b></li>'
    return (
        f'<figure class="curve"><h3>{escape(curve.title)}</h3>'
        f'<svg viewBox="0 0 480 250" role="img" aria-label="{escape(curve.title)} over {escape(curve.x_label)}">'
        f'{grid}{polylines}<text x="{(left + right) / 2}" y="{bottom + 40}" class="x">{escape(curve.x_label)}'
        f"{', logarithmic upwards' if logarithmic else ''}</text></svg>"
        f'<figcaption><ul class="series">{legend}</ul></figcaption></figure>\n'
    )
