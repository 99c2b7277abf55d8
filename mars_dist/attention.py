"""Attention: of all tokens to all others, or of each token to its own scale and all coarser ones.

Suffixes: B batch, N heads, L tokens, E head width; H heads of several samples, q the tokens of a group, k those that
they look at.
"""

from collections.abc import Callable, Iterator
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
SCORES_AT_ONCE = 2**21
"""Of several samples: more of them leave a CPU's cache between the product that makes them and the one that reads."""


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
    """One group of scales after the other, each to the tokens up to its end, a few samples at once.

    Queries, keys, values and scores are computed again for the backward pass (FlashAttention's way, arXiv 2205.14135,
    section 3.1), and what groups add to the gradients of keys and values is added in place.
    """

    @staticmethod
    def forward(ctx: Any, sight: Sight, make: Callable[..., Heads], *inputs: Tensor) -> Tensor:
        q_BNLE, k_BNLE, v_BNLE = (x_BNLE.contiguous() for x_BNLE in make(*inputs))
        batch, num_heads, num_tokens, head_width = q_BNLE.shape
        # Laid out with a token's heads side by side, as what comes next reads it.
        out_BNLE = q_BNLE.new_empty(batch, num_tokens, num_heads, head_width).transpose(1, 2)
        for group, samples in parts(batch, num_heads, sight.groups):
            q_HqE, k_HkE, v_HkE = seen(group, samples, q_BNLE, k_BNLE, v_BNLE)
            found_HqE = torch.bmm(look(q_HqE, k_HkE, group, sight), v_HkE)
            out_BNLE[samples, :, group] = found_HqE.unflatten(0, (-1, num_heads))
        ctx.save_for_backward(out_BNLE, *inputs)
        ctx.sight, ctx.make = sight, make
        return out_BNLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BNLE: Tensor) -> tuple[Tensor | None, ...]:
        out_BNLE, *kept = ctx.saved_tensors
        inputs, heads = made_again(ctx.make, kept)
        q_BNLE, k_BNLE, v_BNLE = (x_BNLE.detach().contiguous() for x_BNLE in heads)
        d_q_BNLE, d_k_BNLE, d_v_BNLE = torch.empty_like(q_BNLE), torch.zeros_like(k_BNLE), torch.zeros_like(v_BNLE)
        mean_BNL1 = (d_out_BNLE * out_BNLE).sum(-1, keepdim=True)
        d_out_BNLE = d_out_BNLE.contiguous()
        for group, samples in parts(len(q_BNLE), q_BNLE.shape[1], ctx.sight.groups):
            q_HqE, k_HkE, v_HkE = seen(group, samples, q_BNLE, k_BNLE, v_BNLE)
            d_q_HqE, d_k_HkE, d_v_HkE = seen(group, samples, d_q_BNLE, d_k_BNLE, d_v_BNLE)
            d_out_HqE, mean_Hq1 = (x_BNLE[samples].flatten(0, 1)[:, group] for x_BNLE in (d_out_BNLE, mean_BNL1))
            weights_Hqk = look(q_HqE, k_HkE, group, ctx.sight)
            d_v_HkE.baddbmm_(weights_Hqk.mT, d_out_HqE)
            d_scores_Hqk = torch.bmm(d_out_HqE, v_HkE.mT).sub_(mean_Hq1).mul_(weights_Hqk)
            d_q_HqE.copy_(torch.bmm(d_scores_Hqk, k_HkE))
            d_k_HkE.baddbmm_(d_scores_Hqk.mT, q_HqE)
        return None, None, *torch.autograd.grad(heads, inputs, (d_q_BNLE, d_k_BNLE, d_v_BNLE))


def parts(batch: int, num_heads: int, groups: tuple[slice, ...]) -> Iterator[tuple[slice, slice]]:
    """Each group with each few samples that are computed together."""
    for group in groups:
        num_samples = max(1, SCORES_AT_ONCE // (num_heads * (group.stop - group.start) * group.stop))
        for start in range(0, batch, num_samples):
            yield group, slice(start, start + num_samples)


def seen(group: slice, samples: slice, q_BNLE: Tensor, k_BNLE: Tensor, v_BNLE: Tensor) -> Heads:
    """Views, of all heads of these samples: the group's queries (H, q, E), and what they look at (H, k, E)."""
    q_HLE, k_HLE, v_HLE = (x_BNLE[samples].flatten(0, 1) for x_BNLE in (q_BNLE, k_BNLE, v_BNLE))
    return q_HLE[:, group], k_HLE[:, : group.stop], v_HLE[:, : group.stop]


def look(q_HqE: Tensor, k_HkE: Tensor, group: slice, sight: Sight) -> Tensor:
    """Of the tokens of a group, the weights (H, q, k) of all tokens up to its end."""
    scores_Hqk = torch.bmm(q_HqE, k_HkE.mT)
    if group == sight.groups[0]:  # the only one of several scales
        scores_Hqk.masked_fill_(~sight.mask_LL[group, : group.stop], -torch.inf)
    return scores_Hqk.softmax(-1)  # in float32 whatever the type: the kernel rounds what it has found
