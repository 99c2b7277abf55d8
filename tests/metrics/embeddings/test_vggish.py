"""VGGish: the front end against numpy, the network against the port whose tensor names it takes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mars_dist.metrics.embeddings import Embedding, load_embedding
from mars_dist.metrics.embeddings.vggish import PATCH, Network, log_mel
from mars_dist.weights import fit

RATE = 16_000


def noise(num_samples: int, count: int = 2) -> Tensor:
    return 0.1 * torch.randn(count, num_samples, generator=torch.Generator().manual_seed(0))


def weights() -> dict[str, Tensor]:
    """Under the port's names; the rows of a dense layer are one and the same, so that its file is small."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in port().state_dict().items():
        if tensor.ndim == 2:
            row = torch.randn(1, tensor.shape[1], generator=generator) / math.sqrt(tensor.shape[1])
            state[name] = row.expand(tensor.shape)
        else:
            state[name] = torch.randn(tensor.shape, generator=generator) / math.sqrt(max(1, tensor[0].numel()))
    return state


def port() -> nn.Module:
    """The layers as the port to PyTorch lists them, on the meta device."""
    layers: list[nn.Module] = []
    channels = 1
    with torch.device("meta"):
        for out in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0):
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()] if out else [nn.MaxPool2d(2)]
            channels = out or channels
        dense = [nn.Linear(512 * 4 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)]
        return nn.ModuleDict({"features": nn.Sequential(*layers), "embeddings": nn.Sequential(*dense)})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vggish") / "weights.pth"
    torch.save(weights(), path)
    return path


@pytest.fixture(scope="module")
def vggish(path: Path) -> Embedding:
    return load_embedding(f"vggish:{path}", RATE)


def test_the_front_end_is_that_of_audioset() -> None:
    wave_T = noise(4000, 1)[0].numpy().astype(np.float64) + 0.3 * np.sin(np.arange(4000) * 0.2)
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    mel = lambda hertz: 1127 * math.log(1 + hertz / 700)  # noqa: E731
    edges = np.linspace(mel(125), mel(7500), 66)
    expected_NM = np.zeros(((4000 - 400) // 160 + 1, 64))
    for frame in range(len(expected_NM)):
        magnitude_F = np.abs(np.fft.rfft(wave_T[frame * 160 : frame * 160 + 400] * hann_W, 512))
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            for f, magnitude in enumerate(magnitude_F):
                at = mel(f * RATE / 512)
                weight = (at - low) / (centre - low) if at < centre else (high - at) / (high - centre)
                expected_NM[frame, band] += max(0.0, weight) * magnitude
    actual_NM = log_mel(torch.from_numpy(wave_T)[None].float())[0]
    np.testing.assert_allclose(actual_NM, np.log(expected_NM + 0.01), atol=1e-3)


def test_the_network_is_the_port_with_channels_last_in_front_of_the_dense_layers() -> None:
    reference, network = port(), Network()
    reference.load_state_dict(weights(), assign=True)
    fit(network, weights(), "it")
    patch_BNM = torch.randn(2, PATCH, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        x_BCHW = reference["features"](patch_BNM[:, None])
        expected_BD = reference["embeddings"](x_BCHW.transpose(1, 3).transpose(1, 2).reshape(2, -1))
        torch.testing.assert_close(network(patch_BNM), expected_BD)


def test_a_note_is_the_mean_of_its_whole_patches(vggish: Embedding) -> None:
    wave_BT = noise(4 * RATE)
    features_BD = vggish(wave_BT)
    assert features_BD.shape == (2, vggish.width) == (2, 128)
    assert features_BD.dtype == torch.float32 and not features_BD.requires_grad
    hop, frame = 160 * PATCH, 160 * (PATCH - 1) + 400
    alone = [vggish(wave_BT[:, i * hop : i * hop + frame]) for i in range(4)]
    torch.testing.assert_close(features_BD, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features_BD[1:], vggish(wave_BT[1:]), rtol=1e-4, atol=1e-5)


def test_a_short_note_counts_as_filled_up_with_silence(vggish: Embedding) -> None:
    wave_BT = noise(5000)
    filled_BT = torch.cat([wave_BT, torch.zeros(2, 12_000)], 1)
    torch.testing.assert_close(vggish(wave_BT), vggish(filled_BT))


def test_the_name_and_the_fingerprint_stand_for_the_weights(vggish: Embedding) -> None:
    assert (vggish.name, vggish.sample_rate, len(vggish.fingerprint)) == ("vggish", RATE, 12)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(weights() | {"embeddings.4.bias": torch.zeros(64)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: embeddings.4.bias is 64, must be 128: .* of another network"):
        load_embedding(f"vggish:{tmp_path / 'other.pth'}", RATE)
