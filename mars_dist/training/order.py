"""In which order training sees the rows of a split. Numbers alone: nothing is read.

A pass puts the row groups into a random order, and each row of a group comes somewhere among the `span` groups that
follow, round to the start of the pass: so rows are shuffled across the data set, while little more than `span` groups
are in use at a time, and as one ends another begins. Where `span` is all there are, it is a plain shuffle.

Suffixes: R rows of a pass, G groups, U uses of a group, two of each.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max


class Pass(NamedTuple):
    """One pass through the rows. A group that goes round the end is in use twice: at the start, and at the end."""

    rows_R: NDArray[np.int64]
    """In their order."""
    use_R: NDArray[np.int32]
    """By the number of a row: that of its group, and of which of both uses."""
    slots_U: NDArray[np.int64]
    """Which of the `span` groups in use at a time it is."""
    ends_U: NDArray[np.int64]
    """The place in the endless order from which on this pass needs the group no more."""


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
        parts = [self.at(int(one), places[passes == one]) for one in np.unique(passes)]
        rows, slots, ends = (np.concatenate(fields) for fields in zip(*parts, strict=True))
        in_order = np.lexsort((rows, slots, passes))
        return rows[in_order], ends[in_order]

    def at(self, index: int, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """The rows at these places of a pass, their slots, and where their groups' use ends."""
        found = self.in_pass(index)
        rows = found.rows_R[places]
        uses = found.use_R[rows]
        return rows, found.slots_U[uses], found.ends_U[uses]

    def _in_pass(self, index: int) -> Pass:
        rng = np.random.default_rng([self.seed, index])
        num_groups = len(self.sizes)
        turns_G = rng.permutation(num_groups)
        moment_R = np.repeat(turns_G, self.sizes) + self.span * rng.random(self.num_rows)
        use_R = np.repeat(np.arange(num_groups, dtype=np.int32), self.sizes)
        use_R[moment_R >= num_groups] += num_groups
        rows_R = np.argsort(moment_R % num_groups, kind="stable")  # the same on every kind of CPU
        ends_U = np.full(2 * num_groups, NEVER if self.span == num_groups else 0)
        np.maximum.at(ends_U, use_R[rows_R], index * self.num_rows + np.arange(1, self.num_rows + 1))
        return Pass(rows_R, use_R, np.tile(turns_G % self.span, 2), ends_U)
