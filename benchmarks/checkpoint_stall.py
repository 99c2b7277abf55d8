"""How long a checkpoint keeps training waiting, as a share of the time between two that are a minute apart.

    python benchmarks/checkpoint_stall.py --notes quickstart/notes --out /tmp/stall

Two workers under Ray Train, few steps of small batches, a checkpoint after every second one. What a checkpoint holds
does not depend on the batch. While one is sent the next steps go on, as in any run. Codes are a random tokenizer's.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from check import prepare
from kills import MARS
from side_by_side import Table, options, tell

from mars_dist.training.journal import read_metrics

PRESETS = ("debug", "tiny", "small")
WORKERS, STEPS, EVERY, BATCH = 2, 20, 2, 4
MINUTE = 60.0
MB = 10**6


def stalls(words: Sequence[object], run: Path) -> tuple[list[float], int]:
    """Seconds of each checkpoint, and the bytes of one."""
    shutil.rmtree(run, ignore_errors=True)
    settings = {"steps": STEPS, "checkpoint-every": EVERY, "batch-size": BATCH, "validate-every": 10 * STEPS}
    options = [word for name, value in settings.items() for word in (f"--train.{name}", value)]
    command = [*words, "--out", run, "--workers", WORKERS, "--train.validation-rows", BATCH, *options]
    subprocess.run([*MARS, *map(str, command)], check=True, stderr=subprocess.DEVNULL)
    newest = max((run / "training").glob("step_*"))
    size = sum(file.stat().st_size for file in newest.iterdir())
    return [line["stall_seconds"] for line in read_metrics(run, "checkpoint")], size


def main() -> None:
    given, rows = options(__doc__, with_notes=True), []
    for name in PRESETS:
        home = given.out / name
        prepare(name, given.notes, home)
        codes = ["--tokenizer", home / "tokenizer", "--data", home / "codes"]
        born = ["--codebook.start-step", 0]
        for words in (["train-tokenizer", name, "--data", home / "pictures", *born], ["train-ar", name, *codes]):
            seconds, size = stalls(words, home / "run")
            usual, longest = median(seconds), max(seconds)
            what = f"{words[0]} {name}"
            rows.append([what, f"{size / MB:.0f}", f"{usual:.2f} s", f"{longest:.2f} s", f"{usual / MINUTE:.1%}"])
    columns = ["", "MB of a checkpoint", "stall, median", "longest", "share of a minute, median"]
    settings = f"{WORKERS} workers, {STEPS // EVERY} checkpoints to a disk of this machine"
    tell(given, Table("Checkpoints", settings, columns, rows))


if __name__ == "__main__":
    main()
