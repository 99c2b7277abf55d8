"""Every setting, as frozen dataclasses that check themselves. Imports neither torch nor ray.

Derived numbers are properties, never fields. A check names the field, the value, the rule and the fix.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

from mars_dist.scales import ScaleSchedule, Size

Precision = Literal["float32", "bf16"]
FEWEST_SCALES = 3
"""That quantizer dropout leaves (VAR)."""
DEEPEST = 1000
LEAST_CODE_WIDTH = 3
"""Of a branch: one channel is always 0 after normalisation, of two there is only a sign."""


def require_positive(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for the first of the fields that is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must be above 0")


def require_depth(section: str, depth: int) -> None:
    """Raises ValueError for more blocks than anyone trains; settings may come from anywhere."""
    if not 0 <= depth <= DEEPEST:
        raise ValueError(f"{section}.depth: {depth} must lie between 0 and {DEEPEST}")


def require_share(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for the first of the fields that is no share of 1."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must lie between 0 and 1")


def require_not_negative(section: str, settings: object, *names: str) -> None:
    """Raises ValueError for the first of the fields that is below 0."""
    for name in names:
        if not getattr(settings, name) >= 0:
            raise ValueError(f"{section}.{name}: {getattr(settings, name)} must be 0 or more")


@dataclass(frozen=True)
class SpectrogramConfig:
    """How a waveform becomes a picture."""

    sample_rate: int = 16_000
    """Hz."""
    num_samples: int = 64_000
    """Length of a note in samples."""
    n_fft: int = 1024
    """Window and transform length of the STFT, in samples."""
    hop: int = 250
    """Samples between two frames."""
    cmx: Size = Size(16, 8)
    """Channel multiplexing factors, frequency x time."""

    def __post_init__(self) -> None:
        if self.n_fft < 16 or self.n_fft % 2:
            raise ValueError(f"spectrogram.n_fft: {self.n_fft} must be even and at least 16")
        if not 0 < self.hop <= self.n_fft:
            raise ValueError(
                f"spectrogram.hop: {self.hop} must lie between 1 and n_fft = {self.n_fft}, or frames leave gaps"
            )
        if self.num_samples % self.hop:
            raise ValueError(
                f"spectrogram.hop: {self.hop} does not divide num_samples = {self.num_samples}: choose a hop that does"
            )
        if self.num_bins % self.cmx.h or self.num_frames % self.cmx.w:
            raise ValueError(
                f"spectrogram.cmx: {self.cmx} does not divide the {self.num_bins}x{self.num_frames} spectrogram: "
                "choose factors that divide it"
            )

    @property
    def num_bins(self) -> int:
        """F: the Nyquist bin is dropped."""
        return self.n_fft // 2

    @property
    def num_frames(self) -> int:
        """N: the last frame is dropped."""
        return self.num_samples // self.hop

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after CMX."""
        return self.cmx.area, self.num_bins // self.cmx.h, self.num_frames // self.cmx.w


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
    codebook_projection: bool = False
    """SimVQ: the codes are a learnt linear map of fixed vectors (arXiv 2411.02038)."""

    def __post_init__(self) -> None:
        require_positive("tokenizer", self, "code_width", "width", "head_width", "branches")
        require_not_negative("tokenizer", self, "stem")
        require_depth("tokenizer", self.depth)
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


@dataclass(frozen=True)
class AutoregressorConfig:
    """The next-scale transformer. Scales and codebook size are the tokenizer's."""

    width: int = 192
    depth: int = 4
    head_width: int = 64
    positions: Literal["learned", "rotary"] = "learned"
    """rotary: rows and columns in cells of the latent grid turn queries and keys (Infinity, arXiv 2412.04431)."""
    modulation: Literal["shared", "own"] = "shared"
    """Whether all blocks share one projection of the condition (AdaLN), or each has its own (VAR's)."""
    scale_weight: float = 1.0
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
        require_depth("autoregressor", self.depth)
        for name in ("drop_path", "drop_all_conditions", "drop_each_condition", "corrupt_codes"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"autoregressor.{name}: {getattr(self, name)} must be at least 0 and below 1")
        if self.width % self.head_width:
            raise ValueError(f"autoregressor.width: {self.width} is not a multiple of head_width = {self.head_width}")
        if self.positions == "rotary" and self.head_width % 4:
            raise ValueError(
                f"autoregressor.head_width: {self.head_width} must be a multiple of 4 with rotary positions"
            )


@dataclass(frozen=True)
class ReconstructionLossConfig:
    """Weights of the terms of the tokenizer's loss; a term with weight 0 is not computed."""

    l1: float = 0.2
    l2: float = 10.0
    spectral_convergence: float = 0.1
    multi_resolution: float = 0.0
    mel: float = 0.0
    delta: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("loss", self, *(term.name for term in fields(self)))


