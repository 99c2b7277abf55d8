"""Linear layers that do not keep what they read, where that is cheap to compute again.

What a norm or a GELU gives is as large as what it was given, and a linear layer keeps it for the gradient of its
weight. Attention does the same with its queries and keys: together 10 of the 22 widths a token that a transformer's
block would keep (selective recomputation: Korthikanti et al. 2022, arXiv 2205.05198, section 5, for attention).

Suffixes: B batch, L tokens, D width, T tokens of all samples.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Made = TypeVar("Made")


@dataclass(frozen=True)
class Recomputed(Generic[Made]):
    """What `make` makes of the inputs. The backward pass keeps these, and makes it again."""

    make: Callable[..., Made]
    inputs: tuple[Tensor, ...]

    @property
    def made(self) -> Made:
        """Kept, as all tensors are."""
        return self.make(*self.inputs)


def linear(x_BLD: Recomputed[Tensor], layer: nn.Linear) -> Tensor:
    y_BLD: Tensor = LinearOfRecomputed.apply(x_BLD.make, layer.weight, layer.bias, *x_BLD.inputs)
    return y_BLD


class LinearOfRecomputed(torch.autograd.Function):
    """(make, weight, bias, *inputs) -> make(*inputs) weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        ctx.make = make
        ctx.save_for_backward(weight, *inputs)
        return F.linear(make(*inputs), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y_BLD: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        inputs, x_BLD = made_again(ctx.make, kept)
        d_y_TD = d_y_BLD.flatten(0, -2)
        d_weight, d_bias = d_y_TD.T @ x_BLD.detach().flatten(0, -2), d_y_TD.sum(0)
        return None, d_weight, d_bias, *torch.autograd.grad(x_BLD, inputs, d_y_BLD @ weight)


def made_again(make: Callable[..., Made], kept: Iterable[Tensor]) -> tuple[list[Tensor], Made]:
    """In a backward pass: leaves with the values that were kept, and what is made of them, to be derived by them."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in kept]
        return inputs, make(*inputs)


def norm(x_BLD: Tensor, weight_D: Tensor, bias_D: Tensor) -> Tensor:
    return F.layer_norm(x_BLD, weight_D.shape, weight_D, bias_D)


def modulated_norm(x_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor) -> Tensor:
    """AdaLN: a norm whose result is scaled and shifted for each sample."""
    return F.layer_norm(x_BLD, x_BLD.shape[-1:]) * (1 + scale_B1D) + shift_B1D
