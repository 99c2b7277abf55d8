"""Attention: of all tokens to all others, or of each token to its own scale and all coarser ones.

Suffixes: B batch, N heads, L tokens, E head width; H heads of all samples, q the tokens of a group, k those that they
look at.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mars_dist.recomputed import Recomputed, made_again
from mars_dist.scales import ScaleSchedule

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values (B, N, L, E)."""
TOGETHER = 128
"""Tokens of coarse scales that are computed at once, under a mask: alone they would be many small products."""


class Sight(NamedTuple):
    """Which tokens a token looks at: those of its own scale and of all coarser ones."""

    mask_LL: Tensor
    groups: tuple[slice, ...]
    """Neighbouring scales that are computed together: what lies behind a group is not looked at, so not computed."""


def groups_of(schedule: ScaleSchedule) -> tuple[slice, ...]:
    """The coarse scales, as many as have at most TOGETHER tokens, then each by itself."""
    coarse = max(end for end in schedule.ends if end <= max(TOGETHER, schedule.ends[0]))
    return slice(0, coarse), *(span for span in schedule.spans if span.start >= coarse)


def attend(heads: Recomputed[Heads], sight: Sight | None = None) -> Tensor:
    """softmax(q k^T) v (B, N, L, E), without a further scale; of all tokens to all where there is no `sight`.

    On the CPU by plain products: there the backward of scaled_dot_product_attention takes four times as long in bf16.
    """
    on_gpu = heads.inputs[0].is_cuda
    with torch.autocast("cpu", enabled=False):
        if sight is not None and not on_gpu:
            found_BNLE: Tensor = AttendByGroups.apply(sight, heads.make, *heads.inputs)
            return found_BNLE
        q_BNLE, k_BNLE, v_BNLE = heads.made
        if on_gpu:
            mask_LL = None if sight is None else sight.mask_LL
            return F.scaled_dot_product_attention(q_BNLE, k_BNLE, v_BNLE, attn_mask=mask_LL, scale=1.0)
        return (q_BNLE @ k_BNLE.transpose(-1, -2)).softmax(-1) @ v_BNLE


class AttendByGroups(torch.autograd.Function):
    """One group of scales after the other, each to the tokens up to its end.

    Queries, keys, values and scores are computed again for the backward pass (FlashAttention's way, arXiv 2205.14135,
    section 3.1), and what groups add to the gradients of keys and values is added in place.
    """

    @staticmethod
    def forward(ctx: Any, sight: Sight, make: Callable[..., Heads], *inputs: Tensor) -> Tensor:
        q_BNLE, k_BNLE, v_BNLE = make(*inputs)
        batch_and_heads, (num_tokens, head_width) = q_BNLE.shape[:2], q_BNLE.shape[2:]
        q_HLE, k_HLE, v_HLE = (x_BNLE.flatten(0, 1) for x_BNLE in (q_BNLE, k_BNLE, v_BNLE))
        # Laid out with a token's heads side by side, as what comes next reads it.
        out_BNLE = q_BNLE.new_empty(len(q_BNLE), num_tokens, q_BNLE.shape[1], head_width).transpose(1, 2)
        for group in sight.groups:
            found_HqE = torch.bmm(look(q_HLE, k_HLE, group, sight), v_HLE[:, : group.stop])
            out_BNLE[:, :, group] = found_HqE.unflatten(0, batch_and_heads)
        ctx.save_for_backward(out_BNLE, *inputs)
        ctx.sight, ctx.make = sight, make
        return out_BNLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BNLE: Tensor) -> tuple[Tensor | None, ...]:
        out_BNLE, *kept = ctx.saved_tensors
        inputs, heads = made_again(ctx.make, kept)
        out_HLE, d_out_HLE = out_BNLE.flatten(0, 1), d_out_BNLE.flatten(0, 1)
        q_HLE, k_HLE, v_HLE = (x_BNLE.detach().flatten(0, 1) for x_BNLE in heads)
        d_q_HLE, d_k_HLE, d_v_HLE = torch.empty_like(q_HLE), torch.zeros_like(k_HLE), torch.zeros_like(v_HLE)
        mean_HL1 = (d_out_HLE * out_HLE).sum(-1, keepdim=True)
        for group in ctx.sight.groups:
            seen = slice(group.stop)
            weights_Hqk = look(q_HLE, k_HLE, group, ctx.sight)
            d_v_HLE[:, seen].baddbmm_(weights_Hqk.mT, d_out_HLE[:, group])
            d_scores_Hqk = torch.bmm(d_out_HLE[:, group], v_HLE[:, seen].mT)
            d_scores_Hqk.sub_(mean_HL1[:, group]).mul_(weights_Hqk)
            d_q_HLE[:, group] = torch.bmm(d_scores_Hqk, k_HLE[:, seen])
            d_k_HLE[:, seen].baddbmm_(d_scores_Hqk.mT, q_HLE[:, group])
        d_heads = [d_x_HLE.view(d_out_BNLE.shape) for d_x_HLE in (d_q_HLE, d_k_HLE, d_v_HLE)]
        return None, None, *torch.autograd.grad(heads, inputs, d_heads)


def look(q_HLE: Tensor, k_HLE: Tensor, group: slice, sight: Sight) -> Tensor:
    """Of the tokens of a group, the weights (H, q, k) of all tokens up to its end; softmax in float32."""
    scores_Hqk = torch.bmm(q_HLE[:, group], k_HLE[:, : group.stop].mT)
    if group == sight.groups[0]:  # the only one of several scales
        scores_Hqk.masked_fill_(~sight.mask_LL[group, : group.stop], -torch.inf)
    return scores_Hqk.softmax(-1, dtype=torch.float32).to(q_HLE.dtype)
