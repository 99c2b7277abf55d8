"""Training on a small disk that is full, then not, then full when a checkpoint comes: see test_full_disk.py.

    python on_a_disk.py PLAN DISK COPY

Prints a JSON list of what each call came to, and copies the run to where it can be seen from outside.
"""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from mars_dist.errors import TrainingFailed
from mars_dist.launch import fit
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun


def main(plan: Plan, disk: Path, copy: Path) -> None:
    plan, filler = replace(plan, folder=disk / "run"), disk / "filler"
    torch.set_num_threads(1)

    def fill() -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    def come_to() -> str:
        try:
            fit(plan, 0, lambda line: None)
            return "finished"
        except (ValueError, TrainingFailed) as error:
            return f"{type(error).__name__}: {error}"

    save = LocalRun.save

    def fill_then_save(self: LocalRun, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        if step == 20:
            fill()
        save(self, step, write, metrics)

    fill()
    came_to = [come_to()]
    filler.unlink()
    LocalRun.save = fill_then_save  # type: ignore[method-assign]
    came_to.append(come_to())
    filler.unlink()
    LocalRun.save = save  # type: ignore[method-assign]
    came_to.append(come_to())
    shutil.copytree(plan.folder, copy)
    print(json.dumps(came_to))


if __name__ == "__main__":
    main(Plan.from_plain(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
