"""Means with their bootstrap intervals."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

from mars_dist.metrics import summary
from mars_dist.metrics.summary import bootstrap, bootstrap_set, share


def test_the_interval_is_that_of_the_mean() -> None:
    values_n = np.random.default_rng(1).normal(5, 2, 400)
    estimate = bootstrap(values_n)
    half = 1.96 * values_n.std() / 20
    assert estimate.value == pytest.approx(values_n.mean())
    assert estimate.n == 400
    assert estimate.interval == pytest.approx((values_n.mean() - half, values_n.mean() + half), abs=0.15 * half)


def test_nineteen_intervals_of_twenty_hold_the_truth() -> None:
    rng = np.random.default_rng(2)
    intervals = [bootstrap(rng.exponential(1.0, 100), seed).interval for seed in range(200)]
    assert 0.88 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.98


@pytest.mark.parametrize("num_notes", [2, 3, 10])
def test_nineteen_intervals_of_twenty_hold_the_truth_where_notes_are_few(num_notes: int) -> None:
    rng, held = np.random.default_rng(3), list[tuple[bool, bool]]()
    for seed in range(300):
        values_n = rng.normal(size=num_notes)
        score = mean_of(torch.from_numpy(values_n))
        found = bootstrap(values_n, seed, 300), bootstrap_set(score, num_notes, seed=seed, resamples=300)
        held.append(tuple(low <= 0 <= high for low, high in (one.interval for one in found)))
    assert np.all((np.mean(held, axis=0) >= 0.91) & (np.mean(held, axis=0) <= 0.98))


def test_the_seed_alone_decides() -> None:
    values_n = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert bootstrap(values_n, seed=3) == bootstrap(values_n, seed=3)
    assert bootstrap(values_n, seed=3).interval != bootstrap(values_n, seed=4).interval


def test_bounded_memory_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values_n = np.random.default_rng(0).random(40)
    at_once = bootstrap(values_n)
    monkeypatch.setattr(summary, "DRAWS_AT_ONCE", 100)
    assert bootstrap(values_n) == at_once


def test_booleans_are_shares() -> None:
    estimate = share(torch.tensor([True, True, False, True]))
    assert estimate.value == 0.75
    assert 0 <= estimate.interval[0] < 0.75 < estimate.interval[1] <= 1


@pytest.mark.parametrize("num_hits", [0, 3, 47, 50])
def test_the_interval_of_a_share_is_statisticians(num_hits: int) -> None:
    expected = scipy.stats.binomtest(num_hits, 50).proportion_ci(method="wilson")
    estimate = share(torch.arange(50) < num_hits)
    assert (estimate.value, estimate.n) == (num_hits / 50, 50)
    assert estimate.interval == pytest.approx((expected.low, expected.high))


def mean_of(values_n: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda weight_Rn: weight_Rn @ values_n / weight_Rn.sum(1)


def test_the_mean_as_a_score_has_the_interval_of_the_mean() -> None:
    values_n = torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    expected = bootstrap(values_n, resamples=4000)
    estimate = bootstrap_set(mean_of(values_n), 300, resamples=4000)
    assert estimate.value == pytest.approx(expected.value) and estimate.n == 300
    assert estimate.interval == pytest.approx(expected.interval, abs=0.01)


def test_each_set_is_drawn_by_itself() -> None:
    values_n, others_m = (
        torch.randn(200, generator=torch.Generator().manual_seed(0)).double(),
        torch.arange(50).double(),
    )
    first, second = mean_of(values_n), mean_of(others_m)
    both = bootstrap_set(lambda w_Rn, w_Rm: first(w_Rn) - second(w_Rm), 200, 50, resamples=2000)
    half = 1.96 * math.sqrt(values_n.var(correction=0) / 200 + others_m.var(correction=0) / 50)
    assert both.n == 250
    assert both.interval == pytest.approx((both.value - half, both.value + half), abs=0.1 * half)


def test_the_interval_of_a_score_that_draws_make_larger_is_centred() -> None:
    # Copies among the draws: the largest share of one note is 1 / 50 for the set, and 2 to 6 of 50 for the draws.
    estimate = bootstrap_set(lambda weight_Rn: weight_Rn.amax(1) / 50, 50)
    assert estimate.value == pytest.approx(1 / 50)
    assert estimate.interval[0] < estimate.value < estimate.interval[1] < 4 / 50


def test_draws_without_a_score_are_left_out() -> None:
    def score(weight_Rn: torch.Tensor) -> torch.Tensor:
        return torch.where(weight_Rn[:, 0] > 2, torch.nan, weight_Rn[:, 0])

    estimate = bootstrap_set(score, 20)
    assert np.isfinite(estimate.interval).all() and estimate.value == 1


def test_the_seed_alone_decides_for_sets() -> None:
    score = mean_of(torch.arange(30).double())
    assert bootstrap_set(score, 30, seed=3) == bootstrap_set(score, 30, seed=3)
    assert bootstrap_set(score, 30, seed=3).interval != bootstrap_set(score, 30, seed=4).interval


# ---- notes that hang together


def draw(num_units: int, rng: np.random.Generator) -> np.ndarray:
    """The numbers of notes' instruments, from 5 to 13 of each."""
    return np.repeat(np.arange(num_units), rng.integers(5, 14, num_units))


