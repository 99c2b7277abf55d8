"""How good a set of generated notes is: beside a set of real ones, or by itself. No note has such a value alone.

A metric prepares once what is dear (a kernel's matrix, cells) and gives a score, which takes how often each note
counts, for many resamples at a time: that makes `bootstrap_set` cheap. Features and probabilities are on the CPU.
Suffixes: N generated notes, M real notes, A and B the halves of both, R resamples, D features, K classes, C cells.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor
from torch.nn.functional import one_hot

from mars_dist.metrics.summary import STANDARD_ERRORS, Estimate, bootstrap_set

SetScore = Callable[[Tensor], Tensor]
"""(R, N) how often each note counts -> (R,). In float64, as all that follows."""
Score = Callable[[Tensor, Tensor], Tensor]
"""(R, N) and (R, M) how often each generated and each real note counts -> (R,)."""
Metric = Callable[[Tensor, Tensor], Score]
"""(N, D) and (M, D) features of generated and of real notes -> their score."""

NOTES_A_CELL = 5


def crossed(
    metric: Metric,
    line_ND: Tensor,
    real_ND: Tensor,
    seed: int = 0,
    resamples: int = 200,
    unit_N: NDArray[np.int64] | None = None,
) -> Estimate:
    """A metric of a line against real notes, of which row i is of the same held-out note.

    Two halves of the notes, A and B, are drawn by the seed, alike for all lines; the value is the mean of the line's A
    against real B and the line's B against real A. So no version of a note meets the note itself, and real notes are a
    line like the others: what one half of them reaches against the other. A resample takes a note's versions together,
    and all notes of a unit, which `unit_N` numbers as for `bootstrap_set`. Raises ValueError where a half is too small
    for the metric.
    """
    assert line_ND.shape == real_ND.shape, f"a row of each for each note: {line_ND.shape} and {real_ND.shape}"
    # Drawn: notes lie in the order of their pitches and velocities, and every other one may be every other pitch.
    order_N = torch.from_numpy(np.random.default_rng(seed).permutation(len(real_ND)))
    a_A, b_B = order_N.tensor_split(2)
    a_against_b, b_against_a = metric(line_ND[a_A], real_ND[b_B]), metric(line_ND[b_B], real_ND[a_A])

    def score(weight_RA: Tensor, weight_RB: Tensor) -> Tensor:
        return (a_against_b(weight_RA, weight_RB) + b_against_a(weight_RB, weight_RA)) / 2

    units = None if unit_N is None else (unit_N[a_A], unit_N[b_B])
    return bootstrap_set(score, len(a_A), len(b_B), units=units, seed=seed, resamples=resamples)


# ---- distances between two sets of features


def frechet_distance(x_ND: Tensor, y_MD: Tensor) -> Score:
    """|mean difference|^2 + tr(S + T - 2 (S T)^1/2), S and T the covariances (Heusel 2017, arXiv 1706.08500, eq. 6).

    FAD is this on features of sound (Kilgour 2019, arXiv 1812.08466). Few notes make it larger, all the more where they
    are fewer than the features: compare lines at the same number of notes. Raises ValueError for fewer than 2 in a set.
    """
    _require(2, "frechet_distance", x_ND, y_MD)
    x_ND, y_MD = x_ND.double(), y_MD.double()

    def score(weight_RN: Tensor, weight_RM: Tensor) -> Tensor:
        pairs = zip(weight_RN, weight_RM, strict=True)
        return torch.stack([_frechet(*_moments(x_ND, w_N), *_moments(y_MD, w_M)) for w_N, w_M in pairs])

    return score


def _moments(x_ND: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) and how often each row counts -> mean (D,) and unbiased covariance (D, D)."""
    counts_N = weight_N > 0
    x_ND, weight_N1 = x_ND[counts_N], weight_N[counts_N, None]
    mean_D = (weight_N1 * x_ND).sum(0) / weight_N1.sum()
    spread_ND = (x_ND - mean_D) * weight_N1.sqrt()
    return mean_D, spread_ND.T @ spread_ND / (weight_N1.sum() - 1)


def _frechet(mean_x_D: Tensor, cov_x_DD: Tensor, mean_y_D: Tensor, cov_y_DD: Tensor) -> Tensor:
    """With S = L L^T the trace of (S T)^1/2 is that of (L^T T L)^1/2: symmetric, and sound where S is singular."""
    variance_D, axis_DD = torch.linalg.eigh(cov_x_DD)
    root_DD = axis_DD * variance_D.clamp(min=0).sqrt()
    shared_D = torch.linalg.eigvalsh(root_DD.T @ cov_y_DD @ root_DD).clamp(min=0).sqrt()
    return (mean_x_D - mean_y_D).square().sum() + cov_x_DD.trace() + cov_y_DD.trace() - 2 * shared_D.sum()


