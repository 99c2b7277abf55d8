"""A model's blocks by torch.compile: fused between their matrix products, and attention by FlexAttention on a GPU."""

import os
import shutil

import torch
from torch import nn

from mars_dist.autoregressor import Autoregressor
from mars_dist.training.recomputation import BLOCKS

COMPILERS = {"cuda": ("CC", "gcc", "clang"), "cpu": ("CXX", "g++", "clang++")}
"""By device: the environment variable that may name one, and the usual ones."""
VARIANTS = 32
"""Of one block's code, 8 by default: a tokenizer's validation with a smaller last part needs 9, and what is beyond the
limit is not compiled."""


def compile_blocks(model: nn.Module) -> None:
    """Before they are sharded; what is compiled is made at the first step."""
    # All blocks share one code: the first and the last ones, in training or not, parts of two sizes or of one row.
    torch._dynamo.config.recompile_limit = VARIANTS
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.compile()
        elif isinstance(module, Autoregressor):
            module.compiled = True


def lacking_compiler(device: torch.device) -> str | None:
    """What to do where this machine has none."""
    variable, *usual = COMPILERS[device.type]
    if any(map(shutil.which, (os.environ.get(variable, ""), *usual))):
        return None
    return f"train.compile: needs {' or '.join(usual)} on every machine: install one, or leave train.compile out"
