"""Attention in groups of scales against torch's own, forward and backward."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mars_dist import attention
from mars_dist.attention import Sight, attend, groups_of
from mars_dist.scales import ScaleSchedule, Size

SCHEDULES = {
    "odd": ScaleSchedule((Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2), Size(3, 4))),
    "a single scale": ScaleSchedule((Size(1, 1),)),
    "larger than a group": ScaleSchedule((Size(1, 1), Size(16, 16), Size(16, 16))),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> ScaleSchedule:
    return SCHEDULES[request.param]


def sight_of(schedule: ScaleSchedule) -> Sight:
    return Sight(torch.from_numpy(schedule.mask()), groups_of(schedule))


def inputs(num_tokens: int) -> tuple[Tensor, ...]:
    """Queries, keys and values as a model has them: views of one tensor."""
    torch.manual_seed(0)
    qkv_BLTNE = torch.randn(2, num_tokens, 3, 3, 4, requires_grad=True)
    return tuple(qkv_BLTNE.permute(2, 0, 3, 1, 4).unbind())


@pytest.mark.parametrize("together", [1, 4, 9, 128])
def test_groups_are_all_scales_in_order(
    together: int, schedule: ScaleSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "TOGETHER", together)
    first, *others = groups_of(schedule)
    assert (first.start, [first, *others][-1].stop) == (0, schedule.num_tokens)
    assert first.stop in schedule.ends and (first.stop <= together or first.stop == 1)
    assert others == [span for span in schedule.spans if span.start >= first.stop]


@pytest.mark.parametrize("together", [1, 4, 128])
def test_it_is_torchs(together: int, schedule: ScaleSchedule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TOGETHER", together)
    q_BNLE, k_BNLE, v_BNLE = inputs(schedule.num_tokens)
    sight = sight_of(schedule)
    found_BNLE = attend(q_BNLE, k_BNLE, v_BNLE, sight)
    expected_BNLE = F.scaled_dot_product_attention(q_BNLE, k_BNLE, v_BNLE, attn_mask=sight.mask_LL, scale=1.0)
    torch.testing.assert_close(found_BNLE, expected_BNLE)
    pull_BNLE = torch.randn(found_BNLE.shape)
    gradients = [torch.autograd.grad(out, (q_BNLE, k_BNLE, v_BNLE), pull_BNLE) for out in (found_BNLE, expected_BNLE)]
    for mine, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)


def test_without_sight_all_tokens_look_at_all() -> None:
    q_BNLE, k_BNLE, v_BNLE = inputs(7)
    expected_BNLE = F.scaled_dot_product_attention(q_BNLE, k_BNLE, v_BNLE, scale=1.0)
    torch.testing.assert_close(attend(q_BNLE, k_BNLE, v_BNLE), expected_BNLE)


def test_in_bf16_it_differs_by_rounding() -> None:
    schedule = ScaleSchedule((Size(1, 1), Size(32, 32)))
    sight, low_qkv = sight_of(schedule), [x_BNLE.bfloat16() for x_BNLE in inputs(schedule.num_tokens)]
    low_BNLE, exact_BNLE = attend(*low_qkv, sight), attend(*(x_BNLE.float() for x_BNLE in low_qkv), sight)
    assert low_BNLE.dtype == torch.bfloat16
    assert (low_BNLE - exact_BNLE).norm() < 2**-6 * exact_BNLE.norm()


def test_no_scores_are_kept_for_the_backward_pass() -> None:
    schedule = SCHEDULES["larger than a group"]
    kept: list[Tensor] = []
    q_BNLE, k_BNLE, v_BNLE = inputs(schedule.num_tokens)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attend(q_BNLE, k_BNLE, v_BNLE, sight_of(schedule))
    assert sum(tensor.numel() for tensor in kept) == 4 * q_BNLE.numel()


def test_heads_of_a_token_lie_side_by_side() -> None:
    found_BNLE = attend(*inputs(13), sight_of(ScaleSchedule((Size(1, 1), Size(3, 4)))))
    assert found_BNLE.transpose(1, 2).is_contiguous()