def test_nineteen_intervals_of_twenty_hold_the_share_of_other_instruments() -> None:
    """Each is right in a share of its own, as far as not always or never: of notes alone half of the intervals do."""
    rng, held = np.random.default_rng(0), list[tuple[bool, bool]]()
    for _ in range(300):
        unit_n = draw(15, rng)
        right_n = torch.from_numpy(rng.random(unit_n.size) < rng.choice([1.0, 1.0, 1.0, 0.5, 0.0], 15)[unit_n])
        intervals = share(right_n, unit_n).interval, share(right_n).interval
        held.append(tuple(low <= 0.7 <= high for low, high in intervals))
    of_instruments, of_notes = np.mean(held, axis=0)
    assert 0.91 <= of_instruments <= 0.98 and of_notes < 0.7


@pytest.mark.parametrize("num_units", [3, 11, 25])
def test_nineteen_intervals_of_twenty_hold_the_mean_of_other_instruments(num_units: int) -> None:
    rng, held = np.random.default_rng(1), list[tuple[bool, bool]]()
    for _ in range(200):
        unit_n = draw(num_units, rng)
        values_n = rng.normal(size=num_units)[unit_n] + rng.normal(size=unit_n.size)
        found = bootstrap(values_n, resamples=300, unit_n=unit_n), bootstrap(values_n, resamples=300)
        held.append(tuple(one.interval[0] <= 0 <= one.interval[1] for one in found))
    of_instruments, of_notes = np.mean(held, axis=0)
    assert 0.91 <= of_instruments <= 0.98 and of_notes < 0.75


@pytest.mark.parametrize("num_units", [2, 3, 5])
def test_intervals_of_sets_scores_hold_that_of_other_instruments(num_units: int) -> None:
    rng, held = np.random.default_rng(1), list[bool]()
    for _ in range(300):
        unit_n = draw(num_units, rng)
        values_n = torch.from_numpy(rng.normal(size=num_units)[unit_n] + rng.normal(size=unit_n.size))
        low, high = bootstrap_set(mean_of(values_n), unit_n.size, units=[unit_n]).interval
        held.append(low <= 0 <= high)
    assert 0.91 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("right", [True, False])
def test_of_notes_that_are_all_alike_about_one_an_instrument_counts(right: bool) -> None:
    unit_n = np.repeat(np.arange(30), 10)
    estimate, of_thirty = share(torch.full((300,), right), unit_n), share(torch.full((30,), right))
    assert (estimate.value, estimate.n) == (float(right), 300)
    assert estimate.interval == pytest.approx(of_thirty.interval, abs=0.01)


def test_a_single_wrong_note_makes_an_interval_no_narrower() -> None:
    right_n, unit_n = torch.ones(300, dtype=torch.bool), np.repeat(np.arange(30), 10)
    of_all, _ = share(right_n, unit_n).interval
    right_n[0] = False
    assert share(right_n, unit_n).interval[0] == pytest.approx(of_all, abs=0.01)


def test_intervals_hold_the_share_where_few_instruments_are_wrong_and_a_few_notes() -> None:
    rng, held = np.random.default_rng(2), list[bool]()
    for _ in range(300):
        unit_n = draw(30, rng)
        right_n = torch.from_numpy(rng.random(unit_n.size) < rng.choice([0.995, 0.0], 30, p=[0.98, 0.02])[unit_n])
        low, high = share(right_n, unit_n).interval
        held.append(low <= 0.98 * 0.995 <= high)
    assert np.mean(held) > 0.93


def test_of_a_single_instrument_notes_are_drawn() -> None:
    """Drawn as a whole it is the same each time: an interval of no width would call one instrument certain."""
    values_n, one_n = torch.rand(20, generator=torch.Generator().manual_seed(0)).double(), np.zeros(20, dtype=np.int64)
    assert bootstrap(values_n, unit_n=one_n) == bootstrap(values_n)
    assert share(values_n > 0.3, one_n) == share(values_n > 0.3)
    assert bootstrap_set(mean_of(values_n), 20, units=[one_n]) == bootstrap_set(mean_of(values_n), 20)


def test_each_note_may_be_its_own_unit() -> None:
    values_n, unit_n = torch.rand(40, generator=torch.Generator().manual_seed(0)), np.arange(40)
    assert bootstrap(values_n, unit_n=unit_n) == bootstrap(values_n)
    assert share(values_n > 0.3, unit_n) == share(values_n > 0.3)


def test_notes_that_differ_within_instruments_alone_are_no_more_than_they_are() -> None:
    """Where each instrument has as many that are right as the next one, the number of notes is the most that counts."""
    right_n, unit_n = torch.arange(120) % 2 == 0, np.repeat(np.arange(60), 2)
    assert share(right_n, unit_n).interval == pytest.approx(share(right_n).interval)


def test_sets_are_drawn_together_by_their_instruments() -> None:
    """What two sets have of an instrument counts as often in both; each counts as often as it is drawn."""
    seen = list[torch.Tensor]()

    def score(weight_Rn: torch.Tensor, weight_Rm: torch.Tensor) -> torch.Tensor:
        seen.extend((weight_Rn, weight_Rm))
        return weight_Rn @ torch.arange(4.0).double() / weight_Rn.sum(1)

    estimate = bootstrap_set(score, 4, 3, units=[np.array([0, 0, 1, 2]), np.array([1, 0, 2])])
    *_, weight_Rn, weight_Rm = seen
    assert estimate.n == 7 and estimate.interval[0] < estimate.value == 1.5 < estimate.interval[1]
    assert weight_Rn[:, 0].equal(weight_Rn[:, 1]) and weight_Rn[:, 2].equal(weight_Rm[:, 0])
    assert weight_Rm.sum(1).eq(3).all() and weight_Rn.sum(1).min() > 1
