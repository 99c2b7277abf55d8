"""A trial of a sweep: a driver that trains on Ray Train, with workers of its own, then measures and reports.

It runs on whatever machine Ray Tune gives it.
"""

from collections.abc import Callable, Iterator
from operator import call
from threading import Event
from typing import Any, ParamSpec, TypeVar

import ray
import torch
from ray import tune
from ray.exceptions import RayTaskError
from ray.train import Checkpoint
from ray.tune.integration.ray_train import TuneReportCallback

from mars_dist.codes import encode_here
from mars_dist.distributed.console import Line
from mars_dist.distributed.train import first_cause, train
from mars_dist.evaluation.evaluate import Task, evaluate
from mars_dist.evaluation.judges import Judges
from mars_dist.memory import keep_freed_memory
from mars_dist.phase import DEFAULT
from mars_dist.progress import silent
from mars_dist.sampling import AS_ASKED
from mars_dist.sweeps.metrics import known
from mars_dist.sweeps.records import Record, read_record
from mars_dist.sweeps.study import Stage, Study, Trial
from mars_dist.training.plan import Plan

P = ParamSpec("P")
Result = TypeVar("Result")
ENDED, FAILED = "ended", "failed"
"""In a trial's last report: what was measured, or why there is nothing to measure."""


def run_trial(config: dict[str, Any], study: Study, on_gpu: bool, console_name: str) -> None:
    """The driver of a trial. What it reported before it is told again, for those who stop trials by it."""
    trial = Trial(**config)
    for report in read_record(study.folder(trial)).reports:
        tune.report(report)
    stop = Line(console_name).stop_wanted(trial.name)
    try:
        tune.report({ENDED: train_and_measure(study, trial, on_gpu, stop)})
    except Behind:
        pass
    except Exception as error:  # whatever it is, other trials go on
        tune.report({FAILED: first_cause(error)})


def train_and_measure(study: Study, trial: Trial, on_gpu: bool, stop: Event) -> dict[str, float]:
    """Every stage, then the model as `mars evaluate` measures it. Raises Behind where it was told to stop."""
    keep_freed_memory()
    torch.set_num_threads(study.workers)
    run_model = on_a_gpu if on_gpu else call  # with what the trial's workers have left
    flops = share = 0.0
    for place, stage in enumerate(study.stages(trial)):
        if study.sweep.kind == "both" and place == 1:
            run_model(encode_here, study.data, stage.plan.tokenizer_folder, stage.plan.data)
        if study.sweep.seconds:
            train_plan(stage.pace(), study.workers, on_gpu, stop)
            stage = stage.in_seconds(study.sweep.seconds)
        so_far = Reports(place, stage, flops, share, study.sweep.seconds, read_record(study.folder(trial)))
        for report in so_far.missed():
            tune.report(report)
        train_plan(stage.plan, study.workers, on_gpu, stop, so_far)
        flops, share = flops + stage.flops, share + stage.share
    return run_model(measure, study, trial)


def measure(study: Study, trial: Trial) -> dict[str, float]:
    """The trial's score: of each metric its figure on held-out notes."""
    task = Task({"": study.model(trial)}, study.data, "valid", AS_ASKED, DEFAULT, Judges(), references=False)
    measures = evaluate(task, study.num_notes, 0, silent, map).measures
    return {name: measures[metric.measure][metric.line].value for name, metric in known(study.sweep.kind).items()}


def on_a_gpu(work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """work(...) in a process of its own, which has one of the GPUs that the trial's workers have left.

    Raises what the work raises.
    """
    # A strategy of its own: else it would have to do with what the driver was given. No CPU: drivers may have them all.
    remote: Any = ray.remote(num_cpus=0, num_gpus=1, scheduling_strategy="DEFAULT")(work)
    try:
        result: Result = ray.get(remote.remote(*args, **kwargs))
    except RayTaskError as error:
        raise error.cause from None
    return result


def train_plan(plan: Plan, workers: int, on_gpu: bool, stop: Event, *callbacks: TuneReportCallback) -> None:
    """To the end, unless that was done before. A worker on a CPU has one thread: other trials have the rest.

    Raises Behind where it was stopped, TrainingFailed.
    """
    if not plan.finished:
        plan.check(workers)
        threads = None if on_gpu else 1
        position = train(plan, (workers, workers), on_gpu, lambda line: None, stop, callbacks, threads)
        if not position.ended(plan.config.train):
            raise Behind
        plan.mark_finished()


class Behind(Exception):
    """The trial was told to stop."""


class Reports(TuneReportCallback):
    """From rank 0's reports to the trial's: what was spent so far, and metrics where they mean something yet."""

    def __init__(
        self, place: int, stage: Stage, flops: float, share: float, budget: float | None, record: Record
    ) -> None:
        """`flops` and `share`: of the stages before it. `budget`: in seconds, where it is that."""
        super().__init__()
        self.place, self.stage, self.flops, self.seconds = place, stage, flops, record.spent("seconds")
        self.share, self.budget = share, budget
        self.latest = 0.0
        self.known = max((report["step"] for report in record.reports if report["stage"] == place), default=0)

    def missed(self) -> Iterator[dict[str, float]]:
        """What training noted when the sweep was killed before it had heard of it."""
        seconds = 0.0
        for figures in self.stage.measured(self.known):
            seconds = figures["seconds"]
            yield self.report_of(figures)
        self.seconds += seconds

    def report_of(self, figures: dict[str, float]) -> dict[str, float]:
        spent = {
            "stage": self.place,
            "step": figures["step"],
            "flops": self.flops + figures["step"] * self.stage.flops_per_step,
            "seconds": self.seconds + figures["seconds"],
        }
        if self.budget:  # starts and validations are no part of it, nor of what trials are compared by
            done = figures["step"] / self.stage.plan.config.train.steps
            spent["seconds"] = self.budget * (self.share + done * self.stage.share)
        return spent | {name: figures[figure] * by for name, (figure, by) in self.stage.figures.items()}

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None = None
    ) -> None:
        if metrics[0]["seconds"] < self.latest:  # workers were lost, and those that came after count anew
            self.seconds += self.latest
        self.latest = metrics[0]["seconds"]
        # Saved before anything was validated, as when a machine is about to be taken away, it has no figures yet.
        validated = metrics[0].keys() >= {figure for figure, _ in self.stage.figures.values()}
        if metrics[0]["step"] >= self.stage.born and validated:
            super().after_report(run_context, [self.report_of(metrics[0])], None)
