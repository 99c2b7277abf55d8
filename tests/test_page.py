"""What the page tells of a run."""

import json
from pathlib import Path

import pytest

from mars_dist.evaluation.evaluate import Evaluation
from mars_dist.metrics.summary import Estimate
from mars_dist.model import CONFIG
from mars_dist.model import METRICS as BEST
from mars_dist.page import table, training
from mars_dist.report.parts import Report
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


def test_cells_of_the_table_do_not_run_into_each_other() -> None:
    values = {"real": 0.0, "griffin_lim": 7.12e-5, "sample, a_run_with_a_name_of_forty_characters_it_is": -1.23e-5}
    estimates = {line: Estimate(value, 600, (value * 0.9, value * 1.1)) for line, value in values.items()}
    text = table([Evaluation("valid", 600, list(values), {"mse": estimates}, [], {})], Report("t", [], 16_000))
    heads, runs, mse = (line for line in text.splitlines() if line.startswith((" ", "MSE")))
    assert mse.count("]  ") == 2 and len({len(line) for line in (heads, runs, mse)}) == 1
