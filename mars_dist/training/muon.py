"""Muon: a weight matrix moves along the orthogonal matrix nearest to its momentum, so that no direction is left behind.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the step size of Liu et al. 2025 (arXiv 2502.16982,
section 2.2): a matrix moves as far as AdamW's steps usually go, so both share a learning rate.
Suffixes: N matrices of one shape, R rows, C columns, S the shorter of the two.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mars_dist.config import Precision
from mars_dist.training.sharding import locals_of, made_by_shares, num_workers

MOMENTUM = 0.95
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5: applied again and again it drives every singular value to between 0.7 and 1.2."""
ITERATIONS = 5
AT_ONCE = 2**24
"""Numbers in the matrices that every worker has whole at one time, or more where that is less than one for each."""
USUAL_STEP = 0.2
"""Root mean square of AdamW's steps, in learning rates."""


class Muon(torch.optim.AdamW):
    """Muon for `matrices`, AdamW for all other parameters of the groups."""

    def __init__(
        self, groups: list[dict[str, Any]], matrices: Iterable[nn.Parameter], precision: Precision, **settings: Any
    ) -> None:
        """`precision`: of the products that make a matrix orthogonal."""
        super().__init__(groups, **settings)
        self.matrices = set(matrices)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's looks for its own state in every parameter

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p in self.matrices and p.grad is not None]
            for alike in stacks(matrices, num_workers()):
                self.move(alike, group["lr"], group["weight_decay"])
        super().step(closure)

    def move(self, matrices: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        """Matrices of one shape; AdamW then passes over them, since they have no gradient any more."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            if not self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(gradient)
        momenta, pushes = locals_of(self.state[matrix]["momentum"] for matrix in matrices), locals_of(gradients)
        torch._foreach_lerp_(momenta, pushes, 1 - MOMENTUM)
        torch._foreach_lerp_(pushes, momenta, MOMENTUM)  # Nesterov's, in the memory of the gradients
        directions = made_by_shares(lambda x_NRC: orthogonal(x_NRC.to(self.dtype)).to(x_NRC.dtype), gradients)
        step = rate * USUAL_STEP * max(matrices[0].shape) ** 0.5
        torch._foreach_mul_(locals_of(matrices), 1 - rate * weight_decay)
        torch._foreach_add_(locals_of(matrices), directions, alpha=-step)
        for matrix in matrices:
            matrix.grad = None


def stacks(matrices: Iterable[nn.Parameter], workers: int) -> Iterator[list[nn.Parameter]]:
    """Matrices of one shape that are made orthogonal together, one at least for each worker where there are as many."""
    by_shape: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    for matrix in matrices:
        by_shape[matrix.shape].append(matrix)
    for shape, alike in by_shape.items():
        num = max(workers, AT_ONCE // shape.numel())
        for start in range(0, len(alike), num):
            yield alike[start : start + num]


def orthogonal_flops(matrix: Tensor) -> int:
    """What the products of `orthogonal` take for one matrix."""
    short, long = sorted(matrix.shape)
    return ITERATIONS * (4 * short**2 * long + 2 * short**3)


def orthogonal(x_NRC: Tensor) -> Tensor:
    """About the nearest matrices whose rows, or columns where these are fewer, are orthogonal and of length 1."""
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    x_NSC = (x_NRC.mT if tall else x_NRC) / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(ITERATIONS):
        gram_NSS = x_NSC @ x_NSC.mT
        x_NSC = torch.baddbmm(x_NSC, torch.baddbmm(gram_NSS, gram_NSS, gram_NSS, beta=b, alpha=c), x_NSC, beta=a)
    return (x_NSC.mT if tall else x_NSC).contiguous()
