"""The next-scale transformer: codes of a scale from the conditions and all coarser scales.

VAR (arXiv 2404.02905, section 3.2); rotary positions are Infinity's (arXiv 2412.04431).
Suffixes: B batch (2B with its unconditional half), C code width, D width, L tokens, or their codes, over all scales, k
those of one scale, V codebook size, K scales, P codes of a token, T tokens of all samples, M modulations, N blocks, E
head width, e half of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from mars_dist.attention import ALL, Sight, block_mask_of, groups_of
from mars_dist.config import AutoregressorConfig, TokenizerConfig
from mars_dist.cross_entropy import nats_of
from mars_dist.heads import turns_of
from mars_dist.layers import Attention, KeyValueCache, Mlp, drawn, init_transformer
from mars_dist.recomputed import Recomputed, modulated_norm
from mars_dist.scales import ScaleSchedule

Conditions = Mapping[str, Tensor]
"""For each condition (B,) integers; -1 where it is not asked for."""

MODULATIONS = 6
"""Gates, scales and shifts of a block's attention and of its MLP."""
LONGEST_WAVE = 100.0
"""Of the rotary positions, in cells of the latent grid over 2 pi; grids are tens of cells wide."""


@dataclass
class Begun:
    """Samples on their way: what is computed once and kept from scale to scale."""

    condition_BD: Tensor
    modulations: list[Tensor]
    """(B, MODULATIONS, D) of each block: what the condition does to its norms."""
    head_B2D: Tensor
    """The same of the head."""
    caches: list[KeyValueCache]
    """Of each block."""


