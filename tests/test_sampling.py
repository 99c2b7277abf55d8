"""Sampling: the noise of each sample is its own, filters keep what they say, guidance ramps up."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from mars_dist import noise
from mars_dist.autoregressor import Autoregressor, Begun, Conditions
from mars_dist.config import AutoregressorConfig, TokenizerConfig
from mars_dist.precision import in_bf16
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.sampling import SamplingConfig, ScaleSampling, draw, keep_likely, sample_codes
from mars_dist.scales import Size

TOKENIZER = TokenizerConfig(
    scales=(Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2), Size(3, 4)), codebook_size=16, code_width=6
)
SPANS = TOKENIZER.schedule.spans
CONDITIONS = {"pitch": torch.tensor([3, -1, 7]), "source": torch.tensor([0, 1, -1])}


class Watched(Autoregressor):
    """Remembers what it was shown."""

    def predict_scale(self, k: int, inputs_BkC: Tensor | None, begun: Begun, guidance: float | None = None) -> Tensor:
        self.shown = [*getattr(self, "shown", []), inputs_BkC]
        self.num_rows = len(begun.condition_BD)
        return super().predict_scale(k, inputs_BkC, begun, guidance)


def opinionated(model: Watched) -> Watched:
    """With weights as large as training makes them, so that what it is shown moves its logits."""
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            part.weight.data.mul_(15)
    return model


@pytest.fixture
def model() -> Watched:
    torch.manual_seed(0)
    model = Watched(AutoregressorConfig(width=16, depth=2, head_width=8), TOKENIZER, {"pitch": 8, "source": 2})
    return opinionated(model).requires_grad_(False)


@pytest.fixture
def quantizer() -> MultiScaleQuantizer:
    torch.manual_seed(1)
    quantizer = MultiScaleQuantizer(TOKENIZER).requires_grad_(False)
    quantizer.codebook_Rc.normal_()
    return quantizer


def one(conditions: Conditions, i: int) -> dict[str, Tensor]:
    return {name: values[i : i + 1] for name, values in conditions.items()}


PER_SCALE = SamplingConfig(
    guidance=(1.0, 0.0, 3.0, 2.0, 0.5),
    temperature=(1.0, 0.5, 2.0, 1.0, 0.7),
    top_k=(0, 3, 16, 8, 2),
    top_p=(1.0, 0.9, 0.5, 0.99, 1.0),
)


@pytest.mark.parametrize("config", [SamplingConfig(guidance=0.0), SamplingConfig(guidance=2.0), PER_SCALE])
def test_a_sample_does_not_depend_on_its_batch(
    model: Watched, quantizer: MultiScaleQuantizer, config: SamplingConfig
) -> None:
    together_BL = sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], config)
    assert together_BL.shape == (3, TOKENIZER.schedule.num_tokens)
    for i in range(3):
        assert torch.equal(sample_codes(model, quantizer, one(CONDITIONS, i), [i], config), together_BL[i : i + 1])


def test_in_bf16_logits_differ_by_rounding(model: Watched, quantizer: MultiScaleQuantizer) -> None:
    """And guidance, which is taken between norm and head, is still taken."""
    low, f_hat_BChw = in_bf16(model), torch.randn(6, TOKENIZER.code_width, *TOKENIZER.schedule.latent_grid)
    twice = {name: torch.cat([values, torch.full_like(values, -1)]) for name, values in CONDITIONS.items()}
    inputs_BkC, logits = quantizer.next_input(1, f_hat_BChw), dict[tuple[bool, float], Tensor]()
    for which in (model, low):
        for guidance in (0.0, 2.0):
            begun = which.begin(twice)
            which.predict_scale(0, None, begun, guidance)
            logits[which is low, guidance] = which.predict_scale(1, inputs_BkC, begun, guidance).float()
    for guidance in (0.0, 2.0):
        exact_BkV = logits[False, guidance]
        assert 0 < (logits[True, guidance] - exact_BkV).norm() < 0.03 * exact_BkV.norm()
    assert (logits[True, 2.0] - logits[True, 0.0]).norm() > 0.2 * logits[True, 0.0].norm()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert low.angles_Le.dtype == torch.float32


def test_seed_and_id_are_the_noise(model: Watched, quantizer: MultiScaleQuantizer) -> None:
    def sample(seed: int, i: int) -> list[int]:
        return sample_codes(model, quantizer, one(CONDITIONS, 0), [i], SamplingConfig(seed=seed))[0].tolist()

    assert sample(0, 0) == sample(0, 0)
    assert len({tuple(sample(seed, i)) for seed in range(3) for i in range(3)}) == 9


def test_it_is_shown_what_teacher_forcing_shows(model: Watched, quantizer: MultiScaleQuantizer) -> None:
    codes_BL = sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], SamplingConfig(guidance=0))
    first, *later = model.shown
    assert first is None
    torch.testing.assert_close(torch.cat(later, dim=1), quantizer.next_inputs(codes_BL))


@pytest.mark.parametrize("guidance", [0.0, 3.0, (1.0, 0.0, 4.0, 2.0, 0.5)])
def test_the_likeliest_codes_follow_from_teacher_forced_logits(
    model: Watched, quantizer: MultiScaleQuantizer, guidance: float | tuple[float, ...]
) -> None:
    config = SamplingConfig(guidance=guidance, top_k=1)
    codes_BL = sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], config)
    inputs_BLC = quantizer.next_inputs(codes_BL)
    asked_BLV, unasked_BLV = model(inputs_BLC, CONDITIONS), model(inputs_BLC, model.no_conditions(3))
    for k, span in enumerate(SPANS):
        t = guidance[k] if isinstance(guidance, tuple) else guidance * k / (len(SPANS) - 1)
        guided_BkV = asked_BLV[:, span] + t * (asked_BLV[:, span] - unasked_BLV[:, span])
        assert torch.equal(guided_BkV.argmax(-1), codes_BL[:, span])


def test_guidance_matters(model: Watched, quantizer: MultiScaleQuantizer) -> None:
    free, guided = (
        sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], SamplingConfig(guidance=g)) for g in (0.0, 5.0)
    )
    assert torch.equal(free[:, SPANS[0]], guided[:, SPANS[0]])
    assert not torch.equal(free, guided)


@pytest.mark.parametrize("guidance, num_rows", [(0.0, 3), ((0.0,) * 5, 3), (0.1, 6), ((0.0, 0.0, 0.0, 0.0, 0.1), 6)])
def test_the_unconditional_half_is_there_where_a_scale_is_guided(
    model: Watched, quantizer: MultiScaleQuantizer, guidance: float | tuple[float, ...], num_rows: int
) -> None:
    sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], SamplingConfig(guidance=guidance))
    assert model.num_rows == num_rows


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_list_of_equal_numbers_is_that_number(
    model: Watched, quantizer: MultiScaleQuantizer, kind: type[tuple[float, ...]]
) -> None:
    one_number = SamplingConfig(guidance=2.0, temperature=0.8, top_k=8, top_p=0.9)
    top_k = kind([8] * 5)
    lists = SamplingConfig(kind([0.0, 0.5, 1.0, 1.5, 2.0]), kind([0.8] * 5), top_k, kind([0.9] * 5))  # type: ignore[arg-type]
    found, expected = (sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], c) for c in (lists, one_number))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "others",
    [{"temperature": (0.9, 0.9, 9.0, 0.9, 0.9)}, {"top_k": (1, 1, 16, 1, 1)}, {"top_p": (0.1, 0.1, 1, 0.1, 0.1)}],
)
def test_a_list_moves_its_own_scale_first(
    model: Watched, quantizer: MultiScaleQuantizer, others: dict[str, tuple[float, ...]]
) -> None:
    same = {name: values[0] for name, values in others.items()}
    flat_BL, moved_BL = (
        sample_codes(model, quantizer, CONDITIONS, list(range(3)), SamplingConfig(**settings))  # type: ignore[arg-type]
        for settings in (same, others)
    )
    before, moved = SPANS[1].stop, SPANS[2]
    assert torch.equal(flat_BL[:, :before], moved_BL[:, :before])
    assert not torch.equal(flat_BL[:, moved], moved_BL[:, moved])


@pytest.mark.parametrize("name, values", [("guidance", (1.0, 2.0)), ("temperature", ()), ("top_k", (3,) * 6)])
def test_a_list_has_one_entry_for_each_scale(
    model: Watched, quantizer: MultiScaleQuantizer, name: str, values: tuple[float, ...]
) -> None:
    config = SamplingConfig(**{name: values})  # type: ignore[arg-type]
    with pytest.raises(ValueError) as refused:
        sample_codes(model, quantizer, CONDITIONS, [0, 1, 2], config)
    assert str(refused.value) == (
        f"sampling.{name}: {len(values)} values ({' '.join(map(str, values))}) for the 5 scales of this model "
        "(1x1 1x2 1x2 3x2 3x4): give one number, or one for each scale"
    )


def test_a_single_scale_can_be_sampled_with_guidance() -> None:
    tokenizer = TokenizerConfig(scales=(Size(1, 1),), codebook_size=16, code_width=6)
    model = Autoregressor(AutoregressorConfig(width=16, depth=1, head_width=8), tokenizer, {"pitch": 8})
    quantizer = MultiScaleQuantizer(tokenizer)
    assert sample_codes(model, quantizer, {"pitch": torch.tensor([1, -1])}, [0, 1], SamplingConfig()).shape == (2, 1)


@given(
    st.permutations([-3.0, -1.5, -1.0, 0.0, 0.2, 0.9, 2.0, 2.5]),
    st.integers(0, 10),
    st.floats(0.01, 1),
)
def test_the_filters_keep_what_a_plain_search_keeps(logits: list[float], top_k: int, top_p: float) -> None:
    share_V = torch.tensor(logits, dtype=torch.float64).softmax(-1).tolist()
    likely = sorted(range(8), key=lambda i: -share_V[i])[: top_k or None]
    total = sum(share_V[i] for i in likely)
    kept: list[int] = []
    for i in likely:
        held = sum(share_V[j] for j in kept) / total
        assume(abs(held - top_p) > 1e-5)
        if held < top_p:
            kept.append(i)
    likely_11M, codes_11M = keep_likely(torch.tensor(logits)[None, None], top_k, top_p)
    found = {int(i): float(x) for i, x in zip(codes_11M[0, 0], likely_11M[0, 0], strict=True) if x.isfinite()}
    assert found == {i: pytest.approx(logits[i]) for i in kept}


def test_each_token_is_filtered_by_itself() -> None:
    logits_BkV = torch.randn(2, 3, 16)
    together = keep_likely(logits_BkV, 8, 0.7)
    for b in range(2):
        for i in range(3):
            for alone, of_all in zip(keep_likely(logits_BkV[b : b + 1, i : i + 1], 8, 0.7), together, strict=True):
                assert torch.equal(alone[0, 0], of_all[b, i])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_codes_are_drawn_in_proportion(temperature: float) -> None:
    logits_V = torch.tensor([0.0, 1.0, 2.0, -1.0, -20.0])
    scale = ScaleSampling(guidance=0, temperature=temperature, top_k=0, top_p=1.0)
    drawn = draw(logits_V.expand(2, 20_000, 5), scale, noise.keys(0, range(2)), 0)
    for drawn_k in drawn:
        share_V = torch.bincount(drawn_k, minlength=5) / 20_000
        torch.testing.assert_close(share_V, (logits_V / temperature).softmax(-1), rtol=0, atol=0.015)


def test_what_is_filtered_is_never_drawn() -> None:
    scale = ScaleSampling(guidance=0, temperature=1, top_k=2, top_p=1)
    drawn = draw(torch.zeros(1, 5000, 6) + torch.arange(6) / 10, scale, noise.keys(0, [0]), 0)
    assert set(drawn.flatten().tolist()) == {4, 5}


@pytest.mark.parametrize(
    "name, value, good",
    [
        ("top_p", 0.0, 1.0),
        ("top_p", 1.1, 0.5),
        ("top_p", math.nan, 0.5),
        ("top_k", -1, 0),
        ("temperature", 0.0, 0.1),
        ("temperature", -1.0, 2.0),
        ("temperature", math.inf, 2.0),
        ("guidance", -0.5, 0.0),
        ("guidance", math.nan, 3.0),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: float, good: float) -> None:
    with pytest.raises(ValueError, match=rf"^sampling\.{name}: {value} must be "):
        SamplingConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"^sampling\.{name}\[1\]: {value} must be "):
        SamplingConfig(**{name: (good, value)})  # type: ignore[arg-type]
    SamplingConfig(**{name: (good, good)})  # type: ignore[arg-type]


@pytest.mark.parametrize("name, words", [("precision", "'float32' or 'bf16'"), ("unasked", "'histogram' or 'null'")])
def test_a_word_that_is_none_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^sampling.{name}: 'bfloat16' is not {words}$"):
        SamplingConfig(**{name: "bfloat16"})  # type: ignore[arg-type]
