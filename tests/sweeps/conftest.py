"""A sweep of small tokenizers on short notes, and trials that never were."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mars_dist.sweeps import Sweep, choices
from mars_dist.sweeps.metrics import known
from mars_dist.sweeps.records import Record, Records
from mars_dist.sweeps.study import Study, Trial

SETTINGS = {
    "tokenizer.spectrogram.num_samples": 2000,
    "tokenizer.spectrogram.n_fft": 128,
    "tokenizer.spectrogram.cmx": "4x4",
    "tokenizer.tokenizer.patch": "4x1",
    "tokenizer.tokenizer.scales": ["1x1", "2x2", "4x4"],
    "tokenizer.train.steps": 100,
}
SPACE = {
    "codes": choices("tokenizer.tokenizer.codebook_size", 16, 32, 64),
    "width": choices("tokenizer.tokenizer.width", 32, 64, 96),
}


@pytest.fixture
def study(short_pictures: str, tmp_path: Path) -> Study:
    """Nine settings from two seeds."""
    sweep = Sweep("tokenizer", SPACE, "debug", SETTINGS, seeds=(0, 1))
    return Study(sweep, short_pictures, tmp_path / "out", num_notes=4)


@pytest.fixture
def ended() -> Callable[..., Record]:
    """Note what became of a trial, as if it had been run."""

    def end(records: Records, trial: Trial, status: Any = "finished", score: float = 1.0) -> Record:
        record = records.begin(trial)
        for k in range(1, 4 if status == "finished" else 2):
            spent = {"stage": 0, "step": 10 * k, "flops": k * 1e9, "seconds": float(k)}
            record.add(spent | {"mse_reconstruction": score + 1 / k, "mae_reconstruction": 1.0})
        record.status = status
        if status == "finished":
            record.score = dict.fromkeys(known("tokenizer"), score)
        record.error = "no memory left" if status == "failed" else ""
        records.save(record)
        return record

    return end


@pytest.fixture
def with_sweep(study: Study) -> Callable[..., Study]:
    return lambda **changes: replace(study, sweep=replace(study.sweep, **changes))
