"""Metrics of sets, against other ways to compute them, and their intervals."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.metrics.generation import (
    Metric,
    crossed,
    different_cells,
    frechet_distance,
    inception_score,
    kernel_distance,
    output_entropy,
)


def normal(num: int, width: int, seed: int) -> Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(num: int, num_classes: int, seed: int) -> Tensor:
    return (3 * normal(num, num_classes, seed)).softmax(1)


def counts(num: int, seed: int, num_draws: int = 3) -> Tensor:
    """(R, N): how often each note is drawn."""
    drawn_RN = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=num_draws)
    return torch.from_numpy(drawn_RN).double()


def whole(score: Callable[..., Tensor], *sizes: int) -> float:
    return score(*(torch.ones(1, n, dtype=torch.float64) for n in sizes)).item()


# ---- Frechet distance


def with_moments(mean_D: Tensor, cov_DD: Tensor, num: int, seed: int) -> Tensor:
    """(N, D) whose mean and covariance are exactly these."""
    white_ND = normal(num, len(mean_D), seed)
    white_ND = white_ND - white_ND.mean(0)
    white_ND = torch.linalg.solve_triangular(torch.linalg.cholesky(white_ND.T.cov()), white_ND.T, upper=False).T
    return mean_D + white_ND @ torch.linalg.cholesky(cov_DD).T


def test_frechet_distance_is_scipys() -> None:
    x_ND, y_MD = normal(60, 8, 0) @ normal(8, 8, 1), normal(50, 8, 2) @ normal(8, 8, 3) + 0.5
    x, y = x_ND.numpy(), y_MD.numpy()
    s_DD, t_DD = np.cov(x.T), np.cov(y.T)
    root_DD = scipy.linalg.sqrtm(s_DD @ t_DD).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s_DD + t_DD - 2 * root_DD)
    assert whole(frechet_distance(x_ND, y_MD), 60, 50) == pytest.approx(expected, rel=1e-9)
    assert whole(frechet_distance(y_MD + 1e4, x_ND + 1e4), 50, 60) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_two_gaussians_is_known() -> None:
    s_D, t_D, mean_D = torch.tensor([[1.0, 4, 9], [4, 4, 1], [0, 2, -1]]).double()
    x_ND = with_moments(mean_D, s_D.diag(), 20, 0)
    y_MD = with_moments(torch.zeros(3).double(), t_D.diag(), 30, 1)
    # |(0, 2, -1)|^2 and the squared differences of the standard deviations 1 2 3 and 2 2 1
    assert whole(frechet_distance(x_ND, y_MD), 20, 30) == pytest.approx(5 + 1 + 0 + 4)


def test_frechet_distance_with_fewer_notes_than_features() -> None:
    x_ND, y_MD = normal(10, 40, 0), 2 * normal(12, 40, 1) + 1
    x, y = (z - z.mean(0) for z in (x_ND, y_MD))
    # tr (S T)^1/2 is the sum of the singular values of x y^T: no covariance, no root of what is 0
    shared = torch.linalg.matrix_norm(x @ y.T, "nuc") / np.sqrt(9 * 11)
    expected = (x_ND.mean(0) - y_MD.mean(0)).square().sum() + x.square().sum() / 9 + y.square().sum() / 11 - 2 * shared
    assert whole(frechet_distance(x_ND.float(), y_MD.float()), 10, 12) == pytest.approx(expected.item(), rel=1e-5)
    assert whole(frechet_distance(x_ND, x_ND), 10, 10) == pytest.approx(0, abs=1e-4)


# ---- kernel distance


def kernel_by_loops(
    x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], v: NDArray[np.float64]
) -> float:
    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def mean(p: NDArray[np.float64], q: NDArray[np.float64], w: NDArray[np.float64], v: NDArray[np.float64]) -> float:
        pairs = [(i, j) for i in range(len(p)) for j in range(len(q)) if p is not q or i != j]
        return sum(w[i] * v[j] * kernel(p[i], q[j]) for i, j in pairs) / sum(w[i] * v[j] for i, j in pairs)

    return mean(x, x, w, w) + mean(y, y, v, v) - 2 * mean(x, y, w, v)


def test_kernel_distance_is_that_of_two_loops_whose_copies_make_no_pairs() -> None:
    x_ND, y_MD = normal(9, 4, 0) + 0.3, normal(7, 4, 1)
    ones, drawn = torch.ones(1, 9).double(), counts(9, 2)
    weight_RN, weight_RM = torch.cat([ones, drawn]), torch.cat([ones[:, :7], counts(7, 3)])
    expected = [
        kernel_by_loops(x_ND.numpy(), y_MD.numpy(), w.numpy(), v.numpy())
        for w, v in zip(weight_RN, weight_RM, strict=True)
    ]
    assert kernel_distance(x_ND, y_MD)(weight_RN, weight_RM).tolist() == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_sets_of_one_kind_is_zero_on_average_whole_or_drawn() -> None:
    wholes, draws = [], []
    for seed in range(300):
        score = kernel_distance(normal(10, 3, 2 * seed), normal(10, 3, 2 * seed + 1))
        wholes.append(whole(score, 10, 10))
        draws.append(score(counts(10, seed, 20), counts(10, seed + 1000, 20)).mean().item())
    for values in (wholes, draws):
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_copies_that_a_line_has_are_pairs() -> None:
    assert whole(kernel_distance(torch.ones(5, 2), torch.zeros(5, 2)), 5, 5) == pytest.approx(8 + 1 - 2)


# ---- cells


def clusters(*sizes: int) -> Tensor:
    """(N, 2): so many points near each corner of a large square."""
    corner_ND = torch.tensor([[0.0, 0], [0, 100], [100, 0], [100, 100]]).repeat_interleave(torch.tensor(sizes), 0)
    return corner_ND + 0.01 * torch.rand(corner_ND.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("sizes", "share"),
    # z of 38 and 37 of 100 against 25: 1.98 and 1.84; of 13 and 14: 2.16 and 1.97; of 15: 1.77
    [
        ((25, 25, 25, 25), 0),
        ((37, 25, 23, 15), 0),
        ((38, 25, 22, 15), 0.25),
        ((38, 25, 24, 13), 0.5),
        ((100, 0, 0, 0), 1),
    ],
)
def test_different_cells_are_those_of_the_z_test(sizes: tuple[int, ...], share: float) -> None:
    assert whole(different_cells(clusters(*sizes), clusters(25, 25, 25, 25), 4), 100, 100) == share


def test_z_test_with_sets_of_two_sizes() -> None:
    # z of 0.2 against 0.256: 1.87, and it were 2.16 if both sets had 500
    large, small = clusters(300, 150, 150, 150), clusters(58, 64, 64, 64)
    p, q = torch.tensor([0.4, 0.2, 0.2, 0.2]), torch.tensor([0.232, 0.256, 0.256, 0.256])
    pooled = (750 * p + 250 * q) / 1000
    expected = ((p - q).abs() / (pooled * (1 - pooled) * (1 / 750 + 1 / 250)).sqrt() > 1.96).double().mean()
    assert whole(different_cells(large, small, 4), 750, 250) == expected == 0.25


def test_cells_depend_on_the_seed_alone() -> None:
    x_ND, y_MD = normal(100, 3, 0), normal(100, 3, 1) * 1.3
    weights = counts(100, 0, 50), counts(100, 1, 50)
    first, again, other = (different_cells(x_ND, y_MD, 10, seed)(*weights) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


# ---- scores of one set


def test_inception_score_is_the_exponential_of_the_mean_divergence() -> None:
    p = probabilities(40, 6, 0)
    expected = np.exp(scipy.special.rel_entr(p.numpy(), p.numpy().mean(0)).sum(1).mean())
    assert whole(inception_score(p.float()), 40) == pytest.approx(expected, rel=1e-6)


def test_inception_score_has_known_ends() -> None:
    assert whole(inception_score(torch.eye(5).repeat(3, 1)), 15) == pytest.approx(5)
    assert whole(inception_score(torch.eye(5)[[2] * 9]), 9) == pytest.approx(1)
    assert whole(inception_score(torch.full((9, 5), 0.2)), 9) == pytest.approx(1)


def test_output_entropy_is_a_value_a_note() -> None:
    p = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert output_entropy(p).tolist() == pytest.approx([0, np.log(2), np.log(4)])


# ---- resampling


@pytest.mark.parametrize("metric", [frechet_distance, partial(different_cells, num_cells=5)])
def test_weights_of_generated_notes_are_repeated_rows(metric: Metric) -> None:
    x_ND, y_MD = normal(40, 3, 0) + 0.5, normal(30, 3, 1)
    weight_RN, one_RM = counts(40, 2), torch.ones(3, 30).double()
    expected = [whole(metric(x_ND.repeat_interleave(w_N.long(), 0), y_MD), 40, 30) for w_N in weight_RN]
    assert metric(x_ND, y_MD)(weight_RN, one_RM).tolist() == pytest.approx(expected, rel=1e-9)


def test_weights_of_real_notes_are_repeated_rows() -> None:
    x_ND, y_MD, weight_RM = normal(40, 3, 0) + 0.5, normal(30, 3, 1), counts(30, 2)
    expected = [whole(frechet_distance(x_ND, y_MD.repeat_interleave(w_M.long(), 0)), 40, 30) for w_M in weight_RM]
    drawn_R = frechet_distance(x_ND, y_MD)(torch.ones(3, 40).double(), weight_RM)
    assert drawn_R.tolist() == pytest.approx(expected, rel=1e-9)


def test_weights_of_real_notes_leave_the_cells_as_they_are() -> None:
    weight_1M = torch.ones(1, 100).double()
    weight_1M[0, :14], weight_1M[0, 25:39] = 2, 0  # 39, 11, 25, 25
    score = different_cells(clusters(25, 25, 25, 25), clusters(25, 25, 25, 25), 4)
    assert score(torch.ones(1, 100).double(), weight_1M).item() == 0.5


def test_weights_of_one_set_are_repeated_rows() -> None:
    p, weight_RN = probabilities(30, 6, 0), counts(30, 2)
    expected = [whole(inception_score(p.repeat_interleave(w_N.long(), 0)), 30) for w_N in weight_RN]
    assert inception_score(p)(weight_RN).tolist() == pytest.approx(expected, rel=1e-9)


def test_no_note_meets_itself() -> None:
    sets: list[tuple[list[float], list[float]]] = []

    def metric(x_ND: Tensor, y_MD: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        sets.append((x_ND.flatten().tolist(), y_MD.flatten().tolist()))
        return lambda w_RN, w_RM: (w_RN @ x_ND / w_RN.sum(1, True) - w_RM @ y_MD / w_RM.sum(1, True))[:, 0]

    id_N1 = torch.arange(21.0).double()[:, None]
    estimate = crossed(metric, id_N1 + 100, id_N1)
    (line_a, real_b), (line_b, real_a) = sets
    assert [i - 100 for i in line_a] == real_a and [i - 100 for i in line_b] == real_b
    assert sorted(real_a + real_b) == list(range(21)) and abs(len(real_a) - len(real_b)) == 1
    # What lies between the halves is gone in the mean of both ways round; in each draw too, which takes both versions.
    assert estimate.n == 21 and estimate.value == pytest.approx(100)
    assert estimate.interval == pytest.approx((100, 100))


def test_the_seed_alone_decides() -> None:
    line_ND, real_ND = normal(60, 3, 0), normal(60, 3, 1)
    for metric in (frechet_distance, kernel_distance, partial(different_cells, num_cells=4)):
        assert crossed(metric, line_ND, real_ND) == crossed(metric, line_ND, real_ND)
        assert crossed(metric, line_ND, real_ND) != crossed(metric, line_ND, real_ND, seed=1)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, partial(different_cells, num_cells=5)])
def test_intervals_are_as_wide_as_values_spread(metric: Metric) -> None:
    estimates = [
        crossed(metric, 1.5 * normal(100, 3, seed) + 0.5, normal(100, 3, seed + 100), resamples=60)
        for seed in range(40)
    ]
    widths = [high - low for low, high in (estimate.interval for estimate in estimates)]
    assert 0.7 < np.mean(widths) / (3.92 * np.std([estimate.value for estimate in estimates])) < 1.5


def test_the_interval_of_a_biased_score_lies_about_its_value() -> None:
    real_ND = normal(60, 20, 0)
    estimate = crossed(frechet_distance, real_ND, real_ND)
    low, high = estimate.interval
    assert low < estimate.value < high
    assert estimate.value - low == pytest.approx(high - estimate.value, rel=0.5)


@pytest.mark.parametrize(
    ("metric", "num_notes", "message"),
    [
        (frechet_distance, 3, "frechet_distance: 1 notes in a set .* at least 2 are needed"),
        (kernel_distance, 5, "kernel_distance: 2 notes in a set .* at least 3 are needed"),
        (different_cells, 499, "different_cells with 50 cells: 249 notes in a set .* at least 250 are needed"),
        (partial(different_cells, num_cells=4), 39, "with 4 cells: 19 notes in a set .* at least 20 are needed"),
    ],
)
def test_too_few_notes_are_refused(metric: Metric, num_notes: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: evaluate more notes"):
        crossed(metric, normal(num_notes, 2, 0), normal(num_notes, 2, 1))


def test_one_note_is_no_set() -> None:
    with pytest.raises(ValueError, match=r"1 notes in a set .* at least 2 are needed: evaluate more notes"):
        inception_score(torch.ones(1, 1))


@pytest.mark.parametrize(("metric", "num_notes"), [(frechet_distance, 4), (kernel_distance, 6)])
def test_as_few_notes_as_are_allowed_have_an_interval(metric: Metric, num_notes: int) -> None:
    low, high = crossed(metric, normal(num_notes, 2, 0), normal(num_notes, 2, 1)).interval
    assert np.isfinite([low, high]).all() and high - low > 0.1


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_of_one_note_alone_has_no_kernel_distance(seed: int) -> None:
    """There is no pair of different notes; rounding left infinity of some."""
    x_ND, y_MD = normal(3, 64, seed).float(), normal(3, 64, 100 + seed).float()
    thrice_RN, each_RM = torch.tensor([[3.0, 0, 0]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    assert kernel_distance(x_ND, y_MD)(thrice_RN, each_RM).isnan().all()
