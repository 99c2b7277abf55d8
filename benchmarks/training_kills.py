"""Kill workers of a training with SIGKILL at random moments, and compare what comes of it with an undisturbed run.

    python benchmarks/training_kills.py --pictures quickstart/pictures --codes quickstart/codes \\
        --tokenizer quickstart/tokenizer --kills 100 --out kills

Both stages of `debug`, two workers, until so many kills are made in all. A run is right where its last checkpoint
holds, bit for bit, what the undisturbed run's does: parameters, averages, optimizer and all that a stage remembers.
"""

import random
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Thread
from time import monotonic, sleep

import psutil
import torch
from kills import MARS, title
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mars_dist.serialize import read_json
from mars_dist.training.journal import METRICS

WORKER = "ray::RayTrainWorker"
STEPS, CHECKPOINT_EVERY = 1500, 25
SETTINGS = (
    "--workers",
    2,
    "--train.steps",
    STEPS,
    "--train.checkpoint-every",
    CHECKPOINT_EVERY,
    "--train.log-every",
    1,
)
BETWEEN_KILLS = (0.0, 20.0)
"""Seconds from one kill, or the start, to the next: into starting, resuming, training and saving alike."""


@dataclass
class Tally:
    """What came of one stage."""

    runs: int = 0
    kills: int = 0
    other_ends: int = 0
    """Runs whose last checkpoint differs from the undisturbed run's."""
    steps_again: list[int] = field(default_factory=list)
    """For each attempt that resumed: steps that were done before."""
    recovery: list[float] = field(default_factory=list)
    """Seconds from a kill to the line that training was resumed."""


class Watched:
    """A training whose lines are read as they come."""

    def __init__(self, words: Sequence[object]) -> None:
        command = [sys.executable, "-c", MARS, *map(str, words)]
        self.process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
        self.lines: list[tuple[float, str]] = []
        self.reader = Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stderr or ():
            self.lines.append((monotonic(), line.strip()))

    def runs(self) -> bool:
        return self.process.poll() is None

    def require_success(self) -> None:
        assert self.process.wait() == 0, "\n".join(line for _, line in self.lines[-20:])
        self.reader.join()

    def kill_a_worker(self, rng: random.Random) -> float | None:
        """When it was killed."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
            rng.choice([child for child in family if title(child).startswith(WORKER)]).kill()
        except (psutil.Error, IndexError):  # none has started, or all have ended
            return None
        return monotonic()


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint, flat."""
    [newest] = (folder / "training").glob(f"step_{STEPS:08d}*")
    whole = folder / "whole.pt"
    dcp_to_torch_save(newest, whole)
    return flat(torch.load(whole, weights_only=True))


def flat(values: object, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return {name: values}
    inner = values.items() if isinstance(values, dict) else ()
    return {key: tensor for place, value in inner for key, tensor in flat(value, f"{name}/{place}").items()}


def steps_again(folder: Path) -> list[int]:
    """How many steps each attempt did that one before had done."""
    lines = (folder / METRICS).read_text().splitlines()
    steps = [int(found[1]) for line in lines if (found := re.match(r'\{"kind": "train", "step": (\d+)', line))]
    return [before - now + 1 for before, now in pairwise(steps) if now <= before]


def killed_run(words: Sequence[object], folder: Path, tally: Tally, most: int, rng: random.Random) -> None:
    """One training, with kills until it ends or there were enough."""
    run, killed = Watched([*words, "--out", folder]), list[float]()
    while run.runs():
        sleep(rng.uniform(*BETWEEN_KILLS))
        if len(killed) < most and (moment := run.kill_a_worker(rng)):
            killed.append(moment)
    run.require_success()
    resumed = [moment for moment, line in run.lines if "resumed at step" in line]
    for moment in killed:
        tally.recovery += [later - moment for later in resumed if later > moment][:1]
    tally.kills += len(killed)
    tally.steps_again += steps_again(folder)


def study(words: list[object], out: Path, num_kills: int, rng: random.Random) -> Tally:
    undisturbed, tally = out / "undisturbed", Tally()
    Watched([*words, "--out", undisturbed]).require_success()
    expected = state_of(undisturbed)
    while tally.kills < num_kills:
        folder = out / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        killed_run(words, folder, tally, num_kills - tally.kills, rng)
        found = state_of(folder)
        tally.runs += 1
        same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        tally.other_ends += not same
        print(f"{words[0]}: {tally}", file=sys.stderr, flush=True)
    return tally


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    for name in ("pictures", "codes", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    spectrogram = read_json(options.pictures / "dataset.json")["spectrogram"]
    shape = [
        f"--spectrogram.{name}={value if name != 'cmx' else 'x'.join(map(str, value))}"
        for name, value in spectrogram.items()
    ]
    of_codes = ["--tokenizer", options.tokenizer, "--data", options.codes]
    commands: list[list[object]] = [
        ["train-tokenizer", "debug", "--data", options.pictures, *shape, *SETTINGS],
        ["train-ar", "debug", *of_codes, *SETTINGS],
    ]
    print(
        "| stage | runs | workers killed | other ends | steps done again, median and most | recovery, median and most |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for words in commands:
        tally = study(words, options.out / str(words[0]), options.kills // len(commands), rng)
        again, seconds = tally.steps_again or [0], tally.recovery or [0.0]
        print(
            f"| {words[0]} | {tally.runs} | {tally.kills} | {tally.other_ends} | {median(again):.0f}, {max(again)} | "
            f"{median(seconds):.0f} s, {max(seconds):.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
