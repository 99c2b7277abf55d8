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
    require_sense(workers, min_workers)
    if plan.finished:
        say(f"{plan.folder}: finished already: nothing to do")
        return
    spread = workers_of(plan, workers, min_workers)
    for number in set(spread):
        plan.check(number)
    if workers == 0:
        position = fit_here(plan, say)
    else:
        from mars_dist.distributed.train import fit as fit_on_ray

        position = fit_on_ray(plan, spread, say)
    if not position.ended(plan.config.train):
        raise Stopped(f"{plan.folder}: stopped by SIGTERM, saved at step {position.step}: the same command goes on")
    plan.mark_finished()
    say(f"{plan.folder}: finished")


def require_workers(plan: Plan, workers: int | None, min_workers: int | None) -> None:
    """Raises ValueError where `fit` would for the workers' sake, whatever the data: told before any are made."""
    require_sense(workers, min_workers)
    if not plan.finished:
        for number in set(workers_of(plan, workers, min_workers)):
            plan.require_workers(number)


def require_sense(workers: int | None, min_workers: int | None) -> None:
    """Raises ValueError for numbers of workers that make none anywhere."""
    if workers is not None and workers < 0:
        raise ValueError(f"--workers: {workers} must be 0 (in this process, without Ray) or more")
    if workers == 0 and min_workers is not None:
        raise ValueError(f"--min-workers: {min_workers} makes no sense without Ray: leave it out, or choose --workers")


def workers_of(plan: Plan, workers: int | None, min_workers: int | None) -> tuple[int, int]:
    """The least and the most. Raises ValueError where they fit neither plan nor cluster."""
    if workers == 0:
        if not isinstance(plan.folder, Path):
            told = "--workers 0 keeps its run on a disk: choose a local --out, or --workers 1"
            raise ValueError(f"{plan.folder}: {told}")
        return 1, 1
    from mars_dist.distributed.scaling import default_workers, require_room

    most = workers or default_workers()
    if min_workers is not None and not 1 <= min_workers <= most:
        raise ValueError(f"--min-workers: {min_workers} must lie between 1 and --workers = {most}")
    fewest = min_workers or most
    if fewest < most and plan.config.train.replicas > 1:
        raise ValueError("--min-workers: replicas need a fixed number of workers: leave it out, or train.replicas = 1")
    require_room(fewest)
    return fewest, most


def fit_here(plan: Plan, say: Say) -> Position:
    """Train in this process, without Ray."""
    assert isinstance(plan.folder, Path)
    with told_by_sigterm() as stop, plan.held(say, stop):
        return plan.train(LocalRun(plan.folder, stop))
