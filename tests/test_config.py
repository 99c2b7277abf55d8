"""Every check of the settings names the field, the value and the rule."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Literal

import pytest

from mars_dist.config import (
    AdversaryConfig,
    AutoregressorConfig,
    ClassifierConfig,
    ClassifierRunConfig,
    CodebookConfig,
    OptimConfig,
    ReconstructionLossConfig,
    SpectrogramConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.scales import Size

INVALID: dict[str, Callable[[], object]] = {
    "spectrogram.hop: 256 does not divide num_samples = 63999": lambda: SpectrogramConfig(num_samples=63_999, hop=256),
    "spectrogram.cmx: 3x8 does not divide the 512x256": lambda: SpectrogramConfig(cmx=Size(3, 8)),
    "spectrogram.cmx: 16x7 does not divide the 512x256": lambda: SpectrogramConfig(cmx=Size(16, 7)),
    "scales: the first scale is 2x2": lambda: TokenizerConfig(scales=(Size(2, 2), Size(4, 4))),
    "scales: 2x4 follows 4x4": lambda: TokenizerConfig(scales=(Size(1, 1), Size(4, 4), Size(2, 4))),
    "tokenizer.width: 100 is not a multiple of head_width = 64": lambda: TokenizerConfig(width=100),
    "tokenizer.codebook_size: 1 must": lambda: TokenizerConfig(codebook_size=1),
    "tokenizer.codebook_size: 65537 must": lambda: TokenizerConfig(codebook_size=65_537),
    "tokenizer.patch: 5x4 does not divide the 32x32": lambda: TokenizerRunConfig(
        tokenizer=TokenizerConfig(patch=Size(5, 4))
    ),
    "tokenizer.patch: 4x5 does not divide the 32x32": lambda: TokenizerRunConfig(
        tokenizer=TokenizerConfig(patch=Size(4, 5))
    ),
    "tokenizer.scales: the last scale, 8x9, is the latent grid, and the picture has 8x8 patches: .* end .* at 8x8": (
        lambda: TokenizerRunConfig(tokenizer=TokenizerConfig(scales=(Size(1, 1), Size(8, 9))))
    ),
    "tokenizer.scales: the last scale, 12x4, is the latent grid": lambda: TokenizerRunConfig(
        tokenizer=TokenizerConfig(scales=(Size(1, 1), Size(12, 4)))
    ),
    "autoregressor.width: 100 is not a multiple of head_width = 64": lambda: AutoregressorConfig(width=100),
    "spectrogram.n_fft: 0 must be even": lambda: SpectrogramConfig(n_fft=0),
    "spectrogram.n_fft: 1023 must be even": lambda: SpectrogramConfig(n_fft=1023),
    "spectrogram.hop: 0 must lie between": lambda: SpectrogramConfig(hop=0),
    "spectrogram.hop: 1024 must lie between 1 and 1023": lambda: SpectrogramConfig(hop=1024),
    "spectrogram.num_samples: 500 must be more than half of n_fft = 1024": lambda: SpectrogramConfig(num_samples=500),
    "spectrogram.sample_rate: 0 must be above 0": lambda: SpectrogramConfig(sample_rate=0),
    "spectrogram.hop: 2000 must lie between": lambda: SpectrogramConfig(hop=2000),
    "tokenizer.width: 0 must be above 0": lambda: TokenizerConfig(width=0),
    "autoregressor.head_width: 0 must be above 0": lambda: AutoregressorConfig(head_width=0),
    "autoregressor.drop_path: 1.5 must be at least 0": lambda: AutoregressorConfig(drop_path=1.5),
    "optim.clip: -1 must be above 0": lambda: OptimConfig(clip=-1),
    "optim.lr: 0 must be above 0": lambda: OptimConfig(lr=0),
    "optim.lr: nan must be above 0": lambda: OptimConfig(lr=float("nan")),
    "optim.ema: 1.5 must lie between 0 and 1": lambda: OptimConfig(ema=1.5),
    "optim.betas: 0.9 1.5 must each be 0 or more, and below 1": lambda: OptimConfig(betas=(0.9, 1.5)),
    "optim.warmup_steps: -3 must be 0 or more": lambda: OptimConfig(warmup_steps=-3),
    "train.patience: -1 must be 0 or more": lambda: TrainConfig(patience=-1),
    "tokenizer.depth: -1 must lie between 0 and 1000": lambda: TokenizerConfig(depth=-1),
    "autoregressor.depth: 1001 must lie between 0 and 1000": lambda: AutoregressorConfig(depth=1001),
    "tokenizer.stem: -2 must lie between 0 and 1000": lambda: TokenizerConfig(stem=-2),
    "tokenizer.stem: [0-9]* must lie between 0 and 1000": lambda: TokenizerConfig(stem=2**53),
    "tokenizer.code_width: 16 is not a multiple of branches = 3": lambda: TokenizerConfig(branches=3),
    "tokenizer.code_width: 16 leaves each of 8 branches fewer than 3": lambda: TokenizerConfig(branches=8),
    "tokenizer.code_width: 1 leaves each of 1 branches": lambda: TokenizerConfig(code_width=1),
    "loss.l2: -1 must be 0 or more": lambda: ReconstructionLossConfig(l2=-1),
    "loss: every weight is 0": lambda: TokenizerRunConfig(
        loss=ReconstructionLossConfig(l1=0, l2=0, relative=0, spectral_convergence=0)
    ),
    "codebook.commitment: -1 must be 0 or more": lambda: CodebookConfig(commitment=-1),
    "codebook.dropout: 2 must lie between 0 and 1": lambda: CodebookConfig(dropout=2),
    "codebook.start_step: 200 is not before the last of train.steps = 100": lambda: TokenizerRunConfig(
        train=TrainConfig(steps=100)
    ),
    r"start_step: 200 .* train.steps = 200, .* choose fewer \(0 in fine-tuning by --init-from": lambda: (
        TokenizerRunConfig(train=TrainConfig(steps=200))
    ),
    "codebook.dropout: 0.1 keeps the first 3 scales or more, and there are 2": lambda: TokenizerRunConfig(
        tokenizer=TokenizerConfig(scales=(Size(1, 1), Size(8, 8))), codebook=CodebookConfig(dropout=0.1)
    ),
    "adversary.weight: -1 must be 0 or more": lambda: AdversaryConfig(weight=-1),
    "adversary.resolutions: [0-9]* halve the picture's 256 cells": lambda: TokenizerRunConfig(
        adversary=AdversaryConfig(resolutions=2**53)
    ),
    "adversary.resolutions: 10 halve the picture's 256 cells to nothing: choose at most 9": lambda: TokenizerRunConfig(
        adversary=AdversaryConfig(resolutions=10)
    ),
    "classifier.width: 0 must be above 0": lambda: ClassifierConfig(width=0),
    "classifier.transpose: -1 must be 0 or more": lambda: ClassifierConfig(transpose=-1),
    "classifier.frames: 300 is more than the picture's 256 frames: choose at most": lambda: ClassifierRunConfig(
        classifier=ClassifierConfig(frames=300)
    ),
    "autoregressor.head_width: 6 must be a multiple of 4": lambda: AutoregressorConfig(
        width=12, head_width=6, positions="rotary"
    ),
}
COUNTS = (
    *("steps", "batch_size", "shuffle_rows", "log_every", "checkpoint_every", "validate_every", "validation_rows"),
    *("accumulate", "replicas"),
)


@pytest.mark.parametrize("answer", INVALID)
def test_what_cannot_be_is_named(answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        INVALID[answer]()


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_of_the_loop_is_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"train.{name}: 0 must be above 0"):
        TrainConfig(**{name: 0})
    assert getattr(TrainConfig(**{name: 1}), name) == 1


def test_bounds_are_within() -> None:
    assert TokenizerConfig(codebook_size=2).codebook_size == 2
    assert TokenizerConfig(codebook_size=65_536).codebook_size == 65_536


@pytest.mark.parametrize(
    "latents, last",
    [("aligned", Size(8, 8)), ("aligned", Size(5, 7)), ("aligned", Size(16, 4)), ("free", Size(9, 12))],
)
def test_latents_may_be_fewer_than_patches_or_a_multiple_or_free(
    latents: Literal["aligned", "free"], last: Size
) -> None:
    config = TokenizerRunConfig(tokenizer=TokenizerConfig(scales=(Size(1, 1), last), latents=latents))
    assert config.tokenizer.patch_grid(config.spectrogram) == (8, 8)
    assert config.tokenizer.schedule.latent_grid == last


def test_derived_numbers() -> None:
    spectrogram = SpectrogramConfig(n_fft=2048, hop=500, cmx=Size(8, 1))
    assert (spectrogram.num_bins, spectrogram.num_frames) == (1024, 128)
    assert spectrogram.picture_shape == (8, 128, 128)
    assert TokenizerConfig(patch=Size(8, 4)).patch_grid(spectrogram) == (16, 32)


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().steps = 3  # type: ignore[misc]
