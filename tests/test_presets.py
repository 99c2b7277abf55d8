"""Every preset builds, at the size it is said to have; a .toml replaces parts of one."""

from dataclasses import replace
from pathlib import Path

import pytest

from mars_dist.autoregressor import Autoregressor
from mars_dist.costs import build_autoregressor, build_tokenizer, num_parameters
from mars_dist.presets import PRESETS, TINY, load
from mars_dist.scales import Size
from mars_dist.tokenizer import Tokenizer


def build(name: str) -> tuple[Tokenizer, Autoregressor]:
    """Both stages without memory."""
    stage, run = PRESETS[name].tokenizer, PRESETS[name].autoregressor
    return build_tokenizer(stage), build_autoregressor(run, stage.tokenizer)


@pytest.mark.parametrize("name", PRESETS)
def test_it_builds_and_fits_together(name: str) -> None:
    tokenizer, autoregressor = build(name)
    stage = PRESETS[name].tokenizer
    schedule = stage.tokenizer.schedule
    assert len(tokenizer.encoder.latent_tokens_SD) == schedule.latent_grid.area
    assert len(tokenizer.decoder.query_tokens_PD) == stage.tokenizer.patch_grid(stage.spectrogram).area
    assert autoregressor.positions_LD.shape[0] == schedule.num_tokens
    assert autoregressor.head.out_features == stage.tokenizer.codebook_size


@pytest.mark.parametrize(
    "name, picture, latent_grid, num_tokens",
    [
        ("small", (32, 64, 64), (11, 11), 286),
        ("base", (8, 128, 128), (16, 16), 680),
        ("large", (8, 128, 128), (16, 16), 680),
    ],
)
def test_pictures_and_scales(
    name: str, picture: tuple[int, int, int], latent_grid: tuple[int, int], num_tokens: int
) -> None:
    stage = PRESETS[name].tokenizer
    assert stage.spectrogram.picture_shape == picture
    assert stage.tokenizer.patch_grid(stage.spectrogram) == (16, 16)
    assert stage.tokenizer.schedule.latent_grid == latent_grid
    assert stage.tokenizer.schedule.num_tokens == num_tokens


@pytest.mark.parametrize("name, millions", [("tiny", 4.4), ("small", 22), ("base", 51), ("large", 172)])
def test_the_tokenizer_has_its_size(name: str, millions: float) -> None:
    assert num_parameters(build(name)[0]) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large"])
def test_the_autoregressor_has_its_size(name: str) -> None:
    settings, codebook_size = PRESETS[name].autoregressor.autoregressor, PRESETS[name].tokenizer.tokenizer.codebook_size
    expected = 12 * settings.width**2 * settings.depth + 8 * settings.width**2 + codebook_size * settings.width
    assert num_parameters(build(name)[1]) == pytest.approx(expected, rel=0.1)


def test_a_preset_by_its_name() -> None:
    assert load("tiny") is TINY
    with pytest.raises(ValueError, match=r"huge: there is no such preset: choose debug, tiny.*or give a \.toml"):
        load("huge")


def test_a_toml_replaces_parts(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("""
        preset = "small"
        [tokenizer.tokenizer]
        scales = ["1x1", "4x2", "8x8"]
        [tokenizer.train]
        steps = 1007
        [autoregressor.autoregressor]
        depth = 3
    """)
    preset, small = load(str(path)), PRESETS["small"]
    scales = (Size(1, 1), Size(4, 2), Size(8, 8))
    assert preset.tokenizer.tokenizer == replace(small.tokenizer.tokenizer, scales=scales)
    assert preset.tokenizer.train == replace(small.tokenizer.train, steps=1007)
    assert preset.tokenizer.optim == small.tokenizer.optim
    assert preset.autoregressor.autoregressor == replace(small.autoregressor.autoregressor, depth=3)
    path.write_text("")
    assert load(str(path)) == TINY


def test_a_toml_on_a_toml(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('preset = "debug"\n[tokenizer.train]\nsteps = 7\nbatch_size = 5')
    second.write_text(f'preset = "{first}"\n[tokenizer.train]\nsteps = 9')
    train = load(str(second)).tokenizer.train
    assert (train.steps, train.batch_size) == (9, 5)
    assert train.log_every == PRESETS["debug"].tokenizer.train.log_every


@pytest.mark.parametrize(
    "text, answer",
    [
        ("[tokenizer.train]\nstep = 3", "tokenizer.train.step: unknown setting: did you mean tokenizer.train.steps[?]"),
        ("[tokenizer.train]\nsteps = 0", "train.steps: 0 must be above 0"),
        ('[tokenizer.tokenizer]\npatch = "5x5"', "tokenizer.patch: 5x5 does not divide"),
        ('preset = "tinny"', "tinny: there is no such preset"),
        ("steps", "no valid TOML"),
        ("preset = 5", r"preset = 5 must be a name, such as \"tiny\""),
        ('preset = ["tiny"]', "preset = .* must be a name"),
    ],
)
def test_what_is_wrong_in_a_toml_is_named(text: str, answer: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=answer):
        load(str(path))


def test_a_toml_that_leads_back_to_itself_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'preset = "{path}"')
    with pytest.raises(ValueError, match="leads back to itself"):
        load(str(path))
