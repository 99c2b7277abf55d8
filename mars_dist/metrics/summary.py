"""From notes to a number worth printing: a mean or a score, its interval and how many notes it rests on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DRAWS_AT_ONCE = 1 << 22
STANDARD_ERRORS = NormalDist().inv_cdf(0.975)
"""To either side, in which 95 % lie."""


@dataclass(frozen=True)
class Estimate:
    """The mean of n notes' values, or a score of n notes, and its 95 % interval. `dataclasses.asdict` makes it JSON."""

    value: float
    n: int
    interval: tuple[float, float]


def bootstrap(values: Tensor | NDArray[Any], seed: int = 0, resamples: int = 1000) -> Estimate:
    """(n,) -> their mean with the 95 % percentile bootstrap interval (Efron 1979).

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


def share(values: Tensor) -> Estimate:
    """(n,) booleans -> the share of those that are true, with Wilson's 95 % interval (1927).

    A bootstrap would draw nothing else from values that are all alike, and call three hits of three certain.
    """
    n, hits, z = len(values), int(values.sum()), STANDARD_ERRORS
    centre, half = (hits + z**2 / 2) / (n + z**2), z * math.sqrt(hits * (n - hits) / n + z**2 / 4) / (n + z**2)
    return Estimate(hits / n, n, (max(centre - half, 0.0), min(centre + half, 1.0)))


def bootstrap_set(score: Callable[..., Tensor], *sizes: int, seed: int = 0, resamples: int = 200) -> Estimate:
    """The score of one or more sets of so many notes, with a 95 % bootstrap interval: each set is drawn anew.

    `score` takes how often each note counts, (R, n) float64 for each set, and gives (R,) scores: ones are the set
    itself. Drawn sets hold notes more than once, for which many scores are higher or lower as a whole. So the interval
    is value + (quantile - mean) of the drawn scores: it lies about the value, and may reach beyond the score's range.
    Distances between sets of one kind have intervals about twice too wide. Draws whose score is NaN are left out. The
    same sizes and seed draw the same notes.
    """
    generator = np.random.default_rng(seed)
    value = score(*(torch.ones(1, n, dtype=torch.float64) for n in sizes)).item()
    counts = (generator.multinomial(n, np.full(n, 1 / n), size=resamples) for n in sizes)
    drawn_R = score(*(torch.from_numpy(counts_Rn).double() for counts_Rn in counts)).numpy()
    low, high = value + np.nanquantile(drawn_R, (0.025, 0.975)) - np.nanmean(drawn_R)
    return Estimate(value, sum(sizes), (float(low), float(high)))
