"""The multi-scale residual quantizer: one codebook shared by all scales, one loop, five operations on it.

VAR (arXiv 2404.02905, algorithms 1 and 2), with (h, w) scales. Always in float32: bf16 flips nearest neighbours.
Suffixes: B batch, C code width, h w the latent grid, k a scale's grid flattened, L tokens over all scales, V codebook.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.config import TokenizerConfig
from mars_dist.layers import grow, shrink

NUM_PHI = 4


class Quantized(NamedTuple):
    """What the quantizer makes of latents in training."""

    f_hat_BChw: Tensor
    """The quantised latents; gradients pass straight through to the encoder."""
    loss: Tensor
    codes_BL: Tensor
    residuals_BLC: Tensor
    """The vectors that were looked up, scale by scale: what a dead code is restarted from."""


class MultiScaleQuantizer(nn.Module):
    """Latents (B, C, h, w) <-> codes (B, L), coarse to fine."""

    def __init__(self, config: TokenizerConfig, commitment: float = 0.25) -> None:
        super().__init__()
        self.schedule = config.schedule
        self.commitment = commitment
        # All codes are dead at first: training draws them from encoder outputs.
        self.codebook_VC = nn.Parameter(torch.zeros(config.codebook_size, config.code_width))
        tick_of_scale = [nearest_tick(k, len(self.schedule)) for k in range(len(self.schedule))]
        ticks = sorted(set(tick_of_scale))
        self.phi_of_scale = [ticks.index(tick) for tick in tick_of_scale]
        self.phi = nn.ModuleList(nn.Conv2d(config.code_width, config.code_width, 3, padding=1) for _ in ticks)

    def forward(self, f_BChw: Tensor) -> Quantized:
        """Quantise for training: straight-through output, codebook and commitment loss on the running sum."""
        f_BChw = f_BChw.float()
        loss = f_BChw.new_zeros(())
        codes, residuals = [], []

        def choose(k: int, f_hat_BChw: Tensor) -> Tensor:
            residuals.append(self.residual(k, f_BChw, f_hat_BChw))
            return self.nearest(residuals[-1])

        for codes_Bk, f_hat_BChw in self.walk(choose, f_BChw.shape[0]):
            codes.append(codes_Bk)
            loss = loss + F.mse_loss(f_hat_BChw, f_BChw.detach())
            loss = loss + self.commitment * F.mse_loss(f_BChw, f_hat_BChw.detach())
        return Quantized(
            f_hat_BChw=f_BChw + (f_hat_BChw - f_BChw).detach(),
            loss=loss / len(self.schedule),
            codes_BL=torch.cat(codes, dim=1),
            residuals_BLC=torch.cat(residuals, dim=1),
        )

    def walk(self, choose: Callable[[int, Tensor], Tensor], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The loop: at each scale k, `choose(k, f_hat so far)` gives the codes (B, k); yields both, f_hat renewed."""
        f_hat_BChw = self.codebook_VC.new_zeros(batch, self.codebook_VC.shape[1], *self.schedule.latent_grid)
        for k in range(len(self.schedule)):
            codes_Bk = choose(k, f_hat_BChw)
            f_hat_BChw = self.add_scale(k, f_hat_BChw, codes_Bk)
            yield codes_Bk, f_hat_BChw

    def encode(self, f_BChw: Tensor) -> Tensor:
        """Latents -> codes (B, L)."""
        f_BChw = f_BChw.float()
        choose = lambda k, f_hat_BChw: self.nearest(self.residual(k, f_BChw, f_hat_BChw))  # noqa: E731
        return torch.cat([codes_Bk for codes_Bk, _ in self.walk(choose, len(f_BChw))], dim=1)

    def decode(self, codes_BL: Tensor) -> Tensor:
        """Codes (B, L) -> f_hat (B, C, h, w)."""
        *_, (_, f_hat_BChw) = self.walk(self.follow(codes_BL), len(codes_BL))
        return f_hat_BChw

    def next_inputs(self, codes_BL: Tensor) -> Tensor:
        """Codes -> the autoregressor's teacher-forcing input (B, L - 1, C): f_hat before each scale, at its size."""
        steps = enumerate(self.walk(self.follow(codes_BL), len(codes_BL)), start=1)
        inputs = [self.next_input(k, f_hat_BChw) for k, (_, f_hat_BChw) in steps if k < len(self.schedule)]
        return torch.cat(inputs, dim=1) if inputs else self.codebook_VC.new_zeros(len(codes_BL), 0, self.code_width)

    def add_scale(self, k: int, f_hat_BChw: Tensor, codes_Bk: Tensor) -> Tensor:
        """One step of sampling: f_hat with the detail that the codes of scale k stand for."""
        detail_BCk = F.embedding(codes_Bk, self.codebook_VC).transpose(1, 2)
        detail_BChw = grow(detail_BCk.unflatten(-1, self.schedule.sizes[k]), self.schedule.latent_grid)
        phi = self.phi[self.phi_of_scale[k]]
        return f_hat_BChw + 0.5 * detail_BChw + 0.5 * phi(detail_BChw)

    def next_input(self, k: int, f_hat_BChw: Tensor) -> Tensor:
        """What the autoregressor is shown of f_hat when it predicts scale k: (B, h_k * w_k, C)."""
        return shrink(f_hat_BChw, self.schedule.sizes[k]).flatten(2).transpose(1, 2)

    def residual(self, k: int, f_BChw: Tensor, f_hat_BChw: Tensor) -> Tensor:
        """What is still missing, at the size of scale k: (B, h_k * w_k, C), without gradient."""
        return self.next_input(k, f_BChw.detach() - f_hat_BChw.detach())

    def nearest(self, z_BkC: Tensor) -> Tensor:
        """The index of the Euclidean nearest row of the codebook: (B, k)."""
        return self.distance(z_BkC).argmin(-1)

    def nearest_several(self, z_BkC: Tensor, num: int) -> Tensor:
        """The indices of the nearest rows, nearest first: (B, k, num)."""
        return self.distance(z_BkC).topk(num, largest=False).indices

    def distance(self, z_BkC: Tensor) -> Tensor:
        """Squared distance to every row, less a constant for each z: (B, k, V)."""
        codebook_VC = self.codebook_VC.detach()
        return codebook_VC.square().sum(1) - 2 * z_BkC @ codebook_VC.T

    def follow(self, codes_BL: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A choice for `walk`: the codes that are already known."""
        return lambda k, _: codes_BL[:, self.schedule.spans[k]].long()

    @property
    def code_width(self) -> int:
        return self.codebook_VC.shape[1]


def nearest_tick(k: int, num_scales: int) -> int:
    """Which of four convolutions serves scale k: that of the tick from 1/12 to 11/12 nearest to k / (K - 1)."""
    place = k / (num_scales - 1) if num_scales > 1 else 0.0
    ticks = [1 / 12 + i * (10 / 12) / (NUM_PHI - 1) for i in range(NUM_PHI)]
    return min(range(NUM_PHI), key=lambda i: abs(place - ticks[i]))
