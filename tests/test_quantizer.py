"""The quantizer against METHOD in plain numpy, and its five operations against one another."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mars_dist.config import CodebookConfig, TokenizerConfig
from mars_dist.quantizer import MultiScaleQuantizer, nearest_tick, rotate
from mars_dist.scales import Size

Array = NDArray[np.float64]

# None has a place half-way between two ticks, where rounding would choose the convolution.
SCHEDULES = {
    "odd": (Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2), Size(4, 2), Size(5, 4)),
    "squares": tuple(Size(side, side) for side in (1, 2, 3, 4)),
    "one scale": (Size(1, 1),),
}


@pytest.fixture(params=SCHEDULES)
def quantizer(request: pytest.FixtureRequest) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    # As VAR has it; the last scale's codes fitted to one another: test_fitting.py.
    config = TokenizerConfig(scales=SCHEDULES[request.param], codebook_size=32, code_width=6, last_scale="nearest")
    return MultiScaleQuantizer(config, CodebookConfig(commitment=0.3))


def latents(quantizer: MultiScaleQuantizer, batch: int = 3) -> Tensor:
    return torch.randn(batch, quantizer.config.code_width, *quantizer.schedule.latent_grid)


# The same in numpy, one sample at a time.


def area_matrix(length: int, to: int) -> Array:
    """(to, length): means over the cells that each new cell touches."""
    matrix = np.zeros((to, length))
    for i in range(to):
        start, end = i * length // to, -(-(i + 1) * length // to)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def bicubic_matrix(length: int, to: int) -> Array:
    """(to, length): Keys' kernel with a = -0.75, pixel centres aligned, edges repeated."""

    def kernel(x: float) -> float:
        a, x = -0.75, abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = np.zeros((to, length))
    for i in range(to):
        place = (i + 0.5) * length / to - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[i, min(max(j, 0), length - 1)] += kernel(place - j)
    return matrix


def resample(x_Chw: Array, size: Size, matrix: object) -> Array:
    if x_Chw.shape[1:] == size:
        return x_Chw
    rows, columns = (matrix(a, b) for a, b in zip(x_Chw.shape[1:], size, strict=True))  # type: ignore[operator]
    return np.asarray(rows @ x_Chw @ columns.T)


def convolve(x_Chw: Array, weight_DC33: Array, bias_D: Array) -> Array:
    _, h, w = x_Chw.shape
    padded = np.pad(x_Chw, ((0, 0), (1, 1), (1, 1)))
    taps = [
        np.einsum("dc,chw->dhw", weight_DC33[:, :, i, j], padded[:, i : i + h, j : j + w])
        for i in range(3)
        for j in range(3)
    ]
    return np.asarray(sum(taps) + bias_D[:, None, None])


def plain(quantizer: MultiScaleQuantizer, f_Chw: Array) -> tuple[list[int], Array, float, list[Array]]:
    """Codes, f_hat, loss, and the sums after each scale."""
    sizes = quantizer.schedule.sizes
    codebook_VC = quantizer.codebook_Rc.detach().numpy().astype(float)
    places = np.linspace(0, 1, len(sizes))
    tick_of_scale = np.abs(np.linspace(1 / 12, 11 / 12, 4) - places[:, None]).argmin(1)
    convolution_of_tick = dict(zip(np.unique(tick_of_scale), quantizer.phi, strict=True))
    rest, f_hat, loss = f_Chw, np.zeros_like(f_Chw), 0.0
    codes: list[int] = []
    sums = []
    for k, size in enumerate(sizes):
        z_Chw = resample(rest, size, area_matrix)
        z_kC = z_Chw.reshape(len(z_Chw), -1).T
        chosen = np.linalg.norm(z_kC[:, None] - codebook_VC[None], axis=-1).argmin(1)
        detail = resample(codebook_VC[chosen].T.reshape(-1, *size), quantizer.schedule.latent_grid, bicubic_matrix)
        phi = convolution_of_tick[tick_of_scale[k]]
        weight, bias = (p.detach().numpy().astype(float) for p in (phi.weight, phi.bias))
        r = detail / 2 + convolve(detail, weight, bias) / 2
        f_hat, rest = f_hat + r, rest - r
        loss += (1 + quantizer.settings.commitment) * float(((f_hat - f_Chw) ** 2).mean())
        codes += chosen.tolist()
        sums.append(f_hat)
    return codes, f_hat, loss / len(sizes), sums


def test_the_loop_is_the_methods(quantizer: MultiScaleQuantizer) -> None:
    quantizer = quantizer.double()
    f_BChw = latents(quantizer)
    quantized = quantizer(f_BChw)
    expected = [plain(quantizer, f_Chw) for f_Chw in f_BChw.numpy().astype(float)]
    assert quantized.codes_BL.tolist() == [codes for codes, *_ in expected]
    f_hat_BChw = quantizer.decode(quantized.codes_BL)
    np.testing.assert_allclose(f_hat_BChw.detach(), np.stack([f_hat for _, f_hat, *_ in expected]), atol=1e-12)
    np.testing.assert_allclose(quantized.loss.item(), np.mean([loss for *_, loss, _ in expected]), rtol=1e-6)


