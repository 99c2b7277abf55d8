"""Waveform <-> normalised log-magnitude spectrogram, and the phase back from magnitudes.

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
    magnitude_BFN = stft(wave_BT, config).abs()[:, :-1, :-1]
    return normalise(magnitude_BFN, config.n_fft)[:, None]


def griffin_lim(
    picture_B1FN: Tensor, config: SpectrogramConfig, iterations: int = 32, momentum: float = 0.99, seed: int = 0
) -> Tensor:
    """(B, 1, F, N) -> (B, T): a waveform whose magnitudes are the picture's.

    Fast Griffin-Lim (Perraudin 2013). The first phase is random and depends on the seed alone, so that a note does not
    depend on its batch. The dropped bin is taken as silent, the dropped frame as a repeat of the last.
    """
    magnitude_BFN = magnitude(picture_B1FN[:, 0].float(), config.n_fft)
    magnitude_BFN = torch.nn.functional.pad(magnitude_BFN, (0, 0, 0, 1))
    magnitude_BFN = torch.cat([magnitude_BFN, magnitude_BFN[..., -1:]], dim=-1)
    generator = torch.Generator().manual_seed(seed)
    phase_FN = torch.rand(magnitude_BFN.shape[1:], generator=generator).to(magnitude_BFN.device) * (2 * math.pi)
    angles_BFN = torch.polar(torch.ones_like(phase_FN), phase_FN).expand_as(magnitude_BFN)
    window_T = window(config.n_fft, magnitude_BFN.device)

    def invert(spectrum_BFN: Tensor) -> Tensor:
        return torch.istft(spectrum_BFN, config.n_fft, config.hop, window=window_T, length=config.num_samples)

    before_BFN = torch.zeros_like(angles_BFN)
    for _ in range(iterations):
        rebuilt_BFN = stft(invert(magnitude_BFN * angles_BFN), config)
        angles_BFN = on_unit_circle(rebuilt_BFN - before_BFN * (momentum / (1 + momentum)))
        before_BFN = rebuilt_BFN
    return invert(magnitude_BFN * angles_BFN)


def on_unit_circle(x: Tensor) -> Tensor:
    """x / |x|, by way of real numbers: complex division takes ten times as long on a CPU."""
    parts = torch.view_as_real(x)
    return torch.view_as_complex(parts * parts.square().sum(-1, keepdim=True).clamp(min=1e-30).rsqrt())
