"""How far a note is from its reconstruction. One value a note: means are taken later.

Suffixes: B notes, 1 the channel, F frequency bins, N frames, T samples.
"""

import torch
from torch import Tensor

N_FFT, HOP = 2048, 512
FLOOR_DB = -80.0


def mse(a_B1FN: Tensor, b_B1FN: Tensor) -> Tensor:
    """(B, 1, F, N), twice -> (B,): the mean squared difference of two normalised pictures."""
    return (a_B1FN.float() - b_B1FN.float()).square().flatten(1).mean(1)


def mae(a_B1FN: Tensor, b_B1FN: Tensor) -> Tensor:
    """(B, 1, F, N), twice -> (B,): the mean absolute difference of two normalised pictures."""
    return (a_B1FN.float() - b_B1FN.float()).abs().flatten(1).mean(1)


def log_spectral_distance(a_BT: Tensor, b_BT: Tensor) -> Tensor:
    """(B, T), twice, in [-1, 1] -> (B,) in dB: mean over frames and bins of |dB(a) - dB(b)|.

    dB(x) = max(20 log10(|X| / 512), -80), where X is the unscaled STFT of x: periodic Hann window of 2048, hop 512,
    centred, reflected at the ends, all 1025 bins. A full-scale sine (amplitude 1) has |X| = 2048 / 4 = 512 at its peak:
    that is 0 dBFS. The transform is this function's own, whatever the settings of the pictures.
    """
    return (_decibels(a_BT) - _decibels(b_BT)).abs().flatten(1).mean(1)


def _decibels(wave_BT: Tensor) -> Tensor:
    """(B, T) -> (B, F, N) in dBFS."""
    window_T = torch.hann_window(N_FFT, device=wave_BT.device)
    magnitude_BFN = torch.stft(wave_BT.float(), N_FFT, HOP, window=window_T, return_complex=True).abs()
    return 20 * torch.log10((magnitude_BFN / (N_FFT / 4)).clamp(min=10 ** (FLOOR_DB / 20)))
