"""Every metric on rendered notes that were damaged on purpose: more damage is a worse figure."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d, one_hot
from torchaudio.functional import melscale_fbanks

from mars_dist import notes
from mars_dist.config import SpectrogramConfig
from mars_dist.metrics.generation import (
    Metric,
    crossed,
    different_cells,
    frechet_distance,
    inception_score,
    kernel_distance,
    output_entropy,
)
from mars_dist.metrics.neighbours import nearest_notes
from mars_dist.metrics.pitch import pitch_correct
from mars_dist.metrics.reconstruction import log_spectral_distance, mae, mel_distance, mse, multi_resolution_stft
from mars_dist.metrics.summary import bootstrap_set
from mars_dist.spectrogram import picture_from_wave

FAMILIES = ("bass", "brass", "flute", "guitar", "organ")
PITCHES = range(48, 72, 3)
BANK_FM = melscale_fbanks(513, 0.0, 8000.0, 32, 16_000)


def embed(magnitude_BFN: Tensor) -> Tensor:
    """(B, 64): mean and standard deviation over time of 32 log mel bands."""
    mel_BMN = (BANK_FM.T @ magnitude_BFN.square()).clamp(min=1e-8).log10()
    return torch.cat([mel_BMN.mean(-1), mel_BMN.std(-1)], dim=1)


def magnitude(wave_BT: Tensor) -> Tensor:
    return torch.stft(wave_BT, 1024, 256, window=torch.hann_window(1024), return_complex=True).abs() / 256


def with_noise(wave_BT: Tensor, decibels: float) -> Tensor:
    """White noise so far below each note."""
    noise_BT = torch.randn(wave_BT.shape, generator=torch.Generator().manual_seed(0))
    return wave_BT + noise_BT * wave_BT.square().mean(1, keepdim=True).sqrt() * 10 ** (-decibels / 20)


def blur(magnitude_BFN: Tensor, size: int) -> Tensor:
    return avg_pool2d(magnitude_BFN, size, 1, size // 2, count_include_pad=False)


def softmax_regression(x_ND: Tensor, class_N: Tensor) -> Callable[[Tensor], Tensor]:
    """Fitted on these; features -> class probabilities."""
    mean_D, std_D = x_ND.mean(0), x_ND.std(0)
    truth_NK = one_hot(class_N).float()
    weight_DK = torch.zeros(x_ND.shape[1], truth_NK.shape[1])
    for _ in range(500):
        error_NK = ((x_ND - mean_D) / std_D @ weight_DK).softmax(1) - truth_NK
        weight_DK -= 0.5 * ((x_ND - mean_D) / std_D).T @ error_NK / len(x_ND)
    return lambda z_ND: ((z_ND - mean_D) / std_D @ weight_DK).softmax(1)


class Notes:
    """160 notes of a second: 5 families of 4 instruments of 8 pitches, and lines that are damaged versions of them."""

    def __init__(self) -> None:
        sampler = notes.Sampler(notes._find_soundfont(None))
        programs = {family: sum(notes.PROGRAMS[family].values(), ())[:4] for family in FAMILIES}
        played = [
            (sampler.play(program, pitch, 100)[:16_000], f, p)
            for f, family in enumerate(FAMILIES)
            for program in programs[family]
            for p, pitch in enumerate(PITCHES)
        ]
        wave_BT = torch.from_numpy(np.stack([wave_T for wave_T, _, _ in played]))
        self.family_B, self.pitch_B = torch.tensor([f for _, f, _ in played]), torch.tensor([p for _, _, p in played])
        self.wave_BT = wave_BT
        magnitude_BFN = magnitude(wave_BT)
        real_BD = embed(magnitude_BFN)
        flutes_are_brass_B = torch.arange(160) - 32 * (self.family_B == FAMILIES.index("flute"))
        self.lines = {
            "real": real_BD,
            "no flute": real_BD[flutes_are_brass_B],
            "little noise": embed(magnitude(with_noise(wave_BT, 20))),
            "much noise": embed(magnitude(with_noise(wave_BT, 5))),
            "little blur": embed(blur(magnitude_BFN, 9)),
            "much blur": embed(blur(magnitude_BFN, 21)),
            "one note": real_BD[:1].expand_as(real_BD),
        }


@pytest.fixture(scope="module")
def rendered() -> Notes:
    pytest.importorskip("tinysoundfont", reason="the notes extra is not installed")
    return Notes()


def rises(value: dict[str, float], *names: str) -> bool:
    return all(value[a] < value[b] for a, b in pairwise(names))


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, partial(different_cells, num_cells=8)])
def test_distances_grow_with_damage(rendered: Notes, metric: Metric) -> None:
    estimates = {
        line: crossed(metric, x_ND, rendered.lines["real"], resamples=40) for line, x_ND in rendered.lines.items()
    }
    value = {line: estimate.value for line, estimate in estimates.items()}
    assert rises(value, "real", "little noise", "much noise")
    assert rises(value, "real", "little blur", "much blur")
    assert rises(value, "real", "no flute", "one note")
    for line in ("much noise", "much blur", "one note"):
        assert estimates[line].interval[0] > estimates["real"].interval[1]


def test_identical_sets_are_at_no_distance(rendered: Notes) -> None:
    real_ND = rendered.lines["real"]
    weight_1N = torch.ones(1, 160).double()
    assert frechet_distance(real_ND, real_ND)(weight_1N, weight_1N).item() == pytest.approx(0, abs=1e-4)
    assert different_cells(real_ND, real_ND, 16)(weight_1N, weight_1N).item() == 0
    # Unbiased: as its own pairs are fewer than those between the sets, which hold each note beside itself.
    assert kernel_distance(real_ND, real_ND)(weight_1N, weight_1N).item() < 0


@pytest.mark.parametrize("classes", ["family", "pitch"])
def test_inception_scores_fall_with_damage(rendered: Notes, classes: str) -> None:
    class_B = rendered.family_B if classes == "family" else rendered.pitch_B
    classify = softmax_regression(rendered.lines["real"], class_B)
    estimates = {line: bootstrap_set(inception_score(classify(x_ND)), 160) for line, x_ND in rendered.lines.items()}
    value = {line: estimate.value for line, estimate in estimates.items()}
    assert rises(value, "much noise", "little noise", "real")
    assert rises(value, "much blur", "little blur", "real")
    if classes == "family":
        assert rises(value, "no flute", "real")
        assert estimates["no flute"].interval[1] < estimates["real"].interval[0]
    else:  # the pitches of the missing notes are there
        low, high = estimates["real"].interval
        assert low < value["no flute"] < high
    assert value["one note"] == pytest.approx(1)


def low_pass(wave_BT: Tensor, size: int) -> Tensor:
    """A blur along time: the mean of so many samples."""
    return avg_pool1d(wave_BT[:, None], size, 1, size // 2, count_include_pad=False)[:, 0]


def copies(wave_BT: Tensor) -> Tensor:
    return wave_BT[:1].expand_as(wave_BT)


MEASURES_OF_NOTES = {
    "log-spectral distance": log_spectral_distance,
    "multi-resolution STFT": multi_resolution_stft,
    "mel distance": partial(mel_distance, sample_rate=16_000),
    "MSE of pictures": lambda wave_BT, real_BT: mse(picture(wave_BT), picture(real_BT)),
    "MAE of pictures": lambda wave_BT, real_BT: mae(picture(wave_BT), picture(real_BT)),
}


def picture(wave_BT: Tensor) -> Tensor:
    return picture_from_wave(wave_BT, SpectrogramConfig(num_samples=16_000))


@pytest.mark.parametrize("name", MEASURES_OF_NOTES)
def test_distances_of_notes_grow_with_damage(rendered: Notes, name: str) -> None:
    real_BT, measure = rendered.wave_BT, MEASURES_OF_NOTES[name]
    damaged = {
        "real": real_BT,
        "little noise": with_noise(real_BT, 40),
        "much noise": with_noise(real_BT, 20),
        "little blur": low_pass(real_BT, 3),
        "much blur": low_pass(real_BT, 9),
        "one note": copies(real_BT),
    }
    value = {line: measure(wave_BT, real_BT).mean().item() for line, wave_BT in damaged.items()}
    assert value["real"] == 0
    assert rises(value, "real", "little noise", "much noise")
    assert rises(value, "real", "little blur", "much blur", "one note")


def test_a_pitch_is_heard_until_noise_drowns_it(rendered: Notes) -> None:
    pitch_B = torch.tensor(PITCHES)[rendered.pitch_B]
    damaged = {
        "real": rendered.wave_BT,
        "much noise": with_noise(rendered.wave_BT, 0),
        "noise": with_noise(rendered.wave_BT, -20),
        "one note": copies(rendered.wave_BT),
    }
    right = {line: pitch_correct(wave_BT, pitch_B, 16_000).float().mean().item() for line, wave_BT in damaged.items()}
    assert rises(right, "noise", "much noise", "real") and right["real"] > 0.8
    assert right["one note"] == pytest.approx(1 / len(PITCHES))


def test_a_classifier_is_the_less_sure_the_more_damage(rendered: Notes) -> None:
    classify = softmax_regression(rendered.lines["real"], rendered.family_B)
    unsure = {line: output_entropy(classify(x_ND)).mean().item() for line, x_ND in rendered.lines.items()}
    right = {
        line: (classify(x_ND).argmax(1) == rendered.family_B).float().mean().item()
        for line, x_ND in rendered.lines.items()
    }
    assert rises(unsure, "real", "little blur", "much blur")
    assert rises(right, "much noise", "little noise", "real") and rises(right, "much blur", "little blur", "real")
    assert rises(right, "one note", "no flute", "real") and right["one note"] == pytest.approx(0.2)


def test_likeness_falls_with_damage_and_copies_are_found(rendered: Notes) -> None:
    """The bank is the real notes themselves."""
    bank_ND = picture(rendered.wave_BT).flatten(1)
    damaged = {
        "real": rendered.wave_BT,
        "little noise": with_noise(rendered.wave_BT, 40),
        "much noise": with_noise(rendered.wave_BT, 20),
    }
    likeness, found = {}, {}
    for line, wave_BT in damaged.items():
        nearest = nearest_notes(picture(wave_BT).flatten(1), [bank_ND])
        likeness[line], found[line] = nearest.similarity_B.mean().item(), nearest.index_B
    assert rises(likeness, "much noise", "little noise", "real") and likeness["real"] == pytest.approx(1, abs=1e-3)
    assert torch.equal(found["real"], torch.arange(160))
