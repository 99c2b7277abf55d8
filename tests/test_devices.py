"""A model computes on a GPU, whatever it is given from main memory.

There need be no GPU: FakeTensorMode follows shapes and devices alone, and refuses what mixes two devices.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mars_dist.autoregressor import Autoregressor
from mars_dist.conditions import Vocabulary
from mars_dist.histogram import Histogram
from mars_dist.layers import bicubic
from mars_dist.losses import reconstruction_loss
from mars_dist.model import Mars
from mars_dist.phase import random_phase, whole_magnitude
from mars_dist.presets import DEBUG
from mars_dist.sampling import AS_ASKED
from mars_dist.spectrogram import window
from mars_dist.tokenizer import Tokenizer

RUN, AUTOREGRESSOR, NOTES = DEBUG.tokenizer, DEBUG.autoregressor.autoregressor, 3
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield
    window.cache_clear()  # what is fake must not be met again
    bicubic.cache_clear()


@pytest.fixture
def mars() -> Mars:
    """`debug`, on a GPU that is not there."""
    vocabulary = Vocabulary(qualities=True)
    with GPU:
        tokenizer = Tokenizer(RUN.tokenizer, RUN.spectrogram)
        autoregressor = Autoregressor(AUTOREGRESSOR, RUN.tokenizer, vocabulary.cardinalities)
    for module in (*tokenizer.modules(), *autoregressor.modules()):
        for name, buffer in module.named_buffers(recurse=False):  # those made of arrays of numpy
            setattr(module, name, buffer.to(GPU))
    nothing = Histogram({}, np.zeros(0, np.int64))
    return Mars(tokenizer, autoregressor, RUN.spectrogram, vocabulary, nothing)


def waves() -> torch.Tensor:
    return torch.randn(NOTES, RUN.spectrogram.num_samples)


def codes() -> torch.Tensor:
    return torch.zeros(NOTES, RUN.tokenizer.num_codes, dtype=torch.long)


def test_notes_become_codes_there(mars: Mars) -> None:
    codes_BL = mars.encode(waves())
    assert codes_BL.device == GPU and codes_BL.shape == codes().shape


def test_conditions_become_pictures_there(mars: Mars) -> None:
    conditions = mars.vocabulary.of_words(NOTES, ["bright"], pitch=60)
    pictures_B1FN = mars.sample_pictures(conditions, list(range(NOTES)), replace(AS_ASKED, top_p=0.9))
    assert pictures_B1FN.device == GPU and len(pictures_B1FN) == NOTES
    assert random_phase(whole_magnitude(pictures_B1FN, mars.spectrogram)).device == GPU


def test_codes_become_pictures_there_and_bits_are_brought_back(mars: Mars) -> None:
    """Figures go to a driver, which may have no GPU."""
    assert mars.decode(codes()).device == GPU
    words = {"pitch": 60, "velocity": 100, "family": 0, "source": 0, "qualities": [0] * 10}
    columns = {name: np.array([value] * NOTES) for name, value in words.items()}
    assert mars.bits_per_second(codes(), columns).device == torch.device("cpu")


def test_the_tokenizers_loss_is_there(mars: Mars) -> None:
    """Every term but mel, whose filters are computed from numbers."""
    loss = replace(RUN.loss, multi_resolution=0.1, delta=0.1)
    x_BCHW = torch.randn(NOTES, *RUN.spectrogram.picture_shape, device=GPU)
    y_BCHW, _, quantized = mars.tokenizer(x_BCHW, False, torch.full((NOTES,), 3, device=GPU))
    terms = reconstruction_loss(y_BCHW[:, :1], x_BCHW[:, :1], loss, RUN.spectrogram)
    assert {term.device for term in (*terms.values(), quantized.loss)} == {GPU}


def test_the_autoregressors_loss_is_there(mars: Mars) -> None:
    conditions = mars.there(mars.vocabulary.of_words(NOTES, ["bright"], pitch=60))
    inputs_BLC = mars.tokenizer.quantizer.next_inputs(codes().to(GPU))
    keep_BN = torch.ones(NOTES, AUTOREGRESSOR.depth, device=GPU)
    assert mars.autoregressor(inputs_BLC, conditions, keep_BN, codes().to(GPU)).device == GPU
