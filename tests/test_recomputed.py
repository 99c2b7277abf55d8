"""Linear layers of what is made again for the backward pass, against plain ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.layers import Mlp
from mars_dist.recomputed import Recomputed, gated_linear, linear, modulated_norm, norm

B, L, D = 2, 5, 8
CASES = {
    "norm": (norm, ((B, L, D), (D,), (D,))),
    "modulated norm": (modulated_norm, ((B, L, D), (B, 1, D), (B, 1, D))),
    "GELU": (F.gelu, ((B, L, D),)),
}


@pytest.mark.parametrize("make, shapes", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_a_plain_layer(
    make: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...]
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(D, 3).double()
    inputs = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    found_BLE, expected_BLE = linear(Recomputed(make, inputs), layer), layer(make(*inputs))
    torch.testing.assert_close(found_BLE, expected_BLE)
    leaves, pull_BLE = (*inputs, layer.weight, layer.bias), torch.randn(B, L, 3, dtype=torch.float64)
    for mine, torchs in zip(
        *(torch.autograd.grad(y, leaves, pull_BLE) for y in (found_BLE, expected_BLE)), strict=True
    ):
        torch.testing.assert_close(mine, torchs)


def test_a_gated_layer_keeps_what_it_reads_and_is_that_of_a_plain_one() -> None:
    torch.manual_seed(0)
    layer, kept = nn.Linear(D, 3).double(), list[Tensor]()
    x_BLD, gate_B1E = (
        torch.randn(B, size, width, dtype=torch.float64, requires_grad=True) for size, width in ((L, D), (1, 3))
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        found_BLE = gated_linear(x_BLD, layer, gate_B1E)
    assert [tuple(x.shape) for x in kept] == [(B, L, D), (3, D), (3,), (B, 1, 3)]
    expected_BLE = gate_B1E * layer(x_BLD)
    torch.testing.assert_close(found_BLE, expected_BLE)
    leaves, pull_BLE = (x_BLD, gate_B1E, layer.weight, layer.bias), torch.randn(B, L, 3, dtype=torch.float64)
    mine, torchs = (torch.autograd.grad(y, leaves, pull_BLE) for y in (found_BLE, expected_BLE))
    torch.testing.assert_close(mine, torchs)


def test_an_mlp_keeps_what_it_reads_and_its_inner_values() -> None:
    mlp, x_BLD, kept = Mlp(D), torch.randn(B, L, D, requires_grad=True), list[Tensor]()
    scale_B1D, shift_B1D = torch.randn(2, B, 1, D, requires_grad=True)
    parameters = {parameter.data_ptr() for parameter in mlp.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        mlp(Recomputed(modulated_norm, (x_BLD, scale_B1D, shift_B1D)))
    shapes = [tuple(x.shape) for x in kept if x.data_ptr() not in parameters]
    assert shapes == [(B, L, D), (B, 1, D), (B, 1, D), (B, L, 4 * D)]


def test_a_bf16_layer_gives_bf16_gradients() -> None:
    mlp, x_BLD = Mlp(D).bfloat16(), torch.randn(B, L, D, dtype=torch.bfloat16, requires_grad=True)
    mlp(Recomputed(F.relu, (x_BLD,))).sum().backward()
    assert {x.grad.dtype for x in (x_BLD, *mlp.parameters()) if x.grad is not None} == {torch.bfloat16}
    assert all(x.grad is not None for x in (x_BLD, *mlp.parameters()))
