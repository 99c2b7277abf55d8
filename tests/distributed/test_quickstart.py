"""`mars quickstart`: stopped in the middle, finished, and run once more."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from mars_dist import quickstart
from mars_dist.config import ClassifierRunConfig, TrainConfig
from mars_dist.notes import NotesConfig
from mars_dist.quickstart import Quickstart

STAGES = ["notes", "preprocess", "train_tokenizer", "encode", "train_autoregressor", "train_classifier", "evaluate"]
LINES = {"real", "griffin_lim", "reconstruction", "sample", "nearest_training_note"}
MEASURES = {"pitch_accuracy", "log_spectral_distance", "mse"}
PRESET = """
preset = "debug"
[tokenizer.train]
steps = 60
checkpoint_every = 5
"""
ALONE = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    + """
import test_quickstart
from mars_dist import cli, quickstart
for name, value in test_quickstart.few_notes().items():
    setattr(quickstart, name, value)
cli.main()
"""
)


def few_notes() -> dict[str, Any]:
    """What replaces the quickstart's own 10,000 notes: 44, of which few are measured, and its classifier's steps."""
    few = partial(NotesConfig, pitches=(60, 61), instruments_per_family=2, valid_share=0.3)
    brief = partial(ClassifierRunConfig, train=TrainConfig(steps=10, batch_size=8))
    replaced = {"VELOCITIES": (100,), "MEASURED": {"valid": 3, "test": 4}, "SHOWN": 1}
    return {"NotesConfig": few, "ClassifierRunConfig": brief, **replaced}


def interrupt(options: Quickstart, checkpoint: Path) -> tuple[int, list[str]]:
    """Run the command in a process group of its own, and press Ctrl-C once the checkpoint is there."""
    words = ["quickstart", "--out", options.out, "--preset", options.preset, "--workers", str(options.workers)]
    command = subprocess.Popen(
        [sys.executable, "-c", ALONE, *words],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not checkpoint.exists() and command.poll() is None:
        sleep(0.02)
    os.killpg(command.pid, signal.SIGINT)
    lines = command.communicate(timeout=300)[0].splitlines()
    return command.returncode, lines


def models(folder: Path) -> dict[Path, int]:
    """Everything but the record of the stages and the summary, which each run writes anew."""
    anew = ("stages.json", "summary.json")
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name not in anew}


def test_stopped_in_the_middle_it_goes_on_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(PRESET)
    out = tmp_path / "out"
    options = Quickstart(str(out), str(tmp_path / "mine.toml"), workers=2)
    code, lines = interrupt(options, out / "tokenizer" / "training" / "step_00000010" / "position.json")
    assert code == 130, lines
    assert lines[-1] == "mars: stopped; the same command goes on from what is finished"
    ours = ("== ", "notes ", "shards ", "tokenizer", str(out), "mars: stopped", "nothing was heard for")
    assert not [line for line in lines if not line.startswith(ours)]
    assert not (out / "tokenizer" / "training" / "finished.json").exists()

    for name, value in few_notes().items():
        monkeypatch.setattr(quickstart, name, value)
    options = replace(options, workers=0)
    quickstart.run(options)
    ended = capsys.readouterr()
    lines = ended.err.splitlines()
    assert f"{out}/pictures: finished already, 15 train, 7 valid, 22 test: nothing to do" in lines
    [resumed] = [line for line in lines if line.startswith("tokenizer: resumed at step ")]
    # The files of step 10 were there, but Ray may not have taken note of them yet: then step 5 is the newest.
    assert int(resumed.split()[4].strip(",")) >= 5
    assert "valid: 3 notes" in ended.out and "test: 4 notes" in ended.out
    summary = json.loads((out / "summary.json").read_text())
    require_summary(summary)

    before = models(out)
    assert {out / "report.html", out / "table.txt", out / "autoregressor" / "model.safetensors"} <= before.keys()
    quickstart.run(options)
    again = capsys.readouterr()
    assert again.out == ended.out
    assert sum(line.endswith(": nothing to do") for line in again.err.splitlines()) == 6
    assert models(out) == before
    timeless = [name for name in summary if name not in ("wall_seconds", "peak_rss_bytes")]
    later = json.loads((out / "summary.json").read_text())
    assert later.keys() == summary.keys() and all(later[name] == summary[name] for name in timeless)

    shard = out / "codes" / "train-00000.parquet"
    content = shard.read_bytes()
    shard.unlink()
    quickstart.run(options)
    assert shard.read_bytes() == content and models(out).keys() == before.keys()


def require_summary(summary: dict[str, Any]) -> None:
    """Exactly what docs/quickstart.md says of summary.json."""
    fixed = {"wall_seconds", "peak_rss_bytes", "cpu", "notes", "parameters"}
    assert summary.keys() == fixed | MEASURES | {"test"}
    seconds = summary["wall_seconds"]
    assert list(seconds) == ["total", *STAGES]
    assert seconds["total"] == pytest.approx(sum(seconds[stage] for stage in STAGES), abs=0.1) and seconds["total"] > 1
    assert summary["peak_rss_bytes"] > 2**28
    assert summary["cpu"].endswith(f"{os.cpu_count()} cores")
    assert summary["notes"] == {"train": 15, "valid": 7, "test": 22}
    assert summary["parameters"].keys() == {"tokenizer", "autoregressor"}
    assert all(num > 10_000 for num in summary["parameters"].values())
    assert summary["test"].keys() == MEASURES
    for split, num_notes in ((summary, 3), (summary["test"], 4)):
        for measure in MEASURES:
            assert split[measure].keys() == LINES
            for figure in split[measure].values():
                assert figure.keys() == {"value", "n", "interval"}
                low, high = figure["interval"]
                assert figure["n"] == num_notes and low <= figure["value"] <= high
