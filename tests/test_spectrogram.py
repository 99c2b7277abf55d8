"""Waveform -> picture, and magnitudes back from it."""

import math

import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mars_dist.config import SpectrogramConfig
from mars_dist.scales import Size
from mars_dist.spectrogram import magnitude, normalise, picture_from_wave, stft

n_ffts = st.sampled_from([128, 1024, 2048])


def sine(config: SpectrogramConfig, bin_number: float, amplitude: float = 1.0) -> Tensor:
    """(1, T): a tone at the middle of a bin."""
    turns_T = torch.arange(config.num_samples, dtype=torch.float64) * bin_number / config.n_fft
    return (amplitude * (2 * math.pi * turns_T).sin()).float()[None]


def test_stft_is_torchaudios(short: SpectrogramConfig) -> None:
    wave_BT = torch.randn(3, short.num_samples)
    reference = torchaudio.transforms.Spectrogram(short.n_fft, hop_length=short.hop, power=None)
    torch.testing.assert_close(stft(wave_BT, short), reference(wave_BT))


def test_a_picture_is_the_log_magnitude_without_nyquist_bin_and_last_frame(short: SpectrogramConfig) -> None:
    wave_BT = torch.randn(3, short.num_samples)
    reference = torchaudio.transforms.Spectrogram(short.n_fft, hop_length=short.hop, power=1)
    picture_B1FN = picture_from_wave(wave_BT, short)
    assert picture_B1FN.shape == (3, 1, short.num_bins, short.num_frames)
    torch.testing.assert_close(magnitude(picture_B1FN, short.n_fft)[:, 0], reference(wave_BT)[:, :-1, :-1])


@pytest.mark.parametrize("n_fft, hop, shape", [(1024, 250, (512, 256)), (2048, 500, (1024, 128))])
def test_four_seconds_need_no_padding(n_fft: int, hop: int, shape: tuple[int, int]) -> None:
    config = SpectrogramConfig(n_fft=n_fft, hop=hop, cmx=Size(8, 1))
    assert picture_from_wave(torch.zeros(1, 64_000), config).shape == (1, 1, *shape)


@given(st.floats(0, 1000), n_ffts)
def test_magnitude_undoes_normalise(value: float, n_fft: int) -> None:
    value_1 = torch.tensor([value], dtype=torch.float64)
    torch.testing.assert_close(magnitude(normalise(value_1, n_fft), n_fft), value_1, rtol=1e-9, atol=1e-12)


@given(st.floats(-1, 1.3), n_ffts)
def test_normalise_undoes_magnitude(value: float, n_fft: int) -> None:
    value_1 = torch.tensor([value], dtype=torch.float64)
    torch.testing.assert_close(normalise(magnitude(value_1, n_fft), n_fft), value_1, rtol=0, atol=1e-9)


def test_what_is_below_silence_is_silence() -> None:
    assert magnitude(torch.tensor([-1.0, -1.5, -9.0]), 1024).tolist() == [0, 0, 0]


def test_silence_is_minus_one(short: SpectrogramConfig) -> None:
    assert (picture_from_wave(torch.zeros(1, short.num_samples), short) == -1).all()


@pytest.mark.parametrize("n_fft", [256, 1024, 2048])
def test_a_full_scale_sine_is_one(n_fft: int) -> None:
    config = SpectrogramConfig(num_samples=8000, n_fft=n_fft, hop=125, cmx=Size(1, 1))
    inner_FN = picture_from_wave(sine(config, 40), config)[0, 0, :, 10:-10]
    assert (inner_FN.argmax(0) == 40).all()
    torch.testing.assert_close(inner_FN.amax(0), torch.ones(44), rtol=0, atol=1e-4)
