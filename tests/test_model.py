"""A model's folder, and what is made with it."""

import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
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
from mars_dist.histogram import Histogram
from mars_dist.model import (
    CONFIG,
    HISTOGRAM,
    METRICS,
    TOKENIZER,
    WEIGHTS,
    Mars,
    keep_tokenizer,
    load_tokenizer,
    model_fingerprint,
    save_autoregressor,
    save_tokenizer,
)
from mars_dist.precision import in_bf16
from mars_dist.products import PackedLinear, has_onednn
from mars_dist.sampling import SamplingConfig
from mars_dist.scales import Size
from mars_dist.serialize import read_json, write_json
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
VOCABULARY = Vocabulary(instruments=("bass_001", "reed_002"), qualities=True)
NOTES = [
    {"pitch": 40, "velocity": 25, "family": "bass", "instrument": "bass_001", "qualities": ["dark"]},
    {"pitch": 41, "velocity": 127, "family": "bass", "instrument": "bass_001", "qualities": ["dark", "reverb"]},
    {"pitch": 60, "velocity": 100, "family": "reed", "instrument": "reed_002", "qualities": ["bright"]},
    {"pitch": 61, "velocity": 100, "family": "reed", "instrument": "reed_002", "qualities": []},
]
"""What the model was trained on."""


def training_notes() -> Histogram:
    notes = [VOCABULARY.of_words(1, source="acoustic", **note) for note in NOTES]  # type: ignore[arg-type]
    rows = {name: torch.cat([note[name] for note in notes]) for name in VOCABULARY.cardinalities}
    return Histogram.of({name: values_B.clamp(min=0) for name, values_B in rows.items()})


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
    folder = tmp_path / "ar"
    keep_tokenizer(folder, tokenizer_folder)
    save_autoregressor(folder, weights(autoregressor), RUN, VOCABULARY, training_notes(), {"nats": 2.0})
    return folder


def test_a_tokenizer_comes_back_as_it_was(tmp_path: Path) -> None:
    run = replace(TOKENIZER_RUN, codebook=replace(TOKENIZER_RUN.codebook, commitment=0.7))
    torch.manual_seed(0)
    saved = Tokenizer(run.tokenizer, run.spectrogram)
    save_tokenizer(tmp_path, weights(saved), run, {"mse": 0.5})
    loaded, loaded_run = load_tokenizer(tmp_path)
    assert loaded_run == run
    assert loaded.quantizer.settings.commitment == 0.7
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert {file.name for file in tmp_path.iterdir()} == {CONFIG, WEIGHTS, METRICS}
    assert read_json(tmp_path / METRICS) == {"mse": 0.5}


def test_one_folder_is_one_model(folder: Path, tokenizer_folder: Path) -> None:
    expected = model_fingerprint(tokenizer_folder)
    shutil.rmtree(tokenizer_folder)
    mars = Mars.from_pretrained(folder)
    assert model_fingerprint(folder / TOKENIZER) == read_json(folder / CONFIG)["tokenizer_fingerprint"] == expected
    assert mars.vocabulary == VOCABULARY
    assert mars.spectrogram == SPECTROGRAM
    assert not mars.autoregressor.training


def test_a_tokenizer_may_come_without_its_figures(folder: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    """As a folder that only encodes does: a training on its codes ended with advice to begin it again."""
    (tokenizer_folder / METRICS).unlink()
    keep_tokenizer(tmp_path / "another", tokenizer_folder)
    inner = tmp_path / "another" / TOKENIZER
    assert load_tokenizer(inner)[1] == TOKENIZER_RUN and not (inner / METRICS).exists()


def test_saving_again_keeps_the_tokenizer_within(folder: Path, tokenizer_folder: Path) -> None:
    shutil.rmtree(tokenizer_folder)
    state = Mars.from_pretrained(folder).autoregressor.state_dict()
    more = {name: tensor + 1 for name, tensor in state.items()}
    save_autoregressor(folder, more, RUN, VOCABULARY, training_notes(), {})
    again = Mars.from_pretrained(folder).autoregressor.state_dict()
    assert all(torch.equal(again[name], tensor + 1) for name, tensor in state.items())


def test_the_tokenizer_within_is_written_once(folder: Path, tokenizer_folder: Path) -> None:
    """A kill, or who reads meanwhile, never finds a half of it; and what has not changed need not be sent anywhere."""
    before = {path: path.stat().st_mtime_ns for path in (folder / TOKENIZER).iterdir()}
    keep_tokenizer(folder, tokenizer_folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / TOKENIZER).iterdir()} == before


