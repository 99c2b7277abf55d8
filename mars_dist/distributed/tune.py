"""Sweeps on Ray Tune: which trials run (`distributed.trial`), as many as fit; those that fall behind are stopped.

What was tried and what came of it lies in the sweep's own records: they outlast Ray, which forgets what its scheduler
knew.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

# Read by Ray: not each report has each metric, and what is written and said is up to the records.
os.environ |= {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from mars_dist.distributed.console import Line, console
from mars_dist.distributed.runtime import connect
from mars_dist.distributed.scaling import gather, most_gpus, num_gpus, require_room
from mars_dist.distributed.train import there_is
from mars_dist.distributed.trial import ENDED, FAILED, run_trial
from mars_dist.errors import Stopped
from mars_dist.progress import Say
from mars_dist.serialize import to_plain
from mars_dist.stopping import told_by_sigterm
from mars_dist.storage import Folder
from mars_dist.sweeps.metrics import known
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.search import Search
from mars_dist.sweeps.study import REPORTS, Study, Trial
from mars_dist.sweeps.sweep import named

DRIVER_MEMORY = 2**29
"""Bytes that a trial's driver is counted with. On CPUs it takes no other part: it waits while its workers compute, and
measures when they are gone."""
DRIVERS_LOST = 3
"""How often a trial goes on with another driver: its machine may have been taken away. Whatever else
fails, a driver survives and tells."""
REDUCTION = 3
"""At a ninth and at a third of the budget, the trials that are not among the best third are stopped."""
RAY = ".ray"
"""Where Ray keeps what is of no use later."""


def run_trials(study: Study, search: Search, records: Records, say: Say) -> None:
    """Run all trials of the search, as many at once as fit. Those that fail are noted, and the others go on.

    Raises ValueError where not even one fits, Stopped and KeyboardInterrupt where the sweep was stopped: it goes
    on from what its records say.
    """
    connect()
    kind = "GPU" if most_gpus() or num_gpus() else "CPU"
    num = at_once(study.workers, kind)
    gather(study.workers, say)
    say(
        f"{num} trials at once, of {study.workers} {kind} worker{'s' * (study.workers > 1)} and a driver each; "
        f"{there_is(num * study.workers, kind)}"
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    forget(study.home)
    behind = set[str]()
    notes = Notes(study, records, behind, say)
    proposals = Proposals(search, records, notes.lost)
    with told_by_sigterm() as stop, console(lambda line: None, Event(), lambda: "") as name:
        run = tune.with_parameters(run_trial, study=study, on_gpu=kind == "GPU", console_name=name)
        tuner = tune.Tuner(
            tune.with_resources(run, driver(kind)),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                scheduler=Halving(study, records, behind, Line(name)) if study.sweep.stops_early else FIFOScheduler(),
                num_samples=len(study.sweep.grid()) * len(study.sweep.seeds) + 1,  # the search says when it ends
                max_concurrent_trials=num,
            ),
            run_config=tune.RunConfig(
                name=RAY,
                storage_path=study.home.path,
                storage_filesystem=None if isinstance(study.out, Path) else study.home.files,
                verbose=0,
                stop=StopAll(stop),
                failure_config=tune.FailureConfig(max_failures=DRIVERS_LOST),
                callbacks=[notes],
            ),
        )
        tuner.fit()
    forget(study.home)
    if stop.is_set():
        raise Stopped(f"{study.out}: stopped by SIGTERM: the same command goes on from what is finished")
    if not proposals.exhausted or any(not record.over for record in records):
        raise KeyboardInterrupt


def forget(home: Folder) -> None:
    """What Ray has written of an earlier attempt, or of this one."""
    if RAY in home.list():
        home.delete_folder(RAY)


def driver(kind: str) -> dict[str, float]:
    """What Ray counts a trial with, besides its workers."""
    return {"memory": float(DRIVER_MEMORY), "cpu": 1.0} if kind == "GPU" else {"memory": float(DRIVER_MEMORY)}


def at_once(workers: int, kind: str) -> int:
    """How many trials the cluster holds: so no driver ever waits for workers that others' drivers keep it from.

    One that grows is asked for its GPUs by the trials. Raises ValueError where it holds none.
    """
    require_room(workers)
    if most := most_gpus():
        return max(most, num_gpus()) // workers
    there = ray.cluster_resources()
    needs = {kind: workers, "memory": DRIVER_MEMORY} | ({"CPU": 1} if kind == "GPU" else {})
    num = min(int(there.get(name, 0) // amount) for name, amount in needs.items())
    if num < 1:
        raise ValueError(
            f"a trial's driver takes {DRIVER_MEMORY / 2**20:.0f} MiB, Ray has "
            f"{there.get('memory', 0) / 2**20:.0f}: start Ray with more memory"
        )
    return num


class Proposals(Searcher):
    """The search, as Ray asks for it."""

    def __init__(self, search: Search, records: Records, lost: Callable[[Record], None]) -> None:
        """`lost` notes that a trial lost its driver once too often: Ray tells the search first."""
        super().__init__()
        self.search, self.records, self.lost, self.exhausted = search, records, lost, False
        self.begun: dict[str, Record] = {}

    def suggest(self, trial_id: str) -> Any:
        trial = self.search.next()
        if trial is None:
            self.exhausted = True
            return Searcher.FINISHED
        self.begun[trial_id] = self.records.begin(trial)
        return to_plain(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        record = self.begun[trial_id]
        if error and not record.over:
            self.lost(record)
        self.search.tell(record)

    def save(self, checkpoint_path: str) -> None:
        """The records tell all that it knows."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class Halving(ASHAScheduler):
    """Asynchronous successive halving (arXiv 1810.05934) by what a trial has spent; it knows the trials of before.

    A trial that falls behind is told to stop, and ends as a run does at SIGTERM. Ray would kill its driver, and leave
    the workers' CPUs and GPUs reserved until the next training where it runs without a dashboard (2.60).
    """

    def __init__(self, study: Study, records: Records, behind: set[str], line: Line) -> None:
        """`behind` gets the names of trials that are told to stop."""
        ranks = study.sweep.ranks
        # A trial's reports may come a step before the share of its budget that they stand for.
        budget: Any = 0.9 * study.budget
        super().__init__(
            time_attr=study.spends,
            metric=ranks.name,
            mode=ranks.mode,
            grace_period=budget / REPORTS,
            max_t=0.99 * budget,
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
        self.records, self.behind, self.line = records, behind, line
        for record in records:
            if record.over:
                trial: Any = SimpleNamespace(trial_id=record.trial.name)
                controller: Any = None  # ASHA does without
                self.on_trial_add(controller, trial)
                for report in record.reports:
                    super().on_trial_result(controller, trial, report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        whose = Trial(**trial.config)
        told = [(report["stage"], report["step"]) for report in self.records.by_name[whose.name].reports]
        stops = super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP
        if stops and (result["stage"], result["step"]) not in told:  # what is told again was passed when it was new
            self.behind.add(whose.name)
            self.line.stop(whose.name)
        return TrialScheduler.CONTINUE


class Notes(tune.Callback):
    """Writes the records, and tells the user."""

    def __init__(self, study: Study, records: Records, behind: set[str], say: Say) -> None:
        self.study, self.records, self.behind, self.say = study, records, behind, say
        self.kept = {"stage", "step", "flops", "seconds", *known(study.sweep.kind)}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        record, name = self.records.begin(Trial(**trial.config)), self.study.sweep.ranks.name
        if record.over:
            return
        if ENDED in result:
            record.status, record.score = "finished", result[ENDED]
            self.tell(record, f"finished: {name} {record.score[name]:.4g}")
        elif FAILED in result:
            self.fail(record, result[FAILED])
        else:
            report = {key: value for key, value in result.items() if key in self.kept}
            if report in record.reports:
                return
            record.add(report)
            if record.trial.name in self.behind:
                record.status = "stopped"
            spent = report[self.study.spends] / self.study.budget
            figure = f": {name} {report[name]:.4g}" if name in report else ""
            self.tell(record, f"{spent:.0%}{figure}{', stopped' if record.status == 'stopped' else ''}")
        self.records.save(record)

    def lost(self, record: Record) -> None:
        """The trial's driver, once too often."""
        self.fail(record, "its driver was lost: there may be too little memory")
        self.records.save(record)

    def fail(self, record: Record, error: str) -> None:
        record.status, record.error = "failed", error
        self.tell(record, f"failed: {error}")

    def tell(self, record: Record, what: str) -> None:
        seed = f", seed {record.trial.seed}" if len(self.study.sweep.seeds) > 1 else ""
        self.say(f"{record.trial.name} ({named(record.trial.choice)}{seed}) {what}")


class StopAll(tune.Stopper):
    """Ends the sweep where SIGTERM came."""

    def __init__(self, stop: Event) -> None:
        self.stop = stop

    def __getstate__(self) -> dict[str, Any]:
        """Ray keeps a copy of its settings, which nobody reads; an event is not copied."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stop.is_set()
