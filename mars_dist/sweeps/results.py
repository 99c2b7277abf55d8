"""What a sweep says: its settings, best first, as a table, and the best one as TOML."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from mars_dist.presets import PRESETS
from mars_dist.serialize import differences, to_plain
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.study import Study
from mars_dist.sweeps.sweep import Choice, Settings, named


@dataclass(frozen=True)
class Tried:
    """A setting, from all the seeds that it was tried with."""

    choice: Choice
    records: Sequence[Record]
    seeds: Sequence[int]
    """From which the sweep tries it; it may lack some that were added."""

    @property
    def finished(self) -> list[Record]:
        return [record for record in self.records if record.status == "finished"]

    @property
    def complete(self) -> bool:
        """Whether it came to its end from every seed."""
        return {record.trial.seed for record in self.finished} >= set(self.seeds)

    def values(self, metric: str) -> list[float]:
        return [record.score[metric] for record in self.finished]

    def mean(self, metric: str) -> float:
        values = self.values(metric)
        return sum(values) / len(values)

    def spread(self, metric: str) -> float:
        """Half of what lies between the best and the worst seed."""
        values = self.values(metric)
        return (max(values) - min(values)) / 2

    def mean_spent(self, what: str) -> float:
        return sum(record.reports[-1][what] for record in self.finished) / len(self.finished)


def rank(study: Study, records: Records) -> list[Tried]:
    """Best first: settings that came to their end from every seed, from some, from none, as far as these came.

    Those of the second kind lack the seeds with which they were stopped, or were not tried: their means flatter them.
    """
    by_place: dict[int, list[Record]] = {}
    for record in records:
        by_place.setdefault(record.trial.place, []).append(record)
    metric = study.sweep.ranks

    def order(tried: Tried) -> tuple[float, ...]:
        if tried.finished:
            return 0 if tried.complete else 1, metric.sign * tried.mean(metric.name)
        return 2, -max(records.reached(record) for record in tried.records), best_on_the_way(tried, metric.name)

    return sorted((Tried(of[0].trial.choice, of, study.sweep.seeds) for of in by_place.values()), key=order)


def best_on_the_way(tried: Tried, metric: str) -> float:
    values = [record.reports[-1].get(metric, inf) for record in tried.records if record.reports]
    return min(values, default=inf)


def table(study: Study, ranked: Sequence[Tried]) -> str:
    """Markdown: a row for each setting."""
    rule = f"|{'---|' * len(study.sweep.space)}{'--:|' * (len(heads(study)) - len(study.sweep.space))}"
    rows = [heads(study), *(cells(study, tried) for tried in ranked)]
    first, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, rule, *others])


def heads(study: Study) -> list[str]:
    costs = ["codes a note", "FLOPs a note", "training FLOPs", "seconds"]
    return [*study.sweep.space, *study.sweep.all_metrics, "seeds", *costs]


def cells(study: Study, tried: Tried) -> list[str]:
    """What stands below the heads."""
    facts, ended = tried.records[0].facts, bool(tried.finished)
    return [
        *(tried.choice[part] for part in study.sweep.space),
        *(score(tried, metric) if ended else "" for metric in study.sweep.all_metrics),
        seeds(tried),
        f"{facts['codes']:.0f}",
        f"{facts['flops_per_note']:.3g}",
        *(f"{tried.mean_spent(what):.3g}" if ended else "" for what in ("flops", "seconds")),
    ]


def score(tried: Tried, metric: str) -> str:
    """The mean over the seeds, and half their range."""
    spread = f" ± {tried.spread(metric):.2g}" if len(tried.finished) > 1 else ""
    return f"{tried.mean(metric):.4g}{spread}"


def seeds(tried: Tried) -> str:
    """`3`, `1, 2 stopped`, `1 failed`, `1, 2 not tried`."""
    others: list[str] = [record.status for record in tried.records if record.status != "finished"]
    others += ["not tried"] * len(set(tried.seeds) - {record.trial.seed for record in tried.records})
    counts = [f"{others.count(status)} {status}" for status in dict.fromkeys(others)]
    return ", ".join([str(len(tried.finished)), *counts] if tried.finished else counts)


def as_toml(study: Study, choice: Choice) -> str:
    """The setting as a preset of one's own, which needs no other file: a .toml that the sweep varied is written out."""
    sweep = study.sweep
    chosen = {name: value for part, label in choice.items() for name, value in sweep.space[part][label].items()}
    base = sweep.preset if sweep.preset in PRESETS else "tiny"
    own = {name: value for name, _, value in differences(to_plain(PRESETS[base]), to_plain(sweep.unvaried))}
    lines = [f"# {named(choice)}", f"preset = {json.dumps(base)}"]
    for table, settings in tables({**own, **sweep.settings, **chosen}).items():
        lines += ["", f"[{table}]", *(f"{name} = {json.dumps(to_plain(value))}" for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def tables(settings: Settings) -> dict[str, dict[str, object]]:
    """By the tables of TOML that they are in."""
    found: dict[str, dict[str, object]] = {}
    for name, value in settings.items():
        table, _, last = name.rpartition(".")
        found.setdefault(table, {})[last] = value
    return found
