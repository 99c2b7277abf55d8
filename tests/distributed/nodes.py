"""A training on a cluster of several nodes, one of which is taken away: see test_what_is_lost.py.

    python nodes.py PLAN NUM_NODES LEAST_WORKERS loss|notice|nothing

Two workers, a node of one CPU for each and perhaps one to spare. Prints a JSON object: the lines that the user saw, the
seconds from the loss, or the notice, to training going on, and the checkpoint that followed a notice.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path
from threading import Thread
from time import monotonic, sleep, time
from typing import Any

import psutil

# A node that is silent for so long is taken for lost; Ray's default is 15 seconds. Notices are looked for each second,
# not each five; a runtime on one machine, such as that of the tests, which may have started this, does without.
os.environ |= {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}

from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from mars_dist.distributed import runtime  # noqa: F401  # sets what Ray reads when it is imported
from mars_dist.launch import fit
from mars_dist.training.plan import Plan

NOTICE_SECONDS = 12
"""From the notice to the end of the machine. A cloud's is 30 to 120."""


def lose(node: psutil.Process) -> None:
    """SIGKILL for all that runs there: nothing can say goodbye."""
    for process in [node, *node.children(recursive=True)]:
        process.send_signal(signal.SIGKILL)


def give_notice(cluster: Cluster, node: Any) -> None:
    """What an autoscaler says of a spot machine that its cloud wants back."""
    deadline_ms = int(1000 * (time() + NOTICE_SECONDS))
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why


def steps_saved(plan: Plan) -> set[int]:
    names = [folder.parent.name for folder in (Path(plan.folder) / "training").glob("step_*/position.json")]
    return {int(found[1]) for name in names if (found := re.match(r"step_(\d+)", name))}


def main(plan: Plan, num_nodes: int, least_workers: int, how: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(num_nodes)]
    os.environ["RAY_ADDRESS"] = cluster.address
    lines: list[tuple[float, str]] = []
    told: dict[str, float] = {}
    every = plan.config.train.checkpoint_every

    def take_one_away() -> None:
        while not steps_saved(plan):
            sleep(0.005)
        raylets = {node: psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes}
        _, victim = (
            node
            for node, raylet in raylets.items()
            if any("RayTrainWorker" in " ".join(child.cmdline()) for child in raylet.children())
        )
        told["at"] = monotonic()
        if how == "loss":
            return lose(raylets[victim])
        give_notice(cluster, victim)
        while not (between := [step for step in steps_saved(plan) if step % every]):
            sleep(0.005)
        told["saved"] = between[0]
        sleep(told["at"] + NOTICE_SECONDS - monotonic())
        lose(raylets[victim])

    if how != "nothing":
        Thread(target=take_one_away, daemon=True).start()
    fit(plan, 2, lambda line: lines.append((monotonic(), line)), least_workers)
    resumed = [moment for moment, line in lines if "resumed at step" in line]
    seconds = resumed[0] - told["at"] if told else None
    print(json.dumps({"lines": [line for _, line in lines], "seconds": seconds, "saved": told.get("saved")}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    given = Plan.from_plain(json.loads(sys.argv[1]))
    main(given, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