def kernel_distance(x_ND: Tensor, y_MD: Tensor) -> Score:
    """Unbiased MMD^2 with the kernel (x.y / D + 1)^3 on raw features (Binkowski 2018, arXiv 1801.01401).

    PKID and IKID are this on features of a pitch and of an instrument classifier. It is 0 on average for sets of one
    kind, whatever their size, and so now and then below. A note that counts twice makes no pair with itself; a draw
    without two different notes has no value (NaN). Raises ValueError for fewer than 3 notes in a set: of 2, all draws
    with a value are the set itself, and its interval would be a point.
    """
    _require(3, "kernel_distance", x_ND, y_MD)
    xx_NN, xy_NM, yy_MM = _kernel(x_ND, x_ND), _kernel(x_ND, y_MD), _kernel(y_MD, y_MD)

    def score(weight_RN: Tensor, weight_RM: Tensor) -> Tensor:
        between_R = ((weight_RN @ xy_NM) * weight_RM).sum(1) / (weight_RN.sum(1) * weight_RM.sum(1))
        return _mean_of_pairs(xx_NN, weight_RN) + _mean_of_pairs(yy_MM, weight_RM) - 2 * between_R

    return score


def _kernel(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    return (x_ND.double() @ y_MD.double().T / x_ND.shape[1] + 1) ** 3


def _mean_of_pairs(kernel_NN: Tensor, weight_RN: Tensor) -> Tensor:
    """(R,): the mean over pairs of different notes, each as often as both count."""
    total_R = ((weight_RN @ kernel_NN) * weight_RN).sum(1) - weight_RN.square() @ kernel_NN.diagonal()
    pairs_R = weight_RN.sum(1).square() - weight_RN.square().sum(1)
    return (total_R / pairs_R).masked_fill(pairs_R == 0, torch.nan)  # rounding makes infinity of some


def different_cells(x_ND: Tensor, y_MD: Tensor, num_cells: int = 50, seed: int = 0) -> Score:
    """NDB/k: the share of cells that hold another share of generated than of real notes, by a two-proportion z-test at
    the level 0.05 (Richardson and Weiss 2018, arXiv 1805.12462).

    Cells are those of k-means on the real notes, from k-means++ and the seed; resamples keep them. They fit the real
    notes that they were made from, so that sets of one kind come to more than 0.05 where features have no clusters: the
    line of real notes says how much. Raises ValueError for fewer than 5 notes a cell in a set.
    """
    _require(NOTES_A_CELL * num_cells, f"different_cells with {num_cells} cells", x_ND, y_MD)
    x, y = x_ND.double().numpy(), y_MD.double().numpy()
    centres, _ = kmeans2(y, num_cells, minit="++", rng=seed)
    x_NC, y_MC = (one_hot(torch.from_numpy(vq(notes, centres)[0]).long(), num_cells).double() for notes in (x, y))

    def score(weight_RN: Tensor, weight_RM: Tensor) -> Tensor:
        n_R1, m_R1 = weight_RN.sum(1, keepdim=True), weight_RM.sum(1, keepdim=True)
        hits_x_RC, hits_y_RC = weight_RN @ x_NC, weight_RM @ y_MC
        share_RC = (hits_x_RC + hits_y_RC) / (n_R1 + m_R1)
        error_RC = (share_RC * (1 - share_RC) * (1 / n_R1 + 1 / m_R1)).sqrt()
        difference_RC = (hits_x_RC / n_R1 - hits_y_RC / m_R1).abs()
        return (difference_RC > STANDARD_ERRORS * error_RC).double().mean(1)

    return score


# ---- scores of one set's class probabilities


def inception_score(probability_NK: Tensor) -> SetScore:
    """exp of the mean KL(p(k | note) || p(k)): 1 to K, higher for notes that are sure and varied (arXiv 1606.03498).

    PIS is this on the classes of a pitch classifier, IIS on instrument families. Raises ValueError for fewer than 2
    notes.
    """
    _require(2, "inception_score", probability_NK)
    probability_NK = probability_NK.double()
    entropy_N = output_entropy(probability_NK)

    def score(weight_RN: Tensor) -> Tensor:
        share_RN = weight_RN / weight_RN.sum(1, keepdim=True)
        return (output_entropy(share_RN @ probability_NK) - share_RN @ entropy_N).exp()

    return score


def output_entropy(probability_NK: Tensor) -> Tensor:
    """(N, K) -> (N,) in nats: how unsure the classifier is of each note, 0 to ln K. A value a note: see `bootstrap`.

    On pitches its mean is the pitch entropy of GANSynth (Engel 2019, arXiv 1902.08710, section 4).
    """
    return torch.special.entr(probability_NK).sum(1)


def _require(least: int, metric: str, *sets: Tensor) -> None:
    smallest = min(map(len, sets))
    if smallest < least:
        raise ValueError(
            f"{metric}: {smallest} notes in a set (or a half of one), at least {least} are needed: evaluate more notes"
        )
