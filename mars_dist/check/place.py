"""Where a training is to run: nodes that were looked at, or GPUs that are only named."""

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from mars_dist.check.device import GPUS, Device, gpu, this_cpu
from mars_dist.node import Node, workers_by_default
from mars_dist.storage import Folder

Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """`nodes` is empty where nothing but a device was named."""

    nodes: Sequence[Node]
    on_ray: bool
    grows_to: int = 0
    """GPUs, where a cluster starts nodes as they are asked for."""

    @property
    def kind(self) -> str:
        """What a worker takes."""
        return "GPU" if self.there("GPU") else "CPU"

    def there(self, kind: str) -> int:
        there = sum(node.num_gpus if kind == "GPU" else node.num_cpus for node in self.nodes)
        return max(there, self.grows_to) if kind == "GPU" else there

    def workers(self) -> int:
        """As training chooses them where nobody says."""
        return workers_by_default(self.there("GPU"), self.there("CPU"))

    def device(self, workers: int, named: str | None, utilisation: float) -> Device:
        """The named one, or what the nodes have. Raises ValueError where it is not known."""
        if named:
            return gpu(named, utilisation)
        if self.kind == "CPU":
            return this_cpu(-(-workers // max(1, len(self.nodes))))
        first = next((node for node in self.nodes if node.num_gpus), None)
        if first is None:
            raise ValueError("--device: no node with a GPU has started yet: name what they will have, such as l4")
        words = set(re.split(r"[\W_]+", first.gpu))
        known = next((name for name in reversed(GPUS) if set(GPUS[name].words.split()) <= words), None)
        if known is None:
            raise ValueError(
                f"--device: the peak of a {first.gpu} is not known here: name the GPU that is nearest to it"
            )
        found = gpu(known, utilisation)
        return replace(found, name=first.gpu, memory=first.gpu_memory)

    def call(self, node: Node, work: Callable[[], Result]) -> Result:
        """What it gives on a node. Raises what it raises."""
        if not self.on_ray:
            return work()
        from mars_dist.distributed.preflight import on_node

        return on_node(node.id, work)


def place_of(address: str | None, named: str | None) -> Place:
    """The cluster at an address; else this machine, unless a device is named.

    Raises ValueError where the cluster does not answer.
    """
    if address and address != "local":  # Ray's word for a runtime of one's own
        from mars_dist.distributed.preflight import nodes
        from mars_dist.distributed.scaling import most_gpus

        return Place(nodes(address), on_ray=True, grows_to=most_gpus())
    return Place([] if named else [Node.here()], on_ray=False)


def require_read(place: Place, folder: Folder) -> None:
    """Raises ValueError where a node finds nothing in it, OSError where it is not let in."""
    for node in place.nodes or [Node.here()]:
        if not place.call(node, folder.list):
            raise ValueError(
                f"--data: {node.name} ({node.address}) finds nothing in {folder.name}: do all nodes share it?"
            )


def require_shared(place: Place, folder: Folder) -> None:
    """What a node writes, all read. Raises ValueError where one cannot write, or another cannot read it."""
    writer, *others = place.nodes or [Node.here()]
    place.call(writer, folder.require_writable)
    probe = f".check-{uuid.uuid4().hex[:8]}"
    place.call(writer, partial(folder.write, probe, probe.encode()))
    try:
        for node in others:
            if probe not in place.call(node, folder.list):
                raise ValueError(
                    f"--out: {folder.name} is not shared: what {writer.name} ({writer.address}) writes, {node.name} "
                    f"({node.address}) does not see: choose a file system that all nodes mount, or s3://"
                )
    finally:
        place.call(writer, partial(folder.delete, probe))