def test_the_next_inputs_are_the_methods(quantizer: MultiScaleQuantizer) -> None:
    quantizer = quantizer.double()
    f_BChw = latents(quantizer)
    inputs_BLC = quantizer.next_inputs(quantizer.encode(f_BChw))
    assert inputs_BLC.shape == (3, quantizer.schedule.num_tokens - 1, quantizer.config.code_width)
    for f_Chw, inputs_LC in zip(f_BChw.numpy().astype(float), inputs_BLC, strict=True):
        *_, sums = plain(quantizer, f_Chw)
        smaller = [resample(s, size, area_matrix) for s, size in zip(sums, quantizer.schedule.sizes[1:], strict=False)]
        expected = np.concatenate(
            [np.zeros((0, quantizer.config.code_width)), *(z.reshape(len(z), -1).T for z in smaller)]
        )
        np.testing.assert_allclose(inputs_LC.detach(), expected, atol=1e-12)


def test_training_encoding_and_decoding_agree(quantizer: MultiScaleQuantizer) -> None:
    f_BChw = latents(quantizer)
    quantized = quantizer(f_BChw)
    assert torch.equal(quantizer.encode(f_BChw), quantized.codes_BL)
    torch.testing.assert_close(quantizer.decode(quantized.codes_BL), quantized.f_hat_BChw, rtol=0, atol=1e-5)


def test_codes_may_be_stored_small(quantizer: MultiScaleQuantizer) -> None:
    codes_BL = quantizer.encode(latents(quantizer))
    assert torch.equal(quantizer.decode(codes_BL.to(torch.uint8)), quantizer.decode(codes_BL))


def test_gradients_pass_straight_through(quantizer: MultiScaleQuantizer) -> None:
    f_BChw = latents(quantizer).requires_grad_()
    weights_BChw = torch.randn_like(f_BChw)
    (quantizer(f_BChw).f_hat_BChw * weights_BChw).sum().backward()
    assert f_BChw.grad is not None
    torch.testing.assert_close(f_BChw.grad, weights_BChw)
    assert quantizer.codebook_Rc.grad is None


def sums_after_each_scale(quantizer: MultiScaleQuantizer, codes_BL: Tensor) -> list[Tensor]:
    return [f_hat_BChw for _, f_hat_BChw in quantizer.walk(quantizer.follow(codes_BL), len(codes_BL))]


def test_every_scale_pulls_the_latents(quantizer: MultiScaleQuantizer) -> None:
    f_BChw = latents(quantizer).requires_grad_()
    quantized = quantizer(f_BChw)
    quantized.loss.backward()
    sums = sums_after_each_scale(quantizer, quantized.codes_BL)
    pulls = [2 * quantizer.settings.commitment * (f_BChw - s) / f_BChw.numel() / len(sums) for s in sums]
    assert all(pull.abs().min() > 0 for pull in pulls)
    assert f_BChw.grad is not None
    torch.testing.assert_close(f_BChw.grad, sum(pulls, torch.zeros(())))


def test_every_scale_pulls_its_codes(quantizer: MultiScaleQuantizer) -> None:
    f_BChw = latents(quantizer)
    codes_BL = quantizer.encode(f_BChw)
    for s, span in zip(sums_after_each_scale(quantizer, codes_BL), quantizer.schedule.spans, strict=True):
        (gradient_VC,) = torch.autograd.grad((s - f_BChw).square().mean(), quantizer.codebook_Rc, retain_graph=True)
        used = codes_BL[:, : span.stop].unique()
        assert gradient_VC[used].any(-1).all()
        assert gradient_VC.any(-1).sum() == len(used)


def test_the_loss_moves_codebook_and_convolutions(quantizer: MultiScaleQuantizer) -> None:
    quantized = quantizer(latents(quantizer))
    quantized.loss.backward()
    assert quantizer.codebook_Rc.grad is not None
    assert quantizer.codebook_Rc.grad.any(-1).sum() == len(quantized.codes_BL.unique())
    for phi in quantizer.phi:
        assert phi.weight.grad is not None and phi.weight.grad.any()


def test_residuals_are_what_was_looked_up(quantizer: MultiScaleQuantizer) -> None:
    quantized = quantizer(latents(quantizer).requires_grad_())
    assert not quantized.residuals_BLc.requires_grad
    distances_BLV = torch.cdist(quantized.residuals_BLc, quantizer.codebook_Rc.detach())
    assert torch.equal(distances_BLV.argmin(-1), quantized.codes_BL)


