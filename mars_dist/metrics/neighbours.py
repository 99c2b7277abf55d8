"""The nearest training note: whether a sample is new or remembered.

Suffixes: B queries, N notes of the bank (or of a piece of it), D cells of a flattened picture.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

ROWS_AT_ONCE = 1024


class NearestNote:
    """The nearest note to each query by cosine, over a bank that arrives piece by piece.

    Pictures are normalised log magnitudes with silence at -1, which is moved to 0: cells silent in both do not count.
    `index_B` counts notes in the order in which they came; `similarity_B` is the cosine, in [0, 1].
    """

    def __init__(self, query_BD: Tensor) -> None:
        self.query_BD = _direction(query_BD)
        self.index_B = torch.full((len(query_BD),), -1, device=query_BD.device)
        self.similarity_B = torch.full((len(query_BD),), -torch.inf, device=query_BD.device)
        self.num_seen = 0

    def update(self, bank_ND: Tensor) -> None:
        """(N, D): the next notes of the bank. Of equals the first is kept."""
        for piece_ND in bank_ND.split(ROWS_AT_ONCE):
            similarity_B, index_B = (self.query_BD @ _direction(piece_ND).T).max(1)
            closer_B = similarity_B > self.similarity_B
            self.index_B = torch.where(closer_B, index_B + self.num_seen, self.index_B)
            self.similarity_B = torch.where(closer_B, similarity_B, self.similarity_B)
            self.num_seen += len(piece_ND)


def _direction(picture_BD: Tensor) -> Tensor:
    return normalize(picture_BD.float() + 1, dim=1)
