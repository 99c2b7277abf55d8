"""From one value a note to a number worth printing: the mean, its interval and how many notes it rests on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """The mean of n values and its 95 % interval. `dataclasses.asdict` makes it JSON."""

    value: float
    n: int
    interval: tuple[float, float]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "Estimate":
        """The inverse of `dataclasses.asdict`, also after a trip through JSON, which makes lists of tuples."""
        low, high = entry["interval"]
        return cls(entry["value"], entry["n"], (low, high))


def bootstrap(values: Tensor | NDArray[Any], seed: int = 0, resamples: int = 1000) -> Estimate:
    """(n,), numbers or booleans -> their mean with the 95 % percentile bootstrap interval (Efron 1979).

    The same values and seed give the same interval. Memory is bounded, whatever n.
    """
    values_n = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    assert values_n.ndim == 1 and values_n.size, f"expected a vector of values, got shape {values_n.shape}"
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // values_n.size)
    means = [
        values_n[generator.integers(values_n.size, size=(min(rows, resamples - done), values_n.size))].mean(1)
        for done in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Estimate(float(values_n.mean()), values_n.size, (float(low), float(high)))
