"""Which setting is tried next: a list of them, or what Optuna makes of those that were tried."""

from collections.abc import Sequence
from itertools import count
from typing import Literal, Protocol

import numpy as np

from mars_dist.sweeps.metrics import known
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.study import Study, Trial
from mars_dist.sweeps.sweep import Choice

Name = Literal["grid", "random", "optuna"]


class Search(Protocol):
    """Says which trials there are, and learns what became of them."""

    @property
    def ended(self) -> bool:
        """Whether there are no more."""

    def next(self) -> Trial | None:
        """Another trial that is still to be run; None where there are no more."""

    def tell(self, record: Record) -> None:
        """A trial is over."""


def draw(study: Study, num: int) -> list[Choice]:
    """So many settings of the space, in an order that is always the same, none of them twice."""
    grid = study.sweep.grid()
    return [grid[i] for i in np.random.default_rng(0).permutation(len(grid))[:num]]


class Listed:
    """Trials that are known from the start: of a grid, or drawn. What was tried before, by whatever search, counts."""

    def __init__(self, study: Study, settings: Sequence[Choice], records: Records) -> None:
        self.left = [trial for trial in study.trials(records.placed(settings)) if not records.over(trial)]

    @property
    def ended(self) -> bool:
        return not self.left

    def next(self) -> Trial | None:
        return self.left.pop(0) if self.left else None

    def tell(self, record: Record) -> None:
        pass


class Optuna:
    """Tree-structured Parzen estimators, for one metric or several (https://optuna.org).

    Each setting is trained from all seeds and counts with its mean. What was tried before is told again, so a sweep
    that goes on knows what it knew. Raises ValueError where Optuna is not installed.
    """

    AGAIN = 100
    """How often it may suggest what was tried before, until a setting is drawn."""

    def __init__(self, study: Study, num: int, records: Records) -> None:
        try:
            import optuna
        except ModuleNotFoundError:
            raise ValueError("--search optuna: is not installed: pip install optuna, or choose random") from None
        self.optuna, self.study, self.records, self.num = optuna, study, records, num
        self.metrics = [known(study.sweep.kind)[name] for name in study.sweep.all_metrics]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.asks = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=max(4, num // 4)),
            directions=["minimize" if metric.mode == "min" else "maximize" for metric in self.metrics],
        )
        self.asked: dict[int, tuple[Choice, optuna.Trial]] = {}
        """By place."""
        self.told = set[int]()
        """Places of settings whose scores it knows."""
        self.left: list[Trial] = []
        for record in records:
            if record.trial.place not in self.asked:
                self.begin(record.trial.place, record.trial.choice)

    @property
    def ended(self) -> bool:
        return not self.left and len(self.asked) >= min(self.num, len(self.study.sweep.grid()))

    def next(self) -> Trial | None:
        if not self.left and len(self.asked) < self.num and (choice := self.suggest()):
            self.begin(next(place for place in count() if place not in self.asked), choice)
        return self.left.pop(0) if self.left else None

    def suggest(self) -> Choice | None:
        """One that was not tried before; None where all were."""
        tried = [choice for choice, _ in self.asked.values()]
        for _ in range(self.AGAIN):
            trial = self.asks.ask()
            choice = self.chosen(trial)
            self.asks.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            if choice not in tried:
                return choice
        return next((choice for choice in draw(self.study, len(self.study.sweep.grid())) if choice not in tried), None)

    def begin(self, place: int, choice: Choice) -> None:
        """A setting with all its seeds."""
        self.asks.enqueue_trial(choice)
        trial = self.asks.ask()
        assert self.chosen(trial) == choice
        self.asked[place] = choice, trial
        of_place = [Trial(place, choice, seed) for seed in self.study.sweep.seeds]
        self.left += [one for one in of_place if not self.records.over(one)]
        self.tell_place(place)

    def chosen(self, trial: "object") -> Choice:
        space = self.study.sweep.space
        return {part: trial.suggest_categorical(part, list(choices)) for part, choices in space.items()}  # type: ignore

    def tell(self, record: Record) -> None:
        self.tell_place(record.trial.place)

    def tell_place(self, place: int) -> None:
        """Once the setting's trials are over: the mean of those that came to their end, or that none did.

        Where one fell behind, the setting is known to be worse than those of which none did; where there is a single
        metric, also how far it came, and its error there. Of one that failed nothing is known.
        """
        records = [record for record in self.records if record.trial.place == place and record.over]
        if place in self.told or len(records) < len(self.study.sweep.seeds):
            return
        self.told.add(place)
        scores = [[one.score[metric.name] for metric in self.metrics] for one in records if one.status == "finished"]
        behind = [one for one in records if one.status == "stopped"]
        _, trial = self.asked[place]
        if behind:
            name, *others = (metric.name for metric in self.metrics)
            errors = [one.reports[-1][name] for one in behind if name in one.reports[-1]]
            if errors and not others:
                trial.report(float(np.mean(errors)), min(self.records.reached(one) for one in behind))
            self.asks.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
        elif scores:
            self.asks.tell(trial, np.mean(scores, axis=0).tolist())
        else:
            self.asks.tell(trial, state=self.optuna.trial.TrialState.FAIL)


def make_search(name: Name | None, study: Study, num: int | None, records: Records) -> Search:
    """Raises ValueError where the sweep does not fit the data, or the number of trials the search."""
    grid = study.sweep.grid()
    if num is not None and num < 1:
        raise ValueError(f"--trials: {num} must be at least 1")
    if num is None and name not in (None, "grid"):
        raise ValueError(f"--search {name}: say with --trials how many of the {len(grid)} settings it may try")
    if name == "grid" and num not in (None, len(grid)):
        raise ValueError(f"--search grid: tries all {len(grid)} settings: leave out --trials, or choose random")
    if name == "optuna" and num is not None:
        study.check(grid)
        return Optuna(study, num, records)
    settings = draw(study, num or len(grid))
    study.check(settings)
    return Listed(study, settings, records)
