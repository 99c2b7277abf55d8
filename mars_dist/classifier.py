"""The classifier of pitch and family, on whose judgement and features the measures of generated notes rest.

Suffixes: B batch, F frequency bins, N frames, T spans of time, Q positions on a logarithmic frequency axis, P pitches,
A families, X what a head reads, D its features.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.config import ClassifierConfig, SpectrogramConfig
from mars_dist.nsynth import FAMILIES

NUM_PITCHES = 128
"""P: MIDI."""
POSITIONS = 2
"""For each semitone."""
LOWEST_BIN = 2
"""Where the logarithmic axis begins: 31 Hz at 16 kHz and a window of 1024 samples."""
GAIN = 4.0
"""The network sees silence as 0 and the rest at about unit size, as the tokenizer does."""


class Judgement(NamedTuple):
    """What the classifier takes a picture for. (A tuple, so that FSDP finds the tensors in it.)"""

    pitch_logits_BP: Tensor
    family_logits_BA: Tensor
    pitch_features_BD: Tensor
    family_features_BD: Tensor


class Classifier(nn.Module):
    """Convolutions along frequency, with spans of time as channels, then a head for each question.

    On a logarithmic axis notes of one instrument are the same picture, moved up or down: so transposed notes train it,
    and it names pitches that it never heard from an instrument. The heads see each position with weights of its own.
    """

    axis_FQ: Tensor

    def __init__(self, config: ClassifierConfig, spectrogram: SpectrogramConfig) -> None:
        super().__init__()
        self.frames = config.frames
        self.register_buffer("axis_FQ", logarithmic_axis(spectrogram.num_bins), persistent=False)
        num_positions = self.axis_FQ.shape[1]
        channels = 2 * config.width
        self.trunk = nn.Sequential(convolution(config.frames, config.width), convolution(config.width, channels))
        flat = channels * -(-num_positions // 4)
        self.to_pitch_features, self.to_family_features = (nn.Linear(flat, config.features) for _ in range(2))
        self.to_pitch = nn.Linear(config.features, NUM_PITCHES)
        self.to_family = nn.Linear(config.features, len(FAMILIES))

    def forward(self, picture_B1FN: Tensor, up_B: Tensor | None = None) -> Judgement:
        """Judge normalised log magnitudes, of which `average_time` may have been taken already.

        `up_B`: semitones by which each picture is transposed before.
        """
        x_BTF = (average_time(picture_B1FN, self.frames)[:, 0].transpose(1, 2) + 1) * GAIN
        x_BTQ = x_BTF @ self.axis_FQ.to(x_BTF.dtype)
        if up_B is not None:
            x_BTQ = move_up(x_BTQ, POSITIONS * up_B)
        x_BX = self.trunk(x_BTQ).flatten(1)
        # Of unit size, so that a kernel on them (PKID, IKID) means the same for each classifier.
        pitch_BD, family_BD = (
            F.layer_norm(F.gelu(features(x_BX)), (features.out_features,))
            for features in (self.to_pitch_features, self.to_family_features)
        )
        return Judgement(self.to_pitch(pitch_BD), self.to_family(family_BD), pitch_BD, family_BD)


def convolution(channels: int, out: int) -> nn.Module:
    """Along frequency, to half as many positions."""
    return nn.Sequential(nn.Conv1d(channels, out, 5, stride=2, padding=2), nn.GroupNorm(1, out), nn.GELU())


def average_time(picture_B1FN: Tensor, frames: int) -> Tensor:
    """(B, 1, F, N) -> (B, 1, F, T): means over even spans of time."""
    return F.adaptive_avg_pool2d(picture_B1FN, (picture_B1FN.shape[2], frames))


def logarithmic_axis(num_bins: int) -> Tensor:
    """(F, Q), columns that sum to 1: the mean around each position, or, where bins are farther apart, between two."""
    ratio = 2 ** (1 / (12 * POSITIONS))
    num_positions = int(math.log(num_bins / LOWEST_BIN, ratio))
    arange = partial(torch.arange, device="cpu")  # values, also of a network that has no memory yet
    centre_Q = LOWEST_BIN * ratio ** arange(num_positions)
    reach_Q = ((ratio - 1) * centre_Q).clamp(min=1)
    weight_FQ = (1 - (arange(num_bins)[:, None] - centre_Q).abs() / reach_Q).clamp(min=0)
    return weight_FQ / weight_FQ.sum(0)


def move_up(x_BTQ: Tensor, positions_B: Tensor) -> Tensor:
    """Each row's picture so many positions higher, silence coming in at the edge."""
    from_BQ = torch.arange(x_BTQ.shape[2], device=x_BTQ.device) - positions_B[:, None]
    inside_BQ = (from_BQ >= 0) & (from_BQ < x_BTQ.shape[2])
    index_BTQ = (from_BQ * inside_BQ)[:, None].expand_as(x_BTQ)
    return x_BTQ.gather(2, index_BTQ) * inside_BQ[:, None]
