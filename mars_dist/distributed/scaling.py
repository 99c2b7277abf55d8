"""A cluster that grows as it is asked to: its GPUs are waited for, before a training decides what it runs on."""

import os
from time import monotonic, sleep

import ray
from ray.autoscaler.sdk import request_resources

from mars_dist.distributed.runtime import connect
from mars_dist.errors import TrainingFailed
from mars_dist.progress import Say

GROWS_TO = "MARS_GPUS"
"""In the head's environment, by the files of cluster/: how many GPUs there can be. A driver cannot ask Ray for it."""
SECONDS_BETWEEN_LINES = 60.0
START_SECONDS = 30 * 60.0
"""What a cloud is given to find the nodes, spot or on demand, and to set them up."""


def gather(workers: int | None, say: Say) -> None:
    """Have a GPU for each worker, on a cluster that grows; one that does not is taken as it is.

    Raises ValueError where it cannot grow so far, TrainingFailed where nodes do not come.
    """
    connect()
    most = most_gpus()
    if not most or num_gpus() >= (workers or 1):
        return
    if workers is None:
        raise ValueError(
            f"--workers: the cluster starts its GPUs, at most {most}, when they are asked for: name how many"
        )
    if workers > most:
        raise ValueError(
            f"--workers: {workers} workers need {workers} GPUs, the cluster grows to {most}: choose at most {most}, or "
            f"let it grow further ({GROWS_TO} in its file)"
        )
    request_resources(bundles=[{"GPU": 1}] * workers)
    try:
        wait_for(workers, say)
    finally:
        request_resources(bundles=[])  # or the nodes would stay when the training has ended


def wait_for(workers: int, say: Say) -> None:
    start = said = monotonic()
    say(f"waiting for nodes: {num_gpus()} of {workers} GPUs are there")
    while (there := num_gpus()) < workers:
        if monotonic() - start > START_SECONDS:
            raise TrainingFailed(
                f"only {there} of {workers} GPUs came within {START_SECONDS / 60:.0f} minutes: mind the account's "
                "quota, ask for fewer --workers, or look at `ray status` on the head; the same command goes on"
            )
        if monotonic() - said > SECONDS_BETWEEN_LINES:
            say(f"waiting for nodes: {there} of {workers} GPUs are there")
            said = monotonic()
        sleep(1)


def most_gpus() -> int:
    """To which the cluster of this job grows; 0 where it does not."""
    return int(os.environ.get(GROWS_TO, 0))


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))
