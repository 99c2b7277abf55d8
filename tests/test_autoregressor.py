"""What the next-scale transformer may see, step by step and all at once."""

from dataclasses import replace
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.autoregressor import Autoregressor, accuracy_per_scale, cross_entropy_per_scale, rotary_angles
from mars_dist.config import AutoregressorConfig, TokenizerConfig
from mars_dist.heads import turn, turns_of
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.scales import Size
from mars_dist.training.compilation import compile_blocks

TOKENIZER = TokenizerConfig(
    scales=(Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2), Size(3, 4)), codebook_size=16, code_width=6
)
SPANS = TOKENIZER.schedule.spans
CONDITIONS = {"pitch": torch.tensor([3, -1, 7]), "source": torch.tensor([0, 1, -1])}


OPTIONS = {
    "default": {},
    "rotary": {"positions": "rotary"},
    "learned and rotary": {"positions": "both"},
    "own AdaLN": {"modulation": "own"},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(request: pytest.FixtureRequest) -> Autoregressor:
    torch.manual_seed(0)
    config = AutoregressorConfig(width=16, depth=2, head_width=8, **request.param)
    model = Autoregressor(config, TOKENIZER, {"pitch": 8, "source": 2})
    for part in model.modules():  # as large as training makes them, so that what it is shown moves its logits
        if isinstance(part, nn.Linear | nn.Embedding):
            part.weight.data.mul_(15)
    return model


@pytest.fixture
def quantizer() -> MultiScaleQuantizer:
    torch.manual_seed(1)
    quantizer = MultiScaleQuantizer(TOKENIZER).requires_grad_(False)
    return quantizer


@pytest.fixture
def codes_BL() -> Tensor:
    return torch.randint(16, (3, TOKENIZER.schedule.num_tokens), generator=torch.Generator().manual_seed(2))


def test_step_by_step_is_teacher_forcing(
    model: Autoregressor, quantizer: MultiScaleQuantizer, codes_BL: Tensor
) -> None:
    forced_BLV = model(quantizer.next_inputs(codes_BL), CONDITIONS)
    assert forced_BLV.shape == (3, TOKENIZER.schedule.num_tokens, 16)
    begun = model.begin(CONDITIONS)

    def choose(k: int, f_hat_BChw: Tensor) -> Tensor:
        inputs_BkC = quantizer.next_input(k, f_hat_BChw) if k else None
        logits_BkV = model.predict_scale(k, inputs_BkC, begun)
        torch.testing.assert_close(logits_BkV, forced_BLV[:, SPANS[k]], rtol=0, atol=1e-4)
        return codes_BL[:, SPANS[k]]

    assert len(list(quantizer.walk(choose, 3))) == len(SPANS)
    # The bound above means something only where logits differ by more.
    assert forced_BLV.std() > 0.1


def test_guidance_goes_from_what_is_not_asked_for_to_what_is(model: Autoregressor) -> None:
    asked, unasked = CONDITIONS, model.no_conditions(3)
    both = {name: torch.cat([asked[name], unasked[name]]) for name in asked}
    asked_BkV, unasked_BkV = (model.predict_scale(0, None, model.begin(these)) for these in (asked, unasked))
    assert (asked_BkV - unasked_BkV).std() > 0.1
    guided_BkV = model.predict_scale(0, None, model.begin(both), guidance=2.0)
    torch.testing.assert_close(guided_BkV, 3 * asked_BkV - 2 * unasked_BkV, rtol=0, atol=1e-5)


def test_a_scale_moves_the_finer_ones_alone(
    model: Autoregressor, quantizer: MultiScaleQuantizer, codes_BL: Tensor
) -> None:
    logits_BLV = model(quantizer.next_inputs(codes_BL), CONDITIONS)
    for this, following in pairwise(SPANS):
        other_BL = codes_BL.clone()
        other_BL[:, this] = (other_BL[:, this] + 1) % 16
        other_BLV = model(quantizer.next_inputs(other_BL), CONDITIONS)
        assert torch.equal(other_BLV[:, : this.stop], logits_BLV[:, : this.stop])
        moved_BL = ((other_BLV - logits_BLV).abs() > 1e-4).any(-1)
        assert moved_BL[:, following].all()


def test_tokens_of_a_scale_see_each_other(model: Autoregressor) -> None:
    inputs_BLC = torch.randn(1, TOKENIZER.schedule.num_tokens - 1, 6)
    nothing = model.no_conditions(1)
    for span in SPANS[1:]:
        other_BLC = inputs_BLC.clone()
        other_BLC[:, span.stop - 2] += 1
        moved_L = (model(other_BLC, nothing) != model(inputs_BLC, nothing)).any(-1)[0]
        assert moved_L[span].all()
        assert not moved_L[: span.start].any()


def test_conditions_move_every_scale(model: Autoregressor) -> None:
    inputs_BLC = torch.zeros(3, TOKENIZER.schedule.num_tokens - 1, 6)
    logits_BLV = model(inputs_BLC, CONDITIONS)
    for name in CONDITIONS:
        other_BLV = model(inputs_BLC, CONDITIONS | {name: torch.tensor([1, 0, 1])})
        assert ((other_BLV - logits_BLV).abs().amax(-1) > 1e-4).all()


def test_what_is_not_asked_for_is_the_null_row(model: Autoregressor) -> None:
    nulls = {name: torch.full((2,), n) for name, n in model.cardinalities.items()}
    assert torch.equal(model.condition(model.no_conditions(2)), model.condition(nulls))
    last_value = {name: torch.full((2,), n - 1) for name, n in model.cardinalities.items()}
    assert not torch.equal(model.condition(last_value), model.condition(nulls))


def test_a_sample_that_skips_all_blocks_sees_none(model: Autoregressor) -> None:
    inputs_BLC = torch.randn(3, TOKENIZER.schedule.num_tokens - 1, 6)
    keep_BN = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    dropped_BLV, whole_BLV = model(inputs_BLC, CONDITIONS, keep_BN), model(inputs_BLC, CONDITIONS)
    del model.blocks[1]
    first_BLV = model(inputs_BLC, CONDITIONS)
    del model.blocks[0]
    none_BLV = model(inputs_BLC, CONDITIONS)
    for i, expected_BLV in enumerate((none_BLV, whole_BLV, first_BLV)):
        torch.testing.assert_close(dropped_BLV[i], expected_BLV[i])
    assert not torch.allclose(none_BLV, whole_BLV, atol=1e-5)


def test_every_weight_is_pulled(model: Autoregressor, quantizer: MultiScaleQuantizer, codes_BL: Tensor) -> None:
    nats_K = cross_entropy_per_scale(model(quantizer.next_inputs(codes_BL), CONDITIONS), codes_BL, SPANS)
    nats_K.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("codebook_size", [4, 40, 4096])
@pytest.mark.parametrize("branches", [1, 2])
def test_nats_are_those_of_the_logits(branches: int, codebook_size: int) -> None:
    """With the same gradients, whether there are fewer codes than a token has values, more, or many more."""
    tokenizer = replace(TOKENIZER, branches=branches, codebook_size=codebook_size)
    model = Autoregressor(AutoregressorConfig(width=16, depth=1, head_width=8), tokenizer, {"pitch": 8})
    codes_BL = torch.randint(codebook_size, (3, tokenizer.num_codes), dtype=torch.int32)
    given = torch.randn(3, tokenizer.schedule.num_tokens - 1, 6), model.no_conditions(3)
    logits_BLV = model(*given)
    expected_BL = F.cross_entropy(logits_BLV.transpose(1, 2), codes_BL.long(), reduction="none")
    nats_BL = model(*given, codes_BL=codes_BL)
    torch.testing.assert_close(nats_BL, expected_BL)
    weights = [model.head.weight, model.head.bias, model.blocks[0].mlp[0].weight]
    gradients = [torch.autograd.grad(x_BL.square().sum(), weights) for x_BL in (nats_BL, expected_BL)]
    for mine, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-6)


