"""VAR's transformer as its paper has it, plainly: the opponent that the real one is timed against.

Tian et al. 2024 (arXiv 2404.02905, sections 3.2 and 4): a class condition, AdaLN with a projection in every block,
queries and keys of unit length, learned positions; one dense mask over all tokens, keys and values appended by
concatenation.

Suffixes: B batch, L tokens, k those of one scale, D width, C code width, V codebook size, N heads, E head width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PlainConfig:
    """Those of VAR-d8 on 256 x 256 pictures, 41.3 M parameters: its width is 64 times its depth."""

    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    depth: int = 8
    head_width: int = 64
    code_width: int = 32
    codebook_size: int = 4096
    num_classes: int = 1000

    @property
    def width(self) -> int:
        return 64 * self.depth

    @property
    def num_tokens(self) -> int:
        return sum(side * side for side in self.sides)


class PlainVar(nn.Module):
    """Teacher forcing: `forward`. Sampling: `sample`."""

    mask_LL: Tensor
    level_L: Tensor

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.classes = nn.Embedding(config.num_classes + 1, width)  # the last is none
        self.from_code = nn.Linear(config.code_width, width)
        self.start_D = nn.Parameter(0.02 * torch.randn(width))
        self.positions_LD = nn.Parameter(0.02 * torch.randn(config.num_tokens, width))
        self.levels = nn.Embedding(len(config.sides), width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.head_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(width, config.codebook_size)
        areas = torch.tensor([side * side for side in config.sides])
        self.register_buffer(
            "level_L",
            torch.arange(len(areas)).repeat_interleave(areas, output_size=config.num_tokens),
            persistent=False,
        )
        seen_LL = self.level_L[:, None] >= self.level_L
        self.register_buffer("mask_LL", torch.zeros(seen_LL.shape).masked_fill(~seen_LL, -torch.inf), persistent=False)

    def forward(self, inputs_BLC: Tensor, classes_B: Tensor) -> Tensor:
        """Inputs (B, L - 1, C) of all scales but the first -> logits (B, L, V)."""
        condition_BD = self.classes(classes_B)
        x_BLD = torch.cat([self.first(condition_BD), self.from_code(inputs_BLC).to(condition_BD.dtype)], dim=1)
        x_BLD = x_BLD + self.positions_LD + self.levels(self.level_L)
        for block in self.blocks:
            x_BLD = block(x_BLD, condition_BD, self.mask_LL)
        return self.logits(x_BLD, condition_BD)

    def first(self, condition_BD: Tensor) -> Tensor:
        return condition_BD[:, None] + self.start_D

    def logits(self, x_BLD: Tensor, condition_BD: Tensor) -> Tensor:
        scale_B1D, shift_B1D = self.head_modulation(condition_BD)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(x_BLD) * (1 + scale_B1D) + shift_B1D)

    @torch.no_grad()
    def sample(
        self,
        classes_B: Tensor,
        guidance: float,
        draw: Callable[[Tensor], Tensor],
        embed: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """Codes (B, L). `draw` takes logits (B, k, V); `embed` a scale and its codes, and gives the next one's inputs.

        Both halves, with the condition and without, are computed at every scale, as VAR does.
        """
        both_B = torch.cat([classes_B, torch.full_like(classes_B, self.config.num_classes)])
        condition_BD = self.classes(both_B)
        x_BkD, codes, end = self.first(condition_BD), list[Tensor](), 0
        cached: list[list[Tensor]] = [[] for _ in self.blocks]
        for k, side in enumerate(self.config.sides):
            start, end = end, end + side * side
            x_BkD = x_BkD + self.positions_LD[start:end] + self.levels(self.level_L[start:end])
            for block, seen in zip(self.blocks, cached, strict=True):
                x_BkD = block(x_BkD, condition_BD, cached=seen)
            asked_BkV, unasked_BkV = self.logits(x_BkD, condition_BD).float().chunk(2)
            t = guidance * k / (len(self.config.sides) - 1)
            codes.append(draw((1 + t) * asked_BkV - t * unasked_BkV))
            if end < self.config.num_tokens:
                x_BkD = self.from_code(embed(k, codes[-1])).repeat(2, 1, 1)
        return torch.cat(codes, dim=1)


class PlainBlock(nn.Module):
    """Attention and MLP, shifted, scaled and gated by the condition."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = PlainAttention(width, config.head_width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x_BLD: Tensor,
        condition_BD: Tensor,
        mask_LL: Tensor | None = None,
        cached: list[Tensor] | None = None,
    ) -> Tensor:
        modulation_B1M = self.modulation(condition_BD)[:, None]
        gate_a, gate_m, scale_a, scale_m, shift_a, shift_m = modulation_B1M.chunk(6, dim=-1)
        x_BLD = x_BLD + gate_a * self.attention(self.norm(x_BLD) * (1 + scale_a) + shift_a, mask_LL, cached)
        return x_BLD + gate_m * self.mlp(self.norm(x_BLD) * (1 + scale_m) + shift_m)


class PlainAttention(nn.Module):
    """Of unit queries and keys, with a learned temperature for each head."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.log_temperature_N11 = nn.Parameter(torch.full((width // head_width, 1, 1), 4.0).log())
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor | None, cached: list[Tensor] | None) -> Tensor:
        """`cached`: keys and values of the coarser scales, if any; then with those of this one."""
        q_BNLE, k_BNLE, v_BNLE = self.qkv(x_BLD).unflatten(-1, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        q_BNLE = F.normalize(q_BNLE, dim=-1) * self.log_temperature_N11.clamp(max=4.6051701859880918).exp()
        k_BNLE = F.normalize(k_BNLE, dim=-1)
        if cached:
            k_BNLE, v_BNLE = (torch.cat(pair, dim=2) for pair in zip(cached, (k_BNLE, v_BNLE), strict=True))
        if cached is not None:
            cached[:] = k_BNLE, v_BNLE
        q_BNLE, k_BNLE = q_BNLE.to(v_BNLE.dtype), k_BNLE.to(v_BNLE.dtype)
        mask_LL = None if mask_LL is None else mask_LL.to(v_BNLE.dtype)
        found_BNLE = F.scaled_dot_product_attention(q_BNLE, k_BNLE, v_BNLE, attn_mask=mask_LL, scale=1.0)
        return self.out(found_BNLE.transpose(1, 2).flatten(2))
