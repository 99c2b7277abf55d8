"""The pitch of a note without a model: normalised square difference autocorrelation.

McLeod and Wyvill, "A smarter way to find pitch", ICMC 2005. Suffixes: B notes, T samples, R frames of a note,
W samples of a frame, F its bins, L lags.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

NO_PITCH = -1
LOWEST = 23  # MIDI: its period is the longest lag
SUSTAIN = (0.1, 2.5)  # seconds: after the attack, before the release
FRAME, HOP = 0.256, 0.2  # seconds
THRESHOLD = 0.85  # of the highest key maximum: the first that reaches it is the period
LEAST_CLARITY = 0.3  # below it the frames are noise
SILENCE = 1e-5  # root mean square of the frames


def detect_pitch(wave_BT: Tensor, sample_rate: int) -> Tensor:
    """(B, T) in [-1, 1] -> (B,) int64: the nearest MIDI pitch of the sustained part, or NO_PITCH for silence and noise.

    Finds pitches 24 to 93; at 16 kHz, higher ones with strong harmonics may be taken for an octave below. A note
    whose sustained part is shorter than one frame counts as padded with silence.
    """
    nsdf_BL = _nsdf(wave_BT.float(), sample_rate)
    height_BL, lag_BL = _key_maxima(nsdf_BL)
    height_BL[:, 0] = 0
    highest_B1 = height_BL.amax(-1, keepdim=True)
    first_B1 = (height_BL >= THRESHOLD * highest_B1).int().argmax(-1, keepdim=True)
    period_B = lag_BL.gather(1, first_B1)[:, 0]
    pitch_B = 69 + 12 * torch.log2(sample_rate / (440 * period_B))
    return torch.where(highest_B1[:, 0] > LEAST_CLARITY, pitch_B.round().long(), NO_PITCH)


def pitch_correct(wave_BT: Tensor, pitch_B: Tensor, sample_rate: int) -> Tensor:
    """(B, T), (B,) MIDI -> (B,) bool: whether the detected pitch is the asked one, to the semitone."""
    return detect_pitch(wave_BT, sample_rate) == pitch_B


def sustained(wave_BT: Tensor, sample_rate: int) -> Tensor:
    """(B, T) -> (B, shorter): SUSTAIN of a note; the attack of a short one is taken to last a quarter of it."""
    start, end = (round(seconds * sample_rate) for seconds in SUSTAIN)
    return wave_BT[:, min(start, wave_BT.shape[1] // 4) : end]


def _nsdf(wave_BT: Tensor, sample_rate: int) -> Tensor:
    """(B, T) -> (B, L): the NSDF, n(lag) = 2 sum x_j x_(j + lag) / sum (x_j^2 + x_(j + lag)^2), in [-1, 1].

    Both sums run over all frames, so that loud frames count more; they are zero for silence.
    """
    frame, hop = round(FRAME * sample_rate), round(HOP * sample_rate)
    num_lags = int(sample_rate / (440 * 2 ** ((LOWEST - 69) / 12))) + 2
    sustain_BT = sustained(wave_BT, sample_rate)
    sustain_BT = pad(sustain_BT, (0, max(0, frame - sustain_BT.shape[1])))
    x_BRW = sustain_BT.unfold(1, frame, hop)
    x_BRW = x_BRW - x_BRW.mean(-1, keepdim=True)

    n_fft = -(-(frame + num_lags) // 512) * 512  # room for every lag, and a fast length
    spectrum_BRF = torch.fft.rfft(x_BRW, n_fft)
    # The inverse transform is linear: one for the sum over frames instead of one a frame.
    correlation_BL = torch.fft.irfft((spectrum_BRF.real**2 + spectrum_BRF.imag**2).sum(1), n_fft)[:, :num_lags]
    energy_BW = x_BRW.square().sum(1)
    total_B1 = energy_BW.sum(-1, keepdim=True)
    lost_BL = pad(energy_BW.cumsum(-1)[:, : num_lags - 1], (1, 0))
    lost_BL += pad(energy_BW.flip(-1).cumsum(-1)[:, : num_lags - 1], (1, 0))
    silent_B1 = total_B1 < SILENCE**2 * x_BRW[0].numel()
    return (2 * correlation_BL / (2 * total_B1 - lost_BL).clamp(min=1e-12)).masked_fill(silent_B1, 0)


def _key_maxima(nsdf_BL: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) -> (B, L) heights and (B, L) lags of the highest point of each positive lobe.

    Heights are 0 elsewhere. A parabola through three points gives height and lag between samples: without it short
    periods lose to their multiples.
    """
    positive_BL = nsdf_BL > 0
    rising_BL = pad(positive_BL[:, 1:] & ~positive_BL[:, :-1], (1, 0))
    lobe_BL = rising_BL.cumsum(-1)
    top_BL = torch.zeros_like(nsdf_BL).scatter_reduce(1, lobe_BL, nsdf_BL, "amax")
    is_key_BL = (nsdf_BL == top_BL.gather(1, lobe_BL)) & positive_BL

    before_BL, after_BL = pad(nsdf_BL[:, :-1], (1, 0)), pad(nsdf_BL[:, 1:], (0, 1))
    is_key_BL &= (before_BL <= nsdf_BL) & (after_BL <= nsdf_BL)
    is_key_BL[:, -1] = False  # the last lobe may rise on beyond the last lag
    slope_BL = (after_BL - before_BL) / 2
    curvature_BL = (2 * nsdf_BL - before_BL - after_BL).clamp(min=1e-9)
    height_BL = torch.where(is_key_BL, nsdf_BL + slope_BL**2 / (2 * curvature_BL), 0.0)
    lag_BL = torch.arange(nsdf_BL.shape[1], device=nsdf_BL.device) + slope_BL / curvature_BL
    return height_BL, lag_BL
