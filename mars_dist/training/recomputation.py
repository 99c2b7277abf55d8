"""What a training step computes a second time, so that it need not be kept for the backward pass."""

from functools import partial

import torch
from torch import nn
from torch.distributed._composable import checkpoint
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from mars_dist.autoregressor import ConditionedBlock
from mars_dist.config import Recompute
from mars_dist.layers import Block

BLOCKS = (Block, ConditionedBlock)
KEPT = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]
"""What `pointwise` keeps the results of: products with weights, and on a GPU what attention finds."""


def recompute(model: nn.Module, what: Recompute) -> None:
    """Have the blocks of a model compute that again; before they are sharded."""
    if what == "nothing":
        return
    settings = {"context_fn": partial(create_selective_checkpoint_contexts, KEPT)} if what == "pointwise" else {}
    for module in model.modules():
        if isinstance(module, BLOCKS):
            checkpoint(module, **settings)
