"""Random numbers that are computed where they are needed, on any device: each depends on a key and a place alone.

SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", figure 17): its state goes on by
a constant, so the number at any place of a stream is found without those before it. Sums and products overflow, as they
should. Suffix: B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def signed(value: int) -> int:
    """The number of 64 bits as torch has it."""
    return value - 2**64 if value >= 2**63 else value


STRIDE, FIRST, SECOND = map(signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def keys(seed: int, ids: Sequence[int] | Tensor) -> Tensor:
    """(B,): the key of each id's stream of numbers."""
    return at(at(torch.tensor(signed(seed % 2**64)), torch.tensor(0)), torch.as_tensor(ids))


def uniform(key: Tensor, place: Tensor) -> Tensor:
    """In [0, 1), of 24 bits."""
    return shifted(at(key, place), 40).float() * 2**-24


def at(key: Tensor, place: Tensor) -> Tensor:
    """64 bits: the number at a place, from 0, of the stream that begins with a key."""
    x = key + (place + 1) * STRIDE
    x = (x ^ shifted(x, 30)) * FIRST
    x = (x ^ shifted(x, 27)) * SECOND
    return x ^ shifted(x, 31)


def shifted(x: Tensor, num: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> num) & ((1 << (64 - num)) - 1)
