"""Pictures -> sound: what each way comes to, and what the phase gradient says of signals that are known."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mars_dist.config import SpectrogramConfig
from mars_dist.phase import (
    Phase,
    griffin_lim,
    pghi,
    phase_gradient,
    random_phase,
    spanning_trees,
    wave_from_picture,
    whole_magnitude,
)
from mars_dist.scales import Size
from mars_dist.spectrogram import magnitude, picture_from_wave, stft

DENSE = SpectrogramConfig(num_samples=4000, n_fft=256, hop=50, cmx=Size(4, 4))
SECOND = SpectrogramConfig(num_samples=16_000, cmx=Size(4, 4))
PHASES: tuple[Phase, ...] = get_args(Phase)


def seconds(config: SpectrogramConfig) -> Tensor:
    return torch.arange(config.num_samples, dtype=torch.float64) / config.sample_rate


def notes(config: SpectrogramConfig) -> Tensor:
    """(3, T): plucked strings with vibrato, ten harmonics each, and a little noise."""
    t_T = seconds(config)
    waves = []
    for hertz in (110, 233, 440):
        turns_T = hertz * t_T + 0.3 * (2 * math.pi * 5 * t_T).sin()
        harmonics = [(2 * math.pi * k * turns_T + k).sin() * (-k * t_T).exp() / k for k in range(1, 11)]
        waves.append(0.4 * torch.stack(harmonics).sum(0) * (1 - (-100 * t_T).exp()))
    noise_BT = 1e-3 * torch.randn(3, config.num_samples, generator=torch.Generator().manual_seed(0))
    return torch.stack(waves).float() + noise_BT


def error(rebuilt_BT: Tensor, wave_BT: Tensor, config: SpectrogramConfig) -> float:
    """Spectral convergence, the mean over notes."""
    true_BX, found_BX = (
        magnitude(picture_from_wave(wave, config), config.n_fft).flatten(1) for wave in (wave_BT, rebuilt_BT)
    )
    return float(((true_BX - found_BX).norm(dim=1) / true_BX.norm(dim=1)).mean())


def turned(phase: Tensor) -> Tensor:
    """Into [-pi, pi)."""
    return (phase + math.pi).remainder(2 * math.pi) - math.pi


def advance(phase_FN: Tensor, dim: int) -> Tensor:
    return turned(phase_FN.diff(dim=dim))


# ---- sound


def test_gradient_integration_is_the_better_start() -> None:
    wave_BT = notes(SECOND)
    magnitude_BFN = whole_magnitude(picture_from_wave(wave_BT, SECOND), SECOND)
    random_FN = random_phase(magnitude_BFN)

    def reached(start_BFN: Tensor, iterations: int) -> float:
        return error(griffin_lim(magnitude_BFN, start_BFN, SECOND, iterations), wave_BT, SECOND)

    from_random = {num: reached(random_FN.expand_as(magnitude_BFN), num) for num in (32, 100)}
    from_gradient = {num: reached(pghi(magnitude_BFN, random_FN, SECOND), num) for num in (0, 16, 32)}
    assert from_gradient[32] < from_gradient[16] < from_random[100] < from_random[32]
    assert from_gradient[0] < from_random[32]


@pytest.mark.parametrize(("n_fft", "hop"), [(2048, 500), (512, 125), (1024, 256)])
def test_any_setting(n_fft: int, hop: int) -> None:
    config = SpectrogramConfig(num_samples=hop * 32, n_fft=n_fft, hop=hop, cmx=Size(4, 4))
    wave_BT = notes(config)
    picture_B1FN = picture_from_wave(wave_BT, config)
    plain, integrated, both = (error(wave_from_picture(picture_B1FN, config, p), wave_BT, config) for p in PHASES)
    assert both < plain and both < integrated < 0.25


@pytest.mark.parametrize("phase", PHASES)
def test_a_sine_has_its_magnitude(phase: Phase) -> None:
    wave_BT = (2 * math.pi * 1268.75 * seconds(DENSE)).sin().float()[None] / 2
    rebuilt_BT = wave_from_picture(picture_from_wave(wave_BT, DENSE), DENSE, phase)
    assert rebuilt_BT.shape == wave_BT.shape
    assert error(rebuilt_BT, wave_BT, DENSE) < 0.15


def test_more_iterations_come_closer() -> None:
    wave_BT = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    magnitude_BFN = whole_magnitude(picture_from_wave(wave_BT, DENSE), DENSE)
    start_BFN = random_phase(magnitude_BFN)[None]
    some, few, none = (error(griffin_lim(magnitude_BFN, start_BFN, DENSE, n), wave_BT, DENSE) for n in (50, 4, 0))
    assert some < 0.7 * few < 0.7 * none


@pytest.mark.parametrize("phase", PHASES)
def test_a_note_does_not_depend_on_its_batch(phase: Phase) -> None:
    picture_B1FN = picture_from_wave(notes(DENSE) * torch.tensor([[1.0], [0.01], [0.3]]), DENSE)
    together_BT = wave_from_picture(picture_B1FN, DENSE, phase)
    for i in range(3):
        alone_1T = wave_from_picture(picture_B1FN[i : i + 1], DENSE, phase)
        torch.testing.assert_close(alone_1T, together_BT[i : i + 1])


@pytest.mark.parametrize("phase", PHASES)
def test_the_seed_is_all_that_is_random(phase: Phase) -> None:
    picture_B1FN = picture_from_wave(notes(DENSE)[:1], DENSE)
    once, again, other = (wave_from_picture(picture_B1FN, DENSE, phase, seed) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.allclose(once, other, atol=0.01)


@pytest.mark.parametrize("phase", PHASES)
def test_silence_stays_silent_beside_a_note(phase: Phase) -> None:
    picture_B1FN = picture_from_wave(notes(DENSE)[:2] * torch.tensor([[1.0], [0.0]]), DENSE)
    wave_BT = wave_from_picture(picture_B1FN, DENSE, phase)
    assert wave_BT.isfinite().all() and wave_BT[0].abs().max() > 0.1
    assert torch.equal(wave_BT[1], torch.zeros(4000))


# ---- the gradient


def test_a_sine_advances_by_its_frequency() -> None:
    hertz = 1234.5
    magnitude_BFN = stft((2 * math.pi * hertz * seconds(SECOND)).sin().float()[None], SECOND).abs()
    phase_FN = pghi(magnitude_BFN, random_phase(magnitude_BFN), SECOND)[0]
    expected = torch.tensor(2 * math.pi * hertz * SECOND.hop / SECOND.sample_rate)
    at_peak_N = advance(phase_FN, 1)[round(hertz * SECOND.n_fft / SECOND.sample_rate), 4:-4]
    assert turned(at_peak_N - expected).abs().max() < 0.02


def chirp() -> Tensor:
    t_T = seconds(SECOND)
    return (2 * math.pi * (500 * t_T + 1500 * t_T**2)).sin().float()[None]


SIGNALS: dict[str, Callable[[], Tensor]] = {
    "sine": lambda: (2 * math.pi * 1003 * seconds(SECOND)).sin().float()[None],
    "chirp": chirp,
    "click": lambda: torch.eye(SECOND.num_samples)[None, 8130],
}


@pytest.mark.parametrize("name", SIGNALS)
def test_the_gradient_is_that_of_torchs_phase(name: str) -> None:
    spectrum_FN = stft(SIGNALS[name](), SECOND)[0]
    level_FN = spectrum_FN.abs() / spectrum_FN.abs().max()
    per_bin_FN, per_frame_FN = (slope_BFN[0] for slope_BFN in phase_gradient(level_FN[None], SECOND))
    inner = (slice(8, -8), slice(8, -8))
    for dim, slope_FN in ((0, per_bin_FN), (1, per_frame_FN)):
        num = slope_FN.shape[dim] - 1
        expected = (slope_FN.narrow(dim, 0, num) + slope_FN.narrow(dim, 1, num)) / 2
        loud = torch.minimum(level_FN.narrow(dim, 0, num), level_FN.narrow(dim, 1, num)) > 0.25
        assert loud[inner].any()
        found = advance(spectrum_FN.angle(), dim)
        assert turned(found - expected)[inner][loud[inner]].abs().max() < 0.25


# ---- the trees


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Tensor, Tensor, Tensor]:
    """Places, pairs of them and weights, some of which are equal."""
    num = draw(st.integers(2, 30))
    places = st.integers(0, num - 1)
    pairs = draw(st.lists(st.tuples(places, places).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=90))
    weights = draw(st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0, 3.0]), min_size=len(pairs), max_size=len(pairs)))
    u_E, v_E = torch.tensor(pairs).T
    return num, u_E, v_E, torch.tensor(weights)


@given(graphs())
def test_steps_of_a_phase_give_it_back(graph: tuple[int, Tensor, Tensor, Tensor]) -> None:
    num, u_E, v_E, weight_E = graph
    true_P = torch.randn(num, generator=torch.Generator().manual_seed(0))
    root_P, phase_P = spanning_trees(u_E, v_E, weight_E, true_P[v_E] - true_P[u_E], num)
    assert torch.equal(root_P[u_E], root_P[v_E])
    assert torch.equal(root_P[root_P], root_P)
    torch.testing.assert_close(phase_P, true_P - true_P[root_P], rtol=0, atol=1e-5)


@given(graphs())
def test_trees_hold_the_heaviest_pairs(graph: tuple[int, Tensor, Tensor, Tensor]) -> None:
    """Against Kruskal. Steps are drawn at random, so that they fit along the pairs of the tree alone."""
    num, u_E, v_E, weight_E = graph
    step_E = torch.randn(len(u_E), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, phase_P = spanning_trees(u_E, v_E, weight_E, step_E, num)
    fits_E = (phase_P[v_E] - phase_P[u_E] - step_E).abs() < 1e-9
    tree, expected = list(range(num)), set()
    for pair in sorted(range(len(u_E)), key=lambda e: (weight_E[e].item(), e), reverse=True):
        a, b = tree[u_E[pair]], tree[v_E[pair]]
        if a != b:
            tree = [a if one == b else one for one in tree]
            expected.add(pair)
    assert set(fits_E.nonzero()[:, 0].tolist()) == expected


def test_a_way_that_there_is_not_is_refused() -> None:
    answer = "^phase: 'fast' is not 'griffin_lim' or 'pghi' or 'pghi_griffin_lim'$"
    with pytest.raises(ValueError, match=answer):
        wave_from_picture(torch.zeros(1, 1, DENSE.num_bins, DENSE.num_frames), DENSE, "fast")  # type: ignore[arg-type]
