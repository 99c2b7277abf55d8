"""Independent pieces of work over all CPUs or GPUs of the cluster, by Ray Data."""

import math
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from mars_dist.distributed.runtime import MOST_LOSSES, connect
from mars_dist.memory import keep_freed_memory

Item = TypeVar("Item")
Between = TypeVar("Between")
Result = TypeVar("Result")
LOST = (NodeDiedError, OutOfMemoryError, WorkerCrashedError)
TASKS_OF_EACH, MOST_ITEMS = 4, 8
"""Tasks for each CPU or part of a GPU, one after the other, and items of a task. Ray Data takes up to a fifth of a
second to notice that a task has ended, and Ray starts a process for each with a GPU, so a task has several items; few
enough for all to end at about the same time, and for little to be done again where a machine is lost."""
OF_A_GPU = 0.25
"""What a task takes of the GPU that its model runs on: while one computes there others read, measure and write."""
READING = 0.01
"""CPUs: who reads waits most of the time for those who work. (And what asks for less is not fused with them.)"""


def over_cluster(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """work(item) for each item, in the order in which they are done. Raises what the work raises, but only OSError and
    ValueError as themselves; ValueError where work is lost again and again."""
    yield from _over(work, items, of_a_gpu=0)


def over_gpus(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The same for work that runs a model: on the cluster's GPUs, where it has any."""
    yield from _over(work, items, OF_A_GPU)


def stream_over_cluster(
    read: Callable[[Item], Iterator[Between]], work: Callable[[Between], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """work(x) for each x in read(item) for each item: one process reads on while others work on what it has read."""
    connect()
    items = list(items)
    rows = _map(_rows(items, len(items)), read, num_cpus=READING)
    yield from _results(_map(rows, lambda item: iter([work(item)])))


def _over(work: Callable[[Item], Result], items: Iterable[Item], of_a_gpu: float) -> Iterator[Result]:
    if not (items := list(items)):  # Ray makes no data set of nothing
        return
    connect()
    there = ray.cluster_resources()
    of_a_gpu = of_a_gpu if "GPU" in there else 0
    rows = _rows(items, num_tasks(len(items), there, of_a_gpu))
    rows = _map(rows, lambda item: iter([work(item)]), num_gpus=of_a_gpu)
    rows.context.target_max_block_size = 1  # each result is handed over when it is there, not with its task's last
    yield from _results(rows)


def num_tasks(num_items: int, there: Mapping[str, float], of_a_gpu: float) -> int:
    """How many tasks the items are handed to, by how many tasks run at once where there are such resources."""
    at_once = there["GPU"] / of_a_gpu if of_a_gpu else there.get("CPU", 0)
    return min(num_items, max(TASKS_OF_EACH * int(at_once), math.ceil(num_items / MOST_ITEMS)))


def _rows(items: Sequence[Any], num_blocks: int) -> ray.data.Dataset:
    """Of the cluster that this process is connected to."""
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = -1  # else half an hour's work is an error
    return ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=num_blocks)


def _map(rows: ray.data.Dataset, work: Callable[[Any], Iterator[Any]], **options: Any) -> ray.data.Dataset:
    """Item by item."""
    with warnings.catch_warnings():  # Ray has no name of its own yet for the number of losses
        warnings.simplefilter("ignore", RayDeprecationWarning)
        each = _on_each(work)
        return rows.map_batches(each, batch_size=1, batch_format="pyarrow", max_retries=MOST_LOSSES, **options)


def _on_each(work: Callable[[Any], Iterator[Any]]) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Rows to rows; what has failed before is handed on."""

    def run(batch: pa.Table) -> Iterator[pa.Table]:
        torch.set_num_threads(1)  # Ray starts a task for each CPU
        keep_freed_memory()
        item = pickle.loads(batch["item"][0].as_py())
        try:
            if isinstance(item, Exception):
                raise item
            for result in work(item):
                yield pa.table({"item": pa.array([pickle.dumps(result)], pa.large_binary())})
        except (OSError, ValueError) as error:
            yield pa.table({"item": pa.array([pickle.dumps(error)], pa.large_binary())})

    return run


def _results(rows: ray.data.Dataset) -> Iterator[Any]:
    try:
        for row in rows.iter_rows():
            result = pickle.loads(row["item"])
            if isinstance(result, Exception):
                raise result
            yield result
    except LOST as error:
        raise ValueError(
            f"the same work was lost {MOST_LOSSES + 1} times with its process or machine: has each machine the memory "
            "for a task on each of its CPUs? The same command goes on from what is finished"
        ) from error
