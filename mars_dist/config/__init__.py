"""Every setting, as frozen dataclasses that check themselves. Imports neither torch nor ray.

Derived numbers are properties, never fields. A check names the field, the value, the rule and the fix.
"""

from mars_dist.config.models import AutoregressorConfig, ClassifierConfig, TokenizerConfig
from mars_dist.config.runs import AutoregressorRunConfig, ClassifierRunConfig, TokenizerRunConfig
from mars_dist.config.spectrogram import SpectrogramConfig
from mars_dist.config.training import (
    EXECUTION,
    FEWEST_SCALES,
    AdversaryConfig,
    CodebookConfig,
    OptimConfig,
    Optimizer,
    Precision,
    Recompute,
    ReconstructionLossConfig,
    TrainConfig,
)

__all__ = [
    "EXECUTION",
    "FEWEST_SCALES",
    "AdversaryConfig",
    "AutoregressorConfig",
    "AutoregressorRunConfig",
    "ClassifierConfig",
    "ClassifierRunConfig",
    "CodebookConfig",
    "OptimConfig",
    "Optimizer",
    "Precision",
    "Recompute",
    "ReconstructionLossConfig",
    "SpectrogramConfig",
    "TokenizerConfig",
    "TokenizerRunConfig",
    "TrainConfig",
]
