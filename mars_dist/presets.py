"""The presets: values that derive from one another. docs/presets.md has what each costs."""

from dataclasses import dataclass, replace
from pathlib import Path

from mars_dist.config import (
    AdversaryConfig,
    AutoregressorConfig,
    AutoregressorRunConfig,
    CodebookConfig,
    OptimConfig,
    SpectrogramConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.scales import Size
from mars_dist.serialize import from_plain, read_toml


@dataclass(frozen=True)
class Preset:
    """Both stages of a model."""

    tokenizer: TokenizerRunConfig
    autoregressor: AutoregressorRunConfig


def squares(*sides: int) -> tuple[Size, ...]:
    return tuple(Size(side, side) for side in sides)


TINY = Preset(
    TokenizerRunConfig(
        spectrogram=SpectrogramConfig(cmx=Size(16, 8)),
        # Tall: pitch and timbre lie along frequency. One column at first: what lasts is decided once for the note.
        tokenizer=TokenizerConfig(
            patch=Size(2, 8), scales=(Size(1, 1), Size(2, 1), Size(4, 1), Size(8, 1), Size(16, 1), Size(16, 4))
        ),
        optim=OptimConfig(optimizer="muon", lr=4e-3, warmup_steps=100),
        train=TrainConfig(steps=1400, batch_size=16),
    ),
    AutoregressorRunConfig(
        autoregressor=AutoregressorConfig(width=192, depth=4, drop_path=0.1, corrupt_codes=0.3),
        optim=OptimConfig(optimizer="muon", lr=4e-3, weight_decay=0.05, clip=2.0, decay="linear", final_lr=0.1),
        train=TrainConfig(steps=2400, batch_size=32, checkpoint_every=400, validate_every=400, validation_rows=512),
    ),
)

DEBUG = Preset(
    TokenizerRunConfig(
        spectrogram=SpectrogramConfig(n_fft=512, hop=125, cmx=Size(8, 8)),
        tokenizer=TokenizerConfig(
            patch=Size(8, 16), scales=squares(1, 2, 4), codebook_size=64, code_width=8, width=64, depth=1, head_width=32
        ),
        codebook=CodebookConfig(start_step=4, restart_every=4),
        optim=OptimConfig(lr=2e-3, warmup_steps=4, ema=0.9),
        train=TrainConfig(
            steps=20, batch_size=4, log_every=5, checkpoint_every=10, validate_every=10, validation_rows=8
        ),
    ),
    AutoregressorRunConfig(
        autoregressor=AutoregressorConfig(width=64, depth=2, head_width=32),
        optim=OptimConfig(lr=2e-3, warmup_steps=4, ema=0.9),
        train=TrainConfig(
            steps=20, batch_size=4, log_every=5, checkpoint_every=10, validate_every=10, validation_rows=8
        ),
    ),
)

SMALL = Preset(
    TokenizerRunConfig(
        spectrogram=SpectrogramConfig(cmx=Size(8, 4)),
        tokenizer=TokenizerConfig(
            patch=Size(4, 4),
            scales=squares(1, 1, 2, 3, 3, 4, 5, 6, 8, 11),
            codebook_size=4096,
            code_width=32,
            width=384,
            depth=6,
        ),
        codebook=CodebookConfig(start_step=1000),
        optim=OptimConfig(lr=1e-3, warmup_steps=1000, ema=0.9999),
        train=TrainConfig(
            steps=50_000, batch_size=128, checkpoint_every=1000, validate_every=1000, validation_rows=1024
        ),
    ),
    AutoregressorRunConfig(
        autoregressor=AutoregressorConfig(width=512, depth=8, drop_path=0.03),
        optim=OptimConfig(
            lr=5e-4, weight_decay=0.05, clip=2.0, decay="linear", final_lr=0.1, warmup_steps=2000, ema=0.9999
        ),
        train=TrainConfig(
            steps=100_000, batch_size=256, checkpoint_every=1000, validate_every=1000, validation_rows=1024
        ),
    ),
)

BASE = Preset(
    replace(
        SMALL.tokenizer,
        spectrogram=SpectrogramConfig(cmx=Size(4, 2)),
        tokenizer=replace(
            SMALL.tokenizer.tokenizer,
            patch=Size(8, 8),
            scales=squares(1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
            width=512,
            depth=8,
        ),
        adversary=AdversaryConfig(lr=3e-4),
        optim=replace(SMALL.tokenizer.optim, lr=3e-4),
        train=replace(SMALL.tokenizer.train, steps=100_000, batch_size=256),
    ),
    replace(
        SMALL.autoregressor,
        autoregressor=AutoregressorConfig(width=768, depth=12, drop_path=0.05),
        optim=replace(SMALL.autoregressor.optim, lr=1e-4),
        train=replace(SMALL.autoregressor.train, steps=200_000),
    ),
)

LARGE = Preset(
    replace(
        BASE.tokenizer,
        spectrogram=SpectrogramConfig(n_fft=2048, hop=500, cmx=Size(8, 1)),
        tokenizer=replace(BASE.tokenizer.tokenizer, codebook_size=8192, width=768, depth=12),
    ),
    replace(BASE.autoregressor, autoregressor=AutoregressorConfig(width=1024, depth=16, drop_path=0.07)),
)

PRESETS = {"debug": DEBUG, "tiny": TINY, "small": SMALL, "base": BASE, "large": LARGE}


def load(name: str) -> Preset:
    """A preset by its name, or a .toml whose `preset` names the base and whose tables replace parts of it.

    The tables are [tokenizer.*] and [autoregressor.*], the two stages' settings. Raises ValueError for anything else.
    """
    if name in PRESETS:
        return PRESETS[name]
    if not name.endswith(".toml"):
        raise ValueError(f"{name}: there is no such preset: choose {', '.join(PRESETS)}, or give a .toml file")
    settings = read_toml(Path(name))
    base = settings.pop("preset", "tiny")
    if not isinstance(base, str):
        raise ValueError(f'{name}: preset = {base!r:.40} must be a name, such as "tiny"')
    try:
        base = load(base)
    except RecursionError:
        raise ValueError(f"{name}: its preset leads back to itself: name one of {', '.join(PRESETS)}") from None
    return from_plain(Preset, settings, base)