def test_it_runs_in_bf16(model: Autoregressor) -> None:
    inputs_BLC = torch.randn(3, TOKENIZER.schedule.num_tokens - 1, 6)
    logits_BLV = model(inputs_BLC, CONDITIONS)
    low_BLV = model.bfloat16()(inputs_BLC.bfloat16(), CONDITIONS)
    assert low_BLV.dtype == torch.bfloat16
    assert (low_BLV - logits_BLV).norm() < 0.05 * logits_BLV.norm()


def test_what_follows_from_the_schedule_is_not_saved(model: Autoregressor) -> None:
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_a_single_scale_needs_its_conditions_alone() -> None:
    tokenizer = TokenizerConfig(scales=(Size(1, 1),), codebook_size=16, code_width=6)
    model = Autoregressor(AutoregressorConfig(width=16, depth=1, head_width=8), tokenizer, {"pitch": 8})
    inputs_BLC = MultiScaleQuantizer(tokenizer).next_inputs(torch.zeros(3, 1, dtype=torch.long))
    assert model(inputs_BLC, {"pitch": torch.tensor([0, 1, -1])}).shape == (3, 1, 16)


def test_cross_entropy_and_accuracy_are_means_over_a_scale(codes_BL: Tensor) -> None:
    logits_BLV = torch.randn(*codes_BL.shape, 16)
    nats_K = cross_entropy_per_scale(logits_BLV, codes_BL, SPANS)
    accuracy_K = accuracy_per_scale(logits_BLV, codes_BL, SPANS)
    for span, nats, accuracy in zip(SPANS, nats_K, accuracy_K, strict=True):
        pairs = [(logits_BLV[b, i], codes_BL[b, i]) for b in range(3) for i in range(span.start, span.stop)]
        expected = torch.stack([-F.softmax(logits_V, -1)[code].log() for logits_V, code in pairs]).mean()
        torch.testing.assert_close(nats, expected)
        torch.testing.assert_close(accuracy, torch.tensor([float(v.argmax() == code) for v, code in pairs]).mean())


