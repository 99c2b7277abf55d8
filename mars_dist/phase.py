"""From magnitudes back to sound: phase-gradient integration, Griffin-Lim, or one after the other.

Suffixes: B batch, T samples, F frequency bins (with Nyquist, except in pictures), N frames, 1 the channel; P the bins
of all notes one after another, E pairs of neighbouring bins.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mars_dist.config import SpectrogramConfig
from mars_dist.serialize import convert
from mars_dist.spectrogram import magnitude, stft, window

Phase = Literal["griffin_lim", "pghi", "pghi_griffin_lim"]
"""griffin_lim: from a random phase, as the paper has it; pghi: phase-gradient integration alone; or both in turn."""
DEFAULT: Phase = "pghi_griffin_lim"
ITERATIONS: dict[Phase, int] = {"griffin_lim": 32, "pghi": 0, "pghi_griffin_lim": 16}

GAMMA = 0.25645
"""A Hann window of n_fft samples is nearest to the Gaussian exp(-pi t^2 / (GAMMA n_fft^2)) (arXiv 1609.00291)."""
TOLERANCE = 1e-4
"""Bins below this share of a note's largest magnitude keep a random phase."""


def wave_from_picture(picture_B1FN: Tensor, config: SpectrogramConfig, phase: Phase = DEFAULT, seed: int = 0) -> Tensor:
    """(B, 1, F, N) -> (B, T): a waveform whose magnitudes are the picture's, on the picture's device.

    What is random depends on the seed alone, so that a note does not depend on its batch.
    """
    convert(Phase, phase, None, "phase")
    magnitude_BFN = whole_magnitude(picture_B1FN, config)
    random_FN = random_phase(magnitude_BFN, seed)
    start_BFN = random_FN.expand_as(magnitude_BFN) if phase == "griffin_lim" else pghi(magnitude_BFN, random_FN, config)
    # On a CPU one after the other: several leave its cache, and FFTs of several may round otherwise than of one.
    at_once = len(magnitude_BFN) if magnitude_BFN.is_cuda else 1
    parts = zip(magnitude_BFN.split(at_once), start_BFN.split(at_once), strict=True)
    return torch.cat([griffin_lim(*part, config, ITERATIONS[phase]) for part in parts])


def whole_magnitude(picture_B1FN: Tensor, config: SpectrogramConfig) -> Tensor:
    """(B, 1, F, N) -> (B, F + 1, N + 1): the dropped bin taken as silent, the dropped frame as a repeat of the last."""
    magnitude_BFN = pad(magnitude(picture_B1FN[:, 0].float(), config.n_fft), (0, 0, 0, 1))
    return torch.cat([magnitude_BFN, magnitude_BFN[..., -1:]], dim=-1)


def random_phase(magnitude_BFN: Tensor, seed: int = 0) -> Tensor:
    """(F, N) in [0, 2 pi): one for all notes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(magnitude_BFN.shape[1:], generator=generator).to(magnitude_BFN.device) * (2 * math.pi)


# ---- Griffin-Lim


def griffin_lim(
    magnitude_BFN: Tensor, phase_BFN: Tensor, config: SpectrogramConfig, iterations: int, momentum: float = 0.99
) -> Tensor:
    """Magnitudes and a first phase -> (B, T). Fast Griffin-Lim (Perraudin 2013)."""
    window_T = window(config.n_fft, magnitude_BFN.device)

    def invert(spectrum_BFN: Tensor) -> Tensor:
        return torch.istft(spectrum_BFN, config.n_fft, config.hop, window=window_T, length=config.num_samples)

    angles_BFN = torch.polar(torch.ones_like(phase_BFN), phase_BFN)
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


# ---- phase-gradient integration


def pghi(magnitude_BFN: Tensor, random_FN: Tensor, config: SpectrogramConfig) -> Tensor:
    """Magnitudes and a random phase -> (B, F, N): phases of torch.stft, by integration of `phase_gradient`.

    PGHI (Prusa, Balazs, Sondergaard, arXiv 1609.00291) spreads the phase from the loudest bin to its neighbours, the
    loudest ones first, by way of a heap. The pairs of bins that it goes along are a maximum spanning tree; here that
    tree is found for all notes at once, on any device. Each tree starts from the random phase of its root; a quiet bin
    is a tree of its own.
    """
    level_BFN = magnitude_BFN / magnitude_BFN.amax((1, 2), keepdim=True)  # NaN in silence, which counts as quiet
    place_BFN = torch.arange(level_BFN.numel(), device=level_BFN.device).view_as(level_BFN)

    def pairs(x_BFN: Tensor, y_BFN: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the second of all neighbours: of x those along frequency, of y those along time."""
        first_E = torch.cat([x_BFN[:, :-1].flatten(), y_BFN[..., :-1].flatten()])
        return first_E, torch.cat([x_BFN[:, 1:].flatten(), y_BFN[..., 1:].flatten()])

    (a_E, b_E), (u_E, v_E) = pairs(level_BFN, level_BFN), pairs(place_BFN, place_BFN)
    slope_u_E, slope_v_E = pairs(*phase_gradient(level_BFN, config))
    loud_E = (torch.minimum(a_E, b_E) > TOLERANCE).nonzero()[:, 0]
    # Near the smaller one of both, as in the heap; among equals the larger one counts.
    weight_E = a_E * b_E / (a_E + b_E)
    u_E, v_E, weight_E, step_E = (x_E.take(loud_E) for x_E in (u_E, v_E, weight_E, (slope_u_E + slope_v_E) / 2))
    root_P, phase_P = spanning_trees(u_E, v_E, weight_E, step_E, level_BFN.numel())
    return (random_FN.expand_as(level_BFN).take(root_P) + phase_P).view_as(level_BFN)


