"""How it is trained: losses, the codebook's care, the optimizer, the loop."""

from dataclasses import dataclass, fields
from typing import Literal

from mars_dist.config.checks import require_not_negative, require_positive, require_share

Precision = Literal["auto", "float32", "bf16"]
Recompute = Literal["nothing", "blocks"]
Optimizer = Literal["adamw", "muon"]
FEWEST_SCALES = 3
"""That quantizer dropout leaves (VAR)."""


@dataclass(frozen=True)
class ReconstructionLossConfig:
    """Weights of the terms of the tokenizer's loss; a term with weight 0 is not computed."""

    l1: float = 0.2
    l2: float = 10.0
    relative: float = 1.5
    """Squared error over the note's own mean square above silence: a sparse or quiet note counts as a full one does."""
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
    lr: float = 1e-3
    """Of its AdamW, which warms up and decays as optim.lr does."""
    width: int = 16
    """Channels of its convolutions."""
    resolutions: int = 3
    """It looks at the picture whole, at half and at a quarter of the resolution, and so on."""

    def __post_init__(self) -> None:
        require_positive("adversary", self, "lr", "width", "resolutions")
        require_not_negative("adversary", self, "weight", "feature_matching")
        require_share("adversary", self, "start")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer with a warm-up and a decay."""

    optimizer: Optimizer = "adamw"
    """muon: the weights of attention and MLP by Muon (mars_dist/training/muon.py); the rest by AdamW at the same lr."""
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
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: {' '.join(map(str, self.betas))} must each be 0 or more, and below 1")


EXECUTION = ("log_every", "checkpoint_every", "accumulate", "replicas", "recompute", "compile")
"""Settings of the loop that say how a training is computed and told, not what comes of it."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    batch_size: int = 16
    """Global: all workers together."""
    seed: int = 0
    precision: Precision = "auto"
    """auto: bf16 where the devices of all workers multiply in it, else float32."""
    shuffle_rows: int = 1024
    """Rows, about, that are shuffled among each other; a worker holds those that its slices need in memory."""
    log_every: int = 20
    checkpoint_every: int = 200
    validate_every: int = 200
    validation_rows: int = 128
    accumulate: int = 1
    """Parts of its rows that a worker computes one after another: less memory for activations, the same step."""
    replicas: int = 1
    """Whole copies of the model among the workers, such as one a node, each sharded over its own of them (HSDP)."""
    recompute: Recompute = "nothing"
    """blocks: for the backward pass all but what goes into them is computed again instead of kept, which takes a third
    more time. What is cheap is never kept."""
    compile: bool = False
    """Blocks by torch.compile: for GPUs, after a minute or two at the start of each run; needs a compiler of C."""
    patience: int = 0
    """Early stopping: validations in a row without a better one after which training ends; 0: it never does. With an
    adversary the newest weights are the best, so it never does either."""

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
