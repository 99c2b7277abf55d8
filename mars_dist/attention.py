"""Attention: of all tokens to all, or of each token to its own scale and all coarser ones.

Suffixes: B batch, N heads, L tokens, E head width; H heads of several samples, q the tokens of a group, k those that
they look at.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from mars_dist.recomputed import Recomputed, is_plain, made_again
from mars_dist.scales import ScaleSchedule

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values (B, N, L, E)."""
TOGETHER = 128
"""Tokens of coarse scales that are computed at once, under a mask: alone they would be many small products."""
SCORES_AT_ONCE = 2**21
"""Of several samples: more of them leave a CPU's cache between the product that makes them and the one that reads."""


class Sight(NamedTuple):
    """Which tokens a token looks at: those of its own scale and of all coarser ones."""

    mask_LL: Tensor | None
    groups: tuple[slice, ...]
    """Neighbouring scales that are computed together: what lies behind a group is not looked at, so not computed."""
    block_mask: BlockMask | None = None
    """The mask as FlexAttention takes it, which passes over blocks of pairs that are not seen; on a GPU."""


ALL = Sight(None, (slice(None),))
"""Every token looks at all that there are."""


def groups_of(schedule: ScaleSchedule) -> tuple[slice, ...]:
    """The coarse scales, as many as have at most TOGETHER tokens, then each by itself."""
    coarse = max(end for end in schedule.ends if end <= max(TOGETHER, schedule.ends[0]))
    return slice(0, coarse), *(span for span in schedule.spans if span.start >= coarse)


def block_mask_of(mask_LL: Tensor) -> BlockMask:
    num_tokens = len(mask_LL)
    return create_block_mask(lambda b, n, i, j: mask_LL[i, j], None, None, num_tokens, num_tokens, mask_LL.device)


def attend(heads: Recomputed[Heads], sight: Sight = ALL) -> Tensor:
    """softmax(q k^T) v (B, N, L, E), without a further scale.

    Compiled on a GPU by FlexAttention (arXiv 2412.05496), which is worth nothing uncompiled. Where a CPU trains, by
    plain products: there the backward of scaled_dot_product_attention takes four times as long in bf16.
    """
    with torch.autocast("cpu", enabled=False):
        if torch.compiler.is_compiling() and sight.block_mask is not None:
            return attend_by_blocks(heads.made, sight.block_mask)
        if is_plain() or heads.inputs[0].is_cuda:
            return F.scaled_dot_product_attention(*heads.made, attn_mask=sight.mask_LL, scale=1.0)
        found_BNLE: Tensor = AttendByGroups.apply(sight, heads.make, *heads.inputs)
        return found_BNLE


def attend_by_blocks(heads: Heads, block_mask: BlockMask) -> Tensor:
    found_BNLE = flex_attention(*heads, block_mask=block_mask, scale=1.0)
    assert isinstance(found_BNLE, Tensor)
    return found_BNLE


class AttendByGroups(torch.autograd.Function):
    """One group of scales after the other, each to the tokens up to its end, a few samples at once.

    Queries, keys, values and scores are computed again for the backward pass (FlashAttention's way, arXiv 2205.14135,
    section 3.1), and what groups add to the gradients of keys and values is added in place.
    """

    @staticmethod
    def forward(ctx: Any, sight: Sight, make: Callable[..., Heads], *inputs: Tensor) -> Tensor:
        heads = make(*inputs)
        batch, num_heads, num_tokens, head_width = heads[0].shape
        # Laid out with a token's heads side by side, as what comes next reads it.
        out_BNLE = heads[0].new_empty(batch, num_tokens, num_heads, head_width).transpose(1, 2)
        q_HLE, k_HLE, v_HLE = (x_BNLE.flatten(0, 1) for x_BNLE in heads)
        for group, samples, some in parts(heads, sight):
            q_HqE, k_HkE, v_HkE = seen(group, some, q_HLE, k_HLE, v_HLE)
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
        d_heads = gradients(heads, out_BNLE, d_out_BNLE, ctx.sight)
        return None, None, *torch.autograd.grad(heads, inputs, d_heads)


def gradients(heads: Heads, out_BNLE: Tensor, d_out_BNLE: Tensor, sight: Sight) -> list[Tensor]:
    """Those of queries, keys and values, from what was found and its gradient."""
    q_HLE, k_HLE, v_HLE = (x_BNLE.detach().flatten(0, 1) for x_BNLE in heads)
    d_q_HLE, d_k_HLE, d_v_HLE = torch.empty_like(q_HLE), torch.zeros_like(k_HLE), torch.zeros_like(v_HLE)
    mean_HL1 = (d_out_BNLE * out_BNLE).sum(-1, keepdim=True).flatten(0, 1)
    d_out_HLE = d_out_BNLE.flatten(0, 1)
    for group, _, some in parts(heads, sight):
        q_HqE, k_HkE, v_HkE = seen(group, some, q_HLE, k_HLE, v_HLE)
        d_q_HqE, d_k_HkE, d_v_HkE = seen(group, some, d_q_HLE, d_k_HLE, d_v_HLE)
        d_out_HqE, mean_Hq1 = d_out_HLE[some, group], mean_HL1[some, group]
        weights_Hqk = look(q_HqE, k_HkE, group, sight)
        d_v_HkE.baddbmm_(weights_Hqk.mT, d_out_HqE)
        d_scores_Hqk = torch.bmm(d_out_HqE, v_HkE.mT).sub_(mean_Hq1).mul_(weights_Hqk)
        d_q_HqE.copy_(torch.bmm(d_scores_Hqk, k_HkE))
        d_k_HkE.baddbmm_(d_scores_Hqk.mT, q_HqE)
    return [d_x_HLE.view(x_BNLE.shape) for d_x_HLE, x_BNLE in zip((d_q_HLE, d_k_HLE, d_v_HLE), heads, strict=True)]


def parts(heads: Heads, sight: Sight) -> Iterator[tuple[slice, slice, slice]]:
    """Each group with each few samples that are computed together, and with all heads of these."""
    q_BNLE, k_BNLE, _ = heads
    batch, num_heads, num_tokens, _ = q_BNLE.shape
    for group in sight.groups:
        pairs = len(range(num_tokens)[group]) * len(range(k_BNLE.shape[2])[: group.stop])
        num_samples = max(1, SCORES_AT_ONCE // (num_heads * pairs))
        for start in range(0, batch, num_samples):
            end = min(start + num_samples, batch)
            yield group, slice(start, end), slice(start * num_heads, end * num_heads)


def seen(group: slice, some: slice, q_HLE: Tensor, k_HLE: Tensor, v_HLE: Tensor) -> Heads:
    """Views, of some of the heads: the group's queries (H, q, E), and what they look at (H, k, E)."""
    return q_HLE[some, group], k_HLE[some, : group.stop], v_HLE[some, : group.stop]


def look(q_HqE: Tensor, k_HkE: Tensor, group: slice, sight: Sight) -> Tensor:
    """Of the tokens of a group, the weights (H, q, k) of all tokens up to its end."""
    scores_Hqk = torch.bmm(q_HqE, k_HkE.mT)
    if sight.mask_LL is not None and group == sight.groups[0]:  # the only one of several scales
        scores_Hqk.masked_fill_(~sight.mask_LL[group, : group.stop], -torch.inf)
    return scores_Hqk.softmax(-1)  # in float32 whatever the type: the kernel rounds what it has found
