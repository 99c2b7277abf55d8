"""Which parameters decay."""

from dataclasses import replace
from typing import Literal

import pytest
from torch import nn

from mars_dist.classifier import Classifier
from mars_dist.config import ClassifierConfig, OptimConfig
from mars_dist.costs import build_autoregressor, build_tokenizer
from mars_dist.presets import TINY
from mars_dist.training.optim import make_optimizer

SPARED = ("positions", "levels", "tokens", "temperature", "modulation_MD", "conditions", "codebook")


def networks(modulation: Literal["shared", "own"]) -> list[nn.Module]:
    """With all the parameters that settings may give them."""
    first, second = TINY.tokenizer, TINY.autoregressor
    settings = replace(first.tokenizer, codebook_projection=True, stem=1)
    model = replace(second.autoregressor, modulation=modulation, positions="both", condition_on_qualities=True)
    return [
        build_tokenizer(replace(first, tokenizer=settings)),
        build_autoregressor(replace(second, autoregressor=model), settings),
        Classifier(ClassifierConfig(), first.spectrogram),
    ]


@pytest.mark.parametrize("modulation", ["shared", "own"])
def test_no_bias_norm_embedding_position_or_temperature_decays(modulation: Literal["shared", "own"]) -> None:
    for network in networks(modulation):
        expected = [
            parameter.ndim > 1 and not any(word in name for word in SPARED)
            for name, parameter in network.named_parameters()
        ]
        decayed, spared = make_optimizer(network, OptimConfig(weight_decay=0.1), "float32").param_groups
        assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0)
        which = {id(parameter) for parameter in decayed["params"]}
        assert [id(parameter) in which for parameter in network.parameters()] == expected
        assert len(decayed["params"]) + len(spared["params"]) == len(expected)