def test_sure_and_right_is_zero_nats(codes_BL: Tensor) -> None:
    logits_BLV = 100.0 * F.one_hot(codes_BL, 16)
    small_BL = codes_BL.to(torch.int32)
    torch.testing.assert_close(cross_entropy_per_scale(logits_BLV, small_BL, SPANS), torch.zeros(5))
    assert accuracy_per_scale(logits_BLV, small_BL, SPANS).tolist() == [1] * 5


def test_rotary_angles_are_those_of_the_place() -> None:
    """A row and a column of the latent grid turn by their place in it; a coarser token by its middle."""
    angles_Le = rotary_angles(TOKENIZER.schedule, head_width=8)
    assert angles_Le.shape == (TOKENIZER.schedule.num_tokens, 4)
    finest_34e = angles_Le[SPANS[-1]].view(3, 4, 4)
    assert finest_34e[2, 1].tolist() == pytest.approx([2.5, 0.025, 1.5, 0.015])
    [coarsest_e] = angles_Le[SPANS[0]]
    assert coarsest_e.tolist() == pytest.approx([1.5, 0.015, 2.0, 0.02])
    torch.testing.assert_close(angles_Le[SPANS[3]].view(3, 2, 4)[:, 0], finest_34e[:, :2].mean(1))


def test_turned_queries_and_keys_meet_by_their_distance() -> None:
    q_E, k_E = torch.randn(8, dtype=torch.double), torch.randn(8, dtype=torch.double)
    schedule = TokenizerConfig(scales=(Size(1, 1), Size(6, 6))).schedule
    angles_66e = rotary_angles(schedule, head_width=8)[1:].view(6, 6, 4).double()

    def product(query: tuple[int, int], key: tuple[int, int]) -> float:
        turned = (turn(x_E[None], turns_of(angles_66e[place][None])) for x_E, place in ((q_E, query), (k_E, key)))
        return float(torch.mul(*turned).sum())

    assert product((1, 2), (3, 2)) == pytest.approx(product((3, 4), (5, 4)))
    assert product((1, 2), (3, 2)) != pytest.approx(product((1, 2), (4, 2)), rel=1e-3)


