"""The endless stream of training batches: (seed, step) gives the global batch, a worker takes its slice.

Rows are shuffled across shards without holding the data set in memory: row groups in random order are put together to
windows of about `window_rows` rows, and rows are shuffled within a window.
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

from mars_dist.config import TrainConfig
from mars_dist.dataset import Columns, Rows

Batch = dict[str, torch.Tensor]
PREFETCH = 2


class Timed(NamedTuple):
    """A batch and the seconds that the loop waited for it."""

    batch: Batch
    waited: float


class Batches:
    """Batches of one split, for any number of workers and from any step.

    `prepare` makes tensors of columns, in the reading thread.
    """

    def __init__(
        self,
        rows: Rows,
        columns: list[str],
        prepare: Callable[[Columns], Batch],
        batch_size: int,
        seed: int,
        window_rows: int,
    ) -> None:
        self.rows, self.columns, self.prepare = rows, columns, prepare
        self.batch_size, self.seed = batch_size, seed
        sizes = [group.num_rows for group in rows.groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.window_groups = max(1, round(window_rows / max(sizes)))
        self.order = lru_cache(maxsize=2)(self._order)
        self.group = lru_cache(maxsize=self.window_groups + 2)(lambda i: rows.read_group(rows.groups[i], columns))

    def global_rows(self, step: int) -> NDArray[np.int64]:
        """The rows, numbered through the split, of the global batch of a step."""
        num_rows = self.starts[-1]
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self.order(int(place // num_rows))[place % num_rows] for place in places])

    def load(self, step: int, rank: int, world_size: int) -> Batch:
        """The worker's slice of the global batch of a step, and each row's place in that batch."""
        mine = self.slice_of(rank, world_size)
        batch = self.read(self.global_rows(step)[mine])
        return batch | {"place": torch.arange(self.batch_size)[mine]}

    def slice_of(self, rank: int, world_size: int) -> slice:
        """A worker's places in the global batch."""
        return slice(*(worker * self.batch_size // world_size for worker in (rank, rank + 1)))

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """The given rows of the split."""
        found = [(self.group(group), row) for group, row in self.located(rows)]
        return self.prepare({name: np.stack([columns[name][i] for columns, i in found]) for name in self.columns})

    def names(self, step: int, rank: int, world_size: int) -> list[str]:
        """The notes of a worker's slice."""
        located = self.located(self.global_rows(step)[self.slice_of(rank, world_size)])
        return [str(self.rows.read_group(self.rows.groups[group], ["note_str"])["note_str"][i]) for group, i in located]

    def located(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """The row group of each row, and its place within."""
        groups = np.searchsorted(self.starts, rows, side="right") - 1
        return [(int(group), int(row - self.starts[group])) for group, row in zip(groups, rows, strict=True)]

    def evenly(self, num_rows: int, rank: int, world_size: int) -> Batch:
        """A worker's slice of about `num_rows` rows that lie evenly over the split: the same ones at any time."""
        rows = np.linspace(0, self.starts[-1] - 1, self.num_evenly(num_rows, world_size)).round().astype(np.int64)
        return self.read(np.array_split(rows, world_size)[rank])

    def num_evenly(self, num_rows: int, world_size: int) -> int:
        """As many for each worker, and one at least: of very few rows several workers have the same."""
        return max(1, min(num_rows, int(self.starts[-1])) // world_size) * world_size

    def stream(self, first_step: int, rank: int, world_size: int) -> Generator[Timed, None, None]:
        """The worker's batches from a step on, read ahead in a thread; pinned, for a GPU to copy while it works."""

        def fetch(step: int) -> Batch:
            batch = self.load(step, rank, world_size)
            return {name: x.pin_memory() for name, x in batch.items()} if torch.cuda.is_available() else batch

        with ThreadPoolExecutor(max_workers=1) as reader:
            steps = count(first_step)
            ahead: list[Future[Batch]] = [reader.submit(fetch, next(steps)) for _ in range(PREFETCH)]
            while True:
                before = perf_counter()
                batch = ahead.pop(0).result()
                waited = perf_counter() - before
                ahead.append(reader.submit(fetch, next(steps)))
                yield Timed(batch, waited)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, epoch])
        groups = rng.permutation(len(self.rows.groups))
        windows = [groups[i : i + self.window_groups] for i in range(0, len(groups), self.window_groups)]
        rows_of = lambda group: np.arange(int(self.starts[group]), int(self.starts[group + 1]))  # noqa: E731
        return np.concatenate([rng.permutation(np.concatenate([rows_of(g) for g in window])) for window in windows])


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
    """(B, num) uniform noise in [0, 1) that depends on (seed, stream, step, place in the global batch) alone."""
    keys = [[seed, (stream << 60) + (step << 24) + int(place)] for place in places]
    rows = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
    return torch.from_numpy(np.stack([row.random(num, dtype=np.float32) for row in rows]))
