"""How many workers a cluster holds, also one that grows: its GPUs are waited for before a training begins."""

import os
from time import monotonic, sleep

import ray
from ray.autoscaler.sdk import request_resources

from mars_dist.distributed.runtime import connect
from mars_dist.errors import Stopped, TrainingFailed
from mars_dist.node import require_enough, workers_by_default
from mars_dist.progress import Say
from mars_dist.stopping import told_by_sigterm

GROWS_TO = "MARS_GPUS"
"""In the head's environment, by the files of cluster/: how many GPUs there can be. A driver cannot ask Ray for it."""
SECONDS_BETWEEN_LINES = 60.0
SPOT_SECONDS = 6 * 60.0
"""What spot nodes are given; then those on demand, in turns. Ray alone would ask a cloud that has no spot nodes again
and again (2.60: it minds no refusal)."""
START_SECONDS = 30 * 60.0
"""What a cloud is given to find the nodes, spot or on demand, and to set them up."""
ON_DEMAND = {"market": "on-demand"}
"""The label of nodes that are not spot, in the files of cluster/."""


def default_workers() -> int:
    """All GPUs, or else two CPU processes. Raises ValueError where GPUs start only as it is told how many."""
    connect()
    if (most := most_gpus()) and not num_gpus():
        raise ValueError(
            f"--workers: the cluster starts its GPUs, at most {most}, when they are asked for: name how many"
        )
    return workers_by_default(num_gpus(), int(ray.cluster_resources()["CPU"]))


def require_room(workers: int) -> None:
    """Raises ValueError where the cluster, grown as far as it goes, cannot hold so many workers."""
    connect()
    most, kind = most_gpus(), "GPU" if num_gpus() else "CPU"
    if not most:
        require_enough(workers, int(ray.cluster_resources().get(kind, 0)), kind)
    elif workers > max(most, num_gpus()):
        raise ValueError(
            f"--workers: {workers} workers need {workers} GPUs, the cluster grows to {most}: choose at most {most}, or "
            f"let it grow further ({GROWS_TO} in its file)"
        )


def gather(workers: int, say: Say) -> None:
    """Have a GPU for each worker, on a cluster that grows; one that does not is taken as it is.

    Raises TrainingFailed where nodes do not come, Stopped where SIGTERM came meanwhile.
    """
    connect()
    if not most_gpus() or num_gpus() >= workers:
        return
    try:
        wait_for(workers, say)
    finally:
        request_resources(bundles=[])  # or the nodes would stay when the training has ended


def wait_for(workers: int, say: Say) -> None:
    """Ask for them until they are there: what Ray Data leaves on a cluster tells Ray every 20 s to forget it (2.60)."""
    start = said = monotonic()
    told = False
    say(f"waiting for nodes: {num_gpus()} of {workers} GPUs are there")
    with told_by_sigterm() as stop:
        while (there := num_gpus()) < workers:
            now = monotonic()
            if stop.is_set():
                raise Stopped("stopped by SIGTERM while it waited for nodes: the same command asks for them again")
            if now - start > START_SECONDS:
                raise TrainingFailed(
                    f"only {there} of {workers} GPUs came within {START_SECONDS / 60:.0f} minutes: mind the account's "
                    "quota, ask for fewer --workers, or look at `ray status` on the head; the same command goes on"
                )
            # In turns: a wish for more on-demand nodes than there may be brings none at all.
            on_demand = (workers - there) * int((now - start) // SPOT_SECONDS % 2)
            if on_demand and not told:
                say(f"waiting for nodes: {on_demand} GPUs are now asked for on demand")
                told = True
            if now - said > SECONDS_BETWEEN_LINES:
                say(f"waiting for nodes: {there} of {workers} GPUs are there")
                said = now
            ask_for(workers, on_demand)
            sleep(1)


def ask_for(workers: int, on_demand: int) -> None:
    """GPUs, so many of them on nodes that are not spot. Ray's autoscaler minds the last wish alone."""
    labels: list[dict[str, str]] = [{}] * (workers - on_demand) + [ON_DEMAND] * on_demand
    request_resources(bundles=[{"GPU": 1}] * workers, bundle_label_selectors=labels)


def most_gpus() -> int:
    """To which the cluster of this job grows; 0 where it does not."""
    return int(os.environ.get(GROWS_TO, 0))


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))
