"""What a running cluster is, asked before anything is trained: a look from each of its nodes."""

import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mars_dist.distributed.runtime import join, joining
from mars_dist.node import Node

Result = TypeVar("Result")
SECONDS = 60.0
"""For a node's first answer, which starts a process and imports torch."""
CONNECT_SECONDS = 5.0


def attach(address: str) -> None:
    """To the cluster whose head is at host:port, or ray://host:port. Raises ValueError where that fails."""
    if address.startswith("http"):
        raise ValueError(
            f"{address}: is a dashboard, which runs jobs: run the check as one, mars submit --address {address} check "
            "..., or give --address the head's host:6379"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--address: {address} must be host:port of a cluster's head, such as 10.0.0.1:6379")
    # Tries of 40 s: Ray's 20 would take a quarter of an hour to tell that a port is not a head's.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    with joining(address):
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    join(address)


def nodes(address: str) -> list[Node]:
    """All nodes of the cluster, with as many CPUs and GPUs as Ray gives out. Raises ValueError where one fails."""
    if not ray.is_initialized():
        attach(address)
    there = alive()
    with ThreadPoolExecutor(len(there)) as askers:  # the first answer of each takes its time
        return list(askers.map(look_at, there))


def look_at(node: Mapping[str, Any]) -> Node:
    """One of `alive`. Raises ValueError where that fails."""
    seen = on_node(node["NodeID"], partial(Node.here, node["NodeManagerAddress"]))
    cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    return replace(seen, id=node["NodeID"], num_cpus=cpus, num_gpus=gpus)


def on_node(id: str, work: Callable[[], Result]) -> Result:
    """What the work gives on that node. Raises ValueError where it cannot run there, and what it raises itself."""
    task: Any = ray.remote(call).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)
    )
    try:
        result = ray.get(task.remote(work), timeout=SECONDS)
    except GetTimeoutError as error:
        raise ValueError(f"node {id[:8]}: did not answer within {SECONDS:.0f} s: is it overloaded?") from error
    except RayError as error:
        cause = str(error).strip().splitlines()[-1]
        raise ValueError(f"node {id[:8]}: runs no worker of mars_dist ({cause}): is it installed there?") from error
    if isinstance(result, Exception):
        raise result
    return result


def call(work: Callable[[], Result]) -> Result | Exception:
    """Errors that are answers come back as they are, not wrapped."""
    try:
        return work()
    except (OSError, ValueError) as error:
        return error


def alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]
