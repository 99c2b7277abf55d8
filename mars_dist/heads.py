"""Queries, keys and values of each head, from what one linear layer makes of the tokens.

Suffixes: B batch, L tokens, N heads, E head width, e half of it, M queries, keys and values of all heads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mars_dist.attention import Heads

LEAST_LENGTH = 1e-12


def heads_of(
    head_width: int,
    turns_2LE: Tensor | None,
    asked: slice,
    qkv_BLM: Tensor,
    log_temperature_N11: Tensor | None = None,
) -> Heads:
    """Queries of the tokens `asked`, scaled, and all keys and values, of each head."""
    q_BNLE, k_BNLE, v_BNLE = apart(qkv_BLM, head_width)
    if log_temperature_N11 is None:
        q_BNLE = q_BNLE * head_width**-0.5
    else:
        temperature_N11 = log_temperature_N11.exp().clamp(max=100)
        if torch.compiler.is_compiling():  # which finds by itself what passes can be spared
            q_BNLE, k_BNLE = q_BNLE * factor(q_BNLE, temperature_N11), k_BNLE * factor(k_BNLE)
        else:
            q_BNLE, k_BNLE, v_BNLE = UnitHeads.apply(head_width, qkv_BLM, temperature_N11)
    if turns_2LE is not None:
        q_BNLE, k_BNLE = turn(q_BNLE, turns_2LE), turn(k_BNLE, turns_2LE)
    return q_BNLE[:, :, asked], k_BNLE, v_BNLE


def apart(qkv_BLM: Tensor, head_width: int) -> Tensor:
    """A view (3, B, N, L, E)."""
    return qkv_BLM.unflatten(-1, (3, -1, head_width)).permute(2, 0, 3, 1, 4)


def factor(x_BNLE: Tensor, length: Tensor | float = 1.0) -> Tensor:
    """(B, N, L, 1): what gives x this length. Its own is taken in float32, and is not 0."""
    of_x_BNL1 = x_BNLE.norm(dim=-1, keepdim=True, dtype=torch.float32).clamp(min=LEAST_LENGTH)
    return (length / of_x_BNL1).to(x_BNLE.dtype)


class UnitHeads(torch.autograd.Function):
    """(qkv, temperature) -> queries as long as the temperature, keys of length 1, and values; each head by itself in
    memory, as products take them.

    By hand, it takes half of autograd's passes.
    """

    @staticmethod
    def forward(ctx: Any, head_width: int, qkv_BLM: Tensor, temperature_N11: Tensor) -> Heads:
        q_BNLE, k_BNLE, v_BNLE = apart(qkv_BLM, head_width)
        by_q_BNL1, by_k_BNL1 = factor(q_BNLE, temperature_N11), factor(k_BNLE)
        q_BNLE, k_BNLE = (
            torch.mul(x_BNLE, by_BNL1, out=x_BNLE.new_empty(x_BNLE.shape))
            for x_BNLE, by_BNL1 in ((q_BNLE, by_q_BNL1), (k_BNLE, by_k_BNL1))
        )
        ctx.save_for_backward(q_BNLE, k_BNLE, by_q_BNL1, by_k_BNL1, temperature_N11)
        return q_BNLE, k_BNLE, v_BNLE.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_q_BNLE: Tensor, d_k_BNLE: Tensor, d_v_BNLE: Tensor) -> tuple[Tensor | None, ...]:
        q_BNLE, k_BNLE, by_q_BNL1, by_k_BNL1, temperature_N11 = ctx.saved_tensors
        batch, num_heads, num_tokens, head_width = q_BNLE.shape
        d_qkv_BLM = d_q_BNLE.new_empty(batch, num_tokens, 3 * num_heads * head_width)
        into_q_BNLE, into_k_BNLE, into_v_BNLE = apart(d_qkv_BLM, head_width)
        along_q_BNL1 = derive(into_q_BNLE, q_BNLE, d_q_BNLE, by_q_BNL1, temperature_N11)
        derive(into_k_BNLE, k_BNLE, d_k_BNLE, by_k_BNL1)
        into_v_BNLE.copy_(d_v_BNLE)
        return None, d_qkv_BLM, along_q_BNL1.sum((0, 2), keepdim=True)[0] / temperature_N11


def derive(
    into_BNLE: Tensor, y_BNLE: Tensor, d_y_BNLE: Tensor, by_BNL1: Tensor, length: Tensor | float = 1.0
) -> Tensor:
    """The gradient of x, of which y = x l / |x| was made: (d_y - y (y . d_y) / l^2) l / |x|. Returns y . d_y."""
    along_BNL1 = (y_BNLE * d_y_BNLE).sum(-1, keepdim=True)
    torch.mul(d_y_BNLE, by_BNL1, out=into_BNLE)
    into_BNLE.addcmul_(y_BNLE, along_BNL1 * by_BNL1 / length**2, value=-1)
    return along_BNL1


def turn(x_BNLE: Tensor, turns_2LE: Tensor) -> Tensor:
    """Each pair of values, one of either half, turned by its angle, as `turns_of` has it."""
    cos_LE, sin_LE = turns_2LE.to(x_BNLE.dtype)
    return torch.addcmul(x_BNLE * cos_LE, x_BNLE.roll(x_BNLE.shape[-1] // 2, -1), sin_LE)


def turns_of(angles_Le: Tensor) -> Tensor:
    """What a value is multiplied with, and the other one of its pair: (2, L, E). Blocks are handed these instead of the
    angles, which FSDP would round to bf16 on their way."""
    cos_Le, sin_Le = angles_Le.cos(), angles_Le.sin()
    return torch.stack([torch.cat([cos_Le, cos_Le], -1), torch.cat([-sin_Le, sin_Le], -1)])
