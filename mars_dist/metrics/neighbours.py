"""The nearest training note: whether a sample is new or remembered.

Suffixes: B queries, N notes of a piece of the bank, S such pieces, D cells of a flattened picture.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class Nearest(NamedTuple):
    """Of each query the nearest note of a bank."""

    similarity_B: Tensor
    """The cosine, in [0, 1]."""
    index_B: Tensor
    """The note's place in the bank."""


def nearest_notes(query_BD: Tensor, bank: Iterable[Tensor], first: int = 0) -> Nearest:
    """The nearest by cosine, of equals the first, in a bank (N, D) that comes piece by piece; `first`: its first place.

    Pictures are normalised log magnitudes with silence at -1, which is moved to 0: cells silent in both do not count.
    """
    query_BD, pieces = _direction(query_BD), list[Nearest]()
    for bank_ND in bank:
        similarity_B, index_B = (query_BD @ _direction(bank_ND).T).max(1)
        pieces.append(Nearest(similarity_B, first + index_B))
        first += len(bank_ND)
    return nearest_of(pieces)


def nearest_of(pieces: Sequence[Nearest]) -> Nearest:
    """The nearest in all pieces of a bank, in their order."""
    similarity_SB, index_SB = (torch.stack(values) for values in zip(*pieces, strict=True))
    best_1B = similarity_SB.argmax(0, keepdim=True)
    return Nearest(similarity_SB.gather(0, best_1B)[0], index_SB.gather(0, best_1B)[0])


def _direction(picture_BD: Tensor) -> Tensor:
    return normalize(picture_BD.float() + 1, dim=1)
