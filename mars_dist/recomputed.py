"""Linear layers that do not keep what they read, where that is cheap to compute again.

What a norm or a GELU gives is as large as what it was given, and a linear layer keeps it for the gradient of its
weight. Attention does the same with its queries and keys, and with what its gate is multiplied with: together 11 of the
22 widths a token that a transformer's block would keep (selective recomputation: Korthikanti et al. 2022, arXiv
2205.05198, section 5, for attention). Where a block is compiled, torch.compile chooses what is kept.

Suffixes: B batch, L tokens, D width, H width before a layer, T tokens of all samples.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from mars_dist.products import product

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


def is_plain() -> bool:
    """Whether operations stay as they are: nothing is learned, or torch.compile chooses what is kept."""
    return torch.compiler.is_compiling() or not torch.is_grad_enabled()


def learns(layer: nn.Linear) -> bool:
    return layer.weight.requires_grad and not is_plain()


def linear(x_BLD: Recomputed[Tensor], layer: nn.Linear) -> Tensor:
    """What the layer makes of x, which is not kept for the backward pass."""
    if not learns(layer):
        found_BLD: Tensor = layer(x_BLD.made)
        return found_BLD
    y_BLD: Tensor = LinearOfRecomputed.apply(x_BLD.make, layer.weight, layer.bias, *x_BLD.inputs)
    return y_BLD


class LinearOfRecomputed(torch.autograd.Function):
    """(make, weight, bias, *inputs) -> make(*inputs) weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        ctx.make = make
        ctx.save_for_backward(weight, *inputs)
        return product(make(*inputs), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y_BLD: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        inputs, x_BLD = made_again(ctx.make, kept)
        edge, x_TD, d_y_TD = get_gradient_edge(x_BLD), x_BLD.detach().flatten(0, -2), d_y_BLD.flatten(0, -2)
        d_weight, d_bias = d_y_TD.T @ x_TD, d_y_TD.sum(0)
        del x_BLD, x_TD  # its gradient takes as much memory
        return None, d_weight, d_bias, *torch.autograd.grad(edge, inputs, product(d_y_BLD, weight.T))


def gated_linear(x_BLH: Tensor, layer: nn.Linear, gate_B1D: Tensor) -> Tensor:
    """(B, L, H) -> (B, L, D): what the layer makes of x, times each sample's gate."""
    if not learns(layer):
        found_BLD: Tensor = layer(x_BLH)
        return found_BLD * gate_B1D
    y_BLD: Tensor = GatedLinear.apply(x_BLH, layer.weight, layer.bias, gate_B1D)
    return y_BLD


class GatedLinear(torch.autograd.Function):
    """(x, weight, bias, gate) -> gate (x weight^T + bias), without keeping what the gate is multiplied with.

    From each sample's share of the weight's gradient, G = sum over tokens of d_y x, follow both sum over samples of
    gate G, that gradient, and sum over H of weight G, the gate's.
    """

    @staticmethod
    def forward(ctx: Any, x_BLH: Tensor, weight_DH: Tensor, bias_D: Tensor, gate_B1D: Tensor) -> Tensor:
        ctx.save_for_backward(x_BLH, weight_DH, bias_D, gate_B1D)
        return product(x_BLH, weight_DH, bias_D).mul_(gate_B1D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y_BLD: Tensor) -> tuple[Tensor, ...]:
        x_BLH, weight_DH, bias_D, gate_B1D = ctx.saved_tensors
        share_BDH, share_BD = d_y_BLD.mT @ x_BLH, d_y_BLD.sum(1)
        d_gate_BD = (share_BDH * weight_DH).sum(-1).addcmul_(share_BD, bias_D)
        d_weight_DH = (share_BDH * gate_B1D.mT).sum(0)
        d_bias_D = (share_BD * gate_B1D[:, 0]).sum(0)
        return product(d_y_BLD * gate_B1D, weight_DH.T), d_weight_DH, d_bias_D, d_gate_BD[:, None]


def made_again(make: Callable[..., Made], kept: Iterable[Tensor]) -> tuple[list[Tensor], Made]:
    """In a backward pass: leaves with the values that were kept, and what is made of them, to be derived by them."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in kept]
        return inputs, make(*inputs)


def norm(x_BLD: Tensor, weight_D: Tensor, bias_D: Tensor) -> Tensor:
    return F.layer_norm(x_BLD, weight_D.shape, weight_D, bias_D)


def modulated_norm(x_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor) -> Tensor:
    """AdaLN: a norm whose result is scaled and shifted for each sample."""
    return torch.addcmul(shift_B1D, F.layer_norm(x_BLD, x_BLD.shape[-1:]), 1 + scale_B1D)
