"""The lines, JSON and events of a run."""

import json
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import torch

from mars_dist.config import SpectrogramConfig
from mars_dist.training.journal import Journal, read_metrics
from mars_dist.training.shown import show

from ..tensorboard import events


def train_line(journal: Journal, step: int, loss: float) -> None:
    with journal.clock():
        pass
    journal.waited = journal.seconds / 4
    journal.train(step, {"loss": loss, "loss/l1": loss / 2}, batch_size=8)


def test_a_line_is_kept_and_said(tmp_path: Path) -> None:
    lines: list[str] = []
    journal = Journal(tmp_path, "tokenizer", steps=10, first_step=0, say=lines.append)
    train_line(journal, 5, 0.5)
    journal.validation(5, {"mse": 0.25, "codebook/usage_all": 1.0})
    journal.close()
    [train], [valid] = read_metrics(tmp_path, "train"), read_metrics(tmp_path, "valid")
    assert valid == {"kind": "valid", "step": 5, "mse": 0.25, "codebook/usage_all": 1.0}
    assert (train["loss"], train["loss/l1"], train["data_wait"]) == (0.5, 0.25, 0.25)
    assert train["samples_per_second"] == pytest.approx(8 / train["step_seconds"])
    said, valid_said = lines
    assert said.startswith("tokenizer      5/10  loss 0.5  ") and "data 25%" in said and "left 0:00" in said
    assert "l1" not in said
    assert valid_said == "tokenizer      5/10  valid: mse 0.25"


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    for first_step, steps, loss in ((0, (1, 2, 3, 4), 1.0), (2, (3, 4, 5), 2.0)):
        journal = Journal(tmp_path, "tokenizer", 5, first_step, print)
        for step in steps:
            train_line(journal, step, loss)
        journal.validation(4, {"mse": loss})
        journal.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9
    lines = read_metrics(tmp_path, "train")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert [line["mse"] for line in read_metrics(tmp_path, "valid")] == [2.0]


def test_what_tensorboard_was_told_before_a_checkpoint_is_on_the_disk_and_stays_seen(tmp_path: Path) -> None:
    """A run that is killed after it repeats nothing of it, and hides nothing."""
    killed = Journal(tmp_path, "tokenizer", steps=10, first_step=0, say=print)
    killed.validation(2, {"mse": 0.5})
    with killed.stalled(2):
        end = monotonic() + 20
        while not any(event.step == 2 for event in events(tmp_path / "tensorboard")):
            assert monotonic() < end
            sleep(0.05)
    sleep(1)  # files of one second have one name
    Journal(tmp_path, "tokenizer", steps=10, first_step=2, say=print).close()
    *_, begins = (event for event in events(tmp_path / "tensorboard") if event.HasField("session_log"))
    assert begins.step == 3, "from there on former events are hidden"


def test_a_run_that_begins_anew_forgets_what_was_told_before(tmp_path: Path) -> None:
    """It had kept no checkpoint, and other settings may tell at other steps."""
    for steps in ((1, 2, 3), (2, 4)):
        journal = Journal(tmp_path, "tokenizer", 5, 0, print)
        for step in steps:
            train_line(journal, step, 1.0)
        journal.close()
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == [2, 4]


def test_a_line_that_a_full_disk_cut_off_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        journal = Journal(tmp_path, "tokenizer", 5, step - 1, print)
        train_line(journal, step, float(step))
        journal.close()
        if step == 2:
            path = tmp_path / "metrics.jsonl"
            path.write_bytes(path.read_bytes()[:-9])
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == [1, 3]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "tokenizer", 5, 0, None)
    train_line(journal, 1, 1.0)
    journal.validation(1, {"mse": 1.0})
    journal.picture("note", 1, np.zeros((4, 4), np.float32))
    journal.sound("note", 1, np.zeros(4, np.float32), 16_000)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_lines_are_json_objects(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "tokenizer", 5, 0, print)
    train_line(journal, 1, 1.0)
    journal.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["kind"] == "train"


def test_notes_that_stay_the_same_are_shown_once_in_each_start(tmp_path: Path, short: SpectrogramConfig) -> None:
    picture_B1FN = torch.zeros(2, 1, short.n_fft // 2, short.num_samples // short.hop)
    for start in (tmp_path / "first", tmp_path / "second"):
        journal = Journal(start, "tokenizer", 5, 0, print)
        for step in (1, 2):
            show(journal, step, short, lambda: {"original": picture_B1FN}, reconstruction=picture_B1FN)
        journal.close()
        shown = [(value.tag, event.step) for event in events(start / "tensorboard") for value in event.summary.value]
        versions = [("original", 1), ("reconstruction", 1), ("reconstruction", 2)]
        once = [(f"note_{i}/{name}", step) for name, step in versions for i in range(2)]
        assert sorted(shown) == sorted(2 * once), "a picture and a sound of each"
