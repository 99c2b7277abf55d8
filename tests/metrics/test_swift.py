"""The pitch of swift-f0, and how far the detector without a model agrees with it."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from mars_dist.metrics import swift
from mars_dist.metrics.pitch import NO_PITCH, detect_pitch
from mars_dist.metrics.swift import detect_pitch_swift

RATE = 16_000


@pytest.fixture
def installed() -> None:
    pytest.importorskip("swift_f0", reason="the embeddings extra is not installed")


def test_another_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^swift-f0 takes 16000 Hz, the notes are at 22050 Hz: resample them$"):
        detect_pitch_swift(torch.zeros(1, RATE), 22_050)


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swift_f0", None)  # as if it were not installed
    swift._detector.cache_clear()
    with pytest.raises(ValueError, match=r"^swift-f0 is not installed: pip install swift-f0==0\.3\.0$"):
        detect_pitch_swift(torch.zeros(1, RATE), RATE)


def tones(pitch_B: Tensor, seconds: int = 4) -> Tensor:
    """(B,) MIDI -> (B, T): steady, with five harmonics."""
    phase_BT = 2 * torch.pi * 440 * 2 ** ((pitch_B[:, None] - 69) / 12) * torch.arange(seconds * RATE) / RATE
    return 0.2 * torch.stack([torch.sin(k * phase_BT) / k for k in range(1, 6)]).sum(0)


def test_semitones_are_found_to_the_nearest(installed: None) -> None:
    pitch_B = torch.arange(36, 84, 4) + torch.linspace(-0.3, 0.3, 12)
    found_B = detect_pitch_swift(tones(pitch_B), RATE)
    assert found_B.dtype == torch.int64
    assert found_B.tolist() == pitch_B.round().tolist()


def test_silence_and_noise_have_no_pitch(installed: None) -> None:
    noise_T = 0.1 * torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0))
    assert detect_pitch_swift(torch.stack([torch.zeros(4 * RATE), noise_T]), RATE).tolist() == [NO_PITCH, NO_PITCH]


def test_the_attack_and_the_release_do_not_count(installed: None) -> None:
    wave_BT, other_BT = tones(torch.tensor([60]), 6), tones(torch.tensor([67]), 6)  # the longer part is the other
    wave_BT[:, : RATE // 10] = other_BT[:, : RATE // 10]
    wave_BT[:, 5 * RATE // 2 :] = other_BT[:, 5 * RATE // 2 :]
    assert detect_pitch_swift(wave_BT, RATE).tolist() == [60]


def test_both_detectors_agree_on_most_rendered_notes(installed: None) -> None:
    pytest.importorskip("tinysoundfont", reason="the notes extra is not installed")
    from mars_dist.notes import Sampler, _find_soundfont

    sampler = Sampler(_find_soundfont(None))
    asked = [(program, pitch) for program in range(0, 96, 8) for pitch in (50, 57, 64, 71)]
    wave_BT = torch.from_numpy(np.stack([sampler.play(program, pitch, 75) for program, pitch in asked]))
    agree_B = detect_pitch(wave_BT, RATE) == detect_pitch_swift(wave_BT, RATE)
    assert agree_B.float().mean() >= 0.85  # 0.90 when this was written
