"""Start a training where it belongs: on Ray, or in this process."""

from pathlib import Path

from mars_dist.errors import Stopped
from mars_dist.progress import Say
from mars_dist.stopping import told_by_sigterm
from mars_dist.training.checkpoint import Position
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun


def fit(plan: Plan, workers: int | None, say: Say, min_workers: int | None = None) -> None:
    """Train to the end, unless that was done before. No number of workers: all GPUs, or else two CPU processes.

    With a least number of workers, training goes on with what machines there are.

    Raises ValueError where plan, data, folder and cluster do not fit, TrainingFailed where training failed, Stopped
    where SIGTERM came, once a checkpoint is saved.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"--workers: {workers} must be 0 (in this process, without Ray) or more")
    if workers == 0 and min_workers is not None:
        raise ValueError(f"--min-workers: {min_workers} makes no sense without Ray: leave it out, or choose --workers")
    if plan.finished:
        say(f"{plan.folder}: finished already: nothing to do")
        return
    if workers == 0:
        position = fit_here(plan, say)
    else:
        from mars_dist.distributed.scaling import gather
        from mars_dist.distributed.train import fit as fit_on_ray

        gather(min_workers or workers, say)
        position = fit_on_ray(plan, workers, say, min_workers)
    if not position.ended(plan.config.train):
        raise Stopped(f"{plan.folder}: stopped by SIGTERM, saved at step {position.step}: the same command goes on")
    plan.mark_finished()
    say(f"{plan.folder}: finished")


def fit_here(plan: Plan, say: Say) -> Position:
    """Train in this process, without Ray."""
    if not isinstance(plan.folder, Path):
        raise ValueError(f"{plan.folder}: --workers 0 keeps its run on a disk: choose a local --out, or --workers 1")
    plan.check(workers=1)
    with told_by_sigterm() as stop, plan.held(say, stop):
        return plan.train(LocalRun(plan.folder, stop))
