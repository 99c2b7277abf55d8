"""The tokenizer: picture -> latents -> codes -> picture.

A transformer encoder with latent tokens and its mirror image as decoder (ImageFolder's shape, arXiv 2410.01756;
"aligned": a latent token starts from the patch at its own place, a query token from the latent at its own place).
Suffixes: B batch, C channels after CMX, H W the picture, P patches, S latent tokens, D width, h w the latent
grid, L codes over all scales; in f_BSPc P is product branches and c the code width of one.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mars_dist.config import CodebookConfig, SpectrogramConfig, TokenizerConfig
from mars_dist.devices import full_float32
from mars_dist.layers import Blocks, drawn, grow, init_transformer, shrink
from mars_dist.quantizer import MultiScaleQuantizer, Quantized
from mars_dist.scales import Size

GAIN = 4.0
"""Encoder and decoder see silence as 0 and the rest at about unit size: a common -1 would drown what differs."""


class Reconstruction(NamedTuple):
    """A picture that went through the tokenizer. (A tuple, so that FSDP finds the tensors in it.)"""

    picture_BCHW: Tensor
    latents_BChw: Tensor
    quantized: Quantized


class Tokenizer(nn.Module):
    """Multiplexed picture (B, C, H, W) <-> codes (B, L)."""

    def __init__(
        self, config: TokenizerConfig, spectrogram: SpectrogramConfig, codebook: CodebookConfig | None = None
    ) -> None:
        """`codebook` matters in training alone."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, spectrogram)
        self.quantizer = MultiScaleQuantizer(config, codebook)
        self.decoder = Decoder(config, spectrogram)

    def forward(self, x_BCHW: Tensor, bypass: bool = False, num_scales_B: Tensor | None = None) -> Reconstruction:
        """Reconstruct. With `bypass` the decoder sees the latents as they were before the quantizer.

        `num_scales_B`: how many scales of each sample are used; all where it is None.
        """
        f_BChw = self.latents(x_BCHW)
        quantized = self.quantizer(f_BChw, num_scales_B)
        y_BCHW = self.picture(f_BChw if bypass else quantized.f_hat_BChw)
        return Reconstruction(y_BCHW, f_BChw, quantized)

    @full_float32()
    def latents(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> latents (B, C_vae, h, w)."""
        return self.encoder((x_BCHW + 1) * GAIN)

    def picture(self, f_BChw: Tensor) -> Tensor:
        """Latents (B, C_vae, h, w) -> (B, C, H, W)."""
        return self.decoder(f_BChw) / GAIN - 1

    def encode(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> codes (B, L)."""
        return self.quantizer.encode(self.latents(x_BCHW))

    def decode(self, codes_BL: Tensor) -> Tensor:
        """Codes (B, L) -> (B, C, H, W)."""
        return self.picture(self.quantizer.decode(codes_BL))


class Encoder(nn.Module):
    """(B, C, H, W) -> latents (B, C_vae, h, w), normalised over C_vae, without which the codebook dies."""

    def __init__(self, config: TokenizerConfig, spectrogram: SpectrogramConfig) -> None:
        super().__init__()
        channels, _, _ = spectrogram.picture_shape
        self.grid = config.patch_grid(spectrogram)
        self.latent_grid = config.schedule.latent_grid
        self.aligned = config.latents == "aligned"
        self.branches = config.branches
        self.patches = nn.Sequential(
            *(ResidualConvolution(channels) for _ in range(config.stem)),
            Rearrange("b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=config.patch.h, pw=config.patch.w),
            nn.Linear(channels * config.patch.area, config.width),
        )
        self.positions_PD = nn.Parameter(drawn(self.grid.area, config.width, std=0.02))
        self.latent_tokens_SD = nn.Parameter(drawn(self.latent_grid.area, config.width, std=0.02))
        self.blocks = Blocks(config.width, config.head_width, config.depth)
        self.norm = nn.LayerNorm(config.width)
        self.to_code = nn.Linear(config.width, config.code_width)
        init_transformer(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        patches_BPD = self.patches(x_BCHW) + self.positions_PD
        latents_BSD = self.latent_tokens_SD.expand(len(x_BCHW), -1, -1)
        if self.aligned:
            latents_BSD = latents_BSD + resample_tokens(patches_BPD, self.grid, self.latent_grid)
        latents_BSD = self.blocks(torch.cat([patches_BPD, latents_BSD], dim=1), slice(self.grid.area, None))
        f_BSC = self.to_code(self.norm(latents_BSD))
        f_BSPc = f_BSC.float().unflatten(-1, (self.branches, -1))
        f_BSC = F.layer_norm(f_BSPc, f_BSPc.shape[-1:]).flatten(2)
        return f_BSC.transpose(1, 2).unflatten(-1, self.latent_grid)


class Decoder(nn.Module):
    """Latents (B, C_vae, h, w) -> (B, C, H, W)."""

    def __init__(self, config: TokenizerConfig, spectrogram: SpectrogramConfig) -> None:
        super().__init__()
        channels, _, _ = spectrogram.picture_shape
        self.grid = config.patch_grid(spectrogram)
        self.latent_grid = config.schedule.latent_grid
        self.patch = config.patch
        self.aligned = config.latents == "aligned"
        self.from_code = nn.Linear(config.code_width, config.width)
        self.positions_SD = nn.Parameter(drawn(self.latent_grid.area, config.width, std=0.02))
        self.query_tokens_PD = nn.Parameter(drawn(self.grid.area, config.width, std=0.02))
        self.blocks = Blocks(config.width, config.head_width, config.depth)
        self.norm = nn.LayerNorm(config.width)
        self.to_patches = nn.Linear(config.width, channels * config.patch.area)
        self.stem = nn.Sequential(*(ResidualConvolution(channels) for _ in range(config.stem)))
        init_transformer(self)

    def forward(self, f_BChw: Tensor) -> Tensor:
        latents_BSD = self.from_code(f_BChw.flatten(2).transpose(1, 2)) + self.positions_SD
        queries_BPD = self.query_tokens_PD.expand(len(f_BChw), -1, -1)
        if self.aligned:
            queries_BPD = queries_BPD + resample_tokens(latents_BSD, self.latent_grid, self.grid)
        queries_BPD = self.blocks(torch.cat([queries_BPD, latents_BSD], dim=1), slice(self.grid.area))
        patches_BPD = self.to_patches(self.norm(queries_BPD))
        sizes = dict(zip(("h", "w", "ph", "pw"), (*self.grid, *self.patch), strict=True))
        y_BCHW = self.stem(rearrange(patches_BPD, "b (h w) (c ph pw) -> b c (h ph) (w pw)", **sizes))
        return y_BCHW.float()


class ResidualConvolution(nn.Module):
    """x + conv(gelu(conv(x))), which starts as the identity: the part that sees neighbouring cells as neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.second(F.gelu(self.first(x_BCHW)))


def resample_tokens(x_BSD: Tensor, grid: Size, to: Size) -> Tensor:
    """Tokens on one grid -> tokens on another, each from what lies at its own place."""
    if grid == to:
        return x_BSD
    x_BDhw = x_BSD.transpose(1, 2).unflatten(-1, grid)
    smaller = Size(min(grid.h, to.h), min(grid.w, to.w))
    return grow(shrink(x_BDhw, smaller), to).flatten(2).transpose(1, 2)
