"""The multi-scale residual quantizer: one loop, five operations on it.

VAR (arXiv 2404.02905, algorithms 1 and 2), with (h, w) scales, and, as options, a codebook for each scale, product
branches (ImageFolder, arXiv 2410.01756), SimVQ (arXiv 2411.02038) and the rotation trick (arXiv 2410.06424).
The last scale's codes are fitted to one another (fitting.py), unless each token's nearest is asked for.
Always in float32: bf16 flips nearest neighbours.
Suffixes: B batch, C code width over all branches, P branches, c code width of one branch, h w the latent grid, k a
scale's tokens, kP its codes (a token has P codes side by side), L codes over all scales, i j the window of phi, V
codebook size, N codebooks of a branch, R rows of all codebooks: of each scale's (or the one shared by all), of each
branch's, V.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.config import CodebookConfig, TokenizerConfig
from mars_dist.devices import full_float32
from mars_dist.fitting import fit, look_up
from mars_dist.layers import drawn, grow, shrink

NUM_PHI = 4


class Quantized(NamedTuple):
    """What the quantizer makes of latents in training."""

    f_hat_BChw: Tensor
    """The quantised latents; gradients pass through to the encoder."""
    loss: Tensor
    codes_BL: Tensor
    residuals_BLc: Tensor
    """The vectors that were looked up, code by code: what a dead code is restarted from."""


class MultiScaleQuantizer(nn.Module):
    """Latents (B, C, h, w) <-> codes (B, L), coarse to fine."""

    def __init__(self, config: TokenizerConfig, settings: CodebookConfig | None = None) -> None:
        """`settings` matter in training alone."""
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.settings = settings or CodebookConfig()
        width = config.code_width // config.branches
        self.codebook_Rc = nn.Parameter(drawn(config.num_codebooks * config.branches * config.codebook_size, width))
        self.projection = nn.Linear(width, width, bias=False) if config.codebook_projection else None
        if self.projection is not None:
            nn.init.eye_(self.projection.weight)
        tick_of_scale = [nearest_tick(k, len(self.schedule)) for k in range(len(self.schedule))]
        ticks = sorted(set(tick_of_scale))
        self.phi_of_scale = [ticks.index(tick) for tick in tick_of_scale]
        convolution = (config.code_width, config.code_width, 3)
        self.phi = nn.ModuleList(nn.Conv2d(*convolution, padding=1, groups=config.branches) for _ in ticks)

    def forward(self, f_BChw: Tensor, num_scales_B: Tensor | None = None) -> Quantized:
        """Quantise for training: codebook and commitment loss on the running sum.

        `num_scales_B`: quantizer dropout: how many scales of each sample count; the chain of residuals goes on.
        """
        f_BChw = f_BChw.float()
        kept_BChw, loss = torch.zeros_like(f_BChw), f_BChw.new_zeros(())
        codes, residuals = [], []

        def choose(k: int, f_hat_BChw: Tensor) -> Tensor:
            residuals.append(self.residual(k, f_BChw, f_hat_BChw))
            return self.chosen(k, residuals[-1])

        for k, (codes_BkP, f_hat_BChw) in enumerate(self.walk(choose, len(f_BChw))):
            codes.append(codes_BkP)
            counts_B = f_BChw.new_ones(len(f_BChw)) if num_scales_B is None else (k < num_scales_B).float()
            kept_BChw = torch.where(counts_B[:, None, None, None] > 0, f_hat_BChw, kept_BChw)
            loss = loss + (counts_B * mse_of_each(f_hat_BChw, f_BChw.detach())).mean()
            loss = loss + self.settings.commitment * (counts_B * mse_of_each(f_BChw, f_hat_BChw.detach())).mean()
        rotated = self.settings.gradient == "rotation"
        return Quantized(
            f_hat_BChw=rotate(f_BChw, kept_BChw) if rotated else f_BChw + (kept_BChw - f_BChw).detach(),
            loss=loss / len(self.schedule),
            codes_BL=torch.cat(codes, dim=1),
            residuals_BLc=torch.cat([self.by_branch(z_BkC).flatten(1, 2) for z_BkC in residuals], dim=1),
        )

    def walk(self, choose: Callable[[int, Tensor], Tensor], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The loop: at each scale k, `choose(k, f_hat so far)` gives the codes (B, kP); yields both, f_hat renewed."""
        f_hat_BChw = self.codebook_Rc.new_zeros(batch, self.config.code_width, *self.schedule.latent_grid)
        for k in range(len(self.schedule)):
            codes_BkP = choose(k, f_hat_BChw)
            f_hat_BChw = self.add_scale(k, f_hat_BChw, codes_BkP)
            yield codes_BkP, f_hat_BChw

    def encode(self, f_BChw: Tensor) -> Tensor:
        """Latents -> codes (B, L)."""
        f_BChw = f_BChw.float()
        choose = lambda k, f_hat_BChw: self.chosen(k, self.residual(k, f_BChw, f_hat_BChw))  # noqa: E731
        return torch.cat([codes_BkP for codes_BkP, _ in self.walk(choose, len(f_BChw))], dim=1)

    def decode(self, codes_BL: Tensor) -> Tensor:
        """Codes (B, L) -> f_hat (B, C, h, w)."""
        *_, (_, f_hat_BChw) = self.walk(self.follow(codes_BL), len(codes_BL))
        return f_hat_BChw

    def next_inputs(self, codes_BL: Tensor) -> Tensor:
        """Codes -> the autoregressor's teacher-forcing input (B, tokens of all scales but the first, C)."""
        return self.inputs_along(self.follow(codes_BL), len(codes_BL))

    def inputs_along(self, choose: Callable[[int, Tensor], Tensor], batch: int) -> Tensor:
        """On a walk, f_hat before each scale but the first, at its size."""
        inputs = [self.codebook_Rc.new_zeros(batch, 0, self.config.code_width)]
        for k, (_, f_hat_BChw) in enumerate(self.walk(choose, batch), start=1):
            if k < len(self.schedule):
                inputs.append(self.next_input(k, f_hat_BChw))
        return torch.cat(inputs, dim=1)

    @full_float32()
    def add_scale(self, k: int, f_hat_BChw: Tensor, codes_BkP: Tensor) -> Tensor:
        """One step of sampling: f_hat with the detail that the codes of scale k stand for."""
        codebook_PVc = self.codebook(k)
        detail_BkC = look_up(codes_BkP.unflatten(-1, (-1, len(codebook_PVc))), codebook_PVc).flatten(2)
        detail_BChw = grow(detail_BkC.transpose(1, 2).unflatten(-1, self.schedule.sizes[k]), self.schedule.latent_grid)
        phi = self.phi[self.phi_of_scale[k]]
        return f_hat_BChw + 0.5 * detail_BChw + 0.5 * phi(detail_BChw)

    def next_input(self, k: int, f_hat_BChw: Tensor) -> Tensor:
        """What the autoregressor is shown of f_hat when it predicts scale k: (B, k, C)."""
        return shrink(f_hat_BChw, self.schedule.sizes[k]).flatten(2).transpose(1, 2)

    def residual(self, k: int, f_BChw: Tensor, f_hat_BChw: Tensor) -> Tensor:
        """What is still missing, at the size of scale k: (B, k, C), without gradient."""
        return self.next_input(k, f_BChw.detach() - f_hat_BChw.detach())

    def chosen(self, k: int, z_BkC: Tensor) -> Tensor:
        """The codes (B, kP) for what is missing: the nearest ones, of the last scale fitted to one another."""
        return self.fitted(k, z_BkC, self.nearest(k, z_BkC))

    def fitted(self, k: int, z_BkC: Tensor, codes_BkP: Tensor) -> Tensor:
        """The codes (B, kP) as they are, but those of the last scale fitted to one another."""
        if k < len(self.schedule) - 1 or self.config.last_scale == "nearest":
            return codes_BkP
        grid, phi = tuple(self.schedule.latent_grid), self.phi[self.phi_of_scale[k]]
        missing_BChw = z_BkC.transpose(1, 2).unflatten(-1, grid)
        codes_BhwP = codes_BkP.unflatten(1, (*grid, self.config.branches))
        weight_Ccij, bias_C = phi.get_parameter("weight"), phi.get_parameter("bias")
        return fit(missing_BChw, codes_BhwP, self.codebook(k), weight_Ccij, bias_C).flatten(1)

    def nearest(self, k: int, z_BkC: Tensor) -> Tensor:
        """For each token and branch the index of the Euclidean nearest code: (B, kP)."""
        return self.distance(k, z_BkC).argmin(-1)

    def nearest_several(self, k: int, z_BkC: Tensor, num: int) -> Tensor:
        """The indices of the nearest codes, nearest first: (B, kP, num)."""
        return self.distance(k, z_BkC).topk(num, largest=False).indices

    def distance(self, k: int, z_BkC: Tensor) -> Tensor:
        """Squared distance to every code, less a constant for each z: (B, kP, V)."""
        codebook_PVc = self.codebook(k).detach()
        product_BkPV = torch.einsum("bkpc,pvc->bkpv", self.by_branch(z_BkC), codebook_PVc)
        return (codebook_PVc.square().sum(-1) - 2 * product_BkPV).flatten(1, 2)

    def follow(self, codes_BL: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A choice for `walk`: the codes that are already known."""
        return lambda k, _: codes_BL[:, self.config.code_spans[k]].long()

    def codebook(self, k: int) -> Tensor:
        """The codes of scale k as they are looked up: (P, V, c)."""
        books_NPVc = self.codebook_Rc.unflatten(0, (-1, self.config.branches, self.config.codebook_size))
        codebook_PVc = books_NPVc[k if len(books_NPVc) > 1 else 0]
        if self.projection is None:
            return codebook_PVc
        # SimVQ: only the projection learns. (A gradient of 0, since what has none cannot be checkpointed.)
        frozen_PVc = codebook_PVc.detach() + 0 * codebook_PVc
        projected_PVc: Tensor = self.projection(frozen_PVc)
        return projected_PVc

    def by_branch(self, z_BkC: Tensor) -> Tensor:
        """(B, k, C) -> (B, k, P, c)."""
        return z_BkC.unflatten(-1, (self.config.branches, -1))


def mse_of_each(a_BChw: Tensor, b_BChw: Tensor) -> Tensor:
    """(B,): the mean squared difference of each sample."""
    return (a_BChw - b_BChw).square().mean(dim=(1, 2, 3))


def rotate(f_BChw: Tensor, to_BChw: Tensor) -> Tensor:
    """`to`, reached from f by a rotation and a scaling that count as constants (arXiv 2410.06424, section 4.2).

    So gradients at `to` are turned with it on their way to f, instead of being copied.
    """
    f_norm, to_norm = (x.detach().norm(dim=1, keepdim=True).clamp(min=1e-6) for x in (f_BChw, to_BChw))
    from_unit, to_unit = f_BChw.detach() / f_norm, to_BChw.detach() / to_norm
    half_way = F.normalize(from_unit + to_unit, dim=1)
    along = lambda unit: (unit * f_BChw).sum(1, keepdim=True)  # noqa: E731
    return to_norm / f_norm * (f_BChw - 2 * half_way * along(half_way) + 2 * to_unit * along(from_unit))


def nearest_tick(k: int, num_scales: int) -> int:
    """Which of four convolutions serves scale k: that of the tick from 1/12 to 11/12 nearest to k / (K - 1)."""
    place = k / (num_scales - 1) if num_scales > 1 else 0.0
    ticks = [1 / 12 + i * (10 / 12) / (NUM_PHI - 1) for i in range(NUM_PHI)]
    return min(range(NUM_PHI), key=lambda i: abs(place - ticks[i]))
