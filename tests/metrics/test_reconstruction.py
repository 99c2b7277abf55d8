"""Distances between a note and its reconstruction."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.typing import NDArray

from mars_dist.metrics.reconstruction import log_spectral_distance, mae, mse


def scipy_decibels(wave_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same by other hands: scipy divides by the window's sum, so that a full-scale sine has 0.5."""
    _, _, spectrum_FN = scipy.signal.stft(
        wave_T, nperseg=2048, noverlap=1536, window="hann", boundary="even", padded=False
    )
    with np.errstate(divide="ignore"):
        return np.maximum(20 * np.log10(2 * np.abs(spectrum_FN)), -80)


def test_log_spectral_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    time_T = np.arange(16_384) / 16_000
    a_T = 0.5 * np.sin(2 * np.pi * 440 * time_T) * np.exp(-3 * time_T) + 1e-4 * rng.standard_normal(16_384)
    b_T = 0.3 * np.sin(2 * np.pi * 452 * time_T)
    expected = np.abs(scipy_decibels(a_T) - scipy_decibels(b_T)).mean()
    a_BT, b_BT = torch.tensor(np.stack([a_T, a_T])), torch.tensor(np.stack([b_T, a_T]))
    assert log_spectral_distance(a_BT, b_BT).tolist() == pytest.approx([expected, 0], rel=1e-4)


def test_half_the_amplitude_of_loud_noise_is_six_decibels() -> None:
    noise_BT = 0.2 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    assert log_spectral_distance(noise_BT, noise_BT / 2).item() == pytest.approx(20 * math.log10(2), abs=0.01)


def test_what_lies_below_the_floor_is_silence() -> None:
    faint_BT = 0.9e-4 * torch.sin(torch.arange(16_000) * 0.5)[None]
    assert log_spectral_distance(faint_BT, torch.zeros_like(faint_BT)).item() == 0
    assert log_spectral_distance(faint_BT * 2, torch.zeros_like(faint_BT)).item() > 0


def test_picture_distances_are_per_note() -> None:
    a_B1FN = torch.zeros(2, 1, 2, 2)
    b_B1FN = torch.tensor([[[[1.0, 0], [0, 0]]], [[[-1.0, 2], [0, 1]]]])
    assert mse(a_B1FN, b_B1FN).tolist() == [0.25, 1.5]
    assert mae(a_B1FN, b_B1FN).tolist() == [0.25, 1.0]


def test_stored_pictures_are_averaged_in_full_precision() -> None:
    a_B1FN = torch.zeros(1, 1, 512, 256, dtype=torch.float16)
    assert mse(a_B1FN, a_B1FN + 1e-3).item() == pytest.approx(1e-6, rel=1e-2)