@dataclass(frozen=True)
class CodebookConfig:
    """How the codebook is born, learns and is kept alive."""

    start_step: int = 200
    """Steps without the quantizer; then the codebook is drawn from residuals of encoder outputs. 0: it is random."""
    restart_every: int = 50
    """Steps between two restarts of dead codes; 0: none."""
    dead_share: float = 0.25
    """A code that was looked up less often than this share of the mean of its codebook is dead. The greater, the more
    evenly codes are used: docs/log.md."""
    restart_until: float = 0.8
    """Share of training after which no code is restarted."""
    commitment: float = 0.25
    """Weight of the commitment term within the quantizer's loss."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """How gradients pass the quantizer; rotation: arXiv 2410.06424."""
    dropout: float = 0.0
    """Quantizer dropout: share of notes of which only some of the first scales are used."""

    def __post_init__(self) -> None:
        require_not_negative("codebook", self, "start_step", "restart_every", "commitment")
        require_share("codebook", self, "dead_share", "restart_until", "dropout")


@dataclass(frozen=True)
class AdversaryConfig:
    """The discriminator that the tokenizer's pictures are to deceive."""

    weight: float = 0.0
    """Size of its gradient at the picture, as a share of the reconstruction's; 0: no adversary."""
    start: float = 0.25
    """Share of training after which it takes part."""
    feature_matching: float = 2.0
    """Weight of the distance between its features, beside that of its judgement."""
    width: int = 16
    """Channels of its convolutions."""
    resolutions: int = 3
    """It looks at the picture whole, at half and at a quarter of the resolution, and so on."""

    def __post_init__(self) -> None:
        require_positive("adversary", self, "width", "resolutions")
        require_not_negative("adversary", self, "weight", "feature_matching")
        require_share("adversary", self, "start")


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


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a warm-up and a decay."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest gradient norm."""
    warmup_steps: int = 100
    decay: Literal["cosine", "linear"] = "cosine"
    """cosine: from the warm-up to the end; linear: over the last half."""
    final_lr: float = 0.0
    """Share of lr left at the end."""
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is saved and sampled from."""

    def __post_init__(self) -> None:
        require_positive("optim", self, "lr", "clip")
        require_not_negative("optim", self, "weight_decay", "warmup_steps")
        require_share("optim", self, "final_lr", "ema")


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    batch_size: int = 16
    """Global: all workers together."""
    seed: int = 0
    precision: Precision = "bf16"
    shuffle_rows: int = 1024
    """Rows held in memory by each worker and shuffled among each other."""
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: int = 200
    validation_rows: int = 128
    accumulate: int = 1
    """Parts of its rows that a worker computes one after another: less memory for activations, the same step."""
    replicas: int = 1
    """Whole copies of the model among the workers, such as one a node, each sharded over its own of them (HSDP)."""
    recompute: bool = False
    """Compute the blocks' activations again for the backward pass instead of keeping them: less memory, more time."""
    patience: int = 0
    """Early stopping: validations in a row without a better one after which training ends; 0: it never does."""

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "batch_size",
            "shuffle_rows",
            "log_every",
            "checkpoint_every",
            "validate_every",
            "validation_rows",
            "accumulate",
            "replicas",
        )
        require_positive("train", self, *counts)
        require_not_negative("train", self, "patience", "seed")


@dataclass(frozen=True)
class TokenizerRunConfig:
    """All that `mars train-tokenizer` needs."""

    spectrogram: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    loss: ReconstructionLossConfig = field(default_factory=ReconstructionLossConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        self.tokenizer.patch_grid(self.spectrogram)
        if not any(getattr(self.loss, term.name) for term in fields(self.loss)):
            raise ValueError("loss: every weight is 0, so nothing would be learnt: choose one above 0, such as l2")
        if self.codebook.start_step >= self.train.steps:
            raise ValueError(
                f"codebook.start_step: {self.codebook.start_step} is not before the last of train.steps = "
                f"{self.train.steps}, so that there would be no codebook: choose fewer, or more steps"
            )
        if self.codebook.dropout and len(self.tokenizer.scales) <= FEWEST_SCALES:
            raise ValueError(
                f"codebook.dropout: {self.codebook.dropout} keeps the first {FEWEST_SCALES} scales or more, and there "
                f"are {len(self.tokenizer.scales)}: choose 0, or more scales"
            )
        smallest = min(self.spectrogram.num_bins, self.spectrogram.num_frames)
        if 2 ** (self.adversary.resolutions - 1) > smallest:
            raise ValueError(
                f"adversary.resolutions: {self.adversary.resolutions} halve the picture's {smallest} cells to nothing: "
                f"choose at most {smallest.bit_length()}"
            )


@dataclass(frozen=True)
class AutoregressorRunConfig:
    """All that `mars train-ar` needs, besides a tokenizer's folder."""

    autoregressor: AutoregressorConfig = field(default_factory=AutoregressorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class ClassifierRunConfig:
    """All that `mars train-classifier` needs; the spectrogram's settings are the data set's."""

    spectrogram: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, weight_decay=0.05, warmup_steps=50, ema=0.99)
    )
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=500,
            batch_size=64,
            precision="float32",
            shuffle_rows=8192,
            log_every=50,
            checkpoint_every=250,
            validate_every=250,
            validation_rows=1024,
        )
    )

    def __post_init__(self) -> None:
        if self.classifier.frames > self.spectrogram.num_frames:
            raise ValueError(
                f"classifier.frames: {self.classifier.frames} is more than the picture's {self.spectrogram.num_frames} "
                "frames: choose at most so many"
            )
