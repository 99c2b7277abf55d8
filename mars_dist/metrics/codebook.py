"""How a codebook is used: at each scale, and over all.

Suffixes: B batch, L codes over all scales, K scales, W the codes of all branches' codebooks.
"""

import torch
from torch import Tensor

from mars_dist.config import TokenizerConfig

FEW = 0.25
"""A scale that uses less than this share of what its tokens could touch is worth a warning."""


def count_codes(codes_BL: Tensor, config: TokenizerConfig) -> Tensor:
    """(K, W): how often each code occurs at each scale; one branch's codes after the other's."""
    branch_L = torch.arange(codes_BL.shape[1], device=codes_BL.device) % config.branches
    codes_BL = codes_BL.long() + branch_L * config.codebook_size
    once_BL = torch.ones_like(codes_BL, dtype=torch.float32)
    hits_KW = once_BL.new_zeros(len(config.code_spans), config.branches * config.codebook_size)
    for hits_W, span in zip(hits_KW, config.code_spans, strict=True):
        # Not by bincount, which asks a GPU how many there are, and waits.
        hits_W.index_add_(0, codes_BL[:, span].flatten(), once_BL[:, span].flatten())
    return hits_KW


def usage(hits_KW: Tensor, config: TokenizerConfig) -> dict[str, float]:
    """By scale and over all: codes in use as a share of those that so many tokens could touch, and perplexity."""
    over_all = hits_KW.sum(0) if config.codebooks == "shared" else hits_KW.flatten()
    figures = {}
    for name, hits in zip([*scale_names(config), "all"], [*hits_KW, over_all], strict=True):
        reachable = min(float(hits.sum()), hits.numel())
        share = hits.double() / hits.sum().clamp(min=1)
        figures[f"usage_{name}"] = float((hits > 0).sum()) / max(reachable, 1.0)
        figures[f"perplexity_{name}"] = float(torch.special.entr(share).sum().exp())
    return figures


def scale_names(config: TokenizerConfig) -> list[str]:
    """As figures of all kinds are named by them: a page sets the codebook's use beside the cross-entropy."""
    return [f"{k}_{size}" for k, size in enumerate(config.scales)]


def summary(figures: dict[str, float], config: TokenizerConfig) -> str:
    """A line of every scale's share of codes in use and, in brackets, perplexity."""
    scales = [
        f"{name} {figures[f'usage_{name}']:.0%} ({figures[f'perplexity_{name}']:.3g})" for name in scale_names(config)
    ]
    return f"codes in use (perplexity): {'  '.join(scales)}"


def advice(figures: dict[str, float], config: TokenizerConfig) -> str | None:
    """What to try where scales above 1x1 use few codes; None where all is well."""
    named = zip(scale_names(config), config.scales, strict=True)
    few = [
        f"{name} {figures[f'usage_{name}']:.0%}"
        for name, size in named
        if size.area > 1 and figures[f"usage_{name}"] < FEW
    ]
    if not few:
        return None
    return (
        f"few codes in use at scales {', '.join(few)} of what their tokens could touch: try a greater "
        "--codebook.dead-share, a smaller --codebook.restart-every, or a smaller --tokenizer.codebook-size"
    )
