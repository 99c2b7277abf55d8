"""The next-scale transformer: codes of a scale from the conditions and all coarser scales.

VAR (arXiv 2404.02905, section 3.2) with one AdaLN projection shared by all blocks.
Suffixes: B batch (2B with its unconditional half), C code width, D width, L tokens over all scales, k the tokens of one
scale, V codebook size, K scales.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.config import AutoregressorConfig, TokenizerConfig
from mars_dist.layers import Attention, KeyValueCache, init_transformer, mlp

Conditions = Mapping[str, Tensor]
"""For each condition (B,) integers; -1 where it is not asked for."""

MODULATIONS = 6


class Autoregressor(nn.Module):
    """Conditions and running f_hat -> logits of every scale's own codes: no shift by one."""

    mask_LL: Tensor
    scale_of_token_L: Tensor

    def __init__(self, config: AutoregressorConfig, tokenizer: TokenizerConfig, cardinalities: Mapping[str, int]):
        """`cardinalities` has the number of values of each condition."""
        super().__init__()
        self.config = config
        self.schedule = tokenizer.schedule
        self.cardinalities = dict(cardinalities)
        width, num_tokens = config.width, self.schedule.num_tokens
        # The last row of each table is its null.
        self.conditions = nn.ModuleDict({name: nn.Embedding(n + 1, width) for name, n in cardinalities.items()})
        self.condition_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.from_code = nn.Linear(tokenizer.code_width, width)
        self.positions_LD = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.levels_KD = nn.Parameter(0.02 * torch.randn(len(self.schedule), width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, MODULATIONS * width))
        self.blocks = nn.ModuleList(ConditionedBlock(width, config.head_width) for _ in range(config.depth))
        self.head_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, tokenizer.codebook_size)
        init_transformer(self)
        self.register_buffer("mask_LL", torch.from_numpy(self.schedule.mask()), persistent=False)
        self.register_buffer("scale_of_token_L", torch.from_numpy(self.schedule.scale_of_token), persistent=False)

    def forward(self, inputs_BLC: Tensor, conditions: Conditions, keep_BN: Tensor | None = None) -> Tensor:
        """Teacher forcing: the quantizer's `next_inputs` (B, L - 1, C) -> logits (B, L, V).

        `keep_BN`: for each sample and block, 0 to skip the block or else a factor (drop path).
        """
        condition_BD = self.condition(conditions)
        x_BLD = torch.cat([condition_BD[:, None].to(inputs_BLC.dtype), self.from_code(inputs_BLC)], dim=1)
        x_BLD = x_BLD + self.positions_LD + self.levels_KD[self.scale_of_token_L]
        modulation_BMD = self.modulation(condition_BD).unflatten(-1, (MODULATIONS, -1))
        for i, block in enumerate(self.blocks):
            keep_B = None if keep_BN is None else keep_BN[:, i]
            x_BLD = block(x_BLD, modulation_BMD, mask_LL=self.mask_LL, keep_B=keep_B)
        return self.logits(x_BLD, condition_BD)

    def predict_scale(
        self, k: int, inputs_BkC: Tensor | None, condition_BD: Tensor, caches: list[KeyValueCache]
    ) -> Tensor:
        """Logits (B, k, V) of scale k alone; the caches hold the coarser scales. Scale 0 takes no input."""
        x_BkD = condition_BD[:, None] if inputs_BkC is None else self.from_code(inputs_BkC)
        x_BkD = x_BkD + self.positions_LD[self.schedule.spans[k]] + self.levels_KD[k]
        modulation_BMD = self.modulation(condition_BD).unflatten(-1, (MODULATIONS, -1))
        for block, cache in zip(self.blocks, caches, strict=True):
            x_BkD = block(x_BkD, modulation_BMD, cache=cache)
        return self.logits(x_BkD, condition_BD)

    def condition(self, conditions: Conditions) -> Tensor:
        """The sum of the conditions' embeddings, through an MLP: (B, D)."""
        embedded = [
            self.conditions[name](torch.where(conditions[name] < 0, null, conditions[name]))
            for name, null in self.cardinalities.items()
        ]
        return self.condition_mlp(torch.stack(embedded).sum(0))

    def logits(self, x_BLD: Tensor, condition_BD: Tensor) -> Tensor:
        scale_B1D, shift_B1D = self.head_modulation(condition_BD)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(x_BLD) * (1 + scale_B1D) + shift_B1D)

    def empty_caches(self, batch: int, like: Tensor) -> list[KeyValueCache]:
        num_heads = self.config.width // self.config.head_width
        return [
            KeyValueCache(batch, num_heads, self.schedule.num_tokens, self.config.head_width, like)
            for _ in range(self.config.depth)
        ]

    def no_conditions(self, batch: int) -> dict[str, Tensor]:
        """Conditions that ask for nothing."""
        return {name: self.positions_LD.new_full((batch,), -1, dtype=torch.long) for name in self.cardinalities}


class ConditionedBlock(nn.Module):
    """A transformer block whose norms are shifted, scaled and gated by the condition (AdaLN, arXiv 2212.09748)."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, head_width, normalised=True)
        self.mlp = mlp(width)
        self.modulation_MD = nn.Parameter(torch.randn(MODULATIONS, width) / width**0.5)

    def forward(
        self,
        x_BLD: Tensor,
        modulation_BMD: Tensor,
        mask_LL: Tensor | None = None,
        cache: KeyValueCache | None = None,
        keep_B: Tensor | None = None,
    ) -> Tensor:
        modulation_BM1D = (modulation_BMD + self.modulation_MD)[:, :, None]
        gate_a, gate_m, scale_a, scale_m, shift_a, shift_m = modulation_BM1D.unbind(1)
        if keep_B is not None:
            gate_a, gate_m = gate_a * keep_B[:, None, None], gate_m * keep_B[:, None, None]
        x_BLD = x_BLD + gate_a * self.attention(self.norm(x_BLD) * (1 + scale_a) + shift_a, mask_LL, cache)
        return x_BLD + gate_m * self.mlp(self.norm(x_BLD) * (1 + scale_m) + shift_m)


def cross_entropy_per_scale(logits_BLV: Tensor, codes_BL: Tensor, spans: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats and accuracy of each scale: (K,), (K,)."""
    nats_BL = F.cross_entropy(logits_BLV.float().flatten(0, 1), codes_BL.flatten().long(), reduction="none")
    nats_BL = nats_BL.view(codes_BL.shape)
    hit_BL = (logits_BLV.argmax(-1) == codes_BL).float()
    return torch.stack([nats_BL[:, s].mean() for s in spans]), torch.stack([hit_BL[:, s].mean() for s in spans])
