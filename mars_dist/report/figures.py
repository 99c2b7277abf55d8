"""The measures as a table, each scale's use of the codebook, and curves over training."""

import math
from html import escape
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from mars_dist.metrics.summary import Estimate
from mars_dist.report.parts import Curve, Model, Report, ScaleUse

FORETOLD = (
    " The cross-entropy is how badly the transformer foretells a code of the scale on notes that it was not trained "
    "on, in nats: the smaller, the better; a scale at which it is high is where samples go wrong."
)


def measures(report: Report) -> str:
    """The table, with what is measured and how."""
    used = list(dict.fromkeys(line for row in report.table for line in row.cells))
    heard = {rung.line for ladder in report.ladders for rung in ladder.rungs}
    heads = "".join(f'<th scope="col">{escape(report.heading(line))}</th>' for line in used)
    body = "".join(
        f'<tr><th scope="row">{escape(row.metric)} ({escape(row.split)})<small>{escape(row.unit)}</small></th>'
        + "".join(cell(row.cells.get(line)) for line in used)
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
        "its 95&#8239;% interval (Wilson&#8217;s of shares of notes, else a bootstrap&#8217;s) and the number of notes "
        "it rests on. An interval says what other instruments, or (instrument, pitch) pairs, would give: all notes of "
        "one are drawn together, unless there is one alone.</p>"
        f"{paragraphs(report.table_notes)}"
        f"{explain_lines(report, [line for line in used if line not in heard])}"
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="measures"><table><thead><tr>'
        f'<th scope="col">Measure</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<h3>How each is computed</h3><dl class="formulas">{formulas}</dl>'
    )


def cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return '<td><span aria-label="not measured">&ndash;</span></td>'
    low, high = estimate.interval
    digits = significant(max(abs(low), abs(high), abs(estimate.value)))
    return (
        f"<td>{estimate.value:z.{digits}f}<small>{low:z.{digits}f} to {high:z.{digits}f}</small>"
        f"<small>n = {estimate.n}</small></td>"
    )


def significant(largest: float) -> int:
    """Digits after the point that leave three significant ones."""
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 0


def explain_lines(report: Report, used: list[str]) -> str:
    """What each line is, once, in the order of first use."""
    known = [report.lines[line] for line in dict.fromkeys(used) if line in report.lines]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in known)
    return f'<dl class="lines">{items}</dl>'


def codebook(model: Model) -> str:
    """Each scale's use of the codebook."""
    foretold = any(use.cross_entropy is not None for use in model.codebook)
    head = '<th scope="col">Cross-entropy</th>' if foretold else ""

    def nats(use: ScaleUse) -> str:
        text = "" if use.cross_entropy is None else f"{use.cross_entropy:.2f}"
        return f"<td>{text}</td>" if foretold else ""

    rows = "".join(
        f'<tr><th scope="row">{escape(use.scale)}</th>'
        f'<td><meter min="0" max="1" value="{use.usage:.4f}" aria-hidden="true"></meter>'
        f" {100 * use.usage:\u2007>5.1f}&#8239;%</td>"  # as wide as 100.0, or meters stand askew
        f"<td>{use.perplexity:.1f}</td>{nats(use)}</tr>"
        for use in model.codebook
    )
    return (
        f"<p>A note is written as codes out of a book of {model.codebook_size}, on grids from coarse to fine. "
        "Codes in use are a share of all that could occur: of the book, or of the codes counted where these are fewer. "
        "Perplexity says as how many equally frequent codes that counts. A scale above 1x1 that uses a handful of "
        f"codes has collapsed.{FORETOLD if foretold else ''}</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Codebook"><table class="narrow"><thead><tr>'
        '<th scope="col">Scale</th><th scope="col">Codes in use</th><th scope="col">Perplexity</th>'
        f"{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def paragraphs(texts: Any) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def curve_figure(curve: Curve) -> str:
    """Axes, a line a series, and a legend. Values that span more than a factor of 20 get a logarithmic axis."""
    left, right, top, bottom = 76, 450, 10, 206
    all_series = {name: xy for name, xy in curve.series.items() if np.isfinite(np.asarray(xy[1], float)).any()}
    if not all_series:
        return ""
    steps = np.concatenate([np.asarray(x, dtype=float) for x, _ in all_series.values()])
    values = np.concatenate([np.asarray(y, dtype=float) for _, y in all_series.values()])
    values = values[np.isfinite(values)]
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
    for i, (name, (series_steps, series_values)) in enumerate(all_series.items()):
        points = zip(x_of(np.asarray(series_steps, float)), y_of(np.asarray(series_values, float)), strict=True)
        drawn = [f"{x:.1f},{y:.1f}" for x, y in points if math.isfinite(y)]
        style = f"series-{i % 5}{('', ' dashed', ' dotted')[i // 5 % 3]}"
        dot = "dot " if len(drawn) == 1 else ""  # a line of one point is not seen, unless its ends are round
        polylines += f'<polyline points="{" ".join(drawn * 2 if dot else drawn)}" class="{dot}{style}"/>'
        last = f"{series_values[-1]:.4g}"
        legend += f'<li class="{style}">{escape(name)} <b>{last}</b></li>'
    return (
        f'<figure class="curve"><h3>{escape(curve.title)}</h3>'
        f'<svg viewBox="0 0 480 250" role="img" aria-label="{escape(curve.title)} over {escape(curve.x_label)}">'
        f'{grid}{polylines}<text x="{(left + right) / 2}" y="{bottom + 40}" class="x">{escape(curve.x_label)}'
        f"{', logarithmic upwards' if logarithmic else ''}</text></svg>"
        f'<figcaption><ul class="series">{legend}</ul></figcaption></figure>\n'
    )
