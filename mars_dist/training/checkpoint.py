"""What a run needs to go on: DCP shards of model, optimizer and moving average, and a JSON of the position."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from mars_dist.config import TrainConfig
from mars_dist.training.optim import MovingAverage

POSITION = "position.json"


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

    `memory` is what the stage remembers from step to step, the same on every worker.
    """
    dcp.save(state(model, optimizer, average, memory), checkpoint_id=folder)
    if dist.get_rank() == 0:
        (folder / POSITION).write_text(json.dumps(asdict(position)))


def load(
    folder: Path, model: nn.Module, optimizer: Optimizer, average: MovingAverage, memory: dict[str, Tensor]
) -> Position:
    """Load in place, from any number of workers to any other."""
    loaded = state(model, optimizer, average, memory)
    dcp.load(loaded, checkpoint_id=folder)
    set_model_state_dict(model, loaded["model"])
    set_optimizer_state_dict(model, optimizer, loaded["optimizer"])
    return Position(**json.loads((folder / POSITION).read_text()))


def state(model: nn.Module, optimizer: Optimizer, average: MovingAverage, memory: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "average": average.averages,
        "memory": memory,
    }
