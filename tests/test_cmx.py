"""Channel multiplexing loses nothing, and is no more than a permutation to a patch embedding."""

import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mars_dist.cmx import demultiplex, multiplex
from mars_dist.scales import Size

small = st.integers(1, 4)
sizes = st.builds(Size, small, small)


def picture(size: Size, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(0))


@given(sizes, sizes)
def test_there_and_back_is_bit_exact(factors: Size, grid: Size) -> None:
    x_B1FN = picture(Size(factors.h * grid.h, factors.w * grid.w))
    x_BCHW = multiplex(x_B1FN, factors)
    assert x_BCHW.shape == (2, factors.area, *grid)
    assert torch.equal(demultiplex(x_BCHW, factors), x_B1FN)
    assert torch.equal(multiplex(demultiplex(x_BCHW, factors), factors), x_BCHW)


@given(sizes)
def test_a_channel_is_a_polyphase_picture(factors: Size) -> None:
    x_B1FN = picture(Size(3 * factors.h, 2 * factors.w))
    x_BCHW = multiplex(x_B1FN, factors)
    for i in range(factors.h):
        for j in range(factors.w):
            assert torch.equal(x_BCHW[:, i * factors.w + j], x_B1FN[:, 0, i :: factors.h, j :: factors.w])


@given(small)
def test_equal_factors_are_pixel_unshuffle(factor: int) -> None:
    x_B1FN = picture(Size(3 * factor, 2 * factor))
    assert torch.equal(multiplex(x_B1FN, Size(factor, factor)), F.pixel_unshuffle(x_B1FN, factor))


@given(sizes, sizes)
def test_a_patch_embedding_after_cmx_is_a_larger_one_before_it(factors: Size, patch: Size) -> None:
    width, raw = 5, Size(patch.h * factors.h, patch.w * factors.w)
    x_B1FN = picture(Size(2 * raw.h, 3 * raw.w)).double()
    weight_DCpp = torch.randn(width, factors.area, *patch, dtype=torch.float64)
    weight_D1FN = rearrange(weight_DCpp, "d (rf rt) h w -> d 1 (h rf) (w rt)", rf=factors.h, rt=factors.w)
    multiplexed_BDhw = F.conv2d(multiplex(x_B1FN, factors), weight_DCpp, stride=tuple(patch))
    torch.testing.assert_close(multiplexed_BDhw, F.conv2d(x_B1FN, weight_D1FN, stride=tuple(raw)))
