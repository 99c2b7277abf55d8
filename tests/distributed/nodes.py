"""A training on a cluster of several nodes, one of which is lost: see test_what_is_lost.py.

    python nodes.py PLAN NUM_NODES LEAST_WORKERS

Two workers, a node of one CPU for each and perhaps one to spare. Prints a JSON object: the lines that the user saw, and
the seconds from the loss to training going on.
"""

import json
import os
import signal
import sys
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import psutil

# A node that is silent for so long is taken for lost; Ray's default is 15 seconds.
os.environ |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}

from ray.cluster_utils import Cluster

from mars_dist.distributed import runtime  # noqa: F401  # sets what Ray reads when it is imported
from mars_dist.launch import fit
from mars_dist.training.plan import Plan


def lose(node: psutil.Process) -> None:
    """SIGKILL for all that runs there: nothing can say goodbye."""
    for process in [node, *node.children(recursive=True)]:
        process.send_signal(signal.SIGKILL)


def main(plan: Plan, num_nodes: int, least_workers: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(num_nodes)]
    os.environ["RAY_ADDRESS"] = cluster.address
    lines: list[tuple[float, str]] = []
    lost: list[float] = []

    def lose_one() -> None:
        while not (Path(plan.folder) / "training" / "step_00000010" / "position.json").exists():
            sleep(0.005)
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
        working = [node for node in raylets if any("RayTrainWorker" in " ".join(c.cmdline()) for c in node.children())]
        lose(working[1])
        lost.append(monotonic())

    Thread(target=lose_one, daemon=True).start()
    fit(plan, 2, lambda line: lines.append((monotonic(), line)), least_workers)
    resumed = [moment for moment, line in lines if "resumed at step" in line]
    print(json.dumps({"lines": [line for _, line in lines], "seconds": resumed[0] - lost[0]}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    given = Plan.from_plain(json.loads(sys.argv[1]))
    main(given, int(sys.argv[2]), int(sys.argv[3]))
