"""Kill workers of a training with SIGKILL at random moments, and compare what comes of it with an undisturbed run.

    python benchmarks/training_kills.py --pictures quickstart/pictures --codes quickstart/codes \\
        --tokenizer quickstart/tokenizer --kills 100 --out kills

Both stages of `debug`, two workers, until so many kills are made in all. A run is right where its last checkpoint
holds, bit for bit, what the undisturbed run's does: parameters, averages, optimizer and all that a stage remembers.

How long a recovery takes, with its parts, is told of the kills that hit a training on its way and had no other kill
before the first step that followed.
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
from math import inf
from pathlib import Path
from statistics import median
from threading import Thread
from time import monotonic, sleep
from typing import NamedTuple

import psutil
import torch
from kills import MARS, title
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mars_dist.serialize import read_json
from mars_dist.training.journal import METRICS

WORKER = "ray::RayTrainWorker"
STEPS, CHECKPOINT_EVERY = 1500, 25
WORKERS = 2
SETTINGS = (
    "--workers",
    WORKERS,
    "--train.steps",
    STEPS,
    "--train.checkpoint-every",
    CHECKPOINT_EVERY,
    "--train.log-every",
    1,
)
BETWEEN_KILLS = (0.0, 40.0)
"""Seconds from one kill, or the start, to the next: into starting, resuming, training and saving alike."""
LOOKED_EVERY = 0.1
"""Seconds."""


class Recovery(NamedTuple):
    """Seconds of each part, in order."""

    all_ended: float
    """From the kill until the workers that were left have ended, too."""
    started: float
    """Until Ray has given all workers a process again."""
    resumed: float
    """Until they have imported what they need, found each other and loaded the checkpoint."""
    stepped: float
    """Until the first step is done."""


@dataclass
class Tally:
    """What came of one stage."""

    runs: int = 0
    kills: int = 0
    other_ends: int = 0
    """Runs whose last checkpoint differs from the undisturbed run's."""
    steps_again: list[int] = field(default_factory=list)
    """For each attempt that resumed: steps that were done before."""
    recoveries: list[Recovery] = field(default_factory=list)


class Watched:
    """A training whose lines, workers and steps are seen as they come."""

    def __init__(self, words: Sequence[object], folder: Path) -> None:
        command = [*MARS, *map(str, words), "--out", str(folder)]
        self.process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
        self.journal = folder / METRICS
        self.lines: list[tuple[float, str]] = []
        self.workers: list[tuple[float, set[int]]] = []
        self.bytes_noted: list[tuple[float, int]] = []
        self.threads = [Thread(target=work, daemon=True) for work in (self.read, self.look)]
        for thread in self.threads:
            thread.start()

    def read(self) -> None:
        for line in self.process.stderr or ():
            self.lines.append((monotonic(), line.strip()))

    def look(self) -> None:
        while self.runs():
            self.workers.append((monotonic(), {worker.pid for worker in self.workers_now()}))
            if self.journal.exists():
                self.bytes_noted.append((monotonic(), self.journal.stat().st_size))
            sleep(LOOKED_EVERY)

    def workers_now(self) -> list[psutil.Process]:
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in family if title(child).startswith(WORKER)]

    def runs(self) -> bool:
        return self.process.poll() is None

    def require_success(self) -> None:
        assert self.process.wait() == 0, "\n".join(line for _, line in self.lines[-20:])
        for thread in self.threads:
            thread.join()

    def kill_a_worker(self, rng: random.Random) -> float | None:
        """When it was killed."""
        try:
            rng.choice(self.workers_now()).kill()
        except (psutil.Error, IndexError):  # none has started, or all have ended
            return None
        return monotonic()

    def recovery(self, killed: float, until: float) -> Recovery | None:
        """From a kill that hit a training on its way, where it was over before the next one."""
        seen = [(moment, pids) for moment, pids in self.workers if killed - 1 < moment < until]
        before = max((pids for moment, pids in seen if moment < killed), key=len, default=set[int]())
        told = [moment for moment, line in self.lines if killed < moment < until and "resumed at step" in line]
        trained = [size for moment, size in self.bytes_noted if moment < killed]
        if not (len(before) == WORKERS and told and trained and trained[-1] > trained[max(-10, -len(trained))]):
            return None
        ended = next(moment for moment, pids in seen if moment > killed and not pids & before)
        started = next(moment for moment, pids in seen if moment > ended and len(pids) == WORKERS)
        size = next(size for moment, size in self.bytes_noted if moment > told[0])
        stepped = [moment for moment, now in self.bytes_noted if told[0] < moment < until and now > size]
        moments = [killed, ended, started, told[0], *stepped[:1]]
        return Recovery(*(later - earlier for earlier, later in pairwise(moments))) if stepped else None


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
    run, killed = Watched(words, folder), list[float]()
    while run.runs():
        sleep(rng.uniform(*BETWEEN_KILLS))
        if len(killed) < most and (moment := run.kill_a_worker(rng)):
            killed.append(moment)
    run.require_success()
    found = [run.recovery(moment, until) for moment, until in pairwise([*killed, inf])]
    tally.recoveries += [recovery for recovery in found if recovery]
    tally.kills += len(killed)
    tally.steps_again += steps_again(folder)


def study(words: list[object], out: Path, num_kills: int, rng: random.Random) -> Tally:
    undisturbed, tally = out / "undisturbed", Tally()
    Watched(words, undisturbed).require_success()
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
    shape = [f"--spectrogram.{name}={value}" for name, value in spectrogram.items()]
    of_codes = ["--tokenizer", options.tokenizer, "--data", options.codes]
    commands: list[list[object]] = [
        ["train-tokenizer", "debug", "--data", options.pictures, *shape, *SETTINGS],
        ["train-ar", "debug", *of_codes, *SETTINGS],
    ]
    print("| stage | runs | workers killed | other ends | steps done again, median and most |")
    print("|---|--:|--:|--:|--:|")
    tallies = dict[str, Tally]()
    for words in commands:
        stage = str(words[0])
        tally = tallies[stage] = study(words, options.out / stage, options.kills // len(commands), rng)
        again = tally.steps_again or [0]
        print(
            f"| {stage} | {tally.runs} | {tally.kills} | {tally.other_ends} | {median(again):.0f}, {max(again)} |",
            flush=True,
        )
    print("\n| stage | recoveries | others ended | started again | resumed | first step | in all, median and most |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for stage, tally in tallies.items():
        parts = " | ".join(f"{median(part):.1f} s" for part in zip(*tally.recoveries, strict=True))
        in_all = [sum(recovery) for recovery in tally.recoveries]
        print(f"| {stage} | {len(in_all)} | {parts} | {median(in_all):.1f} s, {max(in_all):.1f} s |")


if __name__ == "__main__":
    main()
