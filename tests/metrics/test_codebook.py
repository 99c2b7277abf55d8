"""Usage and perplexity of a codebook."""

import pytest
import torch

from mars_dist.metrics.codebook import count_codes, usage
from mars_dist.scales import ScaleSchedule, Size

SCHEDULE = ScaleSchedule((Size(1, 1), Size(1, 2), Size(1, 2)))
NAMES = ("0_1x1", "1_1x2", "2_1x2", "all")


def test_codes_are_counted_by_scale() -> None:
    codes_BL = torch.tensor([[3, 0, 0, 1, 2], [3, 0, 1, 1, 1]], dtype=torch.int16)
    assert count_codes(codes_BL, SCHEDULE, 4).tolist() == [[0, 0, 0, 2], [3, 1, 0, 0], [0, 3, 1, 0]]


def test_usage_is_the_share_of_what_so_many_tokens_can_reach() -> None:
    hits_KV = torch.tensor([[0, 0, 0, 2], [3, 1, 0, 0], [0, 3, 1, 0]])
    figures = usage(hits_KV, SCHEDULE)
    assert [figures[f"usage_{name}"] for name in NAMES] == [0.5, 0.5, 0.5, 1.0]
    assert figures["perplexity_0_1x1"] == pytest.approx(1)
    assert figures["perplexity_1_1x2"] == pytest.approx(4 / 3**0.75)
    assert figures.keys() == {f"{what}_{name}" for what in ("usage", "perplexity") for name in NAMES}


def test_codes_used_alike_have_their_number_as_perplexity() -> None:
    figures = usage(torch.full((3, 50), 2.0), SCHEDULE)
    assert figures["perplexity_all"] == pytest.approx(50)
    assert figures["usage_all"] == 1


def test_nothing_counted_is_nothing_used() -> None:
    figures = usage(torch.zeros(3, 8), SCHEDULE)
    assert [figures[f"usage_{name}"] for name in NAMES] == [0] * 4
