"""The terms of the tokenizer's loss."""

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from mars_dist.config import ReconstructionLossConfig, SpectrogramConfig
from mars_dist.losses import mel_bank, multi_resolution, reconstruction_loss, spectral_convergence
from mars_dist.scales import Size
from mars_dist.spectrogram import magnitude, normalise

SPECTROGRAM = SpectrogramConfig(num_samples=2000, n_fft=512, hop=125, cmx=Size(8, 4))
NONE = ReconstructionLossConfig(**{field.name: 0.0 for field in fields(ReconstructionLossConfig)})
TERMS = [field.name for field in fields(ReconstructionLossConfig)]


def only(name: str, weight: float = 1.0) -> ReconstructionLossConfig:
    return replace(NONE, **{name: weight})


def picture(seed: int) -> Tensor:
    return torch.rand(2, 1, 256, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_zero_for_equal_pictures_and_finite_for_silence(name: str) -> None:
    for x_B1FN in (picture(0), torch.full((2, 1, 256, 16), -1.0)):
        y_B1FN = x_B1FN.clone().requires_grad_()
        term = reconstruction_loss(y_B1FN, x_B1FN, only(name), SPECTROGRAM)[name]
        assert term.item() == 0
        (gradient,) = torch.autograd.grad(term, y_B1FN)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_positive_and_leads_to_the_true_picture(name: str) -> None:
    x_B1FN, y_B1FN = picture(0), picture(1).requires_grad_()

    def term(y_B1FN: Tensor) -> Tensor:
        return reconstruction_loss(y_B1FN, x_B1FN, only(name), SPECTROGRAM)[name]

    (gradient,) = torch.autograd.grad(term(y_B1FN), y_B1FN)
    assert gradient.isfinite().all()
    step = 1e-3 * gradient / gradient.norm()
    assert 0 < term(y_B1FN - step) < term(y_B1FN)


@pytest.mark.parametrize("name", TERMS)
def test_a_weight_multiplies_its_term_alone(name: str) -> None:
    once, twice = (reconstruction_loss(picture(1), picture(0), only(name, w), SPECTROGRAM) for w in (1.0, 2.0))
    assert once.keys() == {name}
    torch.testing.assert_close(twice[name], 2 * once[name])


def test_terms_of_weight_zero_are_not_computed() -> None:
    assert reconstruction_loss(picture(1), picture(0), NONE, SPECTROGRAM) == {}
    nan_B1FN = torch.full((2, 1, 256, 16), torch.nan)
    assert reconstruction_loss(nan_B1FN, picture(0), NONE, SPECTROGRAM) == {}


def test_l1_l2_and_delta_are_means_over_the_cells() -> None:
    x_B1FN = picture(0)
    chessboard_FN = (torch.arange(256)[:, None] + torch.arange(16)) % 2 - 0.5
    y_B1FN = x_B1FN + chessboard_FN
    weights = replace(NONE, l1=1.0, l2=1.0, delta=1.0)
    terms = reconstruction_loss(y_B1FN, x_B1FN, weights, SPECTROGRAM)
    assert {name: round(term.item(), 4) for name, term in terms.items()} == {"l1": 0.5, "l2": 0.25, "delta": 2.0}


def test_the_relative_error_counts_a_faint_picture_as_a_full_one() -> None:
    x_B1FN = picture(0)
    y_B1FN = -1 + 1.1 * (x_B1FN + 1)
    fainter = [-1 + (z_B1FN + 1) / torch.tensor([1.0, 5.0]).view(2, 1, 1, 1) for z_B1FN in (y_B1FN, x_B1FN)]
    for y, x in ((y_B1FN, x_B1FN), fainter):
        torch.testing.assert_close(reconstruction_loss(y, x, only("relative"), SPECTROGRAM)["relative"].item(), 0.01)


def test_spectral_convergence_of_a_louder_picture_is_its_share() -> None:
    x_B1FN = picture(0)
    louder_B1FN = normalise(1.5 * magnitude(x_B1FN, 512), 512)
    torch.testing.assert_close(spectral_convergence(louder_B1FN, x_B1FN, 512), torch.tensor(0.5))


def test_a_silent_picture_does_not_outweigh_the_others() -> None:
    """That a note is silent, and another is not, is no reason to learn from it alone."""
    x_B1FN, silent_B1FN = picture(0), torch.full_like(picture(0), -1.0)
    noise_B1FN = 0.1 * torch.randn(x_B1FN.shape, generator=torch.Generator().manual_seed(0))
    norms = []
    for true_B1FN in (x_B1FN, silent_B1FN):
        y_B1FN = (true_B1FN + noise_B1FN).requires_grad_()
        spectral_convergence(y_B1FN, true_B1FN, 512).backward()
        assert y_B1FN.grad is not None
        norms.append(y_B1FN.grad.norm())
    assert norms[1] < 10 * norms[0]


def test_multi_resolution_forgives_what_a_coarser_picture_does_not_show() -> None:
    x_B1FN, far_B1FN = torch.full((1, 1, 256, 16), -1.0), torch.full((1, 1, 256, 16), -1.0)
    x_B1FN[..., 100, 4], far_B1FN[..., 200, 12] = 0.5, 0.5
    near_B1FN = torch.full((1, 1, 256, 16), -1.0)
    near_B1FN[..., 101, 4] = 0.5
    near, far = (multi_resolution(y_B1FN, x_B1FN, 512) for y_B1FN in (near_B1FN, far_B1FN))
    assert 0 < near < 0.6 * far


@pytest.mark.parametrize("num_frames", [1, 4, 7])
def test_a_short_picture_is_compared_by_the_rectangles_that_fit(num_frames: int) -> None:
    """A note of 64 ms has four frames."""
    y_B1FN, x_B1FN = (picture(seed)[..., :num_frames] for seed in (1, 0))
    assert multi_resolution(x_B1FN, x_B1FN, 512) == 0 < multi_resolution(y_B1FN, x_B1FN, 512)


def test_mel_bands_are_means_about_evenly_spaced_mels() -> None:
    bank_FM = mel_bank(1024, 16_000)
    assert bank_FM.shape == (512, 64)
    torch.testing.assert_close(bank_FM.sum(0), torch.ones(64))
    mels_M = torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 66)[1:-1]
    peaks_M = 700 * (10 ** (mels_M / 2595) - 1) / (16_000 / 1024)
    assert (bank_FM.argmax(0) - peaks_M).abs().max() < 0.75
    assert (bank_FM.argmax(0) - peaks_M).mean().abs() < 0.25
