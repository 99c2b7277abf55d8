"""Products by oneDNN against torch's own.

Suffixes: B batch, L tokens, H width before a layer, D width after it; V codebook size.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist import precision, products
from mars_dist.cross_entropy import nats_of
from mars_dist.products import PackedLinear, has_onednn, mkl_is_held_back, packed, product
from mars_dist.recomputed import Recomputed, gated_linear, linear

B, L, H, D = 2, 5, 24, 12
Describe = Callable[..., None]
needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """As on a CPU on which MKL does not use AVX-512; the weights that oneDNN has multiplied with since."""
    by_onednn, weights = products.by_onednn, list[Tensor]()

    def watched(x_BLH: Tensor, weight_DH: Tensor, bias_D: Tensor | None) -> Tensor:
        weights.append(weight_DH)
        return by_onednn(x_BLH, weight_DH, bias_D)

    monkeypatch.setattr(products, "by_onednn", watched)
    monkeypatch.setattr(products, "mkl_is_held_back", lambda: True)
    return weights


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num", [1, 7, 600])
def test_a_product_is_torchs(with_bias: bool, num: int, held_back: list[Tensor]) -> None:
    x_BLH, weight_DH = torch.randn(num, B, H).transpose(0, 1), torch.randn(D, H)
    bias_D = torch.randn(D) if with_bias else None
    torch.testing.assert_close(product(x_BLH, weight_DH, bias_D), F.linear(x_BLH, weight_DH, bias_D))
    torch.testing.assert_close(product(x_BLH, weight_DH.T.contiguous().T), x_BLH @ weight_DH.T)
    assert len(held_back) == 2


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype, held_back: list[Tensor]) -> None:
    x_BLH, weight_DH = torch.randn(B, L, H, dtype=dtype), torch.randn(D, H, dtype=dtype)
    assert torch.equal(product(x_BLH, weight_DH), F.linear(x_BLH, weight_DH))
    assert not held_back


Layer = Callable[[Tensor, nn.Linear, Tensor, Tensor], Tensor]
"""Of x, a layer, a gate and codes."""
LAYERS: dict[str, tuple[Layer, Layer]] = {
    "of what is made again": (
        lambda x, layer, _gate, _codes: linear(Recomputed(F.gelu, (x,)), layer),
        lambda x, layer, _gate, _codes: layer(F.gelu(x)),
    ),
    "gated": (
        lambda x, layer, gate, _codes: gated_linear(x, layer, gate),
        lambda x, layer, gate, _codes: gate * layer(x),
    ),
    "a head": (
        lambda x, layer, _gate, codes: nats_of(x.flatten(0, 1), layer, codes),
        lambda x, layer, _gate, codes: F.cross_entropy(layer(x).flatten(0, 1), codes[:, 0], reduction="none")[:, None],
    ),
}


@needs_onednn
@pytest.mark.parametrize("name", LAYERS)
def test_both_passes_of_a_layer_are_torchs(name: str, held_back: list[Tensor]) -> None:
    mine, torchs = LAYERS[name]
    layer, x_BLH = nn.Linear(H, D), torch.randn(B, L, H, requires_grad=True)
    gate_B1D, codes_TP = torch.randn(B, 1, D, requires_grad=True), torch.randint(D, (B * L, 1))
    leaves = (x_BLH, layer.weight, layer.bias, *([gate_B1D] if name == "gated" else []))
    found, expected = (of(x_BLH, layer, gate_B1D, codes_TP) for of in (mine, torchs))
    torch.testing.assert_close(found, expected)
    pull = torch.randn_like(found)
    pairs = zip(*(torch.autograd.grad(y, leaves, pull) for y in (found, expected)), strict=True)
    for gradient, torchs_gradient in pairs:
        torch.testing.assert_close(gradient, torchs_gradient)
    assert len(held_back) == 2  # forward, and the gradient of what the layer read


# ---- for inference


@needs_onednn
@pytest.mark.parametrize("num", [1, 7, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_network_is_a_copy_that_computes_the_same(num: int, dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Linear(H, D), nn.GELU(), nn.Linear(D, H, bias=False)).to(dtype)
    copy, x_BLH = packed(network), torch.randn(B, num, H, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(copy(x_BLH), network(x_BLH))
    can = dtype == torch.float32 or precision.cpu_multiplies_bf16()
    assert [type(copy[i]) for i in (0, 2)] == [PackedLinear if can else nn.Linear] * 2
    assert [type(network[i]) for i in (0, 2)] == [nn.Linear] * 2


@needs_onednn
def test_packed_layers_are_read_where_gradients_are_taken_of_others() -> None:
    layer, x_BLH, gate_B1D = nn.Linear(H, D).requires_grad_(False), torch.randn(B, L, H), torch.randn(B, 1, D)
    packed_layer = packed(layer)
    torch.testing.assert_close(linear(Recomputed(F.gelu, (x_BLH,)), packed_layer), layer(F.gelu(x_BLH)))
    torch.testing.assert_close(gated_linear(x_BLH, packed_layer, gate_B1D), layer(x_BLH) * gate_B1D)


def test_what_cannot_be_packed_is_left_as_it_is(this_cpu_can: Describe) -> None:
    on_meta, in_double = nn.Linear(H, D, device="meta"), nn.Linear(H, D, dtype=torch.float64)
    assert packed(on_meta) is on_meta and packed(in_double) is in_double
    this_cpu_can()
    in_bf16 = nn.Linear(H, D, dtype=torch.bfloat16)
    assert packed(in_bf16) is in_bf16


# ---- whose CPU


@needs_onednn
@pytest.mark.parametrize(
    "cpu, can, held",
    [
        ("AMD EPYC", ["avx512_f"], True),
        ("AMD EPYC", [], True),
        ("Intel(R) Xeon(R) Processor", ["avx512_f"], False),
        ("Intel(R) Xeon(R) Processor", [], False),
    ],
)
def test_mkl_is_held_back_on_others_cpus(cpu: str, can: list[str], held: bool, this_cpu_can: Describe) -> None:
    this_cpu_can(*can, cpu_name=cpu)
    assert mkl_is_held_back() is held
