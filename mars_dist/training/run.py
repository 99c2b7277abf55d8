"""Where a loop runs: the seam that keeps Ray out of it."""

import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from pathlib import Path
from threading import Event
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

from mars_dist.devices import own_device

CHECKPOINTS, STEP = "training", "step_"
"""The folder in a run's that checkpoints lie in, and how their names begin."""
KEEP = 2


class Wish(IntEnum):
    """What is wanted of a run from outside: the highest of all workers' counts."""

    GO_ON = 0
    SAVE = 1
    """A machine is about to be taken away."""
    STOP = 2
    """Save, then end: SIGTERM."""


class Saved(NamedTuple):
    """A checkpoint."""

    name: str
    folder: AbstractContextManager[Path]
    """It is there while the context lasts."""


class Run(Protocol):
    """What the loop is given: who this worker is, where to write, and how to say so."""

    rank: int
    world_size: int
    device: torch.device
    name: str
    """The run's folder as the user calls it."""
    folder: Path
    """Where this worker writes: the run's folder, or a scratch one whose files are sent there."""

    def say(self, line: str) -> None:
        """Show a line to the user (rank 0 only)."""

    def wish(self) -> Wish:
        """What this worker knows to be wanted; every worker calls it once a step."""

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Keep a checkpoint; every worker calls it, and `write` fills the folder that it is given."""

    def checkpoints(self) -> list[Saved]:
        """Those that are kept, the newest first."""

    def distrust(self, name: str) -> None:
        """A checkpoint is damaged: what is saved from now on must not be mixed up with it."""

    def publish(self) -> None:
        """Send what this worker has written to the run's folder; a checkpoint does so by itself."""


def backend(on_gpu: bool) -> str:
    """Of the process group. On GPUs one for tensors on the CPU too: figures to log are summed there."""
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


class LocalRun:
    """A run in this process, without Ray: one worker, or those of a process group that the caller made."""

    def __init__(self, folder: Path, stop: Event | None = None) -> None:
        self.stop = stop or Event()
        self.device = own_device()
        if not dist.is_initialized():
            dist.init_process_group(backend(self.device.type == "cuda"), store=dist.HashStore(), rank=0, world_size=1)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.name, self.folder = str(folder), folder

    def say(self, line: str) -> None:
        if self.rank == 0:
            print(line, file=sys.stderr, flush=True)

    def wish(self) -> Wish:
        return Wish.STOP if self.stop.is_set() else Wish.GO_ON

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        half_written = self.folder / CHECKPOINTS / f".{STEP}{step:08d}"
        write(half_written)
        dist.barrier()
        if self.rank == 0:
            half_written.replace(self.folder / CHECKPOINTS / f"{STEP}{step:08d}")
            for old in self.saved()[KEEP:]:
                shutil.rmtree(old)
        dist.barrier()

    def checkpoints(self) -> list[Saved]:
        return [Saved(folder.name, nullcontext(folder)) for folder in self.saved()]

    def distrust(self, name: str) -> None:
        if self.rank == 0:
            folder = self.folder / CHECKPOINTS / name
            damaged = folder.with_name(f"damaged_{name}")
            if damaged.exists():  # the same step once before
                shutil.rmtree(damaged)
            folder.rename(damaged)
        dist.barrier()

    def publish(self) -> None:
        """It is there already."""

    def saved(self) -> list[Path]:
        """The newest first."""
        return sorted((self.folder / CHECKPOINTS).glob(f"{STEP}*"), reverse=True)