class Autoregressor(nn.Module):
    """Conditions and running f_hat -> logits of every scale's own codes: no shift by one."""

    compiled = False
    """Whether blocks are: then they attend by FlexAttention on a GPU."""
    mask_LL: Tensor
    scale_of_token_L: Tensor
    angles_Le: Tensor

    def __init__(self, config: AutoregressorConfig, tokenizer: TokenizerConfig, cardinalities: Mapping[str, int]):
        """`cardinalities` has the number of values of each condition."""
        super().__init__()
        self.config = config
        self.schedule = tokenizer.schedule
        self.groups = groups_of(self.schedule)
        self.block_mask: BlockMask | None = None
        self.branches = tokenizer.branches
        self.cardinalities = dict(cardinalities)
        width, num_tokens = config.width, self.schedule.num_tokens
        # The last row of each table is its null.
        self.conditions = nn.ModuleDict({name: nn.Embedding(n + 1, width) for name, n in cardinalities.items()})
        self.condition_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.from_code = nn.Linear(tokenizer.code_width, width)
        self.levels_KD = nn.Parameter(drawn(len(self.schedule), width, std=0.02))
        learned = config.positions != "rotary"
        self.positions_LD = nn.Parameter(drawn(num_tokens, width, std=0.02)) if learned else None
        self.modulation = modulation(width, MODULATIONS) if config.modulation == "shared" else None
        blocks = nn.ModuleList(ConditionedBlock(config) for _ in range(config.depth))
        self.blocks = cast("list[ConditionedBlock]", blocks)
        self.head_modulation = modulation(width, 2)
        self.head = nn.Linear(width, tokenizer.branches * tokenizer.codebook_size)
        init_transformer(self)
        self.register_buffer("mask_LL", torch.from_numpy(self.schedule.mask()), persistent=False)
        self.register_buffer("scale_of_token_L", torch.from_numpy(self.schedule.scale_of_token), persistent=False)
        self.register_buffer("angles_Le", rotary_angles(self.schedule, config.head_width), persistent=False)

    def forward(
        self,
        inputs_BLC: Tensor,
        conditions: Conditions,
        keep_BN: Tensor | None = None,
        codes_BL: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: the quantizer's `next_inputs` (B, L - 1, C) -> logits (B, codes, V).

        With `codes_BL`, the true ones, instead of logits what each of them takes in nats (B, codes).
        `keep_BN`: for each sample and block, 0 to skip the block or else a factor (drop path).
        """
        condition_BD = self.condition(conditions)
        x_BLD = torch.cat([condition_BD[:, None].to(inputs_BLC.dtype), self.from_code(inputs_BLC)], dim=1)
        shared_BMD = self.shared_modulation(condition_BD)
        x_BLD, turns_2LE = self.placed(x_BLD, slice(None))
        for i, block in enumerate(self.blocks):
            keep_B = None if keep_BN is None else keep_BN[:, i]
            x_BLD = block(x_BLD, condition_BD, shared_BMD, sight=self.sight, turns_2LE=turns_2LE, keep_B=keep_B)
        x_BLD = self.read_out(x_BLD, self.head_modulation(condition_BD))
        return self.logits(x_BLD) if codes_BL is None else self.nats(x_BLD, codes_BL)

    @property
    def sight(self) -> Sight:
        """Of each token: its own scale and all coarser ones."""
        if self.compiled and self.mask_LL.is_cuda and self.block_mask is None:  # not before the mask has moved there
            self.block_mask = block_mask_of(self.mask_LL)
        return Sight(self.mask_LL, self.groups, self.block_mask)

    def begin(self, conditions: Conditions) -> Begun:
        """Sampling: nothing is chosen yet."""
        condition_BD = self.condition(conditions)
        shared_BMD = self.shared_modulation(condition_BD)
        modulations = [block.modulation_of(condition_BD, shared_BMD) for block in self.blocks]
        batch, width, head_width = *condition_BD.shape, self.config.head_width
        caches = [
            KeyValueCache(batch, width // head_width, self.schedule.num_tokens, head_width, like=condition_BD)
            for _ in self.blocks
        ]
        return Begun(condition_BD, modulations, self.head_modulation(condition_BD), caches)

    def predict_scale(self, k: int, inputs_BkC: Tensor | None, begun: Begun, guidance: float | None = None) -> Tensor:
        """Logits (B, the scale's codes, V) of scale k, after all coarser ones. Scale 0 takes no input.

        With guidance t, of 2B samples, the same with conditions and without: (1 + t) asked - t unasked, of B (arXiv
        2207.12598, equation 6). Taken before the head, which is linear: it is spared half of the tokens.
        """
        x_BkD = begun.condition_BD[:, None]
        if inputs_BkC is not None:
            x_BkD = self.from_code(inputs_BkC.to(x_BkD.dtype))
        x_BkD, turns_2kE = self.placed(x_BkD, self.schedule.spans[k])
        for block, modulation_BMD, cache in zip(self.blocks, begun.modulations, begun.caches, strict=True):
            x_BkD = block.transform(x_BkD, modulation_BMD, cache=cache, turns_2LE=turns_2kE)
        x_BkD = self.read_out(x_BkD, begun.head_B2D)
        if guidance is not None:
            asked_BkD, unasked_BkD = x_BkD.float().chunk(2)
            x_BkD = ((1 + guidance) * asked_BkD - guidance * unasked_BkD).to(x_BkD.dtype)
        return self.logits(x_BkD)

    def placed(self, x_BLD: Tensor, span: slice) -> tuple[Tensor, Tensor | None]:
        """Tokens of a span of the sequence with their levels and learned positions, and how rotary ones turn."""
        x_BLD = x_BLD + self.levels_KD[self.scale_of_token_L[span]]
        if self.positions_LD is not None:
            x_BLD = x_BLD + self.positions_LD[span]
        return x_BLD, turns_of(self.angles_Le[span]) if self.config.positions != "learned" else None

    def shared_modulation(self, condition_BD: Tensor) -> Tensor | None:
        return self.modulation(condition_BD) if self.modulation is not None else None

    def read_out(self, x_BLD: Tensor, head_B2D: Tensor) -> Tensor:
        """What codes are read from, as wide."""
        scale_B1D, shift_B1D = head_B2D[:, :, None].unbind(1)
        return modulated_norm(x_BLD, scale_B1D, shift_B1D)

    def logits(self, x_BLD: Tensor) -> Tensor:
        """(B, codes, V): those of a token side by side."""
        return self.head(x_BLD).unflatten(-1, (self.branches, -1)).flatten(1, 2)

    def nats(self, x_BLD: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, codes): the cross-entropy of each code."""
        codes_TP = codes_BL.long().view(-1, self.branches)
        return nats_of(x_BLD.flatten(0, 1), self.head, codes_TP).view(codes_BL.shape)

    def condition(self, conditions: Conditions) -> Tensor:
        """The sum of the conditions' embeddings, through an MLP: (B, D)."""
        embedded = [
            self.conditions[name](torch.where(conditions[name] < 0, null, conditions[name]))
            for name, null in self.cardinalities.items()
        ]
        return self.condition_mlp(torch.stack(embedded).sum(0))

    def no_conditions(self, batch: int) -> dict[str, Tensor]:
        """Conditions that ask for nothing."""
        return {name: self.levels_KD.new_full((batch,), -1, dtype=torch.long) for name in self.cardinalities}


class ConditionedBlock(nn.Module):
    """A transformer block whose norms are shifted, scaled and gated by the condition (AdaLN, arXiv 2212.09748).

    The projection of the condition is the block's own, or one shared by all with an offset for each block.
    """

    def __init__(self, config: AutoregressorConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = Attention(width, config.head_width, normalised=True)
        self.mlp = Mlp(width)
        if config.modulation == "shared":
            self.modulation_MD = nn.Parameter(drawn(MODULATIONS, width, std=width**-0.5))
        else:
            self.modulation = modulation(width, MODULATIONS)

    def forward(
        self,
        x_BLD: Tensor,
        condition_BD: Tensor,
        shared_BMD: Tensor | None,
        *,
        sight: Sight,
        turns_2LE: Tensor | None,
        keep_B: Tensor | None,
    ) -> Tensor:
        """Training: every token of every scale."""
        modulation_BMD = self.modulation_of(condition_BD, shared_BMD)
        return self.transform(x_BLD, modulation_BMD, sight=sight, turns_2LE=turns_2LE, keep_B=keep_B)

    def modulation_of(self, condition_BD: Tensor, shared_BMD: Tensor | None) -> Tensor:
        """(B, MODULATIONS, D)."""
        return self.modulation(condition_BD) if shared_BMD is None else shared_BMD + self.modulation_MD

    def transform(
        self,
        x_BLD: Tensor,
        modulation_BMD: Tensor,
        *,
        sight: Sight = ALL,
        cache: KeyValueCache | None = None,
        turns_2LE: Tensor | None = None,
        keep_B: Tensor | None = None,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D): attention and MLP, each after a norm as the condition has it, and gated by it."""
        gate_a, gate_m, scale_a, scale_m, shift_a, shift_m = modulation_BMD[:, :, None].unbind(1)
        if keep_B is not None:
            gate_a, gate_m = gate_a * keep_B[:, None, None], gate_m * keep_B[:, None, None]
        seen_BLD = Recomputed(modulated_norm, (x_BLD, scale_a, shift_a))
        x_BLD = x_BLD + self.attention(seen_BLD, sight, cache, turns_2LE, gate_a)
        return torch.addcmul(x_BLD, gate_m, self.mlp(Recomputed(modulated_norm, (x_BLD, scale_m, shift_m))))


def modulation(width: int, num: int) -> nn.Sequential:
    """Condition (B, D) -> (B, num, D)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, num * width), nn.Unflatten(-1, (num, width)))


def rotary_angles(schedule: ScaleSchedule, head_width: int) -> Tensor:
    """(L, E / 2): by how much each pair of a head's values turns at each token.

    Half of the pairs turn with the row, half with the column, both in cells of the latent grid, so that tokens of two
    scales at one place turn alike (Infinity, arXiv 2412.04431, section 3.2).
    """
    num_pairs = head_width // 4
    arange = partial(torch.arange, device="cpu")  # values, also of a network that has no memory yet
    frequencies = LONGEST_WAVE ** (-arange(num_pairs) / max(num_pairs - 1, 1))
    angles = []
    for size in schedule.sizes:
        rows = (arange(size.h) + 0.5) * schedule.latent_grid.h / size.h
        columns = (arange(size.w) + 0.5) * schedule.latent_grid.w / size.w
        places = torch.cartesian_prod(rows, columns)
        angles.append((places[:, :, None] * frequencies).flatten(1))
    return torch.cat(angles)


def mean_per_scale(figures_BL: Tensor, spans: tuple[slice, ...]) -> Tensor:
    """(K,): over the batch and the codes of each scale."""
    return torch.stack([figures_BL[:, span].mean() for span in spans])


def cross_entropy_per_scale(logits_BLV: Tensor, codes_BL: Tensor, spans: tuple[slice, ...]) -> Tensor:
    """(K,): the mean cross-entropy of each scale, in nats."""
    nats_BL = F.cross_entropy(logits_BLV.float().flatten(0, 1), codes_BL.flatten().long(), reduction="none")
    return mean_per_scale(nats_BL.view(codes_BL.shape), spans)


def accuracy_per_scale(logits_BLV: Tensor, codes_BL: Tensor, spans: tuple[slice, ...]) -> Tensor:
    """(K,): how often the likeliest code is the true one."""
    return mean_per_scale((logits_BLV.argmax(-1) == codes_BL).float(), spans)
