"""All settings of a run, and what must hold between them."""

from dataclasses import dataclass, field, fields

from mars_dist.config.models import AutoregressorConfig, ClassifierConfig, TokenizerConfig
from mars_dist.config.spectrogram import SpectrogramConfig
from mars_dist.config.training import (
    FEWEST_SCALES,
    AdversaryConfig,
    CodebookConfig,
    OptimConfig,
    ReconstructionLossConfig,
    TrainConfig,
)


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
        self.tokenizer.require_latents_to_fit(self.spectrogram)
        if not any(getattr(self.loss, term.name) for term in fields(self.loss)):
            raise ValueError("loss: every weight is 0, so nothing would be learnt: choose one above 0, such as l2")
        if self.codebook.start_step >= self.train.steps:
            raise ValueError(
                f"codebook.start_step: {self.codebook.start_step} is not before the last of train.steps = "
                f"{self.train.steps}, so that there would be no codebook: choose fewer (0 in fine-tuning by "
                "--init-from, which has one), or more steps"
            )
        if self.codebook.dropout and len(self.tokenizer.scales) <= FEWEST_SCALES:
            raise ValueError(
                f"codebook.dropout: {self.codebook.dropout} keeps the first {FEWEST_SCALES} scales or more, and there "
                f"are {len(self.tokenizer.scales)}: choose 0, or more scales"
            )
        smallest = min(self.spectrogram.num_bins, self.spectrogram.num_frames)
        if self.adversary.resolutions > smallest.bit_length():
            raise ValueError(
                f"adversary.resolutions: {self.adversary.resolutions} halve the picture's {smallest} cells to nothing: "
                f"choose at most {smallest.bit_length()}"
            )

    @property
    def judged_by(self) -> str | None:
        """The figure of validation that the best weights have the least of; None where the newest are the best: an
        adversary gives up squared error for sharpness."""
        return None if self.adversary.weight else "mse"


@dataclass(frozen=True)
class AutoregressorRunConfig:
    """All that `mars train-ar` needs, besides a tokenizer's folder."""

    autoregressor: AutoregressorConfig = field(default_factory=AutoregressorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def judged_by(self) -> str:
        """The loss: it weighs scales as training does, and coarse ones decide what note it is."""
        return "loss"


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

    @property
    def judged_by(self) -> str:
        """Cross-entropy: inception scores read the probabilities, and accuracies are soon all alike."""
        return "cross_entropy"
