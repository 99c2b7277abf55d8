"""Usage and perplexity of a codebook."""

from dataclasses import replace

import pytest
import torch

from mars_dist.config import TokenizerConfig
from mars_dist.metrics.codebook import advice, count_codes, summary, usage
from mars_dist.scales import Size

CONFIG = TokenizerConfig(scales=(Size(1, 1), Size(1, 2), Size(1, 2)), codebook_size=4)
NAMES = ("0_1x1", "1_1x2", "2_1x2", "all")


def test_codes_are_counted_by_scale() -> None:
    codes_BL = torch.tensor([[3, 0, 0, 1, 2], [3, 0, 1, 1, 1]], dtype=torch.int16)
    assert count_codes(codes_BL, CONFIG).tolist() == [[0, 0, 0, 2], [3, 1, 0, 0], [0, 3, 1, 0]]


def test_usage_is_the_share_of_what_so_many_tokens_can_reach() -> None:
    hits_KV = torch.tensor([[0, 0, 0, 2], [3, 1, 0, 0], [0, 3, 1, 0]])
    figures = usage(hits_KV, CONFIG)
    assert [figures[f"usage_{name}"] for name in NAMES] == [0.5, 0.5, 0.5, 1.0]
    assert figures["perplexity_0_1x1"] == pytest.approx(1)
    assert figures["perplexity_1_1x2"] == pytest.approx(4 / 3**0.75)
    assert figures.keys() == {f"{what}_{name}" for what in ("usage", "perplexity") for name in NAMES}


def test_codes_used_alike_have_their_number_as_perplexity() -> None:
    figures = usage(torch.full((3, 50), 2.0), CONFIG)
    assert figures["perplexity_all"] == pytest.approx(50)
    assert figures["usage_all"] == 1


def test_nothing_counted_is_nothing_used() -> None:
    figures = usage(torch.zeros(3, 8), CONFIG)
    assert [figures[f"usage_{name}"] for name in NAMES] == [0] * 4


def test_branches_and_codebooks_are_counted_apart() -> None:
    config = TokenizerConfig(scales=(Size(1, 1), Size(1, 2)), codebook_size=3, branches=2, codebooks="per_scale")
    hits_KW = count_codes(torch.tensor([[0, 2, 1, 1, 1, 0]]), config)
    assert hits_KW.tolist() == [[1, 0, 0, 0, 0, 1], [0, 2, 0, 1, 1, 0]]
    shared = usage(hits_KW, replace(config, codebooks="shared"))
    assert usage(hits_KW, config)["usage_all"] == pytest.approx(5 / 6)
    assert shared["usage_all"] == pytest.approx(5 / 6)
    assert usage(hits_KW, config)["perplexity_all"] == shared["perplexity_all"]
    same_KW = torch.tensor([[1.0, 0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]])
    assert (
        usage(same_KW, config)["usage_all"] == 1
        and usage(same_KW, replace(config, codebooks="shared"))["usage_all"] == 0.5
    )


def test_summary_names_every_scale() -> None:
    health = usage(torch.tensor([[4, 0, 0], [1, 1, 0], [2, 1, 1]]), CONFIG)
    assert summary(health, CONFIG) == "codes in use (perplexity): 0_1x1 33% (1)  1_1x2 100% (2)  2_1x2 100% (2.83)"


def test_advice_names_the_scales_that_use_few_codes() -> None:
    figures = {"usage_0_1x1": 0.01, "usage_1_1x2": 0.3, "usage_2_1x2": 0.1}
    line = advice(figures, CONFIG)
    assert line is not None and "2_1x2 10%" in line and "1_1x2" not in line and "0_1x1" not in line
    assert "--codebook.dead-share" in line
    assert advice(figures | {"usage_2_1x2": 0.25}, CONFIG) is None
