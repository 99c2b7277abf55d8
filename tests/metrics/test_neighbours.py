"""The nearest training note."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mars_dist.metrics.neighbours import nearest_notes, nearest_of


def pictures(num_notes: int, seed: int) -> torch.Tensor:
    return torch.rand(num_notes, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_nearest_is_the_largest_cosine() -> None:
    query_BD, bank_ND = pictures(7, 0), pictures(50, 1)
    expected_BN = cosine_similarity(query_BD[:, None] + 1, bank_ND[None] + 1, dim=-1)
    found = nearest_notes(query_BD, [bank_ND])
    assert found.index_B.tolist() == expected_BN.argmax(1).tolist()
    assert torch.allclose(found.similarity_B, expected_BN.max(1).values)


def test_a_bank_in_pieces_counts_on() -> None:
    query_BD, bank_ND = pictures(7, 0), pictures(50, 1)
    whole = nearest_notes(query_BD, [bank_ND]).index_B.tolist()
    assert nearest_notes(query_BD, bank_ND.split([1, 30, 19])).index_B.tolist() == whole
    apart = [nearest_notes(query_BD, bank_ND[first:][:20].split(7), first) for first in (0, 20, 40)]
    assert nearest_of(apart).index_B.tolist() == whole


def test_a_copy_is_found_at_any_loudness_of_the_picture() -> None:
    bank_ND = pictures(20, 1)
    found = nearest_notes((bank_ND[[13, 4]] + 1) * 0.5 - 1, [bank_ND.half()])
    assert found.index_B.tolist() == [13, 4]
    assert found.similarity_B.tolist() == pytest.approx([1, 1], abs=1e-3)


def test_shared_silence_is_no_likeness() -> None:
    one_BD, other_ND = -torch.ones(1, 100), -torch.ones(1, 100)
    one_BD[0, 0], other_ND[0, 1] = 1, 1
    assert nearest_notes(one_BD, [other_ND]).similarity_B.item() == 0


def test_of_equals_the_first_is_kept() -> None:
    bank_ND = pictures(3, 2)
    assert nearest_notes(bank_ND, [bank_ND, bank_ND]).index_B.tolist() == [0, 1, 2]
