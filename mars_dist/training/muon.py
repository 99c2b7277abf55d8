"""Muon: a weight matrix moves along the orthogonal matrix nearest to its momentum, so that no direction is left behind.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the step size of Liu et al. 2025 (arXiv 2502.16982,
section 2.2): a matrix moves as far as AdamW's steps usually go, so both share a learning rate.
Suffixes: R rows, C columns, S the shorter of the two.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mars_dist.config import Precision
from mars_dist.training.sharding import locals_of, made_by_turns

MOMENTUM = 0.95
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5: applied again and again it drives every singular value to between 0.7 and 1.2."""
ITERATIONS = 5
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
            by_shape: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter in self.matrices and parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for alike in by_shape.values():
                self.move(alike, group["lr"], group["weight_decay"])
        super().step(closure)

    def move(self, matrices: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        """Matrices of one shape; AdamW then passes over them, since they have no gradient any more."""
        pushes = [self.push(matrix) for matrix in matrices]
        directions = made_by_turns(lambda x_RC: orthogonal(x_RC.to(self.dtype)).to(x_RC.dtype), pushes)
        step = rate * USUAL_STEP * max(matrices[0].shape) ** 0.5
        for matrix, direction in zip(matrices, directions, strict=True):
            shard, shard_of_direction = locals_of([matrix, direction])
            shard.mul_(1 - rate * weight_decay).sub_(shard_of_direction, alpha=step)
            matrix.grad = None

    def push(self, matrix: nn.Parameter) -> Tensor:
        """Nesterov's momentum, with the newest gradient in it; in the memory of the gradient."""
        gradient, state = matrix.grad, self.state[matrix]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp_(momentum, MOMENTUM)


def orthogonal(x_RC: Tensor) -> Tensor:
    """About the nearest matrix whose rows, or columns where these are fewer, are orthogonal and of length 1."""
    tall = x_RC.shape[0] > x_RC.shape[1]
    x_SC = (x_RC.T if tall else x_RC) / x_RC.norm().clamp(min=1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(ITERATIONS):
        gram_SS = x_SC @ x_SC.T
        x_SC = torch.addmm(x_SC, torch.addmm(gram_SS, gram_SS, gram_SS, beta=b, alpha=c), x_SC, beta=a)
    return x_SC.T if tall else x_SC
