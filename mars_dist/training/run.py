"""Where a loop runs: the seam that keeps Ray out of it."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

CHECKPOINTS = "training"
KEEP = 2


class Run(Protocol):
    """What the loop is given: who this worker is, where to write, and how to say so."""

    rank: int
    world_size: int
    device: torch.device
    folder: Path

    def say(self, line: str) -> None:
        """Show a line to the user (rank 0 only)."""

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Keep a checkpoint; every worker calls it, and `write` fills the folder that it is given."""

    def resume(self) -> AbstractContextManager[Path | None]:
        """The folder of the newest checkpoint, if there is one."""


def backend(on_gpu: bool) -> str:
    """Of the process group. On GPUs one for tensors on the CPU too: figures to log are summed there."""
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


class LocalRun:
    """A run in this process, without Ray: one worker, or those of a process group that the caller made."""

    def __init__(self, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not dist.is_initialized():
            dist.init_process_group(backend(self.device.type == "cuda"), store=dist.HashStore(), rank=0, world_size=1)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.folder = folder

    def say(self, line: str) -> None:
        if self.rank == 0:
            print(line, file=sys.stderr, flush=True)

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        half_written = self.folder / CHECKPOINTS / f".step_{step:08d}"
        write(half_written)
        dist.barrier()
        if self.rank == 0:
            half_written.replace(self.folder / CHECKPOINTS / f"step_{step:08d}")
            for old in self.checkpoints()[:-KEEP]:
                shutil.rmtree(old)
        dist.barrier()

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        yield self.checkpoints()[-1] if self.checkpoints() else None

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / CHECKPOINTS).glob("step_*"))
