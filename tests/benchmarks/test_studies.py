"""The studies, on a few short notes and steps: their trials, their variants and their tables."""

from dataclasses import replace
from pathlib import Path

import against_var
import autoregressor_options
import cmx
import numpy as np
import optimizers
import pytest
import schedules
import tokenizer_options
import trial

from mars_dist import pictures
from mars_dist.config import AutoregressorRunConfig, SpectrogramConfig, TokenizerConfig, TokenizerRunConfig
from mars_dist.dataset import DatasetInfo
from mars_dist.model import save_tokenizer
from mars_dist.presets import TINY
from mars_dist.rows import Rows
from mars_dist.scales import Size
from mars_dist.sources.read import read_source
from mars_dist.storage import Folder
from mars_dist.tokenizer import Tokenizer


def test_a_trial_trains_both_stages_and_measures_them_once(
    tokenizer_config: TokenizerRunConfig,
    autoregressor_config: AutoregressorRunConfig,
    short_pictures: str,
    tmp_path: Path,
) -> None:
    tokenizer = trial.so_long(tokenizer_config, 6, seed=3, rate=2.0)
    autoregressor = trial.so_long(autoregressor_config, 5, seed=3, rate=2.0)
    assert tokenizer.train.seed == 3 and autoregressor.optim.lr == 2 * autoregressor_config.optim.lr
    one = trial.Trial("one", tmp_path, short_pictures, tokenizer, autoregressor, num_notes=3)
    name, figures = trial.run(one)
    assert name == "one"
    assert 0 <= figures["pitch_accuracy_sample"] <= 1 and 0 <= figures["pitch_accuracy_real"] <= 1
    assert figures["mse_reconstruction"] > 0 and figures["log_spectral_distance_sample"] > 0
    assert figures["cross_entropy"] > 0 and figures["perplexity"] >= 1 and figures["tokenizer_step_ms"] > 0
    written = (tmp_path / "result.json").stat().st_mtime_ns
    assert trial.run(one) == ("one", figures)
    assert (tmp_path / "result.json").stat().st_mtime_ns == written


def test_a_table_has_means_and_half_ranges() -> None:
    rows = [("ours", [{"mse": 1.0}, {"mse": 2.0}]), ("theirs", [{"mse": 3.0}])]
    assert trial.table(rows, ["mse"]).splitlines() == [
        "| | mse |",
        "|---|---|",
        "| ours | 1.5 ± 0.5 |",
        "| theirs | 3 |",
    ]


def test_every_study_can_make_its_trials(tmp_path: Path) -> None:
    """Each with a folder of its own: a study that is run again finds its results by it."""
    made = {
        study.__name__: [study.trial(tmp_path, tmp_path, steps, option, seed) for option in options for seed in (0, 1)]
        for study, steps, options in (
            (tokenizer_options, 700, tokenizer_options.OPTIONS),
            (autoregressor_options, 1200, autoregressor_options.OPTIONS),
            (schedules, (700, 1200), schedules.variants(TINY.tokenizer.tokenizer)),
        )
    }
    made["against_var"] = [
        against_var.trial(tmp_path, tmp_path, (700, 1200), rate, side, 0)
        for side in against_var.SIDES
        for rate in against_var.RATES
    ]
    made["optimizers"] = [
        one
        for row in optimizers.ROWS
        for one in (
            optimizers.tokenizer_trial(tmp_path, tmp_path, 700, row, 0),
            optimizers.autoregressor_trial(tmp_path, tmp_path, 1200, ("tokenizer", "codes"), row, 0),
        )
    ]
    assert {name: len(trials) for name, trials in made.items()} == {
        "tokenizer_options": 34,
        "autoregressor_options": 20,
        "schedules": 8,
        "against_var": 6,
        "optimizers": 12,
    }
    for trials in made.values():
        assert len({one.folder for one in trials}) == len({one.name for one in trials}) == len(trials)


def test_plain_var_has_nothing_of_ours() -> None:
    plain = against_var.plain_var(TINY)
    assert (plain.tokenizer.codebook.start_step, plain.tokenizer.codebook.restart_every) == (0, 0)
    loss = plain.tokenizer.loss
    assert (loss.l1, loss.relative, loss.spectral_convergence) == (0, 0, 0)
    assert plain.autoregressor.autoregressor.corrupt_codes == 0
    assert plain.tokenizer.tokenizer == replace(TINY.tokenizer.tokenizer, last_scale="nearest")
    assert plain.autoregressor.train == TINY.autoregressor.train
    assert plain.tokenizer.optim.optimizer == plain.autoregressor.optim.optimizer == "adamw"


def test_optimizers_differ_in_nothing_else() -> None:
    for row, (optimizer, rate) in optimizers.ROWS.items():
        run = optimizers.by(TINY.tokenizer, row, 700, 0)
        assert (run.optim.optimizer, run.optim.lr) == (optimizer, rate)
        assert replace(run, optim=TINY.tokenizer.optim) == trial.so_long(TINY.tokenizer, 700)


def test_schedules_spend_the_same_latent_tokens() -> None:
    variants = schedules.variants(TINY.tokenizer.tokenizer)
    assert len(variants) == 4
    for settings in variants.values():
        assert settings.schedule.latent_grid.area == 64
        assert settings.patch_grid(TINY.tokenizer.spectrogram).area == 64
        Tokenizer(settings, TINY.tokenizer.spectrogram)


def test_cutting_keeps_the_low_bins(short_notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Size(1, 1)
    low = SpectrogramConfig(sample_rate=8000, num_samples=1000, n_fft=64, hop=50, cmx=one)
    monkeypatch.setattr(cmx, "LOWER_HALF", low)
    whole, config = tmp_path / "whole", SpectrogramConfig(num_samples=2000, n_fft=128, hop=100, cmx=one)
    jobs = pictures.plan(read_source(short_notes).splits.values(), shard_rows=8)
    made = [pictures.make_shard(job, Folder.open(whole), config) for job in jobs]
    shards = tuple(one.shard for one in made)
    DatasetInfo("pictures", config, pictures.arrays(config), shards, source="short notes").save(Folder.open(whole))
    cmx.keep_lower_half(str(whole), tmp_path / "cut")
    for split, num_notes in {"train": 12, "valid": 4, "test": 3}.items():
        rows = Rows(str(tmp_path / "cut"), split)
        assert rows.info.spectrogram == low and rows.num_rows == num_notes
        cut, before = rows.read(["picture", "pitch"]), Rows(str(whole), split).read(["picture", "pitch"])
        assert np.array_equal(cut["picture"], before["picture"][:, :, :32])
        assert np.array_equal(cut["pitch"], before["pitch"])
    settings = TokenizerConfig(
        patch=Size(8, 4), scales=(one, Size(2, 2)), width=16, head_width=8, depth=1, code_width=4
    )
    run = TokenizerRunConfig(spectrogram=low, tokenizer=settings)
    save_tokenizer(tmp_path / "tokenizer", Tokenizer(settings, low).state_dict(), run, {})
    measured = trial.reconstruct(
        trial.Trial("cut", tmp_path, str(tmp_path / "cut"), run, whole=str(whole)), np.arange(4)
    )
    assert measured["mse"]["reconstruction"].shape == (4,) and not measured["mse"]["real"].any()
