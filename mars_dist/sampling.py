"""From conditions to codes, scale by scale: guidance, top-k, top-p, and a generator for each sample.

Suffixes: B batch, k the tokens of one scale, V codebook size, C code width, L tokens over all scales.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mars_dist.autoregressor import Autoregressor, Conditions
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.scales import ScaleSchedule


class ScaleSampling(NamedTuple):
    """How the codes of one scale are drawn."""

    guidance: float
    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are drawn. A list has a number for each scale, coarse to fine."""

    guidance: float | tuple[float, ...] = 2.5
    """Classifier-free guidance. One number: that of the last scale, ramped up from 0 at the first (VAR)."""
    temperature: float | tuple[float, ...] = 0.9
    top_k: int | tuple[int, ...] = 50
    """0: no limit."""
    top_p: float | tuple[float, ...] = 0.95
    seed: int = 0
    unasked: Literal["histogram", "null"] = "histogram"
    """What is not asked for: drawn as the training notes that have what is asked for have it, or left to the model."""

    def __post_init__(self) -> None:
        for name in ScaleSampling._fields:
            value = getattr(self, name)
            for i, entry in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
                if wrong := rule_broken(name, entry):
                    place = "" if i is None else f"[{i}]"
                    raise ValueError(f"sampling.{name}{place}: {entry} {wrong}")

    def per_scale(self, schedule: ScaleSchedule) -> list[ScaleSampling]:
        """The settings of each scale. Raises ValueError for a list that has not one entry for each."""
        settings = []
        for name in ScaleSampling._fields:
            value = getattr(self, name)
            if not isinstance(value, tuple):
                ramp = [k / max(len(schedule) - 1, 1) if name == "guidance" else 1 for k in range(len(schedule))]
                value = tuple(value * share for share in ramp)
            if len(value) != len(schedule):
                values, sizes = " ".join(map(str, value)), " ".join(map(str, schedule.sizes))
                raise ValueError(
                    f"sampling.{name}: {len(value)} values ({values}) for the {len(schedule)} scales of this model "
                    f"({sizes}): give one number, or one for each scale"
                )
            settings.append(value)
        return [ScaleSampling(*values) for values in zip(*settings, strict=True)]


def rule_broken(name: str, value: float) -> str | None:
    """What one value of a scale's setting must be, where it is not."""
    rules = {
        "guidance": (0 <= value < math.inf, "must be 0 (no guidance) or more"),
        "temperature": (0 < value < math.inf, "must be above 0"),
        "top_k": (value >= 0, "must be 0 (no limit) or more"),
        "top_p": (0 < value <= 1, "must be above 0 and at most 1 (1 keeps every code)"),
    }
    holds, rule = rules[name]
    return None if holds else rule


AS_ASKED = SamplingConfig(unasked="null")
"""For evaluation: an instrument that training never saw is left open, not replaced by another one."""


@torch.inference_mode()
def sample_codes(
    model: Autoregressor,
    quantizer: MultiScaleQuantizer,
    conditions: Conditions,
    ids: list[int],
    config: SamplingConfig,
) -> Tensor:
    """Codes (B, L). The noise of a sample depends on (config.seed, its id) alone, not on its batch."""
    batch, scales = len(ids), config.per_scale(model.schedule)
    # torch's CPU generator reads the lower 32 bits of a seed alone.
    generators = [torch.Generator().manual_seed((config.seed * 1_000_003 + i) % 2**32) for i in ids]
    guided = any(scale.guidance > 0 for scale in scales)
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
            t = scales[k].guidance
            asked_BkV, unasked_BkV = logits_BkV.chunk(2)
            logits_BkV = (1 + t) * asked_BkV - t * unasked_BkV
        return draw(logits_BkV, scales[k], generators)

    return torch.cat([codes_Bk for codes_Bk, _ in quantizer.walk(choose, batch)], dim=1)


def draw(logits_BkV: Tensor, scale: ScaleSampling, generators: list[torch.Generator]) -> Tensor:
    """Codes (B, k) from the filtered distribution, by the Gumbel trick: one generator a sample."""
    logits_BkV = keep_likely(logits_BkV / scale.temperature, scale.top_k, scale.top_p)
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
