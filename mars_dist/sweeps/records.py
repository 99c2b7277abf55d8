"""What became of each trial: a record.json in its folder, so that a sweep that was broken off runs none twice."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from mars_dist.serialize import as_json, differences, first_difference
from mars_dist.storage import Folder
from mars_dist.sweeps.study import REPORTS, TRIALS, Study, Trial
from mars_dist.sweeps.sweep import Choice

Status = Literal["running", "finished", "stopped", "failed"]
Report = dict[str, Any]
RECORD, SWEEP = "record.json", "sweep.json"


@dataclass
class Record:
    """Of one trial. A report has `stage`, `step`, `flops` and `seconds` so far, and metrics on the way."""

    trial: Trial
    status: Status = "running"
    reports: list[Report] = field(default_factory=list)
    score: dict[str, float] = field(default_factory=dict)
    """What its model was measured to be, at its end."""
    facts: dict[str, float] = field(default_factory=dict)
    """What its setting costs to use."""
    error: str = ""

    @property
    def over(self) -> bool:
        return self.status != "running"

    def spent(self, what: Literal["flops", "seconds"]) -> float:
        return float(self.reports[-1][what]) if self.reports else 0.0

    def add(self, report: Report) -> None:
        """A trial that goes on from its checkpoint may report a step again."""
        at = (report["stage"], report["step"])
        self.reports = [one for one in self.reports if (one["stage"], one["step"]) < at] + [report]


class Records:
    """Of all trials of a study, in the order in which they were begun."""

    def __init__(self, study: Study) -> None:
        """Those that are there. Raises ValueError where the folder holds another sweep, or cannot be read."""
        self.study = study
        try:
            self.by_name = {record.trial.name: record for record in self.found()}
        except OSError as error:
            raise ValueError(f"{study.out}: cannot be read ({error}): choose another --out") from error

    def __iter__(self) -> Iterator[Record]:
        return iter(self.by_name.values())

    def found(self) -> Iterator[Record]:
        """Raises ValueError where the folder holds another sweep, OSError where it cannot be read."""
        home, plain = self.study.home, self.study.to_plain()
        if SWEEP in home.list() and (difference := another_sweep(home.read_json(SWEEP), plain)):
            told = f"holds a sweep with {difference}: use its settings, or choose another --out"
            raise ValueError(f"{self.study.out}: {told}")
        trials = home.sub(TRIALS)
        with ThreadPoolExecutor(home.at_once) as readers:  # a store takes its time for each
            records = readers.map(record_in, map(trials.sub, sorted(trials.list())))
            yield from filter(None, records)

    def placed(self, settings: Iterable[Choice]) -> Iterator[tuple[int, Choice]]:
        """Each with its place: the one at which it was tried, whatever search did, or the next free one."""
        tried = {record.trial.place: record.trial.choice for record in self}
        free = (place for place in count() if place not in tried)
        for choice in settings:
            before = [place for place, other in tried.items() if other == choice]
            yield before[0] if before else next(free), choice

    def over(self, trial: Trial) -> bool:
        """Whether the trial need not be run."""
        return trial.name in self.by_name and self.by_name[trial.name].over

    def begin(self, trial: Trial) -> Record:
        """The trial's record: the one that is there, or a new one."""
        if trial.name not in self.by_name:
            self.study.home.write(SWEEP, as_json(self.study.to_plain()))
            self.by_name[trial.name] = Record(trial, facts=self.study.facts(trial))
            self.save(self.by_name[trial.name])
        record = self.by_name[trial.name]
        assert record.trial == trial, "the same place, another setting"
        return record

    def reached(self, record: Record) -> int:
        """How many of the REPORTS shares of its budget a trial has spent: no number of steps is parted evenly."""
        return round(REPORTS * record.spent(self.study.spends) / self.study.budget)

    def save(self, record: Record) -> None:
        self.study.folder(record.trial).write(RECORD, as_json(record))


def another_sweep(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting in which two sweeps differ; also a choice that there no longer is: trials were made of it."""
    gone = (
        f"{name} = {value}, not {left}" for name, left, value in differences(now["space"], before["space"], "space")
    )
    return first_difference(before, now) or next(gone, None)


def record_in(folder: Folder) -> Record | None:
    """Where there is any. Raises as `read_record`."""
    try:
        return read_record(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_record(folder: Folder) -> Record:
    """Raises OSError where there is none, ValueError where it is damaged."""
    plain = folder.read_json(RECORD)
    return Record(**(plain | {"trial": Trial(**plain["trial"])}))
