"""The tokenizer's composite loss on the un-multiplexed picture; no weights to download.

Suffixes: B batch, F frequency bins, N frames, M mel bands.
"""

from functools import lru_cache

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F

from mars_dist.config import ReconstructionLossConfig, SpectrogramConfig
from mars_dist.spectrogram import magnitude, normalise

POOLS = ((2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (1, 8), (4, 4))
MOST_MELS = 64
LEAST_LEVEL = 1e-3
"""Mean square of a picture above silence; of a hundred rendered notes one is below 2e-3."""
FAINTEST = 1e-3
"""Of full scale: the sine that spectral convergence takes a silent picture for; or that alone would be learnt from."""


def reconstruction_loss(
    y_B1FN: Tensor, x_B1FN: Tensor, weights: ReconstructionLossConfig, spectrogram: SpectrogramConfig
) -> dict[str, Tensor]:
    """The weighted terms of the loss of picture y against x, by name; their sum is what is minimised."""
    terms = {
        "l1": lambda: F.l1_loss(y_B1FN, x_B1FN),
        "l2": lambda: F.mse_loss(y_B1FN, x_B1FN),
        "relative": lambda: relative_error(y_B1FN, x_B1FN),
        "spectral_convergence": lambda: spectral_convergence(y_B1FN, x_B1FN, spectrogram.n_fft),
        "multi_resolution": lambda: multi_resolution(y_B1FN, x_B1FN, spectrogram.n_fft),
        "mel": lambda: mel_distance(y_B1FN, x_B1FN, spectrogram),
        "delta": lambda: delta_distance(y_B1FN, x_B1FN),
    }
    return {name: getattr(weights, name) * term() for name, term in terms.items() if getattr(weights, name) > 0}


def relative_error(y_B1FN: Tensor, x_B1FN: Tensor) -> Tensor:
    """Squared error of each picture over its mean square above silence, mean over the batch."""
    level_B = (x_B1FN + 1).square().mean((1, 2, 3))
    error_B = F.mse_loss(y_B1FN, x_B1FN, reduction="none").mean((1, 2, 3))
    return (error_B / level_B.clamp(min=LEAST_LEVEL)).mean()


def spectral_convergence(y_B1FN: Tensor, x_B1FN: Tensor, n_fft: int) -> Tensor:
    """Norm of the difference of linear magnitudes over the norm of the true ones, mean over the batch."""
    y, x = magnitude(y_B1FN, n_fft).flatten(1), magnitude(x_B1FN, n_fft).flatten(1)
    faintest = FAINTEST * n_fft / 4 * x_B1FN.shape[-1] ** 0.5
    return ((y - x).norm(dim=1) / x.norm(dim=1).clamp(min=faintest)).mean()


def multi_resolution(y_B1FN: Tensor, x_B1FN: Tensor, n_fft: int) -> Tensor:
    """L1 between log pictures of power averaged over rectangles: what a coarser STFT would see.

    Rectangles that are longer than a short picture are left out.
    """
    y_power, x_power = magnitude(y_B1FN, n_fft).square(), magnitude(x_B1FN, n_fft).square()
    pools = [(bins, frames) for bins, frames in POOLS if frames <= x_B1FN.shape[-1]]

    def coarse(power_B1FN: Tensor, pool: tuple[int, int]) -> Tensor:
        return normalise((F.avg_pool2d(power_B1FN, pool) + 1e-8).sqrt(), n_fft)

    return torch.stack([F.l1_loss(coarse(y_power, pool), coarse(x_power, pool)) for pool in pools]).mean()


def mel_distance(y_B1FN: Tensor, x_B1FN: Tensor, spectrogram: SpectrogramConfig) -> Tensor:
    """L1 between normalised log mel spectrograms of at most 64 bands."""
    bank_FM = mel_bank(spectrogram.n_fft, spectrogram.sample_rate).to(y_B1FN.device)

    def mel(picture_B1FN: Tensor) -> Tensor:
        return normalise(magnitude(picture_B1FN, spectrogram.n_fft).transpose(2, 3) @ bank_FM, spectrogram.n_fft)

    return F.l1_loss(mel(y_B1FN), mel(x_B1FN))


def delta_distance(y_B1FN: Tensor, x_B1FN: Tensor) -> Tensor:
    """L1 between differences of neighbours in time and in frequency."""
    error = y_B1FN - x_B1FN
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@lru_cache
def mel_bank(n_fft: int, sample_rate: int) -> Tensor:
    """(F, M) triangular filters, without the Nyquist bin; each sums to 1. Fewer where n_fft would leave some empty."""
    num_mels = min(MOST_MELS, n_fft // 16)
    bank_FM = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate)[:-1]
    return bank_FM / bank_FM.sum(0).clamp(min=1e-8)
