"""The nearest training note."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mars_dist.metrics import neighbours
from mars_dist.metrics.neighbours import NearestNote


def pictures(num_notes: int, seed: int) -> torch.Tensor:
    return torch.rand(num_notes, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def nearest(query_BD: torch.Tensor, bank_ND: torch.Tensor) -> torch.Tensor:
    best = NearestNote(query_BD)
    best.update(bank_ND)
    return best.index_B


def test_nearest_is_the_largest_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    query_BD, bank_ND = pictures(7, 0), pictures(50, 1)
    expected_BN = cosine_similarity(query_BD[:, None] + 1, bank_ND[None] + 1, dim=-1)
    assert nearest(query_BD, bank_ND).tolist() == expected_BN.argmax(1).tolist()
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 8)
    assert nearest(query_BD, bank_ND).tolist() == expected_BN.argmax(1).tolist()


def test_a_bank_in_pieces_counts_on() -> None:
    query_BD, bank_ND = pictures(7, 0), pictures(50, 1)
    best = NearestNote(query_BD)
    for piece_ND in bank_ND.split([1, 30, 19]):
        best.update(piece_ND)
    assert best.num_seen == 50
    assert best.index_B.tolist() == nearest(query_BD, bank_ND).tolist()


def test_a_copy_is_found_at_any_loudness_of_the_picture() -> None:
    bank_ND = pictures(20, 1)
    best = NearestNote((bank_ND[[13, 4]] + 1) * 0.5 - 1)
    best.update(bank_ND.half())
    assert best.index_B.tolist() == [13, 4]
    assert best.similarity_B.tolist() == pytest.approx([1, 1], abs=1e-3)


def test_shared_silence_is_no_likeness() -> None:
    one_BD, other_ND = -torch.ones(1, 100), -torch.ones(1, 100)
    one_BD[0, 0], other_ND[0, 1] = 1, 1
    best = NearestNote(one_BD)
    best.update(other_ND)
    assert best.similarity_B.item() == 0


def test_of_equals_the_first_is_kept() -> None:
    bank_ND = pictures(3, 2)
    best = NearestNote(bank_ND)
    best.update(bank_ND)
    best.update(bank_ND)
    assert best.index_B.tolist() == [0, 1, 2]