def test_what_turns_queries_and_keys_bears_to_be_rounded() -> None:
    """FSDP hands blocks what it was given in bf16, where an angle of 39.5 is 39.5 +- 0.125."""
    tokenizer = TokenizerConfig(scales=(Size(1, 1), Size(40, 2)))
    model = Autoregressor(AutoregressorConfig(16, 2, 8, positions="rotary"), tokenizer, {"pitch": 8})
    length = tokenizer.schedule.num_tokens
    _, turns_2LE = model.placed(torch.zeros(1, length, 16), slice(None))
    assert turns_2LE is not None
    x_LE = torch.randn(length, 8)
    torch.testing.assert_close(
        turn(x_LE, turns_2LE.bfloat16()), turn(x_LE, turns_of(model.angles_Le)), rtol=0, atol=0.03
    )


def test_positions_of_both_kinds_are_those_of_either(quantizer: MultiScaleQuantizer, codes_BL: Tensor) -> None:
    """Learned ones alone where nothing is turned, rotary ones alone where nothing is added."""
    torch.manual_seed(0)
    inputs_BLC = quantizer.next_inputs(codes_BL)
    models = {
        kind: Autoregressor(AutoregressorConfig(16, 2, 8, positions=kind), TOKENIZER, {"pitch": 8, "source": 2})
        for kind in get_args(get_type_hints(AutoregressorConfig)["positions"])
    }
    both = models["both"]
    assert both.positions_LD is not None and models["rotary"].positions_LD is None
    both.positions_LD.data.mul_(50)
    both.blocks[0].attention.qkv.weight.data.mul_(15)
    for kind in ("learned", "rotary"):
        models[kind].load_state_dict(both.state_dict(), strict=kind == "learned")
    of_both_BLV = both(inputs_BLC, CONDITIONS)
    both.angles_Le.zero_()
    of_learned_BLV = both(inputs_BLC, CONDITIONS)
    torch.testing.assert_close(of_learned_BLV, models["learned"](inputs_BLC, CONDITIONS))
    both.angles_Le.copy_(models["rotary"].angles_Le)
    both.positions_LD.data.zero_()
    of_rotary_BLV = both(inputs_BLC, CONDITIONS)
    torch.testing.assert_close(of_rotary_BLV, models["rotary"](inputs_BLC, CONDITIONS))
    for of_one_BLV in (of_learned_BLV, of_rotary_BLV):
        assert (of_one_BLV - of_both_BLV).abs().max() > 1e-3


def test_codes_of_two_branches_lie_side_by_side(quantizer: MultiScaleQuantizer) -> None:
    """A token's logits hold one codebook after the other."""
    tokenizer = replace(TOKENIZER, branches=2)
    torch.manual_seed(0)
    model = Autoregressor(AutoregressorConfig(width=16, depth=1, head_width=8), tokenizer, {"pitch": 8})
    codes_BL = torch.randint(16, (2, tokenizer.num_codes))
    inputs_BLC = MultiScaleQuantizer(tokenizer).next_inputs(codes_BL)
    before_BLV = model(inputs_BLC, model.no_conditions(2))
    assert before_BLV.shape == (2, tokenizer.num_codes, 16)
    model.head.bias.data[16:] += 1
    moved_BL = (model(inputs_BLC, model.no_conditions(2)) != before_BLV).all(-1)
    assert not moved_BL[:, ::2].any() and moved_BL[:, 1::2].all()


def test_on_a_gpu_compiled_blocks_are_given_a_block_mask(model: Autoregressor, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_blocks(model)
    assert model.sight.block_mask is None
    monkeypatch.setattr(Tensor, "is_cuda", True)
    mask = model.sight.block_mask
    assert mask is not None and mask is model.sight.block_mask
    model.compiled, model.block_mask = False, None
    assert model.sight.block_mask is None
