"""Start a training where it belongs: on Ray, or in this process."""

from mars_dist.errors import Stopped
from mars_dist.progress import Say
from mars_dist.stopping import told_by_sigterm
from mars_dist.training.plan import Plan


def fit(plan: Plan, workers: int | None, say: Say) -> None:
    """Train to the end, unless that was done before. No number of workers: all GPUs, or else two CPU processes.

    Raises ValueError where plan, data, folder and cluster do not fit, TrainingFailed where training failed, Stopped
    where SIGTERM came, once a checkpoint is saved.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"--workers: {workers} must be 0 (in this process, without Ray) or more")
    if plan.finished:
        say(f"{plan.folder}: finished already: nothing to do")
        return
    if workers == 0:
        from mars_dist.training.run import LocalRun

        plan.check(workers=1)
        with told_by_sigterm() as stop:
            position = plan.train(LocalRun(plan.folder, stop))
    else:
        from mars_dist.distributed.train import fit as fit_on_ray

        position = fit_on_ray(plan, workers, say)
    if not position.ended(plan.config.train):
        raise Stopped(f"{plan.folder}: stopped by SIGTERM, saved at step {position.step}: the same command goes on")
    plan.mark_finished()
    say(f"{plan.folder}: finished")
