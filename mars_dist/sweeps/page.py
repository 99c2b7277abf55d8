"""The page of a sweep: what was compared, the table, quality against cost, the choices, learning curves."""

from collections.abc import Sequence
from html import escape

from mars_dist.dataset import DatasetInfo
from mars_dist.report.figures import curve_figure
from mars_dist.report.html import document, section
from mars_dist.report.parts import Curve
from mars_dist.report.plots import Axis, Point, cloud, parallel
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.sweeps.metrics import known
from mars_dist.sweeps.records import Record
from mars_dist.sweeps.results import Tried, cells, heads
from mars_dist.sweeps.study import Study
from mars_dist.sweeps.sweep import named

CURVES = 8
"""Learning curves that are drawn: those of the best settings."""
COSTS = {"codes": "codes a note", "flops_per_note": "FLOPs a note"}
TRIED_OUT = "The debug preset shows that the machinery works: nothing about sound follows from these figures."
WHAT = {
    "tokenizer": "tokenizers",
    "autoregressor": "autoregressors on the codes of one tokenizer",
    "both": "tokenizers, each with an autoregressor",
}


def page(study: Study, ranked: Sequence[Tried]) -> str:
    """As HTML that fetches nothing."""
    complete = [tried for tried in ranked if tried.complete]
    failed = [record for tried in ranked for record in tried.records if record.status == "failed"]
    sections = [
        section("Settings", table(study, ranked)),
        section("Quality against cost", clouds(study, complete)) if complete else "",
        section("Choices", choices(study, complete)) if complete else "",
        section("On the way", curves(study, ranked)),
        section("Failed", failures(failed)) if failed else "",
    ]
    notices = [TRIED_OUT if study.sweep.preset == "debug" else "", DatasetInfo.load(Folder.open(study.data)).notice]
    title = f"MARS: a sweep of {', '.join(study.sweep.space)}"
    return document(title, description(study, ranked), " ".join(filter(None, notices)), sections)


def description(study: Study, ranked: Sequence[Tried]) -> list[str]:
    sweep, measured = study.sweep, min(study.num_notes, Rows(study.data, "valid").num_rows)
    statuses = [record.status for tried in ranked for record in tried.records]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    budget = f"{study.budget:.3g} {'seconds' if sweep.seconds else 'FLOPs'} of training"
    seeds = f"{len(sweep.seeds)} seed{'s' * (len(sweep.seeds) > 1)}"
    halved = (
        " Trials that were not among the best third at a ninth or at a third of the budget were stopped."
        if sweep.stops_early
        else ""
    )
    return [
        f"{len(ranked)} of {len(sweep.grid())} settings of {WHAT[sweep.kind]}, varied from the preset {sweep.preset}, "
        f"each from {seeds}: {len(statuses)} trials ({counted}).",
        f"Every trial may take {budget}, so dearer settings make fewer steps.{halved}",
        f"Measured at the end on {measured} notes of the valid split, as mars evaluate does. Ranked by "
        f"{sweep.ranks.name} ({'lower' if sweep.ranks.mode == 'min' else 'higher'} is better); means over seeds, "
        "± half of what lies between the best and the worst one.",
    ]


def table(study: Study, ranked: Sequence[Tried]) -> str:
    """Best first."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads(study))
    body = ""
    for tried in ranked:
        first, *others = cells(study, tried)
        body += f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(one)}</td>" for one in others)}</tr>'
    return (
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="settings">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def clouds(study: Study, complete: Sequence[Tried]) -> str:
    """Each metric against each cost, with the front of those that nothing beats."""
    plots = []
    for name in study.sweep.all_metrics:
        mode = known(study.sweep.kind)[name].mode
        for cost, label in COSTS.items():
            points = [
                Point(named(tried.choice), tried.records[0].facts[cost], tried.mean(name), tried.spread(name))
                for tried in complete
            ]
            plots.append(cloud(name, label, points, mode))
    return "".join(plots)


def choices(study: Study, complete: Sequence[Tried]) -> str:
    """Each setting through its choices to its score."""
    axes = [Axis(part, [tried.choice[part] for tried in complete]) for part in study.sweep.space]
    axes += [Axis(label, [tried.records[0].facts[cost] for tried in complete]) for cost, label in COSTS.items()]
    axes += [Axis(name, [tried.mean(name) for tried in complete]) for name in study.sweep.all_metrics]
    return (
        "<p>Each line is a setting that came to its end from every seed; the best one is bold. "
        "Where bold and thin lines meet on an axis, that choice decides little.</p>"
        + parallel(axes, [named(tried.choice) for tried in complete])
    )


def curves(study: Study, ranked: Sequence[Tried]) -> str:
    """Of the best settings' first trials, over what they had spent."""
    drawn = ""
    for name, metric in known(study.sweep.kind).items():
        if metric.on_the_way:
            series = {}
            for tried in ranked[:CURVES]:
                reports = [report for report in tried.records[0].reports if name in report]
                if reports:
                    shares = [100 * report[study.spends] / study.budget for report in reports]
                    series[named(tried.choice)] = (shares, [report[name] for report in reports])
            if series:
                drawn += curve_figure(
                    Curve(
                        f"{name}, validation",
                        f"% of the training {'seconds' if study.sweep.seconds else 'FLOPs'}",
                        series,
                    )
                )
    best = f"the {CURVES} best settings" if len(ranked) > CURVES else "each setting"
    return f"<p>The best figure so far, of {best}.</p>{drawn}" if drawn else "<p>Nothing yet.</p>"


def failures(failed: Sequence[Record]) -> str:
    items = "".join(
        f"<div><dt>{escape(record.trial.name)}</dt><dd>{escape(record.error)}</dd></div>" for record in failed
    )
    return f'<dl class="lines">{items}</dl>'
