"""How a codebook is used: at each scale, and over all.

Suffixes: B batch, L tokens over all scales, V codebook size, K scales.
"""

import torch
from torch import Tensor

from mars_dist.scales import ScaleSchedule


def count_codes(codes_BL: Tensor, schedule: ScaleSchedule, codebook_size: int) -> Tensor:
    """(K, V): how often each code occurs at each scale."""
    counts = [torch.bincount(codes_BL[:, span].flatten().long(), minlength=codebook_size) for span in schedule.spans]
    return torch.stack(counts).float()


def usage(hits_KV: Tensor, schedule: ScaleSchedule) -> dict[str, float]:
    """By scale and over all: codes in use as a share of those that so many tokens could touch, and perplexity."""
    names = [f"{k}_{size}" for k, size in enumerate(schedule.sizes)] + ["all"]
    figures = {}
    for name, hits_V in zip(names, [*hits_KV, hits_KV.sum(0)], strict=True):
        reachable = min(float(hits_V.sum()), hits_V.numel())
        share_V = hits_V.double() / hits_V.sum().clamp(min=1)
        figures[f"usage_{name}"] = float((hits_V > 0).sum()) / max(reachable, 1.0)
        figures[f"perplexity_{name}"] = float(torch.special.entr(share_V).sum().exp())
    return figures