def test_the_nearest_several_come_nearest_first(quantizer: MultiScaleQuantizer) -> None:
    z_BkC = torch.randn(2, 3, quantizer.config.code_width)
    order_BkV = torch.cdist(z_BkC, quantizer.codebook_Rc.detach()).argsort(-1)
    assert torch.equal(quantizer.nearest_several(0, z_BkC, 5), order_BkV[..., :5])
    assert torch.equal(quantizer.nearest(0, z_BkC), order_BkV[..., 0])


def test_a_coarse_code_changes_finer_inputs_only(quantizer: MultiScaleQuantizer) -> None:
    codes_BL = quantizer.encode(latents(quantizer))
    inputs_BLC = quantizer.next_inputs(codes_BL)
    for this, following in pairwise(quantizer.schedule.spans):
        other_BL = codes_BL.clone()
        other_BL[:, this] = (other_BL[:, this] + 1) % 32
        moved_BL = (quantizer.next_inputs(other_BL) != inputs_BLC).any(-1)
        # Inputs start at scale 1, so they lie one token before their scale.
        assert not moved_BL[:, : following.start - 1].any()
        assert moved_BL[:, following.start - 1 : following.stop - 1].all()


def test_it_runs_in_float32_without_a_process_group(quantizer: MultiScaleQuantizer) -> None:
    if torch.distributed.is_initialized():  # by a test that trained in this process
        torch.distributed.destroy_process_group()
    f_BChw = latents(quantizer).bfloat16()
    quantized = quantizer(f_BChw)
    assert quantized.f_hat_BChw.dtype == quantized.residuals_BLc.dtype == torch.float32
    assert torch.equal(quantized.codes_BL, quantizer(f_BChw.float()).codes_BL)


@given(st.integers(1, 40))
def test_all_convolutions_serve_in_order(num_scales: int) -> None:
    served = [nearest_tick(k, num_scales) for k in range(num_scales)]
    assert served == sorted(served)
    assert served[0] == 0
    assert num_scales == 1 or served[-1] == 3
    assert num_scales < 4 or set(served) == {0, 1, 2, 3}


# The options.

OPTIONS = {
    "per scale": {"codebooks": "per_scale"},
    "branches": {"branches": 2},
    "branches per scale": {"branches": 2, "codebooks": "per_scale"},
    "projection": {"codebook_projection": True},
}


