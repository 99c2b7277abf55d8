"""From notes to a number worth printing: a mean or a score, its interval and how many notes it rests on.

Suffixes: n notes, u units (notes that hang together), R resamples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
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


def bootstrap(
    values: Tensor | NDArray[Any], seed: int = 0, resamples: int = 1000, unit_n: NDArray[np.int64] | None = None
) -> Estimate:
    """(n,) -> their mean with the 95 % percentile bootstrap interval (Efron 1979).

    `unit_n` numbers what is drawn, from 0, such as instruments, each with all its notes (Davison and Hinkley 1997,
    section 3.8); unless given, and where there is one alone, notes. The interval is widened to Student's t. The same
    values and seed give the same interval. Memory is bounded, whatever n.
    """
    values_n = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    assert values_n.ndim == 1 and values_n.size, f"expected a vector of values, got shape {values_n.shape}"
    size_u, sum_u = of_units(values_n, unit_n)
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // size_u.size)
    means = []
    for done in range(0, resamples, rows):
        drawn_Ru = generator.integers(size_u.size, size=(min(rows, resamples - done), size_u.size))
        means.append(sum_u[drawn_Ru].sum(1) / size_u[drawn_Ru].sum(1))
    mean = values_n.mean()
    low, high = mean + widening(size_u.size) * (np.quantile(np.concatenate(means), (0.025, 0.975)) - mean)
    return Estimate(float(mean), values_n.size, (float(low), float(high)))


def share(values: Tensor, unit_n: NDArray[np.int64] | None = None) -> Estimate:
    """(n,) booleans -> the share of those that are true, with Wilson's 95 % interval (1927).

    A bootstrap would draw nothing else from values that are all alike, and call three hits of three certain. Notes of
    one unit (as for `bootstrap`) are right or wrong together: as many count as would by themselves leave the share as
    uncertain as these do, by Student's t for the few units (Korn and Graubard 1998).
    """
    n, hits, z = len(values), int(values.sum()), STANDARD_ERRORS
    p, counting = hits / n, effective_number(values.double().numpy(), unit_n)
    centre = (p * counting + z**2 / 2) / (counting + z**2)
    half = z * math.sqrt(p * (1 - p) * counting + z**2 / 4) / (counting + z**2)
    return Estimate(p, n, (max(centre - half, 0.0), min(centre + half, 1.0)))


def effective_number(values_n: NDArray[np.float64], unit_n: NDArray[np.int64] | None) -> float:
    """Of independent notes whose share would be as uncertain.

    Two units are added, one all right and one all wrong: else a single wrong note would make units that are otherwise
    all right look as if their notes did not hang together.
    """
    size_u, sum_u = of_units(values_n, unit_n)
    n, units, mean_size = values_n.size, size_u.size, size_u.mean()
    if units == n:
        return n
    size_u, sum_u = np.append(size_u, [mean_size, mean_size]), np.append(sum_u, [mean_size, 0])
    p = sum_u.sum() / size_u.sum()
    variance = widening(units) ** 2 * np.square(sum_u - p * size_u).sum() / size_u.sum() ** 2
    return float(min(n, p * (1 - p) / variance))


def widening(units: int) -> float:
    """To Student's t, of the interval of so many that were drawn: they differ less than others would, and the fewer
    they are the less is known of how others do. One alone tells nothing of it."""
    return math.sqrt(units / (units - 1)) * float(stdtrit(units - 1, 0.975)) / STANDARD_ERRORS if units > 1 else 1.0


def of_units(values_n: NDArray[np.float64], unit_n: NDArray[np.int64] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many values each unit has, and their sum. Of a single unit, what others give is not known: as of notes."""
    if unit_n is None or not unit_n.any():
        return np.ones_like(values_n), values_n
    return np.bincount(unit_n), np.bincount(unit_n, values_n)


def bootstrap_set(
    score: Callable[..., Tensor],
    *sizes: int,
    units: Sequence[NDArray[np.int64]] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> Estimate:
    """The score of one or more sets of so many notes, with a 95 % bootstrap interval: each set is drawn anew.

    `score` takes how often each note counts, (R, n) float64 for each set, and gives (R,) scores: ones are the set
    itself. `units` numbers for each set, from 0 over all of them, what is drawn, such as instruments, which have notes
    in several sets: unless given, and where there is one alone, each set's notes. Drawn sets hold notes more than once,
    for which many scores are higher or lower as a whole. So the interval is value + (quantile - mean) of the drawn
    scores, widened to Student's t: it lies about the value, and may reach beyond the score's range. Distances between
    sets of one kind have intervals about twice too wide. Draws whose score is NaN, and such as leave a set fewer than
    two notes, are left out. The same sizes and seed draw the same notes.
    """
    generator = np.random.default_rng(seed)
    value = score(*(torch.ones(1, n, dtype=torch.float64) for n in sizes)).item()
    if units is None or not any(unit_n.any() for unit_n in units):
        number = sum(sizes)
        counts = [generator.multinomial(n, np.full(n, 1 / n), size=resamples) for n in sizes]
    else:
        number = 1 + max(unit_n.max() for unit_n in units)
        drawn_Ru = generator.multinomial(number, np.full(number, 1 / number), size=resamples)
        counts = [drawn_Ru[:, unit_n] for unit_n in units]
    enough_R = np.all([counts_Rn.sum(1) > 1 for counts_Rn in counts], axis=0)
    drawn_R = score(*(torch.from_numpy(counts_Rn[enough_R]).double() for counts_Rn in counts)).numpy()
    low, high = value + widening(number) * (np.nanquantile(drawn_R, (0.025, 0.975)) - np.nanmean(drawn_R))
    return Estimate(value, sum(sizes), (float(low), float(high)))
