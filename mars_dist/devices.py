"""Where a process computes, and how exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def own_device() -> torch.device:
    """This process's GPU where it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions in float32 as they stand: cuDNN would round what it multiplies to 10 bits (TF32, Ampere and later).

    So that a code is the same one on a GPU and on a CPU, but for the order of sums.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
