"""The page as text: nothing is fetched, and it needs no library."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mars_dist.report.figures import codebook, curve_figure, measures, paragraphs
from mars_dist.report.listen import grids, ladders
from mars_dist.report.media import Codec
from mars_dist.report.parts import Model, Report

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text() for name in ("style.css", "script.js"))
LIMIT = 20 * 2**20
"""Bytes of a page."""


def fitting(report: Report, limit: int = LIMIT) -> str:
    """The page within so many bytes.

    Sounds are lossless where they fit, else Ogg Vorbis; of notes that are too many even then the last ones are left
    out, and the page says so.
    """
    page = render(report, "flac")
    if len(page.encode()) > limit:
        page = render(report, "ogg")
    num_notes = len(report.ladders)
    while num_notes and (size := len(page.encode())) > limit:
        num_notes = min(num_notes - 1, num_notes * limit // size)
        page = render(report, "ogg", num_notes)
    return page


def render(report: Report, codec: Codec = "flac", num_notes: int | None = None) -> str:
    """The page as text, with the first `num_notes` notes, or with all."""
    num_notes = len(report.ladders) if num_notes is None else num_notes
    sections = [
        section("Listen", ladders(report, codec, num_notes)) if report.ladders else "",
        section("New notes", grids(report, codec)) if report.grids else "",
        section("Measures", measures(report)) if report.table else "",
        *(section(heading_of(model, report.models), about(model)) for model in report.models),
    ]
    return document(report.title, report.description, report.notice, sections)


def document(title: str, description: Sequence[str], notice: str, sections: Sequence[str]) -> str:
    """A page of sections, with the style and the keys of all pages."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{paragraphs(description)}
{f'<p class="notice" role="note">{escape(notice)}</p>' if notice else ""}
</header>
<main>
{"".join(sections)}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def section(heading: str, body: str) -> str:
    anchor, heading = escape(heading.lower().replace(" ", "-")), escape(heading)
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{heading}</h2>\n{body}</section>\n'


def heading_of(model: Model, models: Sequence[Model]) -> str:
    return "The model" if len(models) == 1 else f"The model {model.name}"


def about(model: Model) -> str:
    """What a model was trained on and with, how its training went, and how it uses its codebook."""
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in model.facts.items())
    settings = json.dumps(model.settings, indent=2, default=str, ensure_ascii=False)
    return (
        (f'<dl class="lines">{facts}</dl>' if facts else "")
        + "".join(curve_figure(curve) for curve in model.curves)
        + (f"<h3>Codebook</h3>{codebook(model)}" if model.codebook else "")
        + (f"<details><summary>Settings</summary><pre>{escape(settings)}</pre></details>" if model.settings else "")
    )
