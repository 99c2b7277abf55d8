"""The notes to listen to: ladders of the same note, and grids of new ones."""

from html import escape

from matplotlib.ticker import MaxNLocator

from mars_dist.report.figures import explain_lines
from mars_dist.report.media import PICTURE_HEIGHT, PICTURE_WIDTH, Codec, mel, png, sound
from mars_dist.report.parts import Grid, Ladder, Report, Rung

KHZ_TICKS = (0.5, 1, 2, 4, 8)
THUMBNAIL = 96
"""Pixels in width of a grid's pictures."""


def ladders(report: Report, codec: Codec, num_notes: int) -> str:
    """The first notes, each line by line."""
    shown = report.ladders[:num_notes]
    rungs = [rung for ladder in shown for rung in ladder.rungs]
    left_out = len(report.ladders) - len(shown)
    by_model = ", model after model" if len(report.models) > 1 else ""
    new = "; a sample is new, made to the same order" if any(rung.line.startswith("sample") for rung in rungs) else ""
    return (
        f"<p>Each row is one note. From left to right{by_model} one more part of the system has had its hands on "
        f"it{new}. Where it stops sounding right is where to look. Below the name of each stands the MIDI pitch "
        "that autocorrelation hears, which is not always the right one. "
        "On a keyboard, <kbd>J</kbd> and <kbd>K</kbd> go to the next and to the previous note, <kbd>1</kbd> to "
        "<kbd>9</kbd> play its versions, and <kbd>0</kbd> stops.</p>"
        + explain_lines(report, [rung.line for rung in rungs])
        + (legend(rungs[0], report.sample_rate) if rungs else "")
        + "".join(one_ladder(report, ladder, codec) for ladder in shown)
        + (f'<p class="left-out">{left_out} more notes were left out, to keep the page small.</p>' if left_out else "")
    )


def one_ladder(report: Report, ladder: Ladder, codec: Codec) -> str:
    labels = "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in ladder.labels.items())
    rungs = "".join(figure(report, ladder, rung, codec) for rung in ladder.rungs)
    return (
        f'<article class="ladder" tabindex="-1"><h3>{escape(ladder.title)}</h3><ul class="labels">{labels}</ul>'
        f'<div class="rungs">{rungs}</div></article>\n'
    )


def figure(report: Report, ladder: Ladder, rung: Rung, codec: Codec) -> str:
    name = escape(report.heading(rung.line))
    title = f"{name}, {escape(ladder.title)}"
    caption = f'<span class="caption">{escape(rung.caption)}</span>' if rung.caption else ""
    # preload="none": browsers refuse more than some dozens of loaded players on a page.
    return (
        f'<figure><figcaption><span class="line">{name}</span>{caption}</figcaption>'
        f'<img src="{png(rung.picture_FN, report.sample_rate)}" width="{PICTURE_WIDTH}" height="{PICTURE_HEIGHT}" '
        f'alt="Spectrogram: {title}">'
        f'<audio controls preload="none" src="{sound(rung.wave_T, report.sample_rate, codec)}" aria-label="{title}">'
        "</audio></figure>"
    )


def grids(report: Report, codec: Codec) -> str:
    """New notes of each model, and what they are."""
    return (
        "<p>Notes that the model made up, with no held-out note to go by: of each family, at pitches that training had "
        "of it. Press a picture to hear it. Below stands the pitch that is heard.</p>"
        + "".join(grid(report, one, codec) for one in report.grids)
    )


def grid(report: Report, grid: Grid, codec: Codec) -> str:
    """A table of new notes, each a picture to press."""
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in grid.columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            grid_cell(report, rung, f"{name}, {column}", codec)
            for rung, column in zip(rungs, grid.columns, strict=True)
        )
        + "</tr>"
        for name, rungs in grid.rows.items()
    )
    return (
        f"<h3>{escape(grid.heading)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(grid.heading)}">'
        f'<table class="grid"><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div>\n'
    )


def grid_cell(report: Report, rung: Rung | None, title: str, codec: Codec) -> str:
    if rung is None:
        return "<td></td>"
    return (
        f'<td><button type="button" aria-label="Play {escape(title)}">'
        f'<img src="{png(rung.picture_FN, report.sample_rate, THUMBNAIL)}" alt="" width="{THUMBNAIL}" '
        f'height="{PICTURE_HEIGHT * THUMBNAIL // PICTURE_WIDTH}"></button>'
        f'<audio preload="none" src="{sound(rung.wave_T, report.sample_rate, codec)}"></audio>'
        f"<small>{escape(rung.caption)}</small></td>"
    )


def legend(rung: Rung, sample_rate: int) -> str:
    """How to read a picture: the first one again, with its axes."""
    width, height, left, top = 300, 180, 44, 8
    y_ticks = "".join(
        f'<text x="{left - 6}" y="{top + height * (1 - share) + 4:.1f}" class="y">{khz:g}</text>'
        for khz in KHZ_TICKS
        if (share := mel(1000 * khz) / mel(sample_rate / 2)) <= 1
    )
    seconds = len(rung.wave_T) / sample_rate
    x_ticks = "".join(
        f'<text x="{left + width * second / seconds:.1f}" y="{top + height + 18}" class="x">{second:g}</text>'
        for second in MaxNLocator(4).tick_values(0, seconds)
        if 0 <= second <= seconds
    )
    return f"""<figure class="legend">
<svg viewBox="0 0 {left + width + 12} {top + height + 40}" role="img" aria-label="A spectrogram with its axes">
<image href="{png(rung.picture_FN, sample_rate)}" x="{left}" y="{top}" width="{width}" height="{height}"
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
