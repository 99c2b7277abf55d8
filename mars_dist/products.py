"""Products with a layer's weight on a CPU, by oneDNN where torch's own way is slower.

For float32 torch asks MKL, which on CPUs other than Intel's does not use AVX-512, and AVX2 not as well as it could; and
both libraries lay a weight out anew for each product, which takes as long as the product itself where tokens are few.
What is called here is what torch.compile calls for frozen layers: torch has no other name for it.

Suffixes: B batch, L tokens, H width before a layer, D width after it.
"""

import platform
from copy import deepcopy
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.precision import Network, cpu_multiplies_bf16

MANY = 512
"""Tokens that a weight is laid out for: what suits so many suits few of them too, but not the other way round."""


def product(x_BLH: Tensor, weight_DH: Tensor, bias_D: Tensor | None = None) -> Tensor:
    """x weight^T + bias, (B, L, D). Autograd does not see it: it is for passes that are written by hand."""
    if x_BLH.device.type == "cpu" and x_BLH.dtype == torch.float32 and mkl_is_held_back():
        return by_onednn(x_BLH, weight_DH, bias_D)
    return F.linear(x_BLH, weight_DH, bias_D)


def by_onednn(x_BLH: Tensor, weight_DH: Tensor, bias_D: Tensor | None) -> Tensor:
    y_BLD: Tensor = torch.ops.mkldnn._linear_pointwise(x_BLH, weight_DH, bias_D, "none", [], "")
    return y_BLD


class PackedLinear(nn.Module):
    """A linear layer for inference, whose weight lies as oneDNN multiplies with it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), MANY)
        self.bias = layer.bias

    def forward(self, x_BLH: Tensor) -> Tensor:
        return by_onednn(x_BLH, self.weight, self.bias)


def packed(network: Network) -> Network:
    """A copy for inference with packed linear layers; the network itself where none can be packed."""
    layers = [part for part in network.modules() if isinstance(part, nn.Linear) and can_be_packed(part)]
    return deepcopy(network, {id(layer): PackedLinear(layer) for layer in layers}) if layers else network


def can_be_packed(layer: nn.Linear) -> bool:
    dtype = layer.weight.dtype
    has_type = dtype == torch.float32 or (dtype == torch.bfloat16 and cpu_multiplies_bf16())
    return has_type and layer.weight.device.type == "cpu" and has_onednn()


def has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine() == "x86_64"


@lru_cache
def mkl_is_held_back() -> bool:
    """Whether this CPU has AVX2, or AVX-512 too, and MKL does not make the most of it."""
    can = torch.cpu.get_capabilities()
    return has_onednn() and bool(can.get("avx2")) and "Intel" not in str(can.get("cpu_name"))
