"""Parameter groups, the learning rate's schedule, and the moving average of the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mars_dist.config import OptimConfig, Precision
from mars_dist.training.muon import Muon
from mars_dist.training.recomputation import BLOCKS
from mars_dist.training.sharding import let_go, locals_of


def make_optimizer(model: nn.Module, config: OptimConfig, precision: Precision) -> torch.optim.AdamW:
    """AdamW, or Muon with it; weight decay on the weights of linear layers and convolutions alone.

    `precision`: of training, once it is settled.
    """
    weights = {layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)}
    decayed = [parameter for parameter in model.parameters() if parameter in weights]
    spared = [parameter for parameter in model.parameters() if parameter not in weights]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if config.optimizer == "muon":
        return Muon(groups, matrices_of(model, config), precision, lr=config.lr, betas=config.betas, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def matrices_of(model: nn.Module, config: OptimConfig) -> list[nn.Parameter]:
    """What Muon moves, if it is asked for: the weights of attention and MLP, not those that lead into blocks or out."""
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS) and config.optimizer == "muon"]
    parts = [part for block in blocks for part in (block.attention, block.mlp)]
    return [parameter for part in parts for parameter in part.parameters() if parameter.ndim == 2]


def num_moments(model: nn.Module, config: OptimConfig) -> int:
    """How many numbers the optimizer keeps: AdamW two of each parameter, Muon one."""
    return 2 * sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in matrices_of(model, config))


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The rate of the given step (from 0): linear warm-up, then cosine, or flat and linear over the last half."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    left = (1 + math.cos(math.pi * progress)) / 2 if config.decay == "cosine" else min(1.0, 2 * (1 - progress))
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)


class MovingAverage:
    """The exponential moving average of a model's parameters, shard by shard."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.parameters = dict(model.named_parameters())
        self.averages = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """One step (from 0). The decay grows from 0, so that the first weights are soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, parameters = locals_of(self.averages.values()), locals_of(self.parameters.values())
        torch._foreach_lerp_(averages, parameters, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        live, averages = locals_of(self.parameters.values()), locals_of(self.averages.values())
        trained: list[Tensor] = [shard.detach().clone() for shard in live]

        def put(weights: list[Tensor]) -> None:
            with torch.no_grad():
                torch._foreach_copy_(live, weights)
            let_go(self.model)

        put(averages)
        try:
            yield
        finally:
            put(trained)
