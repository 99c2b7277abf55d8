"""Means with their bootstrap intervals."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from mars_dist.metrics import summary
from mars_dist.metrics.summary import Estimate, bootstrap


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
    estimate = bootstrap(torch.tensor([True, True, False, True]))
    assert estimate.value == 0.75
    assert 0 <= estimate.interval[0] < 0.75 < estimate.interval[1] <= 1


def test_json_and_back() -> None:
    estimate = Estimate(0.5, 7, (0.25, 0.75))
    assert Estimate.from_json(json.loads(json.dumps(asdict(estimate)))) == estimate