def phase_gradient(level_BFN: Tensor, config: SpectrogramConfig) -> tuple[Tensor, Tensor]:
    """Magnitudes as shares of the largest -> the phase's growth a bin and a frame, each (B, F, N), up to whole turns.

    For a Gaussian window exp(-pi t^2 / gamma), phase phi and log magnitude s, with time counted from the window's
    middle: d phi / d omega = -gamma / (2 pi) ds / dt and d phi / dt = omega + 2 pi / gamma ds / d omega. torch.stft
    counts from the window's start, n_fft / 2 earlier, which adds pi a bin.
    """
    gamma = GAMMA * config.n_fft**2
    s_per_bin_BFN, s_per_frame_BFN = torch.gradient(level_BFN.clamp(min=TOLERANCE).log(), dim=(1, 2))
    bin_F1 = torch.arange(level_BFN.shape[1], device=level_BFN.device)[:, None]
    turns_F1 = bin_F1 * config.hop % config.n_fft / config.n_fft
    per_bin_BFN = math.pi - gamma / (config.hop * config.n_fft) * s_per_frame_BFN
    return per_bin_BFN, 2 * math.pi * turns_F1 + config.hop * config.n_fft / gamma * s_per_bin_BFN


def spanning_trees(u_E: Tensor, v_E: Tensor, weight_E: Tensor, step_E: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Maximum spanning trees over `num` places (Boruvka): each place's root (P,), and its phase above the root's (P,).

    The pair (u, v) says that v's phase is u's plus the step; weights are float32 and not negative. In each round every
    tree takes its heaviest pair to another tree, and trees so joined become one.
    """
    # The bits of such a float32 sort as it does. With the pair's number below them no two weights are equal.
    key_E = weight_E.view(torch.int32).long() << 32 | torch.arange(len(u_E), device=u_E.device)
    root_P = torch.arange(num, device=u_E.device)
    phase_P = torch.zeros(num, dtype=step_E.dtype, device=u_E.device)
    while True:
        root_u_E, root_v_E = root_P.take(u_E), root_P.take(v_E)
        apart_E = (root_u_E != root_v_E).nonzero()[:, 0]
        if not len(apart_E):
            return root_P, phase_P
        u_E, v_E, root_u_E, root_v_E, key_E, step_E = (
            x_E.take(apart_E) for x_E in (u_E, v_E, root_u_E, root_v_E, key_E, step_E)
        )
        heaviest_P = torch.full((num,), -1, device=u_E.device)
        for root_E in (root_u_E, root_v_E):
            heaviest_P.scatter_reduce_(0, root_E, key_E, "amax")
        up_E = heaviest_P.take(root_u_E) == key_E
        down_E = (heaviest_P.take(root_v_E) == key_E) & ~up_E  # a pair that both trees take joins them in one direction
        parent_P, above_P = torch.arange(num, device=u_E.device), torch.zeros_like(phase_P)
        gap_E = phase_P.take(v_E) - phase_P.take(u_E) - step_E  # root u's phase above root v's
        parent_P[root_u_E[up_E]], above_P[root_u_E[up_E]] = root_v_E[up_E], gap_E[up_E]
        parent_P[root_v_E[down_E]], above_P[root_v_E[down_E]] = root_u_E[down_E], -gap_E[down_E]
        while not torch.equal(grandparent_P := parent_P.take(parent_P), parent_P):
            above_P += above_P.take(parent_P)
            parent_P = grandparent_P
        phase_P += above_P.take(root_P)
        root_P = parent_P.take(root_P)
