"""The endless stream of training batches: (seed, step) gives the global batch, a worker takes its slice.

A slice lies in few row groups (order.py), so workers share the reading as they share the work.
"""

import math
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mars_dist import noise
from mars_dist.config import TrainConfig
from mars_dist.dataset import ROWS_IN_GROUP, Columns
from mars_dist.rows import Rows, evenly
from mars_dist.training.order import Order

Batch = dict[str, torch.Tensor]
PREFETCH = 2
"""Batches that are made ahead."""


class Timed(NamedTuple):
    """A batch and the seconds that the loop waited for it."""

    batch: Batch
    waited: float


class Kept(NamedTuple):
    """A row group that is read, or being read."""

    columns: Future[Columns]
    until: int
    """The place in the order of rows from which on it is needed no more."""


class Batches:
    """Batches of one split, for any number of workers and from any step.

    `prepare` makes tensors of columns, in the thread that reads ahead.
    """

    def __init__(self, rows: Rows, columns: list[str], prepare: Callable[[Columns], Batch], train: TrainConfig) -> None:
        self.rows, self.columns, self.prepare, self.batch_size = rows, columns, prepare, train.batch_size
        self.order = Order([group.num_rows for group in rows.groups], train.shuffle_rows, train.seed)
        self.readers = ThreadPoolExecutor(rows.folder.at_once)
        self.kept: dict[int, Kept] = {}

    def global_rows(self, step: int) -> NDArray[np.int64]:
        """The rows, numbered through the split, of the global batch of a step."""
        return self.order.batch(step, self.batch_size)[0]

    def slice_of(self, rank: int, world_size: int) -> slice:
        """A worker's places in the global batch."""
        return slice(*(worker * self.batch_size // world_size for worker in (rank, rank + 1)))

    def load(self, step: int, rank: int, world_size: int) -> Batch:
        """The worker's slice of the global batch of a step, and each row's place in that batch."""
        self.ask(step, rank, world_size)
        mine = self.slice_of(rank, world_size)
        rows = self.global_rows(step)[mine]
        columns = self.columns_of(rows)
        self.kept = {group: kept for group, kept in self.kept.items() if kept.until > (step + 1) * self.batch_size}
        return self.prepare(columns) | {"place": torch.arange(self.batch_size)[mine]}

    def ask(self, step: int, rank: int, world_size: int, most_kept: float = math.inf) -> bool:
        """Begin to read the row groups of a worker's slice, until so many are kept. Returns whether all are begun."""
        rows, ends = (values[self.slice_of(rank, world_size)] for values in self.order.batch(step, self.batch_size))
        for group, end in zip(self.rows.group_of(rows).tolist(), ends.tolist(), strict=True):
            if group not in self.kept:
                if len(self.kept) >= most_kept:
                    return False
                self.kept[group] = Kept(self.begin(group), end)
            self.kept[group] = self.kept[group]._replace(until=max(self.kept[group].until, end))
        return True

    def begin(self, group: int) -> Future[Columns]:
        return self.readers.submit(self.rows.read_group, self.rows.groups[group], self.columns)

    def columns_of(self, rows: NDArray[np.int64]) -> Columns:
        """Of rows whose groups were asked for."""
        groups = self.rows.group_of(rows)
        places = zip(groups.tolist(), rows - self.rows.starts[groups], strict=True)
        found = [(self.kept[group].columns.result(), inside) for group, inside in places]
        return {name: np.stack([columns[name][i] for columns, i in found]) for name in self.columns}

    def names(self, step: int, rank: int, world_size: int) -> list[str]:
        """The notes of a worker's slice."""
        mine = self.global_rows(step)[self.slice_of(rank, world_size)]
        names: list[str] = self.rows.take(mine, ["note_str"])["note_str"].tolist()
        return names

    def stream(self, first_step: int, rank: int, world_size: int) -> Generator[Timed, None, None]:
        """The worker's batches from a step on, read ahead in threads; pinned, for a GPU to copy while it works."""
        groups_a_step = self.batch_size / ROWS_IN_GROUP
        groups_ahead = self.rows.folder.at_once
        most_kept = self.order.span + groups_ahead + math.ceil(groups_a_step)
        steps_ahead = math.ceil(groups_ahead * world_size / groups_a_step)
        asked = first_step

        def fetch(step: int) -> Batch:
            nonlocal asked
            while asked <= step + steps_ahead and self.ask(asked, rank, world_size, most_kept):
                asked += 1
            batch = self.load(step, rank, world_size)
            asked = max(asked, step + 1)
            return {name: x.pin_memory() for name, x in batch.items()} if torch.cuda.is_available() else batch

        with ThreadPoolExecutor(max_workers=1) as maker:
            steps = count(first_step)
            ahead: list[Future[Batch]] = [maker.submit(fetch, next(steps)) for _ in range(PREFETCH)]
            while True:
                before = perf_counter()
                batch = ahead.pop(0).result()
                waited = perf_counter() - before
                ahead.append(maker.submit(fetch, next(steps)))
                yield Timed(batch, waited)


class HeldOut:
    """Rows that lie evenly over a split: the same ones at any time, so they are read once and kept.

    To read a row means to decode its whole group.
    """

    def __init__(self, rows: Rows, columns: list[str], prepare: Callable[[Columns], Batch]) -> None:
        self.rows, self.columns, self.prepare = rows, columns, prepare
        self.evenly = lru_cache(maxsize=2)(self._evenly)

    def _evenly(self, num_rows: int, rank: int, world_size: int) -> Batch:
        """A worker's slice of about `num_rows` rows: the same ones, less a few, for other numbers of workers.

        What was measured on as many is the best so far for those that follow.
        """
        num = self.num_evenly(num_rows, world_size)
        numbers = evenly(self.rows.num_rows, max(min(num_rows, self.rows.num_rows), num))[:num]
        return self.prepare(self.rows.take(np.array_split(numbers, world_size)[rank], self.columns))

    def num_evenly(self, num_rows: int, world_size: int) -> int:
        """As many for each worker, and one at least: of very few rows several workers have the same."""
        return max(1, min(num_rows, self.rows.num_rows) // world_size) * world_size


def require_rows(config: TrainConfig, workers: int) -> None:
    """Raises ValueError where a worker would have no row of the global batch for each part that it computes.

    Workers need not divide the batch: some then have a row more than others.
    """
    if config.batch_size < workers * config.accumulate:
        raise ValueError(
            f"train.batch_size: {config.batch_size} rows are too few for {workers} workers with train.accumulate = "
            f"{config.accumulate}: choose at least {workers * config.accumulate}, or fewer --workers"
        )


def rows_at_once(config: TrainConfig, workers: int) -> int:
    """The most that a worker computes at a time, in training and in validation.

    Raises ValueError where one would have none.
    """
    require_rows(config, workers)
    return math.ceil(config.batch_size / workers / config.accumulate)


def parts_of(batch: Batch, num: int) -> list[Batch]:
    """Cut along its rows, as evenly as it goes."""
    pieces = {name: values.tensor_split(num) for name, values in batch.items()}
    return [{name: pieces[name][i] for name in batch} for i in range(num)]


def keyed_uniform(seed: int, step: int, places: torch.Tensor, num: int, stream: int = 0) -> torch.Tensor:
    """(B, num) uniform noise in [0, 1) that depends on (seed, stream, step, place in the global batch) alone.

    It is computed where the places lie.
    """
    key_B = noise.keys(seed, (stream << 60) + (step << 24) + places)
    return noise.uniform(key_B[:, None], torch.arange(num, device=places.device))
