"""What is trained: shapes of networks."""

from dataclasses import dataclass
from typing import Literal

from mars_dist.config.checks import require_depth, require_not_negative, require_positive
from mars_dist.config.spectrogram import SpectrogramConfig
from mars_dist.scales import ScaleSchedule, Size

LEAST_CODE_WIDTH = 3
"""Of a branch: one channel is always 0 after normalisation, of two there is only a sign."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Encoder, multi-scale residual quantizer and decoder."""

    patch: Size = Size(4, 4)
    """Cells of the multiplexed picture in a patch."""
    scales: tuple[Size, ...] = (Size(1, 1), Size(2, 2), Size(3, 3), Size(4, 4), Size(6, 6), Size(8, 8))
    """Coarse to fine; the last one is the latent grid."""
    codebook_size: int = 1024
    """V."""
    code_width: int = 16
    """C_vae, the width of a code."""
    width: int = 192
    """D of encoder and decoder."""
    depth: int = 4
    """Blocks in the encoder, and in the decoder."""
    head_width: int = 64
    latents: Literal["aligned", "free"] = "aligned"
    """aligned: a latent token starts from the patch at its own place, a query from the latent at its own; free: from
    what it has learnt alone (the paper's)."""
    stem: int = 0
    """Residual convolutions on the multiplexed picture before the encoder, and as many behind the decoder."""
    codebooks: Literal["shared", "per_scale"] = "shared"
    """shared: one codebook for all scales (the paper's)."""
    branches: int = 1
    """P: product quantisation; each token has so many codes, each from a codebook of its own (ImageFolder)."""
    last_scale: Literal["fitted", "nearest"] = "fitted"
    """How the codes of the last scale are chosen: fitted to one another, or each token's nearest (VAR's)."""
    codebook_projection: bool = False
    """SimVQ: the codes are a learnt linear map of fixed vectors (arXiv 2411.02038)."""

    def __post_init__(self) -> None:
        require_positive("tokenizer", self, "code_width", "width", "head_width", "branches")
        require_depth("tokenizer", self, "depth", "stem")
        _ = self.schedule  # its own checks name the rule
        if self.code_width % self.branches:
            raise ValueError(f"tokenizer.code_width: {self.code_width} is not a multiple of branches = {self.branches}")
        if self.code_width // self.branches < LEAST_CODE_WIDTH:
            raise ValueError(
                f"tokenizer.code_width: {self.code_width} leaves each of {self.branches} branches fewer than "
                f"{LEAST_CODE_WIDTH} channels, of which normalised latents keep nothing: choose a wider one"
            )
        if self.width % self.head_width:
            raise ValueError(f"tokenizer.width: {self.width} is not a multiple of head_width = {self.head_width}")
        if not 2 <= self.codebook_size <= 65_536:
            raise ValueError(f"tokenizer.codebook_size: {self.codebook_size} must lie between 2 and 65536")

    @property
    def schedule(self) -> ScaleSchedule:
        return ScaleSchedule(self.scales)

    @property
    def num_codebooks(self) -> int:
        """For each branch."""
        return len(self.scales) if self.codebooks == "per_scale" else 1

    @property
    def num_codes(self) -> int:
        """The codes of a note, over all scales and branches."""
        return self.branches * self.schedule.num_tokens

    @property
    def code_spans(self) -> tuple[slice, ...]:
        """For each scale, where its codes lie among a note's."""
        return tuple(slice(self.branches * s.start, self.branches * s.stop) for s in self.schedule.spans)

    def patch_grid(self, spectrogram: SpectrogramConfig) -> Size:
        """(h_p, w_p). Raises ValueError where the patch does not divide the picture."""
        _, h, w = spectrogram.picture_shape
        if h % self.patch.h or w % self.patch.w:
            raise ValueError(
                f"tokenizer.patch: {self.patch} does not divide the {h}x{w} picture after CMX: choose a patch that does"
            )
        return Size(h // self.patch.h, w // self.patch.w)

    def require_latents_to_fit(self, spectrogram: SpectrogramConfig) -> None:
        """Raises ValueError where the patch does not divide the picture, and where aligned latents are finer than the
        patches and not as many for each of them."""
        patches, latents = self.patch_grid(spectrogram), self.schedule.latent_grid
        uneven = any(fine > coarse and fine % coarse for fine, coarse in zip(latents, patches, strict=True))
        if self.latents == "aligned" and uneven:
            raise ValueError(
                f"tokenizer.scales: the last scale, {latents}, is the latent grid, and the picture has {patches} "
                f"patches: where it is finer than they are it must be a multiple of them: end the schedule at {patches}"
            )


@dataclass(frozen=True)
class AutoregressorConfig:
    """The next-scale transformer. Scales and codebook size are the tokenizer's."""

    width: int = 192
    depth: int = 4
    head_width: int = 64
    positions: Literal["learned", "rotary", "both"] = "learned"
    """learned: one for each token, added to it. rotary: rows and columns in cells of the latent grid turn queries and
    keys (Infinity, arXiv 2412.04431), so that attention sees how far apart two tokens are, but not where."""
    modulation: Literal["shared", "own"] = "shared"
    """Whether all blocks share one projection of the condition (AdaLN), or each has its own (VAR's)."""
    scale_weight: float = 0.5
    """A scale of n tokens has n**scale_weight of the loss: 1 every token alike, 0.5 Infinity's, 0 every scale alike."""
    drop_path: float = 0.0
    """Probability that a sample skips the last block; earlier blocks proportionally less."""
    condition_on_instrument: bool = False
    """Condition on the training split's instruments besides pitch, velocity, family and source."""
    condition_on_qualities: bool = False
    """Condition on NSynth's ten qualities too."""
    drop_all_conditions: float = 0.1
    drop_each_condition: float = 0.1
    corrupt_codes: float = 0.0
    """Self-correction: the largest share of codes swapped for near ones in the input (Infinity, arXiv 2412.04431)."""

    def __post_init__(self) -> None:
        require_positive("autoregressor", self, "width", "depth", "head_width")
        require_depth("autoregressor", self, "depth")
        for name in ("drop_path", "drop_all_conditions", "drop_each_condition", "corrupt_codes"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"autoregressor.{name}: {getattr(self, name)} must be at least 0 and below 1")
        if self.width % self.head_width:
            raise ValueError(f"autoregressor.width: {self.width} is not a multiple of head_width = {self.head_width}")
        if self.positions != "learned" and self.head_width % 4:
            raise ValueError(
                f"autoregressor.head_width: {self.head_width} must be a multiple of 4 with rotary positions"
            )


@dataclass(frozen=True)
class ClassifierConfig:
    """The classifier of pitch and family."""

    frames: int = 16
    """Even spans of time that a picture is averaged over: pitch and timbre lie along frequency."""
    width: int = 32
    """Channels of the first convolution; the second has twice as many."""
    features: int = 128
    """Width of each head's hidden layer, whose activations are what PKID and IKID compare."""
    transpose: int = 4
    """In training each note is moved up or down by at most so many semitones, and its pitch with it; 0: none is."""

    def __post_init__(self) -> None:
        require_positive("classifier", self, "frames", "width", "features")
        require_not_negative("classifier", self, "transpose")
