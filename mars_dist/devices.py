"""Where a process computes."""

import torch


def own_device() -> torch.device:
    """This process's GPU where it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
