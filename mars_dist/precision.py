"""What a device computes training in: bf16 where it multiplies in it, float32 where it would have to emulate it.

Without AMX or AVX512-bf16 a CPU's products in bf16 take 10 to 300 times as long as in float32 (docs/log.md).
"""

from copy import deepcopy
from functools import lru_cache
from typing import Literal, TypeVar

import torch
from torch import nn

from mars_dist.config import Precision

Network = TypeVar("Network", bound=nn.Module)
PRODUCTS_IN_BF16 = ("amx_bf16", "avx512_bf16", "arm_bf16")
"""As torch names what a CPU can do."""


def in_bf16(model: Network) -> Network:
    """A copy with bf16 parameters; buffers, such as angles, stay as they are."""
    low = deepcopy(model)
    for parameter in low.parameters():
        parameter.data = parameter.data.bfloat16()
    return low


def settled(asked: Precision, device: Literal["cpu", "cuda"]) -> Precision:
    """float32 or bf16: what was asked for, or for `auto` what suits a GPU, or this machine's CPU."""
    if asked != "auto":
        return asked
    return "bf16" if (gpu_multiplies_bf16() if device == "cuda" else cpu_multiplies_bf16()) else "float32"


def gpu_multiplies_bf16() -> bool:
    """Of this machine, where it has one; those that are only named (check/device.py) do. A T4 or V100 emulates it."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


@lru_cache
def cpu_multiplies_bf16() -> bool:
    can = torch.cpu.get_capabilities()
    return any(can.get(name, False) for name in PRODUCTS_IN_BF16)