def test_another_tokenizer_is_put_in_its_place_whole(folder: Path, tmp_path: Path) -> None:
    state = Mars.from_pretrained(folder).autoregressor.state_dict()
    other = write_tokenizer(tmp_path / "other", seed=1)
    with (folder / TOKENIZER / WEIGHTS).open("rb") as reader:
        start = reader.read(100)
        keep_tokenizer(folder, other)
        rest = reader.read()
    assert start + rest == (write_tokenizer(tmp_path / "same", seed=0) / WEIGHTS).read_bytes()
    assert (folder / TOKENIZER / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    save_autoregressor(folder, state, RUN, VOCABULARY, training_notes(), {})
    assert Mars.from_pretrained(folder).tokenizer.config == TOKENIZER_RUN.tokenizer


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


def change(folder: Path, **changes: object) -> None:
    write_json(folder / CONFIG, read_json(folder / CONFIG) | changes)


def change_autoregressor(folder: Path, **changes: object) -> None:
    run = read_json(folder / CONFIG)["run"]
    change(folder, run=run | {"autoregressor": run["autoregressor"] | changes})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


HARM: dict[str, Callable[[Path], object]] = {
    "ar: holds no trained autoregressor": shutil.rmtree,
    "ar: holds no trained autoregressor .*": lambda folder: (folder / WEIGHTS).unlink(),
    "ar: holds no trained autoregressor ..*": lambda folder: (folder / CONFIG).unlink(),
    "tokenizer: holds no trained tokenizer": lambda folder: shutil.rmtree(folder / TOKENIZER),
    "histogram.safetensors: there is no such file": lambda folder: (folder / HISTOGRAM).unlink(),
    "histogram.safetensors: damaged": lambda folder: cut_short(folder / HISTOGRAM),
    "config.json: damaged": lambda folder: (folder / CONFIG).write_text("{"),
    "holds a model of kind": lambda folder: (folder / CONFIG).write_text("[]"),
    "config.json: damaged, vocabulary is 3": lambda folder: change(folder, vocabulary=3),
    "config.json: damaged, tokenizer_fingerprint is None": lambda folder: change(folder, tokenizer_fingerprint=None),
    "autoregressor.depth: 2000000 must lie between": lambda folder: change_autoregressor(folder, depth=2_000_000),
    r"width'?: '16' is not int": lambda folder: change_autoregressor(folder, width="16"),
    # Some 10 TB, were they allocated before they are compared.
    "is 2x1x1, must be 125000x1x1: these are the weights of another network": lambda folder: change_autoregressor(
        folder, width=1_000_000
    ),
    "ar: its settings describe no network that can be built": lambda folder: change_autoregressor(folder, width=2**53),
    "ar: its settings describe no network .*": lambda folder: change_autoregressor(folder, width=2**70),
    "model.safetensors: damaged": lambda folder: cut_short(folder / WEIGHTS),
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
    mars, hot = Mars.from_pretrained(folder), SamplingConfig(guidance=0.0, temperature=9.0, top_k=0, top_p=1.0)
    waves_BT = mars.generate(3, pitch=60, velocity=100, family="flute", instrument="reed_002", sampling=hot)
    assert (waves_BT.shape, waves_BT.dtype) == ((3, SPECTROGRAM.num_samples), np.float32)
    assert np.isfinite(waves_BT).all()
    assert not np.array_equal(waves_BT[0], waves_BT[1])
    again_BT = mars.generate(3, pitch=60, velocity=100, family="flute", instrument="reed_002", sampling=hot)
    assert np.array_equal(again_BT, waves_BT)
    other_BT = mars.generate(3, pitch=60, velocity=100, family="flute", instrument="reed_002", phase="griffin_lim")
    pictures_B1FN = [picture_from_wave(torch.from_numpy(waves), SPECTROGRAM) for waves in (waves_BT, other_BT)]
    assert not np.allclose(waves_BT, other_BT, atol=1e-3)
    assert (pictures_B1FN[0] - pictures_B1FN[1]).abs().mean() < 0.1
    with pytest.raises(ValueError, match="family: 'kazoo' is unknown"):
        mars.generate(family="kazoo")


PER_SCALE = SamplingConfig(
    guidance=(1.0, 0.0, 3.0), temperature=(2.0, 1.0, 0.5), top_k=(0, 8, 4), top_p=(1.0, 0.9, 0.8)
)


def test_bf16_is_what_the_autoregressor_foretells_in(folder: Path) -> None:
    mars, drawn = Mars.from_pretrained(folder), list[Tensor]()
    low = replace(mars, autoregressor=in_bf16(mars.autoregressor))
    for which, precision in ((mars, "float32"), (mars, "bf16"), (low, "float32"), (mars, "float32")):
        config = SamplingConfig(precision=precision, top_k=0, top_p=1.0)
        drawn.append(which.sample_pictures(mars.vocabulary.of_words(256), list(range(256)), config))
    assert torch.equal(drawn[1], drawn[2]) and drawn[1].dtype == torch.float32
    assert torch.equal(drawn[0], drawn[3]) and not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("sampling", [SamplingConfig(), PER_SCALE, replace(PER_SCALE, unasked="null")])
@pytest.mark.parametrize("asked", [{}, {"family": "bass", "qualities": ["dark"]}])
def test_a_picture_does_not_depend_on_its_batch(folder: Path, sampling: SamplingConfig, asked: dict[str, Any]) -> None:
    mars = Mars.from_pretrained(folder)
    conditions = mars.vocabulary.of_words(8, **asked)
    together_B1FN = mars.sample_pictures(conditions, list(range(8)), sampling)
    assert together_B1FN.shape == (8, 1, SPECTROGRAM.num_bins, SPECTROGRAM.num_frames)
    for i in (0, 5):
        alone_B1FN = mars.sample_pictures(mars.vocabulary.of_words(1, **asked), [i], sampling)
        torch.testing.assert_close(alone_B1FN[0], together_B1FN[i])


def test_what_is_not_asked_for_is_drawn_together(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    notes = [{"source": "acoustic"} | note for note in NOTES]
    assert all(note in notes for note in mars.labels(20))
    dark = mars.labels(20, qualities=["dark"], velocity=127)
    assert dark == [notes[1]] * 20
    beyond = mars.labels(20, pitch=100, instrument="reed_002")
    assert all(note in [notes[2] | {"pitch": 100}, notes[3] | {"pitch": 100}] for note in beyond)
    assert mars.labels(5) == mars.labels(20)[:5] != mars.labels(5, sampling=SamplingConfig(seed=1))
    left_open = dict.fromkeys(["velocity", "family", "source", "instrument"], None) | {"pitch": 60, "qualities": []}
    assert mars.labels(2, pitch=60, sampling=SamplingConfig(unasked="null")) == [left_open] * 2


def test_what_is_drawn_is_what_the_model_is_asked_for(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    unasked, ids, null = mars.vocabulary.of_words(4), list(range(4)), SamplingConfig(unasked="null")
    drawn = mars.complete(unasked, ids, SamplingConfig())
    assert mars.vocabulary.to_words(drawn) == mars.labels(4)
    sampled_B1FN = mars.sample_pictures(unasked, ids, SamplingConfig())
    assert torch.equal(sampled_B1FN, mars.sample_pictures(drawn, ids, null))
    assert not torch.equal(sampled_B1FN, mars.sample_pictures(unasked, ids, null))


def test_both_networks_keep_their_weights_beside_the_packed_ones(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    mars.generate(1, pitch=60)
    mars.generate(1, pitch=60, sampling=SamplingConfig(precision="bf16"))
    for network, home in ((mars.autoregressor, folder), (mars.tokenizer, folder / TOKENIZER)):
        state, saved = network.state_dict(), load_file(home / WEIGHTS)
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[name], saved[name]) for name in saved)
    packs = type(mars.float32_sampler.head), type(mars.packed_tokenizer.decoder.to_patches)
    assert set(packs) == {PackedLinear if has_onednn() else nn.Linear}


@pytest.mark.parametrize("copied", [deepcopy, lambda mars: pickle.loads(pickle.dumps(mars))])
def test_it_is_copied_and_sent_whether_it_was_used_or_not(folder: Path, copied: Callable[[Mars], Mars]) -> None:
    mars = Mars.from_pretrained(folder)
    waves_BT = mars.generate(2, pitch=60)
    assert np.array_equal(copied(mars).generate(2, pitch=60), waves_BT)


def test_it_does_without_packed_weights_and_sounds_the_same(folder: Path) -> None:
    plain, usual = Mars.from_pretrained(folder, pack=False), Mars.from_pretrained(folder)
    assert plain.float32_sampler is plain.autoregressor and plain.packed_tokenizer is plain.tokenizer
    codes_BL = usual.encode(0.1 * torch.randn(2, SPECTROGRAM.num_samples))
    torch.testing.assert_close(plain.decode(codes_BL), usual.decode(codes_BL), rtol=1e-4, atol=1e-4)


def test_a_list_of_another_length_is_refused(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"sampling.temperature: 2 values \(1.0 0.9\) for the 3 scales of this model"):
        mars.generate(sampling=SamplingConfig(temperature=(1.0, 0.9)))


def test_codes_from_notes_and_pictures_from_codes(folder: Path) -> None:
    mars = Mars.from_pretrained(folder)
    waves_BT = 0.1 * torch.randn(2, SPECTROGRAM.num_samples)
    x_BCHW = multiplex(picture_from_wave(waves_BT, SPECTROGRAM), SPECTROGRAM.cmx)
    codes_BL = mars.encode(waves_BT)
    assert torch.equal(codes_BL, mars.tokenizer.encode(x_BCHW))
    picture_B1FN = demultiplex(mars.tokenizer(x_BCHW).picture_BCHW, SPECTROGRAM.cmx)
    torch.testing.assert_close(mars.decode(codes_BL), picture_B1FN, rtol=1e-4, atol=1e-4)


def test_what_is_generated_can_be_encoded_as_it_is(folder: Path) -> None:
    """An array; and as soundfile reads it, in 64 bits."""
    mars = Mars.from_pretrained(folder)
    waves_BT = mars.generate(2)
    codes_BL = mars.encode(torch.from_numpy(waves_BT))
    assert torch.equal(mars.encode(waves_BT), codes_BL)
    assert torch.equal(mars.encode(waves_BT.astype(np.float64)), codes_BL)


def test_what_it_gives_can_be_learnt_from_and_changed(folder: Path) -> None:
    """Not so what torch.inference_mode gives."""
    mars = Mars.from_pretrained(folder)
    embedding = nn.Embedding(TOKENIZER_RUN.tokenizer.codebook_size, 4)
    codes_BL = mars.encode(mars.generate(2))
    embedding(codes_BL).sum().backward()
    for pictures_B1FN in (
        mars.decode(codes_BL),
        mars.sample_pictures(mars.vocabulary.of_words(2), [0, 1], SamplingConfig()),
    ):
        pictures_B1FN[:, :, SPECTROGRAM.num_bins // 2 :] = -1
        nn.Conv2d(1, 2, 3)(pictures_B1FN).sum().backward()


@pytest.mark.parametrize(
    "waves, answer",
    [
        (np.zeros(2000), r"torch.float64 \(2000,\), must be floating point \(notes, 2000\) in .* at 16000 Hz: mix"),
        (np.zeros((2, 2001)), r"torch.float64 \(2, 2001\), must be floating point \(notes, 2000\)"),
        (np.zeros((1, 1, 2000)), r"torch.float64 \(1, 1, 2000\), must be"),
        (np.zeros((1, 2000), np.int16), r"torch.int16 \(1, 2000\), must be floating point"),
    ],
)
def test_what_is_no_note_of_the_model_is_not_encoded(folder: Path, waves: NDArray[Any], answer: str) -> None:
    with pytest.raises(ValueError, match=f"^waves: {answer}"):
        Mars.from_pretrained(folder).encode(waves)
