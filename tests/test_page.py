"""What the page tells of a run."""

import json
from pathlib import Path

import pytest

from mars_dist.model import CONFIG
from mars_dist.model import METRICS as BEST
from mars_dist.page import training
from mars_dist.serialize import write_json
from mars_dist.training.journal import METRICS


@pytest.mark.parametrize(("noted", "told"), [(1400, "1,400 steps"), (600, "600 of 1,400 steps"), (None, "1,400 steps")])
def test_the_steps_are_those_that_were_done(noted: int | None, told: str, tmp_path: Path) -> None:
    """As far as they are noted: a training may end early, or not have ended."""
    write_json(tmp_path / CONFIG, {"run": {"train": {"steps": 1400, "batch_size": 16}}})
    write_json(tmp_path / BEST, {"step": 500, "mse": 0.01234})
    if noted:
        lines = [{"kind": "valid", "step": step, "mse": 0.02} for step in (500, noted)]
        (tmp_path / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert training(tmp_path) == f"{told} of 16 notes, the best at step 500: mse 0.01234 on held-out notes"
