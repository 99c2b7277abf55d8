"""In which order training sees the rows of a split. Numbers alone: nothing is read.

A pass puts the row groups into a random order, and each row of a group comes somewhere among the `span` groups that
follow, round to the start of the pass: so rows are shuffled across the data set, while little more than `span` groups
are in use at a time, and as one ends another begins. Where `span` is all there are, it is a plain shuffle.

Suffix: R rows of a pass.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max


class Pass(NamedTuple):
    """One pass through the rows: of each place in it."""

    rows_R: NDArray[np.int64]
    slots_R: NDArray[np.int64]
    """Which of the `span` groups in use at a time the row's group is."""
    ends_R: NDArray[np.int64]
    """The place in the endless order from which on this pass needs the row's group no more."""


class Order:
    """The endless order of rows, pass after pass; it depends on the seed alone."""

    def __init__(self, sizes: Sequence[int], window_rows: int, seed: int) -> None:
        """`sizes`: the rows of each group."""
        self.sizes, self.num_rows, self.seed = np.array(sizes), sum(sizes), seed
        self.span = min(len(sizes), max(1, round(window_rows / max(sizes))))
        self.in_pass = lru_cache(maxsize=2)(self._in_pass)

    def batch(self, step: int, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of the global batch of a step, and from which place on each one's group is needed no more.

        A batch goes through the slots in their order: the same slice of each batch is in few groups.
        """
        passes, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), self.num_rows)
        parts = [[field[places[passes == one]] for field in self.in_pass(int(one))] for one in np.unique(passes)]
        rows, slots, ends = (np.concatenate(fields) for fields in zip(*parts, strict=True))
        in_order = np.lexsort((rows, slots, passes))
        return rows[in_order], ends[in_order]

    def _in_pass(self, index: int) -> Pass:
        rng = np.random.default_rng([self.seed, index])
        num_groups = len(self.sizes)
        turn_R = np.repeat(rng.permutation(num_groups), self.sizes)
        moment_R = turn_R + self.span * rng.random(self.num_rows)
        rows_R = np.argsort(moment_R % num_groups, kind="stable")  # the same on every kind of CPU
        # A group that goes round the end is one there, and another one at the start.
        use_R = np.repeat(np.arange(num_groups), self.sizes) + num_groups * (moment_R >= num_groups)
        _, from_end, use_R = np.unique(use_R[rows_R[::-1]], return_index=True, return_inverse=True)
        ends_R = (index + 1) * self.num_rows - from_end[use_R[::-1]]
        all_fit = self.span == num_groups
        return Pass(rows_R, turn_R[rows_R] % self.span, np.full_like(ends_R, NEVER) if all_fit else ends_R)
