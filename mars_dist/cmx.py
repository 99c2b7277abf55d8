"""Channel multiplexing (CMX): height and width traded for channels, chessboard-like and without loss.

MARS (arXiv 2509.26007). Suffixes: B batch, F frequency bins, N frames, C channels, H W the multiplexed picture.
"""

from einops import rearrange
from torch import Tensor

from mars_dist.scales import Size


def multiplex(x_B1FN: Tensor, factors: Size) -> Tensor:
    """(B, 1, F, N) -> (B, C, H, W) with C = factors.h * factors.w, H = F / factors.h, W = N / factors.w.

    Channel i * factors.w + j holds the polyphase picture x[i::factors.h, j::factors.w].
    """
    return rearrange(x_B1FN, "b 1 (h rf) (w rt) -> b (rf rt) h w", rf=factors.h, rt=factors.w)


def demultiplex(x_BCHW: Tensor, factors: Size) -> Tensor:
    """(B, C, H, W) -> (B, 1, F, N): the exact inverse of `multiplex`."""
    return rearrange(x_BCHW, "b (rf rt) h w -> b 1 (h rf) (w rt)", rf=factors.h, rt=factors.w)


def recut(x_BCHW: Tensor, before: Size, after: Size) -> Tensor:
    """The same picture multiplexed by other factors."""
    return x_BCHW if before == after else multiplex(demultiplex(x_BCHW, before), after)
