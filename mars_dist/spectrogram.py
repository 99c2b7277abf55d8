"""Waveform <-> normalised log-magnitude spectrogram.

Suffixes: B batch, T samples, F frequency bins (no Nyquist), N frames, 1 the channel.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mars_dist.config import SpectrogramConfig

# A full-scale sine has magnitude n_fft / 4 under a Hann window: 256 at 1024, where this constant maps it to 1.
GAIN = 10.0
FULL_SCALE = math.log1p(GAIN * 256)


@lru_cache
def window(n_fft: int, device: torch.device) -> Tensor:
    """The periodic Hann window of length n_fft."""
    with torch.inference_mode(False):  # it may be made first where nothing is learnt, and be needed later where it is
        return torch.hann_window(n_fft, device=device)


def stft(wave_BT: Tensor, config: SpectrogramConfig) -> Tensor:
    """(B, T) -> complex (B, n_fft / 2 + 1, T / hop + 1): centred, reflected at the ends, unscaled."""
    window_T = window(config.n_fft, wave_BT.device)
    return torch.stft(wave_BT, config.n_fft, config.hop, window=window_T, return_complex=True)


def normalise(magnitude: Tensor, n_fft: int) -> Tensor:
    """Magnitude -> about [-1, 1]: silence at -1, a full-scale sine at 1. One constant, exact inverse."""
    return 2 * torch.log1p(magnitude * (GAIN * 1024 / n_fft)) / FULL_SCALE - 1


def magnitude(picture: Tensor, n_fft: int) -> Tensor:
    """The inverse of `normalise`; values below -1, which only a model makes, become silence."""
    return torch.expm1((picture.clamp(min=-1) + 1) * (FULL_SCALE / 2)) / (GAIN * 1024 / n_fft)


def picture_from_wave(wave_BT: Tensor, config: SpectrogramConfig) -> Tensor:
    """(B, T) in [-1, 1] -> (B, 1, F, N): the normalised log magnitude, without Nyquist bin and last frame."""
    stft_BFN = stft(wave_BT, config)[:, :-1, :-1]
    # As abs(), to one unit in the last place, in 0.4 of its time: abs() guards against squares too large for float32.
    magnitude_BFN = (stft_BFN.real.square() + stft_BFN.imag.square()).sqrt()
    return normalise(magnitude_BFN, config.n_fft)[:, None]
