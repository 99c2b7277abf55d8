"""How long a training waits for its data: the share of a step's time, once it is under way.

    python benchmarks/waiting.py --notes quickstart/notes --out /tmp/waiting

`mars train-tokenizer` and `mars train-ar` as a user calls them, without Ray: two threads compute and one reads.
"""

import shutil
import subprocess
from pathlib import Path
from statistics import median

from check import prepare
from kills import MARS
from side_by_side import Table, options, tell

from mars_dist.training.journal import read_metrics

CASES = (("tiny", "tokenizer", 16), ("tiny", "autoregressor", 32), ("small", "tokenizer", 4))
"""Preset, stage, batch."""
STEPS = 24


def metrics_of(home: Path, preset: str, stage: str, batch: int) -> list[dict[str, float]]:
    """Of each step but the first ones, which fill the window that rows are shuffled in."""
    folder, run = home / preset, home / "run"
    shutil.rmtree(run, ignore_errors=True)
    words: list[object] = ["train-tokenizer", preset, "--data", folder / "pictures", "--codebook.start-step", 0]
    if stage == "autoregressor":
        words = ["train-ar", preset, "--tokenizer", folder / "tokenizer", "--data", folder / "codes"]
    train = {
        "steps": STEPS,
        "batch-size": batch,
        "log-every": 1,
        "validate-every": 1000,
        "checkpoint-every": 1000,
        "validation-rows": 8,
    }
    words += [word for name, value in train.items() for word in (f"--train.{name}", value)]
    command = [*MARS, *words, "--workers", 0, "--out", run]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return read_metrics(run, "train")[STEPS // 4 :]


def main() -> None:
    given, rows = options(__doc__, rounds=5, with_notes=True), []
    for case in CASES:
        preset, stage, batch = case
        prepare(preset, given.notes, given.out / preset)
        waits, steps = [], []
        for _ in range(given.rounds):
            lines = metrics_of(given.out, *case)
            seconds = [line["step_seconds"] for line in lines]
            waited = sum(line["data_wait"] * line["step_seconds"] for line in lines)
            waits.append(waited / sum(seconds))
            steps.append(median(seconds))
        rows.append(
            [f"{preset} {stage}", str(batch), f"{median(steps):.3f} s", f"{median(waits):.2%}", f"{max(waits):.2%}"]
        )
    settings = f"{STEPS} steps, the first quarter left out, two threads, {given.rounds} rounds"
    tell(given, Table("Waiting for data", settings, ["", "batch", "step", "of it waiting", "at most"], rows))


if __name__ == "__main__":
    main()
