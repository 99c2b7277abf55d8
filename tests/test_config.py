"""Every check of the settings names the field, the value and the rule."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from mars_dist.config import (
    AutoregressorConfig,
    OptimConfig,
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
    "autoregressor.width: 100 is not a multiple of head_width = 64": lambda: AutoregressorConfig(width=100),
    "spectrogram.n_fft: 0 must be even": lambda: SpectrogramConfig(n_fft=0),
    "spectrogram.n_fft: 1023 must be even": lambda: SpectrogramConfig(n_fft=1023),
    "spectrogram.hop: 0 must lie between": lambda: SpectrogramConfig(hop=0),
    "spectrogram.hop: 2000 must lie between": lambda: SpectrogramConfig(hop=2000),
    "tokenizer.width: 0 must be above 0": lambda: TokenizerConfig(width=0),
    "autoregressor.head_width: 0 must be above 0": lambda: AutoregressorConfig(head_width=0),
    "autoregressor.drop_path: 1.5 must be at least 0": lambda: AutoregressorConfig(drop_path=1.5),
    "optim.clip: -1 must be above 0": lambda: OptimConfig(clip=-1),
    "optim.lr: 0 must be above 0": lambda: OptimConfig(lr=0),
    "optim.lr: nan must be above 0": lambda: OptimConfig(lr=float("nan")),
}
COUNTS = ("steps", "batch_size", "log_every", "checkpoint_every", "validate_every", "validation_rows")


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


def test_derived_numbers() -> None:
    spectrogram = SpectrogramConfig(n_fft=2048, hop=500, cmx=Size(8, 1))
    assert (spectrogram.num_bins, spectrogram.num_frames) == (1024, 128)
    assert spectrogram.picture_shape == (8, 128, 128)
    assert TokenizerConfig(patch=Size(8, 4)).patch_grid(spectrogram) == (16, 32)


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainConfig().steps = 3  # type: ignore[misc]
