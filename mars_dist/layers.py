"""What encoder, decoder and autoregressor are made of.

Suffixes: B batch, L tokens, S those of them that are asked for, D width, N heads, E head width, C channels, h w a grid,
H W a larger one.
"""

from functools import lru_cache, partial
from math import log
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.attention import ALL, Heads, Sight, attend
from mars_dist.heads import heads_of
from mars_dist.recomputed import Recomputed, gated_linear, linear, norm
from mars_dist.scales import Size

EVERY = slice(None)
"""Of the tokens."""


class Attention(nn.Module):
    """Multi-head attention; with `normalised`, on unit queries and keys with a learned temperature per head.

    The normalisation is that of Henry et al. 2020 (arXiv 2010.04245) as VAR uses it.
    """

    def __init__(self, width: int, head_width: int, normalised: bool) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        num_heads = width // head_width
        self.log_temperature_N11 = nn.Parameter(torch.full((num_heads, 1, 1), log(4.0))) if normalised else None

    def forward(
        self,
        x_BLD: Recomputed[Tensor],
        sight: Sight = ALL,
        cache: "KeyValueCache | None" = None,
        turns_2LE: Tensor | None = None,
        gate_B1D: Tensor | None = None,
        asked: slice = EVERY,
    ) -> Tensor:
        """(B, L, D) -> (B, S, D): what the tokens `asked` find. A cache holds the keys and values of the tokens before.

        `turns_2LE`: rotary positions, by which queries and keys are turned (RoFormer, arXiv 2104.09864).
        `gate_B1D`: what the result is multiplied with.
        """
        inputs = [linear(x_BLD, self.qkv)]
        if self.log_temperature_N11 is not None:
            inputs.append(self.log_temperature_N11)
        heads = Recomputed(partial(heads_of, self.head_width, turns_2LE, asked), tuple(inputs))
        if cache is not None:
            heads = Recomputed(cache.extend, heads.made)
        found_BSD = attend(heads, sight).transpose(1, 2).flatten(2)
        return self.out(found_BSD) if gate_B1D is None else gated_linear(found_BSD, self.out, gate_B1D)


class KeyValueCache:
    """Keys and values of one block, in memory taken once for all L tokens."""

    def __init__(self, batch: int, num_heads: int, num_tokens: int, head_width: int, like: Tensor) -> None:
        self.keys_BNLE = like.new_empty(batch, num_heads, num_tokens, head_width)
        self.values_BNLE = torch.empty_like(self.keys_BNLE)
        self.length = 0

    def extend(self, q_BNLE: Tensor, k_BNLE: Tensor, v_BNLE: Tensor) -> Heads:
        """Append, and return the queries and all keys and values so far."""
        end = self.length + k_BNLE.shape[2]
        self.keys_BNLE[:, :, self.length : end] = k_BNLE
        self.values_BNLE[:, :, self.length : end] = v_BNLE
        self.length = end
        return q_BNLE, self.keys_BNLE[:, :, :end], self.values_BNLE[:, :, :end]


class Mlp(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BLD: Recomputed[Tensor]) -> Tensor:
        widen, gelu, narrow = cast("tuple[nn.Linear, nn.GELU, nn.Linear]", tuple(self))
        return linear(Recomputed(gelu, (linear(x_BLD, widen),)), narrow)


class Block(nn.Module):
    """A pre-norm transformer block without conditions."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, head_width, normalised=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x_BLD: Tensor, asked: slice = EVERY) -> Tensor:
        """(B, L, D) -> (B, S, D), what becomes of the tokens `asked`."""
        x_BSD = x_BLD[:, asked] + self.attention(normed(x_BLD, self.norm_attention), asked=asked)
        return x_BSD + self.mlp(normed(x_BSD, self.norm_mlp))


class Blocks(nn.ModuleList):
    """Blocks in a row, of which the last computes only what is read of it."""

    def __init__(self, width: int, head_width: int, depth: int) -> None:
        super().__init__(Block(width, head_width) for _ in range(depth))

    def forward(self, x_BLD: Tensor, asked: slice) -> Tensor:
        """(B, L, D) -> (B, S, D), what becomes of the tokens `asked`."""
        if not len(self):
            return x_BLD[:, asked]
        *others, last = self
        for block in others:
            x_BLD = block(x_BLD)
        found_BSD: Tensor = last(x_BLD, asked)
        return found_BSD


def normed(x_BLD: Tensor, layer: nn.LayerNorm) -> Recomputed[Tensor]:
    return Recomputed(norm, (x_BLD, layer.weight, layer.bias))


def shrink(x_BChw: Tensor, size: Size) -> Tensor:
    """Area resampling to a smaller grid; the identity at the same size."""
    return x_BChw if tuple(x_BChw.shape[-2:]) == size else F.interpolate(x_BChw, size=tuple(size), mode="area")


def grow(x_BChw: Tensor, size: Size) -> Tensor:
    """Bicubic resampling to a larger grid; the identity at the same size."""
    if tuple(x_BChw.shape[-2:]) == size:
        return x_BChw
    if x_BChw.device.type == "cuda":  # not is_cuda: a dry run shall not take these products for the model's
        return grow_by_products(x_BChw, size)
    return F.interpolate(x_BChw, size=tuple(size), mode="bicubic")


def grow_by_products(x_BChw: Tensor, size: Size) -> Tensor:
    """The same by products of matrices.

    CUDA's bicubic kernel has one thread for each cell of the grid, which takes all channels of all samples in turn.
    """
    up_Hh, across_Ww = (
        bicubic(before, after, x_BChw.device).to(x_BChw.dtype)
        for before, after in zip(x_BChw.shape[-2:], size, strict=True)
    )
    return up_Hh @ x_BChw @ across_Ww.T


@lru_cache
def bicubic(before: int, after: int, device: torch.device) -> Tensor:
    """(after, before): the weights of resampling along one axis."""
    with torch.inference_mode(False), torch.no_grad():  # it may be made where nothing is learnt, and needed where it is
        return F.interpolate(torch.eye(before, device=device)[None, None], (after, before), mode="bicubic")[0, 0]


def drawn(*shape: int, std: float = 1) -> Tensor:
    """Normal values of that deviation."""
    return nn.init.normal_(torch.empty(shape), std=std)


def init_transformer(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02, zero biases (VAR)."""
    for part in module.modules():
        # Without memory there is nothing to fill, and to find that out takes most of the time of building a model.
        if not isinstance(part, nn.Linear | nn.Embedding) or part.weight.is_meta:
            continue
        nn.init.trunc_normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
