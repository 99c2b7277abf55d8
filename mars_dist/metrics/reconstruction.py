"""How far a note is from its reconstruction. One value a note: means are taken later.

A note of less than half of a transform, too short to be mirrored at its ends, counts as padded with silence.
Suffixes: B notes, 1 the channel, F frequency bins, M mel bands, N frames, T samples.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import melscale_fbanks

N_FFT = 2048
RESOLUTIONS = (512, 1024, 2048)
NUM_MELS = 80
FLOOR = 1e-4
"""-80 dBFS: magnitudes below it are silence."""


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


def multi_resolution_stft(a_BT: Tensor, b_BT: Tensor) -> Tensor:
    """(B, T), twice, in [-1, 1], b the real notes -> (B,): mean over three resolutions of two distances, added.

    With A and B the magnitudes of a and b: spectral convergence ||A - B|| / ||B|| over all frames and bins, and the
    mean of |ln A - ln B| (Yamamoto 2020, arXiv 1910.11480, eq. 3 to 6). FFT sizes and windows of 512, 1024 and 2048,
    hops of a quarter. Magnitudes are shares of a full-scale sine's, at least 1e-4 (-80 dBFS): so silence differs from
    silence by 0, and where b is silent the difference is divided by the floor, not by 0.
    """
    distances = []
    for n_fft in RESOLUTIONS:
        a_BFN, b_BFN = (_magnitude(wave_BT, n_fft).clamp(min=FLOOR) for wave_BT in (a_BT, b_BT))
        convergence_B = torch.linalg.matrix_norm(a_BFN - b_BFN) / torch.linalg.matrix_norm(b_BFN)
        distances.append(convergence_B + (a_BFN / b_BFN).log().abs().mean((1, 2)))
    return torch.stack(distances).mean(0)


def mel_distance(a_BT: Tensor, b_BT: Tensor, sample_rate: int) -> Tensor:
    """(B, T), twice, in [-1, 1] -> (B,) in dB: mean over frames and bands of |dB(a) - dB(b)|.

    dB(x) = max(10 log10(M), -80), where M is the power of `log_spectral_distance`'s STFT, a full-scale sine's peak
    taken as 1, summed under 80 triangles of height 1 that lie evenly on HTK's mel scale from 0 to half the sample rate.
    """
    return (_mel_decibels(a_BT, sample_rate) - _mel_decibels(b_BT, sample_rate)).abs().flatten(1).mean(1)


def _magnitude(wave_BT: Tensor, n_fft: int) -> Tensor:
    """(B, T) -> (B, F, N), as shares of a full-scale sine's peak."""
    window_T = torch.hann_window(n_fft, device=wave_BT.device)
    wave_BT = pad(wave_BT, (0, max(0, n_fft // 2 + 1 - wave_BT.shape[1])))
    spectrum_BFN = torch.stft(wave_BT.float(), n_fft, n_fft // 4, window=window_T, return_complex=True)
    return spectrum_BFN.abs() / (n_fft / 4)


def _decibels(wave_BT: Tensor) -> Tensor:
    """(B, T) -> (B, F, N) in dBFS."""
    return 20 * torch.log10(_magnitude(wave_BT, N_FFT).clamp(min=FLOOR))


def _mel_decibels(wave_BT: Tensor, sample_rate: int) -> Tensor:
    """(B, T) -> (B, 80, N) in dB."""
    bank_FM = melscale_fbanks(N_FFT // 2 + 1, 0.0, sample_rate / 2, NUM_MELS, sample_rate).to(wave_BT.device)
    power_BMN = bank_FM.T @ _magnitude(wave_BT, N_FFT).square()
    return 10 * torch.log10(power_BMN.clamp(min=FLOOR**2))
