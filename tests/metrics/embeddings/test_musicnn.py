"""musicnn: the front end against numpy, the network against what TensorFlow's graph of it computes, tags of notes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mars_dist.metrics.embeddings import load_embedding, musicnn
from mars_dist.metrics.embeddings.bundle import read_bundle
from mars_dist.metrics.embeddings.musicnn import HOP, WINDOW, Musicnn, Network, log_mel

RATE = 16_000


@pytest.fixture(scope="module")
def untrained() -> Musicnn:
    torch.manual_seed(0)
    return Musicnn(Network().eval())


@pytest.fixture(scope="module")
def trained() -> Musicnn:
    pytest.importorskip("musicnn", reason="musicnn is not installed: make embeddings")
    embedding = load_embedding("musicnn", RATE)
    assert isinstance(embedding, Musicnn)
    return embedding


def noise(num_samples: int, count: int = 2) -> Tensor:
    return 0.1 * torch.randn(count, num_samples, generator=torch.Generator().manual_seed(0))


def slaney_filters() -> np.ndarray:
    """(257, 96): M. Slaney, "Auditory toolbox": linear below 1 kHz, logarithmic above; each triangle has area one."""
    step = math.log(6.4) / 27
    top = 15 + math.log(8) / step
    mels = np.linspace(0, top, 98)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    hertz_F1 = np.arange(257)[:, None] * RATE / 512
    rising_FM = (hertz_F1 - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling_FM = (edges[2:] - hertz_F1) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising_FM, falling_FM)) * 2 / (edges[2:] - edges[:-2])


def test_the_front_end_is_that_of_the_package() -> None:
    wave_T = noise(8000, 1)[0].numpy().astype(np.float64) + 0.5 * np.sin(np.arange(8000) * 0.2)
    reflected_T = np.pad(wave_T, 256, mode="reflect")
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames_NW = np.stack([reflected_T[at : at + 512] * hann_W for at in range(0, 8001, 256)])
    power_NF = np.abs(np.fft.rfft(frames_NW)) ** 2
    actual_NM = log_mel(torch.from_numpy(wave_T)[None].float())[0]
    np.testing.assert_allclose(actual_NM, np.log10(10_000 * power_NF @ slaney_filters() + 1), atol=1e-4)


def test_a_long_note_is_the_mean_of_windows_that_cover_it(untrained: Musicnn) -> None:
    wave_BT = noise(4 * RATE)
    features_BD = untrained(wave_BT)
    assert features_BD.shape == (2, untrained.width) == (2, 200)
    assert features_BD.dtype == torch.float32 and not features_BD.requires_grad
    mel_BNM = log_mel(wave_BT)
    assert mel_BNM.shape[1] == 251
    with torch.no_grad():
        by_hand_BD = (untrained.network(mel_BNM[:, :WINDOW]) + untrained.network(mel_BNM[:, 64:])) / 2
    torch.testing.assert_close(features_BD, by_hand_BD)
    torch.testing.assert_close(untrained(wave_BT[1:]), features_BD[1:])


def test_a_note_of_one_window_and_a_shorter_one(untrained: Musicnn) -> None:
    exact_BT = noise((WINDOW - 1) * HOP)
    torch.testing.assert_close(untrained(exact_BT), untrained.network(log_mel(exact_BT)).detach())
    short_BT = noise(5000)
    filled_BT = torch.cat([short_BT, torch.zeros(2, (WINDOW - 1) * HOP - 5000)], 1)
    torch.testing.assert_close(untrained(short_BT), untrained(filled_BT))


def test_more_notes_than_go_through_at_once(untrained: Musicnn, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_BT = noise(2000, 3)
    together_BD = untrained(wave_BT)
    monkeypatch.setattr(musicnn, "WINDOWS_AT_ONCE", 2)
    torch.testing.assert_close(untrained(wave_BT), together_BD)


def test_the_weights_are_the_known_ones_and_each_has_its_place(trained: Musicnn) -> None:
    assert (trained.name, trained.sample_rate, trained.fingerprint) == ("musicnn", RATE, "b23962d75f74")
    import musicnn as package

    variables = read_bundle(f"{Path(package.__file__).parent}/MTT_musicnn/")
    of_the_network = [name for name in variables if "Adam" not in name and not name.endswith("_power")]
    parameters = [name for name in trained.network.state_dict() if not name.endswith("num_batches_tracked")]
    assert len(of_the_network) == len(parameters) == 64
    num_values = sum(variables[name].size for name in of_the_network)
    assert num_values == sum(trained.network.state_dict()[name].numel() for name in parameters)


def test_the_features_are_those_of_the_published_graph(trained: Musicnn) -> None:
    """The numbers come from executing the package's .meta, operation by operation, on the same mel bands."""
    time_T = torch.arange((WINDOW - 1) * HOP) / RATE
    harmonics = [torch.sin(2 * torch.pi * k * 220 * time_T) / k for k in range(1, 6)]
    tone_T = 0.3 * torch.stack(harmonics).sum(0) * torch.exp(-time_T)
    features_D = trained(tone_T[None])[0]
    expected = [-0.0799516, -0.0328787, 0.8348047, -0.1860576, -0.0787033, 0.6788900]
    torch.testing.assert_close(features_D[:6], torch.tensor(expected), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features_D.norm(), torch.tensor(7.047331), rtol=1e-4, atol=0)
    tags = trained.network.dense[1](features_D).sigmoid()[:4]
    torch.testing.assert_close(tags, torch.tensor([0.0959118, 0.0490496, 0.3565845, 0.0120435]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("program", "pitch", "tag"),
    [
        (24, 48, "guitar"),
        (0, 60, "piano"),
        (73, 72, "flute"),
        (40, 60, "violin"),
        (52, 48, "choir"),
        (104, 60, "sitar"),
    ],
)
def test_rendered_notes_are_tagged_as_what_they_are(trained: Musicnn, program: int, pitch: int, tag: str) -> None:
    pytest.importorskip("tinysoundfont", reason="the notes extra is not installed")
    from musicnn.configuration import MTT_LABELS

    from mars_dist.notes import Sampler, _find_soundfont

    wave_T = torch.from_numpy(Sampler(_find_soundfont(None)).play(program, pitch, 100))
    chances = dict(zip(MTT_LABELS, trained.network.dense[1](trained(wave_T[None]))[0].sigmoid().tolist(), strict=True))
    moods = {"slow", "quiet", "soft", "solo", "classical"}
    assert max(chances.keys() - moods, key=chances.__getitem__) == tag
