"""Distances between a note and its reconstruction."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.metrics.reconstruction import log_spectral_distance, mae, mel_distance, mse, multi_resolution_stft


def scipy_magnitude(wave_T: NDArray[np.float64], n_fft: int = 2048) -> NDArray[np.float64]:
    """The same by other hands: scipy divides by the window's sum, so that a full-scale sine has 0.5."""
    _, _, spectrum_FN = scipy.signal.stft(
        wave_T, nperseg=n_fft, noverlap=3 * n_fft // 4, window="hann", boundary="even", padded=False
    )
    return 2 * np.abs(spectrum_FN)


def scipy_decibels(wave_T: NDArray[np.float64]) -> NDArray[np.float64]:
    return 20 * np.log10(np.maximum(scipy_magnitude(wave_T), 1e-4))


def tones() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A decaying tone with a little noise, and another tone."""
    rng = np.random.default_rng(0)
    time_T = np.arange(16_384) / 16_000
    a_T = 0.5 * np.sin(2 * np.pi * 440 * time_T) * np.exp(-3 * time_T) + 1e-4 * rng.standard_normal(16_384)
    return a_T, 0.3 * np.sin(2 * np.pi * 452 * time_T)


def noise(amplitude: float) -> Tensor:
    return amplitude * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))


def test_log_spectral_distance_is_scipys() -> None:
    a_T, b_T = tones()
    expected = np.abs(scipy_decibels(a_T) - scipy_decibels(b_T)).mean()
    a_BT, b_BT = torch.tensor(np.stack([a_T, a_T])), torch.tensor(np.stack([b_T, a_T]))
    assert log_spectral_distance(a_BT, b_BT).tolist() == pytest.approx([expected, 0], rel=1e-4)


def test_multi_resolution_stft_is_scipys() -> None:
    a_T, b_T = tones()
    expected = []
    for n_fft in (512, 1024, 2048):
        a_FN, b_FN = (np.maximum(scipy_magnitude(wave_T, n_fft), 1e-4) for wave_T in (a_T, b_T))
        convergence = np.sqrt(((a_FN - b_FN) ** 2).sum()) / np.sqrt((b_FN**2).sum())
        expected.append(convergence + np.abs(np.log(a_FN) - np.log(b_FN)).mean())
    a_BT, b_BT = torch.tensor(np.stack([a_T, a_T])), torch.tensor(np.stack([b_T, a_T]))
    assert multi_resolution_stft(a_BT, b_BT).tolist() == pytest.approx([np.mean(expected), 0], rel=1e-4)


def test_multi_resolution_stft_of_half_the_amplitude() -> None:
    # ||A / 2 - A|| / ||A|| = 1 / 2, and ln 2; the other way round, 1 and ln 2: the second one is the real note
    assert multi_resolution_stft(noise(0.1), noise(0.2)).item() == pytest.approx(0.5 + math.log(2), abs=1e-2)
    assert multi_resolution_stft(noise(0.2), noise(0.1)).item() == pytest.approx(1 + math.log(2), abs=1e-2)


def test_multi_resolution_stft_of_silence_is_finite() -> None:
    silence_BT = torch.zeros(1, 16_000)
    assert multi_resolution_stft(silence_BT, silence_BT).item() == 0
    # Nothing of the note is there: 1, and the logarithm of how far it lies above the floor
    assert 1 < multi_resolution_stft(silence_BT, noise(0.2)).item() < 1 + math.log(1e4)
    assert 1 + math.log(1e4) < multi_resolution_stft(noise(0.2), silence_BT).item() < 1e4


def test_mel_distance_is_numpys() -> None:
    a_T, b_T = tones()
    mel_M = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82)
    left, middle, right = (700 * (10 ** (mel_M[i : i + 80] / 2595) - 1) for i in range(3))
    hertz_F1 = np.arange(1025)[:, None] * 16_000 / 2048
    bank_FM = np.clip(np.minimum((hertz_F1 - left) / (middle - left), (right - hertz_F1) / (right - middle)), 0, None)
    a_MN, b_MN = (10 * np.log10(np.maximum(bank_FM.T @ scipy_magnitude(x_T) ** 2, 1e-8)) for x_T in (a_T, b_T))
    a_BT, b_BT = torch.tensor(np.stack([a_T, a_T])), torch.tensor(np.stack([b_T, a_T]))
    expected = [np.abs(a_MN - b_MN).mean(), 0]
    assert mel_distance(a_BT, b_BT, 16_000).tolist() == pytest.approx(expected, rel=1e-3)


def test_half_the_amplitude_is_six_decibels_in_every_mel_band() -> None:
    for rate in (16_000, 48_000):
        assert mel_distance(noise(0.2), noise(0.1), rate).item() == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_mel_distance_of_silence_is_from_the_floor() -> None:
    silence_BT = torch.zeros(1, 16_000)
    assert mel_distance(silence_BT, silence_BT, 16_000).item() == 0
    assert mel_distance(noise(1e-6), silence_BT, 16_000).item() == 0
    assert 40 < mel_distance(noise(0.2), silence_BT, 16_000).item() < 80


def test_louder_noise_is_farther() -> None:
    tone_BT = torch.tensor(tones()[1])[None, :16_000].float()
    loud_BT = torch.cat([tone_BT + noise(amplitude) for amplitude in (0, 1e-3, 1e-2, 1e-1)])
    tone_BT = tone_BT.expand_as(loud_BT)
    for distance_B in (multi_resolution_stft(loud_BT, tone_BT), mel_distance(loud_BT, tone_BT, 16_000)):
        assert distance_B[0] == 0 and (distance_B.diff() > 0).all()


def test_half_the_amplitude_of_loud_noise_is_six_decibels() -> None:
    noise_BT = 0.2 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    assert log_spectral_distance(noise_BT, noise_BT / 2).item() == pytest.approx(20 * math.log10(2), abs=0.01)


def test_what_lies_below_the_floor_is_silence() -> None:
    faint_BT = 0.9e-4 * torch.sin(torch.arange(16_000) * 0.5)[None]
    assert log_spectral_distance(faint_BT, torch.zeros_like(faint_BT)).item() == 0
    assert log_spectral_distance(faint_BT * 2, torch.zeros_like(faint_BT)).item() > 0


@pytest.mark.parametrize("num_samples", [1, 600, 1024])
def test_a_note_of_less_than_half_of_a_transform_counts_as_padded(num_samples: int) -> None:
    a_BT, b_BT = noise(0.1)[:, :num_samples], noise(0.2)[:, :num_samples]
    padded = [torch.nn.functional.pad(wave_BT, (0, 1025 - num_samples)) for wave_BT in (a_BT, b_BT)]
    assert log_spectral_distance(a_BT, b_BT).equal(log_spectral_distance(*padded))
    assert mel_distance(a_BT, b_BT, 16_000).equal(mel_distance(*padded, 16_000))
    assert multi_resolution_stft(a_BT, b_BT).isfinite().all()


def test_picture_distances_are_per_note() -> None:
    a_B1FN = torch.zeros(2, 1, 2, 2)
    b_B1FN = torch.tensor([[[[1.0, 0], [0, 0]]], [[[-1.0, 2], [0, 1]]]])
    assert mse(a_B1FN, b_B1FN).tolist() == [0.25, 1.5]
    assert mae(a_B1FN, b_B1FN).tolist() == [0.25, 1.0]


def test_stored_pictures_are_averaged_in_full_precision() -> None:
    a_B1FN = torch.zeros(1, 1, 512, 256, dtype=torch.float16)
    assert mse(a_B1FN, a_B1FN + 1e-3).item() == pytest.approx(1e-6, rel=1e-2)
