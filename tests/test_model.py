"""A model's folder, and what is made with it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mars_dist.autoregressor import Autoregressor
from mars_dist.cmx import demultiplex, multiplex
from mars_dist.conditions import Vocabulary
from mars_dist.config import (
    AutoregressorConfig,
    AutoregressorRunConfig,
    SpectrogramConfig,
    TokenizerConfig,
    TokenizerRunConfig,
)
from mars_dist.model import (
    CONFIG,
    METRICS,
    TOKENIZER,
    WEIGHTS,
    Mars,
    load_tokenizer,
    save_autoregressor,
    save_tokenizer,
    tokenizer_fingerprint,
)
from mars_dist.sampling import SamplingConfig
from mars_dist.scales import Size
from mars_dist.serialize import read_json
from mars_dist.spectrogram import picture_from_wave
from mars_dist.tokenizer import Tokenizer

SPECTROGRAM = SpectrogramConfig(num_samples=2000, n_fft=256, hop=125, cmx=Size(8, 4))
TOKENIZER_RUN = TokenizerRunConfig(
    SPECTROGRAM,
    TokenizerConfig(
        patch=Size(4, 2),
        scales=(Size(1, 1), Size(1, 2), Size(3, 2)),
        codebook_size=16,
        code_width=6,
        width=16,
        depth=1,
        head_width=8,
    ),
)
RUN = AutoregressorRunConfig(AutoregressorConfig(width=16, depth=1, head_width=8))
VOCABULARY = Vocabulary(instruments=("bass_001", "reed_002"))


def weights(module: nn.Module) -> dict[str, Tensor]:
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    return module.state_dict()


def write_tokenizer(folder: Path, seed: int, run: TokenizerRunConfig = TOKENIZER_RUN) -> Path:
    torch.manual_seed(seed)
    save_tokenizer(folder, weights(Tokenizer(run.tokenizer, run.spectrogram)), run, {"mse": 0.5})
    return folder


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tok", seed=0)


@pytest.fixture
def folder(tmp_path: Path, tokenizer_folder: Path) -> Path:
    autoregressor = Autoregressor(RUN.autoregressor, TOKENIZER_RUN.tokenizer, VOCABULARY.cardinalities)
    save_autoregressor(tmp_path / "ar", weights(autoregressor), RUN, VOCABULARY, tokenizer_folder, {"nats": 2.0})
    return tmp_path / "ar"


def test_a_tokenizer_comes_back_as_it_was(tmp_path: Path) -> None:
    run = replace(TOKENIZER_RUN, loss=replace(TOKENIZER_RUN.loss, commitment=0.7))
    torch.manual_seed(0)
    saved = Tokenizer(run.tokenizer, run.spectrogram)
    save_tokenizer(tmp_path, weights(saved), run, {"mse": 0.5})
    loaded, loaded_run = load_tokenizer(tmp_path)
    assert loaded_run == run
    assert loaded.quantizer.commitment == 0.7
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert {file.name for file in tmp_path.iterdir()} == {CONFIG, WEIGHTS, METRICS}
    assert read_json(tmp_path / METRICS) == {"mse": 0.5}


def test_one_folder_is_one_model(folder: Path, tokenizer_folder: Path) -> None:
    expected = tokenizer_fingerprint(tokenizer_folder)
    shutil.rmtree(tokenizer_folder)
    mars = Mars.from_pretrained(folder)
    assert tokenizer_fingerprint(folder / TOKENIZER) == read_json(folder / CONFIG)["tokenizer_fingerprint"] == expected
    assert mars.vocabulary == VOCABULARY
    assert mars.spectrogram == SPECTROGRAM
    assert not mars.autoregressor.training


def test_saving_again_keeps_the_tokenizer_within(folder: Path, tokenizer_folder: Path) -> None:
    shutil.rmtree(tokenizer_folder)
    state = Mars.from_pretrained(folder).autoregressor.state_dict()
    save_autoregressor(folder, {n: t + 1 for n, t in state.items()}, RUN, VOCABULARY, folder / TOKENIZER, {})
    again = Mars.from_pretrained(folder).autoregressor.state_dict()
    assert all(torch.equal(again[name], tensor + 1) for name, tensor in state.items())


def test_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other", seed=1)
    shutil.copyfile(other / WEIGHTS, folder / TOKENIZER / WEIGHTS)
    with pytest.raises(ValueError, match="is not the tokenizer that this autoregressor was trained with"):
        Mars.from_pretrained(folder)


def test_another_schedule_is_refused(folder: Path, tmp_path: Path) -> None:
    scales = (Size(1, 1), Size(2, 1), Size(3, 2))
    run = replace(TOKENIZER_RUN, tokenizer=replace(TOKENIZER_RUN.tokenizer, scales=scales))
    shutil.copyfile(write_tokenizer(tmp_path / "other", 0, run) / CONFIG, folder / TOKENIZER / CONFIG)
    with pytest.raises(ValueError, match="is not the tokenizer that this autoregressor was trained with"):
        Mars.from_pretrained(folder)


HARM: dict[str, Callable[[Path], object]] = {
    "ar: holds no trained autoregressor": shutil.rmtree,
    "ar: holds no trained autoregressor .*": lambda folder: (folder / WEIGHTS).unlink(),
    "ar: holds no trained autoregressor ..*": lambda folder: (folder / CONFIG).unlink(),
    "tokenizer: holds no trained tokenizer": lambda folder: shutil.rmtree(folder / TOKENIZER),
    "config.json: damaged": lambda folder: (folder / CONFIG).write_text("{"),
    "ar: holds a model of kind 'tokenizer', wanted is 'autoregressor'": lambda folder: shutil.copyfile(
        folder / TOKENIZER / CONFIG, folder / CONFIG
    ),
}


@pytest.mark.parametrize("answer", HARM)
def test_a_folder_that_is_no_model_is_named(answer: str, folder: Path) -> None:
    HARM[answer](folder)
    with pytest.raises(ValueError, match=answer):
        Mars.from_pretrained(folder)


def test_notes_are_generated(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    waves_BT = mars.generate(3, pitch=60, velocity=100, family="flute", instrument="reed_002")
    assert (waves_BT.shape, waves_BT.dtype) == ((3, SPECTROGRAM.num_samples), np.float32)
    assert np.isfinite(waves_BT).all()
    assert not np.array_equal(waves_BT[0], waves_BT[1])
    again_BT = mars.generate(3, pitch=60, velocity=100, family="flute", instrument="reed_002")
    assert np.array_equal(again_BT, waves_BT)
    with pytest.raises(ValueError, match="family: 'kazoo' is unknown"):
        mars.generate(family="kazoo")


def test_a_picture_does_not_depend_on_its_batch(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    together_B1FN = mars.sample_pictures(mars.vocabulary.of_words(3, pitch=60), [4, 5, 6], SamplingConfig())
    assert together_B1FN.shape == (3, 1, SPECTROGRAM.num_bins, SPECTROGRAM.num_frames)
    alone_B1FN = mars.sample_pictures(mars.vocabulary.of_words(1, pitch=60), [5], SamplingConfig())
    torch.testing.assert_close(alone_B1FN[0], together_B1FN[1])


def test_codes_from_notes_and_pictures_from_codes(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    waves_BT = 0.1 * torch.randn(2, SPECTROGRAM.num_samples)
    x_BCHW = multiplex(picture_from_wave(waves_BT, SPECTROGRAM), SPECTROGRAM.cmx)
    codes_BL = mars.encode(waves_BT)
    assert torch.equal(codes_BL, mars.tokenizer.encode(x_BCHW))
    picture_B1FN = demultiplex(mars.tokenizer(x_BCHW).picture_BCHW, SPECTROGRAM.cmx)
    torch.testing.assert_close(mars.decode(codes_BL), picture_B1FN, rtol=1e-4, atol=1e-4)
