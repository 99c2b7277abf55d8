"""VGGish: 128 features of AudioSet's network, on which the Frechet audio distance was first told.

Hershey et al., "CNN architectures for large-scale audio classification", ICASSP 2017; Kilgour et al., "Frechet audio
distance", Interspeech 2019. The features are the last layer before any rectification, and before the PCA and the
rounding to bytes that AudioSet is stored with. The weights are a file that the user brings.

Suffixes: B notes or patches, T samples, W samples of a frame, N frames, F frequency bins, M mel bands, D features.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu

from mars_dist.weights import fingerprint, fit, read_weights

SAMPLE_RATE = 16_000
FRAME, HOP, N_FFT = 400, 160, 512  # 25 ms, 10 ms
NUM_MELS, LOWEST_HZ, HIGHEST_HZ = 64, 125.0, 7500.0
PATCH = 96
"""Frames of a patch: 0.96 s."""
SHORTEST = FRAME + (PATCH - 1) * HOP
PATCHES_AT_ONCE = 64


class Vggish:
    """An `Embedding`; a note is the mean over its whole patches, end to end, and what is left over does not count.

    A note shorter than one patch is filled up with silence.
    """

    name, sample_rate, width = "vggish", SAMPLE_RATE, 128

    def __init__(self, network: "Network") -> None:
        self.network = network
        self.fingerprint = fingerprint(network)

    @torch.no_grad()
    def __call__(self, wave_BT: Tensor) -> Tensor:
        """(B, T) in [-1, 1] at 16 kHz -> (B, 128)."""
        self.network.to(wave_BT.device)
        mel_BNM = log_mel(pad(wave_BT.float(), (0, max(0, SHORTEST - wave_BT.shape[1]))))
        num_patches = mel_BNM.shape[1] // PATCH
        patches_BNM = mel_BNM[:, : num_patches * PATCH].reshape(-1, PATCH, NUM_MELS)
        features_BD = torch.cat([self.network(some) for some in patches_BNM.split(PATCHES_AT_ONCE)])
        return features_BD.unflatten(0, (-1, num_patches)).mean(1)


def load(path: Path) -> Vggish:
    """Raises ValueError where the file is missing, unreadable, or holds the weights of another network."""
    with torch.device("meta"):
        network = Network()
    fit(network, read_weights(path), str(path))
    return Vggish(network)


class Network(nn.Module):
    """Six convolutions of 3 x 3, four poolings, three layers; tensor names as in the port to PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        # Numbered with the rectifications and poolings between them, which have no weights.
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, 64, 3, padding=1),
                "3": nn.Conv2d(64, 128, 3, padding=1),
                "6": nn.Conv2d(128, 256, 3, padding=1),
                "8": nn.Conv2d(256, 256, 3, padding=1),
                "11": nn.Conv2d(256, 512, 3, padding=1),
                "13": nn.Conv2d(512, 512, 3, padding=1),
            }
        )
        self.embeddings = nn.ModuleDict(
            {"0": nn.Linear(6 * 4 * 512, 4096), "2": nn.Linear(4096, 4096), "4": nn.Linear(4096, 128)}
        )

    def forward(self, patch_BNM: Tensor) -> Tensor:
        """(B, 96, 64) -> (B, 128)."""
        x = patch_BNM[:, None]
        for number, convolution in self.features.items():
            x = relu(convolution(x))
            if number not in ("6", "11"):  # the first of two convolutions
                x = max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as TensorFlow has them
        x = relu(self.embeddings["0"](x))
        x = relu(self.embeddings["2"](x))
        return self.embeddings["4"](x)


def log_mel(wave_BT: Tensor) -> Tensor:
    """(B, T) at 16 kHz -> (B, N, 64): log(x + 0.01) of the magnitude in mel bands; no frame reaches over the ends."""
    window_W = torch.hann_window(FRAME, device=wave_BT.device)
    magnitude_BNF = torch.fft.rfft(wave_BT.unfold(1, FRAME, HOP) * window_W, N_FFT).abs()
    return torch.log(magnitude_BNF @ _mel_filters(wave_BT.device) + 0.01)


@lru_cache
def _mel_filters(device: torch.device) -> Tensor:
    """(F, M): HTK's scale; the triangles are straight in mel, not in Hz as torchaudio's, and leave out 0 Hz."""
    with torch.inference_mode(False):
        mel_F1 = _mel(torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / N_FFT)[:, None]
        low, high = (float(_mel(torch.tensor(hertz))) for hertz in (LOWEST_HZ, HIGHEST_HZ))
        edge = torch.linspace(low, high, NUM_MELS + 2, dtype=torch.float64)
        rising_FM = (mel_F1 - edge[:-2]) / (edge[1:-1] - edge[:-2])
        falling_FM = (edge[2:] - mel_F1) / (edge[2:] - edge[1:-1])
        return torch.minimum(rising_FM, falling_FM).clamp(min=0).float().to(device)


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)