def with_options(schedule: str = "odd", codebook: CodebookConfig | None = None, **options: Any) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    config = TokenizerConfig(scales=SCHEDULES[schedule], codebook_size=32, code_width=6, **options)
    quantizer = MultiScaleQuantizer(config, codebook)
    if quantizer.projection is not None:
        quantizer.projection.weight.data.normal_()
    return quantizer


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_with_every_option_training_encoding_and_decoding_agree(schedule: str, options: dict[str, Any]) -> None:
    quantizer = with_options(schedule, **options)
    f_BChw = latents(quantizer)
    quantized = quantizer(f_BChw)
    assert quantized.codes_BL.shape == (3, quantizer.config.num_codes)
    assert torch.equal(quantizer.encode(f_BChw), quantized.codes_BL)
    torch.testing.assert_close(quantizer.decode(quantized.codes_BL), quantized.f_hat_BChw, rtol=0, atol=1e-5)
    assert quantizer.next_inputs(quantized.codes_BL).shape == (3, quantizer.schedule.num_tokens - 1, 6)
    for span in quantizer.config.code_spans:
        several_BkN = quantizer.nearest_several(
            0, torch.randn(3, (span.stop - span.start) // quantizer.config.branches, 6), 4
        )
        assert several_BkN.shape == (3, span.stop - span.start, 4)


def test_each_scale_has_its_own_codebook() -> None:
    quantizer = with_options(codebooks="per_scale")
    f_BChw = latents(quantizer)
    before_BL, k = quantizer.encode(f_BChw), 3
    quantizer.codebook_Rc.data[32 * k : 32 * (k + 1)] += 1
    moved_L = (quantizer.encode(f_BChw) != before_BL).any(0)
    span = quantizer.config.code_spans[k]
    assert not moved_L[: span.start].any() and moved_L[span].any()


def test_branches_are_quantizers_side_by_side() -> None:
    """Each branch sees its own channels, codebook and convolutions, as if the others were not there."""
    quantizer = with_options(branches=2)
    f_BChw = latents(quantizer)
    codes_BLP = quantizer.encode(f_BChw).unflatten(-1, (-1, 2))
    f_hat_BChw = quantizer.decode(codes_BLP.flatten(1))
    for branch in range(2):
        alone = MultiScaleQuantizer(replace(quantizer.config, branches=1, code_width=3))
        alone.codebook_Rc.data = quantizer.codebook_Rc.data[32 * branch : 32 * (branch + 1)]
        channels = slice(3 * branch, 3 * (branch + 1))
        for own, shared in zip(alone.phi, quantizer.phi, strict=True):
            own.weight.data, own.bias.data = shared.weight.data[channels], shared.bias.data[channels]  # type: ignore[union-attr]
        assert torch.equal(alone.encode(f_BChw[:, channels]), codes_BLP[..., branch])
        torch.testing.assert_close(alone.decode(codes_BLP[..., branch]), f_hat_BChw[:, channels])


def test_a_projected_codebook_learns_by_its_projection_alone() -> None:
    quantizer = with_options(codebook_projection=True)
    quantizer(latents(quantizer)).loss.backward()
    assert quantizer.codebook_Rc.grad is not None and not quantizer.codebook_Rc.grad.any()
    assert quantizer.projection is not None and quantizer.projection.weight.grad is not None
    assert quantizer.projection.weight.grad.any()


def test_a_note_that_loses_its_fine_scales_is_its_coarse_sum() -> None:
    quantizer = with_options()
    f_BChw = latents(quantizer).requires_grad_()
    whole, num_scales_B = quantizer(f_BChw), torch.tensor([1, 3, 6])
    dropped = quantizer(f_BChw, num_scales_B)
    assert torch.equal(dropped.codes_BL, whole.codes_BL)
    sums = sums_after_each_scale(quantizer, whole.codes_BL)
    for b, num in enumerate(num_scales_B):
        torch.testing.assert_close(dropped.f_hat_BChw[b], sums[num - 1][b], rtol=0, atol=1e-5)
    errors_KB = torch.stack([(s - f_BChw).square().flatten(1).mean(1) for s in sums])
    counts_KB = torch.arange(6)[:, None] < num_scales_B
    torch.testing.assert_close(dropped.loss, 1.25 * (errors_KB * counts_KB).sum() / 6 / 3)


def test_rotation_reaches_the_codes_and_turns_gradients() -> None:
    f_BChw, to_BChw = torch.randn(2, 5, 3, 2, dtype=torch.double, requires_grad=True), torch.randn(2, 5, 3, 2).double()
    rotated_BChw = rotate(f_BChw, to_BChw)
    torch.testing.assert_close(rotated_BChw, to_BChw)
    # A gradient along the code comes back along the latent, one across it comes back across, as long.
    for along in (True, False):
        gradient_BChw = to_BChw if along else torch.randn_like(to_BChw)
        if not along:
            share = (gradient_BChw * to_BChw).sum(1, keepdim=True) / to_BChw.square().sum(1, keepdim=True)
            gradient_BChw = gradient_BChw - share * to_BChw
        (back_BChw,) = torch.autograd.grad(rotated_BChw, f_BChw, gradient_BChw, retain_graph=True)
        scale = to_BChw.norm(dim=1) / f_BChw.detach().norm(dim=1)
        torch.testing.assert_close(back_BChw.norm(dim=1), scale * gradient_BChw.norm(dim=1))
        cosine = F.cosine_similarity(back_BChw, f_BChw.detach())
        torch.testing.assert_close(cosine, torch.full_like(cosine, float(along)))


def test_the_rotation_trick_is_a_setting() -> None:
    straight, rotated = with_options(), with_options(codebook=CodebookConfig(gradient="rotation"))
    f_BChw, weights_BChw = latents(straight).requires_grad_(), torch.randn(3, 6, 5, 4)
    gradients = []
    for quantizer in (straight, rotated):
        f_hat_BChw = quantizer(f_BChw).f_hat_BChw
        gradients += torch.autograd.grad(f_hat_BChw, f_BChw, weights_BChw)
    torch.testing.assert_close(straight(f_BChw).f_hat_BChw, rotated(f_BChw).f_hat_BChw)
    assert torch.equal(gradients[0], weights_BChw) and not torch.allclose(gradients[1], weights_BChw, atol=0.1)


def test_branches_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"tokenizer.code_width: 6 is not a multiple of branches = 4"):
        with_options(branches=4)


def test_convolutions_are_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, where cuDNN may: here the switch is looked at."""
    rounded = list[bool]()

    def noted(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def convolution(*given: Any, **named: Any) -> Tensor:
            rounded.append(torch.backends.cudnn.allow_tf32)
            return convolve(*given, **named)

        return convolution

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for name in ("conv2d", "conv_transpose2d"):
        monkeypatch.setattr(F, name, noted(getattr(F, name)))
    quantizer = MultiScaleQuantizer(TokenizerConfig(scales=(Size(1, 1), Size(4, 4)), codebook_size=8, code_width=4))
    quantizer.encode(torch.randn(2, 4, 4, 4))
    assert len(rounded) > 10 and not any(rounded)
    assert torch.backends.cudnn.allow_tf32
