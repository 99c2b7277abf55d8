"""Attention and resampling against plain versions of themselves."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.attention import Sight, groups_of
from mars_dist.layers import Attention, Block, Blocks, KeyValueCache, grow, grow_by_products, init_transformer, shrink
from mars_dist.recomputed import Recomputed
from mars_dist.scales import ScaleSchedule, Size

SCHEDULE = ScaleSchedule((Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2)))
MASK_LL = torch.from_numpy(SCHEDULE.mask())
SIGHT = Sight(MASK_LL, groups_of(SCHEDULE))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def as_it_is(x_BLD: Tensor) -> Recomputed[Tensor]:
    """Without a norm before the layer."""
    return Recomputed(lambda x_BLD: x_BLD, (x_BLD,))


def plain_attention(layer: Attention, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
    """Head by head."""
    width = x_BLD.shape[-1]
    q_BLD, k_BLD, v_BLD = layer.qkv(x_BLD).split(width, dim=-1)
    heads = []
    for n in range(width // layer.head_width):
        head = slice(n * layer.head_width, (n + 1) * layer.head_width)
        q_BLE, k_BLE = q_BLD[..., head], k_BLD[..., head]
        if layer.log_temperature_N11 is None:
            scores_BLL = q_BLE @ k_BLE.mT / layer.head_width**0.5
        else:
            cosine_BLL = F.cosine_similarity(q_BLE[:, :, None], k_BLE[:, None], dim=-1)
            scores_BLL = cosine_BLL * layer.log_temperature_N11[n].exp().clamp(max=100)
        heads.append((scores_BLL + (~mask_LL).float() * -1e9).softmax(-1) @ v_BLD[..., head])
    return layer.out(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("normalised", [False, True])
def test_attention_is_what_a_loop_over_heads_gives(normalised: bool) -> None:
    layer = Attention(12, 4, normalised)
    if normalised:
        layer.log_temperature_N11.data = torch.tensor([0.0, 1.0, 9.0]).view(3, 1, 1)
    x_BLD = torch.randn(2, SCHEDULE.num_tokens, 12)
    torch.testing.assert_close(layer(as_it_is(x_BLD), SIGHT), plain_attention(layer, x_BLD, MASK_LL))
    everything_LL = torch.ones_like(MASK_LL)
    torch.testing.assert_close(layer(as_it_is(x_BLD)), plain_attention(layer, x_BLD, everything_LL))


def test_a_cache_stands_for_the_tokens_before() -> None:
    layer = Attention(8, 4, normalised=True)
    x_BLD = torch.randn(2, SCHEDULE.num_tokens, 8)
    cache = KeyValueCache(2, 2, SCHEDULE.num_tokens, 4, like=x_BLD)
    steps = [layer(as_it_is(x_BLD[:, span]), cache=cache) for span in SCHEDULE.spans]
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(as_it_is(x_BLD), SIGHT))
    assert cache.length == SCHEDULE.num_tokens


@pytest.mark.parametrize("normalised", [False, True])
def test_attention_runs_in_bf16(normalised: bool) -> None:
    layer, x_BLD = Attention(8, 4, normalised), torch.randn(2, SCHEDULE.num_tokens, 8)
    y_BLD = layer(as_it_is(x_BLD), SIGHT)
    low_y_BLD = layer.bfloat16()(as_it_is(x_BLD.bfloat16()), SIGHT)
    assert low_y_BLD.dtype == torch.bfloat16
    torch.testing.assert_close(low_y_BLD.float(), y_BLD, rtol=0, atol=0.03)


def test_a_block_mixes_all_tokens_and_keeps_its_input() -> None:
    block, x_BLD = Block(8, 4), torch.randn(2, 5, 8)
    other_BLD = x_BLD.clone()
    other_BLD[:, 4] += torch.randn(8)
    assert (block(x_BLD) != block(other_BLD)).any(-1).all()
    for layer in (block.attention.out, block.mlp[-1]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert torch.equal(block(x_BLD), x_BLD)


@pytest.mark.parametrize("asked", [slice(3), slice(3, None)])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_tokens_that_are_asked_for_become_what_they_become_among_all(depth: int, asked: slice) -> None:
    blocks, x_BLD = Blocks(8, 4, depth), torch.randn(2, 5, 8, requires_grad=True)
    all_BLD = nn.Sequential(*blocks)(x_BLD)
    few_BSD, few_of_all_BSD = blocks(x_BLD, asked), all_BLD[:, asked]
    torch.testing.assert_close(few_BSD, few_of_all_BSD)
    d_BSD, learnt = torch.randn_like(few_BSD), [x_BLD, *blocks.parameters()]
    found, expected = (torch.autograd.grad(y_BSD, learnt, d_BSD) for y_BSD in (few_BSD, few_of_all_BSD))
    torch.testing.assert_close(found, expected)


def test_shrink_takes_the_mean_of_an_area() -> None:
    x_BChw = torch.arange(24.0).view(1, 1, 4, 6)
    torch.testing.assert_close(shrink(x_BChw, Size(2, 2))[0, 0, 1, 0], x_BChw[0, 0, 2:, :3].mean())
    torch.testing.assert_close(shrink(x_BChw, Size(1, 1))[0, 0, 0, 0], x_BChw.mean())


def test_grow_keeps_a_constant_and_goes_through_its_points() -> None:
    torch.testing.assert_close(grow(torch.full((1, 1, 2, 3), 7.0), Size(5, 4)), torch.full((1, 1, 5, 4), 7.0))
    x_BChw = torch.randn(2, 3, 2, 4)
    torch.testing.assert_close(grow(x_BChw, Size(6, 12))[..., 1::3, 1::3], x_BChw)


@pytest.mark.parametrize(
    "before, after", [((1, 1), (16, 4)), ((11, 11), (16, 16)), ((2, 3), (2, 7)), ((3, 4), (64, 4))]
)
def test_on_a_gpu_grids_grow_by_products_alike(before: tuple[int, int], after: tuple[int, int]) -> None:
    x_BChw = torch.randn(2, 3, *before, requires_grad=True)
    found_BCHW, expected_BCHW = grow_by_products(x_BChw, Size(*after)), grow(x_BChw, Size(*after))
    torch.testing.assert_close(found_BCHW, expected_BCHW, rtol=0, atol=1e-5)
    d_BCHW = torch.randn_like(found_BCHW)
    gradients = (torch.autograd.grad(y_BCHW, x_BChw, d_BCHW)[0] for y_BCHW in (found_BCHW, expected_BCHW))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)
    assert grow_by_products(x_BChw.bfloat16(), Size(*after)).dtype == torch.bfloat16


@pytest.mark.parametrize("resample", [shrink, grow])
def test_the_same_size_is_left_alone(resample: object) -> None:
    x_BChw = torch.randn(1, 2, 3, 4)
    assert resample(x_BChw, Size(3, 4)) is x_BChw  # type: ignore[operator]


def test_weights_start_small_and_biases_at_zero() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.Embedding(64, 64), nn.Linear(64, 64, bias=False))
    init_transformer(module)
    for part in module:
        assert 0.017 < part.weight.std() < 0.023
    assert not module[0].bias.any()
