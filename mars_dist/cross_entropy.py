"""What codes take, in nats, from what their logits are read from.

Suffixes: T tokens of all samples, D width, P codes of a token, V codebook size, M logits of a token (P V), A codes of
all samples, R a few of them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mars_dist.products import product


def nats_of(x_TD: Tensor, head: nn.Linear, codes_TP: Tensor) -> Tensor:
    """(T, P): the cross-entropy of each code under the logits head(x_TD), those of a token's codes side by side."""
    nats_TP: Tensor = NatsOfHead.apply(x_TD, head.weight, head.bias, codes_TP)
    return nats_TP


class NatsOfHead(torch.autograd.Function):
    """Logits are kept once, in the precision of the model, and overwritten by their gradients.

    What autograd would keep beside them, their float32 copy and its softmax, is six times as much in bf16.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_MD: Tensor, bias_M: Tensor, codes_TP: Tensor) -> Tensor:
        logits_TM = product(x_TD, weight_MD, bias_M)
        ctx.save_for_backward(x_TD, weight_MD, logits_TM, codes_TP)
        nats = [
            F.cross_entropy(logits_RV.float(), codes_R, reduction="none")
            for logits_RV, codes_R in few_at_once(x_TD, logits_TM, codes_TP)
        ]
        return torch.cat(nats).view(codes_TP.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nats_TP: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_MD, logits_TM, codes_TP = ctx.saved_tensors
        for logits_RV, codes_R, d_nats_R in few_at_once(x_TD, logits_TM, codes_TP, d_nats_TP):
            d_nats_R1 = d_nats_R[:, None]
            d_logits_RV = logits_RV.softmax(-1, dtype=torch.float32).mul_(d_nats_R1)
            logits_RV.copy_(d_logits_RV.scatter_add_(1, codes_R[:, None], -d_nats_R1))
        d_logits_TM = logits_TM
        return product(d_logits_TM, weight_MD.T), d_logits_TM.T @ x_TD, d_logits_TM.sum(0), None


def few_at_once(x_TD: Tensor, logits_TM: Tensor, *of_codes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the logits of a few codes (R, V), no more than x has values, and of what else there is of each (R,)."""
    logits_AV = logits_TM.view(of_codes[0].numel(), -1)
    size = max(1, x_TD.numel() // logits_AV.shape[1])
    return zip(logits_AV.split(size), *(figures_TP.flatten().split(size) for figures_TP in of_codes), strict=True)
