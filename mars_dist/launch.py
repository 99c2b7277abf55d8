"""Start a training where it belongs: on Ray, or in this process."""

from mars_dist.progress import Say
from mars_dist.training.plan import Plan


def fit(plan: Plan, workers: int | None, say: Say) -> None:
    """Train to the end, unless that was done before. No number of workers: all GPUs, or else two CPU processes.

    Raises ValueError where plan, data, folder and cluster do not fit, TrainingFailed where training failed.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"--workers: {workers} must be 0 (in this process, without Ray) or more")
    if plan.finished:
        say(f"{plan.folder}: finished already: nothing to do")
        return
    if workers == 0:
        from mars_dist.training.run import LocalRun

        plan.check(workers=1)
        plan.train(LocalRun(plan.folder))
    else:
        from mars_dist.distributed.train import fit as fit_on_ray

        fit_on_ray(plan, workers, say)
    plan.mark_finished()
    say(f"{plan.folder}: finished")
