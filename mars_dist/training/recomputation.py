"""What a training step computes a second time, so that it need not be kept for the backward pass."""

from torch import nn
from torch.distributed._composable import checkpoint

from mars_dist.autoregressor import ConditionedBlock
from mars_dist.config import Recompute
from mars_dist.layers import Block

BLOCKS = (Block, ConditionedBlock)


def recompute(model: nn.Module, what: Recompute) -> None:
    """Have the blocks of a model compute that again; before they are sharded."""
    if what == "blocks":
        for module in model.modules():
            if isinstance(module, BLOCKS):
                checkpoint(module)
