"""The pitch detector without a model, on tones whose pitch is known."""

import math

import pytest
import torch
from torch import Tensor

from mars_dist.metrics.pitch import NO_PITCH, detect_pitch, pitch_correct

RATE = 16_000
PITCHES = torch.arange(24, 97)


def tones(pitch_B: Tensor, num_harmonics: int, seconds: float = 4.0, rate: int = RATE) -> Tensor:
    """(B,) MIDI -> (B, T): decaying tones with harmonics at odd phases, as far as they lie below Nyquist."""
    time_T = torch.arange(round(seconds * rate)) / rate
    hertz_B1 = 440 * 2 ** ((pitch_B[:, None] - 69) / 12)
    harmonics = [
        torch.sin(2 * math.pi * k * hertz_B1 * time_T + k * k) / k * (k * hertz_B1 < rate / 2)
        for k in range(1, num_harmonics + 1)
    ]
    return 0.2 * torch.stack(harmonics).sum(0) * torch.exp(-time_T)


@pytest.mark.parametrize("num_harmonics", [1, 2, 5, 12])
def test_every_semitone_is_found(num_harmonics: int) -> None:
    assert detect_pitch(tones(PITCHES, num_harmonics), RATE).tolist() == PITCHES.tolist()


@pytest.mark.parametrize("seconds", [0.064, 0.1, 0.12, 0.3])
def test_short_notes_have_a_pitch(seconds: float) -> None:
    """Those of a tenth of a second ended where the sustained part begins."""
    assert detect_pitch(tones(PITCHES, 5, seconds), RATE).tolist() == PITCHES.tolist()


def test_a_tone_without_its_fundamental_keeps_its_pitch() -> None:
    pitch_B = torch.arange(36, 73)
    wave_BT = tones(pitch_B, 8) - tones(pitch_B, 1)
    assert detect_pitch(wave_BT, RATE).tolist() == pitch_B.tolist()


def test_a_tone_a_third_of_a_semitone_off_is_rounded_to_the_nearest() -> None:
    assert detect_pitch(tones(torch.tensor([60.33, 59.67, 60.67]), 5), RATE).tolist() == [60, 60, 61]


def test_bright_steady_tones_of_few_samples_a_period_are_not_taken_for_their_octave() -> None:
    pitch_B = (torch.arange(82, 94)[:, None] + torch.linspace(-0.3, 0.3, 7)).flatten()
    time_T = torch.arange(4 * RATE) / RATE
    hertz_B1 = 440 * 2 ** ((pitch_B[:, None] - 69) / 12)
    harmonics = [k**-0.5 * torch.sin(2 * math.pi * k * hertz_B1 * time_T + k * k) for k in range(1, 6)]
    below_nyquist = [wave_BT * (k * hertz_B1 < RATE / 2) for k, wave_BT in enumerate(harmonics, start=1)]
    assert detect_pitch(0.2 * torch.stack(below_nyquist).sum(0), RATE).tolist() == pitch_B.round().tolist()


def test_ripples_beside_the_period_do_not_count() -> None:
    pitch_B = torch.arange(36, 60, 5)
    wave_BT = tones(pitch_B, 1) + 0.3 * tones(pitch_B + 12 * math.log2(12), 1)
    assert detect_pitch(wave_BT, RATE).tolist() == pitch_B.tolist()


def test_a_tone_below_the_searched_range_has_no_pitch() -> None:
    assert detect_pitch(tones(torch.tensor([16, 20]), 1), RATE).tolist() == [NO_PITCH, NO_PITCH]


def test_silence_and_noise_have_no_pitch() -> None:
    noise_T = 0.1 * torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0))
    assert detect_pitch(torch.stack([torch.zeros(4 * RATE), noise_T]), RATE).tolist() == [NO_PITCH, NO_PITCH]


def test_a_faint_tone_has_a_pitch() -> None:
    assert detect_pitch(tones(torch.tensor([60]), 5) * 1e-3, RATE).tolist() == [60]


def test_the_attack_and_the_release_do_not_count() -> None:
    wave_BT = tones(torch.tensor([60]), 5)
    other_BT = tones(torch.tensor([67]), 5)
    wave_BT[:, : RATE // 10] = 10 * other_BT[:, : RATE // 10]
    wave_BT[:, 5 * RATE // 2 :] = 10 * other_BT[:, 5 * RATE // 2 :]
    assert detect_pitch(wave_BT, RATE).tolist() == [60]


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, RATE), (0.3, RATE), (4.0, 48_000), (4.0, 22_050)])
def test_lengths_and_sample_rates(seconds: float, rate: int) -> None:
    pitch_B = torch.arange(40, 90, 7)
    assert detect_pitch(tones(pitch_B, 5, seconds, rate), rate).tolist() == pitch_B.tolist()


def test_a_note_does_not_depend_on_its_batch() -> None:
    wave_BT = tones(torch.tensor([40, 61, 88]), 5) * torch.tensor([[1.0], [1e-3], [0.1]])
    together_B = detect_pitch(wave_BT, RATE)
    assert together_B.tolist() == [int(detect_pitch(wave_BT[i : i + 1], RATE)) for i in range(3)]


def test_correct_means_to_the_semitone() -> None:
    wave_BT = tones(torch.tensor([60, 60, 60]), 5)
    correct_B = pitch_correct(wave_BT, torch.tensor([60, 61, 72]), RATE)
    assert correct_B.dtype == torch.bool
    assert correct_B.tolist() == [True, False, False]
