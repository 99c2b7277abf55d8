"""How often the training notes have each combination of conditions: what is not asked for is drawn from that.

The table is joint over all conditions, so that what is drawn fits together: an instrument its family and its range.
Suffixes: B notes, N combinations that occur, A conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from mars_dist.whole import whole

COUNTS = "counts"
STRONGEST_FIRST = ("instrument", "family", "source", "pitch", "velocity")
"""The order in which what is asked for is looked up; qualities come last."""


@dataclass(frozen=True)
class Histogram:
    """The combinations of conditions that occur among the training notes."""

    columns: dict[str, NDArray[np.int32]]
    """For each condition (N,) values."""
    counts_N: NDArray[np.int64]
    """Notes that have the combination."""

    @classmethod
    def of(cls, conditions: Mapping[str, Tensor]) -> "Histogram":
        """Count the conditions (B,) of all training notes."""
        rows_BA = np.stack([values_B.numpy() for values_B in conditions.values()], axis=1).astype(np.int32)
        rows_NA, counts_N = np.unique(rows_BA, axis=0, return_counts=True)
        return cls(dict(zip(conditions, np.ascontiguousarray(rows_NA.T), strict=True)), counts_N)

    def fill(self, conditions: Mapping[str, Tensor], ids: Sequence[int], seed: int) -> dict[str, Tensor]:
        """The conditions (B,), with what is not asked for drawn by (seed, the note's id) alone.

        It is taken from one combination, drawn by its count among those that have all that is asked for. Something
        that none of them has, such as a pitch beyond an instrument's range, stays asked for but is not looked at: what
        is asked for narrows the choice in the order of STRONGEST_FIRST, and is passed over where nothing would be left.
        """
        filled = {name: conditions[name].cpu().clone() for name in self.columns}
        for i, note in enumerate(ids):
            asked = {name: int(values_B[i]) for name, values_B in filled.items() if values_B[i] >= 0}
            if len(asked) == len(filled):
                continue
            counts_N = self.counts_N * self._matching(asked)
            rng = np.random.default_rng([seed % 2**32, note])
            row = counts_N.cumsum().searchsorted(rng.integers(counts_N.sum()), side="right")
            for name in filled.keys() - asked:
                filled[name][i] = int(self.columns[name][row])
        return filled

    def _matching(self, asked: Mapping[str, int]) -> NDArray[np.bool_]:
        matching_N = np.ones(len(self.counts_N), bool)
        for name in sorted(asked, key=lambda name: (*STRONGEST_FIRST, name).index(name)):
            narrower_N = matching_N & (self.columns[name] == asked[name])
            if narrower_N.any():
                matching_N = narrower_N
        return matching_N

    def save(self, path: Path) -> None:
        """A file of its own: NSynth's, with instruments, is a million lines of JSON."""
        with whole(path) as half_written:
            save_file(self.columns | {COUNTS: self.counts_N}, half_written)

    @classmethod
    def load(cls, path: Path, cardinalities: Mapping[str, int]) -> "Histogram":
        """Raises ValueError where the file is missing, damaged, or of other conditions."""
        if not path.exists():
            raise ValueError(f"{path}: there is no such file: give the whole --out of mars train-ar")
        try:
            columns = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: damaged ({error}): copy it again") from error
        if columns.keys() != cardinalities.keys() | {COUNTS}:
            raise ValueError(f"{path}: has columns {', '.join(columns)}: it belongs to another model")
        counts_N = columns.pop(COUNTS)
        largest = [(counts_N, np.iinfo(np.int64).max), *((columns[name], cardinalities[name]) for name in columns)]
        if counts_N.ndim != 1 or not counts_N.any() or not all(counted(*pair, len(counts_N)) for pair in largest):
            raise ValueError(f"{path}: damaged (what it holds are no counts of notes): copy it again")
        return cls(columns, counts_N)


def counted(column: NDArray[Any], limit: int, num: int) -> bool:
    """Whether these are `num` whole numbers from 0 to below the limit."""
    whole = np.issubdtype(column.dtype, np.integer)
    return whole and column.shape == (num,) and bool(((column >= 0) & (column < limit)).all())
