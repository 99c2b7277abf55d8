"""From conditions to codes, scale by scale: guidance, top-k, top-p, and a generator for each sample.

Suffixes: B batch, k the tokens of one scale, V codebook size, C code width, L tokens over all scales.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mars_dist.autoregressor import Autoregressor, Conditions
from mars_dist.quantizer import MultiScaleQuantizer


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are drawn."""

    guidance: float = 2.5
    """Classifier-free guidance at the last scale; it ramps up from 0 at the first (VAR)."""
    temperature: float = 0.9
    top_k: int = 50
    """0: no limit."""
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p: {self.top_p} must be above 0 and at most 1 (1 keeps every code)")
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k: {self.top_k} must be 0 (no limit) or more")
        if self.temperature <= 0:
            raise ValueError(f"sampling.temperature: {self.temperature} must be above 0")


@torch.inference_mode()
def sample_codes(
    model: Autoregressor,
    quantizer: MultiScaleQuantizer,
    conditions: Conditions,
    ids: list[int],
    config: SamplingConfig,
) -> Tensor:
    """Codes (B, L). The noise of a sample depends on (config.seed, its id) alone, not on its batch."""
    batch, num_scales = len(ids), len(model.schedule)
    # torch's CPU generator reads the lower 32 bits of a seed alone.
    generators = [torch.Generator().manual_seed((config.seed * 1_000_003 + i) % 2**32) for i in ids]
    guided = config.guidance > 0
    if guided:
        nothing = model.no_conditions(batch)
        conditions = {name: torch.cat([conditions[name], nothing[name]]) for name in nothing}
    condition_BD = model.condition(conditions)
    caches = model.empty_caches(len(condition_BD), like=condition_BD)

    def choose(k: int, f_hat_BChw: Tensor) -> Tensor:
        inputs_BkC = quantizer.next_input(k, f_hat_BChw) if k else None
        if inputs_BkC is not None and guided:
            inputs_BkC = torch.cat([inputs_BkC, inputs_BkC])
        logits_BkV = model.predict_scale(k, inputs_BkC, condition_BD, caches).float()
        if guided:
            t = config.guidance * k / max(num_scales - 1, 1)
            asked_BkV, unasked_BkV = logits_BkV.chunk(2)
            logits_BkV = (1 + t) * asked_BkV - t * unasked_BkV
        return draw(logits_BkV, config, generators)

    return torch.cat([codes_Bk for codes_Bk, _ in quantizer.walk(choose, batch)], dim=1)


def draw(logits_BkV: Tensor, config: SamplingConfig, generators: list[torch.Generator]) -> Tensor:
    """Codes (B, k) from the filtered distribution, by the Gumbel trick: one generator a sample."""
    logits_BkV = keep_likely(logits_BkV / config.temperature, config.top_k, config.top_p)
    uniform_BkV = torch.stack([torch.rand(logits_BkV.shape[1:], generator=g) for g in generators])
    gumbel_BkV = -(-uniform_BkV.clamp(min=1e-20).log()).log().to(logits_BkV.device)
    return (logits_BkV + gumbel_BkV).argmax(-1)


def keep_likely(logits_BkV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Minus infinity for all but the top_k codes, then for all but the fewest that hold top_p of what is left."""
    if 0 < top_k < logits_BkV.shape[-1]:
        least_Bk1 = logits_BkV.topk(top_k, dim=-1).values[..., -1:]
        logits_BkV = logits_BkV.masked_fill(logits_BkV < least_Bk1, -torch.inf)
    if top_p < 1:
        sorted_BkV, order_BkV = logits_BkV.sort(dim=-1, descending=True)
        share_BkV = sorted_BkV.softmax(-1)
        unlikely_BkV = share_BkV.cumsum(-1) - share_BkV >= top_p
        logits_BkV = logits_BkV.masked_fill(unlikely_BkV.gather(-1, order_BkV.argsort(-1)), -torch.inf)
    return logits_BkV
