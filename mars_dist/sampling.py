"""From conditions to codes, scale by scale: guidance, top-k, top-p, and noise of its own for each sample.

Suffixes: B batch, k the codes of one scale, V codebook size, M the likeliest of them, C code width, h w the latent
grid, L codes over all scales.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mars_dist import noise
from mars_dist.autoregressor import Autoregressor, Conditions
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.scales import ScaleSchedule
from mars_dist.serialize import convert, hints_of


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
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: faster on GPUs and on CPUs that multiply in it; a note may then be another one in another batch."""

    def __post_init__(self) -> None:
        for name in ("unasked", "precision"):
            convert(hints_of(SamplingConfig)[name], getattr(self, name), None, f"sampling.{name}")
        for name in ScaleSampling._fields:
            value = getattr(self, name)
            for i, entry in enumerate(value) if isinstance(value, tuple | list) else [(None, value)]:
                if wrong := rule_broken(name, entry):
                    place = "" if i is None else f"[{i}]"
                    raise ValueError(f"sampling.{name}{place}: {entry} {wrong}")

    def per_scale(self, schedule: ScaleSchedule) -> list[ScaleSampling]:
        """The settings of each scale. Raises ValueError for a list that has not one entry for each."""
        settings = []
        for name in ScaleSampling._fields:
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
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
    """Codes (B, L), in the precision of the model. The noise of a sample depends on (config.seed, its id) alone, not on
    its batch."""
    batch, scales = len(ids), config.per_scale(model.schedule)
    keys_B = noise.keys(config.seed, ids).to(quantizer.codebook_Rc.device)
    guided = any(scale.guidance > 0 for scale in scales)
    if guided:
        nothing = model.no_conditions(batch)
        conditions = {name: torch.cat([conditions[name], nothing[name]]) for name in nothing}
    begun = model.begin(conditions)

    def choose(k: int, f_hat_BChw: Tensor) -> Tensor:
        inputs_BkC = quantizer.next_input(k, f_hat_BChw) if k else None
        if inputs_BkC is not None and guided:
            inputs_BkC = torch.cat([inputs_BkC, inputs_BkC])
        logits_BkV = model.predict_scale(k, inputs_BkC, begun, scales[k].guidance if guided else None)
        return draw(logits_BkV.float(), scales[k], keys_B, quantizer.config.code_spans[k].start)

    return torch.cat([codes_Bk for codes_Bk, _ in quantizer.walk(choose, batch)], dim=1)


def draw(logits_BkV: Tensor, scale: ScaleSampling, keys_B: Tensor, start: int) -> Tensor:
    """Codes (B, k) from the filtered distribution, by the Gumbel trick. `start`: the place of the first one among L.

    The noise of a code depends on the sample's key, the place and the code alone, so it is made for likely ones only.
    """
    likely_BkM, codes_BkM = keep_likely(logits_BkV / scale.temperature, scale.top_k, scale.top_p)
    _, num_codes, size = logits_BkV.shape
    places_k1 = torch.arange(start, start + num_codes, device=logits_BkV.device)[:, None]
    uniform_BkM = noise.uniform(keys_B[:, None, None], places_k1 * size + codes_BkM)
    gumbel_BkM = -(-uniform_BkM.clamp(min=1e-20).log()).log()
    return codes_BkM.gather(-1, (likely_BkM + gumbel_BkM).argmax(-1, keepdim=True))[..., 0]


def keep_likely(logits_BkV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """The logits of the top_k likeliest codes (B, k, M), and which codes they are.

    Minus infinity for all but the fewest of them that hold top_p of what is left.
    """
    size = logits_BkV.shape[-1]
    num_likely = min(top_k or size, size)
    if num_likely == size and top_p == 1:
        return logits_BkV, torch.arange(size, device=logits_BkV.device).expand_as(logits_BkV)
    likely_BkM, codes_BkM = logits_BkV.topk(num_likely)
    if top_p < 1:
        share_BkM = likely_BkM.softmax(-1)
        likely_BkM = likely_BkM.masked_fill(share_BkM.cumsum(-1) - share_BkM >= top_p, -torch.inf)
    return likely_BkM, codes_BkM
