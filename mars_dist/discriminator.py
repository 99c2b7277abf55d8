"""The discriminator: is this patch of a picture from a real note?

EnCodec's multi-scale STFT discriminator (arXiv 2210.13438, section 3.4), for the pictures that the tokenizer makes.
Suffixes: B batch, F frequency bins, N frames, D channels, f n a coarser grid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from mars_dist.config import AdversaryConfig

SLOPE = 0.2
Features = list[list[Tensor]]
"""For each resolution the features (B, D, f, n), the last of which are the logits (B, 1, f, n)."""


class Discriminator(nn.Module):
    """The un-multiplexed picture at several resolutions, each seen by patch convolutions of its own."""

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.views = nn.ModuleList(PatchDiscriminator(config.width) for _ in range(config.resolutions))

    def forward(self, x_B1FN: Tensor) -> Features:
        return [view(F.avg_pool2d(x_B1FN, 2**i)) for i, view in enumerate(self.views)]


class PatchDiscriminator(nn.Module):
    """Convolutions that see ever more of the frequency axis, along which a note's harmonics lie."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolution = lambda *sizes, **how: weight_norm(nn.Conv2d(*sizes, **how))  # noqa: E731
        self.layers = nn.ModuleList(
            [
                convolution(2, width, (9, 3), stride=(2, 2), padding=(4, 1)),
                convolution(width, width, (9, 3), stride=(2, 1), padding=(4, 1)),
                convolution(width, width, (9, 3), stride=(2, 1), padding=(4, 2), dilation=(1, 2)),
                convolution(width, width, 3, padding=1),
            ]
        )
        self.to_logit = convolution(width, 1, 3, padding=1)

    def forward(self, x_B1FN: Tensor) -> list[Tensor]:
        # Pictures of sound look different at each height: a second channel says where a cell lies.
        height_F1 = torch.linspace(-1, 1, x_B1FN.shape[2], device=x_B1FN.device, dtype=x_B1FN.dtype)[:, None]
        x_BDfn = torch.cat([x_B1FN, height_F1.expand_as(x_B1FN)], dim=1)
        features = []
        for layer in self.layers:
            x_BDfn = F.leaky_relu(layer(x_BDfn), SLOPE)
            features.append(x_BDfn)
        return [*features, self.to_logit(x_BDfn)]


def discriminator_loss(real: Features, fake: Features) -> Tensor:
    """Hinge: real patches above 1, made ones below -1; mean over patches and resolutions."""
    pairs = [(F.relu(1 - r[-1]).mean() + F.relu(1 + f[-1]).mean()) for r, f in zip(real, fake, strict=True)]
    return torch.stack(pairs).mean()


def generator_loss(fake: Features) -> Tensor:
    """Hinge (linear, arXiv 1705.02894): made patches should be judged high."""
    return torch.stack([-f[-1].mean() for f in fake]).mean()


def feature_distance(real: Features, fake: Features) -> Tensor:
    """Feature matching: mean absolute difference of features, as a share of the real ones' size in each sample."""
    shares = [
        ((a - b).abs().flatten(1).mean(1) / b.abs().flatten(1).mean(1).clamp(min=1e-6)).mean()
        for f, r in zip(fake, real, strict=True)
        for a, b in zip(f[:-1], r[:-1], strict=True)
    ]
    return torch.stack(shares).mean()
