"""Independent pieces of work over all CPUs of the cluster, by Ray Data."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pyarrow as pa
import ray.data
import torch

from mars_dist.distributed.runtime import connect
from mars_dist.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def over_cluster(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """work(item) for each item, in the order in which they are done. Raises what the work raises, but only OSError and
    ValueError as themselves."""
    connect()

    def run(batch: pa.Table) -> pa.Table:
        torch.set_num_threads(1)  # Ray starts a task for each CPU
        keep_freed_memory()
        try:
            result: Result | Exception = work(pickle.loads(batch["item"][0].as_py()))
        except (OSError, ValueError) as error:
            result = error
        return pa.table({"result": [pickle.dumps(result)]})

    rows = [{"item": pickle.dumps(item)} for item in items]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        run, batch_size=1, batch_format="pyarrow"
    )
    for row in done.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Exception):
            raise result
        yield result
