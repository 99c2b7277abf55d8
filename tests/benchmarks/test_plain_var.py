"""The opponent of the speed benchmarks: VAR's size, and our own transformer's figures with the same weights."""

from typing import Any

import plain_var
import pytest
import torch
from torch import Tensor, nn

from mars_dist.autoregressor import Autoregressor
from mars_dist.config import AutoregressorConfig, TokenizerConfig
from mars_dist.scales import Size

SIDES = (1, 2, 3, 5)


@pytest.fixture
def plain() -> Any:
    torch.manual_seed(0)
    config = plain_var.PlainConfig(SIDES, depth=2, code_width=8, codebook_size=32, num_classes=10)
    return shaken(plain_var.PlainVar(config))


def shaken(model: nn.Module) -> nn.Module:
    """No parameter at the value that it is born with: none could be left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def test_it_has_the_neighbours_parameter_count() -> None:
    with torch.device("meta"):
        model = plain_var.PlainVar(plain_var.PlainConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(41.3e6, rel=1e-3)
    assert model.config.num_tokens == 680


def test_our_logits_are_its_logits_with_the_same_weights(plain: Any) -> None:
    model = Autoregressor(
        AutoregressorConfig(width=128, depth=2, head_width=64, modulation="own", positions="learned"),
        TokenizerConfig(scales=tuple(Size(side, side) for side in SIDES), codebook_size=32, code_width=8),
        {"class": 10},
    ).eval()
    model.load_state_dict(as_ours(plain.state_dict()), strict=False)
    inputs_BLC, classes_B = torch.randn(3, 38, 8), torch.tensor([1, 10, 4])
    model.condition = lambda conditions: plain.classes(conditions["class"])  # type: ignore[method-assign]
    with torch.no_grad():
        expected_BLV = plain(inputs_BLC, classes_B)
        torch.testing.assert_close(model(inputs_BLC, {"class": classes_B}), expected_BLV, atol=1e-4, rtol=1e-4)
        assert expected_BLV.std() > 0.1


def as_ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """By our names. What is added to the first token is, with us, the first position's."""
    ours = {name: value for name, value in weights.items() if name not in ("start_D", "classes.weight")}
    ours["levels_KD"] = ours.pop("levels.weight")
    ours["positions_LD"] = ours["positions_LD"].clone()
    ours["positions_LD"][0] += weights["start_D"]
    return ours


def test_its_cache_changes_nothing(plain: Any) -> None:
    """Codes that are drawn with the cache are the likeliest ones of the logits without it."""
    codebook_VC, classes_B = torch.randn(32, 8), torch.tensor([3, 7])

    def embed(k: int, codes_Bk: Tensor) -> Tensor:
        return codebook_VC[codes_Bk[:, :1]].expand(-1, SIDES[k + 1] ** 2, -1)

    codes_BL = plain.sample(classes_B, 0.0, lambda logits_BkV: logits_BkV.argmax(-1), embed)
    firsts = [0, 1, 5]
    inputs_BLC = torch.cat([embed(k, codes_BL[:, first : first + 1]) for k, first in enumerate(firsts)], dim=1)
    with torch.no_grad():
        assert torch.equal(plain(inputs_BLC, classes_B).argmax(-1), codes_BL)
