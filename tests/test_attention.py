"""Attention in groups of scales against torch's own, forward and backward."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mars_dist import attention
from mars_dist.attention import Heads, Sight, attend, attend_by_blocks, block_mask_of, groups_of
from mars_dist.recomputed import Recomputed
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


def inputs(num_tokens: int) -> Recomputed[Heads]:
    """Queries, keys and values as a model has them: parts of one tensor, changed a little."""
    torch.manual_seed(0)
    return Recomputed(heads_of, (torch.randn(2, num_tokens, 3, 3, 4, requires_grad=True),))


def heads_of(qkv_BLTNE: Tensor) -> Heads:
    q_BNLE, k_BNLE, v_BNLE = qkv_BLTNE.permute(2, 0, 3, 1, 4)
    return q_BNLE.tanh(), 2 * k_BNLE, v_BNLE


@pytest.mark.parametrize("together", [1, 4, 9, 128])
def test_groups_are_all_scales_in_order(
    together: int, schedule: ScaleSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "TOGETHER", together)
    first, *others = groups_of(schedule)
    assert (first.start, [first, *others][-1].stop) == (0, schedule.num_tokens)
    assert first.stop in schedule.ends and (first.stop <= together or first.stop == 1)
    assert others == [span for span in schedule.spans if span.start >= first.stop]


@pytest.mark.parametrize("scores_at_once", [1, 700, attention.SCORES_AT_ONCE])
@pytest.mark.parametrize("together", [1, 4, 128])
def test_it_is_torchs(
    together: int, scores_at_once: int, schedule: ScaleSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "TOGETHER", together)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    heads, sight = inputs(schedule.num_tokens), sight_of(schedule)
    found_BNLE = attend(heads, sight)
    expected_BNLE = F.scaled_dot_product_attention(*heads.made, attn_mask=sight.mask_LL, scale=1.0)
    torch.testing.assert_close(found_BNLE, expected_BNLE)
    pull_BNLE = torch.randn(found_BNLE.shape)
    mine, torchs = (torch.autograd.grad(out, heads.inputs, pull_BNLE) for out in (found_BNLE, expected_BNLE))
    torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)


def test_without_sight_all_tokens_look_at_all() -> None:
    heads = inputs(7)
    torch.testing.assert_close(attend(heads), F.scaled_dot_product_attention(*heads.made, scale=1.0))


def test_in_bf16_it_differs_by_rounding() -> None:
    schedule = ScaleSchedule((Size(1, 1), Size(32, 32)))
    sight, [qkv_BLTNE] = sight_of(schedule), inputs(schedule.num_tokens).inputs
    low_BLTNE = qkv_BLTNE.bfloat16()
    low_BNLE, exact_BNLE = (attend(Recomputed(heads_of, (x,)), sight) for x in (low_BLTNE, low_BLTNE.float()))
    assert low_BNLE.dtype == torch.bfloat16
    assert (low_BNLE - exact_BNLE).norm() < 2**-6 * exact_BNLE.norm()


def test_neither_heads_nor_scores_are_kept_for_the_backward_pass() -> None:
    """What heads are made of is, and what is found."""
    schedule, kept = SCHEDULES["larger than a group"], list[Tensor]()
    heads = inputs(schedule.num_tokens)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        found_BNLE = attend(heads, sight_of(schedule))
    assert [tuple(x.shape) for x in kept] == [tuple(x.shape) for x in (found_BNLE, *heads.inputs)]


def test_heads_of_a_token_lie_side_by_side() -> None:
    found_BNLE = attend(inputs(13), sight_of(ScaleSchedule((Size(1, 1), Size(3, 4)))))
    assert found_BNLE.transpose(1, 2).is_contiguous()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_finds_the_same(schedule: ScaleSchedule) -> None:
    heads, sight = without_gradients(inputs(schedule.num_tokens)), sight_of(schedule)
    found_BNLE = attend_by_blocks(heads.made, block_mask_of(sight.mask_LL))
    torch.testing.assert_close(found_BNLE, attend(heads, sight))


def without_gradients(heads: Recomputed[Heads]) -> Recomputed[Heads]:
    """FlexAttention has no backward pass on a CPU."""
    return Recomputed(heads.make, tuple(x.detach() for x in heads.inputs))


def test_compiled_it_attends_by_blocks_where_there_are_any() -> None:
    """These blocks are of another mask, so what is found tells which of the two was looked at."""
    schedule = SCHEDULES["odd"]
    heads, sight = without_gradients(inputs(schedule.num_tokens)), sight_of(schedule)
    everything = sight._replace(block_mask=block_mask_of(torch.ones_like(sight.mask_LL)))
    compiled = torch.compile(lambda x, sight: attend(Recomputed(heads.make, (x,)), sight), backend="eager")
    torch.testing.assert_close(compiled(*heads.inputs, sight), attend(heads, sight))
    torch.testing.assert_close(attend(heads, everything), attend(heads, sight))
    torch.testing.assert_close(compiled(*heads.inputs, everything), attend(heads))
