"""The tagger that was trained on MagnaTagATune: 200 features of its last hidden layer.

Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging", LBD of ISMIR 2019. The
weights are MTT_musicnn of the PyPI package musicnn (ISC licence), read without TensorFlow.

Suffixes: B notes or windows, T samples, N frames, M mel bands, F frequency bins, C channels, D features, 1 one channel.
"""

import importlib.util
import re
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu
from torchaudio.functional import melscale_fbanks

from mars_dist.metrics.embeddings.bundle import read_bundle
from mars_dist.weights import fingerprint, fit

SAMPLE_RATE = 16_000
INSTALL = "pip install --no-deps musicnn==0.1.0"
WINDOW = 187
"""Frames that the network was trained on: three seconds."""
N_FFT, HOP, NUM_MELS = 512, 256, 96
WINDOWS_AT_ONCE = 32

KERNELS = (
    *((7, 38, 204), (7, 67, 204)),  # timbral: 0.4 and 0.7 of the mel bands
    *((128, 1, 51), (64, 1, 51), (32, 1, 51)),  # temporal
    *((7, 561, 64), (7, 64, 64), (7, 64, 64)),  # over all channels of the layer below
)
"""Frames, bands and output channels of the convolutions."""
NUM_FRONT = 5
PLACES = {"conv2d": "convs", "batch_normalization": "norms", "dense": "dense"}
PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class Musicnn:
    """An `Embedding`; a note of more than three seconds is the mean over the fewest windows that cover it, evenly laid.

    A shorter one is filled up with silence.
    """

    name, sample_rate, width = "musicnn", SAMPLE_RATE, 200

    def __init__(self, network: "Network") -> None:
        self.network = network
        self.fingerprint = fingerprint(network)

    @torch.no_grad()
    def __call__(self, wave_BT: Tensor) -> Tensor:
        """(B, T) in [-1, 1] at 16 kHz -> (B, 200)."""
        self.network.to(wave_BT.device)
        mel_BNM = log_mel(pad(wave_BT.float(), (0, max(0, (WINDOW - 1) * HOP - wave_BT.shape[1]))))
        spare = mel_BNM.shape[1] - WINDOW
        num_windows = -(-mel_BNM.shape[1] // WINDOW)
        starts = [round(spare * i / max(1, num_windows - 1)) for i in range(num_windows)]
        windows_BNM = torch.cat([mel_BNM[:, start : start + WINDOW] for start in starts])
        features_BD = torch.cat([self.network(some) for some in windows_BNM.split(WINDOWS_AT_ONCE)])
        return features_BD.unflatten(0, (num_windows, -1)).mean(0)


def load() -> Musicnn:
    """Raises ValueError where the package is not installed, or its checkpoint is damaged."""
    # Looked up, not imported: its code wants TensorFlow, and only the files beside it are wanted.
    package = importlib.util.find_spec("musicnn")
    if package is None or package.origin is None:
        raise ValueError(f"embedding: musicnn is not installed: {INSTALL}")
    folder = Path(package.origin).parent / "MTT_musicnn"
    with torch.device("meta"):
        network = Network()
    fit(network, _renamed(folder), str(folder))
    return Musicnn(network)


def _renamed(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's weights under the names of `Network`, without the optimizer's moments."""
    state = {}
    for variable, array in read_bundle(f"{folder}/").items():
        if found := re.fullmatch(r"(conv2d|batch_normalization|dense)(?:_(\d+))?/(\w+)", variable):
            place, number, part = found.groups()
            tensor = torch.from_numpy(array.copy())
            if part == "kernel":  # (in, out), or (height, width, in, out)
                tensor = tensor.T.contiguous() if place == "dense" else tensor.permute(3, 2, 0, 1).contiguous()
            state[f"{PLACES[place]}.{number or 0}.{PARTS[part]}"] = tensor
    return state


class Network(nn.Module):
    """MTT_musicnn: patterns of timbre and of time, three layers over them, all pooled over time.

    Its parts are numbered as in the checkpoint: the norm before the convolutions, one behind each, two about `dense`.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = [out for _, _, out in KERNELS]
        num_pooled = 2 * sum(channels)  # every layer's channels, by their maximum and their mean
        self.convs = nn.ModuleList(nn.Conv2d(1, out, (frames, bands)) for frames, bands, out in KERNELS)
        self.norms = nn.ModuleList(nn.BatchNorm1d(num, eps=1e-3) for num in (1, *channels, num_pooled, 200))
        self.dense = nn.ModuleList([nn.Linear(num_pooled, 200), nn.Linear(200, 50)])

    def forward(self, mel_BNM: Tensor) -> Tensor:
        """(B, N, 96) -> (B, 200): the last hidden layer, behind its norm. `dense[1]` makes tags of it."""
        x_BNM = self.norms[0](mel_BNM.flatten(1)[:, None]).view_as(mel_BNM)
        front_BNC = torch.cat([self.layer(i, x_BNM) for i in range(NUM_FRONT)], -1)
        first_BNC = self.layer(5, front_BNC)
        second_BNC = first_BNC + self.layer(6, first_BNC)
        third_BNC = second_BNC + self.layer(7, second_BNC)
        all_BNC = torch.cat([front_BNC, first_BNC, second_BNC, third_BNC], -1)
        pooled_BC = torch.stack([all_BNC.amax(1), all_BNC.mean(1)], -1).flatten(1)  # maximum and mean take turns
        return self.norms[10](relu(self.dense[0](self.norms[9](pooled_BC))))

    def layer(self, i: int, x_BNM: Tensor) -> Tensor:
        """(B, N, M) -> (B, N, C): convolution, norm, and the highest over the bands that are left.

        The highest is taken before the norm, on a tensor that is smaller by the number of bands: a norm keeps the order
        of values, or turns it where its factor is negative, and so do the convolution's weights with its sign.
        """
        frames, norm = KERNELS[i][0], self.norms[i + 1]
        weight, bias = (self.convs[i].get_parameter(name) for name in ("weight", "bias"))
        padded_B1NM = pad(x_BNM[:, None], (0, 0, (frames - 1) // 2, frames // 2))
        sign_C1 = torch.where(norm.get_parameter("weight") < 0, -1.0, 1.0)[:, None]
        turned_BCNM = conv2d(padded_B1NM, weight * sign_C1[..., None, None], bias * sign_C1[:, 0])
        return norm(relu(turned_BCNM.amax(-1) * sign_C1)).mT


@lru_cache
def _mel_filters(device: torch.device) -> Tensor:
    """(F, M): Slaney's scale and norm, 0 to 8 kHz."""
    with torch.inference_mode(False):
        return melscale_fbanks(
            N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, NUM_MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        ).to(device)


def log_mel(wave_BT: Tensor) -> Tensor:
    """(B, T) at 16 kHz -> (B, T / 256 + 1, 96): log10(10000 x + 1) of the power in mel bands, reflected at the ends.

    The package rounds x to float16 before it multiplies, which overflows on loud tones; here it stays float32.
    """
    window_T = torch.hann_window(N_FFT, device=wave_BT.device)
    power_BFN = torch.stft(wave_BT, N_FFT, HOP, window=window_T, return_complex=True).abs().square()
    return torch.log10(10_000 * (power_BFN.mT @ _mel_filters(wave_BT.device)) + 1)
