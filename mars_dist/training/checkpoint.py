"""What a run needs to go on: DCP shards of model, optimizer and moving average, and a JSON of the position.

Each worker lists its files with their checksums, so that a damaged, missing or half-copied file is known before
anything is loaded.
"""

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from mars_dist.config import TrainConfig
from mars_dist.training import sharding
from mars_dist.training.optim import MovingAverage
from mars_dist.training.safe_reading import METADATA, Planner, Reader

POSITION, CHECKSUMS = "position.json", "checksums-{rank}.json"
CHUNK = 2**20


class Damaged(Exception):
    """A checkpoint that is not what was saved. Every worker gets the same."""


class Unfinished(Damaged):
    """A checkpoint that never was whole: a worker's list of files, which it sends after them, did not come."""


@dataclass
class Position:
    """Where a run stands. No random state: all noise is keyed by (seed, step, row)."""

    step: int = 0
    seed: int = 0
    rows_seen: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """The validation figures of the best weights so far."""
    num_worse: int = 0
    """Validations since then."""
    phase: int = 0
    """The phase of training that they are of."""

    def best_of(self, phase: int) -> dict[str, float]:
        """`best`, where anything has been validated in that phase."""
        return self.best if self.phase == phase else {}

    def ended(self, config: TrainConfig) -> bool:
        """Whether all steps are done, or early stopping has lost patience."""
        return self.step >= config.steps or 0 < config.patience <= self.num_worse


def save(
    model: nn.Module,
    optimizer: Optimizer,
    average: MovingAverage,
    memory: dict[str, Tensor],
    position: Position,
    folder: Path,
) -> None:
    """Every worker writes its shards into the folder, which may be one for all or one for each.

    `memory` is what the stage remembers from step to step, the same on every worker. Raises OSError, on every worker,
    where a disk refuses.
    """
    try:
        dcp.save(state(model, optimizer, average, memory), checkpoint_id=folder)
    except CheckpointException as error:
        raise OSError(first_cause(error)) from error
    rank, written = dist.get_rank(), sorted(folder.glob(f"__{dist.get_rank()}_*"))
    if rank == 0:
        (folder / POSITION).write_text(json.dumps(asdict(position) | {"workers": dist.get_world_size()}))
        written += [folder / POSITION, folder / METADATA]
    checksums = {path.name: checksum(path) for path in written}
    (folder / CHECKSUMS.format(rank=rank)).write_text(json.dumps(checksums))


def checksum(path: Path) -> int:
    """CRC-32: a tenth of the time that writing takes."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def require_whole(folder: Path) -> None:
    """Raises Damaged, on every worker, where a file is missing or another than was saved; they share the work."""
    faults = [fault for fault in sharding.gather_objects(find_fault(folder)) if fault]
    if faults:
        raise next((fault for fault in faults if isinstance(fault, Unfinished)), faults[0])


def find_fault(folder: Path) -> Damaged | None:
    """In this worker's share of the files."""
    try:
        _, workers = read_position(folder)
        for rank in range(dist.get_rank(), workers, dist.get_world_size()):
            checksums = json.loads((folder / CHECKSUMS.format(rank=rank)).read_text())
            for name, expected in checksums.items():
                if checksum(folder / name) != expected:
                    return Damaged(f"{name} has changed since it was written")
        Reader(folder).read_metadata()
    except FileNotFoundError as error:
        name = Path(error.filename).name
        kind = Unfinished if name.endswith(".json") else Damaged
        return kind(f"{name} is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnpicklingError) as error:
        return Damaged(f"cannot be read ({error})")
    return None


def load(
    folder: Path, model: nn.Module, optimizer: Optimizer, average: MovingAverage, memory: dict[str, Tensor]
) -> Position:
    """Load in place, from any number of workers to any other. Raises Damaged where that could not be.

    Either way no worker reads the folder any more: what the first one does next with it disturbs none.
    """
    require_whole(folder)
    position, _ = read_position(folder)
    loaded = state(model, optimizer, average, memory)
    try:
        dcp.load(loaded, storage_reader=Reader(folder), planner=Planner())
    except CheckpointException as error:  # raised on every worker
        raise Damaged(first_cause(error)) from error
    set_model_state_dict(model, loaded["model"])
    set_optimizer_state_dict(model, optimizer, loaded["optimizer"])
    return position


def first_cause(error: CheckpointException) -> str:
    """In one line."""
    cause, _ = next(iter(error.failures.values()))
    return " ".join(str(cause).split())


def read_position(folder: Path) -> tuple[Position, int]:
    """And the number of workers that saved it. Raises ValueError, TypeError, OSError."""
    values = json.loads((folder / POSITION).read_text())
    if not isinstance(values, dict) or type(workers := values.pop("workers", None)) is not int:
        raise ValueError(f"{POSITION} names no workers")
    return Position(**values), workers


def state(model: nn.Module, optimizer: Optimizer, average: MovingAverage, memory: dict[str, Tensor]) -> dict[str, Any]:
    """What DCP writes, and reads in place: this worker's shards, by name."""
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "average": average.averages,
        "memory": memory,
    }
